"""How high the scores of each condition are, how sure that is, and what could be reached.

Beside it: how often each model is right, and on which cells it scores otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from attrscore.core.readings import chance_of, reading_of
from attrscore.errors import ConfigError, did_you_mean
from attrscore.stats.comparisons import adjust
from attrscore.stats.conditions import (
    by_condition,
    by_model,
    columns_of,
    distinguishing,
    draws_of,
    is_null,
    label,
    of_model,
)
from attrscore.stats.resampling import Clusters, Resampling, bootstrap, numbers

__all__ = [
    "CORRECTED",
    "Ranked",
    "accuracy",
    "confusion",
    "rank_among",
    "resolvable",
    "subsets",
    "summarise",
    "threshold_curve",
    "undefined",
]

CORRECTED = ("log_odds", "above_chance", "cell_vs_neighbours")
"""Companions of a score whose chance level is 0, whatever the area of the cell; away from 0 the
first two may move with it. The first is the headline."""


_HIDDEN = " hidden"


def summarise(
    table: pd.DataFrame,
    /,
    *,
    score: str = "grad_camo",
    threshold: float = 0.5,
    by: Sequence[str] = (),
    clusters: Sequence[str] | None = None,
    null: str | None = None,
    draws: pd.DataFrame | None = None,
    **options: Any,
) -> pd.DataFrame:
    """A row for each condition, and within it for each group of ``by`` (wells, plates, treatments).

    Columns: those that name the condition and ``by``; ``cells``, ``undefined``, ``unresolvable``;
    ``mean``, its ``low`` and ``high`` over units; the ``median``; ``chance``; P(S > threshold) as
    ``above`` with
    ``above_low``, ``above_high``, and with undefined cells as never and always above
    (``above_as_zero``, ``above_as_one``); ``attainable``: the share of cells whose grid allows it;
    every column of :data:`CORRECTED` with ``.low``, ``.high``, ``.median`` and, of log ratios,
    ``.clipped``: how many cells have a density below what the layer's grid resolves; ``rank``
    among the ``draws`` of random weights and its ``p`` (:func:`rank_among`); ``q``, which is p over
    the groups of one condition by Benjamini-Hochberg; ``units``, ``level``, ``interval``,
    ``note``. What the table lacks is NaN.

    Random weights are rows of ``draws``, else those of the table itself, as in
    :func:`attrscore.stats.verdicts`. They have no p, so that no number of them changes a q.

    >>> rows = pd.DataFrame({"id": ["a", "b"], "model": "m", "method": "x", "layer": "l",
    ...                      "grad_camo": [0.2, 0.6], "Metadata_Well": ["A1", "B1"]})
    >>> summarise(rows)[["cells", "mean", "above"]].values.tolist()
    [[2.0, 0.4, 0.5]]

    :raises ConfigError: no such score or column.
    """
    for name in by:
        if name not in table:
            raise ConfigError(f"There is no column '{name}'. {did_you_mean(name, table)}")
    own = columns_of(table)
    hidden = is_null(table, null=null)
    random = by_model(table[hidden] if draws is None else draws)
    table = table.assign(**{_HIDDEN: hidden})
    rows = []
    for condition, part in by_condition(table, [*own, *by]):
        mean = bootstrap(part, score, clusters=clusters, **options)
        above = bootstrap(part, score, clusters=clusters, threshold=threshold, **options)
        bounds = undefined(part, score=score, threshold=threshold)
        known = chance_of(part, score).dropna()
        row: dict[str, Any] = {
            **condition,
            "cells": len(part),
            "undefined": mean.undefined,
            "unresolvable": 1 - resolvable(part, score=score),
            "mean": mean.value,
            "low": mean.low,
            "high": mean.high,
            "median": _median(part, score),
            "chance": float(np.mean(known)) if len(known) else np.nan,
            "above": above.value,
            "above_low": above.low,
            "above_high": above.high,
            "above_as_zero": bounds["as_zero"],
            "above_as_one": bounds["as_one"],
            "attainable": _attainable(part, score, threshold),
        }
        for name in CORRECTED:
            column = f"{score}.{name}"
            found = (
                bootstrap(part, column, clusters=clusters, **options) if column in part else None
            )
            row[name] = found.value if found else np.nan
            row[f"{name}.low"] = found.low if found else np.nan
            row[f"{name}.high"] = found.high if found else np.nan
            row[f"{name}.median"] = _median(part, column) if found else np.nan
            clipped = f"{column}.clipped"
            row[f"{name}.clipped"] = part[clipped].sum() if clipped in part else np.nan
        among = [] if part[_HIDDEN].any() else draws_of(condition, random, score, null)
        ranked = rank_among(part, among, score)
        row |= {"rank": ranked.rank if ranked.draws else np.nan, "draws": ranked.draws}
        row["p"] = ranked.p
        rows.append(row | {k: getattr(mean, k) for k in ("units", "level", "interval", "note")})
    made = pd.DataFrame(rows)
    if rows:
        made["q"] = made.groupby(own, dropna=False, observed=True)["p"].transform(adjust)
    return made


def _median(part: pd.DataFrame, column: str) -> float:
    values = numbers(part, column)
    return float(np.median(finite)) if len(finite := values[np.isfinite(values)]) else np.nan


MOST_CLASSES = 12
"""Classes that are shown, those with the most cells."""
Names = Mapping[str, Sequence[str]]
"""Dataset -> names of its classes, in the order of their numbers."""


def class_name(names: Names, dataset: str, number: Any, /) -> str:
    """The name of a class, or its number where it has none.

    >>> class_name({"plate": ["DMSO", "drug"]}, "plate", 1.0), class_name({}, "plate", 1.0)
    ('drug', '1')
    """
    known, number = names.get(dataset, ()), int(number)
    return known[number] if 0 <= number < len(known) else str(number)


def _judged(rows: pd.DataFrame) -> pd.DataFrame:
    """The cells of one model with a class and a prediction, each once, and whether it is right."""
    known = {"label", "predicted"} <= set(rows)
    rows = rows[(rows["label"] >= 0) & (rows["predicted"] >= 0)] if known else rows[:0]
    if not known:
        return rows.assign(right=False, label=-1, predicted=-1)
    return rows.assign(right=rows["predicted"] == rows["label"]).drop_duplicates("id")


def _sets(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The cells that a model was not trained on, those that it was, or all where nobody knows."""
    held_out = rows["held_out"] if "held_out" in rows else pd.Series(pd.NA, rows.index)
    for name, value in (("held out", True), ("trained on", False)):
        yield name, rows[held_out.eq(value).fillna(value=False).astype(bool)]
    yield "all cells", rows[held_out.isna()]


