"""Cells without a score: how many, why, and what they could change."""

from __future__ import annotations

import numpy as np
import pandas as pd

from attrscore.stats.bootstrap import numbers

__all__ = ["undefined"]


def undefined(
    table: pd.DataFrame, /, *, score: str = "grad_camo", threshold: float = 0.5
) -> dict[str, float]:
    """What undefined cells of one condition leave open.

    ``status.<status>`` counts its rows. ``left_out`` is the share of defined cells above the
    threshold; ``as_zero`` and ``as_one`` count undefined cells as never and as always above: what
    the share would be, whatever they are, lies between. ``mean_as_zero`` and ``mean_as_one`` bound
    the mean of a score within [0, 1] in the same way, NaN for other scores. All NaN without rows.

    >>> two = pd.DataFrame({"x": [0.8, float("nan")], "status": ["ok", "no_positive_mass"]})
    >>> found = undefined(two, score="x")
    >>> found["as_zero"], found["left_out"], found["as_one"]
    (0.5, 1.0, 1.0)
    """
    values = numbers(table, score)
    finite = values[np.isfinite(values)]
    missing = len(values) - len(finite)
    above, total = int((finite > threshold).sum()), float(finite.sum())
    share = bool(((finite >= 0) & (finite <= 1)).all())
    rows = len(values) or np.nan
    told = table["status"].astype(str) if "status" in table else pd.Series(dtype=str)
    return {
        "cells": len(values),
        "undefined": missing,
        **{f"status.{k}": int(v) for k, v in told.value_counts(sort=False).items()},
        "left_out": above / (len(finite) or np.nan),
        "as_zero": above / rows,
        "as_one": (above + missing) / rows,
        "mean_as_zero": total / rows if share else np.nan,
        "mean_as_one": (total + missing) / rows if share else np.nan,
    }
