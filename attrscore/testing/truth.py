"""Networks whose weights make it provable what they read, and cells for them.

The known answers of ``attrscore leaderboard``; its other networks are trained on phantoms, whose
labels have a known carrier.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from attrscore.core.contracts import InputSpec
from attrscore.datasets.phantom import Phantom
from attrscore.models.tiny import TinyNetwork

__all__ = ["HalfBlind", "TinyModules", "halves"]


class TinyModules(TinyNetwork):
    """The network of ``tiny_cnn``, made of modules alone, so that LRP can follow it too."""

    def __init__(self, spec: InputSpec, width: int = 16) -> None:
        super().__init__(spec, classes=2, width=width, kernel=3)
        self.pool = getattr(nn, f"AdaptiveAvgPool{spec.dimensions}d")(1)
        self.flat = nn.Flatten()

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, *S) -> (N, 2)."""
        scores: Tensor = self.head(self.flat(self.pool(self.features(inputs))))
        return scores


class HalfBlind(nn.Module):
    """Three 1-wide convolutions; the linear layer behind them has weights of 0 for one half.

    Nothing in the second half of the last axis can reach the output, whatever the other weights,
    and every layer is as active there as in the first half. The layers have the names of those of
    ``tiny_cnn``, on the grid of the input.
    """

    def __init__(self, spec: InputSpec, width: int = 8) -> None:
        super().__init__()
        conv = getattr(nn, f"Conv{spec.dimensions}d")
        norm = getattr(nn, f"BatchNorm{spec.dimensions}d")
        self.features = nn.Sequential(
            conv(spec.channels, width, 1),
            nn.ReLU(),
            norm(width),
            conv(width, width, 1),
            nn.ReLU(),
            norm(width),
            conv(width, width, 1),
            nn.ReLU(),
        )
        self.flat = nn.Flatten()
        self.head = nn.Linear(width * math.prod(spec.size), 2)
        with torch.no_grad():
            read_by_it = self.head.weight.view(2, width, *spec.size)
            read_by_it[..., spec.size[-1] // 2 :] = 0

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, *S) -> (N, 2)."""
        scores: Tensor = self.head(self.flat(self.features(inputs)))
        return scores


def halves(size: list[int], cells: int = 8, seed: int = 0) -> list[tuple[Tensor, Tensor, int]]:
    """Phantom crops (C, *S), each with the half that :class:`HalfBlind` reads as its cell, (*S)."""
    batch = Phantom(size=tuple(size), cells=cells, seed=seed).read(range(cells))
    read = torch.zeros(tuple(size), dtype=torch.bool)
    read[..., : size[-1] // 2] = True
    return [(crop, read, int(label)) for crop, label in zip(batch.inputs, batch.label, strict=True)]
