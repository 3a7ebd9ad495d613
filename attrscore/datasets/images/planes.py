"""Where the pixels of a TIFF lie, which is small and can be kept, and windows of them."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from attrscore.datasets.images.stored import Pixels
from attrscore.errors import DataError

__all__ = ["Mapped", "Segmented", "Segments", "mapped", "segmented"]

_JPEG = (6, 7, 33007, 34892)
"""Compressions whose segments need tables of their page."""

_DEFLATE = (8, 32946)


@dataclass(frozen=True, eq=False)
class Mapped:
    """Pixels that lie in a file as they do in memory."""

    where: Path
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]

    def open(self) -> Pixels:
        """A memory map."""
        pixels: Pixels = np.memmap(
            self.where, dtype=self.dtype, mode="r", offset=self.offset, shape=self.shape
        )
        return pixels


def mapped(file: tifffile.TiffFile, shape: tuple[int, ...], /) -> Mapped | None:
    """The first series of an open file, or None where that is not possible.

    :raises DataError: it is cut short.
    """
    series = file.series[0]
    offset = series.dataoffset
    if offset is None:
        return None
    dtype = np.dtype(series.dtype).newbyteorder(file.byteorder)
    if offset + int(np.prod(shape)) * dtype.itemsize > file.filehandle.size:
        raise DataError(
            f"'{file.filename}' cannot be read as a TIFF: it is cut short; copy it again."
        )
    return Mapped(Path(file.filehandle.path), dtype, offset, shape)


@dataclass(frozen=True, eq=False)
class Segments:
    """How the strips or tiles of a plane are decoded, and where they lie in it."""

    decode: Callable[..., Any]
    """tifffile's."""
    plane: tuple[int, ...]
    """Y, X and samples."""
    extent: tuple[int, ...]
    """Of a strip or tile, along Y and X."""
    across: int
    tiled: bool
    inflated: np.dtype[Any] | None
    """The type of the bytes that zlib gives, where there is no more to it."""

    def __call__(self, data: bytes, number: int, /) -> tuple[NDArray[Any], int, int]:
        """Pixels (y, x, samples) of a strip or tile, and where they begin."""
        row, column = divmod(number, self.across)
        top, left = row * self.extent[0], column * self.extent[1]
        if self.inflated is not None:
            down = self.extent[0] if self.tiled else min(self.extent[0], self.plane[0] - top)
            shape = (down, self.extent[1], self.plane[2])
            size = math.prod(shape) * self.inflated.itemsize
            # tifffile does not tell zlib how much will come, which costs a tenth
            inflated = zlib.decompress(data, bufsize=size)
            if len(inflated) == size:
                return np.frombuffer(inflated, self.inflated).reshape(shape), top, left
        return self.decode(data, number)[0][0], top, left


@dataclass(frozen=True, eq=False)
class Segmented:
    """Planes (Y, X) or (Y, X, samples) along any other axes, decoded by strip or tile."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    lead: int
    """Axes before Y."""
    paths: tuple[Path, ...]
    """Of each plane."""
    places: NDArray[np.int64]
    """(planes, segments, 2): where each begins in its file, and how many bytes it has."""
    segments: Segments

    def open(self) -> Pixels:
        """Itself: it opens files when it is sliced."""
        return self

    def __getitem__(self, window: tuple[slice, ...], /) -> NDArray[Any]:
        bounds = [range(*each.indices(n)) for each, n in zip(window, self.shape, strict=True)]
        out = np.empty([len(bound) for bound in bounds], self.dtype)
        rows, columns = bounds[self.lead : self.lead + 2]
        samples = window[self.lead + 2] if len(window) > self.lead + 2 else slice(0, 1)
        planes = out if len(window) > self.lead + 2 else out[..., None]
        numbers = np.arange(len(self.paths)).reshape(self.shape[: self.lead])
        numbers = numbers[window[: self.lead]]
        in_order = zip(numbers.ravel().tolist(), np.ndindex(numbers.shape), strict=True)
        for path, group in itertools.groupby(in_order, key=lambda each: self.paths[each[0]]):
            with path.open("rb", buffering=0) as file:
                for number, place in group:
                    self._fill(planes[place], file, self.places[number], rows, columns, samples)
        return out

    def _fill(
        self,
        plane: NDArray[Any],
        file: FileIO,
        places: NDArray[np.int64],
        rows: range,
        columns: range,
        samples: slice,
    ) -> None:
        if not plane.size:
            return
        height, width = self.segments.extent
        touched = [
            row * self.segments.across + column
            for row in range(rows.start // height, (rows.stop - 1) // height + 1)
            for column in range(columns.start // width, (columns.stop - 1) // width + 1)
        ]
        if not places[touched, 1].all():
            plane[...] = 0  # a segment without bytes is background
        for number in touched:
            offset, count = places[number].tolist()
            if not count:
                continue
            file.seek(offset)
            decoded, top, left = self.segments(file.read(count), number)
            down, right = decoded.shape[:2]
            first = max(rows.start, top), max(columns.start, left)
            stop = min(rows.stop, top + down), min(columns.stop, left + right)
            plane[
                first[0] - rows.start : stop[0] - rows.start,
                first[1] - columns.start : stop[1] - columns.start,
            ] = decoded[first[0] - top : stop[0] - top, first[1] - left : stop[1] - left, samples]


def segmented(
    series: tifffile.TiffPageSeries, axes: str, shape: tuple[int, ...], /
) -> Segmented | None:
    """A series of an open file.

    None for planes of another form: separate samples, volumes, JPEG, transforms.
    """
    keyframe: Any = series.keyframe
    if "Y" not in axes or series.transform is not None or keyframe.compression in _JPEG:
        return None
    lead = axes.index("Y")
    plane = tuple(map(int, keyframe.shaped[2:]))
    if (
        keyframe.shaped[:2] != (1, 1)
        or shape[lead:] not in ({plane} | ({plane[:2]} if plane[2] == 1 else set()))
        or int(np.prod(shape[:lead])) != len(series.pages)
    ):
        return None
    dtype = np.dtype(series.dtype)
    plain = (
        keyframe.compression in _DEFLATE
        and (keyframe.predictor, keyframe.fillorder) == (1, 1)
        and keyframe.bitspersample == 8 * dtype.itemsize
        and find_spec("imagecodecs") is None  # faster than zlib, and tifffile takes it
    )
    pages = [page for page in series.pages if page is not None]
    return Segmented(
        shape,
        dtype,
        lead,
        tuple(Path(page.parent.filehandle.path) for page in pages),
        np.array(
            [list(zip(p.dataoffsets, p.databytecounts, strict=True)) for p in pages], np.int64
        ),
        Segments(
            keyframe.decode,
            plane,
            tuple(map(int, keyframe.chunks[:2])),
            int(keyframe.chunked[1]),
            bool(keyframe.is_tiled),
            dtype.newbyteorder(keyframe.parent.byteorder) if plain else None,
        ),
    )
