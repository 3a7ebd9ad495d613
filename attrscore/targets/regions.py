"""A scalar of a dense output, (N, K, *S): of segmentation, restoration, prediction of stains.

A model that says something of every pixel is asked about those of one cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from attrscore.core.contracts import Batch
from attrscore.core.regions import region_of
from attrscore.core.registry import TARGETS
from attrscore.errors import UnsupportedError, choose
from attrscore.targets.classes import OneOutput, class_scores, numbered

__all__ = ["PREDICTED", "Region"]

PREDICTED = "predicted"
"""The pixels that the model gives to a class, where the name of a region is asked."""


@TARGETS.register("region")
@dataclass(frozen=True)
class Region:
    """The mean of one output of a dense model over a region of the crop.

    ``of`` names the region, which is laid on the grid of the output where that is coarser. With
    ``of="predicted"`` it is where the clean crop is given to the class (Vinogradova, Dibrov,
    Myers, AAAI 2020, who take the sum). No ``index`` stands for the class that most of the cell is
    given to. NaN where the region is empty.

    :raises UnsupportedError: the model puts out (N, K), scores of a cell, or its classes last.
    :raises DataError: no such region.
    """

    dense: ClassVar[bool] = True
    of_classes: ClassVar[bool] = False
    of: str = "cell"
    """cell, nucleus, neighbours, cytoplasm, background, boundary ...; or predicted, the pixels that
    the model gives to the class."""
    index: int | None = None
    """The number of the output, from 0; null: the class that most of the cell is given to."""
    one_output: OneOutput = "logit"
    """What the output of a model with one is: of class 1 the logit (above 0 says class 1), or the
    probability (above 0.5)."""

    def __post_init__(self) -> None:
        choose(self.one_output, ("logit", "probability"), option="one_output")

    def __str__(self) -> str:
        return f"region:{self.of}:{PREDICTED if self.index is None else self.index}"

    def prepare(self, output: Tensor, batch: Batch, /) -> Tensor:
        """What each value of the output weighs, (N, K, *s)."""
        if output.ndim != batch.inputs.ndim:
            raise UnsupportedError(
                f"target=region needs a value at each pixel, (N, K, *S), and the model puts out "
                f"{tuple(output.shape)}; for scores of a cell use target=predicted or label."
            )
        n, grid = len(output), tuple(output.shape[2:])
        if grid != batch.space == tuple(output.shape[1:-1]):
            raise UnsupportedError(
                f"target=region needs (N, K, *S), and the model puts out {tuple(output.shape)}, "
                "its classes last; wrap it in a module that returns output.movedim(-1, 1)."
            )
        winner = class_scores(output, self.one_output).argmax(1)
        if self.index is None:
            cell = _on_grid(region_of(batch, "cell"), grid).flatten(1)
            every = range(max(2, output.shape[1]))
            votes = [(cell * (winner == each).flatten(1)).sum(1) for each in every]
            chosen = torch.stack(votes, 1).argmax(1)
        else:
            chosen = numbered([self.index] * n, output)
        each = chosen.view(-1, *[1] * len(grid))
        predicted = self.of == PREDICTED
        mask = (winner == each).double() if predicted else _on_grid(region_of(batch, self.of), grid)
        weights = (mask / mask.flatten(1).sum(1).view_as(each)).to(output)
        if output.shape[1] == 1:  # class 0 has the logit 0, so what speaks for it is the other's
            return torch.where(each == 0, -weights, weights)[:, None]
        return weights[:, None] * nn.functional.one_hot(chosen, output.shape[1]).view(
            n, -1, *[1] * len(grid)
        ).to(output)

    def __call__(self, output: Tensor, aux: Tensor, /) -> Tensor:
        """(N, K, *s) twice -> (N,)."""
        return (output * aux).flatten(1).sum(1)


def _on_grid(region: Tensor, grid: tuple[int, ...]) -> Tensor:
    """A region (N, *S) on the grid of an output, (N, *s) float64, each position its mean."""
    if tuple(region.shape[1:]) == grid:
        return region.double()
    pool = nn.AdaptiveAvgPool2d if len(grid) == 2 else nn.AdaptiveAvgPool3d
    pooled: Tensor = pool(grid)(region.double()[:, None])
    return pooled[:, 0]
