"""A finished job is known without torch; whatever could change its numbers is noticed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
import torch

import attrscore
from attrscore.cli.main import main
from attrscore.datasets import write_hdf5

REPORT = (
    "import sys; from attrscore.cli.main import main; code = main(); "
    "print('torch' if 'torch' in sys.modules else 'light', code)"
)


@pytest.fixture(autouse=True)
def cells(tmp_path, monkeypatch) -> list[str]:
    """The command of a small job on a file."""
    monkeypatch.chdir(tmp_path)
    cell = torch.zeros(6, 24, 24, dtype=torch.bool)
    cell[:, 6:16, 6:16] = True
    inputs = torch.rand(6, 2, 24, 24, generator=torch.Generator().manual_seed(0))
    write_hdf5("cells.h5", [attrscore.Batch(inputs=inputs, regions={"cell": cell})])
    return ["dataset=hdf5", "dataset.path=cells.h5", "model.classes=2", "figures=none"]


def jobs() -> int:
    return len(list(Path("results/jobs").iterdir()))


def outcome(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", REPORT, *command], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


def test_a_finished_job_and_sweep_load_no_torch(cells):
    assert main(cells) == 0
    assert outcome(*cells) == "light 0"
    assert outcome(*cells, "batch_size=2", "label.model=other") == "light 0"
    sweep = ["-m", "hydra/sweeper=attrscore_fused", *cells, "method=grad_cam,saliency"]
    assert outcome(*sweep) == "torch 0"
    assert outcome(*sweep) == "light 0"


def test_a_file_that_changed_is_read_again(cells):
    assert main(cells) == 0
    with h5py.File("cells.h5", "r+") as file:
        file["inputs"][0] = 1 - file["inputs"][0]
    assert main(cells) == 0
    assert jobs() == 2  # other pixels: another job
    os.utime("cells.h5", (1, 1))
    assert main(cells) == 0
    assert jobs() == 2  # another date, the same pixels


def test_what_is_gone_is_computed_again(cells):
    assert main(cells) == 0
    (part,) = Path("results/jobs").glob("*/*.h5")
    part.unlink()
    assert main(cells) == 0
    assert len(attrscore.read_scores("results")) == 6
    (known,) = Path("results/known").iterdir()
    known.write_text(json.dumps({"identity": 1}))
    assert main(cells) == 0
    assert jobs() == 1


def test_a_network_whose_code_cannot_be_seen_is_always_built(cells):
    Path("mine.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),"
        " nn.Flatten(), nn.Linear(4, 2))\n"
    )
    command = ["model=factory", "model.target=mine.make", *cells]
    command.remove("model.classes=2")
    assert main(command) == 0
    assert not Path("results/known").exists()


def test_weights_that_are_gone_are_trained_again(cells, capsys):
    wanted = ["dataset=phantom", "dataset.cells=48", "dataset.size=[24,24]", "figures=none"]
    wanted += ["model.weights=w.safetensors", "train.when=missing", "train.epochs=1"]
    assert main(wanted) == 0
    assert main(wanted) == 0
    Path("w.safetensors").unlink()
    capsys.readouterr()
    assert main([*wanted, "train.learning_rate=0.01"]) == 0
    assert "training first" in capsys.readouterr().err
    assert jobs() == 2


def test_a_finished_plain_sweep_is_known_without_composing_its_jobs(cells, capsys, monkeypatch):
    Path("mine/heat").mkdir(parents=True)
    own = Path("mine/heat/own.yaml")
    own.write_text("channels: sum\nsign: positive\nresize: linear\nminmax: never\n")
    sweep = ["-m", *cells, "method=grad_cam,saliency", "heat=own"]
    sweep.append(f"hydra.searchpath=[file://{Path('mine').resolve()}]")
    before = "2 of 2 jobs were finished before"
    assert main(sweep) == 0
    assert before not in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr("attrscore.cli.main._job", lambda _: pytest.fail("a job was composed"))
        assert main(sweep) == 0
        assert before in capsys.readouterr().out
    (part, *_) = sorted(Path("results/jobs").glob("*/*.h5"))
    kept = part.read_bytes()
    part.unlink()
    assert main(sweep) == 0
    assert "1 of 2 jobs were finished before" in capsys.readouterr().out
    assert part.read_bytes() == kept
    own.write_text(own.read_text().replace("positive", "absolute"))
    assert main(sweep) == 0
    assert "finished before" not in capsys.readouterr().out
    assert set(attrscore.read_scores("results")["heat.sign"]) == {"positive", "absolute"}
    assert main([*sweep, "rerun=all"]) == 0
    assert "finished before" not in capsys.readouterr().out


def test_what_a_finished_sweep_left_out_is_told_each_time(cells, capsys):
    sweep = ["-m", *cells, "method=grad_cam"]
    assert main(sweep) == 0
    (path,) = Path("results/jobs").glob("*/job.json")
    told = json.loads(path.read_text())
    (condition,) = told["identity"]["conditions"]
    place = condition["method"]["key"], condition["layer"]
    (part,) = told["parts"].values()
    part["failures"] = [[*place, "out_of_memory", "too large", 1]]
    path.write_text(json.dumps(told))
    assert main(sweep) == 3
    told = capsys.readouterr()
    assert "1 of 1 jobs were finished before" in told.out
    assert "of 1 jobs: 1 left something out" in told.err
