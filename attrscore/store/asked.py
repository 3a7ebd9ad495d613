"""What sweeps asked for, and what became of each of their jobs: small files that say so.

A sweep lists its jobs in ``sweeps/`` before the first one starts. Each job keeps a file of its own
there, which whoever runs that job writes anew. Both are named by what they say.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from attrscore.errors import StoreError
from attrscore.store.commit import beats, commit, heartbeat, make_folder, remove_leftovers
from attrscore.store.folders import Location, paths_in
from attrscore.store.identity import SCHEMA, identify

__all__ = [
    "SWEEPS",
    "Asked",
    "answered",
    "ask",
    "asked_of",
    "being_answered",
    "heartbeat",
    "known_answer",
]

SWEEPS = "sweeps"
DONE = ("done", "left something out")


@dataclass(frozen=True)
class Asked:
    """A job that a sweep asked for."""

    overrides: tuple[str, ...]
    state: str = "absent"
    """``absent``, ``queued``, ``running``, or how it ended: ``done``, ``left something out``,
    ``failed``, ``cancelled`` ... ``stopped``: it began, and its process is gone."""
    queue: str = ""
    """What a scheduler calls it."""

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.state in DONE


def ask(results: Location, jobs: Sequence[Sequence[str]], /) -> Path:
    """List the jobs of a sweep, by their overrides; the path of the list.

    :raises StoreError: not writable.
    """
    listed = [list(job) for job in jobs]
    path = Path(results, SWEEPS, f"{identify(listed)}.json")
    make_folder(path.parent / "jobs")
    remove_leftovers([path.parent, path.parent / "jobs"])
    commit(path, json.dumps({"schema": SCHEMA, "jobs": listed}, indent=1).encode())
    return path


@contextmanager
def being_answered(results: Location, overrides: Sequence[str], /) -> Iterator[None]:
    """While the block runs, the job with these overrides is running."""
    path = _path(results, overrides)
    with suppress(OSError):
        path.unlink(missing_ok=True)
    with heartbeat(path):
        try:
            yield
        except BaseException:
            with suppress(StoreError):
                answered(results, overrides, "stopped")
            raise


def answered(
    results: Location, overrides: Sequence[str], state: str, /, *, queue: str = ""
) -> None:
    """Write what became of a job; ``state="queued"``: ``queue`` is what its scheduler calls it.

    :raises StoreError: not writable.
    """
    content = {"overrides": list(overrides), "state": state, "queue": queue}
    commit(_path(results, overrides), json.dumps({"schema": SCHEMA, **content}).encode())


def known_answer(results: Location, overrides: Sequence[str], /) -> Asked:
    """What became of one job, as its file says; whoever runs it may be gone."""
    try:
        known = json.loads(_path(results, overrides).read_bytes())
        return Asked(tuple(overrides), str(known["state"]), str(known["queue"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Asked(tuple(overrides))


def asked_of(
    results: Location, /, *, queue: Collection[str] | None = None
) -> dict[str, list[Asked]]:
    """Name of each sweep -> its jobs. ``queue`` are those that a scheduler has; None: unknown.

    A list that is damaged is left out.
    """
    folder = Path(results, SWEEPS)
    waiting, running = beats(folder), beats(folder / "jobs")
    found: dict[str, list[Asked]] = {}
    for path in sorted(paths_in(folder)):
        try:
            jobs = json.loads(path.read_bytes())["jobs"] if path.suffix == ".json" else []
        except (OSError, ValueError, KeyError, TypeError):
            continue
        for overrides in jobs:
            job = known_answer(results, overrides)
            state = job.state
            alive = running.get(_path(results, overrides).name)
            if alive is not None:
                state = "running" if alive else "stopped" if state == "absent" else state
            elif state == "queued" and queue is not None:
                state = "queued" if job.queue in queue else "absent"
            elif state == "absent" and waiting.get(path.name):
                state = "queued"
            found.setdefault(path.stem, []).append(Asked(job.overrides, state, job.queue))
    return found


def _path(results: Location, overrides: Sequence[str]) -> Path:
    return Path(results, SWEEPS, "jobs", f"{identify(sorted(overrides))}.json")
