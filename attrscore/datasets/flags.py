"""Red flags: mistakes in data that no error stops and that make every number wrong.

They are looked for in the table, in the objects of the label images, which are measured anyway, and
in a few crops; nothing else is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from attrscore.errors import preview

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from attrscore.core.contracts import Batch, Dataset
    from attrscore.datasets.cells.objects import Objects
    from attrscore.datasets.images import Field

__all__ = ["KINDS", "FieldFlags", "RedFlag", "red_flags"]

SHOWN = 3
"""Examples that are kept of a flag."""

HUGE_SHARE, HUGE_TIMES, HUGE_AMONG = 0.5, 10.0, 5
"""An object is huge that covers this share of its field, or is so many times the median object of
a field of at least so many."""

FEWEST = 3
"""Cells of a class, from which on it is odd that they lie in one well."""

WINDOW = 512
"""Pixels along each axis of the piece of a field that is looked at."""


class Kind(NamedTuple):
    """What is seen, and what to do."""

    seen: str
    advice: str


KINDS: Mapping[str, Kind] = {
    "swapped": Kind(
        "images and masks seem to be swapped in {count} of {of} fields",
        "exchange dataset.images and dataset.masks",
    ),
    "one_number": Kind(
        "the mask has one number for all its pieces in {count} of {of} fields, as a 0/255 mask has",
        "give each cell a number (skimage.measure.label; cells that touch must be segmented again)",
    ),
    "scattered": Kind(
        "most numbers of the mask lie in several pieces in {count} of {of} fields",
        "give each cell a number: those of classes, outlines or grey levels are none",
    ),
    "huge_object": Kind(
        "{count} of {of} objects are as large as their field, or 10 times the median",
        "look (a numbered background? merged cells?), and leave them out where they are wrong: "
        "'dataset.where=\"area < 5000\"'",
    ),
    "nucleus_empty": Kind(
        "the nucleus is empty in {count} of {of} cells",
        "in dataset.nuclei a nucleus has its cell's number, which may be shifted; "
        "'dataset.where=\"nucleus_area > 0\"' leaves single ones out",
    ),
    "cut": Kind(
        "the crop is smaller than {count} of {of} cells",
        "what lies beyond it counts for no score: a larger dataset.crop, or dataset.resample",
    ),
    "rows_without_cell": Kind(
        "{count} of {of} rows of the table match no cell",
        "compare its images and numbers with the masks (do they begin at 0?); rows about other "
        "files or dropped objects may stay",
    ),
    "cells_without_row": Kind(
        "{count} of {of} cells have no row in the table, and no class",
        "compare dataset.image_key and dataset.object_key with the names of the files",
    ),
    "class_by_plate": Kind(
        "the plate, or batch, alone shows the class of {count} of {of} cells",
        "a model can read the plate in place of the cell: take plates that hold every class, and "
        "hold out whole ones by train.split_by",
    ),
    "class_in_one_well": Kind(
        "{count} of {of} classes lie in one well, or image, without another class",
        "a model can read the well in place of the cell, and no other well can test it",
    ),
    "classes_alike": Kind(
        "{count} of {of} names of classes differ by capitals or spaces alone",
        "they are different classes here: spell them as one in the table",
    ),
    "class_a_cell": Kind(
        "there are {count} classes for {of} cells",
        "dataset.label_column should name a column of groups, not of measurements",
    ),
    "normalised_otherwise": Kind(
        "{count} of {of} cells are normalised otherwise than those that the model was trained on",
        "its numbers mean nothing there: dataset.normalise, .percentiles, .ranges as in training",
    ),
    "cell_empty": Kind(
        "the mask of the cell is empty in {count} of {of} crops looked at",
        "no score is defined there: compare masks and images",
    ),
    "cell_everywhere": Kind(
        "the mask of the cell fills {count} of {of} crops looked at",
        "there is no outside to look at: a larger crop, or other masks",
    ),
}
"""In the order in which they are said."""


@dataclass(frozen=True)
class RedFlag:
    """One mistake, as often as it was found."""

    kind: str
    """Of :data:`KINDS`."""
    count: int
    of: int
    """Among how many it was looked for."""
    examples: tuple[str, ...] = ()

    @property
    def seen(self) -> str:
        """What was found, with examples."""
        text = KINDS[self.kind].seen.format(count=self.count, of=self.of)
        return f"{text} ({preview(self.examples)})" if self.examples else text

    @property
    def advice(self) -> str:
        """What to do."""
        return KINDS[self.kind].advice

    def describe(self) -> str:
        """A line for people."""
        return f"{self.seen}: {self.advice}."

    def as_dict(self) -> dict[str, Any]:
        """As it is stored, its words with it."""
        return {
            "kind": self.kind,
            "count": self.count,
            "of": self.of,
            "examples": list(self.examples),
            "seen": self.seen,
            "advice": self.advice,
        }


def red_flags(dataset: Dataset, batch: Batch, /) -> tuple[RedFlag, ...]:
    """What is wrong with a dataset, as far as its table, its fields and some crops show it.

    Where images and masks are swapped, that alone: the rest follows from it.
    """
    table = dataset.table
    of_fields: tuple[RedFlag, ...] = getattr(dataset, "red_flags", ())
    if swapped := [flag for flag in of_fields if flag.kind == "swapped"]:
        return tuple(swapped)
    return (
        *of_fields,
        *_of_table(table),
        *_of_classes(table, tuple(map(str, dataset.classes))),
        *_of_crops(batch, measured="Metadata_nucleus_area" in table),
    )


def _flag(
    kind: str, where: NDArray[np.bool_], names: Sequence[Any] | pd.Series[Any]
) -> list[RedFlag]:
    """The flag of those for which something holds, or none."""
    rows = np.flatnonzero(where)
    examples = tuple(str(names[row]) for row in rows[:SHOWN].tolist())
    return [RedFlag(kind, len(rows), len(where), examples)] if len(rows) else []


def _of_table(table: pd.DataFrame) -> list[RedFlag]:
    ids = table["id"].tolist()
    found: list[RedFlag] = []
    if "Metadata_nucleus_area" in table:
        found += _flag("nucleus_empty", (table["Metadata_nucleus_area"] == 0).to_numpy(), ids)
    if "Metadata_cut" in table and 2 * table["Metadata_cut"].sum() > len(table):
        found += _flag("cut", table["Metadata_cut"].to_numpy(bool), ids)
    return found


def _of_crops(batch: Batch, *, measured: bool) -> list[RedFlag]:
    def empty(region: str) -> NDArray[np.bool_]:
        return (batch.regions[region].flatten(1).sum(1) == 0).cpu().numpy()

    full = (batch.regions["cell"].flatten(1) > 0).all(1).cpu().numpy()
    found = _flag("cell_empty", empty("cell"), batch.ids)
    found += _flag("cell_everywhere", full, batch.ids)
    if "nucleus" in batch.regions and not measured:
        found += _flag("nucleus_empty", empty("nucleus"), batch.ids)
    return found


# Classes

_UNITS = {
    "plate": re.compile(r"(^|_)(plate|batch|slide|experiment)(_?(id|name|barcode))?$", re.I),
    "well": re.compile(r"(^|_)well(_?(id|name|position))?$", re.I),
}


def _of_classes(table: pd.DataFrame, classes: tuple[str, ...]) -> Iterator[RedFlag]:
    known = table[table["label"] >= 0]
    labels, present = pd.factorize(known["label"], sort=True)
    names = [classes[label] if label < len(classes) else str(label) for label in present]
    plain = pd.Series([re.sub(r"[\s_-]+", "", name).casefold() for name in names], dtype=object)
    yield from _flag("classes_alike", plain.duplicated(keep=False).to_numpy(bool), names)
    if len(names) > 10 and 2 * len(names) > len(known):
        yield RedFlag("class_a_cell", len(names), len(known), tuple(names[:SHOWN]))
    elif len(names) > 1:
        yield from _of_units(known, labels, names)


def _of_units(known: pd.DataFrame, labels: Any, names: Sequence[str]) -> Iterator[RedFlag]:
    """Whether plate, well or image say which class a cell has."""
    columns = {
        unit: [c for c in known if _UNITS[unit].search(str(c).removeprefix("Metadata_"))]
        for unit in _UNITS
    }
    for column in columns["plate"]:
        units, values = pd.factorize(known[column])
        counts = _counts(units, labels, len(values), len(names))
        right = _guessed(counts)
        # half way from a guess to certainty, every class counting the same
        share = ((counts * right).sum(0) / counts.sum(0)).mean()
        if len(values) > 1 and share >= (1 + 1 / len(names)) / 2:
            total = int((counts * right).sum())
            examples = [
                f"{names[n]}: {values[int(counts[:, n].argmax())]}" for n in range(len(names))
            ]
            yield RedFlag("class_by_plate", total, len(known), tuple(examples[:SHOWN]))
    inner = columns["well"] or [c for c in ("Metadata_image",) if c in known]
    if not inner:
        return
    keys = known[[*columns["plate"], *inner]].astype(str)
    units, values = pd.factorize(pd.Series(keys.itertuples(index=False, name=None)))
    counts = _counts(units, labels, len(values), len(names))
    at = counts.argmax(0)
    alone = ((counts > 0).sum(0) == 1) & ((counts[at] > 0).sum(1) == 1) & (counts.sum(0) >= FEWEST)
    if len(values) > 1:
        examples = [f"{n}: {' '.join(values[u])}" for n, u in zip(names, at, strict=True)]
        yield from _flag("class_in_one_well", alone, examples)


def _counts(units: Any, labels: Any, rows: int, columns: int) -> NDArray[np.int64]:
    """(units, classes) cells; those without a unit are left out."""
    counts = np.zeros((rows, columns), np.int64)
    there = units >= 0
    np.add.at(counts, (units[there], labels[there]), 1)
    return counts


def _guessed(counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(units, classes) whether the other cells of its unit tell the class of a cell.

    The class most over-represented among them is guessed, so that rare classes count as much.
    """
    totals = np.maximum(counts.sum(0), 1)
    right = np.zeros(counts.shape, bool)
    for n in range(counts.shape[1]):
        others = np.delete(counts / totals, n, axis=1).max(axis=1)
        right[:, n] = (counts[:, n] - 1) / totals[n] > others
    return right


