"""Crops moved off their cells: what a network learnt from the middle of a crop goes wrong there."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from attrscore.errors import ConfigError, choose

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["JitterUnit", "check_jitter", "displacements", "jitter_columns"]

JitterUnit = Literal["pixel", "micrometre"]


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
