"""The same settings give the same bytes; a setting outside a job's identity changes none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import attrscore
from attrscore import store
from attrscore.cli.main import main
from attrscore.jobs.provenance import NO_NUMBERS

SMALL = ["dataset.cells=10", "dataset.size=[16,16]", "batch_size=4", "figures=none", "keep=native"]
SMALL += ["method=[grad_cam,saliency,random_cam]", "scorer=[grad_camo,iou]", "layers=all_conv"]

CHANGES = {
    "fuse": ["fuse=false"],
    "guide": ["guide=swap"],
    "figures": ["figures=all", "show=[phantom-0-000003]"],
    "objective": ["objective=grad_camo"],
    "label": ["label.model=mine", "label.dataset=ours"],
    "readers": ["readers=1"],
    "rerun": ["rerun=all"],
    "show": ["show=[phantom-0-000001]"],
    "threads": ["threads=2"],
    "train": ["train.epochs=3", "train.output=elsewhere.safetensors"],
    "trust": ["trust=[mypackage]"],
    "pool": ["pool=5"],  # which no method or scorer here asks for
    "results": [],
    "hydra": ["hydra.job.name=other"],
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def parts(results: str) -> dict[str, bytes]:
    """Job and name -> bytes."""
    found = Path(results, "jobs").glob("*/*.h5")
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in found}


def test_every_setting_outside_the_identity_changes_no_byte_of_a_part():
    assert set(CHANGES) == {*NO_NUMBERS, "pool"}
    assert main([*SMALL, "results=as_it_was"]) == 0
    expected = parts("as_it_was")
    assert expected
    for name, changes in CHANGES.items():
        assert main([*SMALL, *changes, f"results=with_{name}"]) == 0
        assert parts(f"with_{name}") == expected, name


@pytest.mark.parametrize(
    "changes", [["batch_size=3"], ["model.memory_format=channels_last"], ["seed=1"]], ids=str
)
def test_what_may_move_a_number_stands_in_the_identity(changes):
    assert main([*SMALL, "results=one"]) == 0
    assert main([*SMALL, *changes, "results=other"]) == 0
    (one,), (other,) = (Path(name, "jobs").iterdir() for name in ("one", "other"))
    assert one.name != other.name
    tables = [attrscore.read_scores(name) for name in ("one", "other")]
    if changes != ["seed=1"]:  # rounding, and no more
        np.testing.assert_allclose(tables[0]["grad_camo"], tables[1]["grad_camo"], atol=1e-5)
    base = store.JobFolder.read(other).job.base
    assert {"batch_size", "device", "seed"} <= set(base)
    assert "memory_format" in base["model"]["options"]


def test_a_job_is_reproduced_to_the_bit_whatever_its_size(capsys):
    pytest.importorskip("monai", reason="MONAI, an extra, is not installed")
    job = ["model=monai_resnet", "model.depth=10", "dataset.cells=130", "dataset.size=[16,16]"]
    assert main([*job, "batch_size=2", "figures=none"]) == 0
    assert main([*job, "batch_size=2", "figures=none", "results=again"]) == 0
    assert parts("results") == parts("again")
    capsys.readouterr()
    assert main(["reproduce", "results"]) == 0
    assert "Identical: 130 rows" in capsys.readouterr().out
