"""A report of results as tables and sentences for the terminal. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from attrscore.core.columns import title_of
from attrscore.errors import shown
from attrscore.stats.agreement import map_matrix
from attrscore.stats.comparisons import FINDINGS
from attrscore.stats.conditions import distinguishing
from attrscore.stats.reporting import MOST_COMPARED, SHOWN
from attrscore.stats.summary import CORRECTED
from attrscore.stats.verdict import ModelVerdict, model_verdicts

if TYPE_CHECKING:
    from attrscore.report.leaderboard import Leaderboard
    from attrscore.stats import Evidence, Report, Verdict

__all__ = ["of_leaderboard", "parts"]

_COLOURS = {
    "cell-focused": "green",
    "reads both": "magenta",
    "looks elsewhere": "red",
    "unresolvable": "yellow",
    "guided": "cyan",
}
_MOST = 12
"""Conditions of an agreement matrix that a terminal is wide enough for."""


def parts(found: Report, /) -> Iterator[Table | Text | str]:
    """The report from top to bottom: tables and lines, of which the text is no markup."""
    yield _head(found)
    yield _scores(found, found.summary, "scores")
    yield _corrected(found, found.summary, "corrected for chance, which is 0")
    yield from _undefined(found)
    if len(found.accuracy):
        yield _accuracy(found)
    yield _verdicts(found)
    for judged in model_verdicts(found.verdicts, found.shown):
        yield said(judged)
    if len(found.subsets):
        yield _subsets(found)
    if len(found.groups):
        yield _scores(found, found.groups, "by group")
        yield _corrected(found, found.groups, "by group, corrected for chance, which is 0")
    for between, table in found.comparisons.items():
        yield _comparison(found, between, table)
        yield from same(found, between)
        if between in found.uncompared:
            more = found.uncompared[between]
            yield f"only the first {MOST_COMPARED} {between}s are compared, {more} more are not"
    if len(found.repairs):
        yield _repairs(found)
    for model, matrix in found.agreement.items():
        if len(matrix) <= _MOST:
            yield _matrix(model, matrix)
        else:
            yield f"agreement of {len(matrix)} conditions of {model}: see --json"
    if len(found.maps):
        yield from _maps(found.maps)
    if len(found.adjusted):
        yield _adjusted(found)


def of_leaderboard(found: Leaderboard, /) -> Iterator[Table | str]:
    """A leaderboard: its table, what may be said of it, and what has no rank, with the reason."""
    from attrscore.report.leaderboard import MEASURES, TESTS

    ways = {"higher": "↑", "lower": "↓"}
    heads = [f"{MEASURES[name].title} {ways[MEASURES[name].better]}" for name in found.measures]
    tests = ", ".join(f"{number} {test}" for test, number in found.networks.items())
    names = ["method", "layer", "explains"]
    table = _table(
        f"Mean over networks ({tests}); * not separated from the best, ° on the Pareto front",
        names,
        ["mean rank", *heads, "CPU ↓", "memory ↓", "undefined"],
    )
    ranked = found.table[found.table["rank"].notna()]
    for row in ranked.to_dict("records"):
        mark = "*" * bool(row["as_good_as_the_best"]) + "°" * bool(row["pareto"])
        table.add_row(
            *(shown(str(row[name])) for name in names),
            f"{row['rank']:.1f}{mark}",
            *(_number(row[name]) for name in found.measures),
            *(f"{row[name]:.1f}x" if row[name] > 0 else "" for name in ("seconds", "memory")),
            _share(row["undefined"]),
        )
    yield table
    yield found.statement
    for test in found.networks:
        yield f"{test}: {TESTS[test]}"
    if found.left_out:
        yield found.left_out
    for row in found.table[found.table["rank"].isna()].to_dict("records"):
        yield f"no rank: {row['method']} at {row['layer']}: {row['reason']}"


def same(found: Report, between: str, /) -> list[str]:
    """A line for each pair that gives the same numbers: of methods, one formula on this model."""
    rows = found.comparisons[between]
    keys = _shared(found, rows)
    why = ": on this model they are one formula" if between == "method" else ""
    return [
        f"{' '.join([*names, ''])}{row['first']} and {row['second']} give the same "
        f"{found.compared} in all {row['cells']} cells, to the rounding of float32{why}; they "
        "count as one"
        for _, row in rows[rows["same"]].iterrows()
        for names in [_names(row, keys)]
    ]


def _accuracy(found: Report) -> Table:
    keys = [name for name in found.shown if name in found.accuracy]
    table = _table(
        "how often the models are right", [*keys, "cells"], ["count", "accuracy", "over classes"]
    )
    for _, row in found.accuracy.iterrows():
        table.add_row(
            *(*_names(row, keys), row["cells"], str(row["count"])),
            *(_interval(row["accuracy"], row["low"], row["high"]), _number(row["balanced"])),
        )
    return table


def _subsets(found: Report) -> Table:
    """Of primary conditions alone."""
    keys = [*_keys(found, found.subsets[[n for n in found.subsets if n in found.summary]])]
    keys = [name for name in keys if name in found.shown]
    odds = "log_odds.mean" in found.subsets
    names = ["count", "mean", "median", *(["log odds", "median of it"] if odds else [])]
    table = _table("by class, prediction and training", [*keys, "of", "subset"], names)
    for _, row in found.subsets.iterrows():
        cells = [_interval(row["mean"], row["low"], row["high"]), _number(row["median"])]
        if odds:
            ends = row["log_odds.low"], row["log_odds.high"]
            cells += [_interval(row["log_odds.mean"], *ends), _number(row["log_odds.median"])]
        table.add_row(*_names(row, [*keys, "of", "subset"]), str(row["cells"]), *cells)
    return table


def said(judged: ModelVerdict, /) -> Text:
    """The line of a model's verdict. Rich drops what would control a terminal: spelt out here."""
    colour = _COLOURS.get(judged.primary.kind, "default")
    named = shown(f"{judged.name} (by {judged.verdicts[0][0]})")
    return Text.assemble((named, "bold"), ": ", (shown(judged.primary.sentence), colour))


