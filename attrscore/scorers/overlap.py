"""How well the thresholded map covers the mask: IoU and Dice, at a stated threshold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attrscore.core import Reasoned
from attrscore.errors import ConfigError, choose
from attrscore.heat import Heat
from attrscore.passes import Pass
from attrscore.readings import Declared
from attrscore.registry import SCORERS
from attrscore.scorers.grad_camo import LEVELS
from attrscore.scorers.hottest import heat_levels, hottest_share
from attrscore.scorers.regions import clear_region

__all__ = ["Dice", "IoU", "dice_overlap", "intersection_over_union", "otsu"]

Threshold = Literal["otsu", "quantile", "fixed"]

BINS = 256


def otsu(values: Tensor, /) -> Tensor:
    """Otsu's threshold of each map: what best parts its values into two classes.

    (N, *S) -> (N,) float64, an edge of the 256 bins between the lowest and the highest value, at or
    above which the hot class lies; NaN where these are one or not finite. scikit-image returns the
    centre of the bin below, half a bin less. Otsu: A threshold selection method from gray-level
    histograms, IEEE Transactions on Systems, Man, and Cybernetics 1979.

    >>> otsu(torch.tensor([[0.0, 0.1, 0.9, 1.0]]))
    tensor([0.1016], dtype=torch.float64)
    """
    flat = values.flatten(1)
    low, high = (each[:, None].double() for each in flat.aminmax(dim=1))
    width = (high - low) / BINS
    thresholds = []
    for each, first, step in zip(flat, low, width, strict=True):
        if not 0 < step < torch.inf:  # one value, or not finite
            thresholds.append(torch.full_like(first, torch.nan))
            continue
        bins = ((each.double() - first) / step).long().clamp(max=BINS - 1)
        count = torch.bincount(bins, minlength=BINS).double()
        centres = first + step * (torch.arange(BINS, device=flat.device) + 0.5)
        below, moment = count.cumsum(0)[:-1], (count * centres).cumsum(0)
        above = len(each) - below
        apart = moment[:-1] / below - (moment[-1] - moment[:-1]) / above
        best = (below * above * apart**2).argmax(keepdim=True)
        thresholds.append(first + step * (best + 1))
    return torch.cat(thresholds)


def intersection_over_union(both: Tensor, selected: Tensor, area: Tensor, /) -> Tensor:
    """|A & M| / |A or M| from the sizes of A & M, A and M, (N,) each.

    >>> one, two, three = torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([3.0])
    >>> intersection_over_union(one, two, three), dice_overlap(one, two, three)
    (tensor([0.2500]), tensor([0.4000]))
    """
    return both / (selected + area - both)


def dice_overlap(both: Tensor, selected: Tensor, area: Tensor, /) -> Tensor:
    """2 |A & M| / (|A| + |M|), from the same sizes as :func:`intersection_over_union`."""
    return 2 * both / (selected + area)


@dataclass(frozen=True, kw_only=True)
class _Overlap:
    """What IoU and Dice have in common: a selection of hot voxels."""

    readings: ClassVar[Declared] = {
        "score": {"better": "higher", "range": (0, 1)},
        "chance": {"range": (0, 1), "chance": None},
        "selected": {"range": (0, 1), "chance": None},
    }

    region: str = "cell"
    threshold: Threshold = "otsu"
    fraction: float = 0.2

    def __post_init__(self) -> None:
        choose(self.threshold, ("otsu", "quantile", "fixed"), option="threshold")
        if not 0 < self.fraction < 1:
            raise ConfigError(f"fraction={self.fraction} must lie between 0 and 1.")

    def _columns(
        self, heat: Heat, run: Pass, ratio: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> Mapping[str, Tensor]:
        region = clear_region(run, self.region)
        area = heat.area(region)
        selected, both = self._select(heat, region)
        undefined = heat.undefined(region) | selected.isnan()
        columns = {
            "score": ratio(both, selected, area),
            "chance": ratio(selected * area, selected, area),
            "selected": selected,
        }
        return Reasoned(
            {name: values.masked_fill(undefined, torch.nan) for name, values in columns.items()},
            {"a flat map has no Otsu threshold.": selected.isnan()},
        )

    def _select(self, heat: Heat, region: Tensor) -> tuple[Tensor, Tensor]:
        """The fraction of the crop that is selected, and the fraction selected on the region."""
        levels = heat_levels(heat)
        size = levels[0].numel()
        if self.threshold == "quantile":
            count = max(1, round(self.fraction * size))
            share = hottest_share(levels, region, count)
            selected = torch.full_like(share, count / size)
            return selected, share * selected
        flat = levels.flatten(1)
        if self.threshold == "otsu":
            limit = heat.once(otsu, lambda: otsu(flat))
        else:
            limit = torch.full((len(flat),), self.fraction * LEVELS, device=flat.device)
        hot = flat >= limit[:, None]
        selected = hot.sum(1).double() / size
        both = (hot & region.flatten(1)).sum(1).double() / size
        return selected.masked_fill(limit.isnan(), torch.nan), both


@SCORERS.register("iou")
@dataclass(frozen=True, kw_only=True)
class IoU(_Overlap):
    """Intersection over union of the thresholded map and the region: |A & M| / |A or M|.

    ``threshold`` selects the voxels A of the resized map: those from Otsu's threshold on
    (``otsu``), the hottest ``fraction`` of the crop (``quantile``; equally hot voxels share the
    last places), or those with at least ``fraction`` of the hottest (``fixed``; Zhou et al., CVPR
    2016, take 0.2).

    Within [0, 1], 1 best. Columns: ``score``; ``chance``, what the same number of voxels would get
    if they were spread evenly; ``selected``, the fraction of the crop that A is. NaN where the
    region is empty or full, the heat has no mass or is not finite, and with ``otsu`` where the map
    is flat. Jaccard: The distribution of the flora in the alpine zone, New Phytologist 1912.
    """

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """``score``, ``chance`` and ``selected``, (N,) float64."""
        return self._columns(heat, run, intersection_over_union)


@SCORERS.register("dice")
@dataclass(frozen=True, kw_only=True)
class Dice(_Overlap):
    """Dice overlap of the thresholded map and the region: 2 |A & M| / (|A| + |M|).

    Options, columns and undefined cases are those of ``iou``. Dice: Measures of the amount of
    ecologic association between species, Ecology 1945.
    """

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """``score``, ``chance`` and ``selected``, (N,) float64."""
        return self._columns(heat, run, dice_overlap)
