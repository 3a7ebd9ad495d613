"""How concentrated heat is, whatever lies below it: the Gini index.

Taken from the map resized to the crop, as ``entropy`` and ``effective_volume`` are. On a layer's
own grid one voxel may be the whole cell, so numbers of different layers could not be compared;
resized, a coarse grid cannot be sparse, which is true of what it shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from attrscore.core.heat import Heat
from attrscore.core.passes import Pass
from attrscore.core.readings import Declared
from attrscore.core.registry import SCORERS

__all__ = ["Sparsity", "gini"]


def gini(heat: Tensor, /) -> Tensor:
    """Gini index, sum((2 i - V - 1) h_i) / (V sum(h)), h_i sorted from cold to hot, i from 1 to V.

    Non-negative (N, *S) -> (N,) float64, from 0 (flat) to 1 - 1 / V (one voxel); NaN where the heat
    has no mass or is not finite.

    >>> gini(torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]]))
    tensor([0.0000, 0.7500,    nan], dtype=torch.float64)
    """
    flat = heat.detach().flatten(1).cpu()
    size = flat.shape[1]
    rank = torch.arange(1 - size, size, 2, dtype=torch.float64)
    found = []
    for each in flat.numpy():  # numpy sorts without an index, several times faster than torch
        values = torch.from_numpy(np.sort(each)).double()
        found.append((rank @ values) / (size * values.sum()))
    index = torch.stack(found).to(heat.device)
    return torch.where(index.isfinite(), index, torch.nan)


@SCORERS.register("sparsity", aliases=("gini",))
@dataclass(frozen=True)
class Sparsity:
    """The Gini index of the resized map: 0 for a flat one, near 1 for one hot voxel.

    A flat map has 0; sparser is not better in itself. NaN where the heat has no mass or is not
    finite; the region plays no part. One sort of the full-size map. Hurley, Rickard: Comparing
    Measures of Sparsity, IEEE Transactions on Information Theory 2009; Chalasani et al.: Concise
    Explanations of Neural Networks using Adversarial Training, ICML 2020.
    """

    readings: ClassVar[Declared] = {"score": {"range": (0, 1)}}

    def __call__(self, heat: Heat, run: Pass, /) -> Tensor:  # noqa: ARG002  # the contract
        """(N,) float64."""
        return gini(heat.full())
