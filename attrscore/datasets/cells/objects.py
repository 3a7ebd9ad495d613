"""The objects of every field, opened once before any crop is read: a row a cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import ndimage

from attrscore.datasets.cells.geometry import Geometry, jitter_columns
from attrscore.datasets.flags import OF_MASKS, FieldFlags, RedFlag
from attrscore.datasets.images.readers import shown
from attrscore.errors import ConfigError, DataError, EmptyShardError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from attrscore.datasets.cells.normalising import Normaliser
    from attrscore.datasets.cells.options import FieldOptions
    from attrscore.datasets.cells.tables import Annotations
    from attrscore.datasets.images import Field, FieldReader

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

_AT_ONCE = 2**22
"""Pixels of a label image whose coordinates are in memory at once."""

_OFTEN = 16
"""Times that a pixel may lie in the box of an object, before each object is looked at alone."""


@dataclass(frozen=True, eq=False)
class Scan:
    """The cells of all fields that can be used."""

    table: pd.DataFrame
    channels: int
    stains: tuple[str, ...]
    geometry: Geometry
    first: NDArray[np.int64]
    """(n, axes) where each crop begins, on the grid of crops; beyond the field if it hangs over."""
    skipped: Mapping[str, str]
    """File name -> why it is left out."""
    small: int = 0
    """Objects under ``min_area``."""
    unwanted: int = 0
    """Objects for which ``where`` does not hold."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What the files are like, in words."""
    flags: tuple[RedFlag, ...] = ()
    """What seems wrong with label images and table."""


def scan(
    options: FieldOptions,
    reader: FieldReader,
    annotations: Annotations,
    normaliser: Normaliser,
    /,
) -> Scan:
    """Open every field in the order of the names, until ``limit`` cells are found.

    :raises DataError: no cell is left, or a file cannot be used and that is to be raised.
    :raises ConfigError: the files have another number of channels than stains are named, or do not
        say how large a pixel is, and ``boundary`` needs it.
    """
    raises = options.on_bad_file == "raise"
    skipped = dict(reader.unmatched)
    if skipped and raises:
        raise DataError(_sentence(next(iter(skipped.values()))))
    tables: list[pd.DataFrame] = []
    begins: list[NDArray[np.int64]] = []
    first: Field | None = None
    geometry: Geometry | None = None
    cells = small = unwanted = 0
    facts: dict[str, Counter[str]] = {}
    looked = FieldFlags(annotations.rows)
    for name in sorted(reader.files):
        if options.limit is not None and cells >= options.limit:
            break
        path = reader.files[name].image
        try:
            field = reader.open(name)
            mine = _geometry(options, field, geometry)
            if first is not None and geometry is not None:
                _check_alike(field, first, mine, geometry)
            found = measure(field.labels())
            normaliser(name, reader.open)
        except DataError as error:
            if raises:
                raise DataError(_sentence(str(error))) from error
            skipped[shown(path)] = str(error)
            continue
        first, geometry = first or field, geometry or mine
        for what, value in _facts(field).items():
            facts.setdefault(what, Counter())[value] += 1
        rows, begin = _rows(name, found, field, geometry, options)
        large = found.area >= options.min_area
        joined = annotations.join(rows[large].reset_index(drop=True))
        held = _held(joined, annotations.classes, options)
        small += int((~large).sum())
        unwanted += int((~held).sum())
        tables.append(joined[held])
        begins.append(begin[large][held])
        cells += int(held.sum())
        large[large] = held
        looked.add(name, found, field, large)
    if not cells or first is None or geometry is None:
        reasons = " ".join(list(skipped.values())[:3])
        kind = DataError if reader.keep is None else EmptyShardError
        filtered = f" where='{options.where}' leaves {unwanted} out." if options.where else ""
        if first is None and reader.swapped():
            filtered += " Images and masks seem to be swapped."
        raise kind(
            f"No cell is left: {len(skipped)} files cannot be used, and {small} objects are "
            f"smaller than min_area={options.min_area} pixels.{filtered} {reasons}"
        )
    flags = looked.found(reader.every if reader.keep is None else None)
    table = pd.concat(tables, ignore_index=True).iloc[: options.limit]
    if reader.keep is None and options.where is None:  # else no annotated cell may be left
        annotations.check(table, [flag for flag in flags if flag.kind in OF_MASKS])
    if first.stains and len(first.stains) != len(first.channels):
        raise ConfigError(
            f"stains={list(first.stains)} names {len(first.stains)} channels, and "
            f"{len(first.channels)} are read."
        )
    if options.boundary is not None and geometry.spacing is None:
        raise ConfigError(
            f"boundary={options.boundary} micrometres needs to know how large a pixel is, which "
            "the files do not say; state it with dataset.spacing."
        )
    return Scan(
        table,
        len(first.channels),
        first.stains,
        geometry,
        np.concatenate(begins)[: options.limit],
        skipped,
        small,
        unwanted,
        {what: _counted(counts) for what, counts in facts.items()},
        flags,
    )


