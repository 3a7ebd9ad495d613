"""What a part keeps beside its table: maps on their own grids, and crops to look at.

Maps are float16 with a float32 scale each, and have named axes. Crops are what a few cells look
like, so that a results folder can show them without the data.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import pandas as pd

from attrscore.errors import StoreError
from attrscore.store.columns import (
    Array,
    column_of,
    create_group,
    escape,
    hard_links,
    read_array,
    read_attribute,
    read_column,
    unescape,
    write_array,
    write_attribute,
    write_column,
)

MapKey = tuple[str, str] | tuple[str, str, str]
"""Method key and layer, and the target in a job that has several."""

_TOP = np.float32(2**15)  # scaled maps reach up to here: float16 ends at 65504 and 6e-8
_SMALLEST = np.float32(1e-45)
_AXES = ("z", "y", "x")

MOST, LEAST = 60, 6
CROP_BYTES = 32 * 2**20
"""What the crops of a job may take before compression, unless ``LEAST`` cells take more."""
_PERCENTILES = (1.0, 99.8)
_ATTRIBUTES = ("stains", "spacing", "classes")


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
    for key, values in sorted(maps.items()):
        inside = group
        for name in key:
            known = escape(name) in inside
            inside = inside[escape(name)] if known else create_group(inside, name)
        _write_map(inside, values)


def map_ids(file: h5py.File, /) -> list[str]:
    """The ids of the cells whose maps a part keeps; none where it keeps no maps.

    :raises StoreError: ids that are no text.
    """
    if "maps" not in hard_links(file):
        return []
    return _ids_in(file["maps"])


def map_targets(group: h5py.Group, /) -> list[str]:
    """The targets whose maps a group of :func:`map_group` holds apart; none in a job of one."""
    links = hard_links(group)
    return (
        [] if "map" in links and isinstance(group["map"], h5py.Dataset) else [*map(unescape, links)]
    )


def map_group(file: h5py.File, *key: str) -> h5py.Group | None:
    """The group of a method's maps at a layer (and target), or None where none are kept.

    :raises StoreError: a link leads out of the file.
    """
    group: Any = file
    for link in ("maps", *map(escape, key)):
        if not isinstance(group, h5py.Group) or link not in hard_links(group):
            return None
        group = group[link]
    return group if isinstance(group, h5py.Group) else None


def read_map(group: h5py.Group, rows: Array, /) -> Array:
    """Rows of the maps in a group of :func:`map_group`, decoded (N, C, *s).

    :raises StoreError: maps or scales of another number, shape or type.
    """
    stored = read_array(group, "map", "f", (4, 5))
    scale = read_array(group, "scale", "f", (1,))
    cells = column_of(group.file["maps"], "id").shape[0]
    if len(stored) != cells or len(scale) != cells:
        raise StoreError(
            f"{group.name} holds {len(stored)} maps and {len(scale)} scales for {cells} cells."
        )
    if len(rows) == 0:
        return np.zeros((0, *stored.shape[1:]), np.float32)
    order = np.unique(rows)
    picked = decode(stored[order], scale[order])
    restored: Array = picked[np.searchsorted(order, rows)]
    return restored


def all_maps(file: h5py.File, /, rows: Array | None = None) -> dict[MapKey, Array]:
    """Every map of a part, decoded; of these rows, or of all cells.

    :raises StoreError: as :func:`read_map`.
    """
    found: dict[MapKey, Array] = {}
    rows = np.arange(len(map_ids(file))) if rows is None else rows
    maps = file["maps"] if "maps" in hard_links(file) else {}
    for method in hard_links(maps) if maps else ():
        if not isinstance(maps[method], h5py.Group):
            continue
        for layer in hard_links(maps[method]):
            group = maps[method][layer]
            if not isinstance(group, h5py.Group):
                raise StoreError(f"{group.name} is no group of maps.")
            key = unescape(method), unescape(layer)
            targets = map_targets(group)
            for target in targets:
                found[(*key, target)] = read_map(group[escape(target)], rows)
            if not targets:
                found[key] = read_map(group, rows)
    return found


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


SIDES = ("clean", "outside", "inside", "cell")
"""A cell as it is, and with its surroundings, its inside, or the whole of it another cell's."""


