"""A small model and small batches, 2D and 3D, in float64, on which plugins are tried."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attrscore.core.contracts import Batch

SPACES: dict[int, tuple[int, ...]] = {2: (12, 10), 3: (6, 8, 10)}
"""*S of the batches, by dimensions."""


def conv(dimensions: int, *args: int, **options: int) -> nn.Module:
    """A convolution of so many dimensions."""
    made: nn.Module = getattr(nn, f"Conv{dimensions}d")(*args, **options)
    return made


class Net(nn.Module):
    """conv-relu-conv-relu-GAP-linear with a strided second convolution, in float64.

    ``pooled`` pools by modules, for methods that see nothing else; ``dense`` does not pool, and
    scores each position of the second convolution.
    """

    def __init__(
        self,
        dimensions: int,
        *,
        act: type[nn.Module] = nn.ReLU,
        inplace: bool = False,  # as torch calls it
        classes: int = 3,
        pooled: bool = False,
        dense: bool = False,
    ) -> None:
        super().__init__()
        pool = getattr(nn, f"AdaptiveAvgPool{dimensions}d")
        self.dense = dense
        self.pooling = nn.Sequential(pool(1), nn.Flatten()) if pooled else None
        options: dict[str, Any] = {"inplace": True} if inplace else {}
        self.low = conv(dimensions, 2, 5, 3, padding=1)
        self.act1 = act(**options)
        self.high = conv(dimensions, 5, 4, 3, padding=1, stride=2)
        self.act2 = act(**options)
        self.unused = nn.Linear(1, 1)
        self.head = nn.Linear(4, classes)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        """(N, 2, *S) -> (N, K), or (N, K, *s)."""
        x = self.act2(self.high(self.act1(self.low(x))))
        if self.dense:
            scores: Tensor = self.head(x.movedim(1, -1)).movedim(-1, 1)
            return scores
        made: Tensor = self.head(x.flatten(2).mean(2) if self.pooling is None else self.pooling(x))
        return made


def net(dimensions: int = 2, **options: Any) -> Net:
    """The model in eval mode, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        made: Net = Net(dimensions, **options).eval()
        return made


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