def plates_of(
    options: FieldOptions, annotations: Annotations, /
) -> tuple[dict[str, str] | None, dict[str, tuple[str, ...]]]:
    """The plate of each field, and the control fields of each plate; None without controls.

    :raises ConfigError: a column that the table does not have, or no control at all.
    """
    if options.control_condition is None:
        return None, {}
    rows = annotations.rows
    column = next((n for n in (options.plate, f"Metadata_{options.plate}") if n in rows), None)
    if column is None:
        raise ConfigError(
            f"plate='{options.plate}' is no column that is carried from '{annotations.source}'; "
            "those named Metadata_... are, and what dataset.carry names."
        )
    fields = rows.index.get_level_values(0).astype(str)
    plates = rows[column].astype(object)
    known = plates.notna().to_numpy()
    of = dict(zip(fields[known], plates[known].astype(str), strict=True))
    named = _with_class(rows.reset_index(drop=True), annotations.classes, options.label_column)
    held = options.control_condition(named)
    if not held.any():
        raise ConfigError(
            f"controls='{options.controls}' holds for no row of '{annotations.source}'; expected "
            "the control wells of each plate."
        )
    chosen: dict[str, dict[str, None]] = {}
    for name in fields[held & known]:
        chosen.setdefault(of[name], {})[name] = None
    return of, {each: tuple(names) for each, names in chosen.items()}


def _geometry(options: FieldOptions, field: Field, known: Geometry | None) -> Geometry:
    try:
        return options.geometry(field.spacing)
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
    name: str, found: Objects, field: Field, geometry: Geometry, options: FieldOptions
) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """A row an object, and where its crop begins."""
    ids = [f"{name}:{number}" for number in found.number]
    ratio = geometry.ratio(field.spacing)
    centre, inner = found.centroid, {}
    if "nucleus" in field.masks:
        areas, centroids = within(found.number, field.labels(), field.labels(of="nucleus"))
        inner["Metadata_nucleus_area"] = areas
        if options.centre == "nucleus":
            centre = np.where(areas[:, None] > 0, centroids, centre)
    first = geometry.first(ids, centre, np.array(ratio))
    # edges of the crop, in pixels of the field
    low, high = (at * np.array(ratio) for at in (first, first + np.array(geometry.size)))
    cut = (found.first < low) | (found.stop > high)
    axes = "zyx"[-len(geometry.size) :]
    table = pd.DataFrame(
        {
            "id": ids,
            "Metadata_image": name,
            "Metadata_object": found.number,
            "Metadata_area": found.area,
            **inner,
            "Metadata_touches_border": found.touches_border,
            "Metadata_tiny": found.tiny(options.tiny),
            "Metadata_split": found.pieces > 1,
            "Metadata_cut": cut.any(axis=1),
            **{f"Metadata_centroid_{axis}": found.centroid[:, n] for n, axis in enumerate(axes)},
            **(jitter_columns(geometry.moved(ids)) if any(geometry.most) else {}),
        }
    )
    return table, first


def _held(
    table: pd.DataFrame, classes: tuple[str, ...], options: FieldOptions
) -> NDArray[np.bool_]:
    """Rows for which ``where`` holds."""
    if options.condition is None or table.empty:
        return np.ones(len(table), bool)
    return options.condition(_with_class(table, classes, options.label_column))


def _with_class(table: pd.DataFrame, classes: tuple[str, ...], column: str | None) -> pd.DataFrame:
    """The name of each cell's class beside its number, under the table's name for it."""
    if column is None or {column, f"Metadata_{column}"} & set(table.columns):
        return table
    names = np.array([*classes, None], dtype=object)  # -1: none
    return table.assign(**{column: names[table["label"].to_numpy()]})


def _facts(field: Field) -> dict[str, str]:
    """What one field is like, in words."""
    return {
        "axes": ("C" if field.image.shape[0] > 1 else "") + field.image.space,
        "pixels": " x ".join(map(str, field.shape)),
        "type": str(field.image.dtype),
        "voxel": _sized(field.spacing),
    }


def _counted(counts: Counter[str]) -> str:
    """Each value, with how many fields have it where they differ; the most frequent first."""
    if len(counts) == 1:
        return next(iter(counts))
    listed = ", ".join(f"{value} ({count})" for value, count in counts.most_common(4))
    return listed + (f" and {len(counts) - 4} more" if len(counts) > 4 else "")


def _sentence(reason: str) -> str:
    return reason[0].upper() + reason[1:]


