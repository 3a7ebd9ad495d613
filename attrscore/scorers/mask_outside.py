"""Intervention: what the network says when the cell, or all but the cell, is taken away.

It does not look at a map: a job computes it once a batch, however many methods and layers.
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
from attrscore.core.readings import Declared
from attrscore.core.registry import SCORERS
from attrscore.scorers.response import Fill, Filling, clean_response, respond, why_undefined
from attrscore.scorers.sides import NO_SIDES, exchanged, mask_of, one_sided

__all__ = ["MaskOutside"]


@SCORERS.register("mask_outside")
@dataclass(frozen=True)
class MaskOutside(Filling):
    """How much the explained probability drops when a part of the crop is taken away.

    ``outside``: all but the cell is replaced by the ``fill`` (see
    :func:`attrscore.scorers.response.filling`); ``inside``: the cell is. ``score`` is inside -
    outside, above 0 where the cell matters more than all the rest. Simpler than ``swap``, weaker
    cell by cell: further from any real image, and a class that the network also predicts of an
    empty crop loses nothing. NaN where the mask is empty or full or a pixel is not finite. Costs
    2 forwards a cell and batch, whatever the number of methods and layers.
    """

    readings: ClassVar[Declared] = {
        "score": {"better": "higher", "chance": 0},
        "inside": {"better": "higher", "chance": None},
        "outside": {"better": "lower", "chance": None},
    }

    fill: Fill = "mean"

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:  # noqa: ARG002  # contract
        """Column -> (N,) float64; the same for every map of a batch."""
        return run.once(self, lambda: self._masked(run))

    def _masked(self, run: Pass) -> Reasoned:
        filled = self.filled(run)
        own, inputs = mask_of(run.batch.regions["cell"]), run.batch.inputs
        lost = one_sided(run)

        def alter(rows: Tensor, numbers: Tensor) -> Tensor:
            return exchanged(inputs[rows], filled[rows], own[rows], numbers)

        responses, _ = respond(run, 2, alter, chunk=self.chunk)
        drops = clean_response(run)[:, None] - responses
        outside, inside = drops.masked_fill(lost[:, None], torch.nan).unbind(1)
        return Reasoned(
            {"score": inside - outside, "outside": outside, "inside": inside},
            {**why_undefined(run, fill=self.fill, seed=self.seed), NO_SIDES: lost},
        )
