"""Models, methods and layers compared: on the same cells, or adjusted to alike cells.

At the end the ranks of many entries over many measures, as in a leaderboard.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from attrscore.errors import ConfigError, choose, did_you_mean
from attrscore.stats.conditions import (
    CONFLICTING,
    GUIDE,
    UNSCORED,
    by_condition,
    by_id,
    columns_of,
    distinguishing,
    is_null,
    label,
)
from attrscore.stats.resampling import (
    FEWEST,
    MANY,
    Clusters,
    Estimate,
    Resampling,
    bootstrap,
    numbers,
    totals,
)

__all__ = [
    "FINDINGS",
    "Ranking",
    "adjust",
    "adjusted",
    "answers",
    "auroc",
    "compare",
    "critical_difference",
    "difference",
    "estimates",
    "paired",
    "pareto",
    "ranked",
    "repairs",
    "separation",
    "sign_flip",
]

Array = np.ndarray[Any, Any]

EXACT = 14
"""Up to so many units all sign flips are counted: 2**14."""
_FLIPS = 9999
ROUNDING = 64 * float(np.finfo(np.float32).eps)
"""Relative difference that is rounding in float32, summed over a model: 7.6e-6."""

DENSITY = ("Metadata_neighbours", "region_shares.neighbours.area")
"""Columns that say how crowded a crop is; :func:`adjusted` takes the first that is there."""


def adjust(p: Array | pd.Series[Any], /) -> Array:
    """Adjust p values for the false discovery rate; NaN stays NaN and counts as no test.

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
    none. An effect size; its interval over units is :func:`separation`.

    >>> auroc(pd.Series([3.0, 1.0]), pd.Series([1.0, 0.0, np.nan]))
    0.875
    """
    first, second = (np.asarray(each, dtype=float) for each in (higher, lower))
    first, second = first[np.isfinite(first)], second[np.isfinite(second)]
    if not len(first) or not len(second):
        return np.nan
    return float(stats.mannwhitneyu(first, second).statistic / (len(first) * len(second)))


def separation(
    higher: pd.DataFrame,
    lower: pd.DataFrame,
    value: str,
    /,
    *,
    clusters: Sequence[str] | None = None,
    **options: Any,
) -> Estimate:
    """The :func:`auroc` of a column between two tables, with an interval over units.

    Units that both tables have are resampled together, as models are audited on the same cells.
    A resample weighs the pairs of every two units, so cells cost nothing; options are those of
    :class:`Resampling`, whose intervals are ``expanded`` or ``percentile`` here, of fewer than 5
    units ``t``.

    >>> wells = pd.DataFrame({"Metadata_Well": list("ABCDE"), "x": [1.0, 2, 3, 4, 5]})
    >>> found = separation(wells.assign(x=wells.x + 1), wells, "x")
    >>> round(found.value, 2), found.units
    (0.68, 5)
    """
    both = pd.concat([higher, lower], ignore_index=True)
    values = numbers(both, value)
    first = np.arange(len(both)) < len(higher)
    finite = np.isfinite(values)
    units = Clusters.of(both, clusters).among(finite)
    values, first = values[finite], first[finite]
    wins = np.zeros((max(units.units, 1),) * 2)
    pairs = wins.copy()
    for unit in range(len(wins)):
        theirs = np.sort(values[~first & (units.outer == unit)])
        below = np.searchsorted(theirs, values[first]) + np.searchsorted(
            theirs, values[first], "right"
        )
        codes = units.outer[first]
        wins[:, unit] = np.bincount(codes, weights=below / 2, minlength=len(wins))
        pairs[:, unit] = np.bincount(codes, minlength=len(wins)) * len(theirs)

    def share(weights: Array) -> Array:
        """(resamples, units) -> (resamples,), NaN where one side is not drawn."""
        found, of = (((weights @ each) * weights).sum(1) for each in (wins, pairs))
        shares: Array = np.divide(found, of, out=np.full(len(of), np.nan), where=of > 0)
        return shares

    point, low, high, interval = Resampling(**options).of_units(share, units)
    missing = int((~finite).sum())
    return Estimate(
        *(point, low, high, int(finite.sum()), missing, units.units, units.level),
        *(interval, units.note),
    )


def sign_flip(values: Array, clusters: Clusters, /, *, seed: int = 0) -> float:
    """P value of "the mean of finite (cells,) is 0", by flipping the sign of whole units.

    Two-sided, of the sum; exact up to 14 units, else from 9999 seeded flips, above 2000 units by
    their normal limit. Its smallest value is 2 / 2**units: with 5 units no p lies below 0.06. NaN
    below 2 units. It assumes that sums of units are symmetric about 0 under the null (Canay,
    Romano, Shaikh, Econometrica 2017).
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


