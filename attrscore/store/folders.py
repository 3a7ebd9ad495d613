"""The folder of a job: what its job.json tells, and which jobs can serve another."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attrscore.errors import StoreError
from attrscore.store.commit import commit
from attrscore.store.identity import Condition, Job, Range, canonical
from attrscore.store.parts import part_name, part_ranges

__all__ = [
    "FAILED",
    "JOB",
    "JOBS",
    "JobFolder",
    "folders_of",
    "missing_conditions",
    "no_results",
    "open_conditions",
    "paths_in",
    "serving",
    "told_by",
    "without_keep",
]

JOBS, JOB, FAILED = "jobs", "job.json", "failed.json"
MOST_RUNS = 100
MOST_BYTES = 256 * 2**20
"""Of a job.json."""


@dataclass(frozen=True, eq=False)
class JobFolder:
    """A job as its folder tells it."""

    path: Path
    job: Job
    labels: Mapping[str, str]
    config: str
    provenance: Mapping[str, Any]
    runs: Sequence[Mapping[str, Any]] = ()
    """Machine, time and memory of each run that worked on it."""
    known: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """File name of a part -> its size and how its rows ended, so that ``status`` reads no parts."""
    readings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """How scores are to be read, by scorer (:mod:`attrscore.core.readings`)."""

    @classmethod
    def read(cls, path: Path, /) -> JobFolder:
        """The job whose folder this is.

        :raises StoreError: no job.json, or one that is damaged or newer, named.
        """
        told = told_by(path)
        try:
            job = Job.from_identity(told["identity"])
            labels = {str(k): str(v) for k, v in told["labels"].items()}
            return cls(
                path,
                job,
                labels,
                str(told["config"]),
                dict(told["provenance"]),
                list(told.get("runs", ())),
                dict(told.get("parts", {})),
                dict(told.get("readings", {})),
            )
        except StoreError as error:
            raise StoreError(f"{path / JOB} cannot be used. {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(path, error) from error

    @property
    def model(self) -> str:
        """The displayed name of the network."""
        return self.labels.get("model") or _name(self.job.base.get("model"))

    @property
    def dataset(self) -> str:
        """The displayed name of the data."""
        return self.labels.get("dataset") or _name(self.job.base.get("dataset"))

    def write(self) -> None:
        """Write job.json in one step.

        :raises StoreError: not writable.
        """
        told = {
            "schema": self.job.identity["schema"],
            "job": self.job.id,
            "identity": self.job.identity,
            "labels": self.labels,
            "config": self.config,
            "provenance": self.provenance,
            "runs": list(self.runs)[-MOST_RUNS:],
            "parts": self.known,
            "readings": self.readings,
        }
        text = json.dumps(told, indent=1, ensure_ascii=False, default=str)
        commit(self.path / JOB, text.encode("utf-8", "backslashreplace"))

    def part(self, start: int, stop: int) -> Path:
        """The path of a part."""
        return self.path / part_name(start, stop)

    def done(self) -> set[Range]:
        """The ranges whose parts exist, by listing the folder."""
        return part_ranges([part.name for part in paths_in(self.path)]) & set(self.job.ranges)


def no_results(path: Path, /) -> StoreError:
    """What to say where results are asked for and there are none."""
    what = f"There is no file or folder {path}."
    if path.exists():
        what = f"{path} is no results folder: it holds neither {JOBS}/ nor {JOB}."
    return StoreError(
        f"{what} Runs of attrscore write into the folder results=, if not given: results."
    )


def missing_conditions(folder: str | os.PathLike[str], job: Job, /) -> tuple[Condition, ...]:
    """The conditions of ``job`` that no job of this folder has completed for its base, in order.

    So adding a method, a layer or a scorer to a finished sweep computes that alone. Kept maps
    change no number: where ``base["keep"]`` is absent or ``none``, jobs that kept some count too.
    Costs reading each job.json, and listing the folders that matter.
    """
    missing = set(job.conditions)
    for found in serving(folder, job):
        offered = missing.intersection(found.job.conditions)
        if offered and found.done() == set(found.job.ranges):
            missing -= offered
    return tuple(condition for condition in job.conditions if condition in missing)


def folders_of(folder: str | os.PathLike[str], job: Job, /) -> list[Path]:
    """The folders of all jobs that computed a condition of ``job``, whole or in part."""
    wanted = set(job.conditions)
    return [f.path for f in serving(folder, job) if wanted.intersection(f.job.conditions)]


def serving(
    folder: str | os.PathLike[str], job: Job, /, besides: Sequence[str] = ()
) -> Iterator[JobFolder]:
    """The jobs of a results folder whose numbers are those of ``job``'s base, in order.

    ``besides`` names entries of the base in which they may differ.
    """
    if not besides and job.base.get("keep", "none") == "none":
        besides = ("keep",)
    wanted = _without(job.base, besides)
    for path in sorted(paths_in(Path(folder) / JOBS)):
        try:
            told = told_by(path)
            identity = told["identity"]
            if identity["rows"] != job.rows or _without(identity["base"], besides) != wanted:
                continue  # before the conditions are looked at: a folder may hold thousands of jobs
            yield JobFolder.read(path)
        except (StoreError, KeyError, TypeError, AttributeError):
            continue  # being made, damaged or newer: its work is not known to be done


def open_conditions(folders: Iterable[Path], /) -> dict[Path, int]:
    """Unfinished jobs -> how many of their conditions no other of these jobs has finished."""
    done: set[tuple[str, str]] = set()
    unfinished: dict[Path, set[tuple[str, str]]] = {}
    for path in folders:
        try:
            identity = told_by(path)["identity"]
            parts = len(part_ranges([part.name for part in paths_in(path)]))
            base = {"rows": identity["rows"], **identity["base"]}
            keep, whole = base.get("keep", "none"), -(-identity["rows"] // identity["part_rows"])
            conditions = [canonical(each) for each in identity["conditions"]]
        except (StoreError, KeyError, TypeError, AttributeError, ZeroDivisionError):
            continue
        if parts < whole:
            unfinished[path] = {(canonical({**base, "keep": keep}), c) for c in conditions}
        else:  # what is kept changes no number
            bases = {canonical({**base, "keep": each}) for each in (keep, "none")}
            done |= {(each, c) for each in bases for c in conditions}
    return {path: len(asked - done) for path, asked in unfinished.items()}


def _without(base: Mapping[str, Any], names: Sequence[str]) -> str:
    return canonical({name: value for name, value in base.items() if name not in names})


def without_keep(base: Mapping[str, Any], /) -> dict[str, Any]:
    """A base without ``keep``, which says what is stored and changes no number."""
    return {name: value for name, value in base.items() if name != "keep"}


def told_by(folder: Path) -> dict[str, Any]:
    """What a folder's job.json says."""
    try:
        size = (folder / JOB).stat().st_size
        if size > MOST_BYTES:
            raise StoreError(f"{folder / JOB} has {size} bytes; none of ours has so many.")
        told: dict[str, Any] = json.loads((folder / JOB).read_bytes())
    except FileNotFoundError as error:
        raise StoreError(f"{folder} is no job folder: it has no {JOB}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(folder, error) from error
    return told


def _damaged(folder: Path, error: Exception) -> StoreError:
    return StoreError(
        f"{folder / JOB} is damaged ({type(error).__name__}: {error}); "
        "run the same command again, which writes it anew."
    )


def paths_in(folder: Path) -> list[Path]:
    """What lies in a folder; nothing where there is none."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _name(part: Any) -> str:
    return str(part.get("name", "")) if isinstance(part, Mapping) else str(part or "")
