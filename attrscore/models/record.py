"""What a file of weights says of its training: on what, how well, and which cells were held out.

It stands in the metadata of the safetensors file, as one JSON text under ``attrscore``: safetensors
writes several entries in any order, and the same training gives the same file. A file without it is
as good.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from attrscore.errors import DataError, preview

__all__ = ["TrainingRecord", "check_trained_for", "damaged", "head_of", "read_record"]

MOST_CELLS = 2**20
"""Cells trained on whose digests are kept, with 8 characters each; of more there is no record."""

MOST_NAMES = 2**16
"""Characters of names of groups, or of cells, that are kept to be read by people."""

MOST_CLASSES = 256
"""Classes of which a table of confusion is kept."""

_ENTRY = "attrscore"

_BYTES = 6
"""Of a digest: of a million cells, one in 3e8 unseen ones is taken for one of them."""


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """What is kept of a training."""

    classes: tuple[str, ...] = ()
    channels: int = 0
    """0 where it is not known."""
    stains: tuple[str, ...] = ()
    """Names of the channels, where they are known."""
    normalised: str = ""
    """How the dataset says that its pixels were normalised."""
    split_by: str | None = None
    """Column whose groups were held out whole."""
    held_out: tuple[str, ...] = ()
    """Values of that column, or ids of cells, that were held out; empty where they are too many."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """How many cells were ``trained_on`` and ``held_out``."""
    accuracy: Mapping[str, float] = field(default_factory=dict)
    """``held_out``, ``balanced`` (also held out) and ``trained_on``."""
    confusion: tuple[tuple[int, ...], ...] = ()
    """Held-out cells of each class by the class predicted."""
    guide: Mapping[str, Any] = field(default_factory=dict)
    """``name`` and options of what kept the model on the cell; empty where nothing did."""
    trained_on: frozenset[bytes] | None = None
    """Digests of the ids of the cells trained on; None where it is not known."""

    @classmethod
    def of(
        cls,
        *,
        trained_on: Sequence[str],
        held_out: Sequence[str],
        groups: Sequence[str],
        **known: Any,
    ) -> TrainingRecord:
        """Of lists of cells, of any length; ``groups`` are the values of ``split_by`` held out."""
        names = tuple(groups) if known.get("split_by") is not None else tuple(held_out)
        confusion = known.pop("confusion")
        return cls(
            held_out=names if sum(map(len, names)) <= MOST_NAMES else (),
            counts={"trained_on": len(trained_on), "held_out": len(held_out)},
            confusion=tuple(map(tuple, confusion)) if len(confusion) <= MOST_CLASSES else (),
            trained_on=frozenset(map(_digest, trained_on))
            if len(trained_on) <= MOST_CELLS
            else None,
            **known,
        )

    def metadata(self) -> dict[str, str]:
        """As it is written."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        found["trained_on"] = None
        if self.trained_on is not None:
            found["trained_on"] = base64.b64encode(b"".join(sorted(self.trained_on))).decode()
        return {_ENTRY: json.dumps(found)}

    def were_held_out(self, ids: Iterable[str], /) -> NDArray[np.bool_] | None:
        """Which cells were not trained on; None where that is not known."""
        if self.trained_on is None:
            return None
        return np.array([_digest(each) not in self.trained_on for each in ids], dtype=bool)


def read_record(path: str | Path, /) -> TrainingRecord | None:
    """What a file says of its training; None where it says nothing, or is no safetensors file.

    :raises DataError: a safetensors file that is damaged, or a record that is none.
    """
    file = Path(path).expanduser()
    if file.suffix.lower() != ".safetensors" or not file.is_file():
        return None
    try:
        with safetensors.safe_open(file, framework="np") as opened:
            known = opened.metadata() or {}
    except Exception as error:
        raise DataError(damaged(file, "safetensors file")) from error
    if _ENTRY not in known:
        return None
    try:
        training = json.loads(known[_ENTRY])
        trained_on = training.get("trained_on")
        digests = base64.b64decode(trained_on or "", validate=True)
        return TrainingRecord(
            classes=tuple(map(str, training.get("classes", ()))),
            channels=int(training.get("channels", 0)),
            stains=tuple(map(str, training.get("stains", ()))),
            normalised=str(training.get("normalised", "")),
            split_by=training.get("split_by"),
            held_out=tuple(map(str, training.get("held_out", ()))),
            counts={str(k): int(v) for k, v in training.get("counts", {}).items()},
            accuracy={str(k): float(v) for k, v in training.get("accuracy", {}).items()},
            confusion=tuple(tuple(map(int, row)) for row in training.get("confusion", ())),
            guide=dict(training.get("guide", {})),
            trained_on=None
            if trained_on is None
            else frozenset(digests[at : at + _BYTES] for at in range(0, len(digests), _BYTES)),
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f"{file} has metadata that are not those of attrscore train: {error}; "
            "save the weights again, without them."
        ) from error


def check_trained_for(
    path: str | Path,
    record: TrainingRecord,
    /,
    *,
    classes: Sequence[str],
    stains: Sequence[str] = (),
    channels: int = 0,
) -> None:
    """Check that weights were trained for these classes and channels, in this order.

    Classes without names, which are the numbers from 0, are taken for any; so are channels.

    :raises DataError: other classes or channels, or another order.
    """
    known, file = record.classes, Path(path).expanduser()
    numbers = [str(number) for number in range(len(classes))]
    if known and classes and list(classes) not in (list(known), numbers):
        raise DataError(
            f"{file} was trained for the classes {preview(known)}, in this order, and those of the "
            f"dataset are {preview(classes)}. Where they are the same, or some of them, say "
            f"dataset.class_order=[{','.join(map(str, known))}]."
        )
    named = ", ".join(record.stains) or "without names"
    if record.channels and channels and record.channels != channels:
        raise DataError(
            f"{file} was trained on {record.channels} channels ({named}), and {channels} are given "
            f"({', '.join(stains) or 'without names'}); choose its own with dataset.channels."
        )
    if record.stains and stains and tuple(stains) != record.stains:
        raise DataError(
            f"{file} was trained on the channels {named}, in this order, and is given "
            f"{', '.join(stains)}; choose its own with dataset.channels="
            f"[{','.join(record.stains)}], or with model.channels."
        )


def _digest(cell: str) -> bytes:
    return hashlib.blake2b(cell.encode("utf-8", "surrogateescape"), digest_size=_BYTES).digest()


def damaged(file: Path, kind: str, /) -> str:
    """What to say of a file that cannot be read as what it should be."""
    head = head_of(file)
    text = head.decode("ascii", errors="replace").splitlines()[:1]
    begins = f" It begins with {text[0]!r}." if text and text[0].isprintable() else ""
    size = file.stat().st_size
    return (
        f"{file} ({size} bytes) is damaged or is not a {kind}.{begins} "
        "Fetch or save it again, and compare its size."
    )


def head_of(file: Path, /) -> bytes:
    """Its first bytes."""
    with file.open("rb") as stream:
        return stream.read(40)
