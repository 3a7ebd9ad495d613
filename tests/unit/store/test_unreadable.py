"""Files that the system does not give, jobs without a part, and what is left lying about."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import h5py
import pytest
from results import BASE, LABELS, fill, job

from attrscore.cli.main import main
from attrscore.errors import StoreError
from attrscore.store import Writer, collect, read_scores, status_of, verify
from attrscore.store import commit as committing
from attrscore.store.commit import new_file, new_folder
from attrscore.store.verify import check_files

PART = "000000002-000000004.h5"
CODES = {errno.EACCES: "Permission denied", errno.EIO: "Input/output error"}


@pytest.fixture
def results(tmp_path):
    fill(tmp_path / "results", job())
    return tmp_path / "results"


def refuse(monkeypatch, name, code):
    """As if the system did not give the bytes of files of this name."""
    opened, hdf5 = Path.open, h5py.File

    def no_open(self, *arguments, **options):
        if self.name == name:
            raise OSError(code, os.strerror(code), str(self))
        return opened(self, *arguments, **options)

    def no_hdf5(path, *arguments, **options):
        if Path(path).name == name:
            raise OSError(f"Can't synchronously read data (errno = {code})")
        return hdf5(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", no_open)
    monkeypatch.setattr(h5py, "File", no_hdf5)


def kinds(results):
    said = []
    check_files(said.append, paths=[str(results / "jobs" / job().id)], skip=[])
    return [each["kind"] for one in said if "done" in one for each in one["problems"]]


@pytest.mark.parametrize("code", CODES)
def test_a_part_that_cannot_be_read_is_not_called_damaged(code, results, monkeypatch):
    refuse(monkeypatch, PART, code)
    for read in (read_scores, lambda path: collect(path, path / "all.h5")):
        with pytest.raises(StoreError, match=rf"cannot be read .{CODES[code]}") as caught:
            read(results)
        assert PART in str(caught.value)
        assert "delete" not in str(caught.value)
    assert kinds(results) == ["unreadable"]
    (state,) = status_of(results)
    assert state.rows == {"ok": 3, "unreadable": 1}


@pytest.mark.parametrize("code", CODES)
def test_a_job_json_that_cannot_be_read_is_not_written_over(code, results, monkeypatch):
    path = results / "jobs" / job().id / "job.json"
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        refuse(patch, "job.json", code)
        with pytest.raises(StoreError, match=rf"job.json cannot be read .{CODES[code]}"):
            read_scores(results)
        with pytest.raises(StoreError, match="cannot be read"):
            Writer(results, job(), labels={**LABELS, "model": "another"})
        assert status_of(results)[0].stopped == "unreadable"
        assert kinds(results) == ["unreadable"]
    assert path.read_bytes() == before


@pytest.mark.parametrize("suffix", [".h5", ".parquet"])
def test_a_merged_file_that_cannot_be_read_is_not_called_damaged(suffix, results, monkeypatch):
    path = results / f"all{suffix}"
    collect(results, path)
    refuse(monkeypatch, path.name, errno.EIO)
    with pytest.raises(StoreError, match="cannot be read .Input/output error"):
        read_scores(path)


def test_too_many_open_files_are_said(results):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    read_scores(results)  # all modules are loaded
    used = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    held = [os.open(os.devnull, os.O_RDONLY)]
    while held[-1] <= used:
        held.append(os.open(os.devnull, os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 1, hard))
    try:
        with pytest.raises(StoreError, match=r"Too many open files.*ulimit -n"):
            read_scores(results / "jobs" / job().id / PART)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in held:
            os.close(descriptor)


# Jobs without a part


@pytest.mark.slow
def test_jobs_without_a_part_stop_neither_report_nor_collect(results, tmp_path, capsys):
    for keep, seed in (("native", 1), ("none", 2)):
        waiting = job(base={**BASE, "keep": keep, "seed": seed}, rows=5000)
        Writer(results, waiting, labels=LABELS)
    (results / "jobs" / "being-made").mkdir()
    assert len(read_scores(results)) == 5
    assert main(["collect", str(results), "-o", str(tmp_path / "all.csv")]) == 0
    for more in ([], ["-o", str(tmp_path / "report")]):
        assert main(["report", str(results), *more]) == 0
    assert (tmp_path / "report" / "report.html").exists()
    assert main(["status", str(results)]) == 3
    capsys.readouterr()


# Leftovers


@pytest.mark.slow
def test_leftovers_of_exports_and_figures_go_by_the_same_rule(results, tmp_path):
    dead = 2**22 + 1  # no process can have it
    host, alive = committing._HOST, os.getppid()
    for folder in (results, results / "export", results / "figures", tmp_path / "elsewhere"):
        folder.mkdir(exist_ok=True)
        (folder / f".a.csv.3.{host}.{dead}.tmp").touch()
        (folder / f".b.zarr.1.{host}.{dead}.tmp").mkdir()
        (folder / f".b.zarr.1.{host}.{dead}.tmp" / "0").touch()
        (folder / f".c.csv.1.{host}.{alive}.tmp").touch()
        (folder / ".d.csv.1.another.1.tmp").touch()
    assert verify(results).leftovers_removed == 6
    with new_file(tmp_path / "elsewhere" / "new.csv") as aside:
        aside.write_text("a\n")
    for folder in (results, results / "export", results / "figures", tmp_path / "elsewhere"):
        left = {path.name for path in folder.glob(".*.tmp")}
        assert left == {f".c.csv.1.{host}.{alive}.tmp", ".d.csv.1.another.1.tmp"}


def test_a_file_that_this_process_writes_is_no_leftover(tmp_path):
    with new_file(tmp_path / "one.csv") as first, new_file(tmp_path / "two.csv") as second:
        first.write_text("1")
        second.write_text("2")
        with new_file(tmp_path / "one.csv") as again:
            again.write_text("3")
    assert (tmp_path / "one.csv").read_text() == "1"  # the last to end
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.csv", "two.csv"]


def test_a_folder_is_replaced_whole_or_stays(tmp_path):
    def write(text):
        with new_folder(tmp_path / "a.zarr") as aside:
            aside.mkdir()
            (aside / "0").write_text(text)
            if text == "bad":
                raise KeyboardInterrupt

    write("first")
    with pytest.raises(KeyboardInterrupt):
        write("bad")
    assert (tmp_path / "a.zarr" / "0").read_text() == "first"
    write("second")
    assert (tmp_path / "a.zarr" / "0").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_a_small_table_needs_little_space(results, tmp_path, monkeypatch):
    free = 2**20
    monkeypatch.setattr(
        "shutil.disk_usage", lambda _: type("Usage", (), {"free": free, "total": 0, "used": 0})
    )
    for suffix in (".h5", ".parquet", ".csv"):
        assert collect(results, tmp_path / f"all{suffix}") == 5
        assert (tmp_path / f"all{suffix}").stat().st_size < free
