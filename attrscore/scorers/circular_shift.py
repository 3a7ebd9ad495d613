"""The null of a map that is shifted around the crop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attrscore.core.contracts import Reasoned
from attrscore.core.heat import Heat
from attrscore.core.passes import Pass
from attrscore.core.readings import Declared
from attrscore.core.registry import SCORERS
from attrscore.scorers.nulls import STANDING, share_of, standing

__all__ = ["CircularShift", "shifted_shares"]


def shifted_shares(heat: Tensor, mask: Tensor, /) -> Tensor:
    """The share of heat on the mask under every circular shift: (*S), (*S) -> (*S) float64.

    The entry at 0 is the share itself; the mean over all is the area fraction of the mask, since
    every voxel is met by the mask equally often.

    >>> shifted_shares(torch.tensor([1.0, 3.0, 0.0, 0.0]), torch.tensor([1.0, 1.0, 0.0, 0.0]))
    tensor([1.0000, 0.7500, 0.0000, 0.2500], dtype=torch.float64)
    """
    heat, mask = heat.double(), mask.double()
    share = torch.fft.rfftn(heat / heat.sum())
    met: Tensor = torch.fft.irfftn(share * torch.fft.rfftn(mask).conj(), s=heat.shape)
    return met.clamp(0, 1)


@SCORERS.register("circular_shift")
@dataclass(frozen=True)
class CircularShift:
    """S among the shares under all circular shifts of the map against the mask.

    Exactly, by Fourier transforms; ``mean`` is the area fraction. Keeps the shape of map and mask
    and loses where they lie. Costs no forward, and two Fourier transforms of the crop.
    """

    readings: ClassVar[Declared] = STANDING

    region: str = "cell"

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """Column -> (N,) float64."""
        share = share_of(heat, run, self.region, "circular_shift")
        region = run.batch.regions[self.region]
        rows = []
        # A map at a time: the null of a map has as many values as the crop has voxels.
        for native, mask, own in zip(heat.native, region, share, strict=True):
            # Resized in float64, as S is summed: else no shift would be its equal.
            full = heat.grid.push(native[None].double())[0]
            rows.append(standing(own[None], shifted_shares(full, mask).flatten()[None]))
        joined, reasons = (
            {key: torch.cat([each[key] for each in some]) for key in some[0]}
            for some in (rows, [row.reasons for row in rows])
        )
        return Reasoned(joined, reasons)
