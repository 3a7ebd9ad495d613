"""The rule of the verdict, which says whether a model looks at the cell; see :func:`verdicts`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from attrscore.core.statuses import reasons_of
from attrscore.errors import ConfigError, DataError, preview
from attrscore.stats.comparisons import answers
from attrscore.stats.conditions import (
    UNSCORED,
    by_condition,
    by_model,
    columns_of,
    draws_of,
    guide_of,
    is_null,
    label,
    named,
    of_model,
    swap_of,
)
from attrscore.stats.resampling import FEWEST, Clusters, bootstrap, numbers
from attrscore.stats.summary import rank_among, resolvable

__all__ = [
    "KINDS",
    "Evidence",
    "Kind",
    "ModelVerdict",
    "Rule",
    "Verdict",
    "model_verdicts",
    "verdict",
    "verdicts",
]

Kind = Literal[
    "cell-focused",
    "reads both",
    "looks elsewhere",
    "no effect",
    "inconclusive",
    "unresolvable",
    "guided",
]
KINDS: Mapping[Kind, str] = {
    "cell-focused": "it reads the cell and nothing else that was found, and attribution agrees",
    "reads both": "it reads the cell, and its surroundings too",
    "looks elsewhere": "it reads the surroundings, and not the cell",
    "no effect": "neither changes what it says: it reads neither, or learnt nothing",
    "inconclusive": "not decided: evidence is missing, or an interval holds a limit",
    "unresolvable": "it reads the cell, on a grid too coarse for attribution to agree",
    "guided": "it reads the cell and nothing else that was found, by the swap alone: attribution "
    "was part of its training, and agrees whatever it reads",
}
Name = Literal[
    "evidence",
    "inside",
    "cell",
    "outside",
    "flips",
    "share",
    "draws",
    "resolvable",
    "conflicting",
]
Answer = Literal["yes", "no", "unclear", "missing"]

METHOD = "grad_cam"
"""The method of the primary condition, unless another is named."""
CELL: tuple[Name, ...] = ("inside", "cell")
AROUND: tuple[Name, ...] = ("outside", "flips", "share")
"""Evidence of the swap: what it says of the cell, and of all around it."""

_SWAPPED: Mapping[Name, tuple[str, str]] = {
    "inside": ("swap.inside", "drop by exchanging the cell {}"),
    "cell": ("swap.cell", "by transplanting it whole {}"),
    "outside": ("swap.outside", "by exchanging its surroundings {}"),
    "flips": ("swap.outside_flips", "which flips {} of predictions"),
    "share": ("swap.outside_share", "and is {} of the changes of margin"),
}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a verdict asks for. Drops are those of the explained probability, intervals of 95 %."""

    effect: float = 0.10
    """Something matters where the lower end of its drop reaches this."""
    negligible: float = 0.05
    """Something does not matter where the interval of its drop lies within this around 0."""
    flips: float = 0.15
    """Most predictions that other surroundings may flip, at the upper end."""
    share: float = 0.25
    """Most of a cell's changes of margin that may come from its surroundings, at the upper end."""
    p: float = 0.05
    """Highest p of the rank among random weights."""
    draws: int = 19
    """Fewest draws of random weights."""
    cells: int = 30
    """Fewest cells with a score, and fewest with a swap."""
    resolvable: float = 0.5
    """Least share of cells whose grid can tell a score from chance."""

    def __post_init__(self) -> None:
        if not 0 <= self.negligible < self.effect:
            raise ConfigError(
                f"negligible={self.negligible} must lie between 0 and effect={self.effect}."
            )
        if self.p * (self.draws + 1) < 1:
            raise ConfigError(
                f"Of {self.draws} draws no rank has p <= {self.p}: ask for "
                f"draws={math.ceil(1 / self.p) - 1} or more."
            )

    def __str__(self) -> str:
        return ", ".join(f"{field.name}={getattr(self, field.name):g}" for field in fields(self))


@dataclass(frozen=True)
class Evidence:
    """One condition of a verdict: whether it holds, and its number."""

    name: Name
    answer: Answer
    text: str
    """What was found, with its numbers, or what to do where it is missing: for people."""
    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    made_of: str = ""
    """What the number is of, in short: units behind cells, a rank behind p."""


@dataclass(frozen=True)
class Verdict:
    """What can be said of one model under one method at one layer."""

    kind: Kind
    sentence: str
    conditions: tuple[Evidence, ...]
    about: dict[str, Any]
    """The columns that name the condition, and their values."""
    primary: bool = True
    """Whether it is the one condition that speaks for its model."""
    rule: Rule = Rule()

    def __getitem__(self, name: str) -> Evidence:
        return next(found for found in self.conditions if found.name == name)


