"""Scorers: heat and pass in, numbers out; by family, each with its formula and its source.

The status of a row says why its scores of the cell are NaN. Of a row that is ``ok``, the reason
says why a score is NaN all the same: another region is empty, there is no donor, no neighbour.

Where definitions agree, scores equal those of Quantus 0.6 with its options ``abs=False,
normalise=False``: ``region_shares``, ``relevance_rank``, ``top_k``, ``pointing_game``, ``auc``,
``sparsity``, ``entropy`` and ``deletion`` are tested against it. They differ where it is wrong:

- an empty mask: its ``PointingGame`` counts a hit (the truth of NaN); here NaN with a status
- ties: its ``RelevanceRankAccuracy`` and ``TopKIntersection`` take equally hot voxels in the order
  of the array, so that a mask and its mirror image score differently, and its ``PointingGame``
  counts a hit if one of them hits; here they share the ranks that are left
- by default it takes absolutes and divides by the hottest pixel of the whole batch, so that a
  cell's score depends on the others; here no step is hidden, and cells do not touch each other
- its ``PixelFlipping`` leaves the clean input out of the curve, and counts the channels of one
  voxel as so many features; here the curve begins with the cell as it is, and a voxel changes whole
- its ``Sparseness`` adds 1e-7 to every pixel and its ``Complexity`` 1e-12 under the logarithm; here
  the equations stand as they are, and a map without mass is NaN
"""

from attrscore.core.regions import distance_to
from attrscore.scorers._ranks import hottest_share, roc_auc
from attrscore.scorers.captum_metrics import Infidelity, SensitivityMax
from attrscore.scorers.complexity import (
    EffectiveVolume,
    Entropy,
    Sparsity,
    effective_number,
    gini,
    shannon_entropy,
)
from attrscore.scorers.faithfulness import (
    ROAD,
    AverageDrop,
    Deletion,
    Insertion,
    area_under,
    impute,
    relative_drop,
)
from attrscore.scorers.grad_camo import GradCAMO, mask_ratio
from attrscore.scorers.intervention import MaskOutside, Swap, exchanged
from attrscore.scorers.localisation import (
    AUC,
    Dice,
    Distance,
    IoU,
    PointingGame,
    RelevanceRank,
    ToleranceCurve,
    TopK,
    dice_overlap,
    intersection_over_union,
    mean_distance,
    otsu,
    share_within,
)
from attrscore.scorers.nulls import CircularShift, MaskSwap, RandomMap, shifted_shares, standing
from attrscore.scorers.shares import ChannelShares, RegionShares, channel_shares, log_density_ratio

__all__ = [
    "AUC",
    "ROAD",
    "AverageDrop",
    "ChannelShares",
    "CircularShift",
    "Deletion",
    "Dice",
    "Distance",
    "EffectiveVolume",
    "Entropy",
    "GradCAMO",
    "Infidelity",
    "Insertion",
    "IoU",
    "MaskOutside",
    "MaskSwap",
    "PointingGame",
    "RandomMap",
    "RegionShares",
    "RelevanceRank",
    "SensitivityMax",
    "Sparsity",
    "Swap",
    "ToleranceCurve",
    "TopK",
    "area_under",
    "channel_shares",
    "dice_overlap",
    "distance_to",
    "effective_number",
    "exchanged",
    "gini",
    "hottest_share",
    "impute",
    "intersection_over_union",
    "log_density_ratio",
    "mask_ratio",
    "mean_distance",
    "otsu",
    "relative_drop",
    "roc_auc",
    "shannon_entropy",
    "share_within",
    "shifted_shares",
    "standing",
]
