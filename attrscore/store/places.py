"""What lies at a path: results folders, jobs, parts, merged files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attrscore.errors import StoreError
from attrscore.store.columns import read_attribute
from attrscore.store.folders import JOB, JOBS, JobFolder, no_results
from attrscore.store.identity import Job
from attrscore.store.parts import opened, part_ranges

__all__ = ["Found", "Location", "find"]

Location = str | os.PathLike[str]


@dataclass(eq=False)
class Found:
    """A job and those of its parts that were asked for."""

    folder: JobFolder
    parts: dict[str, Path] = field(default_factory=dict)
    """File name -> path, in the order of the rows."""


def find(paths: Sequence[Location], /) -> tuple[list[Found], list[Path]]:
    """The jobs with their parts, each job once, and the merged files at these places.

    :raises StoreError: nothing there, or nothing of ours.
    """
    jobs: dict[str, Found] = {}
    merged: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            for folder in _job_folders(path):
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
        elif path.suffix == ".parquet" or _content(path) == "merged":
            merged[path] = None
        else:
            folder = _job_of_part(path)
            jobs.setdefault(folder.job.id, Found(folder)).parts.setdefault(path.name, path)
    return list(jobs.values()), list(merged)


def _job_folders(path: Path) -> Iterator[JobFolder]:
    if (path / JOB).exists():
        yield JobFolder.read(path)
        return
    inside = path / JOBS if (path / JOBS).is_dir() else path
    # A folder without job.json is one that is being made: it can hold no part yet.
    folders = [each for each in sorted(inside.iterdir()) if (each / JOB).exists()]
    if not folders and inside == path and path.name != JOBS:
        raise no_results(path)
    yield from map(JobFolder.read, folders)


def _content(path: Path) -> str:
    with opened(path) as file:
        return str(read_attribute(file, "content"))


def _job_of_part(path: Path) -> JobFolder:
    """The job of a lone part: of the folder it lies in, else as the part itself tells it."""
    with opened(path) as file:
        job = Job.from_identity(json.loads(str(read_attribute(file, "identity"))))
        config = str(read_attribute(file, "config") or "")
    alone = JobFolder(path.parent, job, {}, config, {})
    if not (path.parent / JOB).exists():
        return alone
    folder = JobFolder.read(path.parent)
    return folder if folder.job.id == job.id else alone
