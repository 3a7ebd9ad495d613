"""How large crops are, in pixels and micrometres, and where they lie in their fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from attrscore.datasets.crops import starts
from attrscore.datasets.jitter import JitterUnit, check_jitter, displacements
from attrscore.datasets.sampling import on_grid
from attrscore.errors import ConfigError, choose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["CropUnit", "Geometry", "Resample", "geometry_of"]

CropUnit = Literal["pixel", "micrometre"]
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


def geometry_of(
    crop: tuple[float, ...],
    /,
    *,
    unit: CropUnit,
    resample: Resample,
    spacing: tuple[float, ...] | None,
    jitter: float | tuple[float, ...],
    jitter_unit: JitterUnit,
    jitter_seed: int,
) -> Geometry:
    """Crops as the options say, of a field with this spacing.

    :raises ConfigError: micrometres are asked for and the spacing is not known, or a wrong option.
    """
    choose(unit, ("pixel", "micrometre"), option="crop_unit")
    target = spacing
    if resample is not None:
        target = _target(resample, spacing, len(crop))
    if unit == "micrometre":
        if target is None:
            raise ConfigError(
                "crop_unit=micrometre needs to know how large a pixel is, which the files do not "
                "say; state it with dataset.spacing."
            )
        size = tuple(max(1, round(n / each)) for n, each in zip(crop, target, strict=True))
    else:
        size = tuple(int(n) for n in crop)
    most = check_jitter(jitter, jitter_unit, size=size, spacing=target)
    return Geometry(size, target, resample is not None, most, jitter_seed)


def _target(resample: Any, spacing: tuple[float, ...] | None, dimensions: int) -> tuple[float, ...]:
    if spacing is None:
        raise ConfigError(
            f"resample={resample} needs to know how large a pixel of the fields is, which the "
            "files do not say; state it with dataset.spacing."
        )
    if resample == "isotropic":
        return (min(spacing),) * dimensions
    given = resample if isinstance(resample, tuple) else (resample,) * dimensions
    if len(given) != dimensions or not all(isinstance(n, int | float) and n > 0 for n in given):
        raise ConfigError(
            f"resample={resample!r} must be isotropic, or micrometres a pixel: a positive number, "
            f"or {dimensions} of them, one an axis."
        )
    return tuple(float(n) for n in given)
