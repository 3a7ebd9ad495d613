"""Which cells a model was not trained on is remembered from training to the report."""

from __future__ import annotations

import json

import pandas as pd
import pytest

import attrscore
from attrscore.cli.main import main
from attrscore.models.record import read_record

SMALL = ["dataset.cells=32", "dataset.size=[32,32]"]
TRAIN = ["train", *SMALL, "train.epochs=1", "train.output=w.safetensors"]
AUDIT = [*SMALL, "model.weights=w.safetensors", "figures=none"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_from_training_to_the_report(capsys):
    assert main(TRAIN) == 0
    said = capsys.readouterr().out
    assert "held-out cells: class (rows) by prediction" in said
    record = read_record("w.safetensors")
    assert len(record.classes) == 2
    assert sum(map(sum, record.confusion)) == record.counts["held_out"]
    assert record.split_by == "Metadata_Well"

    assert main(AUDIT) == 0
    summary = capsys.readouterr().out
    scores = attrscore.read_scores("results")
    assert scores["held_out"].dtype == bool
    assert scores["held_out"].sum() == record.counts["held_out"]
    wells = scores.groupby("held_out")["Metadata_Well"].agg(set)
    assert not wells[True] & wells[False]
    assert wells[True] == set(record.held_out)
    lines = [line for line in summary.splitlines() if "grad_cam " in line]
    assert len(lines) == 2  # both figures
    assert main(["report", "results", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    subsets = [each["subset"] for each in found["subsets"] if each["of"] == "training"]
    assert subsets == ["held out", "trained on"]
    assert [each["cells"] for each in found["accuracy"]] == ["held out", "trained on"]
    assert main(["collect", "results", "-o", "scores.csv"]) == 0
    assert pd.read_csv("scores.csv")["held_out"].sum() == record.counts["held_out"]


def test_cells_that_training_never_saw_are_held_out(capsys):
    assert main(TRAIN) == 0
    assert main([*AUDIT, "dataset.seed=1"]) == 0
    assert attrscore.read_scores("results")["held_out"].all()
    capsys.readouterr()
    assert main(["report", "results", "--json"]) == 0
    accuracy = json.loads(capsys.readouterr().out)["accuracy"]
    assert [each["cells"] for each in accuracy] == ["held out"]


def test_a_model_of_other_channels_is_refused_in_one_sentence(capsys):
    assert main(TRAIN) == 0
    capsys.readouterr()
    assert main([*AUDIT, "model.channels=[1,0,2]"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "w.safetensors was trained on the channels" in line]


def test_random_weights_and_resumed_jobs_have_the_column_too():
    assert main(TRAIN) == 0
    assert main([*AUDIT, "model.randomize=all"]) == 0
    assert main([*AUDIT, "model.randomize=all", "rerun=all"]) == 0
    scores = attrscore.read_scores("results")
    assert scores["held_out"].nunique() == 2
    assert main([*AUDIT, "model.randomize=all", "scorer=[entropy]"]) == 0
    both = attrscore.read_scores("results")
    assert both["held_out"].tolist() == scores["held_out"].tolist()
