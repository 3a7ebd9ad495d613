"""The null of other cells' masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attrscore.core.grids import area_fraction
from attrscore.core.heat import Heat
from attrscore.core.passes import Pass
from attrscore.core.readings import Declared
from attrscore.core.registry import SCORERS
from attrscore.errors import DataError, choose, did_you_mean
from attrscore.scorers.nulls import STANDING, share_of, standing

__all__ = ["MaskSwap"]


@SCORERS.register("mask_swap")
@dataclass(frozen=True)
class MaskSwap:
    """S among the shares of the same map on the masks of other cells.

    What centred crops alone give. The masks are those of the pool but the cell's own, by its id.
    ``of="lift"`` compares S over the area fraction of the mask, for a larger cell has a larger
    share wherever the network looks; ``mean`` and ``sd`` are then of that. Costs no forward.
    """

    readings: ClassVar[Declared] = STANDING

    region: str = "cell"
    of: Literal["share", "lift"] = "share"
    needs_pool: ClassVar[bool] = True

    def __post_init__(self) -> None:
        choose(self.of, ("share", "lift"), option="of")

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """Column -> (N,) float64."""
        share = share_of(heat, run, self.region, "mask_swap")
        pool = run.need_pool()
        if self.region not in pool.regions:
            raise DataError(
                f"The pool has no region {self.region!r}. {did_you_mean(self.region, pool.regions)}"
            )
        masks = pool.regions[self.region]
        pulled = heat.grid.pull(masks).double().flatten(1)
        null = heat.native.double().flatten(1) @ pulled.T / heat.mass()[:, None]
        area = area_fraction(masks)
        own = torch.tensor(
            [[cell == other for other in pool.ids] for cell in run.batch.ids], device=null.device
        )
        null = null.masked_fill(own | (area == 0) | (area == 1), torch.nan)
        if self.of == "lift":
            share, null = share / heat.area(run.batch.regions[self.region]), null / area
        return standing(share, null)
