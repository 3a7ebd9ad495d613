"""What a file of weights says of its training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from torch import nn

from attrscore.errors import DataError
from attrscore.models import load_weights, save_weights
from attrscore.models import record as records
from attrscore.models.record import TrainingRecord, check_trained_for, read_record


def record(**other):
    known = {
        "classes": ("DMSO", "drug"),
        "channels": 2,
        "stains": ("DNA", "AGP"),
        "normalised": "percentile",
        "split_by": "Metadata_Well",
        "groups": ("A01", "B02"),
        "trained_on": [f"c{n}" for n in range(6)],
        "held_out": ["c6", "c7"],
        "accuracy": {"held_out": 0.5, "balanced": 0.5, "trained_on": 1.0},
        "confusion": [[1, 0], [1, 0]],
    }
    return TrainingRecord.of(**{**known, **other})


def test_what_is_written_is_read(tmp_path):
    model, file = nn.Linear(2, 2), tmp_path / "w.safetensors"
    save_weights(model, file, record=record())
    load_weights(model, file)
    found = read_record(file)
    assert found == record()
    assert found.held_out == ("A01", "B02")
    assert found.counts == {"trained_on": 6, "held_out": 2}
    assert found.were_held_out(["c0", "c6", "new"]).tolist() == [False, True, True]
    with safetensors.safe_open(file, framework="np") as opened:  # for anybody to read
        assert '"held_out": ["A01", "B02"]' in opened.metadata()["attrscore"]


def test_without_groups_the_cells_are_named(tmp_path):
    assert record(split_by=None).held_out == ("c6", "c7")


def test_files_that_say_nothing(tmp_path):
    file = tmp_path / "w.safetensors"
    save_weights(nn.Linear(2, 2), file)
    assert read_record(file) is None
    assert read_record(tmp_path / "nowhere.safetensors") is None
    assert read_record(tmp_path / "w.pt") is None
    safetensors.numpy.save_file({"a": np.zeros(1)}, file, {"format": "pt"})  # another program's
    assert read_record(file) is None
    save_weights(nn.Linear(2, 2), file, classes=("a", "b"))
    assert read_record(file).classes == ("a", "b")
    assert read_record(file).were_held_out(["c0"]) is None


@pytest.mark.parametrize("text", ["[]", "no JSON", '{"counts": 3}', '{"channels": "x"}'])
def test_metadata_that_are_no_record_are_said(text, tmp_path):
    file = tmp_path / "w.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(1)}, file, {"attrscore": text})
    with pytest.raises(DataError, match=r"w\.safetensors has metadata that are not those"):
        read_record(file)


def test_a_record_is_bounded(monkeypatch, tmp_path):
    monkeypatch.setattr(records, "MOST_CELLS", 100)
    large = record(
        split_by=None,
        trained_on=[f"cell-{n:09}" for n in range(101)],
        held_out=[f"cell-{n:09}" for n in range(20_000)],
        confusion=np.zeros((300, 300), int).tolist(),
    )
    assert sum(map(len, large.metadata().values())) < 2000
    assert large.were_held_out(["x"]) is None
    assert large.counts == {"trained_on": 101, "held_out": 20_000}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"classes": ("drug", "DMSO")}, "class_order"),
        ({"classes": ("DMSO",)}, "class_order"),
        ({"stains": ("AGP", "DNA")}, r"dataset.channels=\[DNA,AGP\]"),
        ({"stains": ("DNA", "ER")}, r"is given DNA, ER"),
        ({"channels": 3, "stains": ("DNA", "AGP", "ER")}, r"2 channels \(DNA, AGP\), and 3"),
        ({"channels": 1, "stains": ()}, r"2 channels \(DNA, AGP\), and 1 are given"),
    ],
)
def test_a_model_of_other_classes_or_channels_is_refused(given, words):
    fits = {"classes": ("DMSO", "drug"), "stains": ("DNA", "AGP"), "channels": 2}
    check_trained_for("w.safetensors", record(), **fits)
    check_trained_for("w.safetensors", record(), classes=("0", "1"), channels=2)
    with pytest.raises(DataError, match=words) as error:
        check_trained_for(Path("w.safetensors"), record(), **{**fits, **given})
    assert str(error.value).count(". ") <= 1
