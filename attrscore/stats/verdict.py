"""The rule of the verdict, which says whether a model looks at the cell; see :func:`verdicts`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from attrscore.core.statuses import reasons_of
from attrscore.errors import DataError, preview
from attrscore.stats.comparisons import paired
from attrscore.stats.conditions import (
    by_condition,
    columns_of,
    is_null,
    label,
    named,
    null_of,
    swap_of,
)
from attrscore.stats.resampling import FEWEST, Clusters, bootstrap, numbers
from attrscore.stats.summary import resolvable

__all__ = [
    "MODEL_RULE",
    "Evidence",
    "Kind",
    "ModelVerdict",
    "Verdict",
    "model_verdicts",
    "verdict",
    "verdicts",
]

Kind = Literal["cell-focused", "looks elsewhere", "inconclusive", "unresolvable"]
Answer = Literal["yes", "no", "unclear", "missing", "not asked"]

MODEL_RULE = (
    "A model is called cell-focused, or said to look elsewhere, where more than half of its "
    "methods and layers say so and none says the opposite; those whose grid cannot tell a score "
    "from chance do not count. Else it is inconclusive."
)

RESOLVABLE = 0.5
"""The least share of cells whose grid must be able to tell a score from chance."""


@dataclass(frozen=True)
class Evidence:
    """One condition of a verdict: whether it holds, and its number."""

    name: Literal["evidence", "resolvable", "null", "neighbours", "swap"]
    answer: Answer
    text: str
    """What was found, with its numbers, or what to do where it is missing: for people."""
    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    made_of: str = ""
    """What the number is of, in short: units behind cells, both terms of a difference."""


@dataclass(frozen=True)
class Verdict:
    """What can be said of one model under one method at one layer."""

    kind: Kind
    sentence: str
    conditions: tuple[Evidence, ...]
    about: dict[str, Any]
    """The columns that name the condition, and their values."""

    def __getitem__(self, name: str) -> Evidence:
        return next(found for found in self.conditions if found.name == name)


@dataclass(frozen=True)
class ModelVerdict:
    """What can be said of one model over all its methods and layers."""

    name: str
    kind: str
    sentence: str
    verdicts: Sequence[tuple[str, Verdict]]
    """Method and layer in words, and its verdict."""


def verdict(table: pd.DataFrame, /, **options: Any) -> Verdict:
    """The verdict of a table that holds one condition, beside its null and its swap.

    Rules and options as :func:`verdicts`.

    :raises DataError: the table holds no or several conditions.
    """
    found = verdicts(table, **options)
    if len(found) != 1:
        names = [label(each.about, list(each.about)) for each in found]
        raise DataError(
            f"verdict() judges one condition; the table holds {preview(names, most=3) or 'none'}. "
            "Choose one, or use verdicts()."
        )
    return found[0]


def verdicts(
    table: pd.DataFrame,
    /,
    *,
    score: str = "grad_camo",
    corrected: str = "above_chance",
    null: str | None = None,
    clusters: Sequence[str] | None = None,
    least_cells: int = 30,
    **options: Any,
) -> list[Verdict]:
    """A verdict for each model, method and layer of a table; rows of randomised weights get none.

    Five conditions are looked at. Their intervals are over units (options of ``Resampling``), and
    an answer is ``yes`` where the interval lies above 0, ``no`` where below, else ``unclear``.

    1. evidence: at least ``least_cells`` cells have a score, and at least 5 units.
    2. resolvable: at least half of them lie on a grid that can tell their score from chance.
    3. null: ``<score>.<corrected>`` minus that of the same cells under randomised weights: rows
       with ``model.randomize=all``, or of the model called ``null``; of several draws (other seeds)
       the one with the highest mean. Adebayo et al., NeurIPS 2018.
    4. neighbours: ``<score>.cell_vs_neighbours``; not asked where no cell has neighbours.
    5. swap: ``swap.inside`` minus ``swap.outside``, from any row of the cell under this model.

    The verdict is the first that applies:

    - ``inconclusive`` where no cell has a score; ``unresolvable`` where 2 fails
    - ``inconclusive`` where 1 fails, or where 3 or 5 is missing
    - ``cell-focused`` where 3 and 5 are yes, and 4 is yes or not asked
    - ``looks elsewhere`` where 5 is no, and attribution does not speak for the cell (3 is not yes,
      or 4 is no)
    - ``inconclusive`` else: they disagree, or an interval holds 0

    No mask score sees a confounder inside the cell: ``cell-focused`` does not say that what is read
    there is biology.
    """
    hidden = is_null(table, null=null)
    tested, nulls = table[~hidden], table[hidden]
    nulls_of, tested_of = (_by_model(rows) for rows in (nulls, tested))
    shared = nulls_of.get(null or "", nulls[:0])

    def own_nulls(condition: dict[str, Any]) -> pd.DataFrame:
        own = nulls_of.get(str(condition["model"]), nulls[:0])
        return pd.concat([own, shared]) if len(shared) else own

    return [
        _judge(
            condition,
            rows,
            null_of(
                condition,
                table,
                own_nulls(condition),
                null,
                f"{score}.{corrected}",
            ),
            swap_of(condition, table, tested_of[str(condition["model"])]),
            score,
            corrected,
            least_cells,
            {"clusters": clusters, **options},
        )
        for condition, rows in by_condition(tested, columns_of(table))
        if len(rows)
    ]


def _by_model(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each model: looked up, so that a report of many models stays linear."""
    return {str(name): each for name, each in rows.groupby(rows["model"].astype(str), sort=False)}


