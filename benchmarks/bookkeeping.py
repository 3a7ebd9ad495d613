"""What the bookkeeping of a large sweep costs: status, verify and collect, with made-up scores.

    python benchmarks/bookkeeping.py                # 10^6 cells in 10^3 shards; some minutes
    python benchmarks/bookkeeping.py --screen       # 10^8 cells, whose parts are names alone
    python benchmarks/bookkeeping.py --quick        # does it run?

Each verb runs as its own process, as a user starts it. Prints wall and CPU time, and the
peak memory of the process or its child. Then collect again with less to hold, and once more
with more jobs: its peak should not grow with the table. It asserts nothing.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from attrscore.cli import slurm
from attrscore.store import Condition, Job, JobFolder, Plugin, Writer, sweep_jobs
from attrscore.store.part import part_name

COMPANIONS = ("chance", "lift", "above_chance", "log_odds", "lowest", "highest", "resolved", "auc")


def shard(of: int, n: int, cells: int, places: int) -> Job:
    base = {
        "model": {"name": "tiny_cnn", "options": {"width": 16}, "fingerprint": "f" * 32},
        "dataset": {"name": "screen", "fingerprint": f"{of:032x}", "shard": f"{of}/{n}"},
        "target": {"name": "predicted", "options": {"scalar": "logit"}},
        "heat": {"channels": "sum", "sign": "positive", "resize": "linear", "minmax": "never"},
        "seed": 0,
        "keep": "none",
    }
    scorer = Plugin("grad_camo", options={"region": "cell"})
    layers = [Condition(Plugin("grad_cam"), f"layer{i}", scorer) for i in range(places)]
    return Job(base, tuple(layers), cells, 1024)


def table(job: Job, first: int, start: int, stop: int, rng: np.random.Generator) -> pd.DataFrame:
    n = stop - start
    frames = []
    for condition in job.conditions:
        frame = pd.DataFrame({"id": [f"cell-{first + i:08d}" for i in range(start, stop)]})
        frame = frame.assign(
            method=condition.method.key,
            layer=condition.layer,
            target="predicted.logit",
            status="ok",
            reason="",
            label=rng.integers(0, 4, n),
            predicted=rng.integers(0, 4, n),
            explained=rng.random(n),
            confidence=rng.random(n),
            grad_camo=rng.random(n),
            Metadata_Plate=f"P{first % 97}",
            Metadata_Well="A01",
        )
        frames.append(frame.assign(**{f"grad_camo.{name}": rng.random(n) for name in COMPANIONS}))
    return pd.concat(frames, ignore_index=True)


def simulate(folder: Path, shards: Iterable[int], of: int, cells: int, places: int) -> None:
    rng = np.random.default_rng(0)
    for k in shards:
        job = shard(k, of, cells, places)
        writer = Writer(
            folder, job, labels={"model": "tiny_cnn", "dataset": "screen"}, config="x: 1"
        )
        for start, stop in writer.missing():
            writer.write(start, stop, table(job, k * cells, start, stop, rng))
        writer.succeed({"seconds": 1.0})


def screen(folder: Path, jobs: int, parts: int) -> None:
    """A finished sweep on a cluster, of 24 conditions: every file that it leaves, parts empty."""
    overrides = [(f"dataset.shard={k}/{jobs}", "results=r") for k in range(jobs)]
    took("list of the sweep", lambda: sweep_jobs.list_jobs(folder, overrides, queue={0: "1_0"}))
    took(
        "what became of each job",
        lambda: [sweep_jobs.write_state(folder, each, "done") for each in overrides],
    )
    took("the folders", lambda: [_names(folder, k, jobs, parts) for k in range(jobs)])
    listed = "".join(f"1_{k} RUNNING 0\\n" for k in range(jobs))
    squeue = folder / "squeue"
    squeue.write_text(f"#!/bin/sh\nprintf '{listed}'\n")
    squeue.chmod(0o755)
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
    took("one question to squeue", slurm.states)
    took("what sweeps asked for", lambda: sweep_jobs.jobs_of_sweeps(folder))
    print(f"status of {jobs} jobs of {parts} parts: {timed('status', str(folder))}")


def _names(folder: Path, k: int, jobs: int, parts: int) -> None:
    writer = Writer(folder, shard(k, jobs, parts * 1024, 24), labels={}, config="x: 1")
    known = {}
    for start, stop in writer.job.ranges:
        name = part_name(start, stop)
        (writer.folder / name).touch()
        known[name] = {"bytes": 0, "rows": {"ok": 24 * (stop - start)}, "failures": []}
    replace(JobFolder.read(writer.folder), known=known).write()


def took(what: str, step: Callable[[], object]) -> None:
    began, used = time.perf_counter(), time.process_time()
    step()
    wall, cpu = time.perf_counter() - began, time.process_time() - used
    print(f"{what:24} {wall:6.1f} s wall {cpu:6.1f} s CPU", flush=True)


USED = """
import atexit, resource
def used():
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    own, child = map(resource.getrusage, both)
    cpu = sum(each.ru_utime + each.ru_stime for each in (own, child))
    print("USED", cpu, max(own.ru_maxrss, child.ru_maxrss) / 1024)
