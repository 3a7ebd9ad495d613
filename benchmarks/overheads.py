"""What keeping results costs: writing them, and finding that nothing is left to do.

    python benchmarks/overheads.py [--quick]

Writing: CPU time inside the store of one job, as a share of the job's, by model. Finding: CPU
time of a finished job and of finished sweeps, as a multiple of the program's start-up (Python, the
libraries that a job needs, Hydra's configuration; no job). Medians. It asserts nothing.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from attrscore import store
from attrscore.cli.hydra_app import configuration, settings_of
from attrscore.jobs import run as jobs

CONFIGURATION = "from attrscore.cli.hydra_app import configuration; configuration([])"
START = f"import attrscore.jobs.run; {CONFIGURATION}"
COMMAND = "import sys; from attrscore.cli.main import main; sys.exit(main())"
SWEEP = (  # 48 combinations
    "method=grad_cam,hires_cam,layer_cam",
    "layers=" + ",".join(f"features.{number}" for number in range(8)),
    "model.width=8,16",
)
QUICK = ("method=grad_cam,hires_cam", "layers=features.3,features.7", "model.width=8")


def share_of_writing(model: str, cells: int, size: int, batch: int) -> tuple[float, float]:
    """CPU seconds of a job, and the share of it in the store."""
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(
            configuration(
                [
                    f"model={model}",
                    f"dataset.cells={cells}",
                    f"dataset.size=[{size},{size}]",
                    f"batch_size={batch}",
                    "layers=all_conv" if model == "tiny_cnn" else "layers=last_conv",
                    "method=[grad_cam,hires_cam]",
                    "figures=none",
                    f"results={folder}",
                ]
            )
        )
        inside = 0.0
        writer = store.Writer
        original = writer.write

        def timed(self, *arguments, **options):
            nonlocal inside
            start = time.process_time()
            path = original(self, *arguments, **options)
            inside += time.process_time() - start
            return path

        writer.write = timed
        try:
            start = time.process_time()
            jobs.run_job(settings)
            whole = time.process_time() - start
        finally:
            writer.write = original
    return whole, inside / whole


def cpu(*command: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", *command], env=environment, capture_output=True)
    assert done.returncode in (0, 3), done.stderr.decode()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(getattr(after, n) - getattr(before, n) for n in ("ru_utime", "ru_stime"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few cells, once")
    given = parser.parse_args(arguments)
    repeat = 1 if given.quick else 3
    sweep = QUICK if given.quick else SWEEP
    number = math.prod(each.count(",") + 1 for each in sweep)

    print("writing scores, share of a job's CPU time")
    for model, cells, size, batch in (("tiny_cnn", 4096, 32, 64), ("monai_resnet", 256, 64, 32)):
        cells = 8 if given.quick else cells
        whole, share = share_of_writing(model, cells, size, batch)
        rate = cells / whole
        print(f"  {model:14} {cells:5} cells {whole:7.1f} s {rate:7.0f} cells/s  {share:6.1%}")

    with tempfile.TemporaryDirectory() as folder:
        small = [f"dataset.cells={8 if given.quick else 256}", "dataset.size=[32,32]"]
        one = (*small, "figures=none", f"results={folder}")
        fused = ("-m", *one, *sweep)
        plain = ("-m", "fuse=false", *one, *sweep)
        for command in (fused, plain, one):
            cpu(COMMAND, *command)
        runs: dict[str, list[float]] = {}
        for _ in range(repeat):  # the contestants take turns
            for name, command in {
                "start-up": (START,),
                "a job": (COMMAND, *one),
                f"{number} combinations, fused": (COMMAND, *fused),
                f"{number} combinations, plain": (COMMAND, *plain),
            }.items():
                runs.setdefault(name, []).append(cpu(*command))
    print("finding that nothing is left to do, x start-up")
    for name, seconds in runs.items():
        ratios = [mine / least for mine, least in zip(seconds, runs["start-up"], strict=True)]
        print(f"  {name:24} {statistics.median(seconds):6.2f} s {statistics.median(ratios):6.2f}")


if __name__ == "__main__":
    sys.exit(main())
