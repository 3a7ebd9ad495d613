"""How far the jobs of a results folder are, and what failed, without reading the results."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from attrscore.errors import StoreError
from attrscore.store.columns import read_attribute
from attrscore.store.commit import leftovers
from attrscore.store.folders import (
    FAILED,
    JOB,
    JOBS,
    JobFolder,
    no_results,
    open_conditions,
    told_by,
)
from attrscore.store.identity import MOST_PARTS, SCHEMA, Range, newer
from attrscore.store.outcomes import FAILURES, Failed, Tally, add_up, tally
from attrscore.store.parts import columns_of, opened, part_ranges, read_columns
from attrscore.store.places import Location

__all__ = ["JobStatus", "provenance_of", "status_of"]


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
    """How the last run ended, if it did not finish: ``interrupted``, ``error``, ..."""
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

    def told(self) -> dict[str, Any]:
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
    it tells nothing, as after a kill, are read for it.

    :raises StoreError: no results folder.
    """
    path = Path(folder)
    if (path / JOB).exists():
        return [_of_job(path)]
    inside = path / JOBS if (path / JOBS).is_dir() else path
    if not inside.is_dir():
        raise no_results(path)
    if inside == path and path.name != JOBS:
        raise no_results(path)
    with os.scandir(inside) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    jobs = [_of_job(inside / name) for name in names]
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
    """What a part, a merged file or a job folder tells of how it was made.

    :raises StoreError: not ours, damaged, newer.
    """
    path = Path(path)
    if path.is_dir():
        return told_by(path)
    if path.suffix == ".csv":
        raise StoreError(f"{path}: CSV cannot tell how it was made; collect to .h5 or .parquet.")
    if path.suffix == ".parquet":
        return _of_parquet(path)
    with opened(path) as file:
        found = {name: _attribute(file, name) for name in sorted(file.attrs)}
        if "jobs" in file:
            found["jobs"] = _jobs_of_merged(file)
    job = path.parent / JOB
    if job.exists() and found.get("job") == path.parent.name:
        told = JobFolder.read(path.parent)
        found["labels"], found["runs"] = dict(told.labels), list(told.runs)
    return found


def _of_job(path: Path) -> JobStatus:
    leftover = 0
    sizes: dict[str, int] = {}
    stopped = reason = ""
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.endswith(".h5") and entry.name[0] != ".":
                sizes[entry.name] = entry.stat().st_size
            elif entry.name.endswith(".tmp"):
                leftover = len(leftovers(path))
            elif entry.name == FAILED:
                stopped, reason = _stopped(path)
    try:
        told = told_by(path)
        identity = _of_this_schema(told["identity"])
        base, labels = identity["base"], told["labels"]
        conditions = [(c["method"]["key"], c["layer"]) for c in identity["conditions"]]
        ranges = _ranges(int(identity["rows"]), int(identity["part_rows"]))
        done = part_ranges(sizes) & ranges
        known = told.get("parts", {})
        total = Tally({})
        for name, size in sizes.items():
            if part_ranges([name]) <= done:
                total += _tally(path / name, size, known.get(name))
    except (StoreError, KeyError, TypeError, ValueError, AttributeError) as error:
        why = str(error) if isinstance(error, StoreError) else f"{path / JOB} is damaged ({error})."
        return JobStatus(path, path.name, stopped="damaged", reason=why, leftovers=leftover)
    broken = {(f.method, f.layer) for f in total.failures if f.status in FAILURES}
    failed = sum(place in broken for place in conditions)
    if stopped and stopped != "interrupted":
        failed = len(conditions)
    elif not stopped and len(done) < len(ranges):
        stopped, reason = "unfinished", "running, or its process is gone"
    return JobStatus(
        path,
        path.name,
        labels.get("model") or _name(base, "model"),
        labels.get("dataset") or _name(base, "dataset"),
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


def _of_this_schema(identity: Mapping[str, Any]) -> Mapping[str, Any]:
    if identity["schema"] > SCHEMA:
        raise StoreError(newer(identity["schema"]))
    return identity


def _name(base: Mapping[str, Any], kind: str) -> str:
    part = base.get(kind)
    return str(part.get("name", "")) if isinstance(part, Mapping) else str(part or "")


def _ranges(rows: int, part_rows: int) -> set[Range]:
    if part_rows < 1 or not 0 <= rows <= MOST_PARTS * part_rows:
        raise StoreError(f"It claims {rows} rows in parts of {part_rows}.")
    return {(start, min(start + part_rows, rows)) for start in range(0, rows, part_rows)}


def _tally(path: Path, size: int, known: Mapping[str, Any] | None) -> Tally:
    """How the rows of a part ended: as job.json tells, if that part is still the one it means."""
    if known is not None and known["bytes"] == size:
        return Tally.of(known)
    try:
        with opened(path) as file:
            names = {"method", "layer", "status", "reason"}.intersection(columns_of(file))
            return tally(_frame(read_columns(file, names)))
    except StoreError as error:
        return Tally({"damaged": 1}, add_up([Failed("", "", "damaged", str(error), 1)]))


def _frame(columns: Mapping[str, Any]) -> Any:
    import pandas as pd

    return pd.DataFrame({name: column.series() for name, column in columns.items()})


def _stopped(path: Path) -> tuple[str, str]:
    try:
        told = json.loads((path / FAILED).read_bytes())
        notes = "".join(f" ({note})" for note in told.get("notes", ()))
        first = (str(told["message"]).splitlines() or [""])[0]
        return str(told.get("kind", "error")), f"{told['type']}: {first}{notes}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return "error", f"{path / FAILED} is damaged ({error})."


def _attribute(file: Any, name: str) -> Any:
    value = read_attribute(file, name)
    if name in ("identity", "provenance"):
        return json.loads(str(value))
    return value.item() if hasattr(value, "item") else value


def _of_parquet(path: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(path).metadata or {}
        jobs = json.loads(metadata[b"attrscore.jobs"])
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(
            f"{path} is damaged or was not written by attrscore; write it anew with attrscore "
            "collect."
        ) from error
    return {"content": "merged", "jobs": jobs}


def _jobs_of_merged(file: Any) -> list[dict[str, Any]]:
    from attrscore.store.columns import hard_links, read_column, unescape

    group = file["jobs"]
    columns = {
        unescape(link): read_column(group, unescape(link)).series() for link in hard_links(group)
    }
    return [
        dict(zip(columns, map(str, row), strict=True))
        for row in zip(*columns.values(), strict=True)
    ]
