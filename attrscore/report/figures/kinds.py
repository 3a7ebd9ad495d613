"""Every figure of a report under its name, as a sheet that can be saved."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from attrscore.errors import ConfigError, DataError, did_you_mean
from attrscore.report.figures.evidence import agreement_sheet, area_sheet, grid, threshold_sheet
from attrscore.report.figures.scores import distributions
from attrscore.report.figures.sheet import Sheet
from attrscore.report.figures.summaries import (
    bands,
    differences,
    named,
    plate_map,
    score_table,
    well_place,
)
from attrscore.stats.conditions import RANDOMIZE, is_null
from attrscore.stats.resampling import CLUSTERS, numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from attrscore.stats import Report

__all__ = ["KINDS", "figure", "plates_of"]

_PLATES = 6
"""Most plates in one figure."""


def figure(kind: str, scores: pd.DataFrame, found: Report, /) -> Sheet:
    """One figure of a report, by the names of :data:`KINDS`.

    ``scores`` is the table that the report is of.

    :raises ConfigError: no such kind.
    :raises DataError: the results have nothing that it could show.
    """
    if kind not in KINDS:
        raise ConfigError(f"There is no figure {kind!r}. {did_you_mean(kind, KINDS)}")
    sheet = KINDS[kind](scores, found)
    if sheet is None:
        raise DataError(f"There is nothing to draw as {kind}: {_LACKS.get(kind, 'no scores')}.")
    return sheet


_LACKS = {
    "agreement": "it needs two methods or layers of one network",
    "differences": "it needs two networks, methods or layers on the same cells",
    "plates": "it needs wells named as B02, in Metadata_Well",
    "area": "no cell has a score and an area fraction",
}


def _distributions(scores: pd.DataFrame, found: Report) -> Sheet | None:
    tested = _tested(scores)
    if tested.empty:
        return None
    words = named(tested, found.shown)["series"]
    several = [name for name in ("dataset", "target") if name in tested]  # named in the words
    return distributions(tested.drop(columns=several).assign(model=words), score=found.score)


def _bands(_scores: pd.DataFrame, found: Report) -> Sheet | None:
    words = found.reading.axis or found.score
    ax = bands(found.summary, shown=found.shown, words=words)
    return _sheet_of(ax)


def _table(_scores: pd.DataFrame, found: Report) -> Sheet | None:
    tested = _tested(found.summary)
    return None if tested.empty else _sheet_of(score_table(tested, shown=found.shown))


def _differences(_scores: pd.DataFrame, found: Report) -> Sheet | None:
    tables = [each for each in found.comparisons.values() if len(each)]
    if not tables:
        return None
    words = found.compared.replace("_", " ")
    return _sheet_of(differences(tables[0], shown=found.shown, words=words))


def plates_of(scores: pd.DataFrame, found: Report, /) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each network on each plate, at one method and layer, under their names.

    The method and layer with the most defined scores, the first of equals. At most 6 plates.
    """
    well = _well_of(scores, found)
    if well is None or scores.empty:
        return []
    rows = named(_tested(scores), found.shown)
    rows = rows[[well_place(name) is not None for name in rows[well].astype(str)]]
    if rows.empty:
        return []
    defined = pd.Series(np.isfinite(numbers(rows, found.score)), index=rows.index)
    place = defined.groupby(rows["place"], sort=False).sum().idxmax()
    rows = rows[rows["place"] == place]
    above = [name for name in found.clusters if name in scores and name != well]
    plate = above[0] if above else None
    plates = list(rows[plate].astype(str).unique()) if plate else [""]
    series = list(rows["series"].unique())
    found_rows = []
    for one, name in product(series, plates):
        part = rows[rows["series"] == one]
        part = part[part[plate].astype(str) == name] if plate else part
        if len(part):
            head = f"{one}, plate {name}" if plate else one
            found_rows.append((f"{head}: {place}", part))
    return found_rows[:_PLATES]


def _well_of(scores: pd.DataFrame, found: Report) -> str | None:
    """The column of wells: the innermost unit of replication that is no plate."""
    names = [name for name in found.clusters if name in scores and name != CLUSTERS[0]]
    return names[-1] if names else None


def _plates(scores: pd.DataFrame, found: Report) -> Sheet | None:
    panels = plates_of(scores, found)
    if not panels:
        return None
    well = str(_well_of(scores, found))
    means = pd.concat(
        [
            part.assign(value=numbers(part, found.score)).groupby(well)["value"].mean()
            for _, part in panels
        ]
    ).dropna()
    ends = (float(means.min()), float(means.max())) if len(means) else (0.0, 1.0)
    sheet, axes = grid(len(panels), (5.2, 3.4))
    words = found.reading.axis or found.score
    for ax, (title, part) in zip(axes, panels, strict=True):
        plate_map(part, score=found.score, well=well, limits=ends, words=words, ax=ax)
        ax.set_title(textwrap.fill(title, 50), loc="left", fontsize=9)
    return sheet


def _tested(rows: pd.DataFrame) -> pd.DataFrame:
    """Without randomised weights."""
    return rows[~is_null(rows)]


def _sheet_of(ax: Axes) -> Sheet:
    return cast(Sheet, ax.figure)  # drawn without ax, as all of these are


def _thresholds(scores: pd.DataFrame, found: Report) -> Sheet | None:
    return threshold_sheet(_tested(scores), _without_null(found))


def _area(scores: pd.DataFrame, found: Report) -> Sheet | None:
    return area_sheet(_tested(scores), _without_null(found))


def _without_null(found: Report) -> Report:
    """Names of conditions that need not tell randomised weights apart."""
    return replace(found, shown=tuple(name for name in found.shown if name != RANDOMIZE))


KINDS: Mapping[str, Callable[[pd.DataFrame, Report], Sheet | None]] = {
    "scores": _bands,
    "table": _table,
    "distributions": _distributions,
    "area": _area,
    "thresholds": _thresholds,
    "plates": _plates,
    "agreement": agreement_sheet,
    "differences": _differences,
}
"""Name -> what draws it; None where the results have nothing to show."""
