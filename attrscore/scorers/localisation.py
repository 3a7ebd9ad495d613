"""How well hot voxels and a region coincide: by hits, by rank, by overlap, by distance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attrscore.core.contracts import Reasoned
from attrscore.core.heat import Heat
from attrscore.core.passes import Pass
from attrscore.core.readings import Declared
from attrscore.core.regions import (
    clear_region,
    dilated,
    distance_to,
    find_region,
    region_distance,
    within,
)
from attrscore.core.registry import SCORERS
from attrscore.errors import ConfigError, DataError, choose
from attrscore.scorers._ranks import LEVELS, heat_levels, hottest_share, roc_auc
from attrscore.scorers.grad_camo import mask_ratio

__all__ = [
    "AUC",
    "Dice",
    "Distance",
    "IoU",
    "Overlap",
    "PointingGame",
    "RelevanceRank",
    "ToleranceCurve",
    "TopK",
    "dice_overlap",
    "intersection_over_union",
    "mean_distance",
    "otsu",
    "share_within",
]


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

    >>> import attrscore
    >>> from attrscore.testing.samples import cells, net
    >>> scorer = PointingGame(tolerance=0.5)
    >>> (result,) = attrscore.run(net(), cells(), scorers=scorer, layers="high")
    >>> result.columns["pointing_game"].round(3)
    array([0. , 0. , 0.5, 0. ])
    """

    readings: ClassVar[Declared] = {
        "score": {"better": "higher", "range": (0, 1)},
        "chance": {"range": (0, 1), "chance": None},
    }

    region: str = "cell"
    """A region of the dataset."""
    tolerance: float = 0.0
    """Micrometres around the region that still count."""

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
    """A region of the dataset."""

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
    """A region of the dataset."""
    k: float = 0.05
    """Below 1: a fraction of the crop; from 1 on: a number of voxels."""

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


@SCORERS.register("auc")
@dataclass(frozen=True, kw_only=True)
class AUC:
    """ROC-AUC: the chance that a voxel on the region is hotter than one off it, ties half.

    Within [0, 1], 1 best, 0.5 by chance whatever the area. NaN where the region is empty or full,
    the heat has no mass, or is not finite. On the resized map; computed once where ``grad_camo``
    runs beside it. Fawcett: An introduction to ROC analysis, Pattern Recognition Letters 2006.
    """

    readings: ClassVar[Declared] = {"score": {"better": "higher", "range": (0, 1), "chance": 0.5}}

    region: str = "cell"
    """A region of the dataset."""

    def __call__(self, heat: Heat, run: Pass, /) -> Tensor:
        """(N,) float64."""
        region = find_region(run, self.region)
        values = heat.once(("auc", self.region), lambda: roc_auc(heat.full(), region))
        return values.masked_fill(heat.undefined(region), torch.nan)


Threshold = Literal["otsu", "quantile", "fixed"]

BINS = 256


def otsu(values: Tensor, /) -> Tensor:
    """Otsu's threshold of each map: what best parts its values into two classes.

    (N, *S) -> (N,) float64, an edge of the 256 bins between the lowest and the highest value, at or
    above which the hot class lies; NaN where these are one or not finite. scikit-image, which
    computes it, returns the centre of the bin below, half a bin less. Otsu: A threshold selection
    method from gray-level histograms, IEEE Transactions on Systems, Man, and Cybernetics 1979.

    >>> otsu(torch.tensor([[0.0, 0.1, 0.9, 1.0]]))
    tensor([0.1016], dtype=torch.float64)
    """
    from skimage.filters import threshold_otsu  # slow to import, and for a threshold only

    flat = values.detach().flatten(1).double().cpu()
    thresholds = []
    for each, first, last in zip(flat.numpy(), *flat.aminmax(dim=1), strict=True):
        half = float(last - first) / BINS / 2
        known = 0 < half < torch.inf
        thresholds.append(float(threshold_otsu(each, nbins=BINS)) + half if known else torch.nan)
    return torch.tensor(thresholds, dtype=torch.float64, device=values.device)


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """A selection of hot voxels, and how it lies to a region."""

    readings: ClassVar[Declared] = {
        "score": {"better": "higher", "range": (0, 1)},
        "chance": {"range": (0, 1), "chance": None},
        "selected": {"range": (0, 1), "chance": None},
    }

    region: str = "cell"
    """A region of the dataset."""
    threshold: Threshold = "otsu"
    """How the hot voxels are selected."""
    fraction: float = 0.2
    """quantile: of the crop, the hottest; fixed: of the hottest voxel."""

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


