"""A scorer under maps that are given, with a network and without."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from attrscore.core.contracts import INPUT, Batch
from attrscore.core.heat import Heat
from attrscore.engine.run import run
from attrscore.errors import UnsupportedError
from attrscore.testing.contract import Subject
from attrscore.testing.samples import SPACES, cells, pool

__all__ = ["OF_THE_MASK", "Bare", "Columns", "Given", "of_the_map", "scored", "signed_maps"]

OF_THE_MASK = (".chance", ".area", ".highest", ".lowest")
"""Ends of the names of columns that the region or the crop alone says, whatever the map."""

Columns = dict[str, np.ndarray]


class Bare:
    """A pass without a network."""

    def __init__(self, data: Batch) -> None:
        self.batch = data

    def need_pool(self) -> Batch:
        """Other cells."""
        return pool(len(self.batch.space)).to(self.batch.inputs.device)

    def once(self, _key: object, compute: Any) -> Any:
        """Nothing is kept."""
        return compute()


class Given:
    """A method whose maps are given, by the ids of cells."""

    def __init__(self, signed: Tensor, data: Batch, layer: str) -> None:
        self.explains = INPUT if layer == INPUT else "layers"
        self.layer = layer
        self.of = dict(zip(data.ids, signed, strict=True))

    def __call__(self, current: Any, /) -> dict[str, Tensor]:
        """The maps of the cells of this pass."""
        return {self.layer: torch.stack([self.of[i] for i in current.batch.ids])}


def signed_maps(dimensions: int, layer: str, n: int = 4) -> Tensor:
    """Normal noise, (N, 2, *S) at the input and half as fine at a layer."""
    generator = torch.Generator().manual_seed(3)
    space = SPACES[dimensions]
    grid = space if layer == INPUT else tuple(extent // 2 for extent in space)
    return torch.randn((n, 2, *grid), generator=generator, dtype=torch.float64)


def of_the_map(scorer: Any, /) -> bool:
    """Whether a scorer does with the map, its regions and masks of other cells: no network."""
    heat = Heat(signed_maps(2, INPUT), SPACES[2], layer=INPUT)
    try:
        scorer(heat, Bare(cells(2)))
    except (AttributeError, UnsupportedError):
        return False
    return True


def scored(
    subject: Subject, signed: Tensor, data: Batch, layer: str = INPUT, **options: Any
) -> tuple[Columns, Columns]:
    """The scorer's columns under maps that are given, and the whole rows."""
    options = {"pool": pool(len(data.space)), "on_error": "raise", **options}
    (result,) = run(
        subject.network(subject.dimensions),
        data,
        methods={"given": Given(signed, data, layer)},
        scorers={"s": subject.plugin},
        layers="high",
        **options,
    )
    columns = dict(result.columns)
    own = {name: each for name, each in columns.items() if name == "s" or name.startswith("s.")}
    return own, columns
