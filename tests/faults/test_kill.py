"""A writer that is killed at any moment loses nothing, repeats nothing and leaves nothing wrong."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd

from attrscore.store import Condition, Job, Plugin, Writer, read_maps, read_scores

KILLS = 10
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


def start(folder):
    return subprocess.Popen([sys.executable, __file__, str(folder)])


def count(folder):
    return sum(1 for _ in folder.glob("jobs/*/*.h5"))


def parts(folder):
    return {path.name: path.read_bytes() for path in folder.glob("jobs/*/*.h5")}


def test_kill_and_resume(tmp_path):
    moments = random.Random(0)
    deadline = time.monotonic() + 8
    known = {}
    killed = 0
    while killed < KILLS and time.monotonic() < deadline:
        process = start(tmp_path)
        before = count(tmp_path)
        while process.poll() is None and count(tmp_path) == before:
            time.sleep(0.002)  # until it has started up and committed something
        time.sleep(moments.uniform(0, 0.06))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        found = parts(tmp_path)
        assert all(found.get(name) == data for name, data in known.items()), "a part was lost"
        assert read_scores(tmp_path)["id"].is_unique
        known = found
    assert killed
    assert start(tmp_path).wait() == 0
    scores = read_scores(tmp_path)
    print(f"{killed} kills, {len(known)} of {ROWS // PART_ROWS} parts before the last start")
    assert scores["id"].astype(int).tolist() == list(range(ROWS))
    assert (scores["s"] == value(range(ROWS))).all()
    assert len(read_maps(tmp_path, "m", "layer")[0]) == ROWS
    assert not list(tmp_path.rglob(".*.tmp"))


def test_two_processes_on_one_job_do_no_harm(tmp_path):
    assert [process.wait() for process in (start(tmp_path), start(tmp_path))] == [0, 0]
    assert (read_scores(tmp_path)["s"] == value(range(ROWS))).all()
    assert not list(tmp_path.rglob(".*.tmp"))


if __name__ == "__main__":
    write(sys.argv[1])