def intersection_over_union(both: Tensor, selected: Tensor, area: Tensor, /) -> Tensor:
    """|A & M| / |A or M| from the sizes of A & M, A and M, (N,) each.

    >>> import torch
    >>> intersection_over_union(torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([3.0]))
    tensor([0.2500])
    """
    return both / (selected + area - both)


@SCORERS.register("iou")
@dataclass(frozen=True, kw_only=True)
class IoU(Overlap):
    """Intersection over union of the thresholded map and the region: |A & M| / |A or M|.

    ``threshold`` selects the voxels A of the resized map: those from Otsu's threshold on
    (``otsu``), the hottest ``fraction`` of the crop (``quantile``; equally hot voxels share the
    last ranks), or those with at least ``fraction`` of the hottest (``fixed``; Zhou et al., CVPR
    2016, take 0.2).

    Within [0, 1], 1 best. Columns: ``score``; ``chance``, what the same number of voxels would get
    if they were spread evenly; ``selected``, the fraction of the crop that A is. NaN where the
    region is empty or full, the heat has no mass or is not finite, and with ``otsu`` where the map
    is flat. Jaccard: The distribution of the flora in the alpine zone, New Phytologist 1912.

    >>> import attrscore
    >>> from attrscore.testing.samples import cells, net
    >>> (result,) = attrscore.run(net(), cells(), scorers=IoU(threshold="quantile"), layers="high")
    >>> result.columns["iou"].round(3)
    array([0.147, 0.1  , 0.083, 0.045])
    """

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """``score``, ``chance`` and ``selected``, (N,) float64."""
        return self.columns(heat, run, intersection_over_union)


def dice_overlap(both: Tensor, selected: Tensor, area: Tensor, /) -> Tensor:
    """2 |A & M| / (|A| + |M|) from the sizes of A & M, A and M, (N,) each.

    >>> import torch
    >>> dice_overlap(torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([3.0]))
    tensor([0.4000])
    """
    return 2 * both / (selected + area)


@SCORERS.register("dice")
@dataclass(frozen=True, kw_only=True)
class Dice(Overlap):
    """Dice overlap of the thresholded map and the region: 2 |A & M| / (|A| + |M|).

    Options, columns and undefined cases are those of ``iou``. Dice: Measures of the amount of
    ecologic association between species, Ecology 1945.
    """

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """``score``, ``chance`` and ``selected``, (N,) float64."""
        return self.columns(heat, run, dice_overlap)


def mean_distance(heat: Tensor, mask: Tensor, /, *, spacing: Sequence[float]) -> Tensor:
    """Mean signed distance of heat to the mask, sum(h d) / sum(h), negative inside: (N,) float64.

    Non-negative (N, *S) and mask (N, *S) bool; in the units of ``spacing``, from the centre of a
    voxel to that of the nearest one on the other side. NaN where the heat has no mass or is not
    finite, or the mask is empty or full.

    >>> mask = torch.tensor([[True, False, False, False]])
    >>> mean_distance(torch.tensor([[1.0, 0.0, 0.0, 1.0]]), mask, spacing=[0.5])
    tensor([0.5000], dtype=torch.float64)
    """
    distance = distance_to(mask, spacing=spacing).flatten(1)
    values = heat.double().flatten(1)
    mean = (values * distance).sum(1) / values.sum(1)
    return torch.where(mean.isfinite(), mean, torch.nan)


