"""Reading everything once, to find what is damaged, missing, foreign or twice there."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from attrscore.errors import StoreError, preview
from attrscore.store.child import GIB, ChildError, Tell, run_in_child
from attrscore.store.columns import CHUNK_BYTES, check, escape, hard_links, read_attribute
from attrscore.store.commit import leftovers, remove_leftovers
from attrscore.store.folders import FAILED, JOB, JOBS, JobFolder, no_results, open_conditions
from attrscore.store.parts import columns_of, job_of, opened, part_name, part_ranges, read_columns
from attrscore.store.places import Location

__all__ = ["Problem", "Report", "verify"]


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong: ``damaged``, ``missing``, ``foreign``, ``duplicate``, ``newer``,
    ``crashes``, ``hangs`` or ``memory``.
    """  # noqa: D205  # one sentence

    path: str
    kind: str
    sentence: str


@dataclass
class Report:
    """What was read, and what is wrong with it."""

    jobs: int = 0
    parts: int = 0
    cells: int = 0
    bytes: int = 0
    leftovers_removed: int = 0
    problems: list[Problem] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def verify(path: Location, /, *, seconds: float = 60.0, memory: int = 2 * GIB) -> Report:
    """Read every file of a results folder, or one file, in a child process.

    A file that crashes the reader, keeps it busy for longer than ``seconds``, or needs more than
    ``memory`` bytes is a problem like any other, and the rest is read. Leftovers that nobody will
    finish are removed.

    :raises StoreError: there is nothing.
    """
    place = Path(path)
    if not place.exists():
        raise no_results(place)
    folders = _folders(place)
    alone = [place] if place.is_file() else _derived(place)
    report = Report(jobs=len(folders), leftovers_removed=remove_leftovers([*folders, place]))
    todo = [*map(str, folders), *map(str, alone)]
    skipped: list[str] = []
    while todo:
        at = ""
        finished: list[str] = []
        try:
            arguments = {"paths": todo, "skip": skipped}
            for told in run_in_child("verify", arguments, seconds=seconds, memory=memory):
                if "at" in told:
                    at = told["at"]
                elif "done" in told:
                    finished.append(told["done"])
                    report.parts += told["parts"]
                    report.cells += told["cells"]
                    report.bytes += told["bytes"]
                    report.problems += [Problem(**each) for each in told["problems"]]
        except ChildError as error:
            if not at or at in skipped:
                raise
            skipped.append(at)
            report.problems.append(Problem(at, error.how, f"{at} could not be read: {error}."))
        todo = todo[len(finished) :] if skipped else []
    report.problems = sorted(_still(report.problems, folders))
    return report


def _still(problems: list[Problem], folders: Sequence[Path]) -> list[Problem]:
    """Without the parts that an unfinished job lacks where others have finished all it was for."""
    lacking = {each.path for each in problems if each.kind == "missing"}
    if lacking.isdisjoint(map(str, folders)):
        return problems
    served = {str(path) for path, left in open_conditions(folders).items() if not left}
    return [each for each in problems if each.kind != "missing" or each.path not in served]


def _folders(place: Path) -> list[Path]:
    if place.is_file():
        return []
    if (place / JOB).exists() or any(part_ranges([each.name]) for each in place.iterdir()):
        return [place]
    inside = place / JOBS if (place / JOBS).is_dir() else place
    if inside == place and place.name != JOBS:
        raise no_results(place)
    return sorted(each for each in inside.iterdir() if each.is_dir())


def _derived(place: Path) -> list[Path]:
    if (place / JOB).exists():
        return []
    return sorted(each for each in place.iterdir() if each.suffix in (".h5", ".parquet"))


# In the child


def check_files(tell: Tell, *, paths: list[str], skip: list[str]) -> None:
    """Check job folders and files, telling where it is and what was found in each."""
    for each in paths:
        path = Path(each)
        checked = _Checked(tell, frozenset(skip))
        if path.is_dir():
            checked.job(path)
        else:
            checked.file(path)
        problems = [asdict(problem) for problem in checked.problems]
        counts = {"parts": checked.parts, "cells": checked.cells, "bytes": checked.bytes}
        tell({"done": each, "problems": problems, **counts})


