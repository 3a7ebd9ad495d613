"""One verdict a network, of those of its methods and layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from attrscore.report.figures.summaries import named

if TYPE_CHECKING:
    from attrscore.stats import Report, Verdict

__all__ = ["RULE", "NetworkVerdict", "network_verdicts"]

RULE = (
    "A network is called cell-focused, or said to look elsewhere, where more than half of its "
    "methods and layers say so and none says the opposite; those whose grid cannot tell a score "
    "from chance do not count. Else it is inconclusive."
)


@dataclass(frozen=True)
class NetworkVerdict:
    """What can be said of one network over all its methods and layers."""

    name: str
    kind: str
    sentence: str
    verdicts: Sequence[tuple[str, Verdict]]
    """Method and layer in words, and its verdict."""


def network_verdicts(found: Report, /) -> list[NetworkVerdict]:
    """A verdict a network, by :data:`RULE`."""
    if not found.verdicts:
        return []
    words = named(pd.DataFrame([each.about for each in found.verdicts]), found.shown)
    groups: dict[str, list[tuple[str, Verdict]]] = {}
    for one, place, each in zip(words["series"], words["place"], found.verdicts, strict=True):
        groups.setdefault(one, []).append((place, each))
    return [_of(name, verdicts) for name, verdicts in groups.items()]


def _of(name: str, verdicts: Sequence[tuple[str, Verdict]]) -> NetworkVerdict:
    counts = Counter(str(each.kind) for _, each in verdicts)
    kind = _kind(counts)
    rest = [(k, n) for k, n in counts.items() if k != kind]
    told = [f"{n} {_IS.get(k, 'is' if n == 1 else 'are')} {k}" for k, n in rest]
    places = "method and layer" if len(verdicts) == 1 else "methods and layers"
    count = f"{counts[kind]} of {len(verdicts)} {places}"
    sentence = {
        "cell-focused": f"looks at the cell: {count} say so",
        "looks elsewhere": f"looks elsewhere than at the cell: {count} say so",
        "unresolvable": f"cannot be judged: at {count} the grid cannot tell a score from chance",
        "inconclusive": f"cannot be judged yet: {count} are inconclusive",
    }[kind]
    if kind in ("inconclusive", "unresolvable") and len(verdicts) == 1:
        sentence = {"inconclusive": "cannot be judged yet", "unresolvable": sentence}[kind]
    if told:
        sentence += f", {' and '.join(told)}"
    sentence = f"{sentence[0].upper()}{sentence[1:]}. {_numbers(verdicts)}".strip()
    return NetworkVerdict(name, kind, sentence.replace("[-", "[−").replace(", -", ", −"), verdicts)


_IS = {"looks elsewhere": "say that it"}


def _kind(counts: Mapping[str, int]) -> str:
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
    told = []
    swap = verdicts[0][1]["swap"]
    if np.isfinite(swap.value):
        way, flip = ("more", 1) if swap.value > 0 else ("less", -1)
        ends = sorted((flip * swap.low, flip * swap.high))
        told.append(
            f"Exchanging the cell changes the prediction {way} than exchanging its surroundings, "
            f"by {flip * swap.value:.2f} [{ends[0]:.2f}, {ends[1]:.2f}]."
        )
    values = [v for _, each in verdicts if np.isfinite(v := each["null"].value)]
    if values:
        span = _span(min(values), max(values))
        told.append(f"Above chance its score lies {span} that of its randomised weights.")
    lacks = dict.fromkeys(
        each[name].text
        for _, each in verdicts
        for name in ("evidence", "null", "swap")
        if (each[name].answer in ("missing", "no") and not np.isfinite(each[name].value))
        or (name == "evidence" and each[name].answer == "no")
    )
    if lacks:
        told.append(f"Lacking: {'; '.join(list(lacks)[:3])}.")
    return " ".join(told)


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
