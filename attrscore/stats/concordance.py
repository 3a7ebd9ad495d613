"""Do methods agree: on which cells score high, and on where a cell is hot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, combinations_with_replacement
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from attrscore.errors import ConfigError, DataError, choose
from attrscore.stats.bootstrap import numbers
from attrscore.stats.conditions import by_condition, label, once

__all__ = ["agreement", "map_agreement", "map_matrix"]

Array = np.ndarray[Any, Any]


def agreement(
    table: pd.DataFrame, /, *, score: str = "grad_camo", over: Sequence[str] = ("method", "layer")
) -> pd.DataFrame:
    """Spearman's correlation of per-cell scores, a square matrix of conditions.

    Each pair over the cells that both define; NaN with fewer than 3 of them, or where one of both
    scores is constant. The diagonal is 1 where a score varies. ``over`` names the columns that tell
    conditions apart; the table must hold one row a cell for each of them.

    >>> rows = pd.DataFrame({"id": list("abcabc"), "method": ["x"] * 3 + ["y"] * 3, "layer": "l",
    ...                      "grad_camo": [1., 2, 3, 30, 20, 10]})
    >>> agreement(rows).round(6).loc["x l", "y l"]
    np.float64(-1.0)

    :raises DataError: several rows of a cell in one condition.
    """
    columns: dict[str, pd.Series[Any]] = {}
    for condition, rows in by_condition(table, over):
        values = numbers(once(rows), score)
        finite = np.where(np.isfinite(values), values, np.nan)
        columns[label(condition, over)] = pd.Series(finite, rows["id"].to_numpy())
    wide = pd.DataFrame(columns)
    matrix = np.full((len(columns), len(columns)), np.nan)
    for i, j in combinations_with_replacement(range(len(columns)), 2):
        pair = wide.iloc[:, [i, j]].dropna().to_numpy()
        matrix[i, j] = matrix[j, i] = _spearman(pair[:, 0], pair[:, 1])
    return pd.DataFrame(matrix, index=wide.columns, columns=wide.columns)


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
    heats = {name: dict(zip(ids, _heat(array), strict=True)) for name, (ids, array) in maps.items()}
    rows = []
    for a, b in combinations(heats, 2):
        pairs = [
            (heats[a][cell], heats[b][cell])
            for cell in heats[a]
            if cell in heats[b] and np.ptp(heats[a][cell]) > 0 and np.ptp(heats[b][cell]) > 0
        ]
        size = int(np.prod(grids[a]))
        hottest = max(1, round(top * size))
        rows.append(
            {
                "first": a,
                "second": b,
                "cells": len(pairs),
                "rank": _mean([_spearman(x, y) for x, y in pairs]),
                "overlap": _mean([_overlap(x, y, hottest) for x, y in pairs]),
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


def _heat(array: Array) -> Array:
    heat = np.clip(array.astype(np.float64).sum(1), 0, None).reshape(len(array), -1)
    return np.where(np.isfinite(heat).all(1, keepdims=True), heat, 0)


def _overlap(a: Array, b: Array, hottest: int) -> float:
    tops = [set(np.argsort(-heat, kind="stable")[:hottest].tolist()) for heat in (a, b)]
    return len(tops[0] & tops[1]) / hottest


def _spearman(a: Array, b: Array) -> float:
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return np.nan
    return float(np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else np.nan
