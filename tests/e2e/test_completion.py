"""What the shell offers, asked in the shells that are here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from attrscore.cli.main import COMMANDS, main

COMMAND = Path(sys.executable).parent / "attrscore"


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("attrscore dataset=phan", {"dataset=phantom", "dataset=phantom_3d"}),
        ("attrscore dataset=phantom dataset.ca", {"dataset.carrier="}),
        ("attrscore model=monai_resnet model.stem", {"model.stem_kernel=", "model.stem_stride="}),
        ("attrscore model=nonsense model.rand", set()),
        ("attrscore train train.ep", {"train.epochs="}),
        ("attrscore inspect --json model=monai_r", {"model=monai_resnet"}),
        ("attrscore status --j", {"--json"}),
        ("attrscore plugins integ", {"integrated_gradients"}),
        ("attrscore plugins ne", {"new"}),
        ("attrscore hydra/launcher=jo", {"hydra/launcher=joblib"}),
        ("attrscore status resu", set()),  # files
        ("attrscore seed.x", set()),
    ],
)
def test_candidates(line, offered, capsys, monkeypatch):
    monkeypatch.setenv("COMP_LINE", line)
    assert main(["-sc", "query=bash"]) == 0
    found = capsys.readouterr()
    # the shell offers those that begin as the word does
    assert {each for each in found.out.split() if each.startswith(line.split()[-1])} == offered
    assert found.err == ""


def test_an_empty_word_offers_commands_and_settings(capsys, monkeypatch):
    monkeypatch.setenv("COMP_LINE", "attrscore ")
    assert main(["-sc", "query=bash"]) == 0
    assert {*COMMANDS, "dataset=", "layers="} <= set(capsys.readouterr().out.split())


ASK = {
    "bash": 'eval "$(attrscore completion bash)"; COMP_LINE="attrscore model=monai_r"; '
    "COMP_POINT=${#COMP_LINE}; COMP_CWORD=1; hydra_bash_completion; "
    'printf "%s\\n" "${COMPREPLY[@]}"',
    "fish": 'attrscore completion fish | source; complete -C "attrscore model=monai_r"',
}


@pytest.mark.parametrize("shell", [s for s in ASK if shutil.which(s)])
def test_in_a_shell(shell, tmp_path):
    path = f"{COMMAND.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HOME": str(tmp_path)}
    done = subprocess.run(
        [shutil.which(shell), "-c", ASK[shell]],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "model=monai_resnet" in done.stdout.split(), done.stderr


def test_help_and_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"attrscore {version('attrscore')}\n"
    with pytest.raises(SystemExit, match="0"):
        main(["help", "status"])
    assert "usage: attrscore status" in capsys.readouterr().out


def test_a_reader_that_has_enough_is_no_failure(tmp_path):
    piped = subprocess.run(
        f"set -o pipefail; {COMMAND} --help | head -1",
        shell=True,
        executable=shutil.which("bash"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (piped.returncode, piped.stderr) == (0, "")
