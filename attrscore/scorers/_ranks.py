"""Where the hottest voxels lie: ROC-AUC and the share of the k hottest, from ranks alone.

The pointing game, relevance rank accuracy and top k are one question, with k = 1, the size of the
mask, or a number of one's choice. Equally hot voxels share the ranks that are left among the k: no
order of voxels decides.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attrscore.core.heat import Heat
from attrscore.errors import DataError

LEVELS = 2**16
"""Steps of heat between 0 and the hottest voxel, where heat is counted by levels."""

_HALF, _KEPT = np.uint32(2**5), np.uint32(2**31 - 2**6)
"""Half a step of, and what is kept by, rounding the bits of a float32 to 17 of its fraction."""


def roc_auc(heat: Tensor, mask: Tensor, /) -> Tensor:
    """Chance that a voxel on the mask is hotter than one off it, ties counted half.

    Non-negative (N, *S) and mask (N, *S), taken as true above 0.5 -> (N,) float64; 0.5 for a flat
    map whatever the area; NaN where either side is empty or a value is not finite. Resizing rounds,
    so that heat within about 4e-6 of itself is a tie; in crops of more than 65536 voxels, where
    counting is faster than sorting, roots are rounded to 65536ths of that of the hottest voxel.
    The Mann-Whitney statistic (Hanley, McNeil, Radiology 1982) otherwise.

    >>> roc_auc(torch.tensor([[3.0, 1.0, 2.0, 0.0]]), torch.tensor([[True, False, False, False]]))
    tensor([1.], dtype=torch.float64)

    :raises DataError: negative heat.
    """
    values = (heat if heat.dtype == torch.float64 else heat.float()).detach().flatten(1).cpu()
    on = (mask if mask.dtype == torch.bool else mask > 0.5).flatten(1).cpu().numpy()
    hottest = values.amax(1).numpy()  # ten times as fast as aminmax()
    if bool((values.amin(1) < 0).any()):
        raise DataError("heat must not be negative; settle the sign first: heat.clamp(min=0).")
    # A map at a time, in one buffer, so that what lies between stays in the processor's cache.
    scratch = np.empty(values.shape[1], np.float32)
    each = zip(values.numpy(), on, hottest, strict=True)
    aucs = [_auc_of_one(*one, scratch) for one in each]
    return torch.tensor(aucs, dtype=torch.float64).to(heat.device)


def _auc_of_one(
    values: NDArray[Any],
    on: NDArray[np.bool_],
    hottest: np.floating[Any],
    scratch: NDArray[np.float32],
) -> float:
    """The AUC of one map (V,) against its mask (V,)."""
    count = int(np.count_nonzero(on))
    pairs = count * (on.size - count)
    if not pairs or not np.isfinite(hottest):
        return np.nan
    np.divide(values, hottest if hottest > 0 else 1, out=scratch)
    wins = _by_sorting if on.size <= LEVELS else _by_counting
    return wins(scratch, on, count) / pairs


def _by_sorting(scaled: NDArray[np.float32], on: NDArray[np.bool_], count: int) -> float:
    """Pairs in which the voxel on the mask is hotter, ties counted half; ``scaled`` to 1 at most.

    Bits of non-negative floats are ordered as the floats are, so that a voxel and its side of the
    mask sort as one whole number.
    """
    keys = scaled.view(np.uint32)
    keys += _HALF
    keys &= _KEPT
    keys |= on
    keys.sort()
    (ranks,) = (keys & 1).astype(bool).nonzero()
    mine = keys[ranks]
    wins = int(ranks.sum()) - count * (count - 1) // 2
    # So a tie is a win. Of each key that both sides have, the voxels off the mask come first.
    first = keys[ranks - 1] == mine - 1
    starts, tied = ranks[first], mine[first]
    off = starts - keys.searchsorted(tied - 1)
    ties = int(off @ (keys.searchsorted(tied, side="right") - starts))
    return wins - ties / 2


def _by_counting(scaled: NDArray[np.float32], on: NDArray[np.bool_], count: int) -> float:
    """As :func:`_by_sorting`, by the number of voxels at each level of the root of heat."""
    roots = np.sqrt(scaled, out=scaled)  # equal steps of heat would make one level of faint heat
    roots *= LEVELS
    levels = np.rint(roots, out=roots).astype(np.int32)
    counts = torch.bincount(torch.from_numpy(levels), minlength=LEVELS + 1)
    mine = levels[on]
    up_to, at = counts.cumsum(0).numpy()[mine], counts.numpy()[mine]
    # Twice the voxels cooler than each on the mask, those as hot counted half; less its own side's.
    return (2 * int(up_to.sum()) - int(at.sum()) - count * count) / 2


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
