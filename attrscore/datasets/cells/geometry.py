"""How large crops are, in pixels and micrometres, and where they begin in their fields."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from attrscore.errors import ConfigError, choose

Centre = Literal["cell", "nucleus"]
CropUnit = Literal["pixel", "micrometre"]
JitterUnit = Literal["pixel", "micrometre"]
Resample = float | tuple[float, ...] | Literal["isotropic"] | None

_SAME = 1e-6
"""Voxel sizes that differ by less, relatively, are one."""


@dataclass(frozen=True)
class Geometry:
    """Crops of one size on one grid, whatever field they are cut from."""

    size: tuple[int, ...]
    """*S, in pixels of the crops."""
    spacing: tuple[float, ...] | None
    """Micrometres a pixel of the crops."""
    resampled: bool
    """Whether fields have pixels of other sizes than crops."""
    most: tuple[int, ...]
    """Pixels along each axis that a crop may be moved off its cell."""
    seed: int

    def ratio(self, spacing: tuple[float, ...] | None, /) -> tuple[float, ...]:
        """How many pixels of a field with this spacing a pixel of its crops spans."""
        if not self.resampled or self.spacing is None or spacing is None:
            return (1.0,) * len(self.size)
        ratios = [mine / its for mine, its in zip(self.spacing, spacing, strict=True)]
        return tuple(1.0 if abs(ratio - 1) < _SAME else ratio for ratio in ratios)

    def moved(self, ids: Sequence[str], /) -> NDArray[np.int64]:
        """How far the crops of these cells are moved, (n, axes) pixels of the crops."""
        return displacements(ids, self.most, seed=self.seed)

    def first(
        self, ids: Sequence[str], centroid: NDArray[np.float64], ratio: NDArray[np.float64], /
    ) -> NDArray[np.int64]:
        """The first pixel of each crop (n, axes), on the grid of the crops.

        ``centroid`` is in pixels of the field, and ``ratio`` as of :meth:`ratio`, of each axis or
        also of each crop. Outside the field where a crop hangs over.
        """
        return starts(on_grid(centroid, ratio), self.size) + self.moved(ids)

    def fits(self, other: Geometry, /) -> bool:
        """Whether crops of both can share a batch."""
        mine, its = self.spacing, other.spacing
        return self.size == other.size and (
            mine == its or (mine is not None and its is not None and np.allclose(mine, its, _SAME))
        )


def spacing_of(
    resample: Resample, spacing: tuple[float, ...] | None, dimensions: int, /
) -> tuple[float, ...] | None:
    """Micrometres a pixel of crops, from fields with this spacing.

    :raises ConfigError: the option is wrong, or needs to know the spacing of the fields.
    """
    if resample is None:
        return spacing
    if spacing is None:
        raise ConfigError(
            f"resample={resample} needs to know how large a pixel of the fields is, which the "
            "files do not say; state it with dataset.spacing."
        )
    if resample == "isotropic":
        return (min(spacing),) * dimensions
    given: Any = resample if isinstance(resample, tuple) else (resample,) * dimensions
    if len(given) != dimensions or not all(isinstance(n, int | float) and n > 0 for n in given):
        raise ConfigError(
            f"resample={resample!r} must be isotropic, or micrometres a pixel: a positive number, "
            f"or {dimensions} of them, one an axis."
        )
    return tuple(float(n) for n in given)


def on_grid(points: NDArray[Any], ratio: NDArray[np.float64], /) -> NDArray[np.float64]:
    """Points (n, axes) in pixels of a field, in pixels that are ``ratio`` times as large.

    Both grids begin at the same edge: pixel 0 reaches from -0.5 to 0.5.

    >>> on_grid(np.array([[0.0], [0.5], [2.5]]), np.array([2.0])).ravel()
    array([-0.25,  0.  ,  1.  ])
    """
    # not through the edge where nothing changes: rounding there would move a crop by a pixel
    found: NDArray[np.float64] = np.where(ratio == 1, points, (points + 0.5) / ratio - 0.5)
    return found


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


def check_jitter(
    jitter: float | Sequence[float],
    unit: str,
    /,
    *,
    size: tuple[int, ...],
    spacing: tuple[float, ...] | None,
) -> tuple[int, ...]:
    """The most pixels along each axis that a crop is moved, from one number or one an axis.

    >>> check_jitter(2.0, "micrometre", size=(16, 64, 64), spacing=(1.0, 0.5, 0.5))
    (2, 4, 4)

    :raises ConfigError: not that many numbers, below 0, so far that the middle of the cell may
        leave the crop, or micrometres of an unknown spacing.
    """
    choose(unit, ("pixel", "micrometre"), option="jitter_unit")
    given: Any = jitter
    most = [*given] if hasattr(given, "__iter__") else [given] * len(size)
    if len(most) != len(size) or not all(isinstance(n, int | float) and n >= 0 for n in most):
        raise ConfigError(
            f"jitter={jitter} must be a number of at least 0, or {len(size)} of them, one an axis."
        )
    if unit == "micrometre" and any(most):
        if spacing is None:
            raise ConfigError("jitter_unit=micrometre needs the spacing of the pixels.")
        most = [n / each for n, each in zip(most, spacing, strict=True)]
    pixels = tuple(math.floor(n) for n in most)
    if any(n and n >= extent // 2 for n, extent in zip(pixels, size, strict=True)):
        raise ConfigError(
            f"jitter={jitter} moves a crop of {list(size)} by up to {list(pixels)} pixels, off the "
            "middle of its cell; expected less than half the crop along each axis."
        )
    return pixels


def jitter_columns(moved: NDArray[np.int64], /) -> dict[str, NDArray[np.int64]]:
    """How far crops (n, axes) are moved, as columns of a table."""
    axes = "zyx"[-moved.shape[1] :]
    return {f"Metadata_jitter_{axis}": moved[:, number] for number, axis in enumerate(axes)}


def displacements(ids: Sequence[str], most: tuple[int, ...], /, *, seed: int) -> NDArray[np.int64]:
    """How far each crop is moved, (n, axes) pixels within -most and most, by its id alone."""
    moved = np.zeros((len(ids), len(most)), np.int64)
    if any(most):
        for row, cell in enumerate(ids):
            digest = hashlib.blake2b(f"{seed}/jitter/{cell}".encode(), digest_size=8).digest()
            generator = np.random.default_rng(int.from_bytes(digest, "big"))
            moved[row] = generator.integers(np.negative(most), most, endpoint=True)
    return moved
