"""How the processes of a sweep share a machine: threads and devices."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["share", "workers_known"]

WORKERS = "ATTRSCORE_WORKERS"
"""Environment variable: how many processes of a sweep work on this machine at once."""


@contextmanager
def workers_known(launcher: Mapping[str, Any], jobs: int, /) -> Iterator[None]:
    """Tell the workers that a launcher starts in this block how many they are.

    joblib has ``n_jobs``; submitit starts all jobs on this machine at once. What runs elsewhere
    (slurm, ray) gets cores and devices from its scheduler and is told nothing.
    """
    target = str(launcher.get("_target_", ""))
    workers = 1
    if target.endswith("JoblibLauncher"):
        from joblib import effective_n_jobs

        workers = min(jobs, effective_n_jobs(launcher["n_jobs"]))
    elif target.endswith("LocalLauncher"):
        workers = jobs
    before = os.environ.pop(WORKERS, None)
    if workers > 1:
        os.environ[WORKERS] = str(workers)
    try:
        yield
    finally:
        os.environ.pop(WORKERS, None)
        if before is not None:
            os.environ[WORKERS] = before


def share(settings: Mapping[str, Any], number: int, /) -> dict[str, Any]:
    """The settings of job ``number`` of a sweep, with its share of the machine.

    Where ``threads`` is null, torch gets the cores divided by the workers, or fewer where it was
    told so. Where ``device`` is auto and there are several, they are dealt round by the number.
    """
    import torch  # here: the sweeper, which tells the workers, needs none

    workers = int(os.environ.get(WORKERS, "1"))
    settings = dict(settings)
    if workers > 1 and settings["threads"] is None:
        settings["threads"] = min(torch.get_num_threads(), max(1, _cores() // workers))
    devices = torch.cuda.device_count() if workers > 1 and settings["device"] == "auto" else 0
    if devices > 1:
        settings["device"] = f"cuda:{number % devices}"
    return settings


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux: those that this process may use
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
