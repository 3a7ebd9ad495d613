"""What a job came to: its exit code, and the sentence that says why. Needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "FAILED",
    "INCOMPLETE",
    "INTERRUPTED",
    "OK",
    "USAGE",
    "Told",
    "say_finished",
    "sweep_ended",
]

OK, FAILED, USAGE, INCOMPLETE, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: all done; something raised; the command is wrong; done, but something was left out;
stopped by the user."""

_MEANING = {FAILED: "failed", USAGE: "could not start", INCOMPLETE: "left something out"}


@dataclass(frozen=True)
class Told:
    """What a job says when it has ended, in this process or another."""

    code: int
    why: str = ""
    overrides: tuple[str, ...] = ()


def say_finished(done: int, jobs: int, results: str, /) -> None:
    """Say how many jobs of a sweep were not run, because nothing of them was left to do."""
    from attrscore.cli import output as terminal

    terminal.stdout().print(
        f"{done} of {jobs} jobs were finished before, in {results}; nothing was computed for them.",
        soft_wrap=True,
    )


def sweep_ended(jobs: Sequence[Told], task: Callable[..., Any], /) -> None:
    """Say how many jobs of a sweep went wrong, and why; ``task.codes`` gets their exit codes.

    The jobs said so themselves, but in worker processes, some of which write to a log of their own.
    """
    task.codes.extend(job.code for job in jobs)  # type: ignore[attr-defined]  # cli gives it
    wrong = Counter(job.code for job in jobs if job.code)
    if not wrong:
        return
    from attrscore.cli import (
        output as terminal,  # here: Hydra imports the sweepers, and with them this, always
    )

    counts = ", ".join(f"{number} {_MEANING.get(code, code)}" for code, number in wrong.items())
    terminal.stderr().print(f"of {len(jobs)} jobs: {counts}", soft_wrap=True)
    for job in jobs:
        if job.why:
            terminal.say_error(job.why, [" ".join(job.overrides)])
