"""Maps inside a part: float16 with a scale each, on their own grids, with named axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import numpy as np
import pandas as pd

from attrscore.store.columns import (
    check,
    create_group,
    escape,
    hard_links,
    read_column,
    unescape,
    write_array,
    write_attribute,
    write_column,
)

__all__ = [
    "Array",
    "MapKey",
    "decode",
    "encode",
    "map_group",
    "map_ids",
    "map_targets",
    "read_map",
    "write_maps",
]

MapKey = tuple[str, str] | tuple[str, str, str]
"""Method key and layer, and the target in a job that has several."""

Array = np.ndarray[Any, Any]

_TOP = np.float32(2**15)  # scaled maps reach up to here: float16 ends at 65504 and 6e-8
_SMALLEST = np.float32(1e-45)
_AXES = ("z", "y", "x")


def encode(maps: Array, /) -> tuple[Array, Array]:
    """Maps (N, C, *s) as float16 with one float32 scale a map, (N,), so that small values survive.

    A map's largest finite absolute value becomes 2^15. Zero maps have the scale 1. NaN and infinity
    stay what they are.
    """
    with np.errstate(over="ignore"):  # beyond float32 a value is infinite
        wide = maps.astype(np.float32, copy=False)
    each = (slice(None), *[None] * (wide.ndim - 1))
    finite = np.abs(np.where(np.isfinite(wide), wide, np.float32(0)))
    top = finite.max(axis=tuple(range(1, wide.ndim)), initial=0)
    scale = np.where(top > 0, np.maximum(top / _TOP, _SMALLEST), np.float32(1))
    return (wide / scale[each]).astype(np.float16), scale


def decode(stored: Array, scale: Array, /) -> Array:
    """Maps (N, C, *s) in float32 from what :func:`encode` returned."""
    decoded: Array = stored.astype(np.float32) * scale[(slice(None), *[None] * (stored.ndim - 1))]
    return decoded


def write_maps(group: h5py.Group, maps: Mapping[MapKey, Array], ids: Sequence[str], /) -> None:
    """Maps (n, C, *s) by method and layer (and target), and the ids of the n cells."""
    write_column(group, "id", pd.Series(list(ids), dtype=object))
    for place, values in sorted(maps.items()):
        inside = group
        for name in place:
            known = escape(name) in inside
            inside = inside[escape(name)] if known else create_group(inside, name)
        _write_map(inside, values)


def map_ids(file: h5py.File, /) -> list[str]:
    """The ids of the cells whose maps a part keeps."""
    return [str(name) for name in read_column(file["maps"], "id").series()]


def map_targets(group: h5py.Group, /) -> list[str]:
    """The targets whose maps a group of :func:`map_group` holds apart; none in a job of one."""
    links = hard_links(group)
    return (
        [] if "map" in links and isinstance(group["map"], h5py.Dataset) else [*map(unescape, links)]
    )


def map_group(file: h5py.File, *place: str) -> h5py.Group | None:
    """The group of a method's maps at a layer (and target), or None where none are kept.

    :raises StoreError: a link leads out of the file.
    """
    group: Any = file
    for link in ("maps", *map(escape, place)):
        if not isinstance(group, h5py.Group) or link not in hard_links(group):
            return None
        group = group[link]
    return group if isinstance(group, h5py.Group) else None


def read_map(group: h5py.Group, rows: Array, /) -> Array:
    """Rows of the maps in a group of :func:`map_group`, decoded (N, C, *s)."""
    hard_links(group)
    stored, scale = group["map"], group["scale"]
    check(stored.id)
    check(scale.id)
    if len(rows) == 0:
        return np.zeros((0, *stored.shape[1:]), np.float32)
    order = np.unique(rows)
    picked = decode(stored[order], scale[order])
    restored: Array = picked[np.searchsorted(order, rows)]
    return restored


def _write_map(group: h5py.Group, maps: Array) -> None:
    """Maps with named axes, as netCDF wants them: one group a layer, because grids differ."""
    stored, scale = encode(maps)
    dataset = write_array(group, "map", stored)
    axes = ("cell", "channel", *_AXES[-(stored.ndim - 2) :])
    for axis, name in enumerate(axes):
        scales = write_array(group, name, np.arange(stored.shape[axis], dtype=np.int32))
        scales.make_scale(name)
        dataset.dims[axis].label = name
        dataset.dims[axis].attach_scale(scales)
    scales = write_array(group, "scale", scale)
    scales.dims[0].attach_scale(group["cell"])
    write_attribute(dataset, "comment", "signed; multiply each cell by its scale")
