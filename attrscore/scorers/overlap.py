"""What IoU and Dice have in common: a selection of hot voxels, at a stated threshold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attrscore.core.contracts import Reasoned
from attrscore.core.heat import Heat
from attrscore.core.passes import Pass
from attrscore.core.readings import Declared
from attrscore.errors import ConfigError, choose
from attrscore.scorers.hottest import heat_levels, hottest_share
from attrscore.scorers.ranks import LEVELS
from attrscore.scorers.regions import clear_region

__all__ = ["Overlap", "otsu"]

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


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """A selection of hot voxels, and how it lies to a region."""

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

    def columns(
        self, heat: Heat, run: Pass, ratio: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> Mapping[str, Tensor]:
        """``score``, a ratio of sizes, ``chance`` and ``selected``, (N,) float64."""
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
