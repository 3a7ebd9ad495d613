"""The conditions of a report under names that a page can use, and how they compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from attrscore.stats.comparisons import adjust, difference, paired
from attrscore.stats.conditions import (
    by_condition,
    by_id,
    columns_of,
    is_null,
    label,
    named,
    of_model,
)
from attrscore.stats.resampling import numbers
from attrscore.store.maps import order_of

if TYPE_CHECKING:
    from attrscore.stats import Report


Array = np.ndarray[Any, Any]

MOST_CHANGED = 40
_A_PAIR = 8
"""Cells of one pair among those that changed most."""
MOST_COMPARED = 24
"""Models, methods and layers, or runs, of which cells that changed are looked for."""


@dataclass(frozen=True, eq=False)
class Condition:
    """One model under one method at one layer, with whatever else distinguishes it."""

    key: str
    about: Mapping[str, Any]
    series: str
    """The model in words."""
    method_layer: str
    """Method and layer in words."""
    rows: pd.DataFrame
    score: str

    @cached_property
    def scores(self) -> Array:
        """The score of every row, NaN where undefined."""
        found = numbers(self.rows, self.score)
        return np.where(np.isfinite(found), found, np.nan)

    @cached_property
    def by_id(self) -> dict[str, int]:
        """Cell -> number of its row."""
        return {name: row for row, name in enumerate(self.rows["id"].astype(str))}

    @cached_property
    def percentiles(self) -> Array:
        """The share of defined cells below each cell's score, ties counted half, in percent."""
        ranks = pd.Series(self.scores).rank()
        return (100 * (ranks - 0.5) / ranks.count()).to_numpy()


def conditions_of(table: pd.DataFrame, found: Report, /, *, null: str | None) -> list[Condition]:
    """The conditions of a table without randomised weights, in its order."""
    tested = table[~is_null(table, null=null)]
    parts = list(by_condition(tested, columns_of(tested)))
    words = named(pd.DataFrame([about for about, _ in parts]), found.shown) if parts else None
    return [
        Condition(
            f"c{i}",
            about,
            str(words["series"].iloc[i]) if words is not None else "",
            str(words["method_layer"].iloc[i]) if words is not None else "",
            rows,
            found.score,
        )
        for i, (about, rows) in enumerate(parts)
    ]


def anchor(dataset: str, name: str, /) -> str:
    """The anchor of a cell in the page: letters and digits, whatever its id holds."""
    return f"cell-{order_of(f'{dataset}/{name}')[:12]}"


def ranks(conditions: Sequence[Condition], /, *, better: str = "higher") -> list[dict[str, Any]]:
    """Rank models by their mean score at each method and layer; a row a model, the best first.

    ``rank`` is the mean over the methods and layers that all of them have, ``first`` how often it
    is the best of them, ``wins`` the mean share of cells on which it scores best of all, ties
    shared, over cells that all define.
    """
    frames = _wide(conditions, "series")
    rows: dict[str, dict[str, list[float]]] = {}
    everyone = {condition.series for condition in conditions}
    for wide in frames.values():
        whole = wide.dropna()
        if set(wide) != everyone or whole.empty or len(everyone) < 2:
            continue
        if better == "lower":
            whole = -whole
        order = dict(whole.mean().rank(ascending=False))
        every = whole.to_numpy()
        highest = difference(every, every.max(axis=1, keepdims=True)) == 0
        best = pd.DataFrame(highest, whole.index, whole.columns)
        share = dict(best.div(best.sum(axis=1), axis=0).mean())
        for name in map(str, wide):
            row = rows.setdefault(name, {"rank": [], "first": [], "wins": []})
            row["rank"].append(float(order[name]))
            row["first"].append(float(order[name] == min(order.values())))
            row["wins"].append(float(share[name]))
    made = [
        {
            "name": name,
            "rank": float(np.mean(row["rank"])),
            "first": int(np.sum(row["first"])),
            "wins": float(np.mean(row["wins"])),
            "compared": len(row["rank"]),
        }
        for name, row in rows.items()
    ]
    return sorted(made, key=lambda row: (row["rank"], row["name"]))


def changed(conditions: Sequence[Condition], /) -> list[dict[str, Any]]:
    """The cells whose score differs most between two models at one method and layer.

    Where there is one model, between two methods at one layer, all else equal: scores of two layers
    have other limits. Of more than 24 the first 24 are compared. At most 8 cells a pair and 40 in
    all, each once, at its largest difference; the largest first.
    """
    across = "series" if len({condition.series for condition in conditions}) > 1 else "method_layer"
    rows: list[dict[str, Any]] = []
    for held, wide in _wide(conditions, across).items():
        for first, second in combinations(list(wide)[:MOST_COMPARED], 2):
            rows += _largest(wide, str(first), str(second), *held)
    return _once(rows)


