"""What a crop of label images shows: the cell, its nucleus, its edge, and other cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from attrscore.core.regions import Side, ring, signed_distance
from attrscore.errors import ConfigError, choose

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Boundary", "regions_of"]


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
        beyond = labels < 0  # the field: its border is no edge of the cell
        distance = signed_distance(
            labels == number, spacing=spacing, reach=boundary.width, beyond=beyond
        )
        near = ring(distance, boundary.width, side=boundary.side) & ~beyond
        out["boundary"][...] = near[inner]
