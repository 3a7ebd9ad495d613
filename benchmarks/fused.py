"""What a sweep costs fused, as a plain multirun, and as one process a combination.

    python benchmarks/fused.py [--quick] [--cells 64]

48 combinations of tiny models (3 methods x 8 layers x 2 models), the same numbers each way, which
is checked. The processes run two at a time, the sweeps in one process. Prints wall time and CPU
time of all processes, and ratios to the fused sweep. It asserts no time.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

import attrscore

METHODS = ("grad_cam", "hires_cam", "layer_cam")
LAYERS = tuple(f"features.{number}" for number in range(8))
WIDTHS = ("8", "16")


def attrscore_command(*arguments: str) -> None:
    command = [
        sys.executable,
        "-c",
        "import sys; from attrscore.cli.main import main; sys.exit(main())",
    ]
    done = subprocess.run(
        [*command, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode not in (0, 3):
        raise SystemExit(done.stdout + done.stderr)


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Wall seconds, and CPU seconds of all child processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    work()
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, sum(getattr(after, n) - getattr(before, n) for n in ("ru_utime", "ru_stime"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="4 combinations of 4 cells")
    parser.add_argument("--cells", type=int, default=64)
    given = parser.parse_args(arguments)
    cells = 4 if given.quick else given.cells
    axes = {"method": METHODS, "layers": LAYERS, "model.width": WIDTHS}
    if given.quick:
        axes = {"method": METHODS[:2], "layers": LAYERS[:2], "model.width": WIDTHS[:1]}
    common = [f"dataset.cells={cells}", "dataset.size=[32,32]", "figures=none"]
    sweep = [f"{key}={','.join(values)}" for key, values in axes.items()]
    each = [
        [f"{key}={value}" for key, value in zip(axes, values, strict=True)]
        for values in itertools.product(*axes.values())
    ]

    with tempfile.TemporaryDirectory() as folder:
        at = {name: f"results={folder}/{name}" for name in ("fused", "plain", "apart")}

        def apart() -> None:
            with ThreadPoolExecutor(2) as pool:
                commands = [pool.submit(attrscore_command, *common, at["apart"], *c) for c in each]
                [command.result() for command in commands]

        ways = {
            "fused": lambda: attrscore_command("-m", *common, at["fused"], *sweep),
            "plain": lambda: attrscore_command("-m", "fuse=false", *common, at["plain"], *sweep),
            "apart": apart,
        }
        taken = {name: measured(work) for name, work in ways.items()}
        jobs = {name: len(list(Path(folder, name, "jobs").iterdir())) for name in ways}
        tables = [attrscore.read_scores(f"{folder}/{name}") for name in ways]
    for other in tables[1:]:
        pd.testing.assert_frame_equal(tables[0], other, check_exact=True)

    print(f"{len(each)} combinations, {cells} cells of 32 x 32, {len(tables[0])} rows, all equal")
    print(f"  {'':34}{'jobs':>6}{'wall s':>9}{'x fused':>9}{'CPU s':>9}{'x fused':>9}")
    said = {
        "fused": "one process, fused",
        "plain": "one process, plain multirun",
        "apart": "a process each, two at a time",
    }
    for name, (wall, cpu) in taken.items():
        ratios = (wall / taken["fused"][0], cpu / taken["fused"][1])
        print(
            f"  {said[name]:34}{jobs[name]:6}{wall:9.1f}{ratios[0]:9.1f}{cpu:9.1f}{ratios[1]:9.1f}"
        )


if __name__ == "__main__":
    sys.exit(main())
