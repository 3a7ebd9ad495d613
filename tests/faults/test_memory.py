"""A merge of a table that does not fit in the memory it is given."""

from __future__ import annotations

import pandas as pd
import pytest
from results import GRAD_CAM, GRAD_CAMO, fill, job

from attrscore.errors import StoreError
from attrscore.store import Condition, child, collect, read_scores

MEMORY = 32 * 2**20
"""Addresses that the child may take beyond those of Python and the libraries."""

WHOLE = """
from attrscore.store import child, merge, read_scores
def whole(tell, *, folder, **_):
    tell({"rows": len(read_scores(folder)), "bytes": 0})
merge.merge = whole
child.main()
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two jobs of two layers, in parts of 64 cells: long texts, and many numbers."""
    folder = tmp_path_factory.mktemp("wide")
    layers = [Condition(GRAD_CAM, layer, GRAD_CAMO) for layer in ("features.3", "features.6")]
    numbers = {f"Metadata_{i}": i / 7 for i in range(60)}
    for seed, letter in enumerate("xy"):
        of = job(*layers, base={"seed": seed}, rows=1024, part_rows=64)
        fill(folder, of, Metadata_long=letter * 16_000, **numbers)
    return folder


@pytest.fixture(scope="module")
def table(sweep):
    whole = read_scores(sweep)
    assert whole.memory_usage(deep=True).sum() > 2 * MEMORY
    return whole


@pytest.mark.parametrize("suffix", [".h5", ".parquet", ".csv"])
def test_a_table_larger_than_the_memory_is_merged(suffix, sweep, table, tmp_path):
    path = tmp_path / f"all{suffix}"
    assert collect(sweep, path, memory=MEMORY) == len(table)
    if suffix == ".csv":
        table.to_csv(tmp_path / "expected.csv", index=False)
        assert path.read_bytes() == (tmp_path / "expected.csv").read_bytes()
    else:
        pd.testing.assert_frame_equal(read_scores(path), table)


def test_that_memory_does_not_hold_the_table(sweep, tmp_path, monkeypatch):
    """What the other test rests on, and what is said where memory is too small."""
    monkeypatch.setattr(child, "_START", WHOLE)
    with pytest.raises(StoreError, match=r"too much memory .* Give it more than 32 MiB"):
        collect(sweep, tmp_path / "all.h5", memory=MEMORY)
    assert not list(tmp_path.iterdir())
