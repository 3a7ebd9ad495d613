"""How the processes of a sweep share cores and devices."""

from __future__ import annotations

import os

import pytest
import torch

from attrscore.cli import sweeps as workers
from attrscore.cli.sweeps import WORKERS, share, workers_known

SETTINGS = {"threads": None, "device": "auto"}
JOBLIB = {"_target_": "hydra_plugins.x.JoblibLauncher", "n_jobs": 2}
LOCAL = {"_target_": "hydra_plugins.x.LocalLauncher"}
SLURM = {"_target_": "hydra_plugins.x.SlurmLauncher"}


@pytest.mark.parametrize(
    ("launcher", "jobs", "told"),
    [
        (JOBLIB, 8, "2"),
        (JOBLIB, 1, None),  # one job has the machine to itself
        (LOCAL, 8, "8"),  # submitit starts all of them at once
        (SLURM, 8, None),
        ({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}, 8, None),
    ],
)
def test_workers_are_told_how_many_they_are(launcher, jobs, told):
    with workers_known(launcher, jobs):
        assert os.environ.get(WORKERS) == told
    assert WORKERS not in os.environ


@pytest.mark.parametrize(("cores", "number", "threads"), [(8, 2, 4), (8, 3, 2), (2, 4, 1)])
def test_cores_are_divided_and_a_lower_limit_is_kept(monkeypatch, cores, number, threads):
    monkeypatch.setattr(workers, "_cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    monkeypatch.setenv(WORKERS, str(number))
    assert share(SETTINGS, 0)["threads"] == threads
    assert share({**SETTINGS, "threads": 7}, 0)["threads"] == 7
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # as OMP_NUM_THREADS=1 says
    assert share(SETTINGS, 0)["threads"] == 1


def test_devices_are_dealt_round(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    alone = [share(SETTINGS, number) for number in range(2)]
    assert alone == [SETTINGS, SETTINGS]  # one process at a time: nothing to share
    monkeypatch.setenv(WORKERS, "4")
    dealt = [share(SETTINGS, number)["device"] for number in range(5)]
    assert dealt == ["cuda:0", "cuda:1", "cuda:2", "cuda:0", "cuda:1"]
    assert share({**SETTINGS, "device": "cpu"}, 1)["device"] == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert share(SETTINGS, 1)["device"] == "auto"
