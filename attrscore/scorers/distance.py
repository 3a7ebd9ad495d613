"""How far from the mask heat lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attrscore.core.heat import Heat
from attrscore.core.passes import Pass
from attrscore.core.readings import Declared
from attrscore.core.registry import SCORERS
from attrscore.scorers.regions import clear_region, distance_to, region_distance

__all__ = ["Distance", "mean_distance"]


def mean_distance(heat: Tensor, mask: Tensor, /, *, spacing: Sequence[float]) -> Tensor:
    """Mean signed distance of heat to the mask, sum(h d) / sum(h), negative inside: (N,) float64.

    Non-negative (N, *S) and mask (N, *S) bool; in the units of ``spacing``, from the centre of a
    voxel to that of the nearest one on the other side. NaN where the heat has no mass or is not
    finite, or the mask is empty or full.

    >>> mask = torch.tensor([[True, False, False, False]])
    >>> mean_distance(torch.tensor([[1.0, 0.0, 0.0, 1.0]]), mask, spacing=[0.5])
    tensor([0.5000], dtype=torch.float64)
    """
    distance = distance_to(mask, spacing=spacing).flatten(1)
    values = heat.double().flatten(1)
    mean = (values * distance).sum(1) / values.sum(1)
    return torch.where(mean.isfinite(), mean, torch.nan)


@SCORERS.register("distance")
@dataclass(frozen=True, kw_only=True)
class Distance:
    """The mean signed distance of heat to the region's edge, in micrometres, negative inside.

    D = sum(h d) / sum(h), with d as :func:`mean_distance` has it; voxels where spacing is unknown.
    Columns: ``score``, D, lower is closer; ``outside``, the same with 0 for all that is inside, so
    that depth cannot make up for distance; ``chance``, D of a flat map. NaN where the region is
    empty or full, the heat has no mass, or is not finite. By the adjoint: one distance transform a
    mask, whatever is scored on it. The definition is attrscore's own.
    """

    readings: ClassVar[Declared] = {
        "score": {
            "better": "lower",
            "unit": "µm or voxels",
            "says": "mean distance of heat to the cell",
        },
        "outside": {"better": "lower", "range": (0, None), "unit": "µm or voxels", "chance": None},
        "chance": {"unit": "µm or voxels", "chance": None},
    }

    region: str = "cell"

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """``score``, ``outside`` and ``chance``, (N,) float64."""
        signed = region_distance(run, self.region)
        outside = run.once((Distance, self.region), lambda: signed.clamp(min=0))
        undefined = heat.undefined(clear_region(run, self.region))
        columns = {
            "score": heat.mass(signed) / heat.mass(),
            "outside": heat.mass(outside) / heat.mass(),
            "chance": heat.area(signed),  # the mean over the crop
        }
        return {name: values.masked_fill(undefined, torch.nan) for name, values in columns.items()}
