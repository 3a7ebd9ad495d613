"""The score of masks that are a little larger, or smaller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attrscore.core.contracts import Reasoned
from attrscore.core.heat import Heat
from attrscore.core.passes import Pass
from attrscore.core.readings import Declared
from attrscore.core.registry import SCORERS
from attrscore.errors import ConfigError
from attrscore.scorers.grad_camo import mask_ratio
from attrscore.scorers.regions import clear_region, dilated, distance_to, within

__all__ = ["ToleranceCurve", "share_within"]


def share_within(
    heat: Tensor, mask: Tensor, tolerance: float, /, *, spacing: Sequence[float]
) -> Tensor:
    """The share of heat at most ``tolerance`` from the mask: :func:`mask_ratio` of the wider mask.

    Non-negative (N, *S) and mask (N, *S) bool -> (N,) float64; in the units of ``spacing``,
    negative for a mask that shrinks. NaN as :func:`mask_ratio` says, of the wider mask.

    >>> mask = torch.tensor([[True, False, False, False]])
    >>> heat = torch.tensor([[2.0, 1.0, 0.0, 1.0]])
    >>> share_within(heat, mask, 0.5, spacing=[0.5])
    tensor([0.7500], dtype=torch.float64)
    """
    return mask_ratio(heat, within(distance_to(mask, spacing=spacing), tolerance))


@SCORERS.register("tolerance_curve")
@dataclass(frozen=True, kw_only=True)
class ToleranceCurve:
    """The Grad-CAMO score of the region widened by each of ``tolerances``, in micrometres.

    Voxels where spacing is unknown; a negative tolerance erodes. Columns ``<tolerance>``, the share
    of heat on the widened region, within [0, 1] and never falling as it widens; and
    ``<tolerance>.chance``, its area fraction, which the share must be read with. NaN where the
    region is empty or full or becomes so, the heat has no mass, or is not finite. By the adjoint:
    no full-size map.

    The tolerance of the pointing game (Zhang et al., International Journal of Computer Vision
    2018) for the share of Gopalakrishnan et al., CVPR workshops 2024.
    """

    readings: ClassVar[Declared] = {
        "*.chance": {"range": (0, 1), "chance": None},
        "*": {"better": "higher", "range": (0, 1)},
    }

    region: str = "cell"
    tolerances: Sequence[float] = (0.0, 1.0, 2.0, 4.0)

    def __post_init__(self) -> None:
        given = self.tolerances
        tolerances = tuple(map(float, given if isinstance(given, Sequence) else (given,)))
        if not tolerances or len(set(tolerances)) != len(tolerances):
            raise ConfigError(f"tolerances={list(tolerances)} must be different micrometres.")
        object.__setattr__(self, "tolerances", tolerances)

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """Column -> (N,) float64."""
        undefined = heat.undefined(clear_region(run, self.region))
        columns, reasons = {}, {}
        for tolerance in self.tolerances:
            wide = dilated(run, self.region, tolerance)
            share = heat.mass(wide) / heat.mass()
            columns[f"{tolerance:g}"] = share.masked_fill(
                undefined | heat.undefined(wide), torch.nan
            )
            columns[f"{tolerance:g}.chance"] = heat.area(wide)
            what = "fills the crop" if tolerance > 0 else "is gone"
            reasons[f"widened by {tolerance:g}, the region {self.region!r} {what}."] = (
                heat.undefined(wide)
            )
        return Reasoned(columns, reasons)
