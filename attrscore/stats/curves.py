"""P(S > t) over all thresholds, beside what could be reached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

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

    Columns: ``threshold`` (0 to 1 in steps of 0.01), ``above`` with its pointwise band ``low`` and
    ``high`` over units; ``attainable``: the share of the same cells whose layer grid allows a score
    above the threshold at all (P(highest > t)); ``chance``: the share that a map which ignores the
    mask would have above it (P(area fraction > t)). The last two are NaN where they are not known.

    >>> one = pd.DataFrame({"x": [0.2, 0.6], "x.highest": [0.5, 0.9]})
    >>> threshold_curve(one, score="x", thresholds=[0.5])[["above", "attainable"]].values.tolist()
    [[0.5, 0.5]]
    """
    values = numbers(table, score)
    finite = np.isfinite(values)
    at = np.arange(101) / 100 if thresholds is None else np.asarray(thresholds, dtype=float)
    found = Clusters.of(table, clusters).among(finite)
    plan = Resampling(resamples=resamples, **options)
    above = (values[finite, None] > at).astype(float)
    share, low, high, _ = plan.shares(above, found)
    curve = {"threshold": at, "above": share, "low": low, "high": high}
    for name, beside in (("attainable", "highest"), ("chance", "chance")):
        curve[name] = _share(table, f"{score}.{beside}", finite, at)
    return pd.DataFrame(curve)


def _share(table: pd.DataFrame, column: str, rows: Any, at: Any) -> Any:
    if column in table:
        values = numbers(table, column)[rows]
        values = values[np.isfinite(values)]
        if len(values):
            return (values[:, None] > at).mean(0)
    return np.full(len(at), np.nan)
