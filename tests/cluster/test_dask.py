"""A sweep on Dask, of which one of two worker processes is killed."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

import attrscore
from attrscore.cli.main import main

pytest.importorskip("distributed", reason="an extra that is not installed here; make test has it")
pytestmark = pytest.mark.filterwarnings("default")  # distributed's own, in threads of its own

KEYS = ["model", "dataset", "method", "layer", "target", "id"]
DEADLY = """
import os, pathlib, signal

def model(channels, classes):
    import torch
    try:
        pathlib.Path('killed').touch(exist_ok=False)
        os.kill(os.getpid(), signal.SIGKILL)
    except FileExistsError:
        pass
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(channels, 4, 3, padding=1), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, classes))
"""
SWEEP = [
    *("-m", "model=factory", "model.target=deadly.model", "trust=[deadly]", "layers=1"),
    *("dataset.cells=16", "dataset.size=[16,16]", "batch_size=4", "figures=none", "threads=1"),
    "dataset.shard=0/4,1/4,2/4,3/4",
]
DASK = ["hydra/launcher=dask", "hydra.launcher.n_workers=2"]


def test_a_killed_worker_costs_nothing_and_what_is_finished_is_not_run_again(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("deadly.py").write_text(DEADLY)
    assert main([*SWEEP, *DASK, "results=dask"]) == 0
    said = capsys.readouterr().err
    assert all(f"job {number}: done" in said for number in range(4)), said
    assert Path("killed").exists()
    assert main([*SWEEP, "results=basic"]) == 0
    basic, there = (
        attrscore.read_scores(name).sort_values(KEYS, ignore_index=True)
        for name in ("basic", "dask")
    )
    pd.testing.assert_frame_equal(there, basic, check_exact=True)

    capsys.readouterr()
    assert main(["status", "dask", "--json"]) == 0
    assert [job["state"] for job in json.loads(capsys.readouterr().out)["asked"]] == ["done"] * 4
    assert main([*SWEEP, *DASK, "results=dask"]) == 0
    assert "job 0" not in capsys.readouterr().err, "it was submitted again"