@dataclass(frozen=True, eq=False)
class Exchanged:
    """Some cells with a part exchanged for one donor's, and what the model says to each."""

    ids: Sequence[str]
    images: Mapping[str, Array]
    """Side -> (n, C, *S) uint8, stretched as the cell's own crop, which is not among them."""
    predicted: Mapping[str, Array]
    """Side -> (n,) int32: number of the class, -1 where there is none."""
    probability: Mapping[str, Array]
    """Side -> (n,) float32: of that class."""


@dataclass(frozen=True, eq=False)
class Crops:
    """Cells to look at: pixels for the eye, not for a computation."""

    ids: Sequence[str]
    image: Array
    """(n, C, *S) uint8: 0 is ``low``, 255 is ``high``."""
    low: Array
    """(n, C) float32, the pixel value at the 1st percentile of the channel."""
    high: Array
    """(n, C) float32, that at the 99.8th."""
    regions: Mapping[str, Array]
    """Name -> (n, *S) bool."""
    stains: tuple[str, ...] = ()
    spacing: tuple[float, ...] | None = None
    """Micrometres a voxel along *S."""
    classes: tuple[str, ...] = ()
    """Names of the labels, in their order."""
    exchanged: Exchanged | None = None
    """Of the first of them, where the swap was run."""


