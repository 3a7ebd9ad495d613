"""A batch is checked when it is made."""

from __future__ import annotations

import pytest
import torch

from attrscore.core.contracts import Batch
from attrscore.errors import DataError

X = torch.rand(2, 1, 4, 4)
CELL = torch.zeros(2, 4, 4, dtype=torch.bool)
CELL[:, 1:3, 1:3] = True


def test_what_is_left_out_is_filled_in():
    made = Batch(X, {"cell": CELL})
    assert made.ids == ("0", "1")
    assert made.label.tolist() == [-1, -1]
    assert made.space == (4, 4)
    assert len(made) == 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"inputs": X.numpy()}, "floating-point tensor.*given: ndarray"),
        ({"inputs": X.int()}, "floating-point tensor.*given: torch.int32"),
        ({"inputs": X[0]}, r"given: torch.float32 \(1, 4, 4\)"),
        ({"regions": {"nucleus": CELL}}, "must hold 'cell'.*given: nucleus"),
        ({"regions": {"cell": CELL[:, :3]}}, r"'cell' must have the shape \(2, 4, 4\)"),
        ({"regions": {"cell": CELL * 7}}, "lie within.*given: 0 to 7.*labels == number"),
        ({"regions": {"cell": CELL, "neighbours": CELL}}, "overlap.*neighbours & ~cell"),
        ({"label": torch.zeros(2)}, "label must be integers"),
        ({"label": torch.zeros(3, dtype=torch.int64)}, r"label must be integers \(2,\)"),
        ({"ids": ["a", "a"]}, "2 different names.*1 different"),
        ({"ids": ["a"]}, "2 different names"),
        ({"meta": {"Metadata_Well": ["A"]}}, "must have 2 values; given: 1"),
        ({"meta": {"status": ["A", "B"]}}, "overwrite.*Metadata_status"),
        ({"spacing": (1.0,)}, "spacing must have 2 values"),
    ],
)
def test_what_does_not_fit_is_named(options, sentence):
    with pytest.raises(DataError, match=sentence):
        Batch(**{"inputs": X, "regions": {"cell": CELL}, **options})


def test_soft_regions_are_welcome():
    assert len(Batch(X, {"cell": CELL * 0.5, "neighbours": ~CELL * 0.25})) == 2
