"""A pool of other cells: what donors, nulls and infills are taken from.

A fixed draw from the dataset, the same for every batch, worker and resume, so that no score depends
on which cells happen to share a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from attrscore.core.contracts import Batch, Dataset
from attrscore.errors import ConfigError, DataError

__all__ = ["check_pool", "draw_pool", "needs_pool", "one_readable", "those_readable"]

_TRIED = 100
"""Cells that are tried before it is said that none can be read."""


def needs_pool(plugin: Any, /) -> bool:
    """Whether a method or scorer says, with ``needs_pool = True``, that it takes other cells."""
    behind = getattr(plugin, "function", plugin)
    return bool(getattr(plugin, "needs_pool", getattr(behind, "needs_pool", False)))


def draw_pool(dataset: Dataset, size: int = 64, *, seed: int = 0) -> Batch:
    """``size`` cells of a dataset, or all where it has fewer, on the CPU.

    Classes take turns, so that each is there as often as its cells allow; cells without a label
    count as one class. The draw follows from the seed and the order of the table. Cells that cannot
    be read are left out.

    :raises ConfigError: a size below 1.
    """
    if size < 1:
        raise ConfigError(f"pool={size} must be at least 1 cell; 64 is usual.")
    generator = np.random.default_rng(seed)
    labels = dataset.table["label"].to_numpy()
    order = generator.permutation(len(labels))
    turn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        turn[members] = np.arange(len(members))
    chosen = order[np.argsort(turn[order], kind="stable")][:size]
    return those_readable(dataset, chosen.tolist())


def one_readable(dataset: Dataset, /) -> Batch:
    """The first cell that can be read, of the first hundred.

    :raises Exception: what the first raises, if none can.
    """
    rows = range(min(len(dataset.table), _TRIED))
    return dataset.read([next((row for row in rows if _can_read(dataset, row)), 0)])


def those_readable(dataset: Dataset, rows: Sequence[int], /) -> Batch:
    """The cells of these rows, without those that cannot be read.

    :raises Exception: what the first raises, if none can.
    """
    try:
        return dataset.read(rows)
    except Exception:  # raised again where no cell can be read
        good = [row for row in rows if _can_read(dataset, row)]
        if not good:
            raise
        return dataset.read(good)


def _can_read(dataset: Dataset, row: int) -> bool:
    try:
        dataset.read([row])
    except Exception:  # noqa: BLE001  # recorded where its own row is computed
        return False
    return True


def check_pool(pool: Batch, batch: Batch, /) -> None:
    """Whether the cells of a pool can stand in for those of a batch.

    :raises DataError: other channels or another crop.
    """
    if pool.inputs.shape[1:] != batch.inputs.shape[1:]:
        raise DataError(
            f"The crops of the pool are {tuple(pool.inputs.shape[1:])} (C, *S) and those of the "
            f"batch {tuple(batch.inputs.shape[1:])}; expected the same."
        )
