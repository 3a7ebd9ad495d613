"""A merge of a table that does not fit in the memory it is given."""

from __future__ import annotations

import os
import subprocess
import sys

import pandas as pd
import pytest
from results import GRAD_CAM, GRAD_CAMO, fill, job

from attrscore.store import Condition, read_scores

MEMORY = 32 * 2**20
"""Addresses that a process may take beyond those of Python and the libraries."""

LIMITED = f"""
import resource, sys
from pathlib import Path
from attrscore.store import collect, read_scores
pages = int(Path("/proc/self/statm").read_text().split()[0])
most = pages * resource.getpagesize() + {MEMORY}
resource.setrlimit(resource.RLIMIT_AS, (most, most))
"""
ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    # Arrow's own allocator holds 1 GiB of addresses from the start, which no limit would count.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}


def limited(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", LIMITED + code, *map(str, arguments)],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
    )


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
    done = limited(f"print(collect(*sys.argv[1:], memory={MEMORY}))", sweep, path)
    assert done.stderr == ""
    assert int(done.stdout) == len(table)
    if suffix == ".csv":
        table.to_csv(tmp_path / "expected.csv", index=False)
        assert path.read_bytes() == (tmp_path / "expected.csv").read_bytes()
    else:
        pd.testing.assert_frame_equal(read_scores(path), table)


def test_that_memory_does_not_hold_the_table(sweep):
    """What the other test rests on."""
    done = limited("print(len(read_scores(sys.argv[1])))", sweep)
    assert done.returncode != 0
    signs = ("MemoryError", "allocate", "filter returned failure")  # Python, Arrow, HDF5
    assert any(sign in done.stderr for sign in signs)
