"""Does the network need what the map says it needs? Pixels are taken away in the order of heat.

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

from attrscore.core import Reasoned
from attrscore.errors import ConfigError
from attrscore.heat import Heat
from attrscore.passes import Pass
from attrscore.readings import Declared
from attrscore.registry import SCORERS
from attrscore.scorers.donors import generator_of
from attrscore.scorers.response import (
    Fill,
    Filling,
    blank,
    clean_response,
    respond,
    why_undefined,
)

__all__ = ["AverageDrop", "Deletion", "Insertion", "ranks"]


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


@dataclass(frozen=True)
class _Curve(Filling):
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
        area = torch.trapezoid(curve, dx=1 / self.steps, dim=1)
        return Reasoned(
            {"score": area.masked_fill(blank(heat), torch.nan)},
            why_undefined(run, fill=self.fill, seed=self.seed),
        )


@SCORERS.register("deletion")
@dataclass(frozen=True)
class Deletion(_Curve):
    """Area under the response while the hottest voxels are taken away first; low is faithful.

    From 0 to all voxels in ``steps`` equal steps, by the trapezoid rule; what is taken away is
    filled (see :func:`attrscore.scorers.response.filling`). Costs ``steps`` + 1 forwards a cell and
    map. Petsiuk, Das, Saenko, BMVC 2018 (there filled with one constant, a step at least a row).
    """

    readings: ClassVar[Declared] = {"score": {"better": "lower", "chance": None}}

    takes_away = True


@SCORERS.register("insertion")
@dataclass(frozen=True)
class Insertion(_Curve):
    """Area under the response while the hottest voxels are shown first; high is faithful.

    Begins with the filling (see :func:`attrscore.scorers.response.filling`) and ends with the cell,
    in ``steps`` equal steps, by the trapezoid rule. Costs ``steps`` + 1 forwards a cell and map.
    Petsiuk, Das, Saenko, BMVC 2018 (there from a blurred image).
    """

    readings: ClassVar[Declared] = {"score": {"better": "higher", "chance": None}}

    takes_away = False


@SCORERS.register("average_drop")
@dataclass(frozen=True)
class AverageDrop(Filling):
    """How much of the response is lost when only what is hot is shown; low is faithful.

    The cell is multiplied by the resized map over its maximum, and the ``fill`` by the rest.
    ``score`` is max(0, clean - shown) / clean within [0, 1], the term of the paper's mean in
    percent; ``increase`` is 1 where the response rises, else 0. Costs a forward a cell and map.
    Chattopadhay, Sarkar, Howlader, Balasubramanian, WACV 2018.
    """

    readings: ClassVar[Declared] = {
        "score": {"better": "lower", "range": (0, 1), "chance": None},
        "increase": {"better": "higher", "range": (0, 1), "chance": None},
    }

    fill: Fill = "zero"

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """Column -> (N,) float64."""
        inputs = run.batch.inputs
        filled = self.filled(run)
        full = heat.full()[:, None]
        shown = (full / full.amax(tuple(range(1, full.ndim)), keepdim=True)).to(inputs)

        def alter(rows: Tensor, numbers: Tensor) -> Tensor:  # noqa: ARG001  # one alteration
            return shown[rows] * inputs[rows] + (1 - shown[rows]) * filled[rows]

        responses, _ = respond(run, 1, alter, chunk=self.chunk)
        clean, masked = clean_response(run), responses[:, 0]
        columns = {
            "score": (clean - masked).clamp(min=0) / clean.abs(),
            "increase": (masked > clean).double(),
        }
        return Reasoned(
            {name: each.masked_fill(blank(heat), torch.nan) for name, each in columns.items()},
            why_undefined(run, fill=self.fill, seed=self.seed),
        )
