"""Cells of a label image: where they are, and the crop around each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import ndimage

from attrscore.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Normalise", "Objects", "crop", "measure", "normalise", "starts"]

Normalise = Literal["none", "percentile", "max", "standard"]


@dataclass(frozen=True, eq=False)
class Objects:
    """The n objects of one label image, in the order of their numbers."""

    number: NDArray[np.int64]
    """(n,) as in the label image."""
    area: NDArray[np.int64]
    """(n,) pixels."""
    centroid: NDArray[np.float64]
    """(n, axes) pixels."""
    first: NDArray[np.int64]
    """(n, axes) of the bounding box."""
    stop: NDArray[np.int64]
    """(n, axes), one past the bounding box."""
    touches_border: NDArray[np.bool_]
    """(n,) a pixel of it is at the border of the field."""


def measure(labels: NDArray[Any], /) -> Objects:
    """Every object of a label image, in a few passes whatever their number.

    >>> found = measure(np.array([[0, 7, 7], [0, 0, 0], [3, 0, 0]]))
    >>> found.number, found.area, found.touches_border
    (array([3, 7]), array([1, 2]), array([ True,  True]))
    """
    places = np.nonzero(labels)
    # numbers may be sparse and large: made 0 to n - 1 before anything is indexed by them
    number, which, area = np.unique(labels[places], return_inverse=True, return_counts=True)
    centroid = np.stack([np.bincount(which, weights=axis) / area for axis in places], axis=1)
    dense = np.zeros(labels.shape, np.int32)
    dense[places] = which + 1
    boxes = ndimage.find_objects(dense)
    first = np.array([[axis.start for axis in box] for box in boxes], np.int64)
    stop = np.array([[axis.stop for axis in box] for box in boxes], np.int64)
    return Objects(
        number=number.astype(np.int64),
        area=area.astype(np.int64),
        centroid=centroid,
        first=first,
        stop=stop,
        touches_border=((first == 0) | (stop == np.array(labels.shape))).any(axis=1),
    )


def starts(centroid: NDArray[np.float64], size: tuple[int, ...], /) -> NDArray[np.int64]:
    """First pixel of the crop whose pixel ``size // 2`` is nearest to the centroid.

    It is negative where the crop hangs over the border.

    >>> starts(np.array([[10.4, 2.0]]), (8, 8))
    array([[ 6, -2]])
    """
    # not np.rint, which rounds 0.5 down and 1.5 up: crops of equal cells would differ
    nearest: NDArray[np.int64] = np.floor(centroid + 0.5).astype(np.int64)
    nearest -= np.array(size) // 2
    return nearest


def crop(field: NDArray[Any], start: NDArray[np.int64], size: tuple[int, ...], /) -> NDArray[Any]:
    """``size`` pixels from ``start`` along the last axes, with zeros beyond the field.

    >>> crop(np.arange(1, 5), np.array([-1]), (3,))
    array([0, 1, 2])
    """
    shape = field.shape[-len(size) :]
    out: NDArray[Any] = np.zeros((*field.shape[: -len(size)], *size), field.dtype)
    # typed Any: mypy cannot follow an ellipsis before unpacked slices
    source: list[Any] = [...]
    target: list[Any] = [...]
    for begin, extent, limit in zip(start.tolist(), size, shape, strict=True):
        low, high = max(begin, 0), min(begin + extent, limit)
        source.append(slice(low, max(high, low)))
        target.append(slice(low - begin, max(high, low) - begin))
    out[tuple(target)] = field[tuple(source)]
    return out


def normalise(
    pixels: NDArray[Any], rule: Normalise, /, *, percentiles: tuple[float, float], name: str
) -> NDArray[np.float32]:
    """One field (C, *S) as float32, each channel by itself.

    ``percentile`` takes the lower percentile to 0 and the upper to 1 and cuts off what lies beyond;
    ``max`` takes the highest pixel to 1; ``standard`` gives mean 0 and spread 1. A channel without
    contrast becomes 0 under each of them.

    :raises DataError: a pixel is not finite.
    """
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise DataError(
            f"'{name}' holds {int((~np.isfinite(pixels)).sum())} pixels that are NaN or infinite; "
            "expected finite numbers: fill them, or leave the field out."
        )
    out = np.empty(pixels.shape, np.float32)
    for channel, values in enumerate(pixels):
        low, scale = _range(values, rule, percentiles)
        out[channel] = (values.astype(np.float64) - low) / scale
    if rule == "percentile":
        out.clip(0, 1, out=out)
    return out


def _range(
    values: NDArray[Any], rule: Normalise, percentiles: tuple[float, float]
) -> tuple[float, float]:
    """What is subtracted from a channel, and what it is divided by."""
    if rule == "none":
        return 0.0, 1.0
    if rule == "percentile":
        low, high = (float(v) for v in np.percentile(values, percentiles))
        return low, (high - low) or 1.0
    if rule == "max":
        return 0.0, float(values.max()) or 1.0
    return float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64)) or 1.0
