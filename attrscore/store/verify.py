"""Reading everything once, to find what is damaged, missing, foreign or twice there."""

from __future__ import annotations

import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attrscore.errors import AttrscoreError, StoreError
from attrscore.store.commit import leftovers, remove_leftovers
from attrscore.store.folders import (
    FAILED,
    JOB,
    JobFolder,
    Location,
    job_folders,
    no_results,
    open_conditions,
    paths_in,
)
from attrscore.store.part import ROW, opened, part_name, part_ranges
from attrscore.store.scores import check_parquet

GIB = 2**30


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong.

    Kinds: ``damaged``, ``unreadable``, ``missing``, ``foreign``, ``duplicate``, ``newer``,
    ``crashes``, ``hangs`` and ``memory``.
    """

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

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def verify(path: Location, /, *, seconds: float = 60.0, memory: int = 2 * GIB) -> Report:
    """Read every file of a results folder, or one file, in a child process.

    A file that crashes the reader, keeps it busy for longer than ``seconds``, or needs more than
    ``memory`` bytes is a problem like any other, and the rest is read. Leftovers that nobody will
    finish are removed.

    :raises StoreError: there is nothing.
    """
    given = Path(path)
    if not given.exists():
        raise no_results(given)
    folders = _folders(given)
    alone = [given] if given.is_file() else _derived(given)
    around = [given, *(each for each in paths_in(given) if each.is_dir() and not each.is_symlink())]
    report = Report(jobs=len(folders), leftovers_removed=remove_leftovers([*folders, *around]))
    todo = [*map(str, folders), *map(str, alone)]
    skipped: list[str] = []
    while todo:
        at = ""
        finished: list[str] = []
        try:
            arguments = {"paths": todo, "skip": skipped}
            for said in run_in_child(arguments, seconds=seconds, memory=memory):
                if "at" in said:
                    at = said["at"]
                elif "done" in said:
                    finished.append(said["done"])
                    report.parts += said["parts"]
                    report.cells += said["cells"]
                    report.bytes += said["bytes"]
                    report.problems += [Problem(**each) for each in said["problems"]]
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


def _folders(path: Path) -> list[Path]:
    if path.is_file():
        return []
    if any(part_ranges([each.name]) for each in path.iterdir()):
        return [path]  # though its job.json may be lost
    return job_folders(path)


def _derived(path: Path) -> list[Path]:
    if (path / JOB).exists():
        return []
    return sorted(each for each in path.iterdir() if each.suffix in (".h5", ".parquet"))


# In the child


def check_files(say: Say, *, paths: list[str], skip: list[str]) -> None:
    """Check job folders and files; ``say`` gets where it is, and what was found in each."""
    for each in paths:
        path = Path(each)
        checked = _Checked(say, frozenset(skip))
        if path.is_dir():
            checked.job(path)
        else:
            checked.file(path)
        problems = [asdict(problem) for problem in checked.problems]
        counts = {"parts": checked.parts, "cells": checked.cells, "bytes": checked.bytes}
        say({"done": each, "problems": problems, **counts})


class _Checked:
    def __init__(self, say: Say, skip: Collection[str]) -> None:
        self._say = say
        self._skip = skip
        self.problems: list[Problem] = []
        self.parts = self.cells = self.bytes = 0

    def wrong(self, path: Path, kind: str, sentence: str) -> None:
        self.problems.append(Problem(str(path), kind, sentence))

    def begin(self, path: Path) -> bool:
        if str(path) in self._skip:
            return False
        self._say({"at": str(path)})
        self.bytes += path.stat().st_size
        return True

    def file(self, path: Path) -> None:
        if not self.begin(path):
            return
        try:
            if path.suffix == ".parquet":
                check_parquet(path)
                return
            with opened(path) as part:
                part.check()
                self.parts += part.text("content") == "part"
        except StoreError as error:
            self.wrong(path, error.kind or "damaged", str(error))

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
            self.wrong(path / JOB, error.kind or "damaged", str(error))
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
            with opened(path) as part:
                part.check_job(folder.job.id)
                says = (part.file.attrs.get("start", span[0]), part.file.attrs.get("stop", span[1]))
                if says != span:
                    named = part_name(int(says[0]), int(says[1]))
                    self.wrong(path, "duplicate", f"{path} is a copy of {named}; remove it.")
                    return nothing
                part.check()
                return self._rows(path, folder, span, part.table(ROW))
        except StoreError as error:
            self.wrong(path, error.kind or "damaged", str(error))
            return nothing

    def _rows(
        self, path: Path, folder: JobFolder, span: tuple[int, int], table: pd.DataFrame
    ) -> np.ndarray[Any, Any]:
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


Say = Callable[[Mapping[str, Any]], None]
"""What the child calls to say where it is."""

STARTING = 60.0
"""Seconds in which an interpreter has started, on the slowest disk."""

_STARTED = {"started": True}
_ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    # Arrow's own allocator holds 1 GiB of addresses from the start, which no limit would count.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
_START = "from attrscore.store.verify import check_files, serve; serve(check_files)"


class ChildError(StoreError):
    """The child was stopped, or stopped itself; ``how`` says which."""

    def __init__(self, sentence: str, how: str) -> None:
        super().__init__(sentence)
        self.how = how


def run_in_child(
    arguments: Mapping[str, Any],
    /,
    *,
    seconds: float = 60.0,
    memory: int = 2 * GIB,
) -> Iterator[dict[str, Any]]:
    """What checking files says, as it says it.

    ``seconds`` is the longest silence, ``memory`` what the child may take beyond what it starts
    with.

    :raises ChildError: it crashed, hung or needed too much memory.
    :raises StoreError: what was raised there.
    """
    sent = json.dumps({"arguments": dict(arguments), "memory": memory})
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(  # noqa: S603  # this interpreter, fixed code
            [sys.executable, "-P", "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **_ENVIRONMENT},
        ) as child,
    ):
        try:
            yield from _said(child, sent.encode(), seconds)
            if child.wait(seconds) != 0:
                errors.seek(0)
                raise _stopped(child.returncode, errors.read())
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            raise ChildError(f"no progress for {seconds:g} seconds", "hangs") from error
        finally:
            child.kill()


def _said(child: subprocess.Popen[bytes], sent: bytes, seconds: float) -> Iterator[dict[str, Any]]:
    if child.stdin is None or child.stdout is None:
        raise StoreError("The process that reads files could not be started.")
    with suppress(BrokenPipeError), child.stdin:
        child.stdin.write(sent)
    for line in _lines(child.stdout.fileno(), seconds):
        said: dict[str, Any] = json.loads(line)
        if said == _STARTED:
            continue
        if "error" in said:
            raise StoreError(said["error"])
        yield said


def _lines(descriptor: int, seconds: float) -> Iterator[bytes]:
    held = b""
    deadline = time.monotonic() + max(seconds, STARTING)
    while True:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
        data = os.read(descriptor, 1 << 16)
        if not data:
            return
        deadline = time.monotonic() + seconds
        *whole, held = (held + data).split(b"\n")
        yield from whole


def _stopped(code: int, errors: bytes) -> ChildError:
    text = errors.strip().rpartition(b"\n")[2].decode("utf-8", "replace")
    if "MemoryError" in text or "allocate" in text.lower():
        return ChildError(f"the process needed too much memory ({text})", "memory")
    if code < 0:
        return ChildError(f"the process was stopped by signal {-code}", "crashes")
    return ChildError(f"the process stopped ({text})", "crashes")


def serve(task: Callable[..., None], /) -> None:
    """The child: run ``task``, with the arguments given on standard input."""
    given = json.loads(sys.stdin.buffer.read())
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")

    def say(what: Mapping[str, Any]) -> None:
        out.write(json.dumps(what) + "\n")
        out.flush()

    memory = int(given["memory"])
    _limit(memory)
    say(_STARTED)
    try:
        task(say, **given["arguments"])
    except AttrscoreError as error:
        if _exhausted(memory):
            raise MemoryError("nearly all was taken") from error
        say({"error": str(error)})


def _limit(memory: int) -> None:
    """No more address space than there is already and ``memory``."""
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _exhausted(memory: int) -> bool:
    """Whether hardly any memory was left: HDF5 then calls files damaged that are whole."""
    with suppress(OSError, ValueError, IndexError):
        status = Path("/proc/self/status").read_text()
        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        return int(status.partition("VmPeak:")[2].split()[0]) * 1024 > most - memory // 8
    return False
