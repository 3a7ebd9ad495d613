"""A scalar of an embedding, which is what profiles are made of.

For self-supervised extractors, and for models cut before their head: the vector that is really
used is audited.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import safetensors.numpy
import torch
from torch import Tensor, nn

from attrscore.core.contracts import Batch, Dataset, Target
from attrscore.core.model import as_found, call, check_output, device_of, unwrap
from attrscore.core.registry import TARGETS
from attrscore.errors import (
    AbsentError,
    AttrscoreError,
    ConfigError,
    DataError,
    did_you_mean,
    preview,
)


class _OfEmbedding:
    """A scalar of the output as a vector; nothing but the model is fixed on the clean input."""

    of_classes: ClassVar[bool] = False
    dense: ClassVar[bool] = False

    def prepare(self, output: Tensor, batch: Batch, /) -> Tensor:  # noqa: ARG002  # contract
        """Nothing: (N, 0)."""
        return output.new_empty((len(output), 0))


@TARGETS.register("embedding")
@dataclass(frozen=True)
class Embedding(_OfEmbedding):
    """One dimension of the embedding, by number, or each of several.

    ``index`` is a number, a list of them, or a range ``"0:64"`` (without 64). Several are explained
    from one forward pass, and each gets rows of its own.

    :raises ConfigError: no such dimension.
    """

    index: int | tuple[int, ...] | str = 0
    """A number, a list [0,3,5], or a range "0:64" (without 64)."""

    def __post_init__(self) -> None:
        numbers = _numbers(self.index)
        object.__setattr__(self, "index", numbers)

    @property
    def each(self) -> tuple[Embedding, ...]:
        """A target for each dimension."""
        return (self,) if isinstance(self.index, int) else tuple(map(Embedding, self._indices))

    @property
    def _indices(self) -> tuple[int, ...]:
        return (self.index,) if isinstance(self.index, int) else tuple(self.index)  # type: ignore[arg-type]  # no text after __post_init__

    def __str__(self) -> str:
        return f"embedding{','.join(map(str, self._indices))}"

    def __call__(self, output: Tensor, aux: Tensor, /) -> Tensor:  # noqa: ARG002  # contract
        """(N, K) -> (N,)."""
        if not isinstance(self.index, int):
            raise ConfigError(f"{self} is {len(self._indices)} targets; explain one of .each.")
        if not 0 <= self.index < output.shape[1]:
            raise ConfigError(
                f"target.index={self.index} is no dimension of this embedding; "
                f"expected 0 to {output.shape[1] - 1}."
            )
        return output[:, self.index]


def _numbers(given: int | str | Sequence[int]) -> int | tuple[int, ...]:
    """One number, or several without repetition."""
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    found: tuple[int, ...] = ()
    if isinstance(given, str) and (ends := re.fullmatch(r"(\d+):(\d+)", given)):
        found = tuple(range(int(ends[1]), int(ends[2])))
    elif not isinstance(given, str | bool) and all(type(number) is int for number in given):
        found = tuple(given)
    if not found or len(set(found)) < len(found):
        raise ConfigError(
            f"target.index={given!r} names no dimensions; expected a number, a list of different "
            "numbers, or a range such as 0:64."
        )
    return found


@TARGETS.register("norm")
@dataclass(frozen=True)
class Norm(_OfEmbedding):
    """The Euclidean length of the embedding."""

    def __str__(self) -> str:
        return "norm"

    def __call__(self, output: Tensor, aux: Tensor, /) -> Tensor:  # noqa: ARG002  # contract
        """(N, K) -> (N,)."""
        length: Tensor = output.norm(dim=1)
        return length


Vector = Any
"""K numbers, or the file that holds them: .npy, .safetensors with one tensor, .csv or .txt; or a
group of cells, ``{"Metadata_Treatment": "DMSO"}``, whose mean embedding is computed by
:func:`attrscore.targets.embeddings.resolved`."""


@dataclass(frozen=True)
class GroupMean:
    """The mean embedding of a group of cells under the model that is explained."""

    where: tuple[tuple[str, tuple[str, ...]], ...]
    """Column -> the values that belong to the group."""
    values: tuple[float, ...] = ()
    """K numbers, or nothing as long as they are not computed."""

    @classmethod
    def of(cls, where: Mapping[str, Any], /) -> GroupMean:
        """The group that a mapping from columns to a value, or to several, describes."""
        if not where:
            raise ConfigError("A group of cells needs a column: {Metadata_Treatment: DMSO}.")
        listed = {
            str(column): value if isinstance(value, list | tuple) else (value,)
            for column, value in where.items()
        }
        return cls(tuple(sorted((c, tuple(map(str, some))) for c, some in listed.items())))

    def __str__(self) -> str:
        return "&".join("|".join(values) for _, values in self.where)


@dataclass(frozen=True)
class _Reference:
    """K numbers and what they are called."""

    values: tuple[float, ...]
    name: str

    @property
    def identity(self) -> str:
        return hashlib.blake2b(np.array(self.values).tobytes(), digest_size=8).hexdigest()

    def like(self, output: Tensor, option: str) -> Tensor:
        if not self.values:
            raise ConfigError(
                f"{option} is the mean of a group of cells ({self.name}) that is not computed yet: "
                "attrscore.targets.embeddings.resolved(target, model, dataset)."
            )
        if len(self.values) != output.shape[1]:
            raise ConfigError(
                f"{option} has {len(self.values)} numbers and the model's output "
                f"{output.shape[1]}; they must be embeddings of the same model."
            )
        return output.new_tensor(self.values)


@functools.lru_cache(maxsize=64)
def _known(given: Vector) -> _Reference:
    """The numbers of an option; a file is read once."""
    if isinstance(given, GroupMean):
        return _Reference(given.values, str(given))
    if isinstance(given, str):
        return _Reference(_one_row(_read_vector(Path(given))), Path(given).stem)
    return _Reference(given, "")


def _one_row(values: np.ndarray[Any, Any]) -> tuple[float, ...]:
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ConfigError(
            "a reference must be one row of finite numbers, one for each dimension of the "
            f"embedding; given: an array {values.shape}."
        )
    return tuple(values.tolist())


class _OfReferences(_OfEmbedding):
    """A scalar that compares the embedding with its options, vectors all."""

    @property
    def _given(self) -> dict[str, Any]:
        return {option.name: getattr(self, option.name) for option in fields(self)}  # type: ignore[arg-type]  # subclasses are dataclasses

    def __post_init__(self) -> None:
        """Sequences become tuples, and files that cannot be used fail now."""
        for option, given in self._given.items():
            try:
                if isinstance(given, str):
                    _known(given)
                elif isinstance(given, Mapping):
                    object.__setattr__(self, option, GroupMean.of(given))
                elif not isinstance(given, GroupMean):
                    object.__setattr__(self, option, _one_row(np.asarray(given, dtype=float)))
            except AttrscoreError as error:
                error.add_note(f"while reading target.{option}")
                raise

    def __str__(self) -> str:
        names = (_known(given).name for given in self._given.values())
        return ":".join(filter(None, (type(self).__name__.lower(), *names)))

    @property
    def identity(self) -> dict[str, Any]:
        """The numbers, not where they lie; of a group of cells, which ones.

        The last digits of a group's mean depend on the batch size and the machine.
        """
        return {
            option: dict(value.where) if isinstance(value, GroupMean) else _known(value).identity
            for option, value in self._given.items()
        }


def _read_vector(path: Path) -> np.ndarray[Any, Any]:
    try:
        if path.suffix == ".npy":
            return np.squeeze(np.asarray(np.load(path, allow_pickle=False), dtype=float))
        if path.suffix == ".safetensors":
            (values,) = safetensors.numpy.load_file(path).values()
            return np.squeeze(np.asarray(values, dtype=float))
        if path.suffix in (".csv", ".txt"):
            return np.squeeze(np.loadtxt(path, delimiter="," if path.suffix == ".csv" else None))
    except FileNotFoundError as error:
        raise AbsentError(f"{path} cannot be read as one vector: {error}") from error
    except Exception as error:
        raise DataError(f"{path} cannot be read as one vector: {error}") from error
    raise ConfigError(f"{path} is no vector; expected a .npy, .safetensors, .csv or .txt file.")


@TARGETS.register("cosine")
@dataclass(frozen=True)
class Cosine(_OfReferences):
    """Cosine similarity of the embedding to a reference profile: DMSO, a treatment's centroid."""

    reference: Vector
    """.npy, .safetensors, .csv or .txt; a list of numbers; or the mean of a group of cells:
    {Metadata_Treatment: DMSO}, {Metadata_Well: [A01, A02]}."""

    def __call__(self, output: Tensor, aux: Tensor, /) -> Tensor:  # noqa: ARG002  # contract
        """(N, K) -> (N,) within [-1, 1]."""
        reference = _known(self.reference).like(output, "reference")
        return torch.nn.functional.cosine_similarity(output, reference[None], dim=1)


