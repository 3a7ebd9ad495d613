"""TIFF: which axes its metadata name, how large a voxel is, and windows without the rest.

Where the pixels lie in one piece they are memory-mapped. Else the strips or tiles that a window
touches are decoded, with the file opened for each read, so that forked workers share no position.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import tifffile

from attrscore.datasets.images.planes import Mapped, Segmented, mapped, segmented
from attrscore.datasets.images.remembered import Remembered
from attrscore.datasets.images.stored import MICROMETRES, Decoded, Pixels, Stored
from attrscore.errors import DataError

__all__ = ["LAYOUTS", "open_tiff"]


@dataclass(frozen=True, eq=False)
class _Layout:
    """What a file says of itself."""

    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    spacing: Mapping[str, float]
    names: tuple[str, ...]
    planes: Mapped | Segmented | None
    """None: they can only be had whole."""

    def pixels(self, path: Path, /) -> Pixels:
        if self.planes is not None:
            return self.planes.open()
        return Decoded(self.shape, self.dtype, lambda: tifffile.imread(path, series=0))


LAYOUTS: Remembered[_Layout] = Remembered(2**14)
"""Of files that were opened before."""


def open_tiff(path: Path, /) -> Stored:
    """The first series of a TIFF, with all its axes, those of length 1 too.

    Axes without a name are Q or I (tifffile's sequence, images), the samples of a pixel S. Voxel
    sizes are taken from OME and ImageJ metadata only: the resolution of a plain TIFF is mostly that
    of a printer.
    """
    layout = LAYOUTS.get(path, lambda: _layout(path))
    return Stored(layout.pixels(path), layout.axes, layout.spacing, layout.names)


def _layout(path: Path) -> tuple[_Layout, set[Path]]:
    """And the files that the series is in."""
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        axes = str(series.get_axes(squeeze=False))
        shape = tuple(int(extent) for extent in series.get_shape(squeeze=False))
        _check_whole(series, path)
        planes: Mapped | Segmented | None = None
        if not series.is_multifile:
            planes = mapped(file, shape)
        if planes is None:
            planes = segmented(series, axes, shape)
        files = {Path(page.parent.filehandle.path) for page in series.pages if page is not None}
        dtype = np.dtype(series.dtype)
        spacing, names = _metadata(file)
    return _Layout(axes, shape, dtype, spacing, names, planes), {path, *files}


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
