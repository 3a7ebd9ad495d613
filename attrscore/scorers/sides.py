"""The two sides of an intervention: the cell, and all but the cell."""

from __future__ import annotations

import torch
from torch import Tensor

from attrscore.core.passes import Pass

__all__ = ["INSIDE", "NO_SIDES", "OUTSIDE", "exchanged", "mask_of", "one_sided"]

OUTSIDE, INSIDE = 0, 1

NO_SIDES = "the mask is nowhere, or everywhere, above 0.5."


def exchanged(image: Tensor, other: Tensor, mask: Tensor, side: Tensor, /) -> Tensor:
    """The image with one side of the mask from another: ``side`` 1 the inside, 0 all else.

    Image and other (M, C, *S), mask (M, 1, *S) bool, side (M,) -> (M, C, *S).

    >>> image, other = torch.ones(2, 1, 3), torch.zeros(2, 1, 3)
    >>> mask = torch.tensor([[[True, False, False]]]).expand(2, 1, 3)
    >>> exchanged(image, other, mask, torch.tensor([OUTSIDE, INSIDE]))[:, 0]
    tensor([[1., 0., 0.],
            [0., 1., 1.]])
    """
    inside = (side == INSIDE).view(-1, *[1] * (image.ndim - 1))
    return torch.where(mask ^ inside, image, other)


def one_sided(run: Pass, /) -> Tensor:
    """Which cells cannot be told from the rest, or have pixels that are not finite; (N,) bool."""
    own = mask_of(run.batch.regions["cell"]).flatten(1)
    return ~own.any(1) | own.all(1) | ~run.batch.inputs.flatten(1).isfinite().all(1)


def mask_of(region: Tensor, /) -> Tensor:
    """(N, *S) within [0, 1] -> (N, 1, *S) bool."""
    return (region > 0.5)[:, None]
