"""TIFF through tifffile: this file's image, which axes its metadata name, how large a voxel is.

What the metadata of a set of files say about other files is left aside, except where one image is
divided into several files by its channels or planes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import tifffile
from numpy.typing import NDArray

from attrscore.datasets.images.readers import (
    Choice,
    Decoded,
    Stored,
    by_size,
    check_claim,
    micrometres,
    shown,
)
from attrscore.errors import DataError

_WAYS: tuple[Mapping[str, Any], ...] = (
    {"is_mmstack": False},
    {},
    {"is_mmstack": False, "is_ome": False, "is_imagej": False},
)
"""How tifffile is asked to open a file, in turn until it gives planes that lie in this one.

By OME metadata, or what else names the axes; then by MicroManager's index, or what tifffile makes
of a file whose OME metadata are wrong or those of other files; then page by page.
"""


@dataclass(frozen=True, eq=False)
class _Found:
    """An image of a file, as tifffile finds it again."""

    path: Path
    flags: Mapping[str, Any]
    number: int
    """Of tifffile's series."""
    shape: tuple[int, ...]
    """Along all axes, those of length 1 too."""
    dtype: np.dtype[Any]
    first: tuple[int, ...]
    """Where this file's part of the series begins."""
    pages: list[int] | None
    """Of the series, those of this file's part; None: all."""
    mapped: tuple[np.dtype[Any], int] | None
    """Type and offset of pixels that lie in the file as they do in memory."""
    gaps: bool
    """Whether a strip or tile has no bytes, being background."""

    @property
    def pixels(self) -> Any:
        if self.mapped is None and find_spec("zarr") is None:
            return Decoded(self.shape, self.dtype, self.decode)
        return by_size(self.shape, self.dtype, self.open, self.decode, self.first)

    def decode(self) -> NDArray[Any]:
        with self.file() as file:
            # tifffile reads segments in a row at once, and is then wrong about what lies behind one
            # without bytes
            size = 1 if self.gaps else None
            return np.asarray(file.asarray(key=self.pages, series=self.number, buffersize=size))

    def open(self) -> tuple[Any, Callable[[], object]]:
        """What is sliced, and what closes it."""
        if self.mapped is not None:
            dtype, offset = self.mapped
            return np.memmap(self.path, dtype, "r", offset, self.shape), bool
        import zarr

        file = self.file()
        store = file.series[self.number].aszarr(level=0, squeeze=False)

        def close() -> None:
            store.close()
            file.close()

        return zarr.open_array(store, mode="r"), close

    def file(self) -> tifffile.TiffFile:
        """Opened the same way again."""
        return tifffile.TiffFile(self.path, **self.flags)


def open_tiff(path: Path, choice: Choice, /) -> Stored:
    """An image with all its axes, those of length 1 too.

    Axes without a name are Q or I (tifffile's sequence, images), the samples of a pixel S. Voxel
    sizes are taken from OME and ImageJ metadata only: the resolution of a plain TIFF is mostly that
    of a printer.

    :raises DataError: several images and no choice, planes that are missing, or cut short.
    """
    for flags in _WAYS:
        with tifffile.TiffFile(path, **flags) as file:
            images = _images(file)
            # MicroManager's ImageJ metadata do not say in which order its planes come
            named = file.is_mmstack or any(each.kind == "ome" for _, each in images)
            if images and (named or not file.is_micromanager or flags is _WAYS[-1]):
                return _opened(path, file, flags, images, choice)
    raise DataError(f"'{shown(path)}' holds no image.")


def _images(file: tifffile.TiffFile) -> list[tuple[int, tifffile.TiffPageSeries]]:
    """Series of which planes lie in this file, with their numbers; none where they are unclear."""
    try:
        series = list(file.series)
    except Exception:  # of metadata that do not fit the file
        if file.is_ome:
            return []
        raise
    found = []
    for number, each in enumerate(series):
        own = [page for page in each.pages if page and _path_of(page) == file.filehandle.path]
        # files of a MicroManager set may all claim one position, of which one file's would be taken
        unclear = each.kind == "mmstack" and {page.dataoffsets for page in own} != {
            page.dataoffsets for page in file.pages
        }
        if own and not unclear:
            found.append((number, each))
    return found


def _path_of(page: Any) -> str:
    return str(page.parent.filehandle.path)


def _opened(
    path: Path,
    file: tifffile.TiffFile,
    flags: Mapping[str, Any],
    images: list[tuple[int, tifffile.TiffPageSeries]],
    choice: Choice,
) -> Stored:
    kinds = [_described(series) for _, series in images]
    chosen = choice.of(kinds, shown(path))
    number, series = images[chosen]
    axes = str(series.get_axes(squeeze=False))
    first, shape, pages = _own(series, file.filehandle.path)
    dtype = np.dtype(series.dtype)
    gaps = _check_whole(series, pages, path)
    held = {_path_of(page): page.parent.filehandle.size for page in series.pages if page}
    check_claim(path, shape, dtype, held=sum(held.values()))
    mapped = None
    if series.dataoffset is not None and not series.is_multifile:
        mapped = dtype.newbyteorder(file.byteorder), int(series.dataoffset)
    found = _Found(path, flags, number, shape, dtype, first, pages, mapped, gaps)
    spacing, names = _metadata(file, chosen, len(images))
    return Stored(found.pixels, axes, spacing, names)


