"""What became of rows: which failed, how often, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from attrscore.core.statuses import FAILURES, failed

__all__ = ["Failed", "Tally", "add_up", "failure_kind", "tally"]

_LISTED = (*FAILURES, "unsupported")

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

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        failures = [[f.method, f.layer, f.status, f.reason, f.rows] for f in self.failures]
        return {"rows": dict(self.rows), "failures": failures}

    @classmethod
    def of(cls, known: Mapping[str, Any], /) -> Tally:
        """What :meth:`as_dict` made JSON of."""
        return cls(dict(known["rows"]), tuple(Failed(*each) for each in known["failures"]))

    def __add__(self, other: Tally) -> Tally:
        rows = dict(self.rows)
        for status, count in other.rows.items():
            rows[status] = rows.get(status, 0) + count
        return Tally(rows, add_up([*self.failures, *other.failures]))


def tally(table: pd.DataFrame, /) -> Tally:
    """How the rows of a table ended; a scorer that raised counts as an error."""
    if "status" not in table:
        return Tally({"ok": len(table)})
    status = table["status"].astype(object).where(~failed(table) | table["status"].isin(_LISTED))
    status = status.fillna("error")
    rows = {str(name): int(count) for name, count in status.value_counts(sort=False).items()}
    listed = table.assign(status=status)[status.isin(_LISTED)]
    if not len(listed):
        return Tally(rows)
    listed = listed.assign(reason=listed["reason"].fillna("") if "reason" in listed else "")
    keys = listed[["method", "layer", "status", "reason"]].itertuples(index=False, name=None)
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
    """Equal failures as one; beyond 50 reasons of a method at a layer, the rest as another."""
    counts: dict[tuple[str, str, str, str], int] = {}
    reasons: dict[tuple[str, str, str], int] = {}
    for each in failures:
        about = (each.method, each.layer, each.status)
        key = (*about, each.reason)
        if key not in counts:
            reasons[about] = reasons.get(about, 0) + 1
            if reasons[about] > MOST_REASONS:
                key = (*about, "(more reasons)")
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