def _head(found: Report) -> str:
    notes = dict.fromkeys(note for note in found.summary["note"] if note)
    known = zip(found.summary["units"], found.summary["level"], strict=True)
    units = sorted({f"{_count(int(n), 'unit')} of {at}" for n, at in known if at})
    first = (
        f"{_count(found.cells, 'cell')}, {_count(len(found.summary), 'condition')}, "
        f"score {found.score} ({found.reading.sentence}); "
        f"{found.confidence:.0%} intervals over {', '.join(units) or 'no units'}"
    )
    return "\n".join([first, *(f"note: {note}" for note in notes)])


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _scores(found: Report, rows: pd.DataFrame, title: str) -> Table:
    names = ["cells", "undefined", "mean", "median", "chance", f"S > {found.threshold:g}"]
    names += ["attainable"]
    keys = _keys(found, rows)
    table = _table(title, keys, names)
    for _, row in rows.iterrows():
        table.add_row(
            *(*_names(row, keys), str(row["cells"]), str(row["undefined"])),
            _interval(row["mean"], row["low"], row["high"]),
            *(_number(row[name]) for name in ("median", "chance")),
            _interval(row["above"], row["above_low"], row["above_high"]),
            _share(row["attainable"]),
        )
    return table


def _corrected(found: Report, rows: pd.DataFrame, title: str) -> Table:
    names = [name for name in CORRECTED if rows[name].notna().any()]
    heads = [
        f"{title_of(f'.{name}')}\nmean, median" + ", clipped" * _clipped(rows, name)
        for name in names
    ]
    keys = _keys(found, rows)
    grouped = keys != _shared(found, rows)
    table = _table(
        f"{title}; rank of the log odds among draws of random weights, and its p"
        + ("; q: p over these groups (Benjamini-Hochberg)" if grouped else ""),
        keys,
        ["unresolvable", *heads, "rank", "p", *(["q"] if grouped else []), "units"],
    )
    for _, row in rows.iterrows():
        table.add_row(
            *(*_names(row, keys), _share(row["unresolvable"])),
            *(_ratio(row, name, clipped=_clipped(rows, name)) for name in names),
            "–" if math.isnan(row["p"]) else f"{row['rank']:.0f} of {row['draws'] + 1}",
            *(_p(row[name]) for name in (("p", "q") if grouped else ("p",))),
            str(row["units"]),
        )
    return table


