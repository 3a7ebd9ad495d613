"""Which of several entries do best over many measures, and which cannot be told apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from attrscore.stats.resampling import bootstrap

__all__ = ["Ranking", "critical_difference", "estimates", "pareto", "ranked"]

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
    """Mean ranks that lie closer than this cannot be told apart (Nemenyi)."""

    @property
    def groups(self) -> list[list[Any]]:
        """The largest sets of entries of which no two can be told apart, the best set first."""
        rank = self.ranks["rank"]
        ends = [int((rank < first + self.critical).sum()) for first in rank]
        starts = [i for i, end in enumerate(ends) if i == 0 or end > ends[i - 1]]
        return [list(rank.index[i : ends[i]]) for i in starts]


def ranked(
    measures: pd.DataFrame, better: Mapping[str, Better], /, *, confidence: float = 0.95
) -> Ranking:
    """Rank entries within every test and network, and compare their mean ranks.

    ``measures`` has the columns ``entry``, ``test``, ``measure``, ``network``, ``value``; ``better``
    says of each measure which way is better. Within a test and network an entry's ranks over the
    measures are averaged, and these means are ranked: one block, whatever the number of measures.
    What has no value is last. Friedman's test over the blocks, then Nemenyi's critical difference
    (Demsar, Journal of Machine Learning Research 2006).

    >>> rows = pd.DataFrame({"entry": list("abc") * 4, "test": "t", "measure": "m",
    ...                      "network": np.repeat(range(4), 3), "value": [3.0, 2.0, 1.0] * 4})
    >>> found = ranked(rows, {"m": "higher"})
    >>> found.ranks["rank"].tolist(), round(found.p, 3), round(found.critical, 2)
    ([1.0, 2.0, 3.0], 0.018, 1.66)
    """
    sign = measures["measure"].map({name: 1 if way == "lower" else -1 for name, way in better.items()})
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
    if entries > 2 and count > 1 and (blocks.nunique(axis=1) > 1).any():
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
