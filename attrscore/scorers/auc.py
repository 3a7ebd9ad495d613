"""ROC-AUC of the map against the mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attrscore.core.heat import Heat
from attrscore.core.passes import Pass
from attrscore.core.readings import Declared
from attrscore.core.registry import SCORERS
from attrscore.scorers.ranks import roc_auc
from attrscore.scorers.regions import find_region

__all__ = ["AUC"]


@SCORERS.register("auc")
@dataclass(frozen=True, kw_only=True)
class AUC:
    """The chance that a voxel on the region is hotter than one off it, ties counted half.

    Within [0, 1], 1 best, 0.5 by chance whatever the area. NaN where the region is empty or full,
    the heat has no mass, or is not finite. On the resized map; computed once where ``grad_camo``
    runs beside it. Fawcett: An introduction to ROC analysis, Pattern Recognition Letters 2006.
    """

    readings: ClassVar[Declared] = {"score": {"better": "higher", "range": (0, 1), "chance": 0.5}}

    region: str = "cell"

    def __call__(self, heat: Heat, run: Pass, /) -> Tensor:
        """(N,) float64."""
        region = find_region(run, self.region)
        values = heat.once(("auc", self.region), lambda: roc_auc(heat.full(), region))
        return values.masked_fill(heat.undefined(region), torch.nan)
