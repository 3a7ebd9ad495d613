"""The crop around a cell: where it begins, and its pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["crop", "starts"]


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
