"""Where the hottest places lie: the pointing game, relevance rank accuracy, and the top k.

All three are one question, what share of the k hottest voxels lies on the mask, with k = 1, the
size of the mask, or a number of one's choice. Voxels that are equally hot share the places that are
left among the k: no order of voxels decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attrscore.core import Reasoned
from attrscore.errors import ConfigError, DataError
from attrscore.heat import Heat
from attrscore.passes import Pass
from attrscore.readings import Declared
from attrscore.registry import SCORERS
from attrscore.scorers.grad_camo import LEVELS
from attrscore.scorers.regions import clear_region, dilated

__all__ = ["PointingGame", "RelevanceRank", "TopK", "heat_levels", "hottest_share"]


def hottest_share(heat: Tensor, mask: Tensor, k: Tensor | int, /) -> Tensor:
    """The share of the ``k`` hottest voxels that lies on the mask.

    Non-negative (N, *S), mask (N, *S) bool, and k a number or (N,) -> (N,) float64 within [0, 1].
    Of the voxels as hot as the k-th, those on the mask count by their share. NaN where the heat
    is 0 everywhere or not finite, or the mask is empty or full. Chance is the area fraction.

    >>> heat = torch.tensor([[3.0, 3.0, 1.0, 0.0]])
    >>> mask = torch.tensor([[True, False, False, False]])
    >>> hottest_share(heat, mask, 1), hottest_share(heat, mask, 3)
    (tensor([0.5000], dtype=torch.float64), tensor([0.3333], dtype=torch.float64))
    """
    values, on = heat.flatten(1), mask.flatten(1)
    size = values.shape[1]
    count = torch.as_tensor(k, device=values.device).expand(len(values)).clamp(1, size)
    edge = torch.stack(
        [each.kthvalue(size + 1 - n).values for each, n in zip(values, count.tolist(), strict=True)]
    )[:, None]
    above, level = values > edge, values == edge
    left = count - above.sum(1)
    hits = (above & on).sum(1) + left * (level & on).sum(1).double() / level.sum(1)
    known = values.isfinite().all(1) & (values.amax(1) > 0) & on.any(1) & ~on.all(1)
    return torch.where(known, hits / count, torch.nan)


def heat_levels(heat: Heat, /) -> Tensor:
    """The resized heat in whole steps of a millionth of its hottest voxel, (N, *S) int32.

    Resizing rounds, and what differs by less is a tie, as for ``roc_auc``. 0 where the heat has no
    mass or is not finite. Computed once for each heat.
    """
    return heat.once(heat_levels, lambda: _levels(heat.full()))


def _levels(full: Tensor) -> Tensor:
    hottest = full.flatten(1).amax(1).view(-1, *[1] * (full.ndim - 1))
    scaled = torch.where((hottest > 0) & hottest.isfinite(), full / hottest, 0)
    return scaled.mul_(LEVELS).round_().int()


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
        hottest = (heat_levels(heat) == LEVELS).flatten(1)
        share = (hottest & wide.flatten(1)).sum(1).double() / hottest.sum(1)
        undefined = heat.undefined(region) | heat.undefined(wide)
        return Reasoned(
            {"score": share.masked_fill(undefined, torch.nan), "chance": heat.area(wide)},
            {f"the region {self.region!r} fills the crop by the tolerance.": heat.area(wide) >= 1},
        )


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