def _judge(
    about: dict[str, Any],
    rows: pd.DataFrame,
    null: pd.DataFrame,
    swap: pd.DataFrame,
    score: str,
    corrected: str,
    least_cells: int,
    options: dict[str, Any],
) -> Verdict:
    conditions = (
        _evidence(rows, score, least_cells, options["clusters"]),
        _resolvable(rows, score),
        _above_null(rows, null, f"{score}.{corrected}", options),
        _beside_neighbours(rows, f"{score}.cell_vs_neighbours", options),
        _swapped(swap, options),
    )
    enough, resolved, above, beside, swapped = conditions
    kind: Kind = "inconclusive"
    lacking = [enough] * (enough.answer == "no")
    lacking += [c for c in (above, swapped) if c.answer == "missing"]
    if resolved.answer == "missing":
        why = "no cell has a score"
    elif resolved.answer == "no":
        kind, why = "unresolvable", resolved.text
    elif lacking:
        why = "; ".join(c.text for c in lacking)
    elif above.answer == swapped.answer == "yes" and beside.answer in ("yes", "not asked"):
        kind, why = "cell-focused", f"{above.text}; {swapped.text}"
    elif swapped.answer == "no" and (above.answer != "yes" or beside.answer == "no"):
        kind = "looks elsewhere"
        why = f"{swapped.text}; {beside.text if beside.answer == 'no' else above.text}"
    else:
        open_ = [c for c in (above, beside, swapped) if c.answer in ("no", "unclear")]
        disagree = {"yes", "no"} <= {c.answer for c in (above, beside, swapped)}
        why = ("they disagree: " if disagree else "not decided: ") + "; ".join(
            c.text for c in open_
        )
    return Verdict(kind, f"{kind}: {why}", conditions, about)


def _evidence(
    rows: pd.DataFrame, score: str, least: int, clusters: Sequence[str] | None
) -> Evidence:
    finite = np.isfinite(numbers(rows, score))
    found = Clusters.of(rows, clusters).among(finite)
    cells = int(finite.sum())
    lacks = []
    if cells < least:
        lacks.append(f"{cells} cells with a score, fewer than {least}: score more cells")
    if not found.level:
        lacks.append(f"{found.note}; let the dataset carry Metadata_Well")
    elif found.units < FEWEST:
        lacks.append(f"{found.units} units of {found.level}, fewer than {FEWEST}: score more wells")
    text = "; ".join(lacks) or f"{cells} cells in {found.units} units of {found.level}"
    alike = ""
    if cells > 1 and np.ptp(numbers(rows, score)[finite]) == 0:
        text += f"; all have the same {score}, so no interval says how sure that is"
        alike = ", all with one score"
    units = f"in {found.units} units of {found.level}" if found.level else "no units known"
    answer: Answer = "no" if lacks else "yes"
    return Evidence("evidence", answer, text, float(cells), made_of=units + alike)


