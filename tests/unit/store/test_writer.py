"""Writing the parts of a job, and what is left to compute."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from results import BASE, GRAD_CAM, GRAD_CAMO, IG, LABELS, OTHER, fill, job, table

from attrscore.errors import StoreError
from attrscore.store import (
    Condition,
    Writer,
    folders_of,
    jobs_like,
    missing_conditions,
    read_scores,
)
from attrscore.store import commit as committing


def missing(folder, of):
    return missing_conditions(jobs_like(folder, of), of)


def test_a_second_run_computes_only_what_is_missing(tmp_path):
    writer = Writer(tmp_path, job(), labels=LABELS)
    writer.write(2, 4, table(job(), 2, 4))
    assert Writer(tmp_path, job(), labels=LABELS).missing() == [(0, 2), (4, 5)]
    assert read_scores(tmp_path).id.tolist() == ["cell2", "cell3"]


def test_a_part_that_exists_is_never_overwritten(tmp_path):
    writer = fill(tmp_path, job())
    path = writer.folder / "000000000-000000002.h5"
    before = path.read_bytes()
    assert writer.write(0, 2, table(job(), 0, 2, offset=1.0)) == path
    assert path.read_bytes() == before


@pytest.mark.slow
def test_the_same_work_gives_the_same_bytes(tmp_path):
    kept = {("grad_cam", "features.3"): np.ones((2, 1, 3, 3))}
    parts = []
    for place in ("a", "b"):
        writer = Writer(tmp_path / place, job(), labels=LABELS, config="x: 1")
        parts.append(writer.write(0, 2, table(job(), 0, 2), kept).read_bytes())
        time.sleep(1.1)  # HDF5 counts time in seconds
    assert parts[0] == parts[1]


def test_adding_to_a_finished_sweep_computes_that_alone(tmp_path):
    first, layer = (Condition(GRAD_CAM, name, GRAD_CAMO) for name in ("a", "b"))
    scorer, method = Condition(GRAD_CAM, "a", OTHER), Condition(IG, "input", GRAD_CAMO)
    done = job(first)
    fill(tmp_path, done)
    asked = job(method, first, layer, scorer)
    assert missing(tmp_path, asked) == (method, layer, scorer)
    fill(tmp_path, job(method, layer, scorer))
    assert missing(tmp_path, asked) == ()
    assert len(folders_of(jobs_like(tmp_path, asked), asked)) == 2
    scores = read_scores(tmp_path)
    assert len(scores) == 3 * 5
    assert not scores.duplicated(["id", "method", "layer"]).any()
    assert scores[scores.layer == "a"].other.notna().all()
    assert scores[scores.layer == "b"].other.isna().all()


def test_only_complete_work_on_the_same_base_counts(tmp_path):
    condition = job().conditions
    assert missing(tmp_path / "nowhere", job()) == condition
    fill(tmp_path, job(base={**BASE, "seed": 1}))
    Writer(tmp_path, job(), labels=LABELS).write(0, 2, table(job(), 0, 2))
    assert missing(tmp_path, job()) == condition
    fill(tmp_path, job(base={**BASE, "keep": "native"}))
    assert missing(tmp_path, job()) == ()
    assert missing(tmp_path, job(base={**BASE, "keep": "all"})) == condition


def test_job_json_keeps_the_first_config_and_the_last_labels(tmp_path):
    folder = fill(tmp_path, job(), config="first").folder
    Writer(tmp_path, job(), labels={**LABELS, "model": "renamed"}, config="second")
    told = json.loads((folder / "job.json").read_text())
    assert (told["config"], told["labels"]["model"]) == ("first", "renamed")
    assert read_scores(tmp_path).model.unique() == ["renamed"]


def test_failure_is_recorded_and_forgotten_on_success(tmp_path):
    writer = Writer(tmp_path, job(), labels=LABELS)
    error = ValueError("bad cell")
    error.add_note("in cell 3")
    writer.fail(error)
    told = json.loads((writer.folder / "failed.json").read_text())
    assert (told["type"], told["message"], told["notes"]) == (
        "ValueError",
        "bad cell",
        ["in cell 3"],
    )
    writer.succeed()
    writer.succeed()
    assert not (writer.folder / "failed.json").exists()


def test_leftovers_of_dead_processes_go_and_others_stay(tmp_path):
    writer = fill(tmp_path, job())
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host, alive = committing._HOST, os.getppid()
    names = [f".a.h5.{host}.{dead.pid}.tmp", ".b.h5.elsewhere.1.tmp", ".c.h5.elsewhere.1.tmp"]
    names += [f".d.h5.{host}.{alive}.tmp", f".e.h5.{host}.{os.getpid()}.tmp"]
    for name in names:
        (writer.folder / name).write_bytes(b"half")
    os.utime(writer.folder / names[1], (0, 0))
    Writer(tmp_path, job(), labels=LABELS)
    assert {path.name for path in writer.folder.glob(".*.tmp")} == {names[2], names[3]}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.drop(columns="layer"), "lacks layer"),
        (lambda t: t.assign(layer="features.9"), "no condition for grad_cam at features.9"),
        (lambda t: t.assign(id="same"), "several rows for one cell"),
        (lambda t: pd.concat([t, t.assign(id=["x", "y"])]), "4 cells in a range of 2"),
        (lambda t: t.assign(reason="a\0b"), "'reason' holds text with a NUL"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(change, sentence, tmp_path):
    writer = Writer(tmp_path, job(), labels=LABELS)
    with pytest.raises(StoreError, match=sentence):
        writer.write(0, 2, change(table(job(), 0, 2)))
    assert writer.missing() == list(job().ranges)


def test_ranges_and_maps_that_do_not_fit_are_refused(tmp_path):
    writer = Writer(tmp_path, job(), labels=LABELS)
    with pytest.raises(StoreError, match="0-3 is no range of job"):
        writer.write(0, 3, table(job(), 0, 3))
    with pytest.raises(StoreError, match="Maps of grad_cam at features.3 must have the shape"):
        writer.write(0, 2, table(job(), 0, 2), {("grad_cam", "features.3"): np.ones((1, 1, 3, 3))})


def test_a_full_disk_leaves_a_sentence_and_nothing_else(tmp_path):
    writer = Writer(tmp_path, job(), labels=LABELS)
    writer.write(0, 2, table(job(), 0, 2))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StoreError, match="free some space and run the same command again"):
            writer.write(2, 4, table(job(), 2, 4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {p.name for p in writer.folder.iterdir()} == {"job.json", "000000000-000000002.h5"}
    assert len(read_scores(tmp_path)) == 2


def test_a_read_only_folder_says_what_to_do(tmp_path, monkeypatch):
    writer = Writer(tmp_path, job(), labels=LABELS)

    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(committing.os, "open", refuse)
        with pytest.raises(StoreError, match=r"not writable; choose another with results="):
            writer.write(0, 2, table(job(), 0, 2))
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="Cannot write"):
        Writer(tmp_path / "file", job(), labels=LABELS)
