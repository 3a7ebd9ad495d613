"""Whether rows that were computed again are the rows that were stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from attrscore.store.identity import canonical, flatten

__all__ = ["Comparison", "compare", "moved"]

_ROW = ["id", "method", "layer", "target"]


@dataclass(frozen=True)
class Comparison:
    """What became of a reproduction."""

    verdict: Literal["identical", "differs", "impossible"]
    sentence: str
    differences: Mapping[str, str] = field(default_factory=dict)
    """Column, or setting -> by how much."""


def moved(stored: Mapping[str, Any], now: Mapping[str, Any], /) -> dict[str, str]:
    """The settings that no longer are what they were: weights, data, versions."""
    before, after = flatten(stored), flatten(now)
    return {
        name: f"{before.get(name)} then, {after.get(name)} now"
        for name in sorted(before.keys() | after.keys())
        if canonical(before.get(name)) != canonical(after.get(name))
    }


def compare(stored: pd.DataFrame, now: pd.DataFrame, /) -> Comparison:
    """Two tables of the same rows: texts equal, numbers equal to the last bit, or by how much not.

    Rows are matched by id, method, layer and target; only columns of ``stored`` count.
    """
    row = [name for name in _ROW if name in stored and name in now]
    before = stored.set_index(row).sort_index()
    after = now.set_index(row).sort_index()
    rows = f"{len(before)} rows"
    if not before.index.equals(after.index):
        lost = len(before.index.difference(after.index))
        more = len(after.index.difference(before.index))
        return Comparison(
            "differs", f"The rows are not the same: {lost} of {rows} are gone, {more} are new."
        )
    differences = {}
    for name in before:
        if name not in after:
            differences[str(name)] = "is not computed any more"
        elif (how := _apart(before[name], after[name])) is not None:
            differences[str(name)] = how
    if differences:
        sentence = f"Of {rows}, some differ in {len(differences)} of {before.shape[1]} columns:"
        return Comparison("differs", sentence, differences)
    return Comparison("identical", f"Identical: {rows}, every column to the last bit.")


def _apart(before: pd.Series[Any], after: pd.Series[Any]) -> str | None:
    if pd.api.types.is_numeric_dtype(before) and pd.api.types.is_numeric_dtype(after):
        old, new = before.to_numpy(dtype=np.float64), after.to_numpy(dtype=np.float64)
        if np.array_equal(old, new, equal_nan=True):
            return None
        undefined = int((np.isnan(old) != np.isnan(new)).sum())
        both = np.isfinite(old) & np.isfinite(new)
        most = np.abs(old[both] - new[both]).max(initial=0.0)
        only = f", {undefined} rows defined in one only" if undefined else ""
        return f"by {most:.3g} at most{only}"
    unequal = before.astype(object).fillna("") != after.astype(object).fillna("")
    return f"in {int(unequal.sum())} rows" if bool(unequal.any()) else None
