"""Scorers: heat and pass in, numbers out.

The status of a row says why its scores of the cell are NaN. Of a row that is ``ok``, the reason
says why a score is NaN all the same: another region is empty, there is no donor, no neighbour.
"""

from attrscore.scorers.auc import AUC
from attrscore.scorers.captum_metrics import Infidelity, SensitivityMax
from attrscore.scorers.channel_shares import ChannelShares, channel_shares
from attrscore.scorers.complexity import EffectiveVolume, Entropy, Sparsity, gini, shannon_entropy
from attrscore.scorers.distance import Distance, ToleranceCurve, mean_distance
from attrscore.scorers.faithfulness import AverageDrop, Deletion, Insertion
from attrscore.scorers.grad_camo import GradCAMO, mask_ratio, roc_auc
from attrscore.scorers.hottest import PointingGame, RelevanceRank, TopK, hottest_share
from attrscore.scorers.nulls import CircularShift, MaskSwap, RandomMap, shifted_shares
from attrscore.scorers.overlap import Dice, IoU, dice_overlap, intersection_over_union, otsu
from attrscore.scorers.region_shares import RegionShares, log_density_ratio
from attrscore.scorers.regions import distance_to
from attrscore.scorers.road import ROAD
from attrscore.scorers.swap import MaskOutside, Swap

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
    "channel_shares",
    "dice_overlap",
    "distance_to",
    "gini",
    "hottest_share",
    "intersection_over_union",
    "log_density_ratio",
    "mask_ratio",
    "mean_distance",
    "otsu",
    "roc_auc",
    "shannon_entropy",
    "shifted_shares",
]
