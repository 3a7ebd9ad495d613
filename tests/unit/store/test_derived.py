"""Merged files, status, verification and untrusted files."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from results import BASE, GRAD_CAM, GRAD_CAMO, IG, LABELS, OTHER, fill, job, table

from attrscore import store
from attrscore.cli.main import main
from attrscore.errors import StoreError
from attrscore.store import (
    Condition,
    Writer,
    child,
    collect,
    provenance_of,
    read_scores,
    scores,
    status_of,
    verify,
)
from attrscore.store.child import ChildError, run_in_child

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


def sweep(folder):
    """Several jobs: another layer, a scorer added later in parts of other sizes, an option."""
    fill(folder, job(*(Condition(GRAD_CAM, f"f.{i}", GRAD_CAMO) for i in (10, 9))))
    fill(folder, job(Condition(GRAD_CAM, "f.9", OTHER), part_rows=3), Metadata_more=7)
    for steps in (8, 32):
        method = replace(IG, options={"steps": steps})
        fill(folder, job(Condition(method, "input", GRAD_CAMO)), completeness_error=0.5)
    fill(folder, job(base={**BASE, "heat": {"sign": "absolute"}}), Metadata_gap=None)


# Merging


@pytest.mark.parametrize("suffix", [".h5", ".parquet"])
def test_the_merge_streams_the_same_table(suffix, tmp_path):
    sweep(tmp_path)
    whole = read_scores(tmp_path)
    collect(tmp_path, tmp_path / f"all{suffix}")
    pd.testing.assert_frame_equal(read_scores(tmp_path / f"all{suffix}"), whole)
    collect(tmp_path, tmp_path / f"few{suffix}", memory=1)  # nothing is held, a row at a time
    pd.testing.assert_frame_equal(read_scores(tmp_path / f"few{suffix}"), whole)


def test_types_and_gaps_survive_the_merge(tmp_path):
    writer = Writer(tmp_path, job(), labels=LABELS)
    kinds = ([1, 2], ["NA", None], [True])
    for (start, stop), values in zip(job().ranges, kinds, strict=True):
        flags = {"Metadata_flag": True} if start else {}
        part = table(job(), start, stop, Metadata_a=values, Metadata_Ä="é", **flags)
        writer.write(start, stop, part)
    for suffix in (".h5", ".parquet"):
        collect(tmp_path, tmp_path / f"all{suffix}")
        pd.testing.assert_frame_equal(read_scores(tmp_path / f"all{suffix}"), read_scores(tmp_path))
    assert read_scores(tmp_path)["Metadata_a"].isna().tolist() == [False, False, False, True, False]


def test_rows_that_a_part_was_to_have_and_lacks_are_gaps_of_the_merge(tmp_path):
    """Known only once the rows are read: whole numbers, flags and text cannot hold them."""
    more = {"grad_camo.count": 3, "grad_camo.flat": True, "grad_camo.word": "NA"}
    one, other = (job(Condition(GRAD_CAM, "a", each), rows=4) for each in (GRAD_CAMO, OTHER))
    writer = Writer(tmp_path, one, labels=LABELS)
    for start, stop in one.ranges:
        writer.write(start, stop, table(one, start, stop, **more).iloc[: 2 - start // 2])
    fill(tmp_path, other)
    whole = read_scores(tmp_path)
    assert whole["grad_camo.count"].isna().tolist() == [False, False, False, True]
    assert whole["grad_camo.flat"].dtype == whole["grad_camo.count"].dtype == np.float64
    assert whole["grad_camo.word"].isna().tolist() == [False, False, False, True]
    for suffix in (".h5", ".parquet"):
        collect(tmp_path, tmp_path / f"all{suffix}")
        pd.testing.assert_frame_equal(read_scores(tmp_path / f"all{suffix}"), whole)


def test_columns_of_whole_numbers_stay_so_where_another_job_lacks_them(tmp_path):
    one, other = (job(Condition(GRAD_CAM, "a", each)) for each in (GRAD_CAMO, OTHER))
    writer = Writer(tmp_path, one, labels=LABELS)
    for start, stop in one.ranges:
        writer.write(start, stop, table(one, start, stop, **{"grad_camo.count": 3}))
    fill(tmp_path, other)
    assert read_scores(tmp_path)["grad_camo.count"].dtype == np.int64
    for suffix in (".h5", ".parquet"):
        collect(tmp_path, tmp_path / f"all{suffix}")
        pd.testing.assert_frame_equal(read_scores(tmp_path / f"all{suffix}"), read_scores(tmp_path))


def test_a_merge_says_where_its_numbers_came_from(tmp_path):
    fill(tmp_path, job(), config="x: 1")
    collect(tmp_path, tmp_path / "all.h5")
    (told,) = provenance_of(tmp_path / "all.h5")["jobs"]
    assert (told["job"], told["config"], told["model"]) == (job().id, "x: 1", "tiny")
    assert json.loads(told["identity"])["rows"] == 5


def test_rebuilding_gives_the_same_bytes_and_leaves_nothing_beside(tmp_path):
    fill(tmp_path, job())
    for name in ("a.h5", "b.h5"):
        collect(tmp_path, tmp_path / "new" / name)
    assert (tmp_path / "new/a.h5").read_bytes() == (tmp_path / "new/b.h5").read_bytes()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.h5", "b.h5"]


def test_xarray_and_pandas_open_the_products(tmp_path):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    sweep(tmp_path)
    collect(tmp_path, tmp_path / "all.h5")
    collect(tmp_path, tmp_path / "all.parquet")
    whole = read_scores(tmp_path)
    with xarray.open_dataset(tmp_path / "all.h5", engine="h5netcdf", group="scores") as opened:
        assert opened["grad_camo"].dims == ("row",)
        assert opened["grad_camo"].values[:5].tolist() == whole["grad_camo"][:5].tolist()
        assert opened["method"].values[0] in ("grad_cam", b"grad_cam")
    plain = pd.read_parquet(tmp_path / "all.parquet")
    pd.testing.assert_series_equal(plain["grad_camo"], whole["grad_camo"])


def test_xarray_opens_the_maps_of_a_part():
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    (part,) = DATA.glob("schema1/jobs/*/*.h5")
    group = "maps/grad_cam/features.3"
    named = {"phony_dims": "sort"}  # of the columns beside the maps, whose axis has no name
    with xarray.open_dataset(part, engine="h5netcdf", group=group, **named) as opened:
        assert opened["map"].dims == ("cell", "channel", "y", "x")
        assert (opened["map"] * opened["scale"]).dtype == np.float32


def test_too_little_space_is_said_before_anything_is_written(tmp_path, monkeypatch):
    fill(tmp_path, job())
    monkeypatch.setattr(scores.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 10))
    with pytest.raises(StoreError, match=r"may need 0.06 MiB, and 0.00 MiB are free"):
        collect(tmp_path, tmp_path / "all.h5")
    assert not list(tmp_path.glob("all*"))


def test_a_damaged_part_stops_a_merge_with_its_name(tmp_path):
    path = fill(tmp_path, job()).folder / "000000002-000000004.h5"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(StoreError, match="000000002-000000004.h5 is damaged"):
        collect(tmp_path, tmp_path / "all.h5")
    assert not list(tmp_path.glob("*all*"))


def test_a_table_that_takes_much_memory_is_not_read_back(tmp_path, capsys, monkeypatch):
    fill(tmp_path, job())
    monkeypatch.setattr("attrscore.cli.commands.results.MOST_BYTES", 100)
    assert main(["collect", str(tmp_path), "-o", str(tmp_path / "all.h5")]) == 0
    assert "no summary and no figure" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.png"))


# Older and newer files


def test_a_file_of_schema_1_is_read():
    scores = read_scores(DATA / "schema1")
    assert len(scores) == 8
    assert scores["grad_camo"].round(3).tolist()[0] == pytest.approx(
        scores["grad_camo"][0], abs=1e-3
    )
    assert store.read_maps(DATA / "schema1", "grad_cam", "features.6")[1].ndim == 4
    (told,) = status_of(DATA / "schema1")
    assert (told.done, told.rows) == (2, {"ok": 8})
    (part,) = DATA.glob("schema1/jobs/*/*.h5")
    assert provenance_of(part)["schema"] == 1


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


# Status


def test_status_counts_without_reading_parts(tmp_path, monkeypatch):
    sweep(tmp_path)
    done, open_one = (
        fill(tmp_path, job(base={**BASE, "seed": 9})),
        Writer(tmp_path, job(base={**BASE, "seed": 2}), labels=LABELS),
    )
    done.succeed()
    open_one.write(0, 2, table(job(), 0, 2).assign(status="error", reason="why"))
    open_one.fail(KeyboardInterrupt())
    (open_one.folder / ".x.h5.elsewhere.1.tmp").touch()
    os.utime(open_one.folder / ".x.h5.elsewhere.1.tmp", (0, 0))
    found = {each.job: each for each in status_of(tmp_path)}
    assert len(found) == 7
    broken = found[open_one.job.id]
    assert (broken.parts_done, broken.parts, broken.done, broken.failed) == (1, 3, 0, 1)
    assert (broken.stopped, broken.leftovers, broken.rows) == ("interrupted", 1, {"error": 2})
    assert broken.failures[0].reason == "why"
    monkeypatch.setattr(
        "attrscore.store.status.read_table", lambda *_: pytest.fail("a part was read")
    )
    assert status_of(done.folder)[0].rows == {"ok": 5}
    assert status_of(open_one.folder)[0].rows == {"error": 2}


def test_status_of_a_replaced_or_damaged_part_is_read_anew(tmp_path):
    writer = fill(tmp_path, job())
    writer.succeed()
    part = writer.folder / "000000000-000000002.h5"
    part.write_bytes(part.read_bytes()[:100])
    (found,) = status_of(tmp_path)
    assert found.rows == {"ok": 3, "damaged": 1}
    assert "damaged" in found.failures[0].reason
    (writer.folder / "job.json").write_text("{")
    assert status_of(tmp_path)[0].stopped == "damaged"


def test_the_verbs_tell(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    writer = fill("results", job())
    writer.succeed()
    assert main(["status", "results"]) == 0
    assert "1 jobs, 1 conditions: 1 done" in capsys.readouterr().out
    assert main(["verify", "results"]) == 0
    assert "no problems" in capsys.readouterr().out
    assert main(["status", "results", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["rows"] == {"ok": 5}
    part = writer.folder / "000000000-000000002.h5"
    assert main(["status", str(part)]) == 0
    assert "identity:" in capsys.readouterr().out
    for name in ("all.h5", "all.parquet", "all.csv"):
        assert main(["collect", "results", "-o", name, "--figures", "none"]) == 0
        capsys.readouterr()
        assert main(["status", name]) == (1 if name.endswith("csv") else 0)
        told = capsys.readouterr()
        assert "CSV cannot tell" in told.err if name.endswith("csv") else job().id in told.out
    writer.write(0, 2, table(job(), 0, 2).assign(status="error", reason="why"), existing="replace")
    writer.succeed()
    assert main(["status", "results"]) == 3
    out = capsys.readouterr().out
    assert "error: grad_cam at features.3 (2 rows): why" in out
    assert "rerun=failed" in out
    part.unlink()
    assert main(["verify", "results", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"][0]["kind"] == "missing"


# Verification


def kinds(folder, **options):
    return [(Path(p.path).name, p.kind) for p in verify(folder, **options).problems]


def test_a_whole_folder_has_no_problem(tmp_path):
    sweep(tmp_path)
    collect(tmp_path, tmp_path / "results.h5")
    report = verify(tmp_path)
    assert report.problems == []
    assert (report.jobs, report.parts, report.cells) == (5, 14, 25)
    assert verify(tmp_path / "results.h5").problems == []
    with pytest.raises(StoreError, match="There is no file or folder"):
        verify(tmp_path / "nowhere")


def test_verify_names_each_kind_of_problem(tmp_path):
    one = fill(tmp_path, job())
    two = fill(tmp_path, job(base={**BASE, "seed": 1}))
    first, second, third = sorted(one.folder.glob("*.h5"))
    shutil.copy(first, second)  # a part under another name
    shutil.copy(two.folder / third.name, third)  # a part of another job
    (one.folder / "notes.h5").write_bytes(b"")
    (two.folder / first.name).unlink()
    (two.folder / second.name).write_bytes((two.folder / second.name).read_bytes()[:-100])
    shutil.copytree(two.folder, two.folder.with_name("0" * 16))
    (one.folder / ".x.h5.elsewhere.1.tmp").touch()
    os.utime(one.folder / ".x.h5.elsewhere.1.tmp", (0, 0))
    report = verify(tmp_path)
    found = {(Path(p.path).parent.name, Path(p.path).name, p.kind) for p in report.problems}
    assert found == {
        (one.job.id, second.name, "duplicate"),
        (one.job.id, third.name, "foreign"),
        (one.job.id, "notes.h5", "foreign"),
        ("jobs", two.job.id, "missing"),
        (two.job.id, second.name, "damaged"),
        ("jobs", "0" * 16, "duplicate"),
        ("jobs", "0" * 16, "missing"),
        ("0" * 16, second.name, "damaged"),
    }
    assert report.leftovers_removed == 1


def test_rows_that_are_missing_or_twice_are_found(tmp_path):
    writer = Writer(tmp_path, job(), labels=LABELS)
    writer.write(0, 2, table(job(), 0, 1))
    writer.write(2, 4, table(job(), 0, 2))
    writer.write(4, 5, table(job(), 4, 5))
    assert kinds(tmp_path) == [
        (job().id, "duplicate"),
        ("000000000-000000002.h5", "missing"),
    ]


FAULTS = {
    "crashes": "import os; os.abort()",
    "hangs": "import time; time.sleep(60)",
    "memory": "bytes(2**31)",
}


@pytest.mark.parametrize("how", FAULTS)
def test_what_crashes_hangs_or_fills_the_child_is_named_and_the_rest_is_read(
    how, tmp_path, monkeypatch
):
    folder = fill(tmp_path, job()).folder
    code = f"""