def _described(series: tifffile.TiffPageSeries) -> str:
    size = " x ".join(map(str, series.shape))
    return f"{size} ({series.axes})" + (f" '{series.name}'" if series.name else "")


def _own(
    series: tifffile.TiffPageSeries, path: str
) -> tuple[tuple[int, ...], tuple[int, ...], list[int] | None]:
    """The part of a series that is this file's image: where it begins, its shape, and its pages.

    Along axes that no image has (positions, times) it is what lies in this file.
    """
    shape = tuple(int(extent) for extent in series.get_shape(squeeze=False))
    axes = str(series.get_axes(squeeze=False))
    lead = axes.find("Y")
    whole = (0,) * len(shape), shape, None
    if not series.is_multifile or math.prod(shape[:lead]) != len(series.pages):
        return whole
    mine = np.array([page is not None and _path_of(page) == path for page in series.pages])
    indices = np.argwhere(mine.reshape(shape[:lead]))
    window = [slice(0, extent) for extent in shape]
    for axis, letter in enumerate(axes[:lead]):
        if letter not in "CZ":
            window[axis] = slice(int(indices[:, axis].min()), int(indices[:, axis].max()) + 1)
    numbers = np.arange(len(mine)).reshape(shape[:lead])[tuple(window[:lead])]
    return (
        tuple(each.start for each in window),
        tuple(each.stop - each.start for each in window),
        numbers.ravel().tolist(),
    )


def _check_whole(series: tifffile.TiffPageSeries, pages: list[int] | None, path: Path) -> bool:
    """That every plane is there, so that what is missing does not turn into zeros.

    Returns whether strips or tiles are without bytes, which is how background may be written.
    """
    every = list(series.pages)
    gaps = False
    for number in range(len(every)) if pages is None else pages:
        page: Any = every[number]
        if page is None:
            raise DataError(
                f"'{shown(path)}' has no pixels for its plane {number} of {len(every)}; a file of "
                "the set is missing, or it was not written to its end."
            )
        ends = [
            int(offset) + int(count)
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]
        size = page.parent.filehandle.size
        if max(ends, default=0) > size:
            raise DataError(
                f"'{shown(path)}' cannot be read as a TIFF: it is cut short, with {size} bytes of "
                f"at least {max(ends)}; copy it again."
            )
        gaps = gaps or 0 in page.databytecounts
    return gaps


def _metadata(
    file: tifffile.TiffFile, chosen: int, images: int
) -> tuple[Mapping[str, float], tuple[str, ...]]:
    """Micrometres by axis, and the names of the channels, of one image of a file's own."""
    if file.is_ome and file.ome_metadata:
        return _of_ome(file.ome_metadata, file.filename, chosen, images)
    facts: Mapping[str, Any] = file.imagej_metadata or {}
    unit = facts.get("unit", "")
    tags = file.pages.first.tags
    sizes = {"Z": (abs(_number(facts.get("spacing"))), facts.get("zunit", unit))}
    for axis, name, own in (("Y", "YResolution", "yunit"), ("X", "XResolution", "unit")):
        pixels, units = tags[name].value if name in tags else (0, 1)
        sizes[axis] = (units / pixels if pixels else 0, facts.get(own, unit))
    # ImageJ writes the Greek letter as an escape
    found = {
        axis: micrometres(size, str(unit).replace("\\u00B5", "µ").replace("\\u00b5", "µ"))
        for axis, (size, unit) in sizes.items()
    }
    return {axis: size for axis, size in found.items() if size is not None}, ()


def _number(value: object) -> float:
    """0 for what is none."""
    try:
        return float(str(value))
    except ValueError:
        return 0.0


def _of_ome(
    metadata: str, filename: str, chosen: int, images: int
) -> tuple[Mapping[str, float], tuple[str, ...]]:
    try:
        root = ET.fromstring(metadata)  # noqa: S314  # expat bounds entities
    except ET.ParseError:
        return {}, ()  # tifffile read the axes all the same
    mine = [
        _facts(pixels)
        for pixels in root.findall("./{*}Image/{*}Pixels")
        if _lies(pixels, root.get("UUID"), filename)
    ]
    if len(mine) == images:
        return mine[chosen]
    # tifffile has left some out, and which is not known
    return mine[0] if mine and all(facts == mine[0] for facts in mine) else ({}, ())


def _facts(pixels: ET.Element) -> tuple[Mapping[str, float], tuple[str, ...]]:
    found = {
        axis: micrometres(
            pixels.get(f"PhysicalSize{axis}", ""), pixels.get(f"PhysicalSize{axis}Unit", "µm")
        )
        for axis in "ZYX"
    }
    names = [channel.get("Name") for channel in pixels.findall("{*}Channel")]
    return (
        {axis: size for axis, size in found.items() if size is not None},
        tuple(name for name in names if name) if all(names) else (),
    )


def _lies(pixels: ET.Element, identity: str | None, filename: str) -> bool:
    """Whether any plane of an image is said to lie in the file of this UUID and name."""
    for plane in pixels.findall("{*}TiffData"):
        where = plane.find("{*}UUID")
        if (
            where is None
            or (identity is not None and where.text == identity)
            or where.get("FileName", "").lower() == filename.lower()
        ):
            return True
    return False
