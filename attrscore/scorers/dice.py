"""How well the thresholded map covers the mask: Dice overlap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from attrscore.core.heat import Heat
from attrscore.core.passes import Pass
from attrscore.core.registry import SCORERS
from attrscore.scorers.overlap import Overlap

__all__ = ["Dice", "dice_overlap"]


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
