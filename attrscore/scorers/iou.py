"""How well the thresholded map covers the mask: intersection over union."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from attrscore.core.heat import Heat
from attrscore.core.passes import Pass
from attrscore.core.registry import SCORERS
from attrscore.scorers.overlap import Overlap

__all__ = ["IoU", "intersection_over_union"]


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
    last places), or those with at least ``fraction`` of the hottest (``fixed``; Zhou et al., CVPR
    2016, take 0.2).

    Within [0, 1], 1 best. Columns: ``score``; ``chance``, what the same number of voxels would get
    if they were spread evenly; ``selected``, the fraction of the crop that A is. NaN where the
    region is empty or full, the heat has no mass or is not finite, and with ``otsu`` where the map
    is flat. Jaccard: The distribution of the flora in the alpine zone, New Phytologist 1912.
    """

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """``score``, ``chance`` and ``selected``, (N,) float64."""
        return self.columns(heat, run, intersection_over_union)
