"""The share of the k hottest voxels on the cell."""

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
from attrscore.errors import ConfigError, DataError
from attrscore.scorers.hottest import heat_levels, hottest_share
from attrscore.scorers.regions import clear_region

__all__ = ["TopK"]


@SCORERS.register("top_k", aliases=("top_k_intersection",))
@dataclass(frozen=True, kw_only=True)
class TopK:
    """The share of the ``k`` hottest voxels that lies on the region.

    ``k`` below 1 is a fraction of the crop, from 1 on a number of voxels. Within [0, 1], 1 best.
    Columns: ``score``; ``chance``, the area fraction; ``highest``, what a region of this size can
    reach. NaN where the region is empty or full, the heat has no mass, or is not finite. On the
    resized map.

    Theiner, Müller-Budack, Ewerth: Interpretable Semantic Photo Geolocation, WACV 2022.

    :raises DataError: more voxels asked for than a crop has.
    """

    readings: ClassVar[Declared] = {
        "score": {"better": "higher", "range": (0, 1)},
        "chance": {"range": (0, 1), "chance": None},
        "highest": {"range": (0, 1), "chance": None},
    }

    region: str = "cell"
    k: float = 0.05

    def __post_init__(self) -> None:
        if not self.k > 0 or (self.k >= 1 and self.k != int(self.k)):
            raise ConfigError(
                f"k={self.k} must be a fraction of the crop below 1, or a whole number of voxels."
            )

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """``score``, ``chance`` and ``highest``, (N,) float64."""
        region = clear_region(run, self.region)
        size = region[0].numel()
        if self.k > size:
            raise DataError(f"k={self.k:g} voxels are more than the {size} of a crop.")
        count = int(self.k) if self.k >= 1 else max(1, round(self.k * size))
        undefined = heat.undefined(region)
        share = hottest_share(heat_levels(heat), region, count)
        highest = (region.flatten(1).sum(1).double() / count).clamp(max=1)
        return {
            "score": share.masked_fill(undefined, torch.nan),
            "chance": heat.area(region),
            "highest": highest,
        }
