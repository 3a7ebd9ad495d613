"""Everything that is said of a results table, computed once for the terminal, JSON and the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from attrscore.core.readings import Reading, reading_of
from attrscore.errors import ConfigError, DataError
from attrscore.stats.agreement import agreement
from attrscore.stats.comparisons import adjusted, compare, repairs
from attrscore.stats.conditions import (
    RANDOMIZE,
    alike,
    by_condition,
    by_model,
    columns_of,
    distinguishing,
    draws_of,
    is_null,
    label,
    pooled,
)
from attrscore.stats.resampling import CLUSTERS, numbers
from attrscore.stats.summary import (
    CORRECTED,
    Names,
    accuracy,
    confusion,
    subsets,
    summarise,
    undefined,
)
from attrscore.stats.verdict import Rule, Verdict, verdicts

__all__ = ["SHOWN", "Report", "report"]

MOST_COMPARED = 24
"""Models (methods, layers) that are compared with each other; of more, the first of the table."""

SHOWN = ("model", "method", "layer")
"""The columns of a condition that are always shown."""


@dataclass(frozen=True, eq=False)
class Report:
    """What a results table says. Tables are data frames; those without anything to say are empty.

    ``shown`` are the columns that tell conditions apart. ``undefined`` has a row a condition and
    status. ``comparisons`` are by what is compared, ``agreement`` matrices by model. ``maps`` are
    of kept maps, as :func:`map_agreement` gives them.
    """

    score: str
    reading: Reading
    """How the score is to be read."""
    compared: str
    """The column that comparisons are of: log odds where the score has them."""
    threshold: float
    confidence: float
    clusters: tuple[str, ...]
    cells: int
    shown: tuple[str, ...]
    summary: pd.DataFrame
    undefined: pd.DataFrame
    verdicts: Sequence[Verdict]
    groups: pd.DataFrame
    comparisons: Mapping[str, pd.DataFrame]
    uncompared: Mapping[str, int]
    """What is compared -> how many there are beyond the most that are; empty where all are."""
    agreement: Mapping[str, pd.DataFrame]
    adjusted: pd.DataFrame
    repairs: pd.DataFrame = field(default_factory=pd.DataFrame)
    """What guides did to models, as :func:`repairs` gives it."""
    accuracy: pd.DataFrame = field(default_factory=pd.DataFrame)
    confusion: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    subsets: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Of the primary condition of each model."""
    maps: pd.DataFrame = field(default_factory=pd.DataFrame)

    def as_dict(self) -> dict[str, Any]:
        """Containers and plain numbers for JSON; what is undefined is None."""
        tables = (
            *("summary", "undefined", "groups", "adjusted", "repairs", "accuracy", "subsets"),
            "maps",
        )
        named = ("score", "compared", "threshold", "confidence", "clusters", "cells", "shown")
        made = {
            **{name: getattr(self, name) for name in named},
            "reading": asdict(self.reading),
            **{name: getattr(self, name).to_dict("records") for name in tables},
            "uncompared": dict(self.uncompared),
            "comparisons": {k: v.to_dict("records") for k, v in self.comparisons.items()},
            "agreement": {k: v.to_dict() for k, v in self.agreement.items()},
            "confusion": {k: v.to_dict("index") for k, v in self.confusion.items()},
            "verdicts": [asdict(each) for each in self.verdicts],
        }
        plain: dict[str, Any] = _plain(made)
        return plain


