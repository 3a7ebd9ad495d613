"""How far the jobs of a results folder are, and what failed, without reading the results."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from attrscore.core.statuses import FAILURES, failed
from attrscore.errors import StoreError
from attrscore.store.columns import read_attribute
from attrscore.store.commit import beats, leftovers
from attrscore.store.folders import (
    FAILED,
    JOB,
    JobFolder,
    Location,
    job_folders,
    job_json,
    open_conditions,
)
from attrscore.store.part import opened, part_ranges, read_table
from attrscore.store.scores import jobs_of_merged


@dataclass(frozen=True)
class JobStatus:
    """One job: how many of its conditions are done, failed and missing, and why."""

    path: Path
    job: str
    model: str = ""
    dataset: str = ""
    conditions: int = 0
    failed: int = 0
    """Conditions with rows that failed, or all where the job stopped at an error."""
    parts: int = 0
    parts_done: int = 0
    rows: Mapping[str, int] = field(default_factory=dict)
    """Status -> rows written."""
    failures: tuple[Failed, ...] = ()
    stopped: str = ""
    """How the last run ended, if it did not finish: ``interrupted``, ``error``, ... ``running``."""
    reason: str = ""
    leftovers: int = 0
    """Temporary files that nobody will finish."""
    elsewhere: int = 0
    """Conditions of a job that did not finish, which other jobs have finished since."""

    @property
    def missing(self) -> int:
        """Conditions not finished and not failed."""
        if self.parts_done == self.parts:
            return 0
        return max(0, self.conditions - self.failed - self.elsewhere)

    @property
    def done(self) -> int:
        """Conditions with all their rows, none of which failed."""
        return self.conditions - self.failed - self.missing

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "path": str(self.path),
            "job": self.job,
            "model": self.model,
            "dataset": self.dataset,
            "conditions": {
                "total": self.conditions,
                "done": self.done,
                "failed": self.failed,
                "missing": self.missing,
            },
            "elsewhere": self.elsewhere,
            "parts": {"total": self.parts, "done": self.parts_done},
            "rows": dict(self.rows),
            "failures": [vars(each) for each in self.failures],
            "stopped": self.stopped,
            "reason": self.reason,
            "leftovers": self.leftovers,
        }


def status_of(folder: Location, /) -> list[JobStatus]:
    """Each job of a results folder.

    Costs one small file and one listing a job: how rows ended stands in job.json. Parts of which
    it says nothing, as after a kill, are read for it.

    :raises StoreError: no results folder.
    """
    jobs = [_of_job(path) for path in job_folders(Path(folder))]
    return _served(jobs) if any(job.parts_done < job.parts for job in jobs) else jobs


def _served(jobs: Sequence[JobStatus]) -> list[JobStatus]:
    """Nothing is missing of an unfinished job whose conditions others have finished."""
    left = open_conditions([job.path for job in jobs])
    found = []
    for job in jobs:
        if job.path in left:
            job = replace(job, elsewhere=job.conditions - left[job.path])
            if not left[job.path]:
                job = replace(job, failed=0, rows={}, failures=(), stopped="", reason="")
        found.append(job)
    return found


def provenance_of(path: Location, /) -> dict[str, Any]:
    """What a part, a merged file or a job folder says of how it was made.

    :raises StoreError: not ours, damaged, newer.
    """
    path = Path(path)
    if path.is_dir():
        return job_json(path)
    if path.suffix == ".csv":
        raise StoreError(f"{path}: CSV cannot tell how it was made; collect to .h5 or .parquet.")
    if path.suffix == ".parquet":
        return {"content": "merged", "jobs": jobs_of_merged(path)}
    with opened(path) as part:
        found = {name: _attribute(part.file, name) for name in sorted(part.file.attrs)}
        if found.get("content") == "merged":
            found["jobs"] = part.jobs()
    job = path.parent / JOB
    if job.exists() and found.get("job") == path.parent.name:
        folder = JobFolder.read(path.parent)
        found["labels"], found["runs"] = dict(folder.labels), list(folder.runs)
    return found


def _of_job(path: Path) -> JobStatus:
    leftover, running = 0, ""
    sizes: dict[str, int] = {}
    stopped = reason = ""
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.endswith(".h5") and entry.name[0] != ".":
                sizes[entry.name] = entry.stat().st_size
            elif entry.name.endswith(".tmp"):
                leftover = len(leftovers(path))
                alive = [name for name, lives in beats(path).items() if lives]
                running = next((name for name in alive if part_ranges([name])), "")
            elif entry.name == FAILED:
                stopped, reason = _stopped(path)
    try:
        folder = JobFolder.read(path)
    except StoreError as error:
        stopped = error.kind or "damaged"
        return JobStatus(path, path.name, stopped=stopped, reason=str(error), leftovers=leftover)
    conditions = folder.job.conditions
    ranges = set(folder.job.ranges)
    done = part_ranges(sizes) & ranges
    total = Tally({})
    for name, size in sizes.items():
        if part_ranges([name]) <= done:
            total += _tally(path / name, size, folder.known.get(name))
    broken = {(f.method, f.layer) for f in total.failures if f.status in FAILURES}
    failed = sum(each.triple[:2] in broken for each in conditions)
    if stopped and stopped != "interrupted" and not running:
        failed = len(conditions)
    elif not stopped and len(done) < len(ranges):
        stopped, reason = "unfinished", "its process is gone, or has not begun a part"
    if running and len(done) < len(ranges):
        stopped, reason = "running", f"it computes {running}"
    return JobStatus(
        path,
        path.name,
        folder.model,
        folder.dataset,
        len(conditions),
        failed,
        len(ranges),
        len(done),
        total.rows,
        total.failures,
        stopped,
        reason,
        leftover,
    )


def _tally(path: Path, size: int, known: Mapping[str, Any] | None) -> Tally:
    """How the rows of a part ended: as job.json says, if that part is still the one it means."""
    if known is not None and known["bytes"] == size:
        return Tally.of(known)
    try:
        return tally(read_table(path, ("method", "layer", "status", "reason", "reasons")))
    except StoreError as error:
        kind = error.kind or "damaged"
        return Tally({kind: 1}, add_up([Failed("", "", kind, str(error), 1)]))


def _stopped(path: Path) -> tuple[str, str]:
    try:
        failed = json.loads((path / FAILED).read_bytes())
        notes = "".join(f" ({note})" for note in failed.get("notes", ()))
        first = (str(failed["message"]).splitlines() or [""])[0]
        return str(failed.get("kind", "error")), f"{failed['type']}: {first}{notes}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return "error", f"{path / FAILED} is damaged ({error})."


def _attribute(file: Any, name: str) -> Any:
    value = read_attribute(file, name)
    if name in ("identity", "provenance"):
        return json.loads(str(value))
    return value.item() if hasattr(value, "item") else value


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
        rows = Counter(self.rows) + Counter(other.rows)
        return Tally(dict(rows), add_up([*self.failures, *other.failures]))


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
    counts = Counter((str(m), str(at), str(kind), str(why)) for m, at, kind, why in keys)
    return Tally(rows, add_up([Failed(*key, count) for key, count in counts.items()]))


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