def _once(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The largest differences first, each cell once."""
    order = sorted(rows, key=lambda row: -abs(row["difference"]))
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for row in order:
        cells.setdefault((row["dataset"], row["id"]), row)
    return list(cells.values())[:MOST_CHANGED]


def _largest(
    wide: pd.DataFrame, first: str, second: str, held: str, dataset: str
) -> list[dict[str, Any]]:
    """The cells of one pair of columns that differ most."""
    both = wide[[first, second]].replace([np.inf, -np.inf], np.nan).dropna()
    less = pd.Series(difference(both[first].to_numpy(), both[second].to_numpy()), both.index)
    order = less.abs().sort_values(ascending=False, kind="stable").index[:_A_PAIR]
    return [
        {
            "dataset": dataset,
            "id": str(cell),
            "held": held,
            "first": first,
            "second": second,
            "one": float(wide[first][cell]),
            "other": float(wide[second][cell]),
            "difference": float(less[cell]),
        }
        for cell in order
        if less[cell]
    ]


def _wide(conditions: Sequence[Condition], across: str) -> dict[tuple[str, str], pd.DataFrame]:
    """(what is held equal, dataset) -> scores, a row a cell and a column a model or condition."""
    columns: dict[tuple[str, str], dict[str, pd.Series[float]]] = {}
    for condition in conditions:
        about = {k: v for k, v in condition.about.items() if k.partition(".")[0] != "method"}
        same = label(about, [name for name in about if name not in of_model(list(about))])
        held = condition.method_layer if across == "series" else f"{condition.series} {same}"
        dataset = str(condition.about.get("dataset", ""))
        group = columns.setdefault((held, dataset), {})
        ids = condition.rows["id"].astype(str).to_numpy()
        group.setdefault(getattr(condition, across), pd.Series(condition.scores, ids))
    return {key: pd.DataFrame(group) for key, group in columns.items() if len(group) > 1}


def run_differences(
    runs: Mapping[str, pd.DataFrame], value: str, /, **options: Any
) -> list[dict[str, Any]]:
    """Each run less each other one on the same cells, at each method and layer; a row a pair.

    Models are held equal where both runs have models of the same names, else each must have
    one. The columns are those of :func:`attrscore.stats.paired`, and ``q`` over all pairs.
    """
    rows = []
    for (one, first), (other, second) in combinations(runs.items(), 2):
        for held, a, b in _alike(first, second):
            if value in a and value in b:
                rows.append(
                    {"first": one, "second": other, "held": held, **paired(a, b, value, **options)}
                )
    if rows:
        for row, q in zip(rows, adjust(pd.Series([row["p"] for row in rows])), strict=True):
            row["q"] = float(q)
    return rows


def changed_between(runs: Mapping[str, pd.DataFrame], score: str, /) -> list[dict[str, Any]]:
    """As :func:`changed`, between runs at each model, method and layer that both have."""
    rows: list[dict[str, Any]] = []
    for (one, first), (other, second) in combinations(runs.items(), 2):
        for held, a, b in _alike(first, second):
            if score in a and score in b:
                pair = {one: by_id(a)[score], other: by_id(b)[score]}
                dataset = str(a["dataset"].iloc[0]) if "dataset" in a else ""
                rows += _largest(pd.DataFrame(pair), one, other, held, dataset)
    return _once(rows)


def _alike(
    first: pd.DataFrame, second: pd.DataFrame
) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Rows of two runs under the same method, layer and target, a cell once in each."""
    names = ["method", "layer", *(n for n in ("target",) if n in first and n in second)]
    shared = set(first["model"].astype(str)) & set(second["model"].astype(str))
    if shared:
        names = ["model", *names]
    shown = ["model", "method", "layer"] if shared else ["method", "layer"]
    others = {tuple(map(str, about.values())): rows for about, rows in by_condition(second, names)}
    for about, rows in by_condition(first, names):
        beside = others.get(tuple(map(str, about.values())))
        if beside is None or rows["id"].duplicated().any() or beside["id"].duplicated().any():
            continue  # another setting of one run that the other lacks: not one pair
        yield label(about, shown), rows, beside
