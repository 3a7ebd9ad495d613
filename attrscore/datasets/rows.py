"""From table rows and arrays to a batch, as every dataset needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from attrscore.core import Batch
from attrscore.errors import DataError

__all__ = ["chosen", "to_batch"]


def chosen(rows: Sequence[int], total: int, /) -> list[int]:
    """Row numbers as whole numbers.

    :raises DataError: one that does not exist, named.
    """
    numbers = [int(row) for row in rows]
    outside = [row for row in numbers if not 0 <= row < total]
    if outside:
        raise DataError(f"Row {outside[0]} does not exist; rows are 0 to {total - 1}.")
    return numbers


def to_batch(
    table: pd.DataFrame,
    inputs: np.ndarray[Any, Any],
    regions: Mapping[str, np.ndarray[Any, Any]],
    *,
    spacing: tuple[float, ...] | None = None,
    stains: tuple[str, ...] = (),
) -> Batch:
    """A batch of ``inputs`` (N, C, *S) and ``regions`` (N, *S), with N rows of a table beside it.

    All columns but ``id`` and ``label`` are carried.
    """
    return Batch(
        inputs=torch.from_numpy(inputs),
        regions={name: torch.from_numpy(region) for name, region in regions.items()},
        label=torch.tensor(table["label"].to_numpy(dtype=np.int64, copy=True)),
        ids=tuple(table["id"]),
        meta={
            str(name): table[name].tolist() for name in table.columns if name not in ("id", "label")
        },
        spacing=spacing,
        stains=stains,
    )