def _resolvable(rows: pd.DataFrame, score: str) -> Evidence:
    share = resolvable(rows, score=score)
    if np.isnan(share):
        return Evidence("resolvable", "missing", "no cell has a score")
    text = f"{share:.0%} of cells lie on a grid that can tell their score from chance"
    return Evidence("resolvable", "yes" if share >= RESOLVABLE else "no", text, share)


def _above_null(
    rows: pd.DataFrame, null: pd.DataFrame, column: str, options: dict[str, Any]
) -> Evidence:
    if column not in rows:
        return Evidence("null", "missing", f"no column {column}: add the scorer to scorer=[...]")
    if null.empty:
        return Evidence(
            "null", "missing", "no randomised weights: run it again with model.randomize=all"
        )
    found = paired(rows, null, column, **options)
    if not found["cells"]:
        return Evidence(
            "null", "missing", "no cell has a score under both trained and randomised weights"
        )
    ends = found["difference"], found["low"], found["high"]
    means = found["mean_first"], found["mean_second"]
    return _answered("null", f"{column} less that of randomised weights", *ends, of=means)


def _beside_neighbours(rows: pd.DataFrame, column: str, options: dict[str, Any]) -> Evidence:
    if column not in rows or not np.isfinite(numbers(rows, column)).any():
        return Evidence("neighbours", "not asked", "no cell has neighbours that are known")
    found = bootstrap(rows, column, **options)
    what = f"density of heat on the cell against neighbours ({column})"
    return _answered("neighbours", what, found.value, found.low, found.high)


def _swapped(rows: pd.DataFrame, options: dict[str, Any]) -> Evidence:
    asked, rows = rows, rows[np.isfinite(rows["difference"])] if len(rows) else rows
    if rows.empty:
        texts = asked["reasons"].dropna().unique() if "reasons" in asked else ()
        of_swap = (r for text in texts for r in reasons_of(str(text)) if r.scorer == "swap")
        why = next(of_swap, None)
        run_it = "no swap: run it again with 'scorer=[grad_camo,swap]'"
        return Evidence("swap", "missing", f"no cell has a {why}" if why else run_it)
    found = bootstrap(rows, "difference", **options)
    inside, outside = rows["inside"].mean(), rows["outside"].mean()
    what = f"change by swapping inside ({inside:.3f}) less outside ({outside:.3f})"
    return _answered("swap", what, found.value, found.low, found.high, of=(inside, outside))


def _answered(
    name: Any,
    what: str,
    value: float,
    low: float,
    high: float,
    *,
    of: tuple[float, float] | None = None,
) -> Evidence:
    answer: Answer = "yes" if low > 0 else "no" if high < 0 else "unclear"
    ends = "no interval" if np.isnan(low) else f"[{low:+.3f}, {high:+.3f}]"
    made_of = f"{of[0]:.3f} less {of[1]:.3f}" if of else ""
    return Evidence(name, answer, f"{what}: {value:+.3f} {ends}", value, low, high, made_of)


def model_verdicts(verdicts: Sequence[Verdict], shown: Sequence[str], /) -> list[ModelVerdict]:
    """A verdict a model, by :data:`MODEL_RULE`; ``shown`` are the columns that name a condition."""
    if not verdicts:
        return []
    names = named(pd.DataFrame([each.about for each in verdicts]), shown)
    groups: dict[str, list[tuple[str, Verdict]]] = {}
    for one, other, each in zip(names["series"], names["method_layer"], verdicts, strict=True):
        groups.setdefault(one, []).append((other, each))
    return [_of_model(name, each) for name, each in groups.items()]


