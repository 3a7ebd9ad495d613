"""Does the network need what the map says it needs? Pixels change in the order of heat.

Responses are probabilities of the explained class; for a scalar of an embedding, the scalar over
its absolute value on the clean cell (:func:`attrscore.scorers.response.response`). NaN for maps
without positive mass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attrscore.core.contracts import Reasoned
from attrscore.core.heat import Heat
from attrscore.core.passes import Pass
from attrscore.errors import ConfigError
from attrscore.scorers.donors import generator_of
from attrscore.scorers.response import Fill, Filling, blank, respond, why_undefined

__all__ = ["Curve", "area_under", "ranks"]


def ranks(heat: Tensor, /, *, ids: tuple[str, ...], seed: int) -> Tensor:
    """The place of every voxel in the order of heat, hottest 0: (N, *S) -> (N, V) int64.

    Ties, such as all that is cold, stand in an order drawn from ``seed`` and the cell's id: an
    order by place would favour a side of the crop.

    >>> ranks(torch.tensor([[0.1, 3.0, 2.0]]), ids=("a",), seed=0)
    tensor([[2, 0, 1]])
    """
    flat = heat.flatten(1)
    places = flat.shape[1]
    shuffled = torch.stack(
        [torch.randperm(places, generator=generator_of(seed, "ties", cell)) for cell in ids]
    ).to(flat.device)
    order = flat.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
    order = shuffled.gather(1, order)
    return torch.empty_like(order).scatter_(
        1, order, torch.arange(places, device=flat.device).expand_as(order)
    )


def area_under(curve: Tensor, /) -> Tensor:
    """Area under responses at equal steps from 0 to 1, by the trapezoid rule: (N, T + 1) -> (N,).

    >>> area_under(torch.tensor([[1.0, 0.5, 0.0], [1.0, 0.0, 0.0]]))
    tensor([0.5000, 0.2500])
    """
    return torch.trapezoid(curve, dx=1 / (curve.shape[1] - 1), dim=1)


@dataclass(frozen=True)
class Curve(Filling):
    """The area under the response while voxels change in the order of heat, hottest first."""

    fill: Fill = "blur"
    steps: int = 20
    takes_away: ClassVar[bool]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ConfigError(f"steps={self.steps} must be at least 1.")

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """``score``, (N,) float64."""
        inputs = run.batch.inputs
        filled = self.filled(run)
        rank = ranks(heat.full(), ids=tuple(run.batch.ids), seed=self.seed)
        voxels = rank.shape[1]

        def alter(rows: Tensor, numbers: Tensor) -> Tensor:
            changed = (numbers * voxels / self.steps).round().long()
            first = (rank[rows] < changed[:, None]).view(-1, 1, *run.batch.space)
            return torch.where(first ^ (not self.takes_away), filled[rows], inputs[rows])

        curve, _ = respond(run, self.steps + 1, alter, chunk=self.chunk)
        area = area_under(curve)
        return Reasoned(
            {"score": area.masked_fill(blank(heat), torch.nan)},
            why_undefined(run, fill=self.fill, seed=self.seed),
        )
