"""Whether the hottest voxel lies on the cell."""

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
from attrscore.errors import ConfigError
from attrscore.scorers.hottest import heat_levels, hottest_share
from attrscore.scorers.regions import clear_region, dilated

__all__ = ["PointingGame"]


@SCORERS.register("pointing_game")
@dataclass(frozen=True, kw_only=True)
class PointingGame:
    """Whether the hottest voxel lies on the region, or within ``tolerance`` micrometres of it.

    1 is a hit and 0 a miss; of several hottest voxels, the share that hits. Columns: ``score`` and
    ``chance``, the area fraction of the region and what the tolerance adds. NaN where the region is
    empty or full, also by the tolerance, the heat has no mass, or is not finite. On the resized
    map. Tolerance is in voxels where spacing is unknown.

    Zhang, Bargal, Lin, Brandt, Shen, Sclaroff: Top-Down Neural Attention by Excitation Backprop,
    International Journal of Computer Vision 2018; they allow 15 pixels.
    """

    readings: ClassVar[Declared] = {
        "score": {"better": "higher", "range": (0, 1)},
        "chance": {"range": (0, 1), "chance": None},
    }

    region: str = "cell"
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if not self.tolerance >= 0:
            raise ConfigError(f"tolerance={self.tolerance} must be 0 or more micrometres.")

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """``score`` and ``chance``, (N,) float64."""
        region = clear_region(run, self.region)
        wide = dilated(run, self.region, self.tolerance)
        share = hottest_share(heat_levels(heat), wide, 1)
        undefined = heat.undefined(region) | heat.undefined(wide)
        return Reasoned(
            {"score": share.masked_fill(undefined, torch.nan), "chance": heat.area(wide)},
            {f"the region {self.region!r} fills the crop by the tolerance.": heat.area(wide) >= 1},
        )
