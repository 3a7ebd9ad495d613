"""What a crop of label images shows: the cell, its nucleus, its edge, and other cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from scipy import ndimage

from attrscore.errors import ConfigError, choose

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Boundary", "Side", "regions_of", "ring"]

Side = Literal["both", "inside", "outside"]

_ROUNDING = 1e-9
"""Three voxels of 0.65 are 1.9500000000000002 away: still within 1.95."""


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """A ring around the edge of a cell: how far it reaches, and to which side."""

    width: float
    """Micrometres."""
    side: Side = "both"

    def __post_init__(self) -> None:
        choose(self.side, get_args(Side), option="boundary_side")
        if not self.width > 0:
            raise ConfigError(
                f"boundary={self.width} must be a positive number of micrometres, or null for no "
                "such region."
            )

    def reach(self, spacing: tuple[float, ...], /) -> tuple[int, ...]:
        """Pixels beyond a crop along each axis that decide about pixels in it."""
        # one more: the nearest pixel on the other side of an edge
        return tuple(int(self.width / each) + 1 for each in spacing)


def ring(
    cell: NDArray[np.bool_],
    other: NDArray[np.bool_],
    /,
    *,
    width: float,
    spacing: tuple[float, ...],
    side: Side = "both",
) -> NDArray[np.bool_]:
    """Pixels of *S at most ``width`` from the nearest one on the other side of the cell's edge.

    From centre to centre, in the unit of ``spacing``. The border of the array is no edge, nor is
    that of pixels which are neither ``cell`` nor ``other``.

    >>> cell = np.array([0, 1, 1, 1, 1, 1, 0, 0, 0, 0], bool)
    >>> other = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1], bool)  # it begins beyond the field
    >>> ring(cell, other, width=1.0, spacing=(0.5,)).astype(int)
    array([0, 0, 0, 0, 1, 1, 1, 1, 0, 0])
    >>> ring(cell, other, width=1.0, spacing=(0.5,), side="inside").astype(int)
    array([0, 0, 0, 0, 1, 1, 0, 0, 0, 0])
    """
    near: NDArray[np.bool_] = np.zeros(cell.shape, bool)
    if not cell.any() or not other.any():
        return near
    axes = range(cell.ndim)
    ends = [np.flatnonzero(cell.any(tuple(a for a in axes if a != axis))) for axis in axes]
    steps = [int(min(width / step, max(cell.shape))) + 1 for step in spacing]
    # no pixel of the ring, nor the nearest one on its other side, is further from the cell
    box = tuple(
        slice(max(each[0] - reach, 0), each[-1] + reach + 1)
        for each, reach in zip(ends, steps, strict=True)
    )
    most = width * (1 + _ROUNDING)
    cell, other = cell[box], other[box]
    if side != "outside" and other.any():
        near[box] |= cell & (ndimage.distance_transform_edt(~other, sampling=spacing) <= most)
    if side != "inside":
        near[box] |= other & (ndimage.distance_transform_edt(~cell, sampling=spacing) <= most)
    return near


def regions_of(
    labels: NDArray[Any],
    number: int,
    /,
    *,
    nuclei: NDArray[Any] | None,
    boundary: Boundary | None,
    spacing: tuple[float, ...] | None,
    margin: tuple[int, ...],
    out: Mapping[str, NDArray[np.bool_]],
) -> None:
    """Regions of one cell, from label images that reach ``margin`` pixels further.

    Into ``out``, *S each: ``cell``, and ``neighbours``, which are the other numbers; with
    ``nuclei`` also ``nucleus``, the cell's number there as far as it lies in the cell, and
    ``cytoplasm``, the rest of the cell; with ``boundary`` the ring around the cell's edge, which
    reaches into cell and neighbours.
    """
    inner = tuple(slice(by, extent - by) for by, extent in zip(margin, labels.shape, strict=True))
    cell = np.equal(labels[inner], number, out=out["cell"])
    others = np.greater(labels[inner], 0, out=out["neighbours"])
    np.greater(others, cell, out=others)
    if nuclei is not None:
        nucleus = np.equal(nuclei[inner], number, out=out["nucleus"])
        nucleus &= cell
        np.greater(cell, nucleus, out=out["cytoplasm"])
    if boundary is not None and spacing is not None:
        here = labels == number
        other = (labels >= 0) & ~here  # beyond the field, labels are negative
        near = ring(here, other, width=boundary.width, spacing=spacing, side=boundary.side)
        out["boundary"][...] = near[inner]