def _clipped(rows: pd.DataFrame, name: str) -> bool:
    """Whether it is known how many cells a log ratio was clipped for."""
    return bool(rows[f"{name}.clipped"].notna().any())


def _ratio(row: Any, name: str, *, clipped: bool) -> str:
    mean = _interval(row[name], row[f"{name}.low"], row[f"{name}.high"])
    count = row[f"{name}.clipped"]
    last = [("–" if math.isnan(count) else f"{count:.0f}")] if clipped else []
    return "\n".join([mean, ", ".join([_number(row[f"{name}.median"]), *last])])


def _keys(found: Report, rows: pd.DataFrame) -> list[str]:
    """The columns in which these rows differ: of conditions, and of groups within them."""
    own = [name for name in map(str, rows) if name not in found.summary]
    shown = [name for name in found.shown if name in rows]
    return [*distinguishing(rows, shown, SHOWN), *own]


def _shared(found: Report, rows: pd.DataFrame) -> list[str]:
    return [name for name in _keys(found, rows) if name in found.shown]


def _undefined(found: Report) -> Iterator[Table]:
    """Only where there are undefined cells."""
    rows = found.undefined[found.undefined["undefined"] > 0]
    if rows.empty:
        return
    statuses = [name for name in map(str, rows) if name.startswith("status.")]
    title = f"undefined cells: share of S > {found.threshold:g}, and mean, whatever they are"
    heads = [name.removeprefix("status.") for name in statuses]
    names = [*heads, "left out", "as 0", "as 1", "mean as 0", "mean as 1"]
    keys = _shared(found, rows)
    table = _table(title, keys, names)
    for _, row in rows.iterrows():
        table.add_row(
            *_names(row, keys),
            *(str(row[name]) for name in statuses),
            *(_number(row[name]) for name in ("left_out", "as_zero", "as_one")),
            *(_number(row[name]) for name in ("mean_as_zero", "mean_as_one")),
        )
    yield table


def _verdicts(found: Report) -> Table:
    heads = {
        "evidence": "enough cells\nand units",
        "inside": "drop: cell\nexchanged",
        "cell": "drop: cell\ntransplanted",
        "outside": "drop: rest\nexchanged",
        "flips": "predictions\nthat flips",
        "share": "its share of\nthe margin",
        "draws": "rank among\nrandom weights",
        "resolvable": "grid resolves\nchance",
    }
    rule = f" ({found.verdicts[0].rule})" if found.verdicts else ""
    title = f"verdicts: does the model look at the cell? Does it matter{rule}"
    about = pd.DataFrame([verdict.about for verdict in found.verdicts])
    keys = _keys(found, about) if len(about) else list(SHOWN)
    table = _table(title, [*keys, "verdict"], list(heads.values()))
    for verdict in found.verdicts:
        cells = [_evidence(verdict, name) for name in heads]
        kind = f"{verdict.kind}, primary" if verdict.primary else verdict.kind
        table.add_row(*_names(verdict.about, keys), kind, *cells)
    return table


def _evidence(verdict: Verdict, name: str) -> str:
    each: Evidence = verdict[name]
    if each.answer == "missing":
        return "\n".join(filter(None, ("missing", each.made_of)))
    number = {
        "evidence": lambda: f"{each.value:.0f} cells",
        "draws": lambda: f"p = {_p(each.value)}",
        "resolvable": lambda: _share(each.value),
    }.get(name, lambda: _interval(each.value, each.low, each.high))()
    return "\n".join(filter(None, (f"{each.answer}: {number}", each.made_of)))


