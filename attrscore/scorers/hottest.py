"""What share of the k hottest voxels lies on the mask.

The pointing game, relevance rank accuracy and the top k are this one question, with k = 1, the size
of the mask, or a number of one's choice. Voxels that are equally hot share the places that are left
among the k: no order of voxels decides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attrscore.core.heat import Heat
from attrscore.scorers.ranks import LEVELS

__all__ = ["heat_levels", "hottest_share"]


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
    """The resized heat in whole 65536ths of its hottest voxel, (N, *S) int32.

    Resizing rounds, and what differs by less is a tie, as for ``roc_auc``. 0 where the heat has no
    mass or is not finite. Computed once for each heat.
    """
    return heat.once(heat_levels, lambda: _levels(heat.full()))


def _levels(full: Tensor) -> Tensor:
    hottest = full.flatten(1).amax(1).view(-1, *[1] * (full.ndim - 1))
    scaled = torch.where((hottest > 0) & hottest.isfinite(), full / hottest, 0)
    return scaled.mul_(LEVELS).round_().int()
