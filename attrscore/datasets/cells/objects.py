"""The objects of a label image: how many there are, where they lie, and what is odd about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["Objects", "areas_within", "measure"]

_AT_ONCE = 2**22
"""Pixels of a label image whose coordinates are in memory at once."""


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
    pieces: NDArray[np.int64]
    """(n,) connected pieces; pixels that meet at a corner are connected."""
    touches_border: NDArray[np.bool_]
    """(n,) a pixel of it is at the border of the field."""

    def tiny(self, share: float, /) -> NDArray[np.bool_]:
        """(n,) smaller than this share of the median object."""
        small: NDArray[np.bool_] = self.area < share * np.median(self.area)
        return small


def measure(labels: NDArray[Any], /) -> Objects:
    """Every object of a label image that has at least one, a slab of the image at a time.

    >>> found = measure(np.array([[0, 7, 7], [0, 0, 0], [3, 0, 3]]))
    >>> found.number, found.area, found.pieces, found.touches_border
    (array([3, 7]), array([2, 2]), array([2, 1]), array([ True,  True]))
    """
    # numbers may be sparse and large: made 0 to n - 1 before anything is indexed by them
    number = _numbers(labels)
    area = np.zeros(len(number), np.int64)
    total = np.zeros((len(number), labels.ndim))
    first = np.full((len(number), labels.ndim), np.iinfo(np.int64).max)
    stop = np.zeros((len(number), labels.ndim), np.int64)
    for begin, slab in _slabs(labels):
        coordinates = np.nonzero(slab)
        which = np.searchsorted(number, slab[coordinates])
        area += np.bincount(which, minlength=len(number))
        for axis, along in enumerate(coordinates):
            at = along + begin if axis == 0 else along
            total[:, axis] += np.bincount(which, weights=at, minlength=len(number))
            np.minimum.at(first[:, axis], which, at)
            np.maximum.at(stop[:, axis], which, at + 1)
    return Objects(
        number=number.astype(np.int64),
        area=area,
        centroid=total / area[:, None],
        first=first,
        stop=stop,
        pieces=_pieces(labels, number, area, first, stop),
        touches_border=((first == 0) | (stop == np.array(labels.shape))).any(axis=1),
    )


def areas_within(
    numbers: NDArray[np.int64], labels: NDArray[Any], inner: NDArray[Any], /
) -> NDArray[np.int64]:
    """How many pixels of each object of ``labels`` have its number in ``inner`` too, (n,)."""
    found, counts = np.unique(labels[(labels == inner) & (labels > 0)], return_counts=True)
    areas: NDArray[np.int64] = np.zeros(len(numbers), np.int64)
    areas[np.searchsorted(numbers, found)] = counts
    return areas


def _slabs(labels: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Pieces of the image along its first axis, each with the index where it begins."""
    thick = max(1, _AT_ONCE // max(1, labels[:1].size))
    for begin in range(0, len(labels), thick):
        yield begin, labels[begin : begin + thick]


def _numbers(labels: NDArray[Any]) -> NDArray[Any]:
    # background first: most pixels are, and the rest is sorted
    each = [np.unique(slab[slab > 0]) for _, slab in _slabs(labels)]
    return np.unique(np.concatenate(each))


def _pieces(
    labels: NDArray[Any],
    number: NDArray[Any],
    area: NDArray[np.int64],
    first: NDArray[np.int64],
    stop: NDArray[np.int64],
) -> NDArray[np.int64]:
    corners = np.ones((3,) * labels.ndim, bool)
    pieces = np.ones(len(number), np.int64)
    for row in np.flatnonzero(area < (stop - first).prod(axis=1)):  # the others fill their box
        box = tuple(slice(*ends) for ends in zip(first[row], stop[row], strict=True))
        pieces[row] = ndimage.label(labels[box] == number[row], corners)[1]
    return pieces