@dataclass(frozen=True)
class ModelVerdict:
    """The verdict of one model, which is that of its primary condition, and the others beside."""

    name: str
    primary: Verdict
    verdicts: Sequence[tuple[str, Verdict]]
    """Method and layer in words, and its verdict; the primary first."""


def verdict(table: pd.DataFrame, /, **options: Any) -> Verdict:
    """The verdict of the one model in a table: that of its primary condition.

    Rule and options as :func:`verdicts`.

    :raises DataError: the table holds no or several models.
    """
    found = [each for each in verdicts(table, **options) if each.primary]
    if len(found) != 1:
        names = [label(each.about, list(each.about)) for each in found]
        raise DataError(
            f"verdict() judges one model; the table holds {preview(names, most=3) or 'none'}. "
            "Choose one, or use verdicts()."
        )
    return found[0]


def verdicts(
    table: pd.DataFrame,
    /,
    *,
    score: str = "grad_camo",
    primary: Mapping[str, str] | None = None,
    null: str | None = None,
    clusters: Sequence[str] | None = None,
    rule: Rule | None = None,
    **options: Any,
) -> list[Verdict]:
    """A verdict for each model, method and layer of a table; rows of randomised weights get none.

    The swap says what a model reads. By the numbers of ``rule`` each of its sides matters
    (``yes``), does not (``no``), or is ``unclear``; intervals are over plates where there are five,
    else over wells, which the sentence says: on these plates only (options of ``Resampling``):

    - ``inside``, ``cell``: the drop by exchanging what lies within the outline, and by
      transplanting the whole cell with its outline, which sees size and shape as well
    - ``outside``: the drop by exchanging the surroundings; ``flips``: the share of predictions that
      this changes; ``share``: ``swap.outside_share``, how much of all changes of the margin comes
      from the surroundings, which neither saturates nor cancels

    The verdict is the first that applies:

    - ``inconclusive``: cells, units or the swap are missing
    - ``reads both``: the cell matters, and one of the three numbers of its surroundings does
    - ``cell-focused``: the cell matters, nothing of its surroundings does, and attribution agrees:
      the mean log odds of ``score`` rank above random weights (too few draws: ``inconclusive``), on
      a grid that can tell them from chance (else ``unresolvable``)
    - ``looks elsewhere``: the cell does not matter, and the surroundings do by ``effect`` or more
    - ``no effect``: neither matters, as in a model that learnt nothing
    - ``inconclusive``: what is left, where an interval holds a limit

    A model whose ``model.guide`` put attribution into its loss (any but ``none``, ``swap`` and
    ``masked_crops``) is never ``cell-focused``: it is ``guided`` where the swap finds that it reads
    the cell alone. Where its score ranks above random weights and the swap finds its surroundings
    to matter, the sentence says that the score was gamed. A guide of any kind may have trained for
    the swap: where 30 cells or more are marked as ``Metadata_conflicting`` (a shortcut speaks for
    another class there), the verdict of a guided model asks that it be right on them more often
    than by guessing; else it is ``inconclusive``.

    Random weights are the rows with ``model.randomize=all``, or of the model called ``null``; each
    seed is a draw. The p of a rank is (1 + draws at least as high) / (draws + 1), over the cells
    that both define; a draw that defines fewer than half of them does not count (Phipson, Smyth,
    Statistical Applications in Genetics and Molecular Biology 2010; Adebayo et al., NeurIPS 2018).

    One condition of a model is primary and speaks for it. The others have verdicts beside it and
    no vote, for they share one swap. ``primary`` names it by columns, best before anything is
    scored: ``{"method": "hires_cam", "layer": "features.6"}``. What that leaves open is
    ``grad_cam`` where it was run, the deepest layer, and the first of the table.

    No mask score sees a confounder inside the cell: ``cell-focused`` does not say that what is read
    there is biology.

    :raises DataError: a model lacks the primary condition.
    """
    rule = rule or Rule()
    options = {"clusters": clusters, "fewest": FEWEST, **options}
    hidden, columns, found = is_null(table, null=null), columns_of(table), []
    if table.empty:
        return []
    random = by_model(table[hidden])
    for _, rows in by_condition(table[~hidden], of_model(columns)):
        conditions = list(by_condition(rows, columns))
        speaks = _primary(conditions, primary or {})
        swaps: dict[str, list[Evidence]] = {}
        for i, (about, cells) in enumerate(conditions):
            target = str([about[name] for name in columns if name.partition(".")[0] == "target"])
            if target not in swaps:
                swaps[target] = _swapped(swap_of(about, rows), rule, options)
            evidence = (
                _enough(cells, score, rule, clusters),
                *swaps[target],
                _ranked(cells, draws_of(about, random, score, null), score, rule),
                _resolvable(cells, score, rule),
                *_conflicting(cells, rule, options),
            )
            kind, sentence = _judge({each.name: each for each in evidence}, rule, guide_of(about))
            found.append(Verdict(kind, sentence, evidence, about, i == speaks, rule))
    return found


