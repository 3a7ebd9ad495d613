"""OME-Zarr (NGFF 0.4 and 0.5) in local folders: one resolution level, read by chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from attrscore.datasets.images.chunks import pixels_of
from attrscore.datasets.images.files import ZARR_METADATA, shown
from attrscore.datasets.images.remembered import Remembered
from attrscore.datasets.images.stored import MICROMETRES, Stored
from attrscore.errors import ConfigError, DataError, preview

__all__ = ["LAYOUTS", "open_ngff"]

LAYOUTS: Remembered[Stored] = Remembered(2**14)
"""Of arrays that were opened before."""


def open_ngff(path: Path, /, *, level: int = 0) -> Stored:
    """The image (or the labels) of a group with ``multiscales``, at resolution ``level``.

    :raises DataError: no such group, or metadata without what the specification asks for.
    :raises ConfigError: a level that it does not have.
    """
    return LAYOUTS.get((path, level), lambda: _layout(path, level))


def _layout(path: Path, level: int) -> tuple[Stored, list[Path]]:
    """And the files that say so."""
    name = shown(path)
    try:
        group = zarr.open_group(str(path), mode="r")
    except (FileNotFoundError, zarr.errors.GroupNotFoundError) as error:
        raise DataError(
            f"'{name}' is no OME-Zarr image: no group is there; give the folder that holds the "
            "multiscales, such as image.zarr or image.zarr/labels/cells."
        ) from error
    attributes: Mapping[str, Any] = group.attrs.asdict()
    told = attributes.get("ome", attributes)
    scales = told.get("multiscales") or ()
    if not scales:
        inside = sorted(group.group_keys())
        raise DataError(
            f"'{name}' is no OME-Zarr image: its metadata have no multiscales; it holds "
            f"{preview(inside) or 'no group'}."
        )
    axes, units = _axes(scales[0], name)
    levels: Sequence[Mapping[str, Any]] = scales[0].get("datasets") or ()
    if not levels:
        raise DataError(f"'{name}' names no resolution level in its multiscales.")
    if not 0 <= level < len(levels):
        raise ConfigError(
            f"level={level} is not in '{name}', which has the levels 0 to {len(levels) - 1}, the "
            "finest first."
        )
    where = str(levels[level].get("path", ""))
    if not where or where not in group:
        raise DataError(
            f"'{name}' has no array '{where}', which its metadata name as level {level}; it is not "
            "whole: copy it again."
        )
    pixels: Any = group[where]
    if not isinstance(pixels, zarr.Array) or len(pixels.shape) != len(axes):
        raise DataError(
            f"'{name}' names the axes {axes} but its level {level} has the shape "
            f"{getattr(pixels, 'shape', 'of a group')}."
        )
    size = np.ones(len(axes))
    for each in (levels[level], scales[0]):
        for step in each.get("coordinateTransformations") or ():
            if step.get("type") == "scale" and len(step.get("scale", ())) == len(axes):
                size = size * np.array(step["scale"], float)
    spacing = {
        axis: float(extent) * MICROMETRES[unit]
        for axis, extent, unit in zip(axes, size, units, strict=True)
        if unit in MICROMETRES
    }
    channels = (told.get("omero") or {}).get("channels") or ()
    names = tuple(str(channel.get("label", "")) for channel in channels)
    array = path / where
    return (
        Stored(pixels_of(pixels, array), axes, spacing, names if all(names) else (), definite=True),
        [folder / each for folder in (path, array) for each in ZARR_METADATA],
    )


def _axes(scale: Mapping[str, Any], name: str) -> tuple[str, tuple[str, ...]]:
    """Letters, and units ("" where there is none)."""
    given = scale.get("axes")
    if not given:
        raise DataError(
            f"'{name}' does not name its axes; expected OME-Zarr 0.4 or 0.5. Write it again with "
            "a present ome-zarr."
        )
    named = [{"name": axis} if isinstance(axis, str) else axis for axis in given]
    letters = "".join(str(axis.get("name", "?"))[:1].upper() for axis in named)
    return letters, tuple(str(axis.get("unit", "")) for axis in named)
