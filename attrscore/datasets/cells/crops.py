"""Crops out of fields: pixels as a model takes them, regions, and where each crop came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np

from attrscore.core.regions import Side, ring, signed_distance
from attrscore.datasets.batches import chosen, to_batch
from attrscore.errors import ConfigError, choose

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from attrscore.core.contracts import Batch
    from attrscore.datasets.cells.geometry import Geometry
    from attrscore.datasets.cells.normalising import Levels
    from attrscore.datasets.cells.objects import Scan
    from attrscore.datasets.flags import RedFlag
    from attrscore.datasets.images import Field

Outside = Literal["keep", "zero", "mean"]

Window = tuple[slice, ...]
"""Of *S: whole numbers within the field, none negative."""


@dataclass(frozen=True, eq=False)
class Origins:
    """Where n crops begin and how far they reach, in the pixels of their fields."""

    field: tuple[str, ...]
    """The name of each one's field."""
    number: NDArray[np.int64]
    """(n,) of its cell in the field's label image."""
    first: NDArray[np.float64]
    """(n, axes) its first pixel; outside the field where it hangs over the border."""
    extent: NDArray[np.float64]
    """(n, axes) how many pixels of the field it spans: not those of the crop where it was
    resampled."""


@dataclass(frozen=True, eq=False)
class WholeField:
    """A field as crops are cut from it: pixels (C, *S) normalised, labels *S."""

    pixels: NDArray[np.float32]
    labels: NDArray[Any]


@runtime_checkable
class CutFromFields(Protocol):
    """A dataset whose cells were cut from fields."""

    def origins(self, rows: Sequence[int], /) -> Origins:
        """Where the crops of these table rows begin in their fields."""
        ...

    def field(self, name: str, /) -> WholeField:
        """The field of this name."""
        ...


class CellsOfFields:
    """Cells that are cut from fields: a subclass finds them, opens fields and says their levels."""

    outside: Outside = "keep"

    @property
    def regions(self) -> tuple[str, ...]:
        """Names of the regions that every crop has."""
        return ("cell", "neighbours")

    @property
    def ring(self) -> Boundary | None:
        """The ring around each cell's edge, where one is asked for."""
        return None

    @property
    def table(self) -> pd.DataFrame:
        """A row a cell, in the order of the fields and of the objects in each."""
        return self._scan.table

    @property
    def skipped(self) -> Mapping[str, str]:
        """File, field or cell -> why it is left out."""
        return MappingProxyType(self._scan.skipped)

    @property
    def red_flags(self) -> tuple[RedFlag, ...]:
        """What seems wrong with the label images and the table."""
        return self._scan.flags

    def read(self, rows: Sequence[int], /) -> Batch:
        """Crops of these rows, cut field by field."""
        found = self._scan
        rows = chosen(rows, len(found.table))
        table = {name: column[rows] for name, column in self._columns.items()}
        size = found.geometry.size
        inputs = np.empty((len(rows), found.channels, *size), np.float32)
        regions = {name: np.empty((len(rows), *size), bool) for name in self.regions}
        images = table["Metadata_image"]
        in_order = sorted(range(len(rows)), key=rows.__getitem__)
        for name, indices in groupby(in_order, key=images.__getitem__):
            field, levels = self._open(name), self._levels(name)
            for index in indices:
                cut(
                    field,
                    levels,
                    table["Metadata_object"][index],
                    found.first[rows[index]],
                    geometry=found.geometry,
                    boundary=self.ring,
                    outside=self.outside,
                    inputs=inputs[index],
                    regions={region: pixels[index] for region, pixels in regions.items()},
                )
        return to_batch(table, inputs, regions, spacing=found.geometry.spacing, stains=found.stains)

    def origins(self, rows: Sequence[int], /) -> Origins:
        """Where the crops of these rows lie in their fields."""
        rows = chosen(rows, len(self.table))
        geometry = self._scan.geometry
        images = self._columns["Metadata_image"][rows]
        ratio = np.ones((len(rows), len(geometry.size)))
        if geometry.resampled:
            known = {name: geometry.ratio(self._open(name).spacing) for name in set(images)}
            ratio = np.array([known[name] for name in images]).reshape(ratio.shape)
        return Origins(
            field=tuple(images),
            number=self._columns["Metadata_object"][rows].astype(np.int64),
            first=self._scan.first[rows] * ratio,
            extent=np.array(geometry.size) * ratio,
        )

    def field(self, name: str, /) -> WholeField:
        """The field of this name, decoded and normalised, whole.

        :raises DataError: one of its files cannot be used.
        """
        field = self._open(name)
        return WholeField(self._levels(name).apply(field.pixels()), field.labels())

    @property
    def _scan(self) -> Scan:
        """What the files hold; each kind of dataset has its own."""
        raise NotImplementedError

    def _open(self, name: str) -> Field:
        """A field by name; each kind of dataset has its own."""
        raise NotImplementedError

    def _levels(self, name: str) -> Levels:
        """How a field is normalised; each kind of dataset has its own."""
        raise NotImplementedError

    @cached_property
    def _columns(self) -> dict[str, NDArray[Any]]:
        """Of the table, by which rows are taken much faster than from it."""
        return {str(name): self.table[name].to_numpy() for name in self.table}


