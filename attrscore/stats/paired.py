"""Differences on the same cells, and what many tests at once leave of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from attrscore.errors import choose
from attrscore.stats.bootstrap import MANY, Resampling, numbers
from attrscore.stats.clusters import Clusters, totals
from attrscore.stats.conditions import by_condition, columns_of, label, once, telling

__all__ = ["adjust", "auroc", "compare", "paired", "sign_flip"]

Array = np.ndarray[Any, Any]

EXACT = 14
"""Up to so many units all sign flips are counted: 2**14."""
_FLIPS = 9999


def adjust(p: Array | pd.Series[Any], /) -> Array:
    """P values adjusted for the false discovery rate; NaN stays, and counts as no test.

    Benjamini, Hochberg, Journal of the Royal Statistical Society B, 1995.

    >>> adjust(np.array([0.01, 0.04, np.nan])).tolist()
    [0.02, 0.04, nan]
    """
    values = np.array(p, dtype=float)
    tested = np.isfinite(values)
    if tested.any():
        values[tested] = stats.false_discovery_control(values[tested])
    return values


def auroc(higher: pd.Series[Any], lower: pd.Series[Any], /) -> float:
    """The chance that a score of the first lies above one of the second, ties counted half.

    Over all pairs of their finite scores, so the cells need not be the same; NaN where either has
    none. An effect size: for p values and intervals that know of wells, see :func:`compare`.

    >>> auroc(pd.Series([3.0, 1.0]), pd.Series([1.0, 0.0, np.nan]))
    0.875
    """
    first, second = (np.asarray(each, dtype=float) for each in (higher, lower))
    first, second = first[np.isfinite(first)], second[np.isfinite(second)]
    if not len(first) or not len(second):
        return np.nan
    return float(stats.mannwhitneyu(first, second).statistic / (len(first) * len(second)))


def sign_flip(values: Array, clusters: Clusters, /, *, seed: int = 0) -> float:
    """P value of "the mean of finite (cells,) is 0", by flipping the sign of whole units.

    Two-sided, of the sum; exact up to 14 units, else from 9999 seeded flips, above 2000 units by
    their normal limit. Its smallest value is 2 / 2**units: with 5 units no p lies below 0.06. NaN
    below 2 units. It assumes that sums of
    units are symmetric about 0 under the null (Canay, Romano, Shaikh, Econometrica 2017).
    """
    units = clusters.units
    if units < 2 or not len(values):
        return np.nan
    sums = totals(clusters.outer, values[:, None])[:, 0]
    if units > MANY:
        size = float(np.sqrt((sums**2).sum()))
        return float(2 * stats.norm.sf(abs(sums.sum()) / size)) if size else 1.0
    if units <= EXACT:
        signs = 1 - 2 * (np.arange(2**units)[:, None] >> np.arange(units) & 1)
    else:
        rng = np.random.default_rng(seed)
        signs = np.vstack([np.ones(units), rng.choice([-1, 1], size=(_FLIPS, units))])
    reached = abs(signs @ sums)
    return float((reached >= abs(sums.sum()) * (1 - 1e-9)).mean())


def paired(
    first: pd.DataFrame,
    second: pd.DataFrame,
    value: str,
    /,
    *,
    clusters: Sequence[str] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The mean of ``first`` minus ``second`` over the cells, by id, that both define.

    ``low`` and ``high`` by bootstrap over units (options of :class:`Resampling`), ``p`` by
    :func:`sign_flip`; ``effect`` is the mean over the deviation of the differences (Cohen's d_z
    over cells, NaN where all are equal), ``wins`` the share of cells where ``first`` is higher,
    ties half; ``unmatched`` counts cells that one of both lacks or leaves undefined.

    >>> wells = pd.DataFrame({"id": list("abc"), "Metadata_Well": list("ABC"), "x": [1., 2, 4]})
    >>> paired(wells.assign(x=wells.x + 1), wells, "x")["difference"]
    1.0

    :raises DataError: a cell that stands twice in one of the tables.
    """
    plan = Resampling(**options)
    one, other = once(first), once(second)
    a = pd.Series(numbers(one, value), one.index)
    b = pd.Series(numbers(other, value), other.index)
    both = pd.concat([a, b], axis=1, keys=["a", "b"]).replace([np.inf, -np.inf], np.nan)
    matched = both.dropna()
    rows = one.loc[matched.index]
    found = Clusters.of(rows, clusters)
    difference = (matched["a"] - matched["b"]).to_numpy()
    point, low, high, interval = plan.means(difference[:, None], found)
    spread = difference.std(ddof=1) if len(difference) > 1 else 0.0
    return {
        "cells": len(matched),
        "unmatched": len(both) - len(matched),
        "mean_first": float(matched["a"].mean()),
        "mean_second": float(matched["b"].mean()),
        "difference": float(point[0]),
        "low": float(low[0]),
        "high": float(high[0]),
        "effect": float(point[0] / spread) if spread > 1e-12 * abs(point[0]) else np.nan,
        "wins": float((np.sign(difference) / 2 + 0.5).mean()) if len(difference) else np.nan,
        "p": sign_flip(difference, found, seed=plan.seed),
        "units": found.units,
        "level": found.level,
        "interval": interval,
        "note": found.note,
    }


def compare(
    table: pd.DataFrame,
    value: str,
    /,
    *,
    between: Literal["model", "method", "layer"],
    clusters: Sequence[str] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """All pairs of models, methods or layers on the same cells, all else equal; a row a pair.

    Columns: what was held equal, ``first``, ``second``, those of :func:`paired`, and ``q``: p over
    all pairs by Benjamini-Hochberg. Methods are compared at one layer (Rao et al., CVPR 2022).
    Options of what is compared do not separate pairs: models with other weights are a pair.

    :raises ConfigError: another ``between``, or no such column.
    """
    choose(between, ("model", "method", "layer"), option="between")
    held = columns_of(table, without=[between])
    rows = []
    for shared, stratum in by_condition(table, held):
        own = [name for name in columns_of(stratum) if name not in held]
        told = telling(stratum, own, [between])
        parts = [(label(condition, told), part) for condition, part in by_condition(stratum, own)]
        for (a, first), (b, second) in combinations(parts, 2):
            made = paired(first, second, value, clusters=clusters, **options)
            rows.append({**shared, "first": a, "second": b, **made})
    found = pd.DataFrame(rows)
    return found.assign(q=adjust(found["p"])) if len(found) else found
