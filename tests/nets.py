"""Small networks and batches that the tests share."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from attrscore.core import Batch

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

SPACES = {2: (12, 10), 3: (6, 8, 10)}


def conv(dimensions: int, *args: int, **options: int) -> nn.Module:
    return getattr(nn, f"Conv{dimensions}d")(*args, **options)


class Net(nn.Module):
    """conv-relu-conv-relu-GAP-linear with a strided second convolution, in float64."""

    def __init__(
        self,
        dimensions: int,
        *,
        act: type[nn.Module] = nn.ReLU,
        inplace: bool = False,
        classes=3,
        pooled: bool = False,
    ) -> None:
        super().__init__()
        # By modules, for methods that see nothing else.
        pool = getattr(nn, f"AdaptiveAvgPool{dimensions}d")
        self.pooling = nn.Sequential(pool(1), nn.Flatten()) if pooled else None
        options = {"inplace": True} if inplace else {}
        self.low = conv(dimensions, 2, 5, 3, padding=1)
        self.act1 = act(**options)
        self.high = conv(dimensions, 5, 4, 3, padding=1, stride=2)
        self.act2 = act(**options)
        self.unused = nn.Linear(1, 1)
        self.head = nn.Linear(4, classes)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act2(self.high(self.act1(self.low(x))))
        return self.head(x.flatten(2).mean(2) if self.pooling is None else self.pooling(x))


def net(dimensions: int = 2, **options) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return Net(dimensions, **options).eval()


def batch(dimensions: int = 2, n: int = 4, seed: int = 0) -> Batch:
    """Random crops with a box as the cell and another as its neighbour."""
    generator = torch.Generator().manual_seed(seed)
    space = SPACES[dimensions]
    inputs = torch.rand((n, 2, *space), generator=generator, dtype=torch.float64) - 0.3
    cell = torch.zeros((n, *space), dtype=torch.bool)
    neighbours = torch.zeros_like(cell)
    for i in range(n):
        cell[(i, ..., slice(2, 5 + i % 3), slice(1, 6))] = True
        neighbours[(i, ..., slice(-2, None), slice(-3, None))] = True
    return Batch(
        inputs=inputs,
        regions={"cell": cell, "neighbours": neighbours},
        label=torch.arange(n) % 3,
        ids=[f"c{seed}-{i}" for i in range(n)],
        meta={"Metadata_Well": [f"A{i}" for i in range(n)]},
    )


def cells(dimensions: int = 2, n: int = 4, seed: int = 0) -> Batch:
    """As :func:`batch`, with a nucleus and a spacing."""
    data = batch(dimensions, n=n, seed=seed)
    nucleus = torch.zeros_like(data.regions["cell"])
    nucleus[..., 3, 2:4] = True
    spacing = (0.7, 0.4, 0.3)[-dimensions:]
    return replace(data, regions={**data.regions, "nucleus": nucleus}, spacing=spacing)


def pool(dimensions: int = 2) -> Batch:
    """Other cells than those of :func:`cells`, of every class."""
    return cells(dimensions, n=6, seed=3)