@dataclass(frozen=True, eq=False)
class Objects:
    """The n objects of one label image, in the order of their numbers."""

    number: NDArray[np.int64]
    """(n,) as in the label image."""
    area: NDArray[np.int64]
    """(n,) pixels."""
    centroid: NDArray[np.float64]
    """(n, axes) pixels."""
    first: NDArray[np.int64]
    """(n, axes) of the bounding box."""
    stop: NDArray[np.int64]
    """(n, axes), one past the bounding box."""
    pieces: NDArray[np.int64]
    """(n,) connected pieces; pixels that meet at a corner are connected."""
    touches_border: NDArray[np.bool_]
    """(n,) a pixel of it is at the border of the field."""

    def tiny(self, share: float, /) -> NDArray[np.bool_]:
        """(n,) smaller than this share of the median object."""
        small: NDArray[np.bool_] = self.area < share * np.median(self.area)
        return small


def measure(labels: NDArray[Any], /) -> Objects:
    """Every object of a label image that has at least one, a slab of the image at a time.

    >>> found = measure(np.array([[0, 7, 7], [0, 0, 0], [3, 0, 3]]))
    >>> found.number, found.area, found.pieces, found.touches_border
    (array([3, 7]), array([2, 2]), array([2, 1]), array([ True,  True]))
    """
    # numbers may be sparse and large: made 0 to n - 1 before anything is indexed by them
    number = _numbers(labels)
    area = np.zeros(len(number), np.int64)
    total = np.zeros((len(number), labels.ndim))
    first = np.full((len(number), labels.ndim), np.iinfo(np.int64).max)
    stop = np.zeros((len(number), labels.ndim), np.int64)
    for begin, slab in _slabs(labels):
        coordinates = np.nonzero(slab)
        which = np.searchsorted(number, slab[coordinates])
        area += np.bincount(which, minlength=len(number))
        for axis, along in enumerate(coordinates):
            at = along + begin if axis == 0 else along
            total[:, axis] += np.bincount(which, weights=at, minlength=len(number))
            np.minimum.at(first[:, axis], which, at)
            np.maximum.at(stop[:, axis], which, at + 1)
    return Objects(
        number=number.astype(np.int64),
        area=area,
        centroid=total / area[:, None],
        first=first,
        stop=stop,
        pieces=_pieces(labels, number, area, first, stop),
        touches_border=((first == 0) | (stop == np.array(labels.shape))).any(axis=1),
    )


def within(
    numbers: NDArray[np.int64], labels: NDArray[Any], inner: NDArray[Any], /
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Area (n,) and centroid (n, axes) of what has the number of an object in both label images.

    The centroid is NaN where there is nothing.
    """
    area: NDArray[np.int64] = np.zeros(len(numbers), np.int64)
    total = np.zeros((len(numbers), labels.ndim))
    for begin, slab in _slabs(labels):
        both = (slab == inner[begin : begin + len(slab)]) & (slab > 0)
        which = np.searchsorted(numbers, slab[both])
        area += np.bincount(which, minlength=len(numbers))
        for axis, along in enumerate(np.nonzero(both)):
            at = along + begin if axis == 0 else along
            total[:, axis] += np.bincount(which, weights=at, minlength=len(numbers))
    return area, total / np.where(area > 0, area, np.nan)[:, None]


def _slabs(labels: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Pieces of the image along its first axis, each with the index where it begins."""
    thick = max(1, _AT_ONCE // max(1, labels[:1].size))
    for begin in range(0, len(labels), thick):
        yield begin, labels[begin : begin + thick]


def _numbers(labels: NDArray[Any]) -> NDArray[Any]:
    # background first: most pixels are, and the rest is sorted
    each = [np.unique(slab[slab > 0]) for _, slab in _slabs(labels)]
    return np.unique(np.concatenate(each))


def _pieces(
    labels: NDArray[Any],
    number: NDArray[Any],
    area: NDArray[np.int64],
    first: NDArray[np.int64],
    stop: NDArray[np.int64],
) -> NDArray[np.int64]:
    pieces = np.ones(len(number), np.int64)
    boxes = (stop - first).prod(axis=1)
    rows = np.flatnonzero(area < boxes)  # the others fill their box
    if boxes[rows].sum() > _OFTEN * labels.size:
        # grey levels taken for labels: each number everywhere
        from skimage.measure import label  # slow to import

        piece = label(labels, connectivity=labels.ndim)
        of = np.zeros(piece.max() + 1, labels.dtype)
        of[piece.ravel()] = labels.ravel()
        return np.bincount(np.searchsorted(number, of[1:]), minlength=len(number))
    corners = np.ones((3,) * labels.ndim, bool)
    for row in rows:
        box = tuple(slice(*ends) for ends in zip(first[row], stop[row], strict=True))
        pieces[row] = ndimage.label(labels[box] == number[row], corners)[1]
    return pieces
