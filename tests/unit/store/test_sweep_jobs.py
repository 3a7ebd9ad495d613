"""What sweeps asked for: absent, queued, running, done; and a part that is being computed."""

from __future__ import annotations

import json
import os

import pandas as pd
import pytest

from attrscore.store import Condition, Job, Plugin, Writer, commit, status_of, sweep_jobs

JOBS = [("seed=0", "layers=a"), ("seed=1", "layers=a")]


def states(results, **options):
    return [
        job.state for jobs in sweep_jobs.jobs_of_sweeps(results, **options).values() for job in jobs
    ]


def test_states_of_what_was_asked_for(tmp_path):
    assert sweep_jobs.jobs_of_sweeps(tmp_path) == {}
    sweep_jobs.list_jobs(tmp_path, JOBS)
    assert states(tmp_path) == ["absent", "absent"]
    with sweep_jobs.heartbeat(
        sweep_jobs.list_jobs(tmp_path, JOBS)
    ):  # the process of the sweep lives
        assert states(tmp_path) == ["queued", "queued"]
    with sweep_jobs.while_running(tmp_path, JOBS[1][::-1]):  # in any order
        assert states(tmp_path) == ["absent", "running"]
    sweep_jobs.write_state(tmp_path, JOBS[1], "done")
    assert states(tmp_path) == ["absent", "done"]
    path = sweep_jobs.list_jobs(tmp_path, JOBS, queue={0: "7_0"})
    assert sweep_jobs.list_jobs(tmp_path, JOBS) == path
    assert sweep_jobs.in_queue(path) == {0: "7_0"}
    assert states(tmp_path) == ["queued", "done"]
    assert states(tmp_path, queue={"7_0"}) == ["queued", "done"]
    assert states(tmp_path, queue=set()) == ["absent", "done"], "cancelled while it waited"
    with pytest.raises(KeyboardInterrupt), sweep_jobs.while_running(tmp_path, JOBS[0]):
        raise KeyboardInterrupt
    assert states(tmp_path) == ["stopped", "done"]
    assert states(tmp_path, queue={"7_0"}) == ["queued", "done"], "queued again by its scheduler"
    sweep_jobs.list_jobs(tmp_path, JOBS, queue={1: "7_1"})
    assert states(tmp_path, queue={"7_1"}) == ["stopped", "done"], "it has just ended"
    sweep_jobs.forget_state(tmp_path, JOBS[1])
    assert states(tmp_path, queue=set()) == ["stopped", "absent"]


@pytest.mark.parametrize("content", ["", "7", '{"jobs": 7}', '{"jobs": [7]}', "[]"])
def test_a_damaged_list_is_left_out(tmp_path, content):
    path = sweep_jobs.list_jobs(tmp_path, JOBS)
    path.write_text(content)
    sweep_jobs.list_jobs(tmp_path, JOBS[:1])
    assert states(tmp_path) == ["absent"]
    assert sweep_jobs.in_queue(path) == {}


def test_equal_sweeps_are_one_and_a_job_of_two_sweeps_has_one_state(tmp_path):
    assert sweep_jobs.list_jobs(tmp_path, JOBS) == sweep_jobs.list_jobs(tmp_path, JOBS)
    sweep_jobs.list_jobs(tmp_path, JOBS[:1])
    sweep_jobs.write_state(tmp_path, JOBS[0], "done")
    assert sorted(states(tmp_path)) == ["absent", "done", "done"]


def test_a_process_of_another_machine_is_gone_when_it_is_silent(tmp_path, monkeypatch):
    sweep_jobs.list_jobs(tmp_path, JOBS)
    with sweep_jobs.while_running(tmp_path, JOBS[0]):
        (beat,) = (tmp_path / "sweeps" / "jobs").glob(".*.tmp")
        there = beat.with_name(beat.name.replace(commit._HOST, "elsewhere"))
        there.write_bytes(b"")
    assert states(tmp_path) == ["running", "absent"]
    os.utime(there, (0, there.stat().st_mtime - commit.SILENCE))
    assert states(tmp_path) == ["stopped", "absent"]


def test_the_part_that_is_being_computed_is_shown(tmp_path):
    job = Job({"seed": 0}, (Condition(Plugin("m"), "layer", Plugin("s")),), 4, 2)
    writer = Writer(tmp_path, job, labels={})
    with commit.heartbeat(writer.folder / "000000000-000000002.h5"):
        (state,) = status_of(tmp_path)
        assert (state.stopped, state.leftovers) == ("running", 0)
        assert "000000000-000000002" in state.reason
        rows = pd.DataFrame({"id": ["0", "1"], "method": "m", "layer": "layer", "s": 0.0})
        writer.write(0, 2, rows)
    assert status_of(tmp_path)[0].stopped == "unfinished"
    assert not list(writer.folder.glob(".*"))
    assert json.loads((writer.folder / "job.json").read_text())["job"] == job.id
