"""The contents of each section of the page, as plain containers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from attrscore.core.columns import column_of, title_of
from attrscore.report.page._conditions import Condition
from attrscore.stats.comparisons import FINDINGS
from attrscore.stats.conditions import guide_of, is_null, label, named, records, short
from attrscore.stats.resampling import numbers
from attrscore.stats.summary import CORRECTED, Names, class_name, threshold_curve
from attrscore.store.maps import order_of

if TYPE_CHECKING:
    from attrscore.stats import Report, Verdict


NULLS = ("circular_shift", "mask_swap", "random_map")
"""Scorers that say where a score stands among shares that mean nothing."""
_RESAMPLES = 999
_ROWS = 6000
_PAIRS = 60
_REASONS = 40


def thresholds(conditions: Sequence[Condition], found: Report, /) -> dict[str, Any]:
    """The curve of every condition with a score on common thresholds, rounded to 0.001."""
    defined = [each for each in conditions if np.isfinite(each.scores).any()]
    if not defined:
        return {}
    curves = [
        threshold_curve(each.rows, score=found.score, clusters=found.clusters, resamples=_RESAMPLES)
        for each in defined
    ]
    low = min(curve["threshold"].iloc[0] for curve in curves)
    high = max(curve["threshold"].iloc[-1] for curve in curves)
    at = np.linspace(low, high, 101)
    if any(not np.allclose(curve["threshold"], at) for curve in curves):
        curves = [
            threshold_curve(
                each.rows,
                score=found.score,
                thresholds=list(at),
                clusters=found.clusters,
                resamples=_RESAMPLES,
            )
            for each in defined
        ]
    names = ("above", "low", "high", "attainable", "chance")
    return {
        "at": [round(float(t), 6) for t in at],
        "rows": {
            each.key: {name: _rounded(curve[name]) for name in names}
            for each, curve in zip(defined, curves, strict=True)
        },
    }


def groups(conditions: Sequence[Condition], curves: Mapping[str, Any], /) -> list[dict[str, Any]]:
    """Models with their conditions that have a score, in the order of the table."""
    made: dict[str, dict[str, Any]] = {}
    for each in conditions:
        group = made.setdefault(each.series, {"series": each.series, "rows": [], "at": {}})
        group["at"].setdefault(each.method_layer, each.key)
        if each.key in curves.get("rows", {}):
            cells = int(np.isfinite(each.scores).sum())
            group["rows"].append(
                {"key": each.key, "method_layer": each.method_layer, "cells": cells}
            )
    return list(made.values())


def metrics(conditions: Sequence[Condition], found: Report, /) -> dict[str, dict[str, Any]]:
    """Numbers that the heat table can show, by condition."""
    names = [str(n) for n in found.summary.columns[: found.summary.columns.get_loc("cells")]]
    rows = {_key(row, names): row for row in records(found.summary)}
    mine = {each.key: rows.get(_key(each.about, names), {}) for each in conditions}
    words = found.reading.axis or found.score
    offered = {
        "mean": ("mean score", f"Mean {words}: {_way(found)}."),
        "above": (
            f"share above {found.threshold:g}",
            f"Share of cells above {found.threshold:g}.",
        ),
        "median": ("median score", f"Median {words}."),
        "attainable": (
            f"attainable above {found.threshold:g}",
            f"Share of cells whose grid allows a score above {found.threshold:g}.",
        ),
        **{
            f"{name}{end}": (
                f"{title_of(f'.{name}')}{f', {what}' if what else ''}",
                _sentence(f"{what}: {says}" if what else says),
            )
            for name in CORRECTED
            for says in [column_of(f".{name}").says]
            for end, what in (("", ""), (".median", "median"))
        },
        **{
            f"{name}.clipped": (
                f"{title_of(f'.{name}')}, cells clipped",
                "Cells whose heat is scarcer than the layer's grid resolves, and counts as that.",
            )
            for name in CORRECTED
        },
    }
    made = {}
    for null in NULLS:
        offered[null] = (
            f"percentile in {null}",
            f"Where a score stands among shares without meaning ({null}), mean: 0.5 is chance.",
        )
        for each in conditions:
            if null in each.rows:
                mine[each.key] = {**mine[each.key], null: each.rows[null].mean()}
    for name, (title, says) in offered.items():
        values = {key: _number(row.get(name)) for key, row in mine.items()}
        known = [value for value in values.values() if value is not None]
        if known:
            share = name in ("above", "attainable", *NULLS) or (
                name == "mean" and all(0 <= value <= 1 for value in known)
            )
            made[name] = {"name": title, "says": says, "share": share, "values": values}
    return made


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _way(found: Report) -> str:
    ways = {"higher": "higher is better", "lower": "lower is better"}
    return ways.get(found.reading.better, "a row a model, a column a method and layer")


def _key(about: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    return tuple("" if pd.isna(about.get(n)) else str(about.get(n)) for n in names)


def matrices(found: Report, /) -> list[dict[str, Any]]:
    """Agreement matrices of at most 24 conditions."""
    return [
        {
            "name": short(name),
            "names": [short(str(each)) for each in matrix],
            "lines": [
                {"name": short(str(index)), "values": [float(value) for value in row]}
                for index, row in matrix.iterrows()
            ],
        }
        for name, matrix in found.agreement.items()
        if len(matrix) <= 24
    ]


def _held(found: Report, table: pd.DataFrame) -> list[str]:
    """What is held equal in each row, where that differs between rows."""
    return [name for name in found.shown if name in table and len(set(table[name])) > 1]


def comparisons(found: Report, /) -> list[dict[str, Any]]:
    """Paired comparisons by what is compared; the largest differences of many."""
    names = {"model": "Models", "method": "Methods at the same layer", "layer": "Layers"}
    made = []
    for between, table in found.comparisons.items():
        held = _held(found, table)
        rows = [
            {
                **row,
                "held": short(label(row, held)),
                "first": short(row["first"]),
                "second": short(row["second"]),
            }
            for row in records(table)
        ]
        if len(rows) > _PAIRS:
            rows.sort(key=lambda row: -abs(row["difference"]) if pd.notna(row["difference"]) else 0)
        made.append(
            {
                "name": names.get(between, between),
                "held": bool(held),
                "rows": rows[:_PAIRS],
                "more": len(rows[_PAIRS:]),
                "uncompared": found.uncompared.get(between, 0),
            }
        )
    return made


def same(found: Report, /) -> list[dict[str, Any]]:
    """Pairs that give the same numbers in all cells, and what is held equal."""
    made = []
    for between, table in found.comparisons.items():
        held = _held(found, table)
        for row in records(table[table["same"]])[:_PAIRS]:
            shown = {"held": short(label(row, held)), "between": between, "cells": row["cells"]}
            made.append({**shown, **{n: short(row[n]) for n in ("first", "second")}})
    return made


def repairs(found: Report, /) -> list[dict[str, Any]]:
    """What guides did to models, in words."""
    if found.repairs.empty:
        return []
    held = [name for name in _held(found, found.repairs) if name != "model"]
    return [
        {**row, "held": short(label(row, held)), "says": FINDINGS[row["finding"]]}
        for row in records(found.repairs)
    ]


def undefined(found: Report, null: str | None, /) -> list[dict[str, Any]]:
    """Conditions with cells that have no score, and why."""
    rows = found.undefined[found.undefined["undefined"] > 0]
    if rows.empty:
        return []
    hidden = is_null(rows, null=null if null in set(rows["model"].astype(str)) else None)
    made = []
    for row, randomised in zip(records(named(rows, found.shown)), hidden, strict=True):
        counts = {k[7:]: v for k, v in row.items() if k.startswith("status.") and v}
        status = ", ".join(f"{count} {name}" for name, count in counts.items())
        series = f"{row['series']} (randomised weights)" if randomised else row["series"]
        made.append({**row, "series": series, "status": status})
    return made


def reasons(table: pd.DataFrame, /) -> tuple[list[dict[str, Any]], int]:
    """The texts of the column ``reason`` by how many rows they concern, and how many more."""
    if "reason" not in table or "status" not in table:
        return [], 0
    rows_with = table[table["reason"].notna() & (table["reason"].astype(str) != "")]
    made: list[dict[str, Any]] = [
        {
            "status": str(status),
            "reason": str(reason),
            "rows": len(rows),
            "cells": rows["id"].nunique(),
        }
        for (status, reason), rows in rows_with.groupby(["status", "reason"], observed=True)
    ]
    made.sort(key=lambda row: -row["rows"])
    return made[:_REASONS], len(made[_REASONS:])


EVIDENCE: Mapping[str, str] = {
    "evidence": "cells and units",
    "inside": "inside exchanged",
    "cell": "cell transplanted",
    "outside": "surroundings exchanged",
    "flips": "predictions they flip",
    "share": "their share of the margin",
    "draws": "rank among random weights",
    "resolvable": "what the grid can tell",
    "conflicting": "right where the surroundings conflict",
}
"""Condition of the verdict rule -> what it is of."""


def reasons_of(verdict: Verdict, /) -> Sequence[tuple[str, str, str]]:
    """Why a verdict decides nothing: its evidence that is missing, unclear, or against it.

    What it is of, the answer, and the words; empty for verdicts that decide.
    """
    if verdict.kind not in ("inconclusive", "unresolvable"):
        return []
    against = ["evidence", "draws", "resolvable"]
    against += ["conflicting"] if guide_of(verdict.about) != "none" else []
    found: list[tuple[str, str, str]] = [
        (EVIDENCE[each.name], each.answer, each.text)
        for each in verdict.conditions
        if each.answer in ("missing", "unclear") or (each.answer == "no" and each.name in against)
    ]
    return list({text: (of, answer, text) for of, answer, text in reversed(found)}.values())[::-1]


def accuracy(found: Report, /) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """How often each model is right, a row a set of cells; and its confusion, a matrix a model."""
    rows = []
    if len(found.accuracy):
        shown = [name for name in found.shown if name in found.accuracy]
        series = named(found.accuracy.assign(method="", layer=""), shown)["series"]
        rows = records(found.accuracy.assign(series=series))
    tables = [
        {
            "name": short(name),
            "classes": [str(each) for each in counts],
            "lines": [
                {"name": str(index), "values": [int(n) for n in row], "total": int(row.sum())}
                for index, row in counts.iterrows()
            ],
        }
        for name, counts in found.confusion.items()
    ]
    return rows, tables


def subsets(found: Report, /) -> list[dict[str, Any]]:
    """Scores by class, right and wrong, and training, of each model's primary condition."""
    if found.subsets.empty:
        return []
    made: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in records(named(found.subsets, found.shown)):
        made.setdefault((row["series"], row["method_layer"]), []).append(row)
    return [
        {"series": series, "method_layer": of, "rows": rows}
        for (series, of), rows in made.items()
        if len(rows) > 1
    ]


