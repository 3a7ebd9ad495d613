"""Everything is read once, by a process that may crash."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from results import BASE, LABELS, fill, job, sweep, table

from attrscore.errors import StoreError
from attrscore.store import Writer, collect, verify
from attrscore.store.verify import ChildError, run_in_child

DATA = Path(__file__).parents[2] / "data"


def kinds(folder, **options):
    return [(Path(p.path).name, p.kind) for p in verify(folder, **options).problems]


@pytest.mark.slow
def test_a_whole_folder_has_no_problem(tmp_path):
    sweep(tmp_path)
    collect(tmp_path, tmp_path / "results.h5")
    report = verify(tmp_path)
    assert report.problems == []
    assert (report.jobs, report.parts, report.cells) == (5, 14, 25)
    assert verify(tmp_path / "results.h5").problems == []
    with pytest.raises(StoreError, match="There is no file or folder"):
        verify(tmp_path / "nowhere")


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("how", FAULTS)
def test_what_crashes_hangs_or_fills_the_child_is_named_and_the_rest_is_read(
    how, tmp_path, monkeypatch
):
    folder = fill(tmp_path, job()).folder
    code = f"""
import sys
from attrscore.store import verify
verify = sys.modules["attrscore.store.verify"]
opened = verify.opened
def faulty(path):
    if path.name.startswith("000000002"):
        {FAULTS[how]}
    return opened(path)
verify.opened = faulty
verify.serve(verify.check_files)
"""
    monkeypatch.setattr(sys.modules[verify.__module__], "_START", code)
    report = verify(tmp_path, seconds=4, memory=2**29)
    found = [(Path(problem.path).name, problem.kind) for problem in report.problems]
    assert found == [("000000002-000000004.h5", how)]
    assert (report.parts, report.cells) == (2, 3)
    assert folder.exists()


def test_a_child_that_cannot_start_is_an_error(monkeypatch):
    monkeypatch.setattr(sys.modules[verify.__module__], "_START", "import nowhere")
    with pytest.raises(ChildError, match="No module named 'nowhere'"):
        list(run_in_child({}))


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


@pytest.mark.slow
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
