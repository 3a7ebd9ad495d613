"""From table rows and arrays to a batch, as every dataset needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from attrscore.core.contracts import Batch
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
    table: pd.DataFrame | Mapping[str, np.ndarray[Any, Any]],
    inputs: np.ndarray[Any, Any],
    regions: Mapping[str, np.ndarray[Any, Any]],
    *,
    spacing: tuple[float, ...] | None = None,
    stains: tuple[str, ...] = (),
) -> Batch:
    """A batch of ``inputs`` (N, C, *S) and ``regions`` (N, *S), with N rows of a table beside it.

    The table may also be given as its columns. All columns but ``id`` and ``label`` are carried.
    """
    columns: Mapping[str, Any] = {str(name): table[name] for name in table}  # type: ignore[index]  # either
    return Batch(
        inputs=torch.from_numpy(inputs),
        regions={name: torch.from_numpy(region) for name, region in regions.items()},
        label=torch.tensor(np.array(columns["label"], np.int64)),
        ids=tuple(columns["id"]),
        meta={
            name: values.tolist() for name, values in columns.items() if name not in ("id", "label")
        },
        spacing=spacing,
        stains=stains,
    )