class _Checked:
    def __init__(self, tell: Tell, skip: Collection[str]) -> None:
        self._tell = tell
        self._skip = skip
        self.problems: list[Problem] = []
        self.parts = self.cells = self.bytes = 0

    def wrong(self, path: Path, kind: str, sentence: str) -> None:
        self.problems.append(Problem(str(path), kind, sentence))

    def begin(self, path: Path) -> bool:
        if str(path) in self._skip:
            return False
        self._tell({"at": str(path)})
        self.bytes += path.stat().st_size
        return True

    def file(self, path: Path) -> None:
        if not self.begin(path):
            return
        try:
            if path.suffix == ".parquet":
                _read_parquet(path)
                return
            with opened(path) as file:
                _read_all(file)
                self.parts += read_attribute(file, "content") == "part"
        except StoreError as error:
            self.wrong(path, _kind(error), str(error))

    def job(self, path: Path) -> None:
        if not (path / JOB).exists():
            if part_ranges([each.name for each in path.iterdir()]):
                self.wrong(path / JOB, "missing", f"{path} has parts but no {JOB}.")
            return
        if not self.begin(path / JOB):
            return
        try:
            folder = JobFolder.read(path)
        except StoreError as error:
            self.wrong(path / JOB, _kind(error), str(error))
            return
        job = folder.job
        if job.id != path.name:
            kind = "duplicate" if (path.parent / job.id).exists() else "foreign"
            self.wrong(
                path, kind, f"{path} holds job {job.id}, which has another folder; remove it."
            )
        ranges = set(job.ranges)
        waiting = set(leftovers(path))
        names = sorted(each.name for each in path.iterdir())
        hashes = []
        for name in names:
            here = path / name
            (span,) = part_ranges([name]) or (None,)
            if name in (JOB, FAILED) or (name.endswith(".tmp") and here not in waiting):
                continue
            if span is None or span not in ranges:
                self.wrong(here, "foreign", f"{here} is no part of this job; remove it.")
            elif self.begin(here):
                hashes.append(self.part(here, folder, span))
        absent = sorted(ranges - part_ranges(names))
        if absent:
            first = part_name(*absent[0])
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            self.wrong(
                path,
                "missing",
                f"{path} lacks {first}{more}; run the same command again, which computes them.",
            )
        found = np.concatenate(hashes) if hashes else np.zeros(0, np.uint64)
        self.cells += len(found)
        twice = len(found) - len(np.unique(found))
        if twice:
            self.wrong(path, "duplicate", f"{path} holds {twice} cells in more than one part.")

    def part(self, path: Path, folder: JobFolder, span: tuple[int, int]) -> np.ndarray[Any, Any]:
        """Hashes of the ids of the cells in a part."""
        self.parts += 1
        nothing = np.zeros(0, np.uint64)
        try:
            with opened(path) as file:
                if job_of(file) != folder.job.id:
                    kind, why = "foreign", f"It belongs to job {job_of(file)}; remove it."
                    self.wrong(path, kind, f"{path} cannot be used. {why}")
                    return nothing
                tells = (file.attrs.get("start", span[0]), file.attrs.get("stop", span[1]))
                if tells != span:
                    told = part_name(int(tells[0]), int(tells[1]))
                    self.wrong(path, "duplicate", f"{path} is a copy of {told}; remove it.")
                    return nothing
                _read_all(file)
                return self._rows(path, folder, span, _keys(file))
        except StoreError as error:
            self.wrong(path, _kind(error), str(error))
            return nothing

    def _rows(
        self, path: Path, folder: JobFolder, span: tuple[int, int], columns: dict[str, Any]
    ) -> np.ndarray[Any, Any]:
        table = pd.DataFrame(columns)
        known = {(c.method.key, c.layer) for c in folder.job.conditions}
        pairs = set(table[["method", "layer"]].drop_duplicates().itertuples(index=False, name=None))
        if pairs - known:
            self.wrong(path, "foreign", f"{path} holds rows of {sorted(pairs - known)[0]}.")
        if known - pairs and span[1] > span[0]:
            self.wrong(path, "missing", f"{path} lacks rows of {sorted(known - pairs)[0]}.")
        if table.duplicated().any():
            self.wrong(
                path, "duplicate", f"{path} holds a cell twice for a method, layer and target."
            )
        ids = table["id"].unique()
        if len(ids) != span[1] - span[0]:
            self.wrong(path, "missing", f"{path} holds {len(ids)} cells of {span[1] - span[0]}.")
        return pd.util.hash_array(np.asarray(ids, dtype=object))


def _keys(file: h5py.File) -> dict[str, Any]:
    """What names the rows of a part, all of whose columns must be of one length."""
    names = columns_of(file)
    absent = {"id", "method", "layer"} - set(names)
    if absent:
        raise StoreError(f"It lacks the columns {preview(sorted(absent))}.")
    lengths = {h5py.h5d.open(file["scores"].id, escape(name).encode()).shape for name in names}
    if len(lengths) > 1:
        raise StoreError(f"Its columns have different lengths: {sorted(map(str, lengths))}.")
    told = [name for name in ("id", "method", "layer", "target") if name in names]
    columns = read_columns(file, told)
    return {name: column.series() for name, column in columns.items()}


def _kind(error: StoreError) -> str:
    return "newer" if "newer attrscore" in str(error) else "damaged"


def _read_all(file: h5py.File) -> None:
    """Every dataset, a piece at a time, and every attribute; links and sizes are checked first."""
    for group in _groups(file):
        for link in hard_links(group):
            found = group[link]
            _read_attributes(found)
            if isinstance(found, h5py.Dataset):
                check(found.id)
                for piece in _pieces(found):
                    found[piece]
            elif not isinstance(found, h5py.Group):
                raise StoreError(f"{group.name}/{link} is neither a group nor a dataset.")


def _read_attributes(found: Any) -> None:
    """By the lower half of h5py, which is several times faster; references are left alone."""
    for index in range(h5py.h5a.get_num_attrs(found.id)):
        attribute = h5py.h5a.open(found.id, index=index)
        if attribute.dtype.kind != "O" and attribute.get_space().get_simple_extent_npoints():
            attribute.read(np.empty(attribute.shape, attribute.dtype))


def _groups(group: h5py.Group, depth: int = 0) -> Iterator[h5py.Group]:
    if depth > 8:
        raise StoreError(f"{group.name} lies deeper than any group of ours.")
    yield group
    for link in hard_links(group):
        inside = group[link]
        if isinstance(inside, h5py.Group):
            yield from _groups(inside, depth + 1)


def _pieces(dataset: h5py.Dataset) -> Iterator[Any]:
    if not dataset.shape:
        yield ()
        return
    row = max(1, dataset.dtype.itemsize * int(np.prod(dataset.shape[1:], dtype=np.int64)))
    step = max(1, 16 * CHUNK_BYTES // row)
    for start in range(0, dataset.shape[0], step):
        yield slice(start, start + step)


def _read_parquet(path: Path) -> None:
    try:
        with pq.ParquetFile(path) as file:
            for _ in file.iter_batches():
                pass
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{path} is damaged or no Parquet file; write it anew with attrscore collect."
        ) from error
