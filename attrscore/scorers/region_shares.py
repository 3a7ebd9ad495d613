"""The share of heat in every region that is known: nucleus, cytoplasm, boundary, neighbours ..."""

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
from attrscore.scorers.regions import every_region, find_region, names_of

__all__ = ["RegionShares", "log_density_ratio"]


def log_density_ratio(share: Tensor, area: Tensor, /, *, clip: float = 1e-6) -> Tensor:
    """Logarithm of the density of heat within a region over that in the rest: (N,) float64.

    ``share`` of the heat and ``area`` fraction, (N,) each; the share is kept ``clip`` away from 0
    and 1. 0 is chance, positive is denser; NaN where the region is empty or full.

    >>> log_density_ratio(torch.tensor([0.5, 0.5, 0.5]), torch.tensor([0.5, 0.2, 0.0]))
    tensor([0.0000, 1.3863,    nan], dtype=torch.float64)
    """
    share, area = share.double(), area.double()
    ratio = torch.logit(share.clamp(clip, 1 - clip)) - torch.logit(area)
    return torch.where((area > 0) & (area < 1), ratio, torch.nan)


@SCORERS.register("region_shares")
@dataclass(frozen=True, kw_only=True)
class RegionShares:
    """How heat is spread over regions, by share and by density.

    ``regions`` are names of the dataset's regions, or what follows from them: ``cytoplasm`` (the
    cell without its nucleus), ``boundary`` (what is within ``ring`` micrometres of the cell's edge,
    on either side; voxels where spacing is unknown) and ``background`` (what no region but a
    boundary covers, where neighbours are known). ``null`` takes all that there are. Regions may
    overlap, as cell and nucleus do; cell, neighbours and background sum to 1.

    With S_r the share of heat in region r and f_r its area fraction, the columns of each are

    - ``<region>``: S_r, within [0, 1]; f_r by chance, 0 in an empty region
    - ``<region>.area``: f_r
    - ``<region>.density``: S_r / f_r; 1 by chance; NaN in an empty region
    - ``<region>.log_density_ratio``: ln[(S_r / f_r) / ((1 - S_r) / (1 - f_r))], S_r kept ``clip``
      away from 0 and 1; 0 by chance; NaN in an empty or full region

    NaN where the heat has no mass or is not finite. Two regions are compared by the ratio of
    their densities. By the adjoint: no full-size map. The share is the relevance mass accuracy of
    Arras et al., Information Fusion 2022, the log ratio the log odds of the Grad-CAMO score.

    :raises DataError: a region that is neither there nor follows from others.
    """

    readings: ClassVar[Declared] = {
        "*.area": {"range": (0, 1), "chance": None},
        "*.density": {"range": (0, None), "chance": 1},
        "*.log_density_ratio": {"chance": 0},
        "*": {"range": (0, 1), "chance": ".area"},
    }

    regions: Sequence[str] | None = None
    ring: float = 1.0
    clip: float = 1e-6

    def __post_init__(self) -> None:
        object.__setattr__(self, "regions", names_of(self.regions))
        if not self.ring > 0:
            raise ConfigError(f"ring={self.ring} must be a positive number of micrometres.")
        if not 0 < self.clip < 0.5:
            raise ConfigError(f"clip={self.clip} must lie between 0 and 0.5.")

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """Column -> (N,) float64."""
        columns, reasons = {}, {}
        for name in self.regions or every_region(run):
            region = find_region(run, name, ring=self.ring)
            area = heat.area(region)
            share = (heat.mass(region) / heat.mass()).masked_fill(heat.undefined(), torch.nan)
            columns[name] = share
            columns[f"{name}.area"] = area
            columns[f"{name}.density"] = share / area
            columns[f"{name}.log_density_ratio"] = log_density_ratio(share, area, clip=self.clip)
            reasons[f"the region {name!r} is empty."] = area <= 0
            reasons[f"the region {name!r} fills the crop."] = area >= 1
        return Reasoned(columns, reasons)
