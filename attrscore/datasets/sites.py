"""Which pixels belong to cells of which only the places are known, or outlines that are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from attrscore.datasets.images import Image

__all__ = ["Discs", "Outlined", "number_at"]

Window = tuple[slice, ...]

_AROUND = 5
"""Pixels around a place in which its object is looked for, as DeepProfiler does."""


@dataclass(frozen=True, eq=False)
class Discs:
    """A disc around each of n places (Y, X), numbered from 1; where two meet, the nearer has it."""

    places: NDArray[np.float64]
    radius: float
    shape: tuple[int, ...]

    def read(self, window: Window | None = None, /) -> NDArray[np.int32]:
        """A window, or all."""
        return self._whole if window is None else self._whole[window]

    @cached_property
    def _whole(self) -> NDArray[np.int32]:
        numbers = np.zeros(self.shape, np.int32)
        pixels = np.floor(self.places + 0.5).astype(int).clip(0, np.array(self.shape) - 1)
        # backwards: of places in one pixel the first has it, and the others no pixel at all
        numbers[tuple(pixels[::-1].T)] = np.arange(len(pixels))[::-1] + 1
        away, nearest = ndimage.distance_transform_edt(numbers == 0, return_indices=True)
        discs: NDArray[np.int32] = np.where(away <= self.radius, numbers[tuple(nearest)], 0)
        return discs


@dataclass(frozen=True, eq=False)
class Outlined:
    """A label image, or one of drawn outlines, whose closed insides are numbered.

    It is taken for outlines where it holds one value beside 0. The largest piece without a line is
    what lies around the cells.
    """

    image: Image

    def read(self, window: Window | None = None, /) -> NDArray[Any]:
        """A window, or all.

        :raises DataError: damaged.
        """
        return self._whole if window is None else self._whole[window]

    @cached_property
    def _whole(self) -> NDArray[Any]:
        drawn: NDArray[Any] = self.image.read()[0]
        values = np.unique(drawn)
        if len(values) > 2 or values[0] != 0:
            return drawn.astype(np.int64)
        numbers, count = ndimage.label(drawn == 0)  # not across corners: a thin line would leak
        if not count:
            return np.zeros(drawn.shape, np.int32)
        numbers[numbers == np.bincount(numbers.ravel())[1:].argmax() + 1] = 0
        found: NDArray[np.int32] = numbers
        return found


def number_at(labels: NDArray[Any], place: tuple[float, float], /) -> int:
    """The object at a place (Y, X), or the most frequent one close by; 0 where there is none.

    DeepProfiler takes the median of these pixels, which between objects 3 and 9 is 6.
    """
    y, x = (int(np.floor(each + 0.5)) for each in place)
    if not (0 <= y < labels.shape[0] and 0 <= x < labels.shape[1]):
        return 0
    if labels[y, x]:
        return int(labels[y, x])
    near = labels[max(y - _AROUND, 0) : y + _AROUND, max(x - _AROUND, 0) : x + _AROUND]
    numbers, counts = np.unique(near[near > 0], return_counts=True)
    return int(numbers[counts.argmax()]) if len(numbers) else 0