# Fields

OF_MASKS = ("swapped", "one_number", "scattered")
"""Kinds of which a mask has at most one."""


@dataclass(eq=False)
class FieldFlags:
    """What the label images and the table of a dataset show, field by field."""

    rows: pd.DataFrame
    """Of the table of cells, indexed by (image, number)."""
    _seen: dict[str, tuple[int, int, tuple[str, ...]]] = field(default_factory=dict)
    """Kind -> count, among how many, and examples."""

    def add(self, name: str, found: Objects, of: Field, kept: NDArray[np.bool_], /) -> None:
        """Look at a field, of whose objects some are ``kept``."""
        in_pieces = 2 * (found.pieces > 1).sum() > len(found.number)
        kind = _kind_of(found, of) if in_pieces else ""
        for each in OF_MASKS:
            self._note(each, [name] if each == kind else [], 1)
        huge = found.area > HUGE_SHARE * np.prod(of.shape)
        if len(found.area) >= HUGE_AMONG:
            huge |= found.area > HUGE_TIMES * np.median(found.area)
        self._note("huge_object", _named(name, found.number[huge & kept]), int(kept.sum()))
        if len(self.rows):
            numbers = self._numbers.get(name, np.zeros(0, np.int64))
            lost = numbers[~np.isin(numbers, found.number)]
            self._note("rows_without_cell", _named(name, lost), len(numbers))
            bare = found.number[kept & ~np.isin(found.number, numbers)]
            self._note("cells_without_row", _named(name, bare), int(kept.sum()))

    def found(self, known: Iterable[str] | None = None, /) -> tuple[RedFlag, ...]:
        """The flags; ``known`` are the names of all fields there are, to find rows of others."""
        if known is not None and len(self.rows):
            for name in sorted(set(self._numbers) - set(known)):
                numbers = self._numbers[name]
                self._note("rows_without_cell", _named(name, numbers), len(numbers))
        return tuple(
            RedFlag(kind, *self._seen[kind]) for kind in KINDS if self._seen.get(kind, (0,))[0]
        )

    def _note(self, kind: str, names: Sequence[str], among: int) -> None:
        count, of, examples = self._seen.get(kind, (0, 0, ()))
        more = tuple(names[: SHOWN - len(examples)])
        self._seen[kind] = count + len(names), of + among, examples + more

    @cached_property
    def _numbers(self) -> Mapping[str, NDArray[np.int64]]:
        """Image -> the numbers that the table names."""
        images = self.rows.index.get_level_values(0).astype(str)
        numbers = self.rows.index.get_level_values(1).to_numpy(np.int64)
        groups = pd.Series(numbers).groupby(images.to_numpy(), sort=False)
        return {str(name): group.to_numpy() for name, group in groups}


def _named(field: str, numbers: NDArray[np.int64]) -> list[str]:
    return [f"{field}:{number}" for number in numbers]


def _kind_of(found: Objects, of: Field) -> str:
    """What a mask is, most of whose numbers lie in several pieces."""
    if len(found.number) == 1:
        return "one_number"
    middle = [slice(max(0, n // 2 - WINDOW // 2), n // 2 + WINDOW // 2) for n in of.shape]
    if len(middle) == 3:
        middle[0] = slice(of.shape[0] // 2, of.shape[0] // 2 + 1)
    window = tuple(slice(s.start, min(s.stop, n)) for s, n in zip(middle, of.shape, strict=True))
    image, mask = of.pixels(window)[0], of.labels(window)
    flat_image, flat_mask = (float((a[..., 1:] == a[..., :-1]).mean()) for a in (image, mask))
    swapped = image.dtype.kind in "ui" and flat_image > 0.9 > flat_mask
    return "swapped" if swapped else "scattered"