@TARGETS.register("contrast")
@dataclass(frozen=True)
class Contrast(_OfReferences):
    """How far the embedding lies along the way from the reference ``second`` to ``first``.

    The scalar product with their difference, scaled to length 1.
    """

    first: Vector
    """.npy, .safetensors, .csv or .txt; a list of numbers; or the mean of a group of cells:
    {Metadata_Treatment: DMSO}."""
    second: Vector
    """The same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        values = _known(self.first).values
        if self.first == self.second or (values and values == _known(self.second).values):
            raise ConfigError("first and second are the same reference; there is no way between.")

    def __call__(self, output: Tensor, aux: Tensor, /) -> Tensor:  # noqa: ARG002  # contract
        """(N, K) -> (N,)."""
        way = _known(self.first).like(output, "first") - _known(self.second).like(output, "second")
        along: Tensor = output @ (way / way.norm())
        return along


@TARGETS.register("probe")
@dataclass(frozen=True)
class Probe(_OfReferences):
    """The scalar product of the embedding with a direction, as of a linear classifier on it."""

    direction: Vector
    """.npy, .safetensors, .csv or .txt; a list of numbers; or a group, as for cosine."""

    def __call__(self, output: Tensor, aux: Tensor, /) -> Tensor:  # noqa: ARG002  # contract
        """(N, K) -> (N,)."""
        product: Tensor = output @ _known(self.direction).like(output, "direction")
        return product


Where = Mapping[str, Any]
"""Column -> the value, or the values, of the group."""


def group_mean(
    model: nn.Module,
    data: Dataset | Batch | Iterable[Batch],
    /,
    *,
    where: Where | GroupMean,
    output: str | int | None = None,
    batch_size: int = 32,
    autocast: bool = False,
) -> tuple[float, ...]:
    """The mean of the model's output over the cells of a group, summed in float64: K numbers.

    ``group_mean(model, dataset, where={"Metadata_Treatment": "DMSO"})`` is what ``Cosine`` and
    ``Contrast`` take. Of a dataset, only the cells of the group are read. One forward pass a cell.

    :raises DataError: no such column, no such cell, or an output that is not finite.
    """
    group = where if isinstance(where, GroupMean) else GroupMean.of(where)
    model = unwrap(model)
    total: torch.Tensor | None = None
    count = 0
    for batch, member in _chosen(data, group, batch_size):
        batch = batch.to(device_of(model))
        with as_found(model), torch.no_grad():
            found = call(model, batch.inputs, *batch.others, autocast=autocast)
            scores = check_output(found, len(batch), output).double()
        summed = scores[torch.from_numpy(member).to(scores.device)].sum(0)
        total = summed if total is None else total + summed
        count += int(member.sum())
    if total is None:
        raise AbsentError(
            f"No cell belongs to the group {group}; the data hold none of its values."
        )
    mean = total / count
    if not bool(mean.isfinite().all()):
        raise DataError(
            f"The mean embedding of {group} is not finite: leave out cells with NaN pixels, or "
            "compute in another precision."
        )
    return tuple(mean.tolist())


def resolved(
    target: Target, model: nn.Module, data: Dataset | Batch | Iterable[Batch], /, **options: Any
) -> Target:
    """The target with the means of its groups of cells computed, as :func:`group_mean` does.

    A target without groups is returned as it is. Data that can be read once only must be a list.
    """
    groups = {name: given for name, given in vars(target).items() if isinstance(given, GroupMean)}
    means = {
        name: replace(group, values=group_mean(model, data, where=group, **options))
        for name, group in groups.items()
        if not group.values
    }
    return replace(target, **means) if means else target  # type: ignore[type-var]  # a dataclass


def _chosen(
    data: Dataset | Batch | Iterable[Batch], group: GroupMean, batch_size: int
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Batches with a cell of the group, and which of their cells belong to it."""
    if hasattr(data, "read") and hasattr(data, "table"):
        rows = np.flatnonzero(_members(group, {str(c): data.table[c] for c in data.table}))
        for start in range(0, len(rows), batch_size):
            some = rows[start : start + batch_size].tolist()
            yield data.read(some), np.ones(len(some), dtype=bool)
        return
    for batch in [data] if isinstance(data, Batch) else data:
        member = _members(group, batch.meta)
        if member.any():
            yield batch, member


def _members(group: GroupMean, columns: Mapping[str, Any]) -> np.ndarray:
    """Which rows belong to the group, (N,) bool."""
    member: np.ndarray = np.ones((), dtype=bool)
    for column, values in group.where:
        if column not in columns:
            raise AbsentError(
                f"The group {group} needs the column {column!r}, which the data do not have: "
                f"{preview(sorted(columns))}. {did_you_mean(column, columns)}"
            )
        member = member & np.isin(np.array([str(v) for v in columns[column]], dtype=object), values)
    return np.atleast_1d(member)