atexit.register(used)
import sys
"""
VERB = "from attrscore.cli.main import main; sys.exit(main(sys.argv[1:]))"
LIMITED = """
from attrscore.store.scores import rows_and_bytes
print(*rows_and_bytes(*sys.argv[1:3], memory=int(sys.argv[3]) * 2**20))
"""


def timed(*arguments: str, code: str = VERB) -> str:
    """Wall time, CPU time and the most memory of any process, as a user's command has them."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", USED + code, *arguments], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    *_, cpu, memory = done.stdout.split()
    told = f"{seconds:6.1f} s wall {float(cpu):6.1f} s CPU {float(memory):6.0f} MiB"
    if code == LIMITED:
        rows, size, *_ = done.stdout.split()
        told += f" of a table of {int(size) / 2**20:.0f} MiB, {rows} rows"
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--cells", type=int, default=1000, help="a shard")
    parser.add_argument("--places", type=int, default=2, help="methods times layers")
    parser.add_argument("--conditions", type=int, default=10_000, help="jobs of one condition each")
    parser.add_argument("--more", type=int, default=4, help="times as many shards, at the end")
    parser.add_argument("--limit", type=int, default=256, help="MiB for collect to hold")
    parser.add_argument("--screen", action="store_true", help="only 10^8 cells, without rows")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.shards, options.cells, options.conditions = 5, 20, 10
    os.fsync = lambda _: None  # simulating needs no power cut
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    if options.screen or options.quick:
        with tempfile.TemporaryDirectory() as place:
            screen(Path(place), options.shards, 2 if options.quick else 98)
        if options.screen:
            return
    with tempfile.TemporaryDirectory() as place:
        many, sweep = Path(place, "many"), Path(place, "sweep")
        every = options.shards * options.more
        simulate(sweep, range(options.shards), every, options.cells, options.places)
        rows = options.shards * options.cells * options.places
        size = sum(each.stat().st_size for each in sweep.rglob("*.h5")) / 2**20
        print(f"{options.shards} jobs, {rows} rows, {size:.0f} MiB of parts")
        merged = [str(Path(place, f"all{suffix}")) for suffix in (".h5", ".parquet")]
        for arguments in (
            ["status", str(sweep)],
            ["verify", str(sweep)],
            *(["collect", str(sweep), "-o", output, "--figures", "none"] for output in merged),
        ):
            name = f"{arguments[0]} {Path(arguments[-3]).suffix if len(arguments) > 2 else ''}"
            print(f"{name:16} {timed(*arguments)}", flush=True)
        for shards in (range(0), range(options.shards, every)):
            simulate(sweep, shards, every, options.cells, options.places)
            for suffix in (".h5", ".parquet", ".csv"):
                output = Path(place, f"limited{suffix}")
                told = timed(str(sweep), str(output), str(options.limit), code=LIMITED)
                print(f"collect {suffix}, limit {options.limit} MiB: {told}", flush=True)
                output.unlink()
        simulate(many, range(options.conditions), options.conditions, 4, 1)
        print(f"status of {options.conditions} jobs of one condition: {timed('status', str(many))}")
        first = next((many / "jobs").iterdir())
        print(f"status of 1 job: {timed('status', str(first))}")


if __name__ == "__main__":
    main()
