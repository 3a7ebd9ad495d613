"""How concentrated heat is, whatever lies below it: the volume that it fills."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attrscore.core.heat import Heat
from attrscore.core.passes import Pass
from attrscore.core.readings import Declared
from attrscore.core.registry import SCORERS
from attrscore.scorers.entropy import entropy_of

__all__ = ["EffectiveVolume", "effective_number"]


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
    """How much of the crop heat fills: the size of a flat map that has the same entropy, exp(H).

    Columns: ``score``, as a fraction of the crop, 1 for a flat map and 1 / V for one hot voxel;
    ``volume``, in cubic micrometres (square ones in 2D; voxels where spacing is unknown). Smaller
    is more concentrated, which is not better in itself. NaN where the heat has no mass or is not
    finite; the region plays no part. The effective number of order 1: Hill, Diversity and Evenness,
    Ecology 1973.
    """

    readings: ClassVar[Declared] = {"score": {"range": (0, 1)}, "volume": {"range": (0, None)}}

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """``score`` and ``volume``, (N,) float64."""
        voxels = effective_number(entropy_of(heat))
        return {
            "score": voxels / math.prod(heat.space),
            "volume": voxels * math.prod(run.batch.spacing or ()),
        }
