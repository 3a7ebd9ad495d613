"""The null of smooth random maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy import ndimage
from torch import Tensor

from attrscore.core.heat import Heat
from attrscore.core.passes import Pass
from attrscore.core.readings import Declared
from attrscore.core.registry import SCORERS
from attrscore.errors import ConfigError
from attrscore.scorers.donors import generator_of
from attrscore.scorers.nulls import STANDING, share_of, standing

__all__ = ["RandomMap"]


@SCORERS.register("random_map")
@dataclass(frozen=True)
class RandomMap:
    """S among the shares of ``count`` smooth random maps on the layer's own grid.

    Normal noise smoothed by a Gaussian of the standard deviation ``smooth``, in places of the grid,
    then through the same heat: its sign, stretch and resize. What maps of this resolution give that
    know nothing. A cell's maps follow from ``seed`` and its id. Costs no forward, and ``count``
    maps a cell and grid, computed once for all methods.
    """

    readings: ClassVar[Declared] = STANDING

    region: str = "cell"
    count: int = 100
    smooth: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 2 or self.smooth < 0:
            raise ConfigError(
                "random_map needs a count of at least 2 and smooth of at least 0; given: "
                f"{self.count}, {self.smooth}."
            )

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """Column -> (N,) float64."""
        share = share_of(heat, run, self.region, "random_map")
        null = run.once(
            (self, heat.grid.native, heat.options), lambda: self._shares(heat, run).to(share.device)
        )
        return standing(share, null)

    def _shares(self, like: Heat, run: Pass) -> Tensor:
        """(N, count), a map of every cell at a time."""
        drawn = [generator_of(self.seed, "random_map", cell) for cell in run.batch.ids]
        region = run.batch.regions[self.region]
        sigma = [0.0, *[self.smooth] * len(like.grid.native)]
        shares = []
        for _ in range(self.count):
            noise = torch.stack([torch.randn(like.grid.native, generator=each) for each in drawn])
            smooth = torch.from_numpy(ndimage.gaussian_filter(noise.double().numpy(), sigma))
            made = Heat(
                smooth[:, None].to(region.device), like.space, like.options, grids=like.grids
            )
            shares.append(made.mass(region) / made.mass())
        return torch.stack(shares, 1)