def report(
    table: pd.DataFrame,
    /,
    *,
    score: str = "grad_camo",
    threshold: float = 0.5,
    by: Sequence[str] = (),
    clusters: Sequence[str] | None = None,
    null: str | None = None,
    primary: Mapping[str, str] | None = None,
    rule: Rule | None = None,
    classes: Names | None = None,
    resamples: int = 4999,
    **options: Any,
) -> Report:
    """Everything of this package, for a table of results with any number of conditions.

    Rows of randomised weights serve the verdicts and stand in the summary, their draws as one
    condition between the lowest and the highest; they are neither compared nor adjusted. ``by``
    adds a summary of its groups, with Benjamini-Hochberg over those of a condition. ``classes`` are
    the names of classes by dataset. The options are those of :func:`summarise` and
    :func:`verdicts`.

    :raises DataError: an empty table.
    :raises ConfigError: no such score or column, or a threshold outside of the numbers.
    """
    if table.empty:
        raise DataError("The table of results is empty: nothing was computed, or no row was kept.")
    if not math.isfinite(threshold):
        raise ConfigError(f"threshold={threshold} must be a number.")
    numbers(table, score)
    using = [name for name in CLUSTERS if name in table] if clusters is None else list(clusters)
    interval = {"clusters": using, "resamples": resamples, **options}
    scored = {"score": score, "threshold": threshold, **interval}
    hidden = is_null(table, null=null)
    tested, nulls, together = table[~hidden], table[hidden], pooled(table, hidden)
    columns = columns_of(together)
    shown = distinguishing(tested, columns, [*SHOWN, *([RANDOMIZE] if len(nulls) else [])])
    corrected = f"{score}.log_odds" if f"{score}.log_odds" in table else score
    judged = verdicts(table, score=score, null=null, primary=primary, rule=rule, **interval)
    return Report(
        score=score,
        reading=reading_of(table, score),
        compared=corrected,
        threshold=threshold,
        confidence=options.get("confidence", 0.95),
        clusters=tuple(using),
        cells=int(table["id"].nunique()),
        shown=tuple(shown),
        summary=_between_draws(
            summarise(together, null=null, draws=nulls, **scored), by_model(nulls), null, score
        ),
        undefined=_undefined(together, columns, score, threshold),
        verdicts=judged,
        groups=summarise(tested, by=by, draws=nulls, **scored) if by else pd.DataFrame(),
        comparisons={
            between: made
            for between in ("model", "method", "layer")
            if len(
                made := compare(tested, corrected, between=between, most=MOST_COMPARED, **interval)
            )
        },
        uncompared=_uncompared(tested),
        agreement=_agreements(tested, score),
        repairs=repairs(table, score=score, **interval),
        adjusted=_adjusted(tested, columns, score, using, options.get("confidence", 0.95)),
        accuracy=accuracy(tested, **interval),
        confusion=confusion(tested, names=classes),
        subsets=_subsets(tested, judged, score=score, names=classes, **interval),
    )


def _subsets(tested: pd.DataFrame, judged: Sequence[Verdict], /, **options: Any) -> pd.DataFrame:
    """Those of the primary condition of each model."""
    frames = []
    for verdict in judged:
        if verdict.primary:
            rows = tested[alike(tested, verdict.about, list(verdict.about))]
            frames.append(subsets(rows, **options).assign(**verdict.about))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _between_draws(
    summary: pd.DataFrame, nulls: Mapping[str, pd.DataFrame], null: str | None, score: str
) -> pd.DataFrame:
    """The summary, in which intervals of random weights go from the lowest draw to the highest."""
    made = summary.copy()
    named = {"mean": score, **{name: f"{score}.{name}" for name in CORRECTED}}
    for row in summary.index[is_null(summary, null=null)]:
        draws = draws_of(dict(summary.loc[row]), nulls, score)
        for name, column in named.items():
            means = [numbers(draw, column) for draw in draws if column in draw]
            means = [each[np.isfinite(each)].mean() for each in means if np.isfinite(each).any()]
            if len(means) > 1:
                end = "" if name == "mean" else f"{name}."
                made.loc[row, f"{end}low"] = min(means)
                made.loc[row, f"{end}high"] = max(means)
                made.loc[row, "interval"] = "draws"
    return made


def _uncompared(tested: pd.DataFrame) -> dict[str, int]:
    more = {}
    for between in ("model", "method", "layer"):
        held = columns_of(tested, without=[between])
        kinds = tested[columns_of(tested)].drop_duplicates()
        largest = (
            kinds.groupby(held, dropna=False, observed=True).size().max() if held else len(kinds)
        )
        if largest > MOST_COMPARED:
            more[between] = int(largest) - MOST_COMPARED
    return more


def _undefined(
    table: pd.DataFrame, columns: Sequence[str], score: str, threshold: float
) -> pd.DataFrame:
    rows = []
    for condition, part in by_condition(table, columns):
        found = undefined(part, score=score, threshold=threshold)
        rows.append(condition | found)
    made = pd.DataFrame(rows)
    counts = [name for name in map(str, made) if name.startswith("status.")]
    return made.assign(**{name: made[name].fillna(0).astype(int) for name in counts})


def _agreements(tested: pd.DataFrame, score: str) -> dict[str, pd.DataFrame]:
    held = columns_of(tested, without=["method", "layer"])
    named = distinguishing(tested, held, ["model"])
    own = [name for name in columns_of(tested) if name not in held]
    over = distinguishing(tested, own, ["method", "layer"])
    found = {
        label(shared, named): agreement(rows, score=score, over=over)
        for shared, rows in by_condition(tested, held)
    }
    return {name: matrix for name, matrix in found.items() if len(matrix) > 1}


def _adjusted(
    tested: pd.DataFrame,
    columns: Sequence[str],
    score: str,
    clusters: Sequence[str],
    confidence: float,
) -> pd.DataFrame:
    """Models, adjusted to the same cells' area and confidence, at each method and layer."""
    held = [n for n in columns if n.partition(".")[0] != "model"]
    if tested["model"].nunique() < 2:
        return pd.DataFrame()
    frames = []
    for shared, rows in by_condition(tested, held):
        made = adjusted(rows, group="model", score=score, clusters=clusters, confidence=confidence)
        frames.append(made.assign(**shared))
    return pd.concat(frames, ignore_index=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
