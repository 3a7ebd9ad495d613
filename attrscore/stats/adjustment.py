"""Means of groups as if their cells had the same area, density and confidence."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from attrscore.errors import ConfigError, did_you_mean
from attrscore.stats.bootstrap import numbers
from attrscore.stats.clusters import Clusters

__all__ = ["adjusted"]

Array = np.ndarray[Any, Any]

DENSITY = ("Metadata_neighbours", "region_shares.neighbours.area")
"""Columns that say how crowded a crop is; the first that is there."""


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
    narrow.

    ``covariates`` are columns; None takes those that are there of the area fraction
    ``<score>.chance``, the density and ``confidence``. The density is the number of neighbours
    ``Metadata_neighbours``, else their area fraction, which the scorer ``region_shares`` gives. A
    covariate that is constant, or that the groups determine, is left out. Cells that lack one of
    the values are left out too.

    Columns: the group, ``cells``, ``mean`` (as it is), ``adjusted``, ``low`` and ``high`` (NaN with
    one unit), ``units``, ``covariates`` (those used), ``note``.

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
    if clusters.units < 2:
        return model.fit().params[:groups], nothing
    with warnings.catch_warnings():
        # With as many parameters as units the joint test is undefined; it is not used.
        warnings.simplefilter("ignore")
        fitted = model.fit(cov_type="cluster", cov_kwds={"groups": clusters.outer})
    errors = np.sqrt(np.clip(np.diag(fitted.cov_params())[:groups], 0, None))
    return fitted.params[:groups], errors
