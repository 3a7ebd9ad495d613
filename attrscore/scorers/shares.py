"""How heat is spread over the regions of a crop, and over the stains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attrscore.core.contracts import INPUT, Reasoned
from attrscore.core.heat import Heat
from attrscore.core.passes import Pass
from attrscore.core.readings import Declared
from attrscore.core.regions import every_region, find_region, names_of
from attrscore.core.registry import SCORERS
from attrscore.errors import ConfigError, DataError, UnsupportedError

__all__ = ["ChannelShares", "RegionShares", "channel_shares", "log_density_ratio"]


def log_density_ratio(
    share: Tensor, area: Tensor, beside: Tensor, area_beside: Tensor, /, *, finest: float
) -> tuple[Tensor, Tensor]:
    """Log ratio of the densities of heat in two regions, and whether it was clipped; (N,) float64.

    Each region has its ``share`` of the heat and its ``area`` fraction, (N,) each; a density is
    share / area, 1 by chance. Densities below ``finest`` count as ``finest``: of a map with K
    positions 1 / K, as if one position of K had the heat that it has by chance. So a region
    without heat has a finite ratio, which a finer grid lets go further from 0.

    The ratio is 0 where both are as dense; clipped is 1 where a density was below ``finest``, else
    0. Both are NaN where a region is empty.

    >>> share, area = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.5, 0.2, 0.5])
    >>> ratio, clipped = log_density_ratio(share, area, 1 - share, 1 - area, finest=1 / 49)
    >>> ratio.round(decimals=3).tolist(), clipped.tolist()
    ([0.0, 1.386, -4.585], [0.0, 0.0, 1.0])
    """
    empty = (area <= 0) | (area_beside <= 0)
    densities = torch.stack([share.double() / area, beside.double() / area_beside])
    ratio = densities.clamp(min=finest).log()
    clipped = (densities < finest * (1 - 1e-9)).any(0).double()  # a flat map is not, as it rounds
    return (ratio[0] - ratio[1]).masked_fill(empty, torch.nan), clipped.masked_fill(
        empty | densities.isnan().any(0), torch.nan
    )


@SCORERS.register("region_shares")
@dataclass(frozen=True, kw_only=True)
class RegionShares:
    """How heat is spread over regions: the share and the density of each.

    ``regions`` are names of the dataset's regions, or what follows from them: ``cytoplasm`` (the
    cell without its nucleus), ``boundary`` (what is within ``ring`` micrometres of the cell's edge,
    on either side; voxels where spacing is unknown) and ``background`` (what no region but a
    boundary covers, where neighbours are known). ``null`` takes all that there are. Regions may
    overlap, as cell and nucleus do; cell, neighbours and background sum to 1.

    With S_r the share of heat in region r and f_r its area fraction, the columns of each are

    - ``<region>``: S_r, within [0, 1]; f_r by chance, 0 in an empty region
    - ``<region>.area``: f_r
    - ``<region>.density``: S_r / f_r; 1 by chance; NaN in an empty region
    - ``<region>.log_density_ratio``: ln[(S_r / f_r) / ((1 - S_r) / (1 - f_r))]; 0 by chance; NaN in
      an empty or full region
    - ``<region>.log_density_ratio.clipped``: 1 where a density was below what the layer's grid
      resolves, 1 / its number of positions, and was taken as that; else 0

    NaN where the heat has no mass or is not finite. Two regions are compared by the ratio of
    their densities. By the adjoint: no full-size map. The share is the relevance mass accuracy of
    Arras et al., Information Fusion 2022, the log ratio the log odds of the Grad-CAMO score.

    :raises DataError: a region that is neither there nor follows from others.

    >>> import attrscore
    >>> from attrscore.testing.samples import cells, net
    >>> scorer = RegionShares(regions="nucleus")
    >>> (result,) = attrscore.run(net(), cells(), scorers=scorer, layers="high")
    >>> result.columns["region_shares.nucleus.density"].round(3)
    array([0.369, 0.   , 0.   , 0.   ])
    """

    readings: ClassVar[Declared] = {
        "*.area": {"range": (0, 1), "chance": None},
        "*.density": {"range": (0, None), "chance": 1},
        "*.log_density_ratio": {"chance": 0},
        "*.clipped": {"range": (0, 1), "chance": None},
        "*": {"range": (0, 1), "chance": ".area"},
    }

    regions: Sequence[str] | None = None
    """Names; null: all of the dataset, with cytoplasm, boundary, background where they follow."""
    ring: float = 1.0
    """Micrometres on either side of the cell's edge that are the boundary."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "regions", names_of(self.regions))
        if not self.ring > 0:
            raise ConfigError(f"ring={self.ring} must be a positive number of micrometres.")

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
            ratio, clipped = log_density_ratio(share, area, 1 - share, 1 - area, finest=heat.finest)
            columns[f"{name}.log_density_ratio"] = ratio
            columns[f"{name}.log_density_ratio.clipped"] = clipped
            reasons[f"the region {name!r} is empty."] = area <= 0
            reasons[f"the region {name!r} fills the crop."] = area >= 1
        return Reasoned(columns, reasons)