def accuracy(
    table: pd.DataFrame, /, *, clusters: Sequence[str] | None = None, **options: Any
) -> pd.DataFrame:
    """How often each model predicts the label: a row a model and set of cells.

    ``cells`` is ``held out``, ``trained on``, or ``all cells`` where the table does not say which
    of them the model was trained on. Columns: those that name the model and dataset, ``cells``,
    ``count``, ``accuracy`` with ``low`` and ``high`` over units, ``balanced``: the mean over
    classes of the share that is right. Cells without a label or prediction are left out.

    >>> rows = pd.DataFrame({"id": ["a", "b"], "model": "m", "method": "x", "layer": "l",
    ...                      "label": [0, 1], "predicted": [0, 0], "held_out": [True, True]})
    >>> accuracy(rows)[["cells", "count", "accuracy"]].values.tolist()
    [['held out', 2, 0.5]]
    """
    made = []
    for model, rows in by_condition(table, of_model(columns_of(table))):
        for name, cells in _sets(_judged(rows)):
            if len(cells):
                cells = cells.assign(right=cells["right"].astype(float))
                found = bootstrap(cells, "right", clusters=clusters, threshold=0.5, **options)
                row = {"cells": name, "count": len(cells), "accuracy": found.value}
                row |= {"low": found.low, "high": found.high}
                row["balanced"] = float(cells.groupby("label")["right"].mean().mean())
                made.append({**model, **row})
    return pd.DataFrame(made)


def confusion(table: pd.DataFrame, /, *, names: Names | None = None) -> dict[str, pd.DataFrame]:
    """Cells by class, down, and by prediction, across; a table a model, of held-out cells if known.

    Under the name of the model and of the set of cells (:func:`accuracy`); the 12 classes with the
    most cells.

    >>> rows = pd.DataFrame({"id": ["a", "b"], "model": "m", "method": "x", "layer": "l",
    ...                      "label": [0, 1], "predicted": [0, 0]})
    >>> confusion(rows)["m, all cells"].to_numpy().tolist()
    [[1, 0], [1, 0]]
    """
    made = {}
    columns = of_model(columns_of(table))
    shown = distinguishing(table, columns, ["model"])
    for model, rows in by_condition(table, columns):
        cells, of = next(((c, n) for n, c in _sets(_judged(rows)) if len(c)), (None, ""))
        if cells is not None:
            most = cells["label"].value_counts().index[:MOST_CLASSES].sort_values()
            counts = pd.crosstab(cells["label"], cells["predicted"])
            counts = counts.reindex(index=most, columns=most, fill_value=0)
            called = [class_name(names or {}, str(model.get("dataset")), each) for each in most]
            counts.index, counts.columns = pd.Index(called), pd.Index(called)
            made[f"{label(model, shown)}, {of}"] = counts
    return made


