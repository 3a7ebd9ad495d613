"""Windows of a field: pixel for pixel, or on another grid of pixels."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["on_grid", "overlap", "resampled", "window_of"]

Window = tuple[slice, ...]
"""Of *S: whole numbers within the field, none negative."""


def on_grid(points: NDArray[Any], ratio: NDArray[np.float64], /) -> NDArray[np.float64]:
    """Places (n, axes) in pixels of a field, in pixels that are ``ratio`` times as large.

    Both grids begin at the same edge: pixel 0 reaches from -0.5 to 0.5.

    >>> on_grid(np.array([[0.0], [0.5], [2.5]]), np.array([2.0])).ravel()
    array([-0.25,  0.  ,  1.  ])
    """
    # not through the edge where nothing changes: rounding there would move a crop by a pixel
    placed: NDArray[np.float64] = np.where(ratio == 1, points, (points + 0.5) / ratio - 0.5)
    return placed


def overlap(
    start: NDArray[np.int64], size: tuple[int, ...], shape: tuple[int, ...], /
) -> tuple[Window, Window]:
    """Where ``size`` pixels from ``start`` meet a field: there, and in the crop."""
    return _overlap(tuple(start.tolist()), size, shape)


@lru_cache(maxsize=8)  # pixels and labels of a crop ask alike
def _overlap(
    start: tuple[int, ...], size: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[Window, Window]:
    source: list[slice] = []
    target: list[slice] = []
    for begin, extent, limit in zip(start, size, shape, strict=True):
        low, high = max(begin, 0), min(begin + extent, limit)
        high = max(high, low)
        if low >= limit or high <= 0:  # beside the field
            low = high = begin = 0
        source.append(slice(low, high))
        target.append(slice(low - begin, high - begin))
    return tuple(source), tuple(target)


def window_of(
    start: NDArray[np.int64],
    size: tuple[int, ...],
    ratio: tuple[float, ...],
    shape: tuple[int, ...],
    /,
) -> Window:
    """Pixels of a field that ``size`` pixels from ``start``, ``ratio`` times as large, depend on.

    >>> window_of(np.array([10, -1]), (4, 4), (1.0, 2.0), (100, 100))
    (slice(10, 14, None), slice(0, 8, None))
    """
    first, extents = [], []
    for begin, extent, each in zip(start.tolist(), size, ratio, strict=True):
        reach = 0.0 if each == 1 else max(each, 1.0)
        low = np.floor((begin + 0.5) * each - 0.5 - reach)
        high = np.ceil((begin + extent - 0.5) * each - 0.5 + reach)
        first.append(int(low))
        extents.append(int(high - low) + 1)
    return overlap(np.array(first), tuple(extents), shape)[0]


def resampled(
    read: Callable[[Window], NDArray[Any]],
    start: NDArray[np.int64],
    size: tuple[int, ...],
    ratio: tuple[float, ...],
    shape: tuple[int, ...],
    /,
    *,
    nearest: int | None = None,
) -> NDArray[Any]:
    """``size`` pixels from ``start`` of a field of ``shape``, each ``ratio`` of its pixels wide.

    ``read`` gives a window (..., *S) of the field. Linear between the field's pixels; where crop
    pixels are larger, a mean under a triangle as wide as two of them, so that nothing is skipped.
    Zeros beyond the field. With ``nearest``, for label images: the field's pixel in which each
    crop pixel's centre lies, and that number beyond the field.

    A crop of the resampled field and the resampled crop are the same.
    """
    if all(each == 1 for each in ratio):
        source, target = overlap(start, size, shape)
        values = read(source)
        if values.shape[-len(size) :] == size:
            return values
        dtype = values.dtype if nearest is None else _holding(nearest, values.dtype)
        out: NDArray[Any] = np.full((*values.shape[: -len(size)], *size), nearest or 0, dtype)
        within: tuple[Any, ...] = (..., *target)
        out[within] = values
        return out
    window = window_of(start, size, ratio, shape)
    values = read(window)
    lead = values.ndim - len(size)
    for axis, (begin, extent, each) in enumerate(zip(start.tolist(), size, ratio, strict=True)):
        # the middle of every crop pixel, in pixels of the field
        middle = (begin + np.arange(extent) + 0.5) * each - 0.5
        inside = (middle >= -0.5) & (middle < shape[axis] - 0.5)
        ends = window[axis]
        if nearest is not None:
            index = np.floor(middle + 0.5).astype(int) - ends.start
            dtype = _holding(nearest, values.dtype)
            filled = np.full(_with(values.shape, lead + axis, extent), nearest, dtype)
            at: Any = [slice(None)] * values.ndim
            at[lead + axis] = inside
            filled[tuple(at)] = np.take(values, index[inside], lead + axis)
            values = filled
            continue
        places = np.arange(ends.start, ends.stop)
        weights = 1 - np.abs(places - middle[:, None]) / max(each, 1.0)
        weights = weights.clip(0) * inside[:, None]
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(float).tiny)
        moved = np.tensordot(weights.astype(np.float32), values, axes=(1, lead + axis))
        values = np.moveaxis(moved, 0, lead + axis)
    return np.ascontiguousarray(values)


def _holding(number: int, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A type for ``dtype`` and this number too, which may be negative."""
    return np.result_type(dtype, np.min_scalar_type(number))


def _with(shape: tuple[int, ...], axis: int, extent: int) -> tuple[int, ...]:
    return (*shape[:axis], extent, *shape[axis + 1 :])
