"""Writing: the folder of a job, its parts, and what is still missing."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attrscore.errors import StoreError, preview
from attrscore.store.commit import commit, make_folder, remove_leftovers
from attrscore.store.identity import Condition, Job, Range, canonical
from attrscore.store.maps import MapKey
from attrscore.store.parts import encode, part_name, part_ranges

__all__ = ["JobFolder", "Writer", "folders_of", "missing_conditions"]

JOBS, JOB, FAILED = "jobs", "job.json", "failed.json"
MOST_REASON = 500


@dataclass(frozen=True, eq=False)
class JobFolder:
    """A job as its folder tells it."""

    path: Path
    job: Job
    labels: Mapping[str, str]
    config: str
    provenance: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path, /) -> JobFolder:
        """The job whose folder this is.

        :raises StoreError: no job.json, or one that is damaged or newer, named.
        """
        told = _told(path)
        try:
            job = Job.from_identity(told["identity"])
            labels = {str(k): str(v) for k, v in told["labels"].items()}
            return cls(path, job, labels, str(told["config"]), dict(told["provenance"]))
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
        }
        text = json.dumps(told, indent=1, ensure_ascii=False, default=str)
        commit(self.path / JOB, text.encode("utf-8", "backslashreplace"))

    def done(self) -> set[Range]:
        """The ranges whose parts exist, by listing the folder."""
        return part_ranges([part.name for part in _paths(self.path)]) & set(self.job.ranges)


class Writer:
    """The one writer of a job: it commits parts and never changes one that exists.

    ``labels`` are the names shown for ``model`` and ``dataset``. ``config`` is the configuration as
    text, references to the environment unresolved. ``provenance`` is what else to keep of this
    run in job.json. ``carried`` names columns that are metadata though not called ``Metadata_...``.

    :raises StoreError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        job: Job,
        *,
        labels: Mapping[str, str],
        config: str = "",
        provenance: Mapping[str, Any] | None = None,
        carried: Collection[str] = (),
    ) -> None:
        self.job = job
        self.folder = Path(folder) / JOBS / job.id
        self._carried = frozenset(carried)
        self._pairs = {(c.method.key, c.layer) for c in job.conditions}
        make_folder(self.folder)
        remove_leftovers([self.folder])
        told = JobFolder(self.folder, job, dict(labels), config, dict(provenance or {}))
        try:
            before = JobFolder.read(self.folder)
        except StoreError:
            told.write()
        else:
            if dict(before.labels) != told.labels:
                replace(before, labels=told.labels).write()
            told = before
        self._config = told.config

    def missing(self) -> list[Range]:
        """The ranges that have no part yet, in order."""
        have = part_ranges([part.name for part in _paths(self.folder)])
        return [each for each in self.job.ranges if each not in have]

    def write(
        self,
        start: int,
        stop: int,
        table: pd.DataFrame,
        maps: Mapping[MapKey, np.ndarray[Any, Any]] | None = None,
        *,
        ids: Sequence[str] | None = None,
    ) -> Path:
        """Commit the part of rows ``start`` to ``stop``; where it exists already, that one stays.

        ``table`` has a row a (cell, method, layer). ``maps`` are signed (n, C, *s) by (method,
        layer), for the n cells ``ids``; all cells of the table where None. Reasons are cut at
        500 characters.

        :raises StoreError: no range of the job, a table or maps that do not fit it, or a disk that
            is full or read-only; earlier parts are untouched.
        """
        path = self.folder / part_name(start, stop)
        if (start, stop) not in self.job.ranges:
            raise StoreError(
                f"{start}-{stop} is no range of job {self.job.id}; "
                f"its ranges are {preview(self.job.ranges)}."
            )
        self._check(table, stop - start)
        if ids is None:
            ids = list(dict.fromkeys(table["id"].astype(str)))
        for (method, layer), values in (maps or {}).items():
            if values.ndim not in (4, 5) or len(values) != len(ids):
                raise StoreError(
                    f"Maps of {method} at {layer} must have the shape (N, C, *s) with N = "
                    f"{len(ids)}, a map for each of the ids; given: {values.shape}."
                )
        if path.exists():
            return path
        if "reason" in table:
            table = table.assign(reason=_cut(table["reason"]))
        data = encode(self.job, table, maps or {}, ids, config=self._config, carried=self._carried)
        if not path.exists():
            commit(path, data)
        return path

    def fail(self, error: BaseException, /) -> None:
        """Record why the job stopped, in failed.json."""
        told = {
            "type": type(error).__name__,
            "message": str(error),
            "notes": list(getattr(error, "__notes__", [])),
            "traceback": "".join(traceback.format_exception(error)),
        }
        text = json.dumps(told, indent=1, ensure_ascii=False)
        commit(self.folder / FAILED, text.encode("utf-8", "backslashreplace"))

    def succeed(self) -> None:
        """Forget an earlier failure."""
        (self.folder / FAILED).unlink(missing_ok=True)

    def _check(self, table: pd.DataFrame, cells: int) -> None:
        absent = [name for name in ("id", "method", "layer") if name not in table]
        if absent:
            raise StoreError(f"The table lacks {preview(absent)}; it has {preview(table.columns)}.")
        pairs = table[["method", "layer"]].drop_duplicates().itertuples(index=False, name=None)
        foreign = [
            f"{method} at {layer}" for method, layer in pairs if (method, layer) not in self._pairs
        ]
        if foreign:
            raise StoreError(f"Job {self.job.id} has no condition for {preview(foreign)}.")
        if table.duplicated(["id", "method", "layer"]).any():
            raise StoreError(
                "The table has several rows for one cell, method and layer; ids must be unique."
            )
        if table["id"].nunique() > cells:
            raise StoreError(f"The table has {table['id'].nunique()} cells in a range of {cells}.")


