"""A disk that is full, a folder that turns read-only, a clock that goes back."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import time
from contextlib import contextmanager

import numpy as np
import pytest
from results import GRAD_CAM, GRAD_CAMO, LABELS, fill, job, table

from attrscore.errors import StoreError
from attrscore.store import Condition, Writer, collect, read_scores, verify
from attrscore.store import commit as committing

JOB = job(Condition(GRAD_CAM, "features.3", GRAD_CAMO), rows=64, part_rows=4)
MAPS = {("grad_cam", "features.3"): np.random.default_rng(0).normal(size=(4, 8, 32, 32))}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def small_disk(place, size):
    """A file system of this size; a test that cannot have one is skipped."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True
    )
    if done.returncode:
        pytest.skip("a file system of a given size needs the right to mount")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def remount(place, option):
    subprocess.run(["mount", "-o", f"remount,{option}", place], check=True)


def test_a_full_disk_stops_cleanly_and_the_sweep_goes_on_later(tmp_path, record_property):
    with small_disk(tmp_path, "512k"):
        writer = Writer(tmp_path, JOB, labels=LABELS)

        def go_on():
            for start, stop in writer.missing():
                writer.write(start, stop, table(JOB, start, stop), MAPS)

        with pytest.raises(StoreError, match="free some space and run the same command again"):
            go_on()
        written = len(JOB.ranges) - len(writer.missing())
        assert 0 < written < len(JOB.ranges)
        assert len(names(writer.folder)) == written + 1  # the parts and job.json
        assert len(read_scores(tmp_path)) == 4 * written
        writer.fail(OSError(errno.ENOSPC, "full"))  # never raises
        with pytest.raises(StoreError, match="MiB are free"):
            collect(tmp_path, tmp_path / "all.h5")
        remount(tmp_path, "size=64m")
        fill(tmp_path, JOB)
        assert len(read_scores(tmp_path)) == 64
        found = {problem.kind for problem in verify(tmp_path).problems}
        told = f"full after {written} of {len(JOB.ranges)} parts; resumed: problems {len(found)}"
        record_property("counts", told)
        assert not found


def test_a_merge_on_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    fill(tmp_path / "results", JOB)
    (tmp_path / "disk").mkdir()
    # as if it filled up meanwhile
    monkeypatch.setattr("attrscore.store.scores._check_space", lambda *_: None)
    with small_disk(tmp_path / "disk", "4k"):
        for name in ("all.h5", "all.parquet", "all.csv"):
            with pytest.raises(StoreError, match="free some space"):
                collect(tmp_path / "results", tmp_path / "disk" / name)
            assert names(tmp_path / "disk") == []


def test_errors_at_any_byte_leave_what_was(tmp_path, monkeypatch, record_property):
    chance, real = random.Random(0), os.write
    writer = Writer(tmp_path, JOB, labels=LABELS)
    failures = 0
    while writer.missing():
        start, stop = writer.missing()[0]
        room = chance.randrange(150_000)

        def limited(descriptor, data):
            nonlocal room
            if room <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            count = real(descriptor, data[: min(len(data), room, 4096)])
            room -= count
            return count

        before = names(writer.folder)
        with monkeypatch.context() as patch:
            patch.setattr(committing.os, "write", limited)
            try:
                writer.write(start, stop, table(JOB, start, stop), MAPS)
            except StoreError:
                failures += 1
                assert names(writer.folder) == before
    told = f"{failures} failed writes while {len(JOB.ranges)} parts were written"
    record_property("counts", told)
    assert failures
    assert len(read_scores(tmp_path)) == 64
    assert verify(tmp_path).problems == []


def test_a_folder_that_turns_read_only(tmp_path):
    with small_disk(tmp_path, "8m"):
        writer = Writer(tmp_path, JOB, labels=LABELS)
        writer.write(0, 4, table(JOB, 0, 4))
        remount(tmp_path, "ro")
        with pytest.raises(StoreError, match=r"not writable; choose another with results="):
            writer.write(4, 8, table(JOB, 4, 8))
        writer.fail(OSError(errno.EROFS, "read-only"))
        assert len(read_scores(tmp_path)) == 4
        remount(tmp_path, "rw")
        fill(tmp_path, JOB)
        assert verify(tmp_path).problems == []


def test_a_clock_that_goes_back(tmp_path, monkeypatch):
    writer = Writer(tmp_path, JOB, labels=LABELS)
    writer.write(0, 4, table(JOB, 0, 4))
    other = writer.folder / ".x.h5.elsewhere.1.tmp"
    other.write_bytes(b"being written")
    before = time.time()
    monkeypatch.setattr(time, "time", lambda: before - 10 * 86_400)
    resumed = fill(tmp_path, JOB)
    assert other.exists()  # written in what is now the future: not a day old
    resumed.succeed({"seconds": 0})
    future = before + 10 * 86_400
    for path in writer.folder.glob("*.h5"):
        os.utime(path, (future, future))
    assert Writer(tmp_path, JOB, labels=LABELS).missing() == []
    assert len(read_scores(tmp_path)) == 64
    other.unlink()
    assert verify(tmp_path).problems == []
