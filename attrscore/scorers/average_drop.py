"""What is lost when only what is hot is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attrscore.core.contracts import Reasoned
from attrscore.core.heat import Heat
from attrscore.core.passes import Pass
from attrscore.core.readings import Declared
from attrscore.core.registry import SCORERS
from attrscore.scorers.response import (
    Fill,
    Filling,
    blank,
    clean_response,
    respond,
    why_undefined,
)

__all__ = ["AverageDrop", "relative_drop"]


def relative_drop(clean: Tensor, shown: Tensor, /) -> Tensor:
    """What is lost of a response, max(0, clean - shown) / |clean|: (N,), NaN where clean is 0.

    >>> relative_drop(torch.tensor([0.8, 0.8, 0.0]), torch.tensor([0.6, 0.9, 0.0]))
    tensor([0.2500, 0.0000,    nan])
    """
    return (clean - shown).clamp(min=0) / clean.abs()


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
            "score": relative_drop(clean, masked),
            "increase": (masked > clean).double(),
        }
        return Reasoned(
            {name: each.masked_fill(blank(heat), torch.nan) for name, each in columns.items()},
            why_undefined(run, fill=self.fill, seed=self.seed),
        )