def missing_conditions(folder: str | os.PathLike[str], job: Job, /) -> tuple[Condition, ...]:
    """The conditions of ``job`` that no job of this folder has completed for its base, in order.

    So adding a method, a layer or a scorer to a finished sweep computes that alone. Kept maps
    change no number: where ``base["keep"]`` is absent or ``none``, jobs that kept some count too.
    Costs reading each job.json, and listing the folders that matter.
    """
    missing = set(job.conditions)
    for found in _serving(folder, job):
        offered = missing.intersection(found.job.conditions)
        if offered and found.done() == set(found.job.ranges):
            missing -= offered
    return tuple(condition for condition in job.conditions if condition in missing)


def folders_of(folder: str | os.PathLike[str], job: Job, /) -> list[Path]:
    """The folders of all jobs that computed a condition of ``job``, whole or in part."""
    wanted = set(job.conditions)
    return [f.path for f in _serving(folder, job) if wanted.intersection(f.job.conditions)]


def _serving(folder: str | os.PathLike[str], job: Job) -> Iterator[JobFolder]:
    """The jobs of a results folder whose numbers are those of ``job``'s base."""
    for path in sorted(_paths(Path(folder) / JOBS)):
        try:
            told = _told(path)
            if told["identity"]["rows"] != job.rows or not _serves(
                told["identity"]["base"], job.base
            ):
                continue  # before the conditions are looked at: a folder may hold thousands of jobs
            yield JobFolder.read(path)
        except (StoreError, KeyError, TypeError):
            continue  # being made, damaged or newer: its work is not known to be done


def _serves(have: Mapping[str, Any], want: Mapping[str, Any]) -> bool:
    if want.get("keep", "none") == "none":
        have, want = without_keep(have), without_keep(want)
    return canonical(have) == canonical(want)


def without_keep(base: Mapping[str, Any], /) -> dict[str, Any]:
    """A base without ``keep``, which says what is stored and changes no number."""
    return {name: value for name, value in base.items() if name != "keep"}


def _cut(reasons: pd.Series[Any]) -> pd.Series[Any]:
    """Texts of at most 500 characters: a column is as wide as its longest text."""
    return reasons.map(
        lambda text: text if len(text) <= MOST_REASON else f"{text[: MOST_REASON - 1]}…",
        na_action="ignore",
    )


def _told(folder: Path) -> dict[str, Any]:
    """What a folder's job.json says."""
    try:
        told: dict[str, Any] = json.loads((folder / JOB).read_bytes())
    except FileNotFoundError as error:
        raise StoreError(f"{folder} is no job folder: it has no {JOB}.") from error
    except (OSError, ValueError) as error:
        raise _damaged(folder, error) from error
    return told


def _damaged(folder: Path, error: Exception) -> StoreError:
    return StoreError(
        f"{folder / JOB} is damaged ({type(error).__name__}: {error}); "
        "run the same command again, which writes it anew."
    )


def _paths(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _name(part: Any) -> str:
    return str(part.get("name", "")) if isinstance(part, Mapping) else str(part or "")