def chosen_cells(ids: Sequence[str], channels: int, size: Sequence[int], /) -> list[int]:
    """Which cells' crops are kept: rows of a dataset, in their order.

    Those whose ids have the smallest hashes, so no score has a say, and every model, method and
    run over the same cells keeps the same ones. At most 60; fewer, but at least 6, where the crops
    would exceed 32 MiB.
    """
    each = (channels + 2) * math.prod(size)
    count = min(MOST, max(LEAST, CROP_BYTES // max(each, 1)))
    hashes = [order_of(str(name)) for name in ids]
    return sorted(sorted(range(len(hashes)), key=hashes.__getitem__)[:count])


def order_of(name: str, /) -> str:
    """A hash of an id: in its order cells are drawn, so that no score has a say."""
    return hashlib.blake2b(name.encode("utf-8", "replace")).hexdigest()


def stretched(image: Array, low: Array, high: Array, /) -> Array:
    """Images (n, C, *S) as uint8: 0 where a channel has ``low``, 255 where ``high``, (n, C)."""
    flat = image.reshape(*image.shape[:2], -1).astype(np.float64)
    flat[~np.isfinite(flat)] = np.nan
    span = np.where(high > low, high - low, np.float32(1))
    shown = np.nan_to_num((flat - low[..., None]) / span[..., None]).clip(0, 1)
    drawn: Array = np.rint(255 * shown).astype(np.uint8).reshape(image.shape)
    return drawn


def stored_crops(
    ids: Sequence[str], image: Array, regions: Mapping[str, Array], /, **known: Any
) -> Crops:
    """Crops of images (n, C, *S) and regions (n, *S), each channel stretched by itself.

    From its 1st to its 99.8th percentile; pixels that are not finite become 0. ``known`` are the
    other fields of :class:`Crops`.
    """
    flat = image.reshape(*image.shape[:2], -1).astype(np.float64)
    flat[~np.isfinite(flat)] = np.nan
    blank = np.isnan(flat).all(-1)
    flat[blank] = 0
    low, high = np.nanpercentile(flat, _PERCENTILES, axis=-1).astype(np.float32)
    drawn = stretched(flat.reshape(image.shape), low, high)
    masks = {name: np.asarray(region) >= 0.5 for name, region in regions.items()}
    return Crops(list(ids), drawn, low, high, masks, **known)


def write_crops(group: h5py.Group, crops: Crops, /) -> None:
    """Crops into a group of a part."""
    write_column(group, "id", pd.Series(list(crops.ids), dtype=object))
    for name in ("image", "low", "high"):
        write_array(group, name, getattr(crops, name))
    inside = create_group(group, "regions")
    for name, region in sorted(crops.regions.items()):
        write_array(inside, escape(name), region)
    for name in _ATTRIBUTES:
        value = getattr(crops, name)
        write_attribute(group, name, json.dumps(None if value is None else list(value)))
    if (found := crops.exchanged) is not None:
        beside = create_group(group, "exchanged")
        write_column(beside, "id", pd.Series(list(found.ids), dtype=object))
        for side in SIDES:
            inside = create_group(beside, side)
            write_array(inside, "predicted", found.predicted[side].astype(np.int32))
            write_array(inside, "probability", found.probability[side].astype(np.float32))
            if side in found.images:
                write_array(inside, "image", found.images[side])


def _exchanged_of(group: h5py.Group) -> Exchanged | None:
    if "exchanged" not in hard_links(group):
        return None
    beside = group["exchanged"]
    ids = _ids_in(beside)
    if not set(SIDES) <= set(hard_links(beside)):
        raise StoreError(f"{beside.name} lacks a side of {', '.join(SIDES)}.")
    images = {side: read_array(beside[side], "image", "u", (4, 5)) for side in SIDES[1:]}
    predicted = {side: read_array(beside[side], "predicted", "i", (1,)) for side in SIDES}
    share = {side: read_array(beside[side], "probability", "f", (1,)) for side in SIDES}
    shape = (len(ids), *group["image"].shape[1:])
    fits = all(each.shape == shape and each.dtype == np.uint8 for each in images.values())
    if not fits or any(len(each) != len(ids) for each in (*predicted.values(), *share.values())):
        raise StoreError(f"The arrays of {beside.name} do not fit each other.")
    return Exchanged(
        ids,
        *({name: each[()] for name, each in found.items()} for found in (images, predicted, share)),
    )


def crops_of(file: h5py.File, /) -> Crops | None:
    """The crops that a part keeps, or None.

    :raises StoreError: not to be trusted, or of other shapes and types than crops have.
    """
    if "crops" not in hard_links(file):
        return None
    group = file["crops"]
    ids = _ids_in(group)
    image = read_array(group, "image", "u", (4, 5))
    low, high = (read_array(group, name, "f", (2,)) for name in ("low", "high"))
    regions = {
        unescape(link): read_array(group["regions"], link, "b", (image.ndim - 1,))
        for link in hard_links(group["regions"])
    }
    channels, space = image.shape[1], image.shape[2:]
    fits = image.dtype == np.uint8 and len(image) == len(ids)
    fits = fits and low.shape == high.shape == (len(ids), channels)
    if not fits or any(each.shape != (len(ids), *space) for each in regions.values()):
        raise StoreError(f"The arrays of {group.name} do not fit each other.")
    known = {name: json.loads(str(read_attribute(group, name))) for name in _ATTRIBUTES}
    stains, spacing, classes = (known[name] for name in _ATTRIBUTES)
    if not _are_texts(stains, channels) or not _are_texts(classes):
        raise StoreError(f"The stains or classes of {group.name} are no lists of text.")
    if spacing is not None and not _are_sizes(spacing, len(space)):
        raise StoreError(f"The spacing of {group.name} is not a size for each of its axes.")
    return Crops(
        ids,
        image[()],
        low[()].astype(np.float32),
        high[()].astype(np.float32),
        {name: each[()] for name, each in regions.items()},
        stains=tuple(stains),
        spacing=None if spacing is None else tuple(spacing),
        classes=tuple(classes),
        exchanged=_exchanged_of(group),
    )


def _ids_in(group: Any) -> list[str]:
    if not isinstance(group, h5py.Group) or "id" not in hard_links(group):
        raise StoreError(f"{group.name} holds no ids.")
    ids = read_column(column_of(group, "id"))
    if pd.api.types.is_numeric_dtype(ids) or ids.isna().any():
        raise StoreError(f"The ids in {group.name} are no text.")
    return [str(name) for name in ids]


def _are_texts(value: Any, count: int | None = None) -> bool:
    """A list of text; of none or ``count`` entries."""
    of_text = isinstance(value, list) and all(isinstance(each, str) for each in value)
    return of_text and (count is None or len(value) in (0, count))


def _are_sizes(value: Any, count: int) -> bool:
    numbers = isinstance(value, list) and all(
        isinstance(each, int | float) and not isinstance(each, bool) for each in value
    )
    return numbers and len(value) == count and all(0 < each < math.inf for each in value)
