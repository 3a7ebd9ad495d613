"""TIFF: which axes its metadata name, how large a voxel is, and windows without the rest.

Where the pixels lie in one piece they are memory-mapped. Else the strips or tiles that a window
touches are decoded, with the file opened for each read, so that forked workers share no position.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import tifffile
from numpy.typing import NDArray

from attrscore.datasets.stored import MICROMETRES, Decoded, Pixels, Stored
from attrscore.errors import DataError

__all__ = ["open_tiff"]

_JPEG = (6, 7, 33007, 34892)
"""Compressions whose segments need tables of their page."""


def open_tiff(path: Path, /) -> Stored:
    """The first series of a TIFF, with all its axes, those of length 1 too.

    Axes without a name are Q or I (tifffile's sequence, images), the samples of a pixel S. Voxel
    sizes are taken from OME and ImageJ metadata only: the resolution of a plain TIFF is mostly that
    of a printer.
    """
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        axes = str(series.get_axes(squeeze=False))
        shape = tuple(int(extent) for extent in series.get_shape(squeeze=False))
        _check_whole(series, path)
        spacing, names = _metadata(file)
        pixels = _mapped(file, shape) if not series.is_multifile else None
        if pixels is None:
            pixels = _segmented(series, axes, shape)
    if pixels is None:
        pixels = Decoded(shape, np.dtype(series.dtype), lambda: tifffile.imread(path, series=0))
    return Stored(pixels, axes, spacing, names)


def _check_whole(series: tifffile.TiffPageSeries, path: Path) -> None:
    """That every plane is there, so that what is missing does not turn into zeros."""
    for number, page in enumerate(series.pages):
        if page is None:
            raise DataError(
                f"'{path.name}' has no pixels for its plane {number} of {len(series.pages)}; a "
                "file of the set is missing, or it was not written to its end."
            )
        ends = [
            int(offset) + int(count)
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]
        size = page.parent.filehandle.size
        if max(ends, default=0) > size:
            raise DataError(
                f"'{path.name}' cannot be read as a TIFF: it is cut short, with {size} bytes of at "
                f"least {max(ends)}; copy it again."
            )


def _mapped(file: tifffile.TiffFile, shape: tuple[int, ...]) -> Pixels | None:
    """The pixels as they lie in the file, or None where that is not possible."""
    series = file.series[0]
    offset = series.dataoffset
    if offset is None:
        return None
    dtype = np.dtype(series.dtype).newbyteorder(file.byteorder)
    if offset + int(np.prod(shape)) * dtype.itemsize > file.filehandle.size:
        raise DataError(
            f"'{file.filename}' cannot be read as a TIFF: it is cut short; copy it again."
        )
    where = Path(file.filehandle.path)
    mapped: Pixels = np.memmap(where, dtype=dtype, mode="r", offset=offset, shape=shape)
    return mapped


@dataclass(frozen=True, eq=False)
class _Page:
    """Where the strips or tiles of one plane are."""

    path: Path
    offsets: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Segmented:
    """Planes (Y, X) or (Y, X, samples) along any other axes, decoded by strip or tile."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    lead: int
    """Axes before Y."""
    pages: tuple[_Page, ...]
    keyframe: Any
    """tifffile's, which decodes; its file is closed."""

    def __getitem__(self, window: tuple[slice, ...], /) -> NDArray[Any]:
        bounds = [range(*each.indices(n)) for each, n in zip(window, self.shape, strict=True)]
        out = np.zeros([len(bound) for bound in bounds], self.dtype)
        rows, columns = bounds[self.lead], bounds[self.lead + 1]
        plane = np.zeros((len(rows), len(columns), self.keyframe.shaped[4]), self.dtype)
        samples = window[self.lead + 2] if len(window) > self.lead + 2 else None
        for place in itertools.product(*(range(len(bound)) for bound in bounds[: self.lead])):
            index = tuple(bound[at] for bound, at in zip(bounds, place, strict=False))
            number = int(np.ravel_multi_index(index, self.shape[: self.lead])) if index else 0
            self._fill(plane, self.pages[number], rows, columns)
            out[place] = plane[..., 0] if samples is None else plane[..., samples]
        return out

    def _fill(self, plane: NDArray[Any], page: _Page, rows: range, columns: range) -> None:
        plane[...] = 0  # a segment without bytes is background
        if not plane.size:
            return
        height, width = self.keyframe.chunks[:2]
        across = self.keyframe.chunked[1]
        touched = [
            row * across + column
            for row in range(rows.start // height, (rows.stop - 1) // height + 1)
            for column in range(columns.start // width, (columns.stop - 1) // width + 1)
        ]
        with page.path.open("rb") as file:
            for segment in touched:
                if not page.counts[segment]:
                    continue
                file.seek(page.offsets[segment])
                data = file.read(page.counts[segment])
                decoded, (_, _, top, left, _), (_, down, right, _) = self.keyframe.decode(
                    data, segment
                )
                first = max(rows.start, top), max(columns.start, left)
                stop = min(rows.stop, top + down), min(columns.stop, left + right)
                plane[
                    first[0] - rows.start : stop[0] - rows.start,
                    first[1] - columns.start : stop[1] - columns.start,
                ] = decoded[0, first[0] - top : stop[0] - top, first[1] - left : stop[1] - left]


def _segmented(
    series: tifffile.TiffPageSeries, axes: str, shape: tuple[int, ...]
) -> _Segmented | None:
    """None for what has planes of another form: separate samples, volumes, JPEG, transforms."""
    keyframe: Any = series.keyframe
    if "Y" not in axes or series.transform is not None or keyframe.compression in _JPEG:
        return None
    lead = axes.index("Y")
    height, width, samples = keyframe.shaped[2:]
    plane = {(height, width, samples)} | ({(height, width)} if samples == 1 else set())
    if (
        keyframe.shaped[:2] != (1, 1)
        or shape[lead:] not in plane
        or int(np.prod(shape[:lead])) != len(series.pages)
    ):
        return None
    keyframe.decode  # noqa: B018  # made while the file is open
    pages = tuple(
        _Page(
            Path(page.parent.filehandle.path),
            tuple(map(int, page.dataoffsets)),
            tuple(map(int, page.databytecounts)),
        )
        for page in series.pages
        if page is not None
    )
    return _Segmented(shape, np.dtype(series.dtype), lead, pages, keyframe)


def _metadata(file: tifffile.TiffFile) -> tuple[Mapping[str, float], tuple[str, ...]]:
    """Micrometres by axis, and the names of the channels."""
    if file.ome_metadata:
        return _of_ome(file.ome_metadata)
    told: Mapping[str, Any] = file.imagej_metadata or {}
    # ImageJ writes the Greek letter as an escape
    unit = str(told.get("unit", "")).replace("\\u00B5", "µ").replace("\\u00b5", "µ")
    scale = MICROMETRES.get(unit)
    if scale is None:
        return {}, ()
    spacing = {}
    tags = file.pages.first.tags
    for axis, name in (("Y", "YResolution"), ("X", "XResolution")):
        pixels, units = tags[name].value if name in tags else (0, 1)
        if pixels and units:
            spacing[axis] = units / pixels * scale
    if told.get("spacing"):
        spacing["Z"] = abs(float(told["spacing"])) * scale
    return spacing, ()


def _of_ome(metadata: str) -> tuple[Mapping[str, float], tuple[str, ...]]:
    try:
        root = ET.fromstring(metadata)  # noqa: S314  # expat bounds entities
    except ET.ParseError:
        return {}, ()  # tifffile read the axes all the same
    pixels = root.find(".//{*}Image/{*}Pixels")
    if pixels is None:
        return {}, ()
    spacing = {}
    for axis in "ZYX":
        size = pixels.get(f"PhysicalSize{axis}")
        scale = MICROMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        if size is not None and scale is not None and float(size) > 0:
            spacing[axis] = float(size) * scale
    names = [channel.get("Name") for channel in pixels.findall("{*}Channel")]
    return spacing, tuple(name for name in names if name) if all(names) else ()
