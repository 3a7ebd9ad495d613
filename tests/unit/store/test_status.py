"""How far jobs are."""

from __future__ import annotations

import json
import os

import pytest
from results import BASE, LABELS, fill, job, sweep, table

from attrscore.cli.main import main
from attrscore.store import (
    Writer,
    status_of,
)


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_verbs_tell(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    writer = fill("results", job())
    writer.succeed()
    assert main(["status", "results"]) == 0
    assert "1 jobs, 1 conditions: 1 done" in capsys.readouterr().out
    assert main(["verify", "results"]) == 0
    assert "no problems" in capsys.readouterr().out
    assert main(["status", "results", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["jobs"][0]["rows"], told["asked"]) == ({"ok": 5}, [])
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
