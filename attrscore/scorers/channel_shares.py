"""The share of attribution by stain, and by stain and region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attrscore.core.contracts import INPUT
from attrscore.core.heat import Heat
from attrscore.core.passes import Pass
from attrscore.core.readings import Declared
from attrscore.core.registry import SCORERS
from attrscore.errors import ConfigError, DataError, UnsupportedError
from attrscore.scorers.regions import every_region, find_region, names_of

__all__ = ["ChannelShares", "channel_shares"]


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
    """How attribution is spread over the stains, for maps on the input.

    With h_c the map of channel c after the sign rule of the heat (``channels=absolute`` takes
    absolutes; a sum over channels is not made), the columns are

    - ``<stain>``: sum(h_c) / sum over all channels; these sum to 1, 1 / C by chance
    - ``<stain>.<region>``: sum(M h_c) / sum over all channels, for each of ``regions`` (``null``:
      all, with what follows from them; see ``region_shares``); f / C by chance

    ``stains`` names the channels; ``null`` takes the names that the dataset knows, else c0, c1 and
    so on. NaN where no channel has mass or
    a value is not finite. One pass over the map a channel, whatever its size.

    :raises UnsupportedError: a map of a layer, whose channels are no stains, or one map for all
        channels.
    :raises DataError: names that are not as many as the channels, or a region that is not there.
    """

    readings: ClassVar[Declared] = {"*": {"range": (0, 1), "chance": None}}

    stains: Sequence[str] | None = None
    regions: Sequence[str] | None = ("cell",)

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
        if heat.layer not in (None, INPUT) or heat.signed.shape[1:] != run.batch.inputs.shape[1:]:
            raise UnsupportedError(
                "a map of every input channel is needed; use a method that explains the input: "
                "saliency, input_x_gradient, integrated_gradients."
            )
        names = self.stains or run.batch.stains or tuple(f"c{place}" for place in range(count))
        if len(names) != count:
            raise DataError(
                f"stains={list(names)} names {len(names)} channels, and the inputs have {count}."
            )
        regions = self.regions or every_region(run)
        options = replace(heat.options, minmax="never")
        masses: dict[str, list[Tensor]] = {"": [], **{name: [] for name in regions}}
        for channel in range(count):
            signed = heat.signed[:, channel : channel + 1]
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
