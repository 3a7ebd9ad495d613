"""How the processes of a sweep share a machine: threads and devices."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["LISTED", "Fused", "Swept", "combinations", "fuse", "share", "workers_known"]

LISTED = ("method", "scorer", "layers")
"""Settings that may hold several values, which one job then computes together."""


@dataclass(frozen=True)
class Swept:
    """One setting of the command line and the values that it takes in turn."""

    key: str
    """As typed, with its sign: ``dataset.seed``, ``+method.ig.steps``."""
    values: tuple[str, ...]
    """As text that Hydra reads."""
    entries: tuple[tuple[str, ...], ...] = ()
    """For a setting of ``LISTED``: the entries of each value, each as text."""

    @property
    def texts(self) -> tuple[str, ...]:
        """Key and value, for each value."""
        return tuple(f"{self.key}={value}" for value in self.values)

    @property
    def names(self) -> tuple[str, ...]:
        """Every entry of every value, once."""
        return tuple(dict.fromkeys(itertools.chain(*self.entries)))

    @property
    def kind(self) -> str:
        """``method`` or ``scorer`` for an option of one, else empty."""
        return self.owner[0] if self.owner else ""

    @property
    def owner(self) -> tuple[str, str] | None:
        """The plugin whose option this is: ``method.integrated_gradients.steps``; else None."""
        words = self.key.lstrip("+~").split(".")
        return (words[0], words[1]) if words[0] in LISTED[:2] and len(words) > 2 else None


@dataclass(frozen=True)
class Fused:
    """What one dataset, network and whatever else is not fused cost: few jobs for many."""

    jobs: tuple[tuple[str, ...], ...]
    """The overrides of each job."""
    apart: tuple[tuple[str, ...], ...]
    """The overrides of the combinations that they stand for, one job each."""


def combinations(swept: Sequence[Swept], /) -> list[tuple[str, ...]]:
    """Every combination of the values, as Hydra's own sweeper makes them.

    >>> combinations([Swept("a", ("1", "2")), Swept("b", ("x",))])
    [('a=1', 'b=x'), ('a=2', 'b=x')]
    """
    return list(itertools.product(*(each.texts for each in swept)))


def fuse(swept: Sequence[Swept], /, *, alone: Sequence[str] = ()) -> list[Fused]:
    """The jobs of a sweep, those that differ in methods, layers and scorers only as one.

    Where an option of a plugin is swept, a job has one value of it, for the plugin's name in the
    results is one. Values of ``method`` or ``scorer`` that name an entry of ``alone`` (a
    configuration that may hold more than one plugin) get jobs of their own.

    >>> sweep = [Swept("method", ("a", "b"), (("a",), ("b",))), Swept("seed", ("0", "1"))]
    >>> [fused.jobs for fused in fuse(sweep)]
    [(('seed=0', 'method=[a,b]'),), (('seed=1', 'method=[a,b]'),)]
    """
    ours = [each for each in swept if each.entries or each.owner]
    rest = [each for each in swept if each not in ours]
    rounds = [
        _rounds(kind, [each for each in ours if kind in (each.key, each.kind)], alone)
        for kind in LISTED
    ]
    together = [tuple(itertools.chain(*chosen)) for chosen in itertools.product(*rounds)]
    return [
        Fused(
            jobs=tuple((*fixed, *texts) for texts in together),
            apart=tuple((*fixed, *texts) for texts in combinations(ours)),
        )
        for fixed in combinations(rest)
    ]


def _rounds(kind: str, ours: Sequence[Swept], alone: Sequence[str]) -> list[tuple[str, ...]]:
    """What is said of the methods, the scorers or the layers, in each job.

    A plugin whose options take n values is in n jobs, any other in the first alone.
    """
    choice = next((each for each in ours if each.key == kind), None)
    names = choice.names if choice else ()
    if not set(names).isdisjoint(alone):
        return combinations(ours)
    options: dict[str, list[Swept]] = {}
    for each in ours:
        if each.owner:
            options.setdefault(each.owner[1], []).append(each)
    variants = {name: combinations(each) for name, each in options.items()}
    rounds = []
    for number in range(max(map(len, variants.values()), default=1)):
        told = {
            name: each[min(number, len(each) - 1)]
            for name, each in variants.items()
            if choice is None or number < len(each)
        }
        texts = list(itertools.chain(*told.values()))
        if choice is not None:
            members = [name for name in names if number == 0 or name in told]
            texts.insert(0, f"{kind}=[{','.join(members)}]")
        rounds.append(tuple(texts))
    return rounds


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
