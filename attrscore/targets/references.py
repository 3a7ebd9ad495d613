"""Reference profiles that are made of the data: the mean embedding of a group of cells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from attrscore.core.contracts import Batch, Dataset, Target
from attrscore.core.model import as_found, call, check_output, device_of, unwrap
from attrscore.errors import DataError, did_you_mean, preview
from attrscore.targets import GroupMean

__all__ = ["group_mean", "resolved"]

Where = Mapping[str, Any]
"""Column -> the value, or the values, of the group."""


def group_mean(
    model: nn.Module,
    data: Dataset | Batch | Iterable[Batch],
    /,
    *,
    where: Where | GroupMean,
    output: str | int | None = None,
    batch_size: int = 32,
    autocast: bool = False,
) -> tuple[float, ...]:
    """The mean of the model's output over the cells of a group, summed in float64: K numbers.

    ``group_mean(model, dataset, where={"Metadata_Treatment": "DMSO"})`` is what ``Cosine`` and
    ``Contrast`` take. Of a dataset, only the cells of the group are read. One forward pass a cell.

    :raises DataError: no such column, no such cell, or an output that is not finite.
    """
    group = where if isinstance(where, GroupMean) else GroupMean.of(where)
    model = unwrap(model)
    total: torch.Tensor | None = None
    count = 0
    for batch, member in _chosen(data, group, batch_size):
        batch = batch.to(device_of(model))
        with as_found(model), torch.no_grad():
            found = call(model, batch.inputs, *batch.others, autocast=autocast)
            scores = check_output(found, len(batch), output).double()
        summed = scores[torch.from_numpy(member).to(scores.device)].sum(0)
        total = summed if total is None else total + summed
        count += int(member.sum())
    if total is None:
        raise DataError(f"No cell belongs to the group {group}; the data hold none of its values.")
    mean = total / count
    if not bool(mean.isfinite().all()):
        raise DataError(
            f"The mean embedding of {group} is not finite: leave out cells with NaN pixels, or "
            "compute in another precision."
        )
    return tuple(mean.tolist())


def resolved(
    target: Target, model: nn.Module, data: Dataset | Batch | Iterable[Batch], /, **options: Any
) -> Target:
    """The target with the means of its groups of cells computed, as :func:`group_mean` does.

    A target without groups is returned as it is. Data that can be read once only must be a list.
    """
    groups = {name: given for name, given in vars(target).items() if isinstance(given, GroupMean)}
    means = {
        name: replace(group, values=group_mean(model, data, where=group, **options))
        for name, group in groups.items()
        if not group.values
    }
    return replace(target, **means) if means else target  # type: ignore[type-var]  # a dataclass


def _chosen(
    data: Dataset | Batch | Iterable[Batch], group: GroupMean, batch_size: int
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Batches with a cell of the group, and which of their cells belong to it."""
    if hasattr(data, "read") and hasattr(data, "table"):
        rows = np.flatnonzero(_members(group, {str(c): data.table[c] for c in data.table}))
        for start in range(0, len(rows), batch_size):
            some = rows[start : start + batch_size].tolist()
            yield data.read(some), np.ones(len(some), dtype=bool)
        return
    for batch in [data] if isinstance(data, Batch) else data:
        member = _members(group, batch.meta)
        if member.any():
            yield batch, member


def _members(group: GroupMean, columns: Mapping[str, Any]) -> np.ndarray:
    """Which rows belong to the group, (N,) bool."""
    member: np.ndarray = np.ones((), dtype=bool)
    for column, values in group.where:
        if column not in columns:
            raise DataError(
                f"The group {group} needs the column {column!r}, which the data do not have: "
                f"{preview(sorted(columns))}. {did_you_mean(column, columns)}"
            )
        member = member & np.isin(np.array([str(v) for v in columns[column]], dtype=object), values)
    return np.atleast_1d(member)