def channel_shares(masses: Tensor, /) -> Tensor:
    """Each channel's share of attribution: masses (N, C) -> (N, C) float64, a row sums to 1.

    NaN where all are 0 or one is not finite. Chance is 1 / C.

    >>> channel_shares(torch.tensor([[3.0, 1.0], [0.0, 0.0]]))
    tensor([[0.7500, 0.2500],
            [   nan,    nan]], dtype=torch.float64)
    """
    total = masses.double().sum(1, keepdim=True)
    return torch.where((total > 0) & total.isfinite(), masses / total, torch.nan)


@SCORERS.register("channel_shares")
@dataclass(frozen=True, kw_only=True)
class ChannelShares:
    """How attribution is spread over the stains, at the input and at layers that keep them apart.

    Such layers have tokens of single channels (ChannelViT, OpenPhenom), channels folded into the
    batch (MorphEm), or run once for each channel, as patch embeddings do.

    With h_c the map of channel c after the sign rule of the heat (``channels=absolute`` takes
    absolutes; a sum over the stains is not made), the columns are

    - ``<stain>``: sum(h_c) / sum over all channels; these sum to 1, 1 / C by chance
    - ``<stain>.<region>``: sum(M h_c) / sum over all channels, for each of ``regions`` (``null``:
      all, with what follows from them; see ``region_shares``); f / C by chance

    A channel that a layer does not see has 0. NaN where no channel has mass or a value is not
    finite. One pass over the map a channel, whatever its size.

    :raises UnsupportedError: a map of a layer that joins the stains, or one map for all of them.
    :raises DataError: names that are not as many as the channels, or a region that is not there.
    """

    readings: ClassVar[Declared] = {"*": {"range": (0, 1), "chance": None}}

    stains: Sequence[str] | None = None
    """Names of the channels in their order; null: those of the dataset, else c0, c1 ..."""
    regions: Sequence[str] | None = ("cell",)
    """Names; null: all of the dataset, and those that follow from them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "regions", names_of(self.regions))
        if self.stains is not None:
            stains = tuple(map(str, self.stains))
            if len(set(stains)) != len(stains):
                raise ConfigError(f"stains={list(stains)} must be different names.")
            object.__setattr__(self, "stains", stains)

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """Column -> (N,) float64."""
        count = run.batch.inputs.shape[1]
        at_input = heat.layer in (None, INPUT)
        stains = tuple(range(count)) if at_input else _stains_at(run, heat)
        if not stains or (at_input and heat.signed.shape[1:] != run.batch.inputs.shape[1:]):
            raise UnsupportedError(
                "a map of every input channel is needed; use a method that explains the input: "
                "saliency, input_x_gradient, integrated_gradients; or a layer that keeps the "
                "channels apart, as those of ChannelViT do."
            )
        names = self.stains or run.batch.stains or tuple(f"c{channel}" for channel in range(count))
        if len(names) != count:
            raise DataError(
                f"stains={list(names)} names {len(names)} channels, and the inputs have {count}."
            )
        regions = self.regions or every_region(run)
        options = replace(heat.options, minmax="never")
        masses: dict[str, list[Tensor]] = {"": [], **{name: [] for name in regions}}
        planes = dict(zip(stains, heat.signed.chunk(len(stains), 1), strict=True))
        unseen = torch.zeros_like(planes[stains[0]])
        for channel in range(count):
            signed = planes.get(channel, unseen)
            alone = Heat(signed, heat.space, options, grids=heat.grids)
            masses[""].append(alone.mass())
            for name in regions:
                masses[name].append(alone.mass(find_region(run, name)))
        total = torch.stack(masses[""], 1).sum(1)
        shares = channel_shares(torch.stack(masses[""], 1))
        columns = {}
        for channel, name in enumerate(names):
            columns[name] = shares[:, channel]
            for region in regions:
                columns[f"{name}.{region}"] = torch.where(
                    shares[:, channel].isnan(), torch.nan, masses[region][channel] / total
                )
        return columns


def _stains_at(run: Pass, heat: Heat) -> tuple[int, ...]:
    """The channels of the image that the map of a layer keeps apart, on the layer's own grid."""
    info = run.layers.infos.get(str(heat.layer))
    stains = info.layout.stains if info is not None and info.layout is not None else ()
    own = info is not None and info.grid in (None, tuple(heat.signed.shape[2:]))
    return stains if own and stains and heat.signed.shape[1] % len(stains) == 0 else ()
