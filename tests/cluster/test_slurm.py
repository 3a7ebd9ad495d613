"""Sweeps on a real Slurm of two nodes: what is cancelled, killed or lost costs itself alone.

The model of these sweeps waits while a file exists, so that something can happen to a job in the
middle of a method.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from slurm_cluster import Cluster, absent, limits_memory

import attrscore
from attrscore import store

pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="the extra is not installed")
pytestmark = pytest.mark.skipif(bool(absent()), reason=absent())

MODEL = """
import os, time, torch
from torch import nn

class Wait(nn.Module):
    def forward(self, x):
        hold = os.environ.get("HOLD", "")
        if len(x) == 4 and os.path.exists(hold + "-eat"):
            os.rename(hold + "-eat", hold + "-eaten")
            eaten = [bytearray(os.urandom(1 << 20) * 200) for _ in range(20)]
        while len(x) == 4 and os.path.exists(hold):  # a batch: not in the preflight
            time.sleep(0.1)
        return x

def make(channels, classes):
    torch.manual_seed(0)
    return nn.Sequential(Wait(), nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))
"""
SHARDS = "0/4,1/4,2/4,3/4"
SWEEP = [
    *("-m", "model=factory", "model.target=slow.make", "trust=[slow]", "layers=1"),
    *("dataset.cells=32", "dataset.size=[16,16]", "batch_size=4", "figures=none"),
    "method=[grad_cam,hires_cam]",
]
SLURM = [
    *("hydra/launcher=slurm", "hydra.launcher.partition=cpu", "hydra.launcher.cpus_per_task=1"),
    *("hydra.launcher.mem_gb=1", "hydra.launcher.timeout_min=10"),
]
PAGE = Path(__file__).parents[2] / "docs" / "clusters.md"
URGENT = ["-p", "urgent", "-c", "1", "--mem=100", "-o", "/dev/null", "--wrap", "sleep 600"]
KEYS = ["model", "dataset", "method", "layer", "target", "id"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "slow.py").write_text(MODEL)
    made = Cluster(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()


class Sweep:
    """A sweep as a user types it, whose jobs wait while ``hold`` exists."""

    def __init__(self, cluster, results, *more, shards=SHARDS, held=True):
        self.cluster, self.results = cluster, cluster.folder / results
        self.hold = cluster.folder / f"hold-{results}"
        if held:
            self.hold.touch()
        self.log = cluster.folder / f"{results}.said"
        self.command = [
            *(str(Path(sys.executable).with_name("attrscore")), *SWEEP, *more),
            *(f"dataset.shard={shards}", f"results={results}"),
        ]
        self.process = None

    def start(self):
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.cluster.folder,
                env={**self.cluster.environ, "HOLD": str(self.hold)},
                stdout=log,
                stderr=log,
            )
        self.cluster.clients.append(self.process)
        return self

    def release(self):
        self.hold.unlink(missing_ok=True)

    @property
    def said(self):
        return self.log.read_text()

    def ended(self, seconds=600):
        return self.process.wait(seconds)

    def array(self):
        """Slurm's name of the array, once it is submitted."""
        self.cluster.wait(lambda: " jobs in Slurm as " in self.said, f"array: {self.said}")
        return self.said.rpartition(" jobs in Slurm as ")[2].partition(";")[0]

    def asked(self):
        """Exit code of ``attrscore status``, and shard -> state."""
        done = subprocess.run(
            [self.command[0], "status", str(self.results), "--json"],
            env=self.cluster.environ,
            capture_output=True,
            text=True,
            check=False,
        )
        states = {
            each.removeprefix("dataset.shard="): job["state"]
            for job in json.loads(done.stdout)["asked"]
            for each in job["overrides"]
            if each.startswith("dataset.shard=")
        }
        return done.returncode, states

    def statuses(self):
        parts = self.results.glob("jobs/*/*.h5")
        return {status for part in parts for status in store.read_part(part).table["status"]}

    def bytes(self):
        return {
            f"{path.parent.name}/{path.name}": path.read_bytes()
            for path in self.results.glob("jobs/*/*.h5")
        }

    def threads(self):
        """What torch had, in each job."""
        jobs = [json.loads(path.read_bytes()) for path in self.results.glob("jobs/*/job.json")]
        return {run["threads"] for job in jobs for run in job["runs"]}

    def waiting(self):
        """Jobs that are held, in the middle of a method: a heartbeat beside each part."""
        return len(list(self.results.glob("jobs/*/.*.h5.*.tmp")))


