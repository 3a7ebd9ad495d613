"""Small networks and batches that the tests share: those of attrscore.testing."""

from __future__ import annotations

import torch
from torch import nn

from attrscore.testing.samples import SPACES, Net, batch, cells, conv, net, pool

__all__ = [
    "CHEAP",
    "SPACES",
    "Attending",
    "Net",
    "attending",
    "batch",
    "cells",
    "conv",
    "net",
    "pool",
]

CHEAP = {
    "deletion": {"steps": 4},
    "infidelity": {"samples": 4},
    "insertion": {"steps": 4},
    "random_map": {"count": 9},
    "road": {"fractions": [0.3, 0.6]},
    "sensitivity_max": {"samples": 2},
    "swap": {"count": 2},
}
"""Options of scorers that take long by default."""


class _Block(nn.Module):
    """Attention of two heads by a softmax of its own, and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, 4))

    def forward(self, x):
        q, k, v = (
            each.unflatten(2, (2, 2)).transpose(1, 2)
            for each in nn.functional.linear(x, self.weight).chunk(3, 2)
        )
        attention = (q @ k.mT).softmax(-1)
        return x + (attention @ v).transpose(1, 2).flatten(2)


class Attending(nn.Module):
    """A transformer of two blocks with the names of :class:`Net`, pooled by its class token."""

    def __init__(self, dimensions: int = 2, *, inplace: bool = False) -> None:
        super().__init__()
        size = SPACES[dimensions][0] // 3
        self.embed = conv(dimensions, 2, 4, size, stride=size)
        self.act1 = nn.ReLU(inplace=inplace)
        self.first = nn.Parameter(torch.randn(1, 1, 4))
        self.tokens = nn.Identity()  # where they can be seen before they are mixed
        self.low, self.high = _Block(), _Block()
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 3)
        self.double()

    def forward(self, x):
        x = self.act1(self.embed(x)).flatten(2).mT
        x = self.tokens(torch.cat([self.first.expand(len(x), -1, -1), x], 1))
        return self.head(self.norm(self.high(self.low(x)))[:, 0])


def attending(dimensions: int = 2, *, inplace: bool = False) -> Attending:
    """The model in eval mode, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return Attending(dimensions, inplace=inplace).eval()
