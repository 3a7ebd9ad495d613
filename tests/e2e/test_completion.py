"""What the shell offers, asked in the shells that are here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from attrscore.cli.completion import SCRIPTS, candidates
from attrscore.cli.main import VERBS, main

COMMAND = Path(sys.executable).parent / "attrscore"


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("attrscore col", {"collect"}),
        ("attrscore dataset=phan", {"dataset=phantom", "dataset=phantom_3d"}),
        ("attrscore dataset=phantom dataset.ca", {"dataset.carrier="}),
        ("attrscore model=monai_resnet model.stem", {"model.stem_kernel=", "model.stem_stride="}),
        ("attrscore model=nonsense model.rand", {"model.randomize=", "model.randomize_to="}),
        ("attrscore train train.ep", {"train.epochs="}),
        ("attrscore 'method=[grad_cam,sal", {"method=[grad_cam,saliency"}),
        ("attrscore -m scorer=grad_camo,ent", {"scorer=grad_camo,entropy"}),
        ("attrscore status --j", {"--json"}),
        ("attrscore plugins integ", {"integrated_gradients"}),
        ("attrscore plugins ne", {"new"}),
        ("attrscore plugins new mo", {"model"}),
        ("attrscore completion f", {"fish"}),
        ("attrscore hydra/launcher=jo", {"hydra/launcher=joblib"}),
        ("attrscore status resu", set()),  # files
        ("attrscore seed.x", set()),
    ],
)
def test_candidates(line, offered):
    assert set(candidates(line, VERBS)) == offered


def test_an_empty_word_offers_verbs_and_settings():
    assert {*VERBS, "dataset=", "dataset.", "layers="} <= set(candidates("attrscore ", VERBS))


ASK = {
    "bash": 'eval "$(attrscore completion bash)"; COMP_LINE="attrscore model=monai_r"; '
    'COMP_POINT=${#COMP_LINE}; _attrscore; printf "%s\\n" "${COMPREPLY[@]}"',
    "fish": 'attrscore completion fish | source; complete -C "attrscore model=monai_r"',
    "zsh": 'compdef() { print -n }; eval "$(attrscore completion zsh)"; '
    'compadd() { print -l -- "${@:4}" }; '
    'BUFFER="attrscore model=monai_r" CURSOR=23; _attrscore',
}


@pytest.mark.parametrize("shell", [s for s in SCRIPTS if shutil.which(s)])
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
    assert done.stdout.strip().split("\n")[-1].strip() == "model=monai_resnet", done.stderr


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
