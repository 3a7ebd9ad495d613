"""Columns of every kind come back as they were."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pandas as pd
from results import LABELS, job, table

from attrscore.store import (
    Writer,
    read_scores,
)


def test_columns_of_every_kind_come_back(tmp_path):
    given = pd.DataFrame(
        {
            "Metadata_text": ["é", None, "NA", "", "a/b"],
            "Metadata_empty": [""] * 5,
            "Metadata_nothing": pd.Series([None] * 5, dtype=object),
            "Metadata_mixed": pd.Series([1, "two", 3.5, None, True], dtype=object),
            "Metadata_flag": [True, False, True, False, True],
            "Metadata_int": pd.Series([1, 2, 3, 4, 2**62], dtype=object),
            "Metadata_gap": pd.array([1, None, 3, 4, 5], dtype="Int64"),
            "Metadata_group": pd.Categorical(["a", "b", None, "a", "a"]),
            "Metadata_a/b": np.arange(5, dtype=np.uint8),
            "Metadata_.": np.float32([0.1, np.nan, np.inf, -0.0, 1]),
            "Metadata_bad_name": pd.Series(["\udcff"] * 5, dtype=object),
            "Metadata_day": pd.to_datetime(["2024-01-02"] * 5),
        }
    )
    writer = Writer(tmp_path, job(part_rows=5), labels=LABELS)
    writer.write(0, 5, table(job()).join(given))
    got = read_scores(tmp_path)
    text = lambda name: [None if pd.isna(v) else v for v in got[f"Metadata_{name}"]]  # noqa: E731
    assert text("text") == ["é", None, "NA", "", "a/b"]
    assert text("empty") == [""] * 5
    assert text("nothing") == [None] * 5
    assert text("mixed") == ["1", "two", "3.5", None, "True"]
    assert text("group") == ["a", "b", None, "a", "a"]
    assert text("bad_name") == ["\\udcff"] * 5
    assert text("day") == ["2024-01-02 00:00:00"] * 5
    assert got["Metadata_flag"].dtype == bool
    assert got["Metadata_int"].dtype == np.int64
    assert got["Metadata_int"].iloc[-1] == 2**62
    assert got["Metadata_gap"].isna().tolist() == [False, True, False, False, False]
    for name in ("Metadata_a/b", "Metadata_."):
        pd.testing.assert_series_equal(got[name], given[name])


def test_parts_may_disagree_about_a_type(tmp_path):
    writer = Writer(tmp_path, job(), labels=LABELS)
    for (start, stop), values in zip(job().ranges, [[1, 2], ["x", None], [True]], strict=True):
        writer.write(start, stop, table(job(), start, stop, Metadata_a=values))
    assert read_scores(tmp_path)["Metadata_a"].fillna("-").tolist() == ["1", "2", "x", "-", "True"]


def test_long_reasons_are_cut(tmp_path):
    writer = Writer(tmp_path, job(), labels=LABELS)
    writer.write(0, 2, table(job(), 0, 2).assign(reason="why " * 1000))
    assert read_scores(tmp_path).reason.str.len().tolist() == [500, 500]


def test_columns_are_plain_checked_datasets_that_tell_their_kind(tmp_path):
    writer = Writer(tmp_path, job(), labels=LABELS, carried=["area"])
    path = writer.write(0, 2, table(job(), 0, 2, area=3.0, completeness=0.1))
    with h5py.File(path) as file:
        kinds = {name: each.attrs["kind"].decode() for name, each in file["scores"].items()}
        assert all(each.fletcher32 and each.ndim == 1 for each in file["scores"].values())
        assert json.loads(file.attrs["identity"])["rows"] == 5
    assert kinds["id"] == "key"
    assert kinds["grad_camo.chance"] == kinds["completeness"] == "score"
    assert kinds["area"] == kinds["Metadata_Plate"] == "metadata"
