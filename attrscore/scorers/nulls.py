"""Nulls: where a cell's share of heat S stands among shares that mean nothing.

Each gives the columns ``mean`` and ``sd`` of its null, ``z``, which is (S - mean) / sd, and the
``score`` itself, the percentile of S: the share of the null below it, ties counted half. 0.5 is
chance. All are NaN where S is undefined, and ``z`` where the null has no spread. One more null
needs no scorer: the same model with randomised weights (``model.randomize``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from scipy import ndimage
from torch import Tensor

from attrscore.core.contracts import Reasoned
from attrscore.core.grids import area_fraction
from attrscore.core.heat import Heat
from attrscore.core.passes import Pass, generator_of
from attrscore.core.readings import Declared
from attrscore.core.registry import SCORERS
from attrscore.errors import ConfigError, DataError, choose, did_you_mean

__all__ = [
    "STANDING",
    "CircularShift",
    "MaskSwap",
    "RandomMap",
    "share_of",
    "shifted_shares",
    "standing",
]

TIE = 1e-9
"""Shares closer than this are equal: a Fourier transform rounds."""

STANDING: Declared = {
    "score": {"better": "higher", "range": (0, 1), "chance": 0.5},
    "z": {"better": "higher", "chance": 0},
    "*": {"chance": None},
}
"""How the columns of every null are to be read."""


def standing(observed: Tensor, null: Tensor, /) -> Reasoned:
    """Where (N,) stands among (N, D), values that are NaN left out: columns (N,) float64.

    >>> standing(torch.tensor([0.3]), torch.tensor([[0.1, 0.2, 0.3, 0.4]]))["score"]
    tensor([0.6250], dtype=torch.float64)
    """
    observed, null = observed.double(), null.double()
    there = null.isfinite()
    count = there.sum(1)
    mean = null.nanmean(1)
    sd = ((null - mean[:, None]).square().nansum(1) / (count - 1)).sqrt()
    sd = torch.where(count > 1, sd, torch.nan)
    gap = null - observed[:, None]
    below = ((gap < -TIE).double() + (gap.abs() <= TIE).double() / 2).sum(1) / count
    columns = {
        "score": torch.where(count > 0, below, torch.nan),
        "mean": mean,
        "sd": sd,
        "z": torch.where(sd > TIE, (observed - mean) / sd, torch.nan),
    }
    return Reasoned(
        {name: each.masked_fill(observed.isnan(), torch.nan) for name, each in columns.items()},
        {"there is nothing to compare with.": count == 0, "the null has no spread.": ~(sd > TIE)},
    )


def share_of(heat: Heat, run: Pass, region: str, scorer: str) -> Tensor:
    """S with NaN where it is undefined, (N,)."""
    regions = run.batch.regions
    if region not in regions:
        raise DataError(f"{scorer} needs the region {region!r}. {did_you_mean(region, regions)}")
    states = heat.status(regions[region])
    lost = [state not in ("ok", "unresolvable") for state in states]
    share = heat.mass(regions[region]) / heat.mass()
    return share.masked_fill(torch.tensor(lost, device=share.device), torch.nan)


@SCORERS.register("mask_swap")
@dataclass(frozen=True)
class MaskSwap:
    """Where the share of heat S stands among the same map's shares on the masks of other cells.

    What centred crops alone give. The masks are those of the pool but the cell's own, by its id.
    Compared is the lift, S over the area fraction of the mask, and ``mean`` and ``sd`` are of that:
    a larger cell has a larger share wherever the model looks, so that under random weights the
    share itself (``of="share"``) is above .95 of the null in .29 of the largest fifth of cells, by
    their area alone. The lift is high in small cells instead, where heat keeps to bright cells: .29
    of the smallest fifth, .04 of the largest, on phantoms. Read either beside the area. Costs no
    forward.
    """

    readings: ClassVar[Declared] = STANDING

    region: str = "cell"
    """A region of the dataset."""
    of: Literal["share", "lift"] = "lift"
    """The share, or the share over the area fraction, which does not follow the area."""
    needs_pool: ClassVar[bool] = True

    def __post_init__(self) -> None:
        choose(self.of, ("share", "lift"), option="of")

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """Column -> (N,) float64."""
        share = share_of(heat, run, self.region, "mask_swap")
        pool = run.need_pool()
        if self.region not in pool.regions:
            raise DataError(
                f"The pool has no region {self.region!r}. {did_you_mean(self.region, pool.regions)}"
            )
        masks = pool.regions[self.region]
        pulled = heat.grid.pull(masks).double().flatten(1)
        null = heat.native.double().flatten(1) @ pulled.T / heat.mass()[:, None]
        area = area_fraction(masks)
        own = torch.tensor(
            [[cell == other for other in pool.ids] for cell in run.batch.ids], device=null.device
        )
        null = null.masked_fill(own | (area == 0) | (area == 1), torch.nan)
        if self.of == "lift":
            share, null = share / heat.area(run.batch.regions[self.region]), null / area
        return standing(share, null)


def shifted_shares(heat: Tensor, mask: Tensor, /) -> Tensor:
    """The share of heat on the mask under every circular shift: (*S), (*S) -> (*S) float64.

    The entry at 0 is the share itself; the mean over all is the area fraction of the mask, since
    every voxel is met by the mask equally often.

    >>> shifted_shares(torch.tensor([1.0, 3.0, 0.0, 0.0]), torch.tensor([1.0, 1.0, 0.0, 0.0]))
    tensor([1.0000, 0.7500, 0.0000, 0.2500], dtype=torch.float64)
    """
    heat, mask = heat.double(), mask.double()
    share = torch.fft.rfftn(heat / heat.sum())
    met: Tensor = torch.fft.irfftn(share * torch.fft.rfftn(mask).conj(), s=heat.shape)
    return met.clamp(0, 1)


@SCORERS.register("circular_shift")
@dataclass(frozen=True)
class CircularShift:
    """Where the share of heat S stands among those under all circular shifts of the map.

    Exactly, by Fourier transforms; ``mean`` is the area fraction. Keeps the shape of map and mask
    and loses where they lie, around the edges.

    It says how much the place matters, and is no test of what was learnt: a smooth map with its
    mass in the middle stands high on a centred cell whatever made it. Under random weights the
    score is above .95 in up to .96 of the cells. Costs no forward, and two Fourier transforms of
    the crop.
    """

    readings: ClassVar[Declared] = STANDING

    region: str = "cell"
    """A region of the dataset."""

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """Column -> (N,) float64."""
        share = share_of(heat, run, self.region, "circular_shift")
        region = run.batch.regions[self.region]
        rows = []
        # A map at a time: the null of a map has as many values as the crop has voxels.
        for native, mask, own in zip(heat.native, region, share, strict=True):
            # Resized in float64, as S is summed: else no shift would be its equal.
            full = heat.grid.push(native[None].double())[0]
            rows.append(standing(own[None], shifted_shares(full, mask).flatten()[None]))
        joined, reasons = (
            {key: torch.cat([each[key] for each in some]) for key in some[0]}
            for some in (rows, [row.reasons for row in rows])
        )
        return Reasoned(joined, reasons)


@SCORERS.register("random_map")
@dataclass(frozen=True)
class RandomMap:
    """Where the share of heat S stands among those of smooth random maps on the layer's grid.

    Normal noise smoothed by a Gaussian of the standard deviation ``smooth``, in voxels of the grid,
    then through the same heat: its sign, stretch and resize. What maps of this resolution give that
    know nothing. A cell's maps follow from ``seed`` and its id. Costs no forward, and ``count``
    maps a cell and grid, computed once for all methods.

    >>> import attrscore
    >>> from attrscore.testing.samples import cells, net
    >>> (result,) = attrscore.run(net(), cells(), scorers=RandomMap(count=20), layers="high")
    >>> result.columns["random_map"].round(3)
    array([0.842, 0.6  , 0.3  , 0.025])
    """

    readings: ClassVar[Declared] = STANDING

    region: str = "cell"
    """A region of the dataset."""
    count: int = 100
    """Maps a cell and grid."""
    smooth: float = 1.0
    """Standard deviation of the smoothing, in voxels of the grid."""
    seed: int = 0
    """Of what is drawn; a cell's draws follow from it and the id alone."""

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