def subsets(
    table: pd.DataFrame,
    /,
    *,
    score: str = "grad_camo",
    clusters: Sequence[str] | None = None,
    names: Names | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Scores of one condition by class, by whether the prediction is right, and by training.

    A row a subset with cells: ``of`` is ``class``, ``prediction`` or ``training``, ``subset`` its
    name; ``cells``, and ``mean``, ``low``, ``high``, ``median`` of the score and, where it has
    them, of the log odds (``log_odds.mean`` ...). The 12 classes with the most cells.

    >>> rows = pd.DataFrame({"id": ["a", "b"], "label": [0, 1], "predicted": [0, 0], "x": [1., 2.]})
    >>> subsets(rows, score="x")[["subset", "cells", "mean"]].values.tolist()
    [['0', 1, 1.0], ['1', 1, 2.0], ['right', 1, 1.0], ['wrong', 1, 2.0]]
    """
    parts: list[tuple[str, str, pd.DataFrame]] = []
    known = table[table["label"] >= 0] if "label" in table else table[:0]
    for number in known.get("label", pd.Series()).value_counts().index[:MOST_CLASSES].sort_values():
        rows = known[known["label"] == number]
        dataset = str(rows["dataset"].iloc[0]) if "dataset" in rows else ""
        parts.append(("class", class_name(names or {}, dataset, number), rows))
    judged = _judged(table)
    for right, name in ((True, "right"), (False, "wrong")):
        parts.append(("prediction", name, judged[judged["right"] == right]))
    parts += [("training", name, rows) for name, rows in _sets(table) if name != "all cells"]
    made = []
    for of, name, rows in parts:
        row: dict[str, Any] = {"of": of, "subset": name, "cells": len(rows)}
        for column, head in ((score, ""), (f"{score}.log_odds", "log_odds.")):
            if column in rows and len(rows):
                found = bootstrap(rows, column, clusters=clusters, **options)
                row |= {f"{head}mean": found.value, f"{head}low": found.low}
                row |= {f"{head}high": found.high, f"{head}median": _median(rows, column)}
        if len(rows):
            made.append(row)
    return pd.DataFrame(made)


def resolvable(table: pd.DataFrame, /, *, score: str = "grad_camo") -> float:
    """The share of cells with a score whose grid can tell it from chance; NaN where none has one.

    >>> resolvable(pd.DataFrame({"x": [0.1, 0.2], "x.resolved": [0.3, float("nan")]}), score="x")
    0.5
    """
    finite = np.isfinite(numbers(table, score))
    if f"{score}.resolved" in table:
        resolved = np.isfinite(numbers(table, f"{score}.resolved"))
    elif "status" in table:
        resolved = (table["status"] != "unresolvable").to_numpy(dtype=bool)
    else:
        resolved = finite
    return float(resolved[finite].mean()) if finite.any() else np.nan


def _attainable(part: pd.DataFrame, score: str, threshold: float) -> float:
    column = f"{score}.highest"
    if column not in part:
        return np.nan
    highest = numbers(part, column)[np.isfinite(numbers(part, score))]
    highest = highest[np.isfinite(highest)]
    return float((highest > threshold).mean()) if len(highest) else np.nan


@dataclass(frozen=True)
class Ranked:
    """Where a mean stands among those of random weights."""

    rank: int
    """1 is above all draws."""
    draws: int
    """Draws that count: those with a score in at least half of the cells."""
    blank: int
    """Draws that do not."""

    @property
    def p(self) -> float:
        """(1 + draws at least as high) / (draws + 1); NaN without draws."""
        return self.rank / (self.draws + 1) if self.draws else np.nan


def rank_among(rows: pd.DataFrame, draws: Sequence[pd.DataFrame], score: str, /) -> Ranked:
    """The rank of the mean of a score among draws, each over the cells that both define.

    Of ``<score>.log_odds`` where it is there. A draw that defines fewer than half of the cells
    that it shares does not count.

    >>> rows = pd.DataFrame({"id": [1, 2], "x": [0.3, 0.5]})
    >>> rank_among(rows, [rows.assign(x=0.1), rows.assign(x=0.6), rows.assign(x=np.nan)], "x")
    Ranked(rank=2, draws=2, blank=1)
    """
    column = f"{score}.log_odds" if f"{score}.log_odds" in rows else score
    sign = -1 if reading_of(rows, column).better == "lower" else 1
    own = _by_cell(rows, column) * sign
    own, higher, counted = own[np.isfinite(own)], 0, 0
    for draw in draws:
        theirs = _by_cell(draw, column) * sign
        theirs = theirs[theirs.index.isin(own.index)]
        defined = theirs[np.isfinite(theirs)]
        if len(defined) and 2 * len(defined) >= len(theirs):
            counted += 1
            higher += bool(defined.mean() >= own[defined.index].mean())
    return Ranked(1 + higher, counted, len(draws) - counted)


def _by_cell(rows: pd.DataFrame, column: str) -> pd.Series[float]:
    values = numbers(rows, column) if column in rows else np.full(len(rows), np.nan)
    found = pd.Series(values, index=rows["id"].to_numpy())
    return found[~found.index.duplicated()]  # shards may share cells


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


def undefined(
    table: pd.DataFrame, /, *, score: str = "grad_camo", threshold: float = 0.5
) -> dict[str, float]:
    """Count the cells of one condition without a score, and bound what they could change.

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
    statuses = table["status"].astype(str) if "status" in table else pd.Series(dtype=str)
    return {
        "cells": len(values),
        "undefined": missing,
        **{f"status.{k}": int(v) for k, v in statuses.value_counts(sort=False).items()},
        "left_out": above / (len(finite) or np.nan),
        "as_zero": above / rows,
        "as_one": (above + missing) / rows,
        "mean_as_zero": total / rows if share else np.nan,
        "mean_as_one": (total + missing) / rows if share else np.nan,
    }
