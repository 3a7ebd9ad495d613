"""How concentrated heat is, whatever lies below it: Shannon entropy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attrscore.core.heat import Heat
from attrscore.core.passes import Pass
from attrscore.core.readings import Declared
from attrscore.core.registry import SCORERS

__all__ = ["Entropy", "entropy_of", "shannon_entropy"]


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
