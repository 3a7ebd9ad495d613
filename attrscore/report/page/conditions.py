"""The conditions of a report, each with its rows, under short names that a page can use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from attrscore.report.figures.summaries import named
from attrscore.stats.conditions import by_condition, columns_of, is_null
from attrscore.stats.resampling import numbers
from attrscore.store.maps import order_of

if TYPE_CHECKING:
    from attrscore.stats import Report

__all__ = ["Condition", "anchor", "conditions_of"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Condition:
    """One network under one method at one layer, and whatever else tells it apart."""

    key: str
    about: Mapping[str, Any]
    series: str
    """The network in words."""
    place: str
    """Method and layer in words."""
    rows: pd.DataFrame
    score: str

    @cached_property
    def scores(self) -> Array:
        """The score of every row, NaN where undefined."""
        found = numbers(self.rows, self.score)
        return np.where(np.isfinite(found), found, np.nan)

    @cached_property
    def by_id(self) -> dict[str, int]:
        """Cell -> number of its row."""
        return {name: row for row, name in enumerate(self.rows["id"].astype(str))}

    @cached_property
    def percentiles(self) -> Array:
        """The share of defined cells below each cell's score, ties counted half, in percent."""
        values = self.scores
        finite = np.sort(values[np.isfinite(values)])
        if not len(finite):
            return np.full(len(values), np.nan)
        below = (np.searchsorted(finite, values) + np.searchsorted(finite, values, "right")) / 2
        return np.where(np.isfinite(values), 100 * below / len(finite), np.nan)


def conditions_of(table: pd.DataFrame, found: Report, /, *, null: str | None) -> list[Condition]:
    """The conditions of a table without randomised weights, in its order."""
    tested = table[~is_null(table, null=null)]
    parts = list(by_condition(tested, columns_of(tested)))
    words = named(pd.DataFrame([about for about, _ in parts]), found.shown) if parts else None
    return [
        Condition(
            f"c{i}",
            about,
            str(words["series"].iloc[i]) if words is not None else "",
            str(words["place"].iloc[i]) if words is not None else "",
            rows,
            found.score,
        )
        for i, (about, rows) in enumerate(parts)
    ]


def anchor(dataset: str, name: str, /) -> str:
    """Where a cell stands in the page: letters and digits, whatever the id holds."""
    return f"cell-{order_of(f'{dataset}/{name}')[:12]}"