def _comparison(found: Report, between: str, rows: pd.DataFrame) -> Table:
    keys = [*_shared(found, rows), "first", "second"]
    names = ["difference", "effect", "first higher", "p", "q", "cells", "ties", "unmatched"]
    title = f"{between}s on the same cells: first less second, in {found.compared}"
    table = _table(title, keys, names)
    for _, row in rows.iterrows():
        table.add_row(
            *_names(row, keys),
            _interval(row["difference"], row["low"], row["high"]),
            *(_number(row["effect"]), _share(row["wins"]), _p(row["p"]), _p(row["q"])),
            *(str(row[name]) for name in ("cells", "ties", "unmatched")),
        )
    return table


def _matrix(model: str, matrix: pd.DataFrame) -> Table:
    numbers = [str(i + 1) for i in range(len(matrix))]
    table = _table(f"rank correlation of scores over cells: {model}", ["", "condition"], numbers)
    for number, (name, row) in zip(numbers, matrix.iterrows(), strict=True):
        table.add_row(number, str(name), *map(_number, row))
    return table


def _maps(rows: pd.DataFrame) -> Iterator[Table]:
    """A matrix of methods for each model and layer; those with too many are left to --json."""
    for (model, layer), pairs in rows.groupby(["model", "layer"], sort=False):
        ranks, overlaps = (map_matrix(pairs, value) for value in ("rank", "overlap"))
        if len(ranks) > _MOST:
            continue
        title = (
            f"maps of {pairs['cells'].min()} cells or more: rank correlation, and overlap of the "
            f"hottest tenth ({pairs['overlap_chance'].iloc[0]:.3f} by chance): {model} {layer}"
        )
        numbers = [str(i + 1) for i in range(len(ranks))]
        table = _table(title, ["", "method"], numbers)
        pairs_of = zip(ranks.to_numpy(), overlaps.to_numpy(), strict=True)
        for number, name, both in zip(numbers, ranks, pairs_of, strict=True):
            cells = [f"{_number(rank)} {_number(top)}" for rank, top in zip(*both, strict=True)]
            table.add_row(number, str(name), *cells)
        yield table


def _repairs(found: Report) -> Table:
    """What guides did, by the swap on the same cells."""
    rows = found.repairs
    keys = ["model", "guide", "against", *(n for n in _shared(found, rows) if n != "model")]
    table = _table(
        "what guides did, by the swap (where the data allow it, prefer accuracy on reversed data)",
        keys,
        ["log odds", "swap outside", "left", "right where\nthey conflict", "finding"],
    )
    for _, row in rows.iterrows():
        changes = [
            _interval(*(row[f"{name}.{end}"] for end in ("difference", "low", "high")))
            for name in ("score", "swap")
        ]
        said = f"{row['finding']}: {FINDINGS[row['finding']]}"
        table.add_row(
            *_names(row, keys), *changes, _number(row["swap"]), _number(row["conflicting"]), said
        )
    return table


def _adjusted(found: Report) -> Table:
    rows = found.adjusted
    used = " and ".join(dict.fromkeys(rows["covariates"]))
    keys = _shared(found, rows)
    table = _table(
        f"models as if their cells were alike in {used} (least squares, cluster-robust errors)",
        keys,
        ["mean", "adjusted", "cells"],
    )
    for _, row in rows.iterrows():
        interval = _interval(row["adjusted"], row["low"], row["high"])
        table.add_row(*_names(row, keys), _number(row["mean"]), interval, str(row["cells"]))
    return table


def _table(title: str, names: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _names(row: Any, names: Sequence[str]) -> list[str]:
    return ["" if pd.isna(row[name]) else str(row[name]) for name in names]


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else _number(value)


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0%}"


def _interval(value: float, low: float, high: float) -> str:
    ends = "" if math.isnan(low) else f" [{low:.3f}, {high:.3f}]"
    return _number(value) + ends
