"""Slurm: which of our jobs it has, and what became of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping

from attrscore.cli import sweeps

ENDED = {
    "BOOT_FAIL": "lost its node",
    "CANCELLED": "cancelled",
    "COMPLETED": "failed",  # of one that did not say what it came to
    "DEADLINE": "out of time",
    "FAILED": "failed",
    "GONE": "failed",  # Slurm forgets jobs some minutes after they ended
    "NODE_FAIL": "lost its node",
    "OUT_OF_MEMORY": "out of memory",
    "PREEMPTED": "preempted",
    "TIMEOUT": "out of time",
}
"""States in which Slurm runs a job no more -> what became of it."""

OUT_OF_MEMORY = ("253", "125", "0:125")
"""Slurm's derived exit code of a step that was killed for its memory, as its versions write it."""

SLOWEST, FASTEST = 30.0, 2.0
"""Seconds between two questions to Slurm: at first few, later more."""


def states() -> dict[str, str] | None:
    """Each of our jobs that Slurm knows -> its state, such as RUNNING; None where it does not say.

    Asks ``squeue``, which needs no accounting; jobs that ended are known for some minutes.
    """
    squeue = shutil.which("squeue")
    if squeue is None:
        return None
    listed = "JobArrayID:64,State:32,DerivedEC:16"
    asked = [squeue, "-h", "-r", "-t", "all", "-u", str(os.geteuid()), "-O", listed]
    try:
        ran = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True)  # noqa: S603  # fixed arguments
    except (OSError, subprocess.SubprocessError):
        return None
    found = {}
    for job, state, *code in map(str.split, ran.stdout.splitlines()):
        # of a step that ran out of memory Slurm says so, of the job around it that it failed
        killed = state == "FAILED" and set(code) & set(OUT_OF_MEMORY)
        found[job] = "OUT_OF_MEMORY" if killed else state
    return found


def running() -> set[str] | None:
    """Our jobs that Slurm runs or will run; None where it does not say."""
    known, over = states(), {*ENDED, "COMPLETING"}
    return None if known is None else {job for job, state in known.items() if state not in over}


def left_there(asked: Collection[int], /) -> dict[int, str]:
    """Those of these jobs of a sweep that Slurm has already, as an earlier command was ended.

    Number -> Slurm's name.
    """
    there = running() or set()
    return {
        number: job for number, job in sweeps.in_queue().items() if number in asked and job in there
    }


def wait(jobs: Mapping[int, str], logs: Mapping[int, object], /) -> None:
    """Wait for jobs of a sweep, number -> Slurm's name of each, and say what became of each.

    Ctrl-C ends the waiting, and says how to end the jobs.
    """
    if not jobs:
        return
    from attrscore.cli.output import stderr

    arrays = " ".join(dict.fromkeys(job.partition("_")[0] for job in jobs.values()))
    stderr().print(
        f"{len(jobs)} jobs in Slurm as {arrays}; they go on when this command ends. "
        f"To stop them: scancel {arrays}",
        soft_wrap=True,
    )
    try:
        for number, how in _ended(jobs, logs):
            stderr().print(f"job {number} ({jobs[number]}): {how}", soft_wrap=True)
    except KeyboardInterrupt as error:
        error.add_note(
            f"The jobs were left in Slurm, where they go on; to stop them: scancel {arrays}. "
            "The same command waits for them again."
        )
        raise


def _ended(jobs: Mapping[int, str], logs: Mapping[int, object]) -> Iterator[tuple[int, str]]:
    """The number of each job that ended, and what became of it."""
    left, before, began = dict(jobs), dict[int, str](), time.monotonic()
    while left:
        time.sleep(min(SLOWEST, max(FASTEST, (time.monotonic() - began) / 20)))
        known = states()
        if known is None:
            continue
        now = {number: known.get(job, "GONE") for number, job in left.items()}
        ended = {number: state for number, state in now.items() if state in ENDED}
        for number in sorted(ended.keys() & before):  # twice: files may come late over a network
            job, state = left.pop(number), ended[number]
            state = before[number] if state == "GONE" else state
            log = f"; its log: {logs[number]}" if number in logs else ""
            why = f"Slurm's state of {job} is {state}{log}"
            yield number, sweeps.over(number, ENDED[state], why)
        before = ended