@SCORERS.register("distance")
@dataclass(frozen=True, kw_only=True)
class Distance:
    """The mean signed distance of heat to the region's edge, in micrometres, negative inside.

    D = sum(h d) / sum(h), with d as :func:`mean_distance` has it; voxels where spacing is unknown.
    Columns: ``score``, D, lower is closer; ``outside``, the same with 0 for all that is inside, so
    that depth cannot make up for distance; ``chance``, D of a flat map. NaN where the region is
    empty or full, the heat has no mass, or is not finite. By the adjoint: one distance transform a
    mask, whatever is scored on it. The definition is attrscore's own.

    >>> import attrscore
    >>> from attrscore.testing.samples import cells, net
    >>> (result,) = attrscore.run(net(), cells(), scorers=Distance(), layers="high")
    >>> result.columns["distance"].round(3)
    array([1.132, 0.467, 0.561, 2.081])
    """

    readings: ClassVar[Declared] = {
        "score": {
            "better": "lower",
            "unit": "µm or voxels",
            "says": "mean distance of heat to the cell",
        },
        "outside": {"better": "lower", "range": (0, None), "unit": "µm or voxels", "chance": None},
        "chance": {"unit": "µm or voxels", "chance": None},
    }

    region: str = "cell"
    """A region of the dataset."""

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """``score``, ``outside`` and ``chance``, (N,) float64."""
        signed = region_distance(run, self.region)
        outside = run.once((Distance, self.region), lambda: signed.clamp(min=0))
        undefined = heat.undefined(clear_region(run, self.region))
        columns = {
            "score": heat.mass(signed) / heat.mass(),
            "outside": heat.mass(outside) / heat.mass(),
            "chance": heat.area(signed),  # the mean over the crop
        }
        return {name: values.masked_fill(undefined, torch.nan) for name, values in columns.items()}


def share_within(
    heat: Tensor, mask: Tensor, tolerance: float, /, *, spacing: Sequence[float]
) -> Tensor:
    """The share of heat at most ``tolerance`` from the mask: :func:`mask_ratio` of the wider mask.

    Non-negative (N, *S) and mask (N, *S) bool -> (N,) float64; in the units of ``spacing``,
    negative for a mask that shrinks. NaN as :func:`mask_ratio` says, of the wider mask.

    >>> mask = torch.tensor([[True, False, False, False]])
    >>> heat = torch.tensor([[2.0, 1.0, 0.0, 1.0]])
    >>> share_within(heat, mask, 0.5, spacing=[0.5])
    tensor([0.7500], dtype=torch.float64)
    """
    return mask_ratio(heat, within(distance_to(mask, spacing=spacing), tolerance))


@SCORERS.register("tolerance_curve")
@dataclass(frozen=True, kw_only=True)
class ToleranceCurve:
    """The Grad-CAMO score of the region widened by each of ``tolerances``, in micrometres.

    Voxels where spacing is unknown; a negative tolerance erodes. Columns ``<tolerance>``, the share
    of heat on the widened region, within [0, 1] and never falling as it widens; and
    ``<tolerance>.chance``, its area fraction, which the share must be read with. NaN where the
    region is empty or full or becomes so, the heat has no mass, or is not finite. By the adjoint:
    no full-size map.

    The tolerance of the pointing game (Zhang et al., International Journal of Computer Vision
    2018) for the share of Gopalakrishnan et al., CVPR workshops 2024.
    """

    readings: ClassVar[Declared] = {
        "*.chance": {"range": (0, 1), "chance": None},
        "*": {"better": "higher", "range": (0, 1)},
    }

    region: str = "cell"
    """A region of the dataset."""
    tolerances: Sequence[float] = (0.0, 1.0, 2.0, 4.0)
    """Micrometres; negative: eroded."""

    def __post_init__(self) -> None:
        given = self.tolerances
        tolerances = tuple(map(float, given if isinstance(given, Sequence) else (given,)))
        if not tolerances or len(set(tolerances)) != len(tolerances):
            raise ConfigError(f"tolerances={list(tolerances)} must be different micrometres.")
        object.__setattr__(self, "tolerances", tolerances)

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """Column -> (N,) float64."""
        undefined = heat.undefined(clear_region(run, self.region))
        columns, reasons = {}, {}
        for tolerance in self.tolerances:
            wide = dilated(run, self.region, tolerance)
            share = heat.mass(wide) / heat.mass()
            columns[f"{tolerance:g}"] = share.masked_fill(
                undefined | heat.undefined(wide), torch.nan
            )
            columns[f"{tolerance:g}.chance"] = heat.area(wide)
            what = "fills the crop" if tolerance > 0 else "is gone"
            reasons[f"widened by {tolerance:g}, the region {self.region!r} {what}."] = (
                heat.undefined(wide)
            )
        return Reasoned(columns, reasons)