def cut(
    field: Field,
    levels: Levels,
    number: int,
    first: NDArray[np.int64],
    /,
    *,
    geometry: Geometry,
    boundary: Boundary | None,
    outside: Outside,
    inputs: NDArray[np.float32],
    regions: Mapping[str, NDArray[np.bool_]],
) -> None:
    """Write the crop of the cell ``number`` that begins at the pixel ``first``.

    Into ``inputs`` (C, *S) and ``regions`` *S, where they have to be in the end. Only the window
    that they need is read. Pixels are normalised, then resampled, then those outside the cell
    replaced; zeros beyond the field.
    """
    ratio = geometry.ratio(field.spacing)
    inputs[...] = resampled(
        lambda window: levels.apply(field.pixels(window)), first, geometry.size, ratio, field.shape
    )
    margin = (0,) * len(geometry.size)
    if boundary is not None and geometry.spacing is not None:
        margin = boundary.reach(geometry.spacing)
    wide = tuple(n + 2 * by for n, by in zip(geometry.size, margin, strict=True))

    def labels(of: str) -> NDArray[Any]:
        return resampled(
            lambda window: field.labels(window, of=of),
            first - np.array(margin),
            wide,
            ratio,
            field.shape,
            nearest=-1,
        )

    cells = labels("cell")
    regions_of(
        cells,
        int(number),  # not one of NumPy's, by which the pixels would be brought to 64 bits
        nuclei=labels("nucleus") if "nucleus" in field.masks else None,
        boundary=boundary,
        spacing=geometry.spacing,
        margin=margin,
        out=regions,
    )
    if outside != "keep":
        inner = tuple(slice(by, by + n) for by, n in zip(margin, geometry.size, strict=True))
        around = ~regions["cell"]
        beside = around & (cells[inner] >= 0)
        fill = np.zeros(len(inputs), np.float32)
        if outside == "mean" and beside.any():
            fill = inputs[:, beside].mean(axis=1, dtype=np.float64).astype(np.float32)
        inputs[:, around] = fill[:, None]


def crop(field: NDArray[Any], start: NDArray[np.int64], size: tuple[int, ...], /) -> NDArray[Any]:
    """``size`` pixels from ``start`` along the last axes, with zeros beyond the field.

    >>> crop(np.arange(1, 5), np.array([-1]), (3,))
    array([0, 1, 2])
    """
    source, target = _overlap(start, size, field.shape[-len(size) :])
    out: NDArray[Any] = np.zeros((*field.shape[: -len(size)], *size), field.dtype)
    # typed Any: mypy cannot follow an ellipsis before unpacked slices
    there: Any = (..., *source)
    here: Any = (..., *target)
    out[here] = field[there]
    return out


def resampled(
    read: Callable[[Window], NDArray[Any]],
    start: NDArray[np.int64],
    size: tuple[int, ...],
    ratio: tuple[float, ...],
    shape: tuple[int, ...],
    /,
    *,
    nearest: int | None = None,
) -> NDArray[Any]:
    """``size`` pixels from ``start`` of a field of ``shape``, each ``ratio`` of its pixels wide.

    ``read`` gives a window (..., *S) of the field. Linear between the field's pixels; where crop
    pixels are larger, a mean under a triangle as wide as two of them, so that nothing is skipped.
    Zeros beyond the field. With ``nearest``, for label images: the field's pixel in which each
    crop pixel's centre lies, and that number beyond the field.

    A crop of the resampled field and the resampled crop are the same.
    """
    if all(each == 1 for each in ratio):
        source, target = _overlap(start, size, shape)
        values = read(source)
        if values.shape[-len(size) :] == size:
            return values
        dtype = values.dtype if nearest is None else _holding(nearest, values.dtype)
        out: NDArray[Any] = np.full((*values.shape[: -len(size)], *size), nearest or 0, dtype)
        within: tuple[Any, ...] = (..., *target)
        out[within] = values
        return out
    window = _window_of(start, size, ratio, shape)
    values = read(window)
    lead = values.ndim - len(size)
    for axis, (begin, extent, each) in enumerate(zip(start.tolist(), size, ratio, strict=True)):
        # the middle of every crop pixel, in pixels of the field
        middle = (begin + np.arange(extent) + 0.5) * each - 0.5
        inside = (middle >= -0.5) & (middle < shape[axis] - 0.5)
        ends = window[axis]
        if nearest is not None:
            index = np.floor(middle + 0.5).astype(int) - ends.start
            dtype = _holding(nearest, values.dtype)
            along = lead + axis
            grown = (*values.shape[:along], extent, *values.shape[along + 1 :])
            filled: NDArray[Any] = np.full(grown, nearest, dtype)
            at: Any = [slice(None)] * values.ndim
            at[along] = inside
            filled[tuple(at)] = np.take(values, index[inside], along)
            values = filled
            continue
        pixels = np.arange(ends.start, ends.stop)
        weights = 1 - np.abs(pixels - middle[:, None]) / max(each, 1.0)
        weights = weights.clip(0) * inside[:, None]
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(float).tiny)
        moved = np.tensordot(weights.astype(np.float32), values, axes=(1, lead + axis))
        values = np.moveaxis(moved, 0, lead + axis)
    return np.ascontiguousarray(values)