def _of_model(name: str, verdicts: Sequence[tuple[str, Verdict]]) -> ModelVerdict:
    counts = Counter(str(each.kind) for _, each in verdicts)
    kind = _kind_of_model(counts)
    rest = [(k, n) for k, n in counts.items() if k != kind]
    others = [f"{n} {_IS.get(k, 'is' if n == 1 else 'are')} {k}" for k, n in rest]
    noun = "method and layer" if len(verdicts) == 1 else "methods and layers"
    count = f"{counts[kind]} of {len(verdicts)} {noun}"
    sentence = {
        "cell-focused": f"looks at the cell: {count} say so",
        "looks elsewhere": f"looks elsewhere than at the cell: {count} say so",
        "unresolvable": f"cannot be judged: at {count} the grid cannot tell a score from chance",
        "inconclusive": f"cannot be judged yet: {count} are inconclusive",
    }[kind]
    if kind in ("inconclusive", "unresolvable") and len(verdicts) == 1:
        sentence = {"inconclusive": "cannot be judged yet", "unresolvable": sentence}[kind]
    if others:
        sentence += f", {' and '.join(others)}"
    sentence = f"{sentence[0].upper()}{sentence[1:]}. {_numbers(verdicts)}".strip()
    return ModelVerdict(name, kind, sentence.replace("[-", "[−").replace(", -", ", −"), verdicts)


_IS = {"looks elsewhere": "say that it"}


def _kind_of_model(counts: Mapping[str, int]) -> str:
    judged = sum(n for kind, n in counts.items() if kind != "unresolvable")
    if not judged:
        return "unresolvable"
    for kind, opposite in (
        ("cell-focused", "looks elsewhere"),
        ("looks elsewhere", "cell-focused"),
    ):
        if not counts.get(opposite) and counts.get(kind, 0) > judged / 2:
            return kind
    return "inconclusive"


def _numbers(verdicts: Sequence[tuple[str, Verdict]]) -> str:
    """What decides: the swap, and the distance to randomised weights; or what is missing."""
    sentences = []
    swap = verdicts[0][1]["swap"]
    if np.isfinite(swap.value):
        way, flip = ("more", 1) if swap.value > 0 else ("less", -1)
        ends = sorted((flip * swap.low, flip * swap.high))
        sentences.append(
            f"Exchanging the cell changes the prediction {way} than exchanging its surroundings, "
            f"by {flip * swap.value:.2f} [{ends[0]:.2f}, {ends[1]:.2f}]."
        )
    values = [v for _, each in verdicts if np.isfinite(v := each["null"].value)]
    if values:
        span = _span(min(values), max(values))
        sentences.append(f"Above chance its score lies {span} that of its randomised weights.")
    lacks = dict.fromkeys(
        each[name].text
        for _, each in verdicts
        for name in ("evidence", "null", "swap")
        if (each[name].answer in ("missing", "no") and not np.isfinite(each[name].value))
        or (name == "evidence" and each[name].answer == "no")
    )
    if lacks:
        sentences.append(f"Lacking: {'; '.join(list(lacks)[:3])}.")
    return " ".join(sentences)


def _span(least: float, most: float) -> str:
    """Differences in words.

    >>> _span(-0.19, -0.07), _span(0.5, 0.5), _span(-0.1, 0.2)
    ('0.07 to 0.19 below', '0.50 above', 'from 0.10 below to 0.20 above')
    """
    if least < 0 < most:
        return f"from {-least:.2f} below to {most:.2f} above"
    way = "above" if most > 0 else "below"
    ends = sorted((abs(least), abs(most)))
    span = f"{ends[0]:.2f}" + (f" to {ends[1]:.2f}" if ends[1] - ends[0] >= 0.005 else "")
    return f"{span} {way}"
