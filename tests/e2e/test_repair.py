"""From training with guides to a report that says what they did, as a user types it."""

from __future__ import annotations

import pytest

import attrscore
from attrscore.cli.main import main
from attrscore.models.record import read_record

CELLS = [
    "dataset=phantom",
    "dataset.carrier=mixture",
    "dataset.confounder=background",
    "dataset.size=[32,32]",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("repair")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        train = [
            *("train", "-m", *CELLS, "dataset.strength=1", "dataset.cells=128", "train.epochs=6"),
            *("guide=none,swap,energy", "guide.weight=2", "model.width=8", "train.watched=16"),
            "train.output=${guide.name}.safetensors",
        ]
        assert main([each for each in train if each != "guide.weight=2"]) == 0
        audit = [
            *("-m", *CELLS, "dataset.strength=0.5", "dataset.cells=40", "dataset.seed=1"),
            "model.weights=none.safetensors,swap.safetensors,outside.safetensors",
            *("label.model=${model.weights}", "model.width=8", "method=hires_cam"),
            *("target.scalar=margin", "scorer=[grad_camo,swap]", "figures=none"),
        ]
        assert main(audit) == 0
    return made


def test_weights_and_results_name_the_guide(folder):
    for name, guide in (("none", ""), ("swap", "swap"), ("outside", "outside")):
        record = read_record(folder / f"{name}.safetensors")
        assert record.guide.get("name", "") == guide
        assert (folder / f"{name}.png").stat().st_size > 5000
    assert read_record(folder / "outside.safetensors").guide["weight"] == 1.0
    rows = attrscore.read_scores(folder / "results")
    of = rows.groupby("model")["model.guide"].first()
    assert of["swap.safetensors"] == "swap"
    assert of["outside.safetensors"] == "outside"
    alone = attrscore.read_scores(folder / "results", columns=["grad_camo"])
    assert "model.guide" in alone  # the verdict must know of it, however few columns are read


def test_the_report_says_what_guides_did(folder, capsys):
    assert main(["report", str(folder / "results")]) == 0
    assert "what guides did, by the swap" in capsys.readouterr().out
    assert main(["report", str(folder / "results"), "-o", str(folder / "page")]) == 0
    pages = list((folder / "page").glob("*.html"))
    text = pages[0].read_text(encoding="utf-8")
    assert "What guides did" in text
    assert 'id="repairs"' in text
    outside = [
        v
        for v in attrscore.stats.verdicts(attrscore.read_scores(folder / "results"))
        if v.about["model.guide"] == "outside"
    ]
    assert all(each.kind != "cell-focused" for each in outside)


def test_trainings_that_would_overwrite_each_other_are_refused(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(["train", "-m", *CELLS, "guide=none,swap"]) == 2
    assert "2 of the 2 trainings would write weights.safetensors" in capsys.readouterr().err
