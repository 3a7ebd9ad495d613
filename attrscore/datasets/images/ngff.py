"""OME-Zarr (NGFF 0.4 to 0.6) in local folders: one resolution level, read by chunk."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from attrscore.datasets.images.readers import (
    LARGE,
    Choice,
    Stored,
    by_size,
    check_claim,
    micrometres,
    shown,
)
from attrscore.errors import ConfigError, DataError, preview

_HEADER = 16
"""Bytes of Blosc before its data; the last four say how many there are, these included."""


def open_ngff(path: Path, choice: Choice, /) -> Stored:
    """The image (or the labels) of a group with ``multiscales``, at one resolution level.

    :raises DataError: no such group, or metadata without what the specification asks for.
    :raises ConfigError: a level that it does not have.
    """
    name = shown(path)
    try:
        group = zarr.open_group(str(path), mode="r")
    except (FileNotFoundError, zarr.errors.GroupNotFoundError) as error:
        raise DataError(
            f"'{name}' is no OME-Zarr image: no group is there; give the folder that holds the "
            "multiscales, such as image.zarr or image.zarr/labels/cells."
        ) from error
    attributes: Mapping[str, Any] = group.attrs.asdict()
    metadata = attributes.get("ome", attributes)
    scales = metadata.get("multiscales") or ()
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
    level = choice.level
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
    # From 0.6 on those of all levels lead on from the system that the axes are of.
    shared = () if "coordinateSystems" in scales[0] else (scales[0],)
    for each in (levels[level], *shared):
        for step in _steps(each.get("coordinateTransformations") or ()):
            if step.get("type") == "scale" and len(step.get("scale", ())) == len(axes):
                size = size * np.array(step["scale"], float)
    spacing = {
        axis: length
        for axis, extent, unit in zip(axes, size, units, strict=True)
        if (length := micrometres(extent, unit)) is not None
    }
    channels = (metadata.get("omero") or {}).get("channels") or ()
    names = tuple(str(channel.get("label", "")) for channel in channels)
    folder = path / where
    claimed = math.prod(pixels.shape) * pixels.dtype.itemsize
    held = pixels.nbytes_stored() if claimed > LARGE else claimed
    check_claim(path, pixels.shape, pixels.dtype, held=held)
    stored = _Checked(pixels, folder) if _is_blosc(pixels) else pixels
    return Stored(
        by_size(pixels.shape, pixels.dtype, lambda: (stored, bool)),
        axes,
        spacing,
        names if all(names) else (),
        definite=True,
    )


@dataclass(frozen=True, eq=False)
class _Checked:
    """An array compressed by Blosc, whose chunks are looked at before they are decoded.

    numcodecs gives whatever lies behind the end of a chunk that was cut short, without an error.
    """

    array: Any
    folder: Path

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self.array.dtype
        return dtype

    def __getitem__(self, window: tuple[slice, ...], /) -> NDArray[Any]:
        touched = (
            range(each.start // extent, -(-each.stop // extent))
            for each, extent in zip(window, self.array.chunks, strict=True)
        )
        for number in itertools.product(*touched):
            chunk = self.folder / self.array.metadata.encode_chunk_key(number)
            if not chunk.is_file():  # all of it is the fill value
                continue
            with chunk.open("rb") as file:
                header = file.read(_HEADER)
            size = chunk.stat().st_size
            if len(header) < _HEADER or int.from_bytes(header[12:16], "little") != size:
                raise DataError(
                    f"'{shown(chunk)}' cannot be read as a Zarr: the chunk is cut short or "
                    "damaged; copy it again."
                )
        return np.asarray(self.array[window])


def _is_blosc(array: Any) -> bool:
    """Whether each chunk is a file of its own that Blosc has compressed last."""
    packed = [type(each).__name__ for each in array.compressors]
    return array.shards is None and packed[-1:] in (["Blosc"], ["BloscCodec"])


def _steps(transformations: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Each transformation, those of a sequence one by one."""
    for each in transformations:
        if each.get("type") == "sequence":
            yield from _steps(each.get("transformations") or ())
        else:
            yield each


def _system(scale: Mapping[str, Any]) -> Mapping[str, Any]:
    """The coordinate system of NGFF 0.6 into which the levels are transformed, else the first."""
    systems: Sequence[Mapping[str, Any]] = scale.get("coordinateSystems") or ({},)
    levels: Sequence[Mapping[str, Any]] = scale.get("datasets") or ({},)
    steps: Sequence[Mapping[str, Any]] = levels[0].get("coordinateTransformations") or ({},)
    step = steps[0]
    output = step.get("output")
    wanted = output.get("name") if isinstance(output, Mapping) else output
    return next((each for each in systems if each.get("name") == wanted), systems[0])


def _axes(scale: Mapping[str, Any], name: str) -> tuple[str, tuple[str, ...]]:
    """Letters, and units ("" where there is none)."""
    given = scale.get("axes") or _system(scale).get("axes")
    if not given:
        raise DataError(
            f"'{name}' does not name its axes; expected OME-Zarr 0.4 to 0.6. Write it again with "
            "a present ome-zarr."
        )
    named = [{"name": axis} if isinstance(axis, str) else axis for axis in given]
    letters = "".join(str(axis.get("name", "?"))[:1].upper() for axis in named)
    return letters, tuple(str(axis.get("unit", "")) for axis in named)