@pytest.fixture(scope="module")
def basic(cluster):
    """The same with the basic launcher, which runs beside the first test."""
    return Sweep(cluster, "basic", "threads=1", held=False).start()


def test_an_array_of_ones_own_as_documented_is_the_basic_launchers_to_the_byte(cluster, basic):
    (script,) = re.findall(r"```text\n(#!/bin/bash\n#SBATCH.*?)```", PAGE.read_text(), re.DOTALL)
    ours = " ".join([*(f"'{each}'" for each in SWEEP[1:]), "results=array"])
    script, exchanged = re.subn(r"dataset=fields.*(?=dataset\.shard)", ours + " ", script, flags=16)
    assert exchanged == 1
    path = cluster.folder / "array.sh"
    path.write_text(script)
    smaller = ["--cpus-per-task=1", "--mem=1G", f"--chdir={cluster.folder}"]
    name = cluster.call("sbatch", "--parsable", *smaller, str(path)).strip()
    asked = ("squeue", "-h", "-r", "-t", "all", "-j", name, "-o")
    ended = {"COMPLETED", "FAILED"}
    cluster.wait(lambda: set(cluster.call(*asked, "%T").split()) <= ended, "end of the array")
    assert cluster.call(*asked, "%T").split() == ["COMPLETED"] * 4
    array = Sweep(cluster, "array", held=False)
    assert basic.ended() == 0, basic.said
    assert array.bytes() == basic.bytes()
    assert array.threads() == {1}, "not the one that was asked for"
    assert set(cluster.call(*asked, "%N").split()) == set(cluster.nodes)


def test_a_cancelled_job_costs_itself_alone_and_the_same_command_completes_the_sweep(
    cluster, basic
):
    assert basic.ended() == 0, basic.said
    sweep = Sweep(cluster, "cancelled", *SLURM).start()
    array = sweep.array()
    assert f"scancel {array}" in sweep.said
    cluster.wait(lambda: sweep.waiting() == 4, f"jobs that wait: {sweep.said}")
    assert {node for _, node in cluster.jobs().values()} == set(cluster.nodes)
    assert sweep.asked() == (3, dict.fromkeys(SHARDS.split(","), "running"))
    submitted = cluster.call("scontrol", "show", "job", f"{array}_0")
    for option in ("Partition=cpu", "NumCPUs=1", "mem=1G", "TimeLimit=00:10:00"):
        assert option in submitted, submitted

    sweep.process.send_signal(signal.SIGINT)
    assert sweep.ended() == 130
    left = (
        f"interrupted. The jobs were left in Slurm, where they go on; to stop them: scancel {array}"
    )
    assert left in sweep.said
    assert sweep.waiting() == 4
    sweep.start()
    cluster.wait(lambda: sweep.said.count(f"4 jobs in Slurm as {array}") == 2, "the same command")

    urgent = cluster.call("sbatch", "--parsable", *URGENT).strip()
    cluster.wait(lambda: cluster.jobs().get(urgent, "")[:1] == ("RUNNING",), "the urgent job")
    ours = {job: state for job, (state, _) in cluster.jobs().items() if job != urgent}
    (preempted,) = (job for job, state in ours.items() if state == "PENDING")
    code, states = sweep.asked()
    assert sorted(states.values()) == ["queued", "running", "running", "running"]
    assert states[f"{preempted[-1]}/4"] == "queued"
    cluster.call("scancel", urgent)

    victim = next(number for number in "0123" if preempted != f"{array}_{number}")
    cluster.call("scancel", f"{array}_{victim}")
    cluster.wait(lambda: f"{array}_{victim}" not in cluster.jobs(), "end of the one")
    sweep.release()
    assert sweep.ended() == 1, sweep.said
    assert "of 4 jobs: 3 done, 1 cancelled" in sweep.said
    assert f"job {victim} ({array}_{victim}): cancelled" in sweep.said
    code, states = sweep.asked()
    assert code == 3
    assert states.pop(f"{victim}/4") == "cancelled"
    assert set(states.values()) == {"done"}
    assert len(sweep.bytes()) == 3

    assert sweep.start().ended() == 0, sweep.said
    assert "1 jobs in Slurm as" in sweep.said
    assert sweep.bytes() == basic.bytes()
    assert sweep.threads() == {1}
    assert sweep.asked() == (0, dict.fromkeys(SHARDS.split(","), "done"))
    assert sweep.start().ended() == 0, sweep.said
    assert sweep.said.count(" jobs in Slurm as ") == 3, "what is finished was submitted again"
    there, here = (
        attrscore.read_scores(each.results).sort_values(KEYS, ignore_index=True)
        for each in (sweep, basic)
    )
    pd.testing.assert_frame_equal(there, here, check_exact=True)