def _primary(
    conditions: Sequence[tuple[dict[str, Any], pd.DataFrame]], wanted: Mapping[str, str]
) -> int:
    """The number of the condition that speaks for a model."""
    fits = [
        i
        for i, (about, _) in enumerate(conditions)
        if all(str(about.get(name)) == str(value) for name, value in wanted.items())
    ]
    if not fits:
        names = [label(about, list(about)) for about, _ in conditions]
        asked = ",".join(f"{name}={value}" for name, value in wanted.items())
        raise DataError(f"No condition is the primary {asked}; there are {preview(names, most=5)}.")

    def preference(i: int) -> tuple[bool, float]:
        about, rows = conditions[i]
        depth = rows["depth"].max() if "depth" in rows else np.nan
        return about["method"] == METHOD, -np.inf if pd.isna(depth) else float(depth)

    return max(fits, key=preference)  # the first of equals


def _judge(found: Mapping[Name, Evidence], rule: Rule, guide: str) -> tuple[Kind, str]:
    """The rule, and its sentence."""
    enough, outside, draws, grid = (
        found[name] for name in ("evidence", "outside", "draws", "resolvable")
    )
    cell, around = (
        {found[name].answer for name in names} - {"missing"} for names in (CELL, AROUND)
    )
    kind: Kind = "inconclusive"
    why = ""
    if enough.answer == "no" or not cell:
        lacks = [each for each in (enough, outside, draws) if each.answer in ("no", "missing")]
        why = "; ".join(each.text for each in lacks)
    elif "yes" in cell and "yes" in around:
        kind = "reads both"
    elif "yes" in cell and around == {"no"}:
        if guide not in UNSCORED:
            kind = "guided"
        elif grid.answer != "yes":
            kind, why = "unresolvable", grid.text
        elif draws.answer == "yes":
            kind = "cell-focused"
        else:
            why = draws.text if draws.answer == "missing" else "attribution does not agree"
    elif cell == {"no"} and outside.low >= rule.effect:
        kind = "looks elsewhere"
    elif cell == {"no"} and outside.answer == "no":
        kind = "no effect"
    else:
        open_ = [name for name in (*CELL, *AROUND) if found[name].answer == "unclear"]
        why = f"the swap does not decide{' on ' * bool(open_)}{', '.join(open_)}"
    flipped = found.get("conflicting")
    if guide != "none" and kind in ("cell-focused", "guided") and flipped is not None:
        kind, why = (kind, why) if flipped.answer == "yes" else ("inconclusive", flipped.text)
    if guide not in UNSCORED:
        gamed = draws.answer == "yes" and "yes" in around
        trained = f"gamed by guide={guide}" if gamed else f"trained with guide={guide}"
        why = f"{trained}; {why}" if why else trained
    elif guide != "none":
        trained = f"trained with guide={guide}" + ", as the swap tests" * (guide == "swap")
        why = f"{trained}; {why}" if why else trained
    swap = ", ".join(found[n].text for n in (*CELL, *AROUND) if np.isfinite(found[n].value))
    rank = draws.text if np.isfinite(draws.value) else ""
    flip = "" if flipped is None else flipped.text
    said = dict.fromkeys(filter(None, (why, swap, flip, rank, enough.text)))
    return kind, f"{kind}: {'; '.join(said)}"


def _enough(rows: pd.DataFrame, score: str, rule: Rule, clusters: Sequence[str] | None) -> Evidence:
    finite = np.isfinite(numbers(rows, score))
    cells, found = int(finite.sum()), Clusters.of(rows, clusters, fewest=FEWEST).among(finite)
    lacks = []
    if cells < rule.cells:
        lacks.append(f"{cells} cells with a score, fewer than {rule.cells}: score more cells")
    if not found.level:
        lacks.append(f"{found.note}; let the dataset carry Metadata_Well")
    elif cells and found.units < 2:
        lacks.append(f"{found.note}: score more wells")
    units = f"{found.units} units of {found.level}" if found.level else ""
    text = "; ".join(lacks) or ", ".join(filter(None, (f"{cells} cells in {units}", found.note)))
    return Evidence("evidence", "no" if lacks else "yes", text, float(cells), made_of=units)


