"""Crops beside kept maps: what a few cells look like, so that a results folder can show them."""

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

from attrscore.store.columns import (
    check,
    create_group,
    escape,
    hard_links,
    read_attribute,
    read_column,
    unescape,
    write_array,
    write_attribute,
    write_column,
)

__all__ = ["Crops", "chosen_cells", "crops_of", "order_of", "stored_crops", "write_crops"]

Array = np.ndarray[Any, Any]

MOST, LEAST = 60, 6
CROP_BYTES = 32 * 2**20
"""What the crops of a job may take before compression, unless ``LEAST`` cells take more."""
_PERCENTILES = (1.0, 99.8)
_ATTRIBUTES = ("stains", "spacing", "classes")


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


def chosen_cells(ids: Sequence[str], channels: int, size: Sequence[int], /) -> list[int]:
    """Which cells' crops are kept: rows of a dataset, in their order.

    Those whose ids have the smallest hashes, so no score has a say, and every network, method and
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
    span = np.where(high > low, high - low, np.float32(1))
    shown = np.nan_to_num((flat - low[..., None]) / span[..., None]).clip(0, 1)
    drawn = np.rint(255 * shown).astype(np.uint8).reshape(image.shape)
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
        told = getattr(crops, name)
        write_attribute(group, name, json.dumps(None if told is None else list(told)))


def crops_of(file: h5py.File, /) -> Crops | None:
    """The crops that a part keeps, or None.

    :raises StoreError: not to be trusted.
    """
    if "crops" not in hard_links(file):
        return None
    group = file["crops"]
    hard_links(group)
    told = {name: json.loads(str(read_attribute(group, name))) for name in _ATTRIBUTES}
    inside = group["regions"]
    regions = {unescape(link): _array(inside[link]) for link in hard_links(inside)}
    return Crops(
        [str(name) for name in read_column(group, "id").series()],
        _array(group["image"]),
        _array(group["low"]),
        _array(group["high"]),
        regions,
        stains=tuple(told["stains"]),
        spacing=None if told["spacing"] is None else tuple(told["spacing"]),
        classes=tuple(told["classes"]),
    )


def _array(dataset: h5py.Dataset) -> Array:
    check(dataset.id)
    values: Array = dataset[()]
    return values
