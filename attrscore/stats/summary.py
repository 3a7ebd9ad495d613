"""One row a condition: how high the scores are, how sure that is, and what could be reached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from attrscore.errors import ConfigError, did_you_mean
from attrscore.readings import chance_of
from attrscore.stats.bootstrap import bootstrap, numbers
from attrscore.stats.clusters import Clusters
from attrscore.stats.conditions import by_condition, columns_of
from attrscore.stats.gaps import undefined
from attrscore.stats.paired import adjust, sign_flip

__all__ = ["CORRECTED", "resolvable", "summarise"]

CORRECTED = ("above_chance", "log_odds", "cell_vs_neighbours")
"""Companions of a score whose chance level is 0, whatever the area of the cell; away from 0 the
first two may move with it."""


def summarise(
    table: pd.DataFrame,
    /,
    *,
    score: str = "grad_camo",
    threshold: float = 0.5,
    by: Sequence[str] = (),
    clusters: Sequence[str] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """A row for each condition, and within it for each group of ``by`` (wells, plates, treatments).

    Columns: those that name the condition and ``by``; ``cells``, ``undefined``, ``unresolvable``;
    ``mean``, its ``low`` and ``high`` over units; ``chance``; P(S > threshold) as ``above`` with
    ``above_low``, ``above_high``, and with undefined cells as never and always above
    (``above_as_zero``, ``above_as_one``); ``attainable``: the share of cells whose grid allows it;
    every column of :data:`CORRECTED` with ``.low`` and ``.high``; ``p`` that ``above_chance`` is 0
    (:func:`sign_flip`) and ``q`` over all rows by Benjamini-Hochberg; ``units``, ``level``,
    ``interval``, ``note``. What the table lacks is NaN.

    >>> rows = pd.DataFrame({"id": ["a", "b"], "model": "m", "method": "x", "layer": "l",
    ...                      "grad_camo": [0.2, 0.6], "Metadata_Well": ["A1", "B1"]})
    >>> summarise(rows)[["cells", "mean", "above"]].values.tolist()
    [[2.0, 0.4, 0.5]]

    :raises ConfigError: no such score or column.
    """
    for name in by:
        if name not in table:
            raise ConfigError(f"There is no column '{name}'. {did_you_mean(name, table)}")
    columns = [*columns_of(table), *by]
    rows = []
    for condition, part in by_condition(table, columns):
        mean = bootstrap(part, score, clusters=clusters, **options)
        above = bootstrap(part, score, clusters=clusters, threshold=threshold, **options)
        bounds = undefined(part, score=score, threshold=threshold)
        known = chance_of(part, score).dropna()
        row: dict[str, Any] = {
            **condition,
            "cells": len(part),
            "undefined": mean.undefined,
            "unresolvable": 1 - resolvable(part, score=score),
            "mean": mean.value,
            "low": mean.low,
            "high": mean.high,
            "chance": float(np.mean(known)) if len(known) else np.nan,
            "above": above.value,
            "above_low": above.low,
            "above_high": above.high,
            "above_as_zero": bounds["as_zero"],
            "above_as_one": bounds["as_one"],
            "attainable": _attainable(part, score, threshold),
        }
        for name in CORRECTED:
            column = f"{score}.{name}"
            found = (
                bootstrap(part, column, clusters=clusters, **options) if column in part else None
            )
            row[name] = found.value if found else np.nan
            row[f"{name}.low"] = found.low if found else np.nan
            row[f"{name}.high"] = found.high if found else np.nan
        row["p"] = _p(part, f"{score}.above_chance", clusters)
        rows.append(row | {k: getattr(mean, k) for k in ("units", "level", "interval", "note")})
    made = pd.DataFrame(rows)
    return made.assign(q=adjust(made["p"])) if rows else made


def resolvable(table: pd.DataFrame, /, *, score: str = "grad_camo") -> float:
    """The share of cells with a score whose grid can tell it from chance; NaN where none has one.

    >>> resolvable(pd.DataFrame({"x": [0.1, 0.2], "x.resolved": [0.3, float("nan")]}), score="x")
    0.5
    """
    finite = np.isfinite(numbers(table, score))
    if f"{score}.resolved" in table:
        told = np.isfinite(numbers(table, f"{score}.resolved"))
    elif "status" in table:
        told = (table["status"] != "unresolvable").to_numpy(dtype=bool)
    else:
        told = finite
    return float(told[finite].mean()) if finite.any() else np.nan


def _attainable(part: pd.DataFrame, score: str, threshold: float) -> float:
    column = f"{score}.highest"
    if column not in part:
        return np.nan
    highest = numbers(part, column)[np.isfinite(numbers(part, score))]
    highest = highest[np.isfinite(highest)]
    return float((highest > threshold).mean()) if len(highest) else np.nan


def _p(part: pd.DataFrame, column: str, clusters: Sequence[str] | None) -> float:
    if column not in part:
        return np.nan
    values = numbers(part, column)
    finite = np.isfinite(values)
    return sign_flip(values[finite], Clusters.of(part, clusters).among(finite))