import sys
from attrscore.store import child
verify = sys.modules["attrscore.store.verify"]
opened = verify.opened
def faulty(path):
    if path.name.startswith("000000002"):
        {FAULTS[how]}
    return opened(path)
verify.opened = faulty
child.main()
"""
    monkeypatch.setattr(child, "_START", code)
    report = verify(tmp_path, seconds=4, memory=2**29)
    found = [(Path(problem.path).name, problem.kind) for problem in report.problems]
    assert found == [("000000002-000000004.h5", how)]
    assert (report.parts, report.cells) == (2, 3)
    assert folder.exists()


def test_a_child_that_cannot_start_is_an_error(monkeypatch):
    monkeypatch.setattr(child, "_START", "import nowhere")
    with pytest.raises(ChildError, match="No module named 'nowhere'"):
        list(run_in_child({}))


# Untrusted files


def spoil(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def virtual(file):
    layout = h5py.VirtualLayout((2,), "f8")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (2,))
    file["maps"].create_virtual_dataset("v", layout)


def deep(file):
    group = file
    for _ in range(12):
        group = group.create_group("g")


def loop(file):
    file["maps/again"] = file["/"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: f.__setitem__("x", h5py.ExternalLink("/etc/passwd", "x")), "link to elsewhere"),
        (lambda f: f.__setitem__("x", h5py.SoftLink("/y")), "link to elsewhere"),
        (lambda f: f.create_dataset("x", (2,), "f8", external=[("x", 0, 16)]), "other files"),
        (virtual, "other files"),
        (lambda f: f.create_dataset("x", data=["a", "b"]), "only numbers and text"),
        (lambda f: f.create_dataset("x", (2,), h5py.ref_dtype), "only numbers and text"),
        (lambda f: f.create_dataset("x", (2,), [("a", "f8")]), "only numbers and text"),
        (lambda f: f.create_dataset("x", (10**12,), "f8", chunks=(1000,)), "claims more data"),
        (lambda f: f.__setitem__("t", np.dtype("f8")), "neither a group nor a dataset"),
        (deep, "lies deeper"),
        (loop, "lies deeper"),
        (lambda f: f.attrs.__setitem__("format", "other"), "not written by attrscore"),
        (lambda f: f.attrs.__setitem__("schema", [1, 2]), "damaged"),
    ],
)
def test_each_refusal(change, sentence, tmp_path):
    shutil.copytree(DATA / "schema1", tmp_path / "given")
    (part,) = (tmp_path / "given").glob("jobs/*/*.h5")
    spoil(part, change)
    (problem,) = verify(tmp_path / "given").problems
    assert sentence in problem.sentence
    assert str(part) in problem.sentence
    assert problem.kind == "damaged"
