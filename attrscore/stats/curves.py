"""P(S > t) over all thresholds, beside what could be reached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from attrscore.readings import chance_of, reading_of
from attrscore.stats.bootstrap import Resampling, numbers
from attrscore.stats.clusters import Clusters

__all__ = ["threshold_curve"]


def threshold_curve(
    table: pd.DataFrame,
    /,
    *,
    score: str = "grad_camo",
    thresholds: Sequence[float] | None = None,
    clusters: Sequence[str] | None = None,
    resamples: int = 1999,
    **options: Any,
) -> pd.DataFrame:
    """The share of defined cells above each threshold, for rows of one condition.

    Columns: ``threshold`` (100 steps over the score's range, 0 to 1 where that is not known; over
    the values where they leave it), ``above`` with its pointwise band ``low`` and
    ``high`` over units; ``attainable``: the share of the same cells whose layer grid allows a score
    above the threshold at all (P(highest > t)); ``chance``: the share that a map which ignores the
    mask would have above it (P(area fraction > t)). The last two are NaN where they are not known.

    >>> one = pd.DataFrame({"x": [0.2, 0.6], "x.highest": [0.5, 0.9]})
    >>> threshold_curve(one, score="x", thresholds=[0.5])[["above", "attainable"]].values.tolist()
    [[0.5, 0.5]]
    """
    values = numbers(table, score)
    finite = np.isfinite(values)
    at = _steps(table, score, values[finite]) if thresholds is None else np.asarray(thresholds)
    found = Clusters.of(table, clusters).among(finite)
    plan = Resampling(resamples=resamples, **options)
    above = (values[finite, None] > at).astype(float)
    share, low, high, _ = plan.shares(above, found)
    curve = {"threshold": at, "above": share, "low": low, "high": high}
    highest = f"{score}.highest"
    reach = numbers(table, highest) if highest in table else np.full(len(table), np.nan)
    curve["attainable"] = _share(reach[finite], at)
    curve["chance"] = _share(chance_of(table, score).to_numpy()[finite], at)
    return pd.DataFrame(curve)


def _steps(table: pd.DataFrame, score: str, values: Any) -> Any:
    low, high = reading_of(table, score).range
    if len(values) and (low is None or high is None):
        low, high = min(0.0, float(values.min())), max(1.0, float(values.max()))
    low, high = 0.0 if low is None else low, 1.0 if high is None else high
    return low + (high - low) * np.arange(101) / 100


def _share(values: Any, at: Any) -> Any:
    values = values[np.isfinite(values)]
    return (values[:, None] > at).mean(0) if len(values) else np.full(len(at), np.nan)
