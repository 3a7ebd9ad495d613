"""Nulls: where a cell's share of heat S stands among shares that mean nothing.

Each gives the columns ``mean`` and ``sd`` of its null, ``z``, which is (S - mean) / sd, and the
``score`` itself, the percentile of S: the share of the null below it, ties counted half. 0.5 is
chance. All are NaN where S is undefined, and ``z`` where the null has no spread. One more null
needs no scorer: the same network with randomised weights (``model.randomize``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from attrscore.core.contracts import Reasoned
from attrscore.core.heat import Heat
from attrscore.core.passes import Pass
from attrscore.core.readings import Declared
from attrscore.errors import DataError, did_you_mean

__all__ = ["STANDING", "share_of", "standing"]

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
