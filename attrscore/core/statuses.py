"""Statuses of rows, and the reasons why values are missing: as values, as text, and read back.

Needs no torch.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from typing import Literal, NamedTuple, cast

import pandas as pd

Status = Literal[
    "ok",
    "no_positive_mass",
    "empty_region",
    "full_region",
    "unresolvable",
    "nonfinite",
    "unsupported",
    "out_of_memory",
    "error",
    "unreadable",
]
"""Why a row's score is a number (``ok``, and ``unresolvable`` with a warning) or is undefined."""

STATUSES: tuple[Status, ...] = Status.__args__  # type: ignore[attr-defined]  # no typed accessor

FAILURES = ("error", "out_of_memory", "unreadable")
"""Statuses that another try may change. ``unsupported`` is none of them: the same model, method and
version would be refused again."""

Kind = Literal["failure", "unsupported", "gap", "note"]


class Reason(NamedTuple):
    """One sentence about a row, and what it concerns.

    The kind is ``failure`` of what should have worked; ``unsupported``, a scorer that gives nothing
    for such maps; ``gap``, a single value that is undefined; or ``note``, nothing amiss.
    """

    kind: Kind
    scorer: str
    """Empty where it concerns the whole row."""
    sentence: str

    def __str__(self) -> str:
        """As the column ``reason`` shows it."""
        if not self.scorer:
            return self.sentence
        if self.kind == "failure":
            return f"scorer {self.scorer!r}: {self.sentence}"
        between = " cannot work here" if self.kind == "unsupported" else ""
        return f"{self.scorer}{between}: {self.sentence}"


SMALLER_BATCHES = Reason(
    "note",
    "",
    "Computed in smaller batches, since memory ran out; the scores are the same up to rounding.",
)
"""Of rows that are as good as any other, but took fewer cells at once than asked."""


def row_failed(sentence: str, /) -> tuple[Reason, ...]:
    """The reason of a row that has no score at all."""
    return (Reason("failure", "", sentence),) if sentence else ()


def stored(reasons: Iterable[Reason], /) -> str:
    """Reasons as the column ``reasons`` holds them: JSON, or nothing.

    >>> stored([Reason("gap", "iou", "a flat map has no Otsu threshold.")])
    '[["gap","iou","a flat map has no Otsu threshold."]]'
    """
    listed = [list(each) for each in reasons]
    return json.dumps(listed, ensure_ascii=False, separators=(",", ":")) if listed else ""


@functools.lru_cache(maxsize=4096)
def reasons_of(text: str, /) -> tuple[Reason, ...]:
    """What :func:`stored` made text of."""
    return tuple(Reason(*each) for each in json.loads(text)) if text else ()


def shown(reasons: Iterable[Reason], /) -> str:
    """Reasons as the column ``reason`` shows them to people; nothing reads it back.

    >>> shown([Reason("unsupported", "auc", "no mask."), Reason("gap", "iou", "flat.")])
    'auc cannot work here: no mask. | iou: flat.'
    """
    return " | ".join(map(str, reasons))


def union(*several: Iterable[Reason]) -> tuple[Reason, ...]:
    """Each reason once, failures first."""
    every = dict.fromkeys(reason for reasons in several for reason in reasons)
    return tuple(sorted(every, key=lambda reason: reason.kind != "failure"))


def failed(table: pd.DataFrame, /) -> pd.Series[bool]:
    """Which rows another try may change: those of a failed status, and those of a failed scorer."""
    if "status" not in table:
        return pd.Series(data=False, index=table.index, dtype=bool)
    broken = table["status"].isin(FAILURES)
    if "reasons" in table:
        texts = table["reasons"].fillna("").astype(str)
        bad = {t for t in texts.unique() if any(r.kind == "failure" for r in reasons_of(t))}
        broken |= texts.isin(bad) & (table["status"] != "unsupported")
    return broken


def reason_table(scores: pd.DataFrame, /) -> pd.DataFrame:
    """A row a reason and method, the most frequent first.

    Columns: ``kind``, ``method``, ``status``, ``scorer``, ``sentence``, ``text`` (both together)
    and ``rows``. Tables that were written before reasons were kept as values have their text as one
    sentence.

    >>> reasons = stored([Reason("unsupported", "auc", "no mask."), Reason("gap", "iou", "flat.")])
    >>> table = pd.DataFrame({"method": ["ig"], "status": ["ok"], "reasons": [reasons]})
    >>> reason_table(table)["kind"].tolist()
    ['unsupported', 'gap']
    """
    rows = scores[["method", "status"]].astype(object)
    for name in ("reason", "reasons"):
        rows[name] = scores[name].fillna("").astype(str) if name in scores else ""
    counts = rows[(rows["reason"] != "") | (rows["reasons"] != "")].value_counts(sort=False)
    found: dict[tuple[str, str, str, str, str, str], int] = {}
    for names, count in counts.items():
        method, status, text, values = map(str, cast("tuple[str, ...]", names))
        plain = Reason("note" if status == "ok" else "failure", "", text)
        for reason in reasons_of(values) or (plain,):
            key = (reason.kind, method, status, reason.scorer, reason.sentence, str(reason))
            found[key] = found.get(key, 0) + int(count)
    columns = ["kind", "method", "status", "scorer", "sentence", "text", "rows"]
    table = pd.DataFrame([(*key, n) for key, n in found.items()], columns=columns)
    return table.sort_values("rows", ascending=False, kind="stable", ignore_index=True)