def difference(first: Array, second: Array, /) -> Array:
    """``first`` less ``second``, cell by cell; 0 where they differ by the rounding of a model.

    Models compute in float32, so one formula in two orders differs in its last digits, maybe always
    the same way: a test of signs would be sure of that. Rounding is up to :data:`ROUNDING` of the
    larger of both, or of the median size of all.

    >>> difference(np.array([0.5, 0.5]), np.array([0.5 + 1e-8, 0.4])).round(3).tolist()
    [0.0, 0.1]
    """
    sizes = np.maximum(np.abs(first), np.abs(second))
    usual = np.median(sizes[np.isfinite(sizes)]) if np.isfinite(sizes).any() else 0.0
    less: Array = first - second
    return np.where(np.abs(less) <= ROUNDING * np.maximum(sizes, usual), 0.0, less)


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
    ties half. ``ties`` counts cells whose difference is rounding (:func:`difference`), which is 0
    here; ``same`` is whether all are, so that both count as one. ``unmatched`` counts cells that
    one of both lacks or leaves undefined.

    >>> wells = pd.DataFrame({"id": list("abc"), "Metadata_Well": list("ABC"), "x": [1., 2, 4]})
    >>> paired(wells.assign(x=wells.x + 1), wells, "x")["difference"]
    1.0

    :raises DataError: a cell that stands twice in one of the tables.
    """
    plan = Resampling(**options)
    one, other = by_id(first), by_id(second)
    a = pd.Series(numbers(one, value), one.index)
    b = pd.Series(numbers(other, value), other.index)
    both = pd.concat([a, b], axis=1, keys=["a", "b"]).replace([np.inf, -np.inf], np.nan)
    matched = both.dropna()
    rows = one.loc[matched.index]
    found = Clusters.of(rows, clusters)
    less = difference(matched["a"].to_numpy(), matched["b"].to_numpy())
    point, low, high, interval = plan.means(less[:, None], found)
    spread = less.std(ddof=1) if len(less) > 1 else 0.0
    ties = int((less == 0).sum())
    return {
        "cells": len(matched),
        "unmatched": len(both) - len(matched),
        "mean_first": float(matched["a"].mean()),
        "mean_second": float(matched["b"].mean()),
        "difference": float(point[0]),
        "low": float(low[0]),
        "high": float(high[0]),
        "effect": float(point[0] / spread) if spread > 1e-12 * abs(point[0]) else np.nan,
        "wins": float((np.sign(less) / 2 + 0.5).mean()) if len(less) else np.nan,
        "ties": ties,
        "same": bool(len(less)) and ties == len(less),
        "p": sign_flip(less, found, seed=plan.seed),
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
    most: int | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Compare all pairs of models, methods or layers on the same cells, all else equal.

    A row a pair. Columns: what was held equal, ``first``, ``second``, those of :func:`paired`, and
    ``q``: p over the pairs with the same held equal, by Benjamini-Hochberg, so that another method
    changes no q of models under this one. Methods are compared at one layer (Rao et al., CVPR
    2022). Options of what is compared do not separate pairs: models with other weights are a pair.
    ``most`` compares only the first so many, in the order of the table: pairs grow with the square.

    :raises ConfigError: another ``between``, or no such column.
    """
    choose(between, ("model", "method", "layer"), option="between")
    held = columns_of(table, without=[between])
    frames = []
    for shared, stratum in by_condition(table, held):
        own = [name for name in columns_of(stratum) if name not in held]
        named = distinguishing(stratum, own, [between])
        parts = [(label(condition, named), part) for condition, part in by_condition(stratum, own)]
        rows = [
            {**shared, "first": a, "second": b}
            | paired(first, second, value, clusters=clusters, **options)
            for (a, first), (b, second) in combinations(parts[:most], 2)
        ]
        if rows:
            made = pd.DataFrame(rows)
            frames.append(made.assign(q=adjust(made["p"])))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


FINDINGS = {
    "gamed": "the score that it was trained for rose, and its surroundings matter still",
    "mended": "its surroundings matter less than before, and no longer by the swap",
    "partly": "its surroundings matter at most half as much as before, and still do",
    "not mended": "its surroundings matter still",
    "nothing to mend": "its surroundings matter neither with the guide nor without",
    "guesses": "its surroundings do not matter, and it may be right no more often than by chance",
}
"""What a guide did to a model -> in words."""

