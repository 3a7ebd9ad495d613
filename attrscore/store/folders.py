"""What lies at a path: results folders, the folders of jobs, parts, merged files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attrscore.core.readings import Reading
from attrscore.errors import ConfigError, NoResultsError, StoreError
from attrscore.store.commit import commit, unreadable
from attrscore.store.identity import Condition, Job, Range, canonical
from attrscore.store.part import opened, part_name, part_ranges

Location = str | os.PathLike[str]

JOBS, JOB, FAILED = "jobs", "job.json", "failed.json"
MOST_RUNS = 100
MOST_BYTES = 256 * 2**20
"""Of a job.json."""


@dataclass(frozen=True, eq=False)
class JobFolder:
    """A job as its folder has it."""

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
        known = job_json(path)
        try:
            return cls(
                path,
                Job.from_identity(known["identity"]),
                {name: str(text) for name, text in _mapping(known["labels"]).items()},
                str(known["config"]),
                _mapping(known["provenance"]),
                list(map(_mapping, _list(known.get("runs", [])))),
                {name: _mapping(of) for name, of in _mapping(known.get("parts", {})).items()},
                readings_from(known.get("readings", {})),
            )
        except StoreError as error:
            raise StoreError(f"{path / JOB} cannot be used. {error}", kind=error.kind) from error
        except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
            raise _damaged(path, error) from error

    @property
    def model(self) -> str:
        """The displayed name of the model."""
        return self.labels.get("model") or _name(self.job.base.get("model"))

    @property
    def dataset(self) -> str:
        """The displayed name of the data."""
        return self.labels.get("dataset") or _name(self.job.base.get("dataset"))

    def write(self) -> None:
        """Write job.json in one step.

        :raises StoreError: not writable.
        """
        content = {
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
        text = json.dumps(content, indent=1, ensure_ascii=False, default=str)
        commit(self.path / JOB, text.encode("utf-8", "backslashreplace"))

    def part(self, start: int, stop: int) -> Path:
        """The path of a part."""
        return self.path / part_name(start, stop)

    def done(self) -> set[Range]:
        """The ranges whose parts exist, by listing the folder."""
        return part_ranges([part.name for part in paths_in(self.path)]) & set(self.job.ranges)


def no_results(path: Path, /) -> NoResultsError:
    """What to say where results are asked for and there are none."""
    what = f"There is no file or folder {path}."
    if path.exists():
        what = f"{path} is no results folder: it holds neither {JOBS}/ nor {JOB}."
    return NoResultsError(
        f"{what} Runs of attrscore write into the folder results=, if not given: results."
    )


def jobs_like(folder: Location, job: Job, /) -> list[JobFolder]:
    """The jobs of a results folder over the same rows, model and target as ``job``, in order.

    They may differ in heat options, in what they keep, and in conditions. Reads each job.json
    once; one that is being made, damaged or newer is left out: its work is not known to be done.
    """
    wanted = _without(job.base, ("heat", "keep"))
    found = []
    for path in sorted(paths_in(Path(folder) / JOBS)):
        try:
            identity = job_json(path)["identity"]
            same = identity["rows"] == job.rows
            if same and _without(identity["base"], ("heat", "keep")) == wanted:
                found.append(JobFolder.read(path))  # of thousands of others no more is looked at
        except (StoreError, KeyError, TypeError, AttributeError):
            continue
    return found


def serving(jobs: Iterable[JobFolder], job: Job, /) -> list[JobFolder]:
    """Those of these jobs whose numbers are those of ``job``'s base.

    Kept maps change no number: where ``job`` keeps none, jobs that keep some count too.
    """
    besides = ("keep",) if job.base.get("keep", "none") == "none" else ()
    wanted = _without(job.base, besides)
    return [each for each in jobs if _without(each.job.base, besides) == wanted]


def missing_conditions(jobs: Iterable[JobFolder], job: Job, /) -> tuple[Condition, ...]:
    """The conditions of ``job`` that none of these jobs has completed for its base, in order.

    So adding a method, a layer or a scorer to a finished sweep computes that alone. Lists the
    folders that matter.
    """
    missing = set(job.conditions)
    for found in serving(jobs, job):
        offered = missing.intersection(found.job.conditions)
        if offered and found.done() == set(found.job.ranges):
            missing -= offered
    return tuple(condition for condition in job.conditions if condition in missing)


def folders_of(jobs: Iterable[JobFolder], job: Job, /) -> list[Path]:
    """The folders of those of these jobs that computed a condition of ``job``, whole or in part."""
    wanted = set(job.conditions)
    return [each.path for each in serving(jobs, job) if wanted.intersection(each.job.conditions)]


def open_conditions(folders: Iterable[Path], /) -> dict[Path, int]:
    """Unfinished jobs -> how many of their conditions no other of these jobs has finished."""
    done: set[tuple[str, str]] = set()
    unfinished: dict[Path, set[tuple[str, str]]] = {}
    for path in folders:
        try:
            identity = job_json(path)["identity"]
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


def job_json(folder: Path, /) -> dict[str, Any]:
    """What the job.json of a folder says.

    :raises StoreError: there is none, or it is damaged.
    """
    path = folder / JOB
    try:
        size = path.stat().st_size
        known = _mapping(json.loads(path.read_bytes())) if size <= MOST_BYTES else None
    except FileNotFoundError as error:
        raise StoreError(f"{folder} is no job folder: it has no {JOB}.") from error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise _damaged(folder, error) from error
    if known is None:
        raise StoreError(f"{path} has {size} bytes; none of ours has so many.", kind="damaged")
    return known


def _damaged(folder: Path, error: Exception) -> StoreError:
    remedy = "run the same command again, which writes it anew."
    return unreadable(folder / JOB, error, "is damaged", remedy)


def paths_in(folder: Path, /) -> list[Path]:
    """What lies in a folder; nothing where there is none."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _name(plugin: Any) -> str:
    return str(plugin.get("name", "")) if isinstance(plugin, Mapping) else str(plugin or "")


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{type(value).__name__} instead of a mapping")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{type(value).__name__} instead of a list")
    return value


