"""What Slurm says of jobs, how they are waited for, and what is made of it."""

from __future__ import annotations

import json

import pytest

from attrscore.cli import slurm, sweeps
from attrscore.cli.outcomes import Ended
from attrscore.cli.sweeps import Sweep
from attrscore.store import sweep_jobs


@pytest.fixture
def squeue(monkeypatch, tmp_path):
    """Answers with lines, one answer after another; the last again and again; None: an error."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()

    def answer(*answers):
        said = list(answers)

        def run(*_, **__):
            lines = said.pop(0) if len(said) > 1 else said[0]
            if lines is None:
                raise OSError
            return type("Ran", (), {"stdout": "".join(f"{line}\n" for line in lines)})

        monkeypatch.setattr(slurm.subprocess, "run", run)
        monkeypatch.setattr(slurm.shutil, "which", str)

    return answer


def test_what_slurm_says_of_jobs(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.states() is None
    squeue = tmp_path / "squeue"
    squeue.write_text(
        "#!/bin/sh\necho '7_0  RUNNING 0'\necho '7_1 FAILED 253'\necho '7_2 FAILED 1'\n"
        "echo '7_3 PENDING'\necho '7_4 COMPLETING 0'\n"
    )
    squeue.chmod(0o755)
    assert slurm.states() == {
        "7_0": "RUNNING",
        "7_1": "OUT_OF_MEMORY",
        "7_2": "FAILED",
        "7_3": "PENDING",
        "7_4": "COMPLETING",
    }
    assert slurm.running() == {"7_0", "7_3"}
    squeue.write_text("#!/bin/sh\nexit 1\n")
    assert slurm.states() is None, "its controller does not answer"
    assert slurm.running() is None


JOBS = [("seed=0",), ("seed=1",), ("seed=2",), ("seed=3",)]


@pytest.fixture
def sweep(tmp_path):
    """A sweep that has asked for its jobs."""
    made = Sweep(
        folder=tmp_path, jobs=JOBS, results=tmp_path, listed=sweep_jobs.list_jobs(tmp_path, JOBS)
    )
    token = sweeps._SWEEP.set(made)
    yield made
    sweeps._SWEEP.reset(token)


def test_each_job_is_waited_for_by_itself(squeue, sweep, monkeypatch, capsys):
    monkeypatch.setattr(slurm.time, "sleep", lambda _seconds: None)
    squeue(
        ["7_0 RUNNING 0", "7_1 CANCELLED 0", "7_2 PENDING 0", "7_3 NODE_FAIL 0"],
        None,  # the controller is restarted
        ["7_0 RUNNING 0", "7_2 RUNNING 0", "7_3 PENDING 0"],  # 1 is forgotten, 3 queued again
        ["7_0 COMPLETING 0", "7_2 COMPLETED 0", "7_3 RUNNING 0"],
        ["7_0 COMPLETED 0", "7_2 COMPLETED 0", "7_3 TIMEOUT 0"],
    )
    said = Ended(3, "", JOBS[0])
    sweeps._write(sweeps._path(sweep.folder, 0), said)
    slurm.wait({number: f"7_{number}" for number in range(4)}, {2: "err.log"})
    ended = sweep.ended(None)
    assert ended[0].state == "left something out"
    assert [each.state for each in ended[1:]] == ["cancelled", "failed", "out of time"]
    assert ended[2].why == "Slurm's state of 7_2 is COMPLETED; its log: err.log"
    shown = capsys.readouterr().err
    assert shown.index("job 1 (7_1): cancelled") < shown.index("job 3 (7_3): out of time")
    states = [
        job.state for (jobs) in sweep_jobs.jobs_of_sweeps(sweep.results).values() for job in jobs
    ]
    assert states == ["absent", "cancelled", "failed", "out of time"]


def test_what_a_job_said_to_an_earlier_command_counts(sweep):
    sweep_jobs.write_state(sweep.results, JOBS[0], "done")
    sweep_jobs.write_state(sweep.results, JOBS[1], "stopped")
    assert sweeps.over(0, "failed", "why") == "done"
    assert sweeps.over(1, "failed", "why") == "stopped"
    assert sweeps.over(2, "cancelled", "why") == "cancelled"
    sweep_jobs.write_state(sweep.results, JOBS[3], "stopped")
    assert sweeps.over(3, "out of memory", "queued again") == "out of memory"
    assert [(each.code, each.why) for each in sweep.ended(None)] == [
        *((0, ""), (1, "why"), (1, "why"), (1, "queued again"))
    ]


def test_names_in_the_queue_stay_until_there_are_others(sweep):
    sweeps.queued({0: "7_0", 1: "7_1"})
    assert sweep_jobs.list_jobs(sweep.results, JOBS) == sweep.listed, "the same command again"
    sweeps.queued({1: "8"})
    assert sweeps.in_queue() == {0: "7_0", 1: "8"}
    assert json.loads(sweep.listed.read_text())["queue"] == ["7_0", "8", "", ""]
