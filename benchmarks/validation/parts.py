"""The parts of the validation by name, and running several side by side, a thread each."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import geometry
import hand_built
import paper
import planted
import real
import repair
import sanity
import torch
import verdict
import vision_transformers
from common import Check, Scale

PARTS = {
    "planted": planted.run,  # the longest first
    "hand_built": hand_built.run,
    "sanity": sanity.run,
    "geometry": geometry.run,
    "paper": paper.run,
    "real": real.run,
    "repair": repair.run,
    "vision_transformers": vision_transformers.run,
    "verdict": verdict.run,  # on two processes of its own
}


@dataclass(frozen=True)
class Done:
    """What a part found, and the seconds that it took: by the clock, and of the processors."""

    name: str
    checks: Sequence[Check]
    passed: float
    computed: float


def run(names: Sequence[str], scale: Scale, out: Path, *, jobs: int) -> Iterator[Done]:
    """The parts, in the order in which they end; ``jobs`` at a time, each in its own process."""
    fresh = get_context("spawn")
    with ProcessPoolExecutor(
        jobs, mp_context=fresh, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        started = [pool.submit(_one, name, scale, out) for name in names]
        for each in as_completed(started):
            yield each.result()


def _one(name: str, scale: Scale, out: Path) -> Done:
    passed, computed = time.perf_counter(), time.process_time()
    checks = PARTS[name](scale, out)
    return Done(name, checks, time.perf_counter() - passed, time.process_time() - computed)