def readings_from(value: Any, /) -> dict[str, dict[str, dict[str, Any]]]:
    """How scores are to be read, as a file has it, without fields that are not known here.

    :raises TypeError: no mapping of mappings.
    :raises ConfigError: a value that a field cannot have.
    """
    known = Reading.__dataclass_fields__
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for scorer, declared in _mapping(value).items():
        found[scorer] = {}
        for column, fields in _mapping(declared).items():
            fields = {name: each for name, each in _mapping(fields).items() if name in known}
            Reading(**fields)
            found[scorer][column] = fields
    return found


@dataclass(eq=False)
class Found:
    """A job and those of its parts that were asked for."""

    folder: JobFolder
    parts: dict[str, Path] = field(default_factory=dict)
    """File name -> path, in the order of the rows."""


def find(paths: Sequence[Location], /) -> tuple[list[Found], list[Path]]:
    """The jobs with their parts, each job once, and the merged files at these paths.

    :raises StoreError: nothing there, or nothing of ours.
    """
    jobs: dict[str, Found] = {}
    merged: dict[Path, None] = {}
    for given in paths:
        if not isinstance(given, str | os.PathLike):
            raise StoreError(f"{given!r} is no path; give folders or files, each as an argument.")
        path = Path(given)
        if path.is_dir():
            for folder in [JobFolder.read(f) for f in job_folders(path) if (f / JOB).exists()]:
                found = jobs.setdefault(folder.job.id, Found(folder))
                for part in sorted(folder.path.iterdir()):
                    if part_ranges([part.name]):
                        found.parts.setdefault(part.name, part)
        elif not path.exists():
            raise no_results(path)
        elif path.suffix == ".csv":
            raise StoreError(
                f"{path}: CSV forgets the types of its columns; read it with pandas.read_csv, or "
                "collect the results folder to .h5 or .parquet."
            )
        elif not path.is_file():
            raise StoreError(f"{path} is neither a folder nor a file.")
        elif path.suffix == ".parquet" or (own := _job_of_part(path)) is None:
            merged[path] = None
        else:
            jobs.setdefault(own.job.id, Found(own)).parts.setdefault(path.name, path)
    return list(jobs.values()), list(merged)


def job_folders(path: Path, /) -> list[Path]:
    """The folders of the jobs of a results folder, in order, or the one that is given.

    One without job.json is being made: it can hold no part yet.

    :raises StoreError: no results folder.
    """
    if (path / JOB).exists():
        return [path]
    inside = path / JOBS if (path / JOBS).is_dir() else path
    if not inside.is_dir():
        raise no_results(path)
    with os.scandir(inside) as entries:
        folders = [inside / name for name in sorted(each.name for each in entries if each.is_dir())]
    named = inside != path or path.name == JOBS
    if not named and not any((folder / JOB).exists() for folder in folders):
        raise no_results(path)
    return folders


def _job_of_part(path: Path) -> JobFolder | None:
    """The job of a lone part: of the folder it lies in, else as the part says; None of a merged."""
    with opened(path) as part:
        if part.text("content") == "merged":
            return None
        job = Job.from_identity(json.loads(part.text("identity")))
        part.check_job(job.id)
        alone = JobFolder(path.parent, job, {}, part.text("config"), {})
    if not (path.parent / JOB).exists():
        return alone
    folder = JobFolder.read(path.parent)
    return folder if folder.job.id == job.id else alone
