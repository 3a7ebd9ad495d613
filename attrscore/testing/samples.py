"""Small models and batches, 2D and 3D, in float64, on which plugins are tried.

Beside them what ``attrscore leaderboard`` asks methods about: a network whose weights make it
provable what it reads, with cells for it, and the one that it trains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attrscore.core.contracts import Batch, InputSpec
from attrscore.datasets.phantom import Phantom
from attrscore.models.tiny import TinyNetwork

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


def halves(size: Sequence[int], cells: int = 8, seed: int = 0) -> list[tuple[Tensor, Tensor, int]]:
    """Phantom crops (C, *S), each with the half that :class:`HalfBlind` reads as its cell, (*S)."""
    batch = Phantom(size=tuple(size), cells=cells, seed=seed).read(range(cells))
    read = torch.zeros(tuple(size), dtype=torch.bool)
    read[..., : size[-1] // 2] = True
    return [(crop, read, int(label)) for crop, label in zip(batch.inputs, batch.label, strict=True)]