def _overlap(
    start: NDArray[np.int64], size: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[Window, Window]:
    """Where ``size`` pixels from ``start`` meet a field: there, and in the crop."""
    source: list[slice] = []
    target: list[slice] = []
    for begin, extent, limit in zip(start.tolist(), size, shape, strict=True):
        low, high = max(begin, 0), min(begin + extent, limit)
        if low >= high:  # beside the field
            low = high = begin = 0
        source.append(slice(low, high))
        target.append(slice(low - begin, high - begin))
    return tuple(source), tuple(target)


def _window_of(
    start: NDArray[np.int64],
    size: tuple[int, ...],
    ratio: tuple[float, ...],
    shape: tuple[int, ...],
) -> Window:
    """The pixels of a field that ``size`` pixels of a crop depend on, each ``ratio`` wide."""
    first, extents = [], []
    for begin, extent, each in zip(start.tolist(), size, ratio, strict=True):
        reach = 0.0 if each == 1 else max(each, 1.0)
        low = np.floor((begin + 0.5) * each - 0.5 - reach)
        high = np.ceil((begin + extent - 0.5) * each - 0.5 + reach)
        first.append(int(low))
        extents.append(int(high - low) + 1)
    return _overlap(np.array(first), tuple(extents), shape)[0]


def _holding(number: int, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A type for ``dtype`` and this number too, which may be negative."""
    return np.result_type(dtype, np.min_scalar_type(number))


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """A ring around the edge of a cell: how far it reaches, and to which side."""

    width: float
    """Micrometres."""
    side: Side = "both"

    def __post_init__(self) -> None:
        choose(self.side, get_args(Side), option="boundary_side")
        if not self.width > 0:
            raise ConfigError(
                f"boundary={self.width} must be a positive number of micrometres, or null for no "
                "such region."
            )

    def reach(self, spacing: tuple[float, ...], /) -> tuple[int, ...]:
        """Pixels beyond a crop along each axis that decide about pixels in it."""
        # one more: the nearest pixel on the other side of an edge
        return tuple(int(self.width / each) + 1 for each in spacing)


def regions_of(
    labels: NDArray[Any],
    number: int,
    /,
    *,
    nuclei: NDArray[Any] | None,
    boundary: Boundary | None,
    spacing: tuple[float, ...] | None,
    margin: tuple[int, ...],
    out: Mapping[str, NDArray[np.bool_]],
) -> None:
    """Regions of one cell, from label images that reach ``margin`` pixels further.

    Into ``out``, *S each: ``cell``, and ``neighbours``, which are the other numbers; with
    ``nuclei`` also ``nucleus``, the cell's number there as far as it lies in the cell, and
    ``cytoplasm``, the rest of the cell; with ``boundary`` the ring around the cell's edge, which
    reaches into cell and neighbours.
    """
    inner = tuple(slice(by, extent - by) for by, extent in zip(margin, labels.shape, strict=True))
    cell = np.equal(labels[inner], number, out=out["cell"])
    others = np.greater(labels[inner], 0, out=out["neighbours"])
    np.greater(others, cell, out=others)
    if nuclei is not None:
        nucleus = np.equal(nuclei[inner], number, out=out["nucleus"])
        nucleus &= cell
        np.greater(cell, nucleus, out=out["cytoplasm"])
    if boundary is not None and spacing is not None:
        beyond = labels < 0  # the field: its border is no edge of the cell
        distance = signed_distance(
            labels == number, spacing=spacing, reach=boundary.width, beyond=beyond
        )
        near = ring(distance, boundary.width, side=boundary.side) & ~beyond
        out["boundary"][...] = near[inner]
