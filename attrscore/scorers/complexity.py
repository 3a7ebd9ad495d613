"""How concentrated heat is, wherever it lies.

Taken from the map resized to the crop. On a layer's own grid one voxel may be the whole cell, so
numbers of different layers could not be compared; resized, a coarse grid cannot be sparse, which is
true of what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from attrscore.core.heat import Heat
from attrscore.core.passes import Pass
from attrscore.core.readings import Declared
from attrscore.core.registry import SCORERS

__all__ = [
    "EffectiveVolume",
    "Entropy",
    "Sparsity",
    "effective_number",
    "entropy_of",
    "gini",
    "shannon_entropy",
]


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


def shannon_entropy(heat: Tensor, /) -> Tensor:
    """Entropy of the heat as a distribution, -sum(p ln p) with p = h / sum(h), in nats.

    Non-negative (N, *S) -> (N,) float64, from 0 (one voxel) to ln V (flat); NaN where the heat has
    no mass or is not finite.

    >>> shannon_entropy(torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    tensor([0.6931,    nan], dtype=torch.float64)
    """
    found = []
    for each in heat.flatten(1):
        values = each.double()
        found.append(torch.special.entr(values / values.sum()).sum())
    entropy = torch.stack(found)
    return torch.where(entropy.isfinite(), entropy, torch.nan)


def entropy_of(heat: Heat, /) -> Tensor:
    """:func:`shannon_entropy` of the resized map, computed once for each heat."""
    return heat.once(shannon_entropy, lambda: shannon_entropy(heat.full()))


@SCORERS.register("entropy")
@dataclass(frozen=True)
class Entropy:
    """Shannon entropy of the resized map as a distribution, over ln V: 1 flat, 0 one hot voxel.

    Lower is more concentrated, which is not better in itself. NaN where the heat has no mass or is
    not finite, or the crop is one voxel; the region plays no part. Bhatt, Weller, Moura: Evaluating
    and Aggregating Feature-based Model Explanations, IJCAI 2020, call it complexity, unnormalised.
    """

    readings: ClassVar[Declared] = {"score": {"range": (0, 1)}}

    def __call__(self, heat: Heat, run: Pass, /) -> Tensor:  # noqa: ARG002  # the contract
        """(N,) float64."""
        return entropy_of(heat) / math.log(math.prod(heat.space))


def effective_number(entropy: Tensor, /) -> Tensor:
    """Voxels of a flat map that has this entropy in nats, exp(H): (N,) -> (N,).

    >>> import torch
    >>> effective_number(torch.tensor([1.0, 5.0]).log())
    tensor([1., 5.])
    """
    return entropy.exp()


@SCORERS.register("effective_volume")
@dataclass(frozen=True)
class EffectiveVolume:
    """How much of the crop heat fills: the size of a flat map of the same entropy H, exp(H).

    Columns: ``score``, as a fraction of the crop, 1 for a flat map and 1 / V for one hot voxel;
    ``volume``, in cubic micrometres (square ones in 2D; voxels where spacing is unknown). Smaller
    is more concentrated, which is not better in itself. NaN where the heat has no mass or is not
    finite; the region plays no part. The effective number of order 1: Hill, Diversity and Evenness,
    Ecology 1973.

    >>> import attrscore
    >>> from attrscore.testing.samples import cells, net
    >>> (result,) = attrscore.run(net(), cells(), scorers=EffectiveVolume(), layers="high")
    >>> result.columns["effective_volume"].round(3)
    array([0.201, 0.136, 0.103, 0.077])
    """

    readings: ClassVar[Declared] = {"score": {"range": (0, 1)}, "volume": {"range": (0, None)}}

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """``score`` and ``volume``, (N,) float64."""
        voxels = effective_number(entropy_of(heat))
        return {
            "score": voxels / math.prod(heat.space),
            "volume": voxels * math.prod(run.batch.spacing or ()),
        }
