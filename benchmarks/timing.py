"""Measuring side by side, and printing what was found."""

from __future__ import annotations

import argparse
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence

import torch

Contestants = Mapping[str, Callable[[], object]]


def parser(about: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=about.split("\n")[0])
    made.add_argument("--quick", action="store_true", help="small crops, once: does it run?")
    made.add_argument("--repetitions", type=int, default=None)
    made.add_argument("--threads", type=int, default=torch.get_num_threads())
    made.add_argument("--device", default="cpu", help="cpu, cuda ...; wall time where not cpu")
    return made


def begin(given: argparse.Namespace) -> None:
    """Set the threads, and say what this ran on."""
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")  # Captum's and Quantus', about their own ways
    print(
        f"torch {torch.__version__}, {given.device}, {torch.get_num_threads()} threads, "
        f"{platform.machine()}, Python {platform.python_version()}"
    )


def seconds(once: Callable[[], object], device: str = "cpu") -> float:
    """CPU seconds of all threads; wall seconds where an accelerator works."""
    if device == "cpu":
        start = time.process_time()
        once()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    once()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure(
    contestants: Contestants,
    repetitions: int,
    *,
    device: str = "cpu",
    slow: Collection[str] = (),
) -> dict[str, tuple[float, float]]:
    """Median seconds, and the median of the ratios to the first in the same repetition.

    They take turns, forwards and backwards; the ``slow`` take one turn, in the first repetition,
    and no warm-up.
    """
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for name, once in contestants.items():
        if name not in slow:
            once()
    for repetition in range(repetitions):
        order = [name for name in contestants if not repetition or name not in slow]
        for name in order if repetition % 2 else reversed(order):
            taken[name].append(seconds(contestants[name], device))
    first = taken[next(iter(contestants))]
    return {
        name: (
            statistics.median(mine),
            statistics.median(a / b for a, b in zip(mine, first, strict=False)),
        )
        for name, mine in taken.items()
    }


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table."""
    print(f"\n| {' | '.join(header)} |\n|{' --- |' * len(header)}")
    for row in rows:
        print(f"| {' | '.join('' if cell is None else str(cell) for cell in row)} |")
