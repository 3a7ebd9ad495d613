"""Parts of older and newer schemas, and parts that cannot be trusted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import pandas as pd
import pytest
from results import LABELS, fill, job

from attrscore import store
from attrscore.errors import StoreError
from attrscore.store import (
    Writer,
    collect,
    jobs_like,
    missing_conditions,
    provenance_of,
    read_scores,
    status_of,
    verify,
)

DATA = Path(__file__).parents[2] / "data"


SCHEMA_1 = [
    0.099854314,
    0.086036657,
    0.137516799,
    0.096002545,
    0.138728989,
    0.10753574,
    0.178346701,
    0.095067156,
]


def missing(folder, of):
    return missing_conditions(jobs_like(folder, of), of)


def test_places_that_hold_nothing_say_so(tmp_path):
    with pytest.raises(StoreError, match="There is no file or folder"):
        read_scores(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="is no results folder"):
        read_scores(tmp_path)
    with pytest.raises(StoreError, match="Name a results folder"):
        read_scores()
    Writer(tmp_path, job(), labels=LABELS)
    with pytest.raises(StoreError, match="holds no results yet"):
        read_scores(tmp_path)
    with pytest.raises(StoreError, match=r"must end in one of .h5, .csv, .parquet"):
        collect(tmp_path, tmp_path / "all.xlsx")
    (tmp_path / "all.csv").write_text("id\n1\n")
    with pytest.raises(StoreError, match="CSV forgets the types"):
        read_scores(tmp_path / "all.csv")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(StoreError, match="was not written by attrscore"):
        read_scores(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match="damaged or no Parquet file"):
        read_scores(tmp_path / "b.parquet")


def spoil(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def put(name, make):
    def change(file):
        del file["scores"][name]
        make(file["scores"], name)

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: f.attrs.__delitem__("schema"), "not written by attrscore"),
        (lambda f: f.attrs.__setitem__("schema", 2), "newer attrscore .schema 2.* upgrade with"),
        (lambda f: f.attrs.__setitem__("job", "0" * 16), "belongs to another job"),
        (lambda f: f.__delitem__("scores"), "no group 'scores'"),
        (lambda f: f["scores"].__delitem__("id"), "lacks the columns id"),
        (put("grad_camo", lambda g, n: g.create_dataset(n, data=[1.0])), "different lengths"),
        (put("grad_camo", lambda g, n: g.create_dataset(n, data=[[1.0]] * 2)), "not a column"),
        (put("label", lambda g, n: g.create_dataset(n, data=["a", "b"])), "only numbers and text"),
        (
            put("label", lambda g, n: g.__setitem__(n, h5py.ExternalLink("/etc/passwd", "x"))),
            "is a link to elsewhere",
        ),
        (
            put("label", lambda g, n: g.__setitem__(n, h5py.SoftLink("/x"))),
            "is a link to elsewhere",
        ),
        (
            put("label", lambda g, n: g.create_dataset(n, (2,), "f8", external=[("x", 0, 16)])),
            "data from other files",
        ),
        (
            put(
                "label",
                lambda g, n: g.create_dataset(n, (10**12,), dtype="f8", chunks=(1000,)),
            ),
            "claims more data than the file can hold",
        ),
        (put("label", lambda g, n: g.create_group(n)), "damaged"),
    ],
)
def test_parts_that_cannot_be_trusted_are_refused(change, sentence, tmp_path):
    path = fill(tmp_path, job()).folder / "000000002-000000004.h5"
    spoil(path, change)
    with pytest.raises(StoreError, match=sentence) as caught:
        read_scores(tmp_path)
    assert str(path) in str(caught.value)


def test_virtual_datasets_are_refused(tmp_path):
    path = fill(tmp_path, job()).folder / "000000002-000000004.h5"
    layout = h5py.VirtualLayout((2,), "f8")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (2,))
    spoil(path, put("label", lambda g, n: g.create_virtual_dataset(n, layout)))
    with pytest.raises(StoreError, match="data from other files"):
        read_scores(tmp_path)


def test_truncated_and_foreign_files_are_named_with_what_to_do(tmp_path):
    path = fill(tmp_path, job()).folder / "000000002-000000004.h5"
    data = path.read_bytes()
    for content in (data[: len(data) // 2], data[:1000], b"", b"no hdf5"):
        path.write_bytes(content)
        with pytest.raises(StoreError, match="delete it and run the same command again"):
            read_scores(tmp_path)


def test_a_damaged_job_json_is_named_and_written_anew(tmp_path):
    told = fill(tmp_path, job()).folder / "job.json"
    for content in ("{", '{"identity": {}}', "[]", '{"identity": {"schema": 9}}'):
        told.write_text(content)
        with pytest.raises(StoreError, match=r"job\.json"):
            read_scores(tmp_path)
        assert missing(tmp_path, job()) == job().conditions
        Writer(tmp_path, job(), labels=LABELS)
        assert len(read_scores(tmp_path)) == 5


@pytest.mark.slow
def test_reading_needs_no_torch():
    unwanted = "{'torch', 'hydra', 'matplotlib'}"
    code = f"import sys, attrscore.store; sys.exit(bool({unwanted} & {{*sys.modules}}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_file_of_schema_1_is_read():
    scores = read_scores(DATA / "schema1")
    assert len(scores) == 8
    assert scores["grad_camo"].tolist() == pytest.approx(SCHEMA_1, abs=1e-6)
    assert store.read_maps(DATA / "schema1", "grad_cam", "features.6")[1].ndim == 4
    (told,) = status_of(DATA / "schema1")
    assert (told.done, told.rows) == (2, {"ok": 8})
    (part,) = DATA.glob("schema1/jobs/*/*.h5")
    assert provenance_of(part)["schema"] == 1


@pytest.mark.slow
def test_a_newer_file_gets_one_sentence(tmp_path):
    path = fill(tmp_path, job()).folder / "000000002-000000004.h5"
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = store.SCHEMA + 1
    sentence = "written by a newer attrscore .schema 2; this one reads up to 1.; upgrade with"
    for read in (read_scores, lambda p: collect(p, p / "all.h5"), lambda _: provenance_of(path)):
        with pytest.raises(StoreError, match=sentence):
            read(tmp_path)
    (problem,) = verify(tmp_path).problems
    assert problem.kind == "newer"
