"""Git is asked for a commit, and no program that a repository names is started."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from attrscore.jobs.provenance import repository

PROGRAM = "#!/bin/sh\ntouch {mark}\ncat\n"


def git(*arguments: str) -> None:
    who = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
    subprocess.run(["git", *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def program(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    Path("data.txt").write_text("1")
    git("add", "data.txt")
    git("commit", "-q", "-m", "one")
    path = tmp_path / "program.sh"
    path.write_text(PROGRAM.format(mark=tmp_path / "ran"))
    path.chmod(0o755)
    return path


def test_a_commit_and_changes_are_known(program):
    assert repository()["dirty"] is False
    Path("data.txt").write_text("2")
    assert repository()["dirty"] is True
    assert len(repository()["commit"]) == 40


def test_no_monitor_no_hook_no_filter_runs(program, tmp_path):
    git("config", "core.fsmonitor", str(program))
    Path(".git/hooks").mkdir(exist_ok=True)
    for hook in ("post-index-change", "post-checkout", "fsmonitor-watchman"):
        Path(".git/hooks", hook).write_bytes(program.read_bytes())
        Path(".git/hooks", hook).chmod(0o755)
    Path("data.txt").write_text("3")
    assert repository()["dirty"] is True
    assert not (tmp_path / "ran").exists()
    git("config", "filter.evil.clean", str(program))
    Path(".gitattributes").write_text("* filter=evil\n")
    assert repository()["dirty"] is None
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_a_repository(tmp_path):
    assert repository(tmp_path) is None