def _swapped(rows: pd.DataFrame, rule: Rule, options: dict[str, Any]) -> list[Evidence]:
    """What the sides of the swap do, in the order of the table above."""
    known = {str(name) for name in rows if rows[name].notna().any()}
    both = ["swap.inside", "swap.outside"]
    whole = rows[rows[both].notna().all(axis=1)] if known.issuperset(both) else rows[:0]
    if len(whole) < rule.cells:
        return [Evidence(name, "missing", _lacking(rows, len(whole), rule)) for name in _SWAPPED]
    found = []
    for name, (column, words) in _SWAPPED.items():
        if column not in whole or whole[column].isna().all():
            found.append(Evidence(name, "missing", f"nothing in the column {column}"))
            continue
        # Flips are rare events: a resample without one has no error to divide by.
        made = bootstrap(whole, column, **options | ({"interval": "t"} if name == "flips" else {}))
        share = {"flips": rule.flips, "share": rule.share}.get(name)
        if share is not None:
            made = replace(made, low=np.maximum(made.low, 0), high=np.minimum(made.high, 1))
        most = rule.negligible if share is None else share
        idle = made.high <= most and (share is not None or made.low >= -most)
        matters = made.low >= rule.effect if name in CELL else made.low > most
        form = "+.3f" if share is None else ".0%"
        ends = "" if np.isnan(made.low) else f" [{made.low:{form}}, {made.high:{form}}]"
        text = words.format(f"{made.value:{form}}{ends}")
        answer: Answer = "yes" if matters else "no" if idle else "unclear"
        found.append(Evidence(name, answer, text, made.value, made.low, made.high))
    return found


def _lacking(rows: pd.DataFrame, cells: int, rule: Rule) -> str:
    texts = rows["reasons"].dropna().unique() if "reasons" in rows else ()
    why = next((r for text in texts for r in reasons_of(str(text)) if r.scorer == "swap"), None)
    if not cells and not why:
        return "no swap: run it again with 'scorer=[grad_camo,swap]'"
    return f"{cells} cells have a swap, fewer than {rule.cells}{f': {why}' if why else ''}"


def _ranked(rows: pd.DataFrame, draws: Sequence[pd.DataFrame], score: str, rule: Rule) -> Evidence:
    found = rank_among(rows, draws, score)
    made_of = f"{found.rank} of {found.draws + 1}"
    if found.draws < rule.draws:
        blank = f" ({found.blank} more define fewer than half of the cells)" if found.blank else ""
        text = (
            f"{found.draws} draws of random weights{blank}, fewer than {rule.draws}: "
            f"run it again with model.randomize=all model.draws={rule.draws + found.blank}"
        )
        return Evidence("draws", "missing", text, made_of=made_of)
    text = f"its score ranks {made_of} among random weights (p = {found.p:.3f})"
    return Evidence("draws", "yes" if found.p <= rule.p else "no", text, found.p, made_of=made_of)


def _resolvable(rows: pd.DataFrame, score: str, rule: Rule) -> Evidence:
    share = resolvable(rows, score=score)
    if np.isnan(share):
        return Evidence("resolvable", "missing", "no cell has a score")
    text = f"{share:.0%} of cells lie on a grid that can tell their score from chance"
    return Evidence("resolvable", "yes" if share >= rule.resolvable else "no", text, share)


def _conflicting(rows: pd.DataFrame, rule: Rule, options: dict[str, Any]) -> list[Evidence]:
    """Whether it is right where a shortcut speaks for another class; empty without such cells."""
    found = answers(rows, conflicting=True, **options)
    if found is None or found.cells < rule.cells:
        return []
    guess = 1 / rows["label"].nunique()
    text = (
        f"right in {found.value:.0%} [{found.low:.0%}, {found.high:.0%}] of conflicting cells, "
        f"where a guess is in {guess:.0%}"
    )
    answer: Answer = "yes" if found.low > guess else "no"
    return [Evidence("conflicting", answer, text, found.value, found.low, found.high)]


def model_verdicts(verdicts: Sequence[Verdict], shown: Sequence[str], /) -> list[ModelVerdict]:
    """The verdict of each model with the others beside it; ``shown`` distinguishes conditions."""
    if not verdicts:
        return []
    names = named(pd.DataFrame([each.about for each in verdicts]), shown)
    groups: dict[str, list[tuple[str, Verdict]]] = {}
    for one, other, each in zip(names["series"], names["method_layer"], verdicts, strict=True):
        groups.setdefault(one, []).append((other, each))
    for group in groups.values():
        group.sort(key=lambda one: not one[1].primary)
    return [ModelVerdict(name, group[0][1], group) for name, group in groups.items()]