NEGLIGIBLE = 0.05
"""A drop of probability by swapped surroundings that does not matter, as in the verdict."""


def answers(
    rows: pd.DataFrame,
    /,
    *,
    conflicting: bool,
    clusters: Sequence[str] | None = None,
    **options: Any,
) -> Estimate | None:
    """How often one model is right, with an interval; None where no cell says.

    With ``conflicting`` on the cells alone that ``Metadata_conflicting`` marks with 1: what may be
    a shortcut, the plate or the background, speaks there for another class than the cell, and a
    model that follows it is wrong.
    """
    if not {"label", "predicted"} <= set(rows):
        return None
    known = rows[(rows["label"] >= 0) & (rows["predicted"] >= 0)].drop_duplicates("id")
    if conflicting:
        marks = known[CONFLICTING].astype(str).str.lower() if CONFLICTING in known else None
        known = known[:0] if marks is None else known[marks.isin(("1", "1.0", "true"))]
    if known.empty:
        return None
    right = (known["predicted"] == known["label"]).astype(float)
    # Errors are rare events: a resample without one has no error to divide by.
    options = {"interval": "t", **options}
    return bootstrap(known.assign(right=right), "right", clusters=clusters, **options)


def repairs(
    table: pd.DataFrame,
    /,
    *,
    score: str = "grad_camo",
    clusters: Sequence[str] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """What guides did: each guided model against each that was trained without, all else equal.

    A row a pair, over the cells that both define. ``model.guide`` says what guided a model. With
    the columns that name the condition stand ``guide``, ``model``, ``against``, ``swap`` (what the
    guided model loses by other surroundings), ``conflicting`` (how often it is right where
    ``Metadata_conflicting`` is 1; NaN without such cells), the paired differences
    ``score.difference`` (log odds where there are some) and ``swap.difference`` with their
    intervals ``.low`` and ``.high``, and the ``finding``, of :data:`FINDINGS`. It rests on the
    swap, so that a score that was trained for cannot pass. Models trained with ``swap`` know the
    operation that the swap tests: prefer ``conflicting``. Of a model that may be right no more
    often than by guessing, there or else on all cells, nothing is mended. Empty where nothing was
    guided or swapped.
    Options as for :func:`paired`.
    """
    if GUIDE not in table or "swap.outside" not in table:
        return pd.DataFrame()
    corrected = f"{score}.log_odds" if f"{score}.log_odds" in table else score
    tested = table[~is_null(table)]
    tested = tested.assign(**{GUIDE: tested[GUIDE].fillna("none")})
    own = [n for n in ("model", GUIDE, "model.fingerprint") if n in tested]
    rows = []
    for shared, stratum in by_condition(tested, [n for n in columns_of(tested) if n not in own]):
        arms = list(by_condition(stratum, own))
        plain = [(about, part) for about, part in arms if about[GUIDE] == "none"]
        guided = [(about, part) for about, part in arms if about[GUIDE] != "none"]
        for (about, part), (other, without) in product(guided, plain):
            found = {
                name: paired(part, without, column, clusters=clusters, **options)
                for name, column in (("score", corrected), ("swap", "swap.outside"))
            }
            swap = found["swap"]["mean_first"]
            rose, fell = found["score"]["low"] > 0, found["swap"]["high"] < 0
            flip = answers(part, conflicting=True, clusters=clusters)
            right = flip or answers(part, conflicting=False, clusters=clusters)
            if swap <= NEGLIGIBLE and right and right.low <= 1 / part["label"].nunique():
                finding = "guesses"
            elif swap <= NEGLIGIBLE:
                finding = "mended" if fell else "nothing to mend"
            elif fell and swap <= found["swap"]["mean_second"] / 2:
                finding = "partly"
            else:
                finding = "gamed" if rose and about[GUIDE] not in UNSCORED else "not mended"
            rows.append(
                {**shared, "guide": about[GUIDE], "model": about["model"]}
                | {"against": other["model"], "cells": found["swap"]["cells"], "swap": swap}
                | {"conflicting": flip.value if flip else np.nan}
                | {
                    f"{name}.{end}": values[end]
                    for name, values in found.items()
                    for end in ("difference", "low", "high")
                }
                | {"finding": finding}
            )
    return pd.DataFrame(rows)


def adjusted(
    table: pd.DataFrame,
    /,
    *,
    group: str,
    score: str = "grad_camo",
    covariates: Sequence[str] | None = None,
    clusters: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """The mean score of each group of cells, adjusted by linear regression; a row a group.

    Ordinary least squares of the score on the groups and on centred covariates, all groups having
    the same slopes; the adjusted mean is the prediction at the mean covariates. Errors are
    cluster-robust over units (Liang, Zeger, Biometrika 1986; with statsmodels' small-sample factor)
    with t on units - 1 degrees of freedom: they assume nothing of how the cells of a well resemble
    each other, and never fail to converge as a mixed model may. Below about 10 units they are too
    narrow, and below 5 they are not given.

    ``covariates`` are columns; None takes those that are there of the area fraction
    ``<score>.chance``, the density and ``confidence``. The density is the number of neighbours
    ``Metadata_neighbours``, else their area fraction, which the scorer ``region_shares`` gives. A
    covariate that is constant, or that the groups determine, is left out. Cells that lack one of
    the values are left out too.

    Columns: the group, ``cells``, ``mean`` (as it is), ``adjusted``, ``low`` and ``high`` (NaN
    below 5 units), ``units``, ``covariates`` (those used), ``note``.

    >>> rows = pd.DataFrame({"g": list("aabb"), "x": [1., 2, 3, 4], "x.chance": [1., 2, 3, 4],
    ...                      "Metadata_Well": list("ABCD")})
    >>> adjusted(rows, group="g", score="x")["adjusted"].round(6).tolist()
    [2.5, 2.5]

    :raises ConfigError: a column that is not there.
    """
    if group not in table:
        raise ConfigError(f"There is no column '{group}'. {did_you_mean(group, table)}")
    density = [name for name in DENSITY if name in table][:1]
    usual = [f"{score}.chance", *density, "confidence"]
    wanted = usual if covariates is None else list(covariates)
    names = [name for name in wanted if covariates is not None or name in table]
    values = numbers(table, score)
    # A covariate that no cell has would leave no cell.
    beside = {name: numbers(table, name) for name in names}
    beside = {name: column for name, column in beside.items() if np.isfinite(column).any()}
    whole = np.isfinite(values) & table[group].notna().to_numpy()
    for column in beside.values():
        whole &= np.isfinite(column)
    codes, groups = pd.factorize(table.loc[whole, group], sort=True)
    found, values = Clusters.of(table, clusters).among(whole), values[whole]
    design, used = np.eye(len(groups))[codes], []
    for name, column in beside.items():
        spread = column[whole].std() if len(values) else 0.0
        if spread <= 1e-9 * np.abs(column[whole]).max(initial=0.0):
            continue
        wider = np.column_stack([design, (column[whole] - column[whole].mean()) / spread])
        if np.linalg.matrix_rank(wider) == wider.shape[1]:
            design = wider
            used.append(name)
    means, errors = _fit(values, design, found, len(groups))
    reach = stats.t.ppf(0.5 + confidence / 2, found.units - 1) if found.units > 1 else np.nan
    return pd.DataFrame(
        {
            group: groups,
            "cells": np.bincount(codes, minlength=len(groups)),
            "mean": [float(values[codes == i].mean()) for i in range(len(groups))],
            "adjusted": means,
            "low": means - reach * errors,
            "high": means + reach * errors,
            "units": found.units,
            "covariates": ", ".join(used) or "none",
            "note": found.note,
        }
    )


def _fit(values: Array, design: Array, clusters: Clusters, groups: int) -> tuple[Array, Array]:
    """Coefficients of the groups, and their cluster-robust errors."""
    import statsmodels.api as sm  # takes a second to load

    nothing = np.full(groups, np.nan)
    if len(values) <= design.shape[1]:
        return nothing, nothing
    model = sm.OLS(values, design)
    if clusters.units < FEWEST:  # residuals of so few sum to 0, and so would the errors
        return model.fit().params[:groups], nothing
    with warnings.catch_warnings():
        # With as many parameters as units the joint test is undefined; it is not used.
        warnings.simplefilter("ignore")
        fitted = model.fit(cov_type="cluster", cov_kwds={"groups": clusters.outer})
    errors = np.sqrt(np.clip(np.diag(fitted.cov_params())[:groups], 0, None))
    return fitted.params[:groups], errors


Better = Literal["higher", "lower"]


@dataclass(frozen=True, eq=False)
class Ranking:
    """Mean ranks of entries over blocks, 1 the best, and what may be said of their differences."""

    ranks: pd.DataFrame
    """A row an entry, the best first: ``rank``, and a column a test with its mean rank there."""
    blocks: int
    """Networks, once a test."""
    p: float
    """Of Friedman's test that no entry is better than another; NaN with fewer than 3 entries."""
    critical: float
    """Mean ranks that lie closer than this are not separated (Nemenyi)."""

    @property
    def groups(self) -> list[list[Any]]:
        """The largest sets of entries of which no two are separated, the best set first."""
        rank = self.ranks["rank"]
        ends = [int((rank < first + self.critical).sum()) for first in rank]
        starts = [i for i, end in enumerate(ends) if i == 0 or end > ends[i - 1]]
        return [list(rank.index[i : ends[i]]) for i in starts]


def ranked(
    measures: pd.DataFrame, better: Mapping[str, Better], /, *, confidence: float = 0.95
) -> Ranking:
    """Rank entries within every test and network, and compare their mean ranks.

    ``measures`` has the columns ``entry``, ``test``, ``measure``, ``network``, ``value``, and
    ``better`` says of each measure which way is better. Within a test and network an entry's ranks
    over the measures are averaged, and these means are ranked: one block, whatever the number of
    measures. What has no value is last. Friedman's test over the blocks, then Nemenyi's critical
    difference (Demsar, Journal of Machine Learning Research 2006).

    >>> rows = pd.DataFrame({"entry": list("abc") * 4, "test": "t", "measure": "m",
    ...                      "network": np.repeat(range(4), 3), "value": [3.0, 2.0, 1.0] * 4})
    >>> found = ranked(rows, {"m": "higher"})
    >>> found.ranks["rank"].tolist(), round(found.p, 3), round(found.critical, 2)
    ([1.0, 2.0, 3.0], 0.018, 1.66)
    """
    signs = {name: 1 if way == "lower" else -1 for name, way in better.items()}
    sign = measures["measure"].map(signs)
    wide = measures.assign(loss=sign * measures["value"]).pivot_table(
        index=["test", "network", "measure"], columns="entry", values="loss", dropna=False
    )
    wide = wide.dropna(how="all").replace(np.nan, np.inf)
    means = wide.rank(axis=1).groupby(["test", "network"]).mean()
    blocks = means.rank(axis=1)
    of_tests = blocks.groupby("test").mean().T
    ranks = of_tests.assign(rank=blocks.mean()).sort_values(["rank"], kind="stable")
    ranks = ranks[["rank", *of_tests]]
    entries, count = blocks.shape[1], len(blocks)
    p = math.nan
    if entries > 2 and count > 1 and (np.ptp(blocks.to_numpy(), axis=1) > 0).any():
        p = float(stats.friedmanchisquare(*blocks.to_numpy().T).pvalue)
    return Ranking(ranks, count, p, critical_difference(entries, count, confidence=confidence))


def critical_difference(entries: int, blocks: int, /, *, confidence: float = 0.95) -> float:
    """How far two mean ranks must lie apart (Nemenyi, 1963); infinite without a comparison.

    >>> round(critical_difference(5, 30), 3)  # Demsar 2006: 2.728 / sqrt(30 / 5)
    1.114
    """
    if entries < 2 or not blocks:
        return math.inf
    quantile = float(stats.studentized_range.ppf(confidence, entries, np.inf))
    return quantile / math.sqrt(2) * math.sqrt(entries * (entries + 1) / (6 * blocks))


def estimates(measures: pd.DataFrame, /, by: Sequence[str], **options: Any) -> pd.DataFrame:
    """Mean over networks of each entry's measures, with its interval: networks are resampled.

    A row for each group of ``by``: ``value``, ``low``, ``high``, ``networks``. Options are those
    of :class:`attrscore.stats.Resampling`.
    """
    rows = []
    for names, group in measures.groupby(list(by), sort=False, observed=True):
        found = bootstrap(group, "value", clusters=["network"], **options)
        rows.append([*names, found.value, found.low, found.high, found.cells])
    return pd.DataFrame(rows, columns=[*by, "value", "low", "high", "networks"])


def pareto(first: pd.Series[float], second: pd.Series[float], /) -> pd.Series[bool]:
    """Which entries no other beats in both, lower being better; what has no number is not.

    >>> pareto(pd.Series([1.0, 2.0, 3.0]), pd.Series([3.0, 1.0, 2.0])).tolist()
    [True, True, False]
    """
    a, b = first.to_numpy(dtype=float), second.to_numpy(dtype=float)
    no_worse = (a[None] <= a[:, None]) & (b[None] <= b[:, None])
    better = (a[None] < a[:, None]) | (b[None] < b[:, None])
    return pd.Series(~(no_worse & better).any(1) & np.isfinite(a) & np.isfinite(b), first.index)
