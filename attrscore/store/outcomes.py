"""What became of rows: which failed, how often, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from attrscore.core.contracts import SCORER_FAILED

__all__ = ["FAILURES", "Failed", "Tally", "failed", "failure_kind", "tally"]

FAILURES = ("error", "out_of_memory", "unreadable")
"""Statuses that another try may change. ``unsupported`` is none of them: the same network, method
and version would be refused again."""

_TOLD = (*FAILURES, "unsupported")

MOST_REASONS = 50


@dataclass(frozen=True, order=True)
class Failed:
    """Rows of one method at one layer that have no score, for one reason."""

    method: str
    layer: str
    status: str
    reason: str
    rows: int


@dataclass(frozen=True)
class Tally:
    """How the rows of a part ended."""

    rows: Mapping[str, int]
    """Status -> rows."""
    failures: tuple[Failed, ...] = ()

    def told(self) -> dict[str, Any]:
        """As JSON."""
        failures = [[f.method, f.layer, f.status, f.reason, f.rows] for f in self.failures]
        return {"rows": dict(self.rows), "failures": failures}

    @classmethod
    def of(cls, told: Mapping[str, Any], /) -> Tally:
        """What :meth:`told` says."""
        return cls(dict(told["rows"]), tuple(Failed(*each) for each in told["failures"]))

    def __add__(self, other: Tally) -> Tally:
        rows = dict(self.rows)
        for status, count in other.rows.items():
            rows[status] = rows.get(status, 0) + count
        return Tally(rows, add_up([*self.failures, *other.failures]))


def failed(table: pd.DataFrame, /) -> pd.Series[bool]:
    """Which rows of a table another try may change."""
    if "status" not in table:
        return pd.Series(data=False, index=table.index, dtype=bool)
    broken = table["status"].isin(FAILURES)
    if "reason" in table:
        broken |= table["reason"].fillna("").str.startswith(SCORER_FAILED)
    return broken


def tally(table: pd.DataFrame, /) -> Tally:
    """How the rows of a table ended; a scorer that raised counts as an error."""
    if "status" not in table:
        return Tally({"ok": len(table)})
    status = table["status"].astype(object).where(~failed(table) | table["status"].isin(_TOLD))
    status = status.fillna("error")
    rows = {str(name): int(count) for name, count in status.value_counts(sort=False).items()}
    told = table.assign(status=status)[status.isin(_TOLD)]
    if not len(told):
        return Tally(rows)
    told = told.assign(reason=told["reason"].fillna("") if "reason" in told else "")
    keys = told[["method", "layer", "status", "reason"]].itertuples(index=False, name=None)
    counts = Counter(tuple(map(str, key)) for key in keys)
    return Tally(
        rows,
        add_up(
            [
                Failed(method, layer, kind, reason, count)
                for (method, layer, kind, reason), count in counts.items()
            ]
        ),
    )


def add_up(failures: Sequence[Failed], /) -> tuple[Failed, ...]:
    """Equal failures as one; beyond the first 50 reasons of a place, the rest as another."""
    counts: dict[tuple[str, str, str, str], int] = {}
    reasons: dict[tuple[str, str, str], int] = {}
    for each in failures:
        place = (each.method, each.layer, each.status)
        key = (*place, each.reason)
        if key not in counts:
            reasons[place] = reasons.get(place, 0) + 1
            if reasons[place] > MOST_REASONS:
                key = (*place, "(more reasons)")
        counts[key] = counts.get(key, 0) + each.rows
    return tuple(sorted(Failed(*key, rows) for key, rows in counts.items()))


def failure_kind(error: BaseException, /) -> str:
    """What stopped a job: ``interrupted``, ``out_of_memory``, ``unsupported``, ``unreadable`` or
    ``error``.
    """  # noqa: D205  # one sentence
    names = {kind.__name__ for kind in type(error).__mro__}
    for kind, signs in (
        ("interrupted", {"KeyboardInterrupt", "SystemExit", "GeneratorExit"}),
        ("out_of_memory", {"MemoryError", "OutOfMemoryError"}),
        ("unsupported", {"UnsupportedError"}),
        ("unreadable", {"DataError", "FileNotFoundError"}),
    ):
        if names & signs:
            return kind
    return "error"
