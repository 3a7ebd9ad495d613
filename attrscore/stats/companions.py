"""What a condition is judged beside: its null and its swap, found among the rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from attrscore.stats.bootstrap import numbers
from attrscore.stats.conditions import RANDOMIZE, by_condition, columns_of

__all__ = ["null_of", "swap_of"]


def null_of(
    condition: dict[str, Any],
    table: pd.DataFrame,
    nulls: pd.DataFrame,
    null: str | None,
    column: str,
    /,
) -> pd.DataFrame:
    """The draw of randomised weights with the highest mean, for one condition."""
    held = [name for name in columns_of(table, without=["model", "seed"]) if name != "attrscore"]
    rows: pd.DataFrame = nulls[_alike(nulls, condition, held)]
    named = rows["model"].astype(str) == null
    of_it = rows["model"].astype(str) == str(condition["model"])
    if RANDOMIZE in rows:
        of_it &= rows[RANDOMIZE].astype(str) == "all"
    rows = rows[named | of_it]
    if column not in rows or rows.empty:
        return rows
    draws = [draw for _, draw in by_condition(rows, columns_of(table))]
    return max(draws, key=lambda draw: _mean(numbers(draw, column)))


def _mean(values: np.ndarray[Any, Any]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else -np.inf


def swap_of(
    condition: dict[str, Any], table: pd.DataFrame, tested: pd.DataFrame, /
) -> pd.DataFrame:
    """The swap of a condition's model: a row a cell, whatever the method and layer.

    Columns ``inside``, ``outside`` and ``difference`` are NaN where the swap is undefined; without
    them no swap was run.
    """
    if "swap.inside" not in tested or "swap.outside" not in tested:
        return pd.DataFrame()
    held = columns_of(table, without=["method", "layer", "heat", "scorer"])
    rows: pd.DataFrame = tested[_alike(tested, condition, held)]
    inside, outside = (numbers(rows, f"swap.{side}") for side in ("inside", "outside"))
    rows = rows.assign(inside=inside, outside=outside, difference=inside - outside)
    means = rows.groupby("id")[["inside", "outside", "difference"]].transform("mean")
    return rows.assign(**{str(name): means[name] for name in means}).drop_duplicates("id")


def _alike(rows: pd.DataFrame, condition: dict[str, Any], names: Sequence[str]) -> Any:
    """Which rows have the condition's values in these columns; missing equals missing."""
    same = np.ones(len(rows), dtype=bool)
    for name in names:
        wanted = condition[name]
        column = rows[name]
        same &= (column.isna() if pd.isna(wanted) else column == wanted).to_numpy(dtype=bool)
    return same
