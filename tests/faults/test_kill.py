"""A sweep that is killed at any moment loses nothing, repeats nothing and leaves nothing wrong.

A hundred kills hit a process that only writes (made-up scores, kept maps), so that most fall into a
commit. Others hit a sweep that builds its network, attributes and scores; both are forked from one
that has imported everything. A few hit the command line itself.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from attrscore.store import Condition, Job, Plugin, Writer, read_maps, read_scores, verify

KILLS, COMPUTING_KILLS, CLI_KILLS = 100, 40, 2
ROWS, PART_ROWS = 480, 16  # 30 parts
JOB = Job({"seed": 0}, (Condition(Plugin("m"), "layer", Plugin("s")),), ROWS, PART_ROWS)


def value(rows):
    return np.sin(np.asarray(rows, dtype=float))


def write(folder):
    """What the killed process runs: compute and commit what is missing."""
    writer = Writer(folder, JOB, labels={})
    for start, stop in writer.missing():
        rows = np.arange(start, stop)
        table = pd.DataFrame({"id": rows.astype(str), "method": "m", "layer": "layer"})
        kept = np.broadcast_to(value(rows)[:, None, None, None], (len(rows), 4, 16, 16))
        writer.write(start, stop, table.assign(s=value(rows), status="ok"), {("m", "layer"): kept})
    writer.succeed({"seconds": 1.0})


def parts(folder):
    return {str(path): path.read_bytes() for path in Path(folder).glob("jobs/*/*.h5")}


def check_whole(folder):
    scores = read_scores(folder)
    assert scores["id"].astype(int).tolist() == list(range(ROWS))
    assert (scores["s"] == value(range(ROWS))).all()
    assert len(read_maps(folder, "m", "layer")[0]) == ROWS
    assert not list(Path(folder).rglob(".*.tmp"))


def campaign(place):
    """A hundred kills over as many sweeps as that takes; counts as JSON."""
    moments = random.Random(0)
    counts = {"kills": 0, "sweeps": 0, "parts": 0, "lost": 0, "changed": 0, "leftovers": 0}
    known = {}
    while counts["kills"] < KILLS:
        folder = Path(place, f"sweep{counts['sweeps']}")
        pid = os.fork()
        if pid == 0:
            try:
                write(folder)
            finally:
                os._exit(0)
        time.sleep(moments.uniform(0, 0.15))
        os.kill(pid, signal.SIGKILL)
        killed = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        counts["kills"] += killed
        found = parts(folder)
        counts["lost"] += len(known.keys() - found.keys())
        counts["changed"] += sum(found[name] != known[name] for name in known.keys() & found.keys())
        counts["leftovers"] += len(list(folder.rglob(".*.tmp")))
        if found:
            scores = read_scores(folder)
            assert scores["id"].is_unique
            assert (scores["s"] == value(scores["id"].astype(int))).all()
        known = found
        if not killed:
            check_whole(folder)
            counts["sweeps"] += 1
            counts["parts"] += len(found)
            known = {}
    folder = Path(place, f"sweep{counts['sweeps']}")
    write(folder)
    check_whole(folder)
    counts["sweeps"] += 1
    counts["parts"] += len(parts(folder))
    print(json.dumps(counts))


def settings():
    """Six jobs of a real sweep, four parts each."""
    from attrscore.cli.hydra_app import configuration, settings_of
    from attrscore.jobs import assembly

    assembly.PART_ROWS = 4
    shared = ["dataset.cells=16", "dataset.size=[16,16]", "batch_size=4", "figures=none"]
    return [
        settings_of(configuration([*shared, "keep=native", f"method={method}", f"layers={layer}"]))
        for method in ("grad_cam", "hires_cam", "saliency")
        for layer in ("features.3", "features.6")
    ]


def computing_campaign(place):
    """Kills of a sweep that computes; the first is left alone, and the others must equal it."""
    from attrscore.jobs.run import run_job

    jobs, moments = settings(), random.Random(0)
    counts = {"kills": 0, "sweeps": 0, "parts": 0, "lost": 0, "changed": 0}
    known, longest = {}, 0.0
    while counts["kills"] < COMPUTING_KILLS:
        folder = Path(place, f"sweep{counts['sweeps']}")
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            try:
                for each in jobs:
                    run_job({**each, "results": str(folder)})
            finally:
                os._exit(0)
        if counts["sweeps"]:
            time.sleep(moments.uniform(0, longest / 3))
            os.kill(pid, signal.SIGKILL)
        killed = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        counts["kills"] += killed
        found = parts(folder)
        counts["lost"] += len(known.keys() - found.keys())
        counts["changed"] += sum(found[name] != known[name] for name in known.keys() & found.keys())
        known = {} if not killed else found
        if not killed:
            longest = longest or time.monotonic() - began
            counts["sweeps"] += 1
            counts["parts"] += len(found)
    for each in jobs:
        run_job({**each, "results": str(folder)})
    counts["sweeps"] += killed
    counts["parts"] += len(parts(folder)) if killed else 0
    first = read_scores(Path(place, "sweep0"))
    for sweep in Path(place).iterdir():
        pd.testing.assert_frame_equal(read_scores(sweep), first, check_exact=True)
    print(json.dumps(counts))


def start(*arguments):
    return subprocess.Popen([sys.executable, __file__, *map(str, arguments)])


@pytest.mark.parametrize(
    ("kind", "kills", "parts_each"),
    [("campaign", KILLS, ROWS // PART_ROWS), ("computing", COMPUTING_KILLS, 5 * 4)],
)
def test_kills_at_random_moments(kind, kills, parts_each, tmp_path, record_property):
    done = subprocess.run(
        [sys.executable, __file__, kind, tmp_path],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    record_property("counts", counts)
    assert counts["kills"] == kills
    assert counts["lost"] == counts["changed"] == 0
    assert counts["parts"] == counts["sweeps"] * parts_each
    for sweep in tmp_path.iterdir():
        assert verify(sweep).problems == []


def test_two_processes_on_one_job_do_no_harm(tmp_path):
    both = [start("write", tmp_path), start("write", tmp_path)]
    assert [process.wait() for process in both] == [0, 0]
    check_whole(tmp_path)


SWEEP = [
    *("-m", "dataset.cells=8", "dataset.size=[16,16]", "figures=none", "keep=native"),
    "method=grad_cam,hires_cam,layer_cam",
    "layers=features.3,features.6",
]


def sweep(folder):
    command = "from attrscore.cli.main import main; import sys; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", command, *SWEEP, f"results={folder}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_the_command_line_killed_and_started_twice_at_once(tmp_path, record_property):
    moments = random.Random(1)
    known, killed = {}, 0
    for _ in range(CLI_KILLS):
        process = sweep(tmp_path / "killed")
        before = len(known)
        while process.poll() is None and len(parts(tmp_path / "killed")) == before:
            time.sleep(0.01)  # until it has started up and committed something
        time.sleep(moments.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        found = parts(tmp_path / "killed")
        assert all(found.get(name) == data for name, data in known.items()), "a part was lost"
        known = found
    resumed, *both = [sweep(tmp_path / name) for name in ("killed", "both", "both")]
    assert [process.wait() for process in (resumed, *both)] == [0, 0, 0]
    told = f"{killed} kills of the command line, {len(known)} of 6 parts before the last start"
    record_property("counts", told)
    killed_rows, both_rows = (read_scores(tmp_path / name) for name in ("killed", "both"))
    pd.testing.assert_frame_equal(killed_rows, both_rows)
    assert len(both_rows) == 6 * 8
    for name in ("killed", "both"):
        assert verify(tmp_path / name).problems == []


if __name__ == "__main__":
    tasks = {"write": write, "campaign": campaign, "computing": computing_campaign}
    tasks[sys.argv[1]](sys.argv[2])