def test_a_time_limit_is_no_row_and_memory_or_a_node_that_is_gone_costs_its_job_alone(
    cluster, basic
):
    """All at once, for Slurm takes its time. The two that meet a limit fill the first node."""
    delay, again = "hydra.launcher.signal_delay_s=230", "hydra.launcher.max_num_timeout=1"
    timed = Sweep(cluster, "timed", *SLURM, delay, shards="0/4").start()
    queued = Sweep(cluster, "queued", *SLURM, delay, again, shards="1/4").start()
    both = dict.fromkeys([timed.array(), queued.array()], ("RUNNING", cluster.nodes[0]))
    cluster.wait(lambda: cluster.jobs() == both, "both on the first node")
    cluster.wait(lambda: timed.waiting() + queued.waiting() == 2, "both in the middle of a method")
    for job in both:  # of which less than the delay is left: it is stopped at once
        cluster.call("scontrol", "update", f"job={job}", "TimeLimit=4")
    eaten = Sweep(cluster, "eaten", *SLURM, shards="2/4,3/4", held=False)
    if limits_memory():
        Path(f"{eaten.hold}-eat").touch()
        eaten.start()
    cluster.wait(lambda: cluster.jobs()[queued.array()][0] == "PENDING", "one queued again")
    cluster.call("scontrol", "update", f"job={queued.array()}", "TimeLimit=30")
    assert not queued.bytes()
    queued.release()
    if limits_memory():
        assert eaten.ended() == 1, eaten.said
        assert "of 2 jobs: 1 done, 1 out of memory" in eaten.said, eaten.said
        assert eaten.statuses() == {"ok"}
    down = Sweep(cluster, "down", *SLURM, shards="3/4").start()
    array = down.array()
    cluster.wait(lambda: down.waiting() == 1, f"a job that waits: {down.said}")
    state, node = cluster.jobs()[array]
    assert state == "RUNNING"
    cluster.kill(node)
    cluster.wait(lambda: cluster.jobs()[array] != (state, node), "Slurm to notice")
    down.release()
    assert timed.ended() == 1, timed.said
    assert "of 1 jobs: 1 stopped" in timed.said, timed.said
    assert "timed-out too many times" in timed.said
    assert not timed.bytes()
    assert timed.asked() == (3, {"0/4": "stopped"})
    for sweep in (basic, queued, down):
        assert sweep.ended() == 0, sweep.said
    for sweep in (queued, down):
        assert sweep.bytes().items() <= basic.bytes().items()
        assert len(sweep.bytes()) == 1
        assert sweep.asked()[0] == 0
