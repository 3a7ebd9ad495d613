"""The share of the hottest voxels on the cell, as many as the cell has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attrscore.core.heat import Heat
from attrscore.core.passes import Pass
from attrscore.core.readings import Declared
from attrscore.core.registry import SCORERS
from attrscore.scorers.hottest import heat_levels, hottest_share
from attrscore.scorers.regions import clear_region

__all__ = ["RelevanceRank"]


@SCORERS.register("relevance_rank", aliases=("relevance_rank_accuracy",))
@dataclass(frozen=True, kw_only=True)
class RelevanceRank:
    """The share of the K hottest voxels that lies on the region, where K is the region's size.

    Within [0, 1], 1 best. Columns: ``score`` and ``chance``, the area fraction. NaN where the
    region is empty or full, the heat has no mass, or is not finite. On the resized map.

    Arras, Osman, Samek: CLEVR-XAI: A Benchmark Dataset for the Ground Truth Evaluation of Neural
    Network Explanations, Information Fusion 2022.
    """

    readings: ClassVar[Declared] = {
        "score": {"better": "higher", "range": (0, 1)},
        "chance": {"range": (0, 1), "chance": None},
    }

    region: str = "cell"

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """``score`` and ``chance``, (N,) float64."""
        region = clear_region(run, self.region)
        share = hottest_share(heat_levels(heat), region, region.flatten(1).sum(1))
        return {
            "score": share.masked_fill(heat.undefined(region), torch.nan),
            "chance": heat.area(region),
        }
