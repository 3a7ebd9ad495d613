"""Files that were cut, flipped or mutated: every damage is found, or does no harm.

HDF5 may crash on a forged file, so each is read by a forked process with a limit on time.
"""

from __future__ import annotations

import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from attrscore.errors import StoreError
from attrscore.store import collect, read_part, read_scores, status_of, verify
from attrscore.store.part import opened
from attrscore.store.verify import check_files

DATA = Path(__file__).parents[1] / "data" / "schema1"
TRUNCATIONS, FLIPS, MUTATIONS = 100, 300, 200
SECONDS = 10

SAME, REFUSED, SILENT = 0, 3, 4


def contents(path):
    """All that a reader gets from a part."""
    with opened(path) as part:
        part.check()
        attributes = {name: str(part.file.attrs[name]) for name in sorted(part.file.attrs)}
    return read_part(path), attributes


def same(one, other):
    (a, about), (b, about_other) = one, other
    pd.testing.assert_frame_equal(a.table, b.table)
    assert about == about_other
    assert a.maps.keys() == b.maps.keys()
    assert list(a.ids) == list(b.ids)
    assert all(np.array_equal(a.maps[key], b.maps[key], equal_nan=True) for key in a.maps)


def outcome(path, known):
    """How a forked process fares with a file."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(SECONDS)
        code = 9
        try:
            same(contents(path), known)
            code = SAME
        except StoreError as error:
            code = REFUSED if str(path) in str(error) and "\n" not in str(error) else 9
        except AssertionError:
            code = SILENT
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return "hang" if os.WTERMSIG(status) == signal.SIGALRM else "crash"
    names = {SAME: "harmless", REFUSED: "refused", SILENT: "silent"}
    return names.get(os.WEXITSTATUS(status), "unclear error")


def truncated(data, chance):
    return data[: chance.randrange(len(data))]


def flipped(data, chance):
    made = bytearray(data)
    made[chance.randrange(len(made))] ^= 1 << chance.randrange(8)
    return bytes(made)


def mutated(data, chance):
    made = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        at, length = chance.randrange(len(made)), chance.choice((1, 2, 4, 8, 64, 512))
        kind = chance.randrange(4)
        if kind == 0:
            made[at : at + length] = chance.randbytes(length)
        elif kind == 1:
            made[at : at + length] = chance.choice((b"\0", b"\xff")) * length
        elif kind == 2:
            del made[at : at + length]
        else:
            made[at:at] = made[at : at + length]
    return bytes(made)


def campaign(place, damage, trials):
    source = next(DATA.glob("jobs/*/*.h5"))
    data, known, chance = source.read_bytes(), contents(source), random.Random(0)
    counts = collections.Counter()
    path = Path(place, source.name)
    bad = []
    for trial in range(int(trials)):
        path.write_bytes(globals()[damage](data, chance))
        found = outcome(path, known)
        counts[found] += 1
        if found not in ("refused", "harmless"):
            shutil.copy(path, Path(place, f"{found}-{trial}".replace(" ", "-")))
            bad.append(f"{found}-{trial}".replace(" ", "-"))
    print(json.dumps({"counts": counts, "bad": bad}))


@pytest.mark.parametrize(
    ("damage", "trials"),
    [("truncated", TRUNCATIONS), ("flipped", FLIPS), ("mutated", MUTATIONS)],
)
def test_damage_is_found_or_harmless(damage, trials, tmp_path, record_property):
    done = subprocess.run(
        [sys.executable, __file__, tmp_path, damage, str(trials)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    record_property("counts", f"{trials} {damage}: {told['counts']}")
    assert sum(told["counts"].values()) == trials
    assert set(told["counts"]) <= {"refused", "harmless", "crash", "hang"}
    for name in told["bad"]:  # what fells a reader is a problem like any other for verify
        assert verify(tmp_path / name, seconds=SECONDS).problems


@pytest.mark.parametrize("suffix", [".h5", ".parquet"])
def test_a_flipped_bit_of_a_merged_file_is_found_or_harmless(suffix, tmp_path, record_property):
    """What verify passes is the table that was written; what readers refuse, it finds."""
    path = tmp_path / f"all{suffix}"
    collect(DATA, path)
    data, known, chance = path.read_bytes(), read_scores(path), random.Random(0)
    counts = collections.Counter()
    for _ in range(FLIPS):
        path.write_bytes(flipped(data, chance))
        said = []
        check_files(said.append, paths=[str(path)], skip=[])
        problems = [each for one in said if "done" in one for each in one["problems"]]
        try:
            pd.testing.assert_frame_equal(read_scores(path), known)
        except StoreError:
            counts["refused"] += 1
            assert problems
        else:
            counts["harmless"] += 1
            assert not problems or suffix == ".h5"  # of what stands beside the table
    record_property("counts", f"{FLIPS} flips of a merged {suffix}: {dict(counts)}")
    assert counts["refused"]


def test_damaged_job_files_are_one_sentence(tmp_path, record_property):
    source, chance = next(DATA.glob("jobs/*/job.json")), random.Random(0)
    (part,) = source.parent.glob("*.h5")
    counts = collections.Counter()
    folder = tmp_path / "jobs" / source.parent.name
    folder.mkdir(parents=True)
    shutil.copy(part, folder)
    for _ in range(MUTATIONS):
        (folder / "job.json").write_bytes(mutated(source.read_bytes(), chance))
        (state,) = status_of(tmp_path)
        told = ""
        try:
            read_scores(tmp_path)
        except StoreError as error:
            told = str(error)
        counts["refused" if told else "read"] += 1
        assert "\n" not in told
        assert state.path == folder
    record_property("counts", f"{MUTATIONS} mutated job.json: {dict(counts)}")


def forged(**changes):
    told = json.loads(next(DATA.glob("jobs/*/job.json")).read_text())
    return json.dumps({**told, "identity": {**told["identity"], **changes}})


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000 + "]" * 200_000,
        forged(rows=10**15, part_rows=1),  # a set of so many ranges would fill any memory
        forged(rows=-5),
        forged(part_rows=0),
        forged(rows="four"),
        forged(conditions=17),
    ],
    ids=["nested", "many parts", "negative", "no part rows", "text", "no conditions"],
)
def test_forged_job_files_are_one_sentence(text, tmp_path):
    source = next(DATA.glob("jobs/*/job.json")).parent
    folder = shutil.copytree(source, tmp_path / "jobs" / source.name)
    (folder / "job.json").write_text(text)
    (state,) = status_of(tmp_path)
    assert state.stopped == "damaged"
    assert "\n" not in state.reason
    with pytest.raises(StoreError, match="cannot be used|damaged") as error:
        read_scores(tmp_path)
    assert "\n" not in str(error.value)
    assert verify(tmp_path).problems


if __name__ == "__main__":
    campaign(*sys.argv[1:])
