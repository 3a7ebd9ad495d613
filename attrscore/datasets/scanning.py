"""What there is before any crop is read: every field opened once, a row a cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from attrscore.datasets.expressions import Expression
from attrscore.datasets.geometry import Geometry
from attrscore.datasets.images.files import shown
from attrscore.datasets.jitter import jitter_columns
from attrscore.datasets.objects import Objects, areas_within, measure
from attrscore.errors import ConfigError, DataError, EmptyShardError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from attrscore.datasets.annotations import Annotations
    from attrscore.datasets.images.field import Field, FieldReader
    from attrscore.datasets.normalising import Normaliser

__all__ = ["OWN_COLUMNS", "Scan", "Wanted", "plates_of", "scan"]

OWN_COLUMNS = (
    "Metadata_image",
    "Metadata_object",
    "Metadata_area",
    "Metadata_nucleus_area",
    "Metadata_touches_border",
    "Metadata_tiny",
    "Metadata_split",
    "Metadata_cut",
    "Metadata_centroid_z",
    "Metadata_centroid_y",
    "Metadata_centroid_x",
    "Metadata_jitter_z",
    "Metadata_jitter_y",
    "Metadata_jitter_x",
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Wanted:
    """Which cells are wanted, and what a file must be like."""

    geometry: Callable[[tuple[float, ...] | None], Geometry]
    """Of crops of a field with this spacing."""
    min_area: int
    tiny: float
    where: Expression | None
    label_column: str | None
    limit: int | None
    raises: bool
    """Whether a file that cannot be used ends it all."""


@dataclass(frozen=True, eq=False)
class Scan:
    """What was found."""

    table: pd.DataFrame
    channels: int
    stains: tuple[str, ...]
    geometry: Geometry
    first: NDArray[np.int64]
    """(n, axes) where each crop begins, on the grid of crops; beyond the field if it hangs over."""
    skipped: Mapping[str, str]
    """File name -> why it is left out."""
    small: int
    """Objects under ``min_area``."""
    unwanted: int
    """Objects for which ``where`` does not hold."""
    facts: Mapping[str, str]
    """What the files are like, in words."""


def scan(
    reader: FieldReader, normaliser: Normaliser, annotations: Annotations, wanted: Wanted, /
) -> Scan:
    """Open every field in the order of the names, until ``limit`` cells are found.

    :raises DataError: no cell is left, or a file cannot be used and that is to be raised.
    """
    skipped = dict(reader.unmatched)
    if skipped and wanted.raises:
        raise DataError(_sentence(next(iter(skipped.values()))))
    parts: list[pd.DataFrame] = []
    begins: list[NDArray[np.int64]] = []
    first: Field | None = None
    geometry: Geometry | None = None
    cells = small = unwanted = 0
    facts = _Facts()
    for name in sorted(reader.files):
        if wanted.limit is not None and cells >= wanted.limit:
            break
        path = reader.files[name].image
        try:
            field = reader.open(name)
            mine = _geometry(wanted, field, geometry)
            if first is not None and geometry is not None:
                _check_alike(field, first, mine, geometry)
            found = measure(field.labels())
            normaliser(name, reader.open)
        except DataError as error:
            if wanted.raises:
                raise DataError(_sentence(str(error))) from error
            skipped[shown(path)] = str(error)
            continue
        first, geometry = first or field, geometry or mine
        facts.add(field)
        rows, begin = _rows(name, found, field, geometry, wanted.tiny)
        large = found.area >= wanted.min_area
        joined = annotations.join(rows[large].reset_index(drop=True))
        held = _held(joined, annotations.classes, wanted)
        small += int((~large).sum())
        unwanted += int((~held).sum())
        parts.append(joined[held])
        begins.append(begin[large][held])
        cells += int(held.sum())
    if not cells or first is None or geometry is None:
        reasons = " ".join(list(skipped.values())[:3])
        kind = DataError if reader.keep is None else EmptyShardError
        filtered = f" where='{wanted.where.text}' leaves {unwanted} out." if wanted.where else ""
        raise kind(
            f"No cell is left: {len(skipped)} files cannot be used, and {small} objects are "
            f"smaller than min_area={wanted.min_area} pixels.{filtered} {reasons}"
        )
    table = pd.concat(parts, ignore_index=True).iloc[: wanted.limit]
    if reader.keep is None and wanted.where is None:  # else no annotated cell may be left
        annotations.check(table)
    return Scan(
        table,
        len(first.channels),
        first.stains,
        geometry,
        np.concatenate(begins)[: wanted.limit],
        skipped,
        small,
        unwanted,
        facts.told(),
    )


def plates_of(
    annotations: Annotations, controls: Expression | None, plate: str, label_column: str | None, /
) -> tuple[dict[str, str] | None, dict[str, tuple[str, ...]]]:
    """The plate of each field, and the control fields of each plate; None without controls.

    :raises ConfigError: a column that the CSV does not have, or no control at all.
    """
    if controls is None:
        return None, {}
    rows = annotations.rows
    column = next((name for name in (plate, f"Metadata_{plate}") if name in rows), None)
    if column is None:
        raise ConfigError(
            f"plate='{plate}' is no column that is carried from '{annotations.source}'; those "
            "named Metadata_... are, and what dataset.carry names."
        )
    fields = rows.index.get_level_values(0).astype(str)
    plates = rows[column].astype(object)
    known = plates.notna().to_numpy()
    of = dict(zip(fields[known], plates[known].astype(str), strict=True))
    held = controls(_with_class(rows.reset_index(drop=True), annotations.classes, label_column))
    if not held.any():
        raise ConfigError(
            f"controls='{controls.text}' holds for no row of '{annotations.source}'; expected the "
            "control wells of each plate."
        )
    chosen: dict[str, dict[str, None]] = {}
    for name in fields[held & known]:
        chosen.setdefault(of[name], {})[name] = None
    return of, {each: tuple(names) for each, names in chosen.items()}


def _geometry(wanted: Wanted, field: Field, known: Geometry | None) -> Geometry:
    try:
        return wanted.geometry(field.spacing)
    except ConfigError as error:
        if known is None:  # as likely the options' fault
            raise
        raise DataError(f"'{shown(field.image.path)}': {error}") from error


def _check_alike(field: Field, first: Field, mine: Geometry, geometry: Geometry) -> None:
    name = shown(field.image.path)
    if len(field.channels) != len(first.channels):
        raise DataError(
            f"'{name}' has {len(field.channels)} channels but the files before it have "
            f"{len(first.channels)}; choose some that all have with dataset.channels."
        )
    if field.stains and first.stains and field.stains != first.stains:
        raise DataError(
            f"'{name}' calls its channels {list(field.stains)} but the files before it "
            f"{list(first.stains)}; sort them, or name them with dataset.stains."
        )
    if not mine.fits(geometry):
        raise DataError(
            f"'{name}' has pixels of {_sized(field.spacing)} but the files before it of "
            f"{_sized(first.spacing)}; bring them to one size with dataset.resample, or state "
            "dataset.spacing for all."
        )


def _sized(spacing: tuple[float, ...] | None) -> str:
    return "unknown size" if spacing is None else " x ".join(f"{n:g}" for n in spacing) + " µm"


def _rows(
    name: str, found: Objects, field: Field, geometry: Geometry, tiny: float
) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """A row an object, and where its crop begins."""
    ids = [f"{name}:{number}" for number in found.number]
    ratio = geometry.ratio(field.spacing)
    first = geometry.first(ids, found.centroid, np.array(ratio))
    # edges of the crop, in pixels of the field
    low, high = (place * np.array(ratio) for place in (first, first + np.array(geometry.size)))
    cut = (found.first < low) | (found.stop > high)
    axes = "zyx"[-len(geometry.size) :]
    inner = {}
    if "nucleus" in field.masks:
        areas = areas_within(found.number, field.labels(), field.labels(of="nucleus"))
        inner["Metadata_nucleus_area"] = areas
    table = pd.DataFrame(
        {
            "id": ids,
            "Metadata_image": name,
            "Metadata_object": found.number,
            "Metadata_area": found.area,
            **inner,
            "Metadata_touches_border": found.touches_border,
            "Metadata_tiny": found.tiny(tiny),
            "Metadata_split": found.parts > 1,
            "Metadata_cut": cut.any(axis=1),
            **{f"Metadata_centroid_{axis}": found.centroid[:, n] for n, axis in enumerate(axes)},
            **(jitter_columns(geometry.moved(ids)) if any(geometry.most) else {}),
        }
    )
    return table, first


def _held(
    table: pd.DataFrame, classes: tuple[str, ...], wanted: Wanted
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    if wanted.where is None or table.empty:
        return np.ones(len(table), bool)
    return wanted.where(_with_class(table, classes, wanted.label_column))


def _with_class(table: pd.DataFrame, classes: tuple[str, ...], column: str | None) -> pd.DataFrame:
    """The name of each cell's class beside its number, under the CSV's name for it."""
    if column is None or {column, f"Metadata_{column}"} & set(table.columns):
        return table
    names = np.array([*classes, None], dtype=object)  # -1: none
    return table.assign(**{column: names[table["label"].to_numpy()]})


class _Facts:
    """What the files are like, gathered in passing."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, int]] = {}

    def add(self, field: Field) -> None:
        stored = field.image
        axes = ("C" if stored.shape[0] > 1 else "") + stored.space
        for what, value in {
            "axes": axes,
            "pixels": " x ".join(map(str, field.shape)),
            "type": str(stored.dtype),
            "voxel": _sized(field.spacing),
        }.items():
            counts = self._seen.setdefault(what, {})
            counts[value] = counts.get(value, 0) + 1

    def told(self) -> dict[str, str]:
        return {what: _counted(counts) for what, counts in self._seen.items()}


def _counted(counts: Mapping[str, int]) -> str:
    """Each value, with how many fields have it where they differ; the most frequent first."""
    if len(counts) == 1:
        return next(iter(counts))
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    shown_ones = ", ".join(f"{value} ({count})" for value, count in ordered[:4])
    return shown_ones + (f" and {len(ordered) - 4} more" if len(ordered) > 4 else "")


def _sentence(reason: str) -> str:
    return reason[0].upper() + reason[1:]