def cells(
    conditions: Sequence[Condition],
    found: Report,
    anchors: Mapping[tuple[str, str], str],
    names: Names,
    /,
) -> dict[str, Any]:
    """Rows of cells for the table, at most 6000: all, or those of the smallest hashes of ids."""
    score = found.score
    ends = ("", ".chance", ".log_odds", ".highest")
    present = [end for end in ends if any(f"{score}{end}" in each.rows for each in conditions)]
    extra = [
        name
        for name in ("label", "predicted", "held_out", *found.clusters)
        if any(name in each.rows for each in conditions)
    ]
    datasets = {str(each.about.get("dataset", "")) for each in conditions}
    columns = [
        {"name": "cell", "kind": "text"},
        {"name": "model", "kind": "text"},
        {"name": "method and layer", "kind": "text"},
        *({"name": title_of(f"{score}{end}"), "kind": "number"} for end in present),
        {"name": "percentile", "kind": "percent"},
        *({"name": title_of(name), "kind": "text"} for name in extra),
        {"name": "status", "kind": "text"},
    ]
    ids = {str(name) for each in conditions for name in each.by_id}
    total = sum(len(each.rows) for each in conditions)
    keep = ids
    if total > _ROWS:
        share = max(1, len(ids) * _ROWS // total)
        keep = set(sorted(ids, key=order_of)[:share])
    rows: list[list[Any]] = []
    for each in conditions:
        frame = each.rows
        chosen = np.flatnonzero([name in keep for name in frame["id"].astype(str)])
        picked = frame.iloc[chosen]
        listed: list[list[Any]] = [
            picked["id"].astype(str).tolist(),
            [each.series] * len(picked),
            [each.method_layer] * len(picked),
            *(_plain(picked, f"{score}{end}") for end in present),
            [_number(value) for value in each.percentiles[chosen]],
            *(_texts(picked, name, names, each.about) for name in extra),
            picked["status"].astype(str).tolist() if "status" in picked else [None] * len(picked),
        ]
        rows += [list(row) for row in zip(*listed, strict=True)]
    single = len(datasets) == 1  # else one id may stand for several cells
    return {
        "columns": columns,
        "rows": rows,
        "total": total,
        "anchors": {name: at for (_, name), at in anchors.items()} if single else {},
    }


def _texts(
    rows: pd.DataFrame, column: str, names: Names, about: Mapping[str, Any]
) -> list[str | None]:
    """A column as text, classes by their names."""
    if column not in rows:
        return [None] * len(rows)
    if column not in ("label", "predicted"):
        return [None if pd.isna(value) else str(value) for value in rows[column]]
    dataset = str(about.get("dataset", ""))
    return [
        None if pd.isna(value) or value < 0 else class_name(names, dataset, value)
        for value in rows[column]
    ]


def _plain(rows: pd.DataFrame, column: str) -> list[float | None]:
    if column not in rows:
        return [None] * len(rows)
    return [_number(value) for value in numbers(rows, column)]


def _number(value: Any) -> float | None:
    if value is None or not np.isfinite(value):
        return None
    return float(f"{float(value):.5g}")


def _rounded(values: Any) -> list[float | None]:
    return [round(float(v), 3) if np.isfinite(v) else None for v in values]
