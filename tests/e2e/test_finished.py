"""A finished job computes nothing; whatever could change its numbers is noticed."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import pytest
import torch

import attrscore
from attrscore.cli.main import main
from attrscore.datasets import write_hdf5


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
