"""Two networks trained, audited beside their randomised twins and judged, all as users type it."""

from __future__ import annotations

import json

import pytest

from attrscore.cli.main import main

CROPS = ["dataset.size=[32,32]"]
TRAINING = ["dataset.cells=256", "dataset.seed=100", "train.epochs=7"]
NEW = ["dataset.cells=192", "dataset.carrier=mixture", "dataset.confounder=neighbours"]
NEW += ["dataset.strength=0.5"]  # nothing but the cell's texture agrees with the label
AUDIT = ["method=hires_cam", "layers=features.3", "scorer=[grad_camo,swap]", "target.scalar=margin"]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verdict")
    weights = {name: str(folder / f"{name}.safetensors") for name in ("cell", "background")}
    for carrier, file in weights.items():
        place = [f"train.output={file}", f"hydra.run.dir={folder}/hydra"]
        assert main(["train", *CROPS, *TRAINING, f"dataset.carrier={carrier}", *place]) == 0
    sweep = [f"model.weights={','.join(weights.values())}", "model.randomize=none,all"]
    assert (
        main(["-m", *CROPS, *NEW, *AUDIT, *sweep, f"results={folder}/results", "figures=none"]) == 0
    )
    return str(folder / "results")


def test_the_report_tells_who_looks_at_the_cell(told, capsys):
    capsys.readouterr()
    assert main(["report", told, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {v["about"]["model"]: v["kind"] for v in report["verdicts"]} == {
        "tiny_cnn:cell": "cell-focused",
        "tiny_cnn:background": "looks elsewhere",
    }
    for judged in report["verdicts"]:
        answers = {found["name"]: found["answer"] for found in judged["conditions"]}
        honest = judged["about"]["model"] == "tiny_cnn:cell"
        assert answers["evidence"] == answers["resolvable"] == "yes"
        assert answers["draws"] == answers["inside"] == ("yes" if honest else "no")
        assert answers["outside"] == ("no" if honest else "yes")
