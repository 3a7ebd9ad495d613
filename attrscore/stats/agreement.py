"""Do methods agree: on which cells score high, and on where a cell is hot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd

from attrscore.errors import ConfigError, DataError, choose
from attrscore.stats.conditions import by_condition, by_id, label
from attrscore.stats.resampling import numbers

__all__ = ["agreement", "map_agreement", "map_matrix"]

Array = np.ndarray[Any, Any]


def agreement(
    table: pd.DataFrame, /, *, score: str = "grad_camo", over: Sequence[str] = ("method", "layer")
) -> pd.DataFrame:
    """Spearman's correlation of per-cell scores, a square matrix of conditions.

    Each pair over the cells that both define; NaN with fewer than 3 of them, or where one of both
    scores is constant. The diagonal is 1 where a score varies. ``over`` are the columns that name a
    condition; the table must hold one row a cell for each of them.

    >>> rows = pd.DataFrame({"id": list("abcabc"), "method": ["x"] * 3 + ["y"] * 3, "layer": "l",
    ...                      "grad_camo": [1., 2, 3, 30, 20, 10]})
    >>> agreement(rows).round(6).loc["x l", "y l"]
    np.float64(-1.0)

    :raises DataError: several rows of a cell in one condition.
    """
    columns: dict[str, pd.Series[Any]] = {}
    for condition, rows in by_condition(table, over):
        values = numbers(by_id(rows), score)
        finite = np.where(np.isfinite(values), values, np.nan)
        columns[label(condition, over)] = pd.Series(finite, rows["id"].to_numpy())
    return pd.DataFrame(columns).corr("spearman", min_periods=3)


def map_agreement(
    maps: Mapping[str, tuple[Sequence[str], Array]], /, *, top: float = 0.1
) -> pd.DataFrame:
    """How alike the heat of the same cells is under several methods; a row a pair.

    ``maps`` are signed (N, C, *s) on one grid by name, with their ids, as ``read_maps`` gives them;
    their channels are summed and what is negative is 0. Columns: ``first``, ``second``, ``cells``;
    ``rank`` is the mean over cells of Spearman's correlation over the grid; ``overlap`` that of the
    share of the hottest ``top`` (at least one position) that both have; ``overlap_chance`` is what
    unrelated maps would share. Constant maps, blank ones among them, count for neither.

    >>> one = np.arange(20.0).reshape(1, 1, 4, 5)
    >>> map_agreement({"a": (["x"], one), "b": (["x"], 2 * one)})["overlap"].tolist()
    [1.0]

    :raises ConfigError: ``top`` outside of (0, 1).
    :raises DataError: maps on different grids, which cannot be laid on each other.
    """
    if not 0 < top < 1:
        raise ConfigError(f"top={top} must lie between 0 and 1.")
    grids = {name: array.shape[2:] for name, (_, array) in maps.items()}
    if len(set(grids.values())) > 1:
        raise DataError(f"Maps to be compared must lie on one grid; given: {grids}.")
    heats = {name: _heat(ids, array) for name, (ids, array) in maps.items()}
    ranks = {name: heat.rank(axis=1) for name, heat in heats.items()}
    rows = []
    for a, b in combinations(heats, 2):
        cells = heats[a].index.intersection(heats[b].index, sort=False)
        size = heats[a].shape[1]
        hottest = max(1, round(top * size))
        one, other = (_hottest(heats[name].loc[cells].to_numpy(), hottest) for name in (a, b))
        rank = ranks[a].loc[cells].corrwith(ranks[b].loc[cells], axis=1).mean()
        rows.append(
            {
                "first": a,
                "second": b,
                "cells": len(cells),
                "rank": rank if size > 2 else np.nan,
                "overlap": (one & other).sum() / len(cells) / hottest if len(cells) else np.nan,
                "overlap_chance": hottest / size,
            }
        )
    return pd.DataFrame(rows)


def map_matrix(pairs: pd.DataFrame, value: Literal["rank", "overlap"] = "rank", /) -> pd.DataFrame:
    """A column of :func:`map_agreement` as a square matrix of methods; 1 on the diagonal.

    >>> pairs = pd.DataFrame({"first": ["a"], "second": ["b"], "rank": [0.5], "overlap": [0.2]})
    >>> map_matrix(pairs, "overlap").to_numpy().tolist()
    [[1.0, 0.2], [0.2, 1.0]]

    :raises ConfigError: a value that is neither.
    """
    choose(value, ("rank", "overlap"), option="value")
    names = list(dict.fromkeys([*pairs["first"], *pairs["second"]]))
    matrix = pd.DataFrame(np.eye(len(names)), index=names, columns=names)
    for a, b, found in zip(pairs["first"], pairs["second"], pairs[value], strict=True):
        matrix.loc[a, b] = matrix.loc[b, a] = found
    return matrix


def _heat(ids: Sequence[str], maps: Array) -> pd.DataFrame:
    """Signed (N, C, *s) as heat, a row a cell and a column a position, without constant maps."""
    heat = np.clip(maps.astype(np.float64).sum(1), 0, None).reshape(len(maps), -1)
    varies = np.isfinite(heat).all(1) & (np.ptp(heat, axis=1) > 0)
    return pd.DataFrame(heat[varies], np.asarray(ids, dtype=object)[varies])


def _hottest(heat: Array, count: int) -> Array:
    """Which positions of (N, P) are among the hottest of their row, the first of equals."""
    order = np.argsort(-heat, axis=1, kind="stable")
    return np.argsort(order, axis=1) < count
