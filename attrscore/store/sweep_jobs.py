"""What sweeps asked for, and what became of each of their jobs: small files that say so.

A sweep lists its jobs in ``sweeps/`` before the first one starts. Each job keeps a file of its own
there, which whoever runs that job writes anew. Both are named by what they say.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from attrscore.errors import StoreError
from attrscore.store.commit import beats, commit, heartbeat, make_folder, remove_leftovers
from attrscore.store.folders import Location, paths_in
from attrscore.store.identity import SCHEMA, identify

__all__ = [
    "SWEEPS",
    "SweepJob",
    "forget_state",
    "heartbeat",
    "in_queue",
    "jobs_of_sweeps",
    "state_of",
    "while_running",
    "write_state",
]

SWEEPS = "sweeps"
DONE = ("done", "left something out")


@dataclass(frozen=True)
class SweepJob:
    """A job that a sweep asked for."""

    overrides: tuple[str, ...]
    state: str = "absent"
    """``absent``, ``queued``, ``running``, or how it ended: ``done``, ``left something out``,
    ``failed``, ``cancelled`` ... ``stopped``: it began, and its process is gone."""
    queue: str = ""
    """What a scheduler called it when it was last submitted."""

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.state in DONE


def list_jobs(
    results: Location, jobs: Sequence[Sequence[str]], /, *, queue: Mapping[int, str] | None = None
) -> Path:
    """List the jobs of a sweep, by their overrides; the path of the list.

    ``queue`` is what a scheduler calls some of them, by their number; of the others it stays what
    it was.

    :raises StoreError: not writable.
    """
    listed = [list(job) for job in jobs]
    path = Path(results, SWEEPS, f"{identify(listed)}.json")
    make_folder(path.parent / "jobs")
    remove_leftovers([path.parent, path.parent / "jobs"])
    names = {**in_queue(path), **(queue or {})}
    content = {"jobs": listed, "queue": [names.get(number, "") for number in range(len(listed))]}
    commit(path, json.dumps({"schema": SCHEMA, **content}, indent=1).encode())
    return path


def in_queue(path: Path, /) -> dict[int, str]:
    """Number of a job -> what a scheduler called it, as the list of a sweep says."""
    return {number: job.queue for number, job in enumerate(_listed(path)) if job.queue}


@contextmanager
def while_running(results: Location, overrides: Sequence[str], /) -> Iterator[None]:
    """While the block runs, the job with these overrides is running."""
    forget_state(results, overrides)
    with heartbeat(_path(results, overrides)):
        try:
            yield
        except BaseException:
            with suppress(StoreError):
                write_state(results, overrides, "stopped")
            raise


def write_state(results: Location, overrides: Sequence[str], state: str, /) -> None:
    """Write what became of a job.

    :raises StoreError: not writable.
    """
    content = {"schema": SCHEMA, "overrides": list(overrides), "state": state}
    commit(_path(results, overrides), json.dumps(content).encode())


def forget_state(results: Location, overrides: Sequence[str], /) -> None:
    """Forget what became of a job, which is to run again."""
    with suppress(OSError):
        _path(results, overrides).unlink(missing_ok=True)


def state_of(results: Location, overrides: Sequence[str], /) -> str:
    """What became of one job, as its file says: ``absent`` where there is none."""
    try:
        return str(json.loads(_path(results, overrides).read_bytes())["state"])
    except (OSError, ValueError, KeyError, TypeError):
        return "absent"


def jobs_of_sweeps(
    results: Location, /, *, queue: Collection[str] | None = None
) -> dict[str, list[SweepJob]]:
    """Name of each sweep -> its jobs. ``queue`` are those that a scheduler has; None: unknown.

    A list that is damaged is left out.
    """
    folder = Path(results, SWEEPS)
    waiting, running, again = beats(folder), beats(folder / "jobs"), ("absent", "stopped")
    found: dict[str, list[SweepJob]] = {}
    for path in sorted(each for each in paths_in(folder) if each.suffix == ".json"):
        for job in _listed(path):
            state = state_of(results, job.overrides)
            alive = running.get(_path(results, job.overrides).name)
            if alive:
                state = "running"
            elif job.queue and (
                state == "absent" if queue is None else job.queue in queue and state in again
            ):
                state = "queued"
            elif alive is not None and state == "absent":
                state = "stopped"
            elif state == "absent" and waiting.get(path.name):
                state = "queued"
            found.setdefault(path.stem, []).append(SweepJob(job.overrides, state, job.queue))
    return found


def _listed(path: Path) -> list[SweepJob]:
    """The jobs of a list; none where there is none, or it is damaged."""
    try:
        content = json.loads(path.read_bytes())
        jobs = [tuple(map(str, job)) for job in content["jobs"]]
        queue = [str(each) for each in content.get("queue", ())] or [""] * len(jobs)
        return [SweepJob(job, queue=name) for job, name in zip(jobs, queue, strict=True)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _path(results: Location, overrides: Sequence[str]) -> Path:
    return Path(results, SWEEPS, "jobs", f"{identify(sorted(overrides))}.json")
