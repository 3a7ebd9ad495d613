"""A user's environment: our wheel and a stranger's plugin package, run from an empty folder.

The new environment sees the installed dependencies of this one through a .pth file, which does not
carry this checkout's editable install along; attrscore itself comes from the wheel alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pandas as pd
import pytest

CHECKOUT = Path(__file__).parents[2]

STRANGER = {
    "pyproject.toml": """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "nucleus-share"
version = "0.3"

[project.entry-points."attrscore.scorers"]
nucleus_share = "nucleus_share:nucleus_share"
broken_scorer = "nucleus_share_that_is_not_there:scorer"
""",
    "nucleus_share.py": """
def nucleus_share(heat, run, /, *, region: str = "nucleus"):
    return heat.mass(run.batch.regions[region]) / heat.mass()
""",
}


def run(*command: object, cwd: Path, ok: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert (done.returncode == 0) is ok, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The interpreter of an environment with our wheel and the stranger's."""
    folder = tmp_path_factory.mktemp("wheel")
    stranger = folder / "stranger"
    stranger.mkdir()
    for name, text in STRANGER.items():
        (stranger / name).write_text(text)
    wheels = folder / "wheels"
    for source in (CHECKOUT, stranger):
        pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
        run(*pip, "--wheel-dir", wheels, source, cwd=folder)
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-deps", *wheels.glob("*.whl"), cwd=folder)
    purelib = run(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder
    )
    pth = Path(purelib.stdout.strip()) / "dependencies.pth"
    pth.write_text(sysconfig.get_path("purelib") + "\n")
    return python


SMALL = ("dataset.cells=6", "dataset.size=[32,32]", "figures=none")


def test_the_wheel_sweeps_from_an_empty_folder_with_a_strangers_scorer(python, tmp_path):
    attrscore = python.parent / "attrscore"
    where = run(python, "-c", "import attrscore; print(attrscore.__file__)", cwd=tmp_path).stdout
    assert str(CHECKOUT) not in where
    run(
        attrscore,
        "-m",
        "hydra/sweeper=attrscore_fused",
        *SMALL,
        "scorer=[grad_camo,nucleus_share]",
        "method=grad_cam,saliency",
        "scorer.nucleus_share.region=nucleus",
        cwd=tmp_path,
    )
    run(attrscore, "collect", "results", "-o", "all.csv", "--figures", "none", cwd=tmp_path)
    table = pd.read_csv(tmp_path / "all.csv")
    assert set(table["method"]) == {"grad_cam", "saliency"}
    assert len(list((tmp_path / "results" / "jobs").iterdir())) == 1  # the sweeper is in the wheel
    defined = table[table["status"] == "ok"]
    assert len(defined)
    assert defined["nucleus_share"].between(0, 1).all()
    assert (defined["nucleus_share"] <= defined["grad_camo"] + 1e-9).all()


def test_a_broken_plugin_breaks_only_itself(python, tmp_path):
    attrscore = python.parent / "attrscore"
    listed = run(attrscore, "plugins", cwd=tmp_path).stdout
    assert "nucleus-share" in listed
    assert "broken_scorer" in listed
    failed = run(attrscore, *SMALL, "scorer=broken_scorer", cwd=tmp_path, ok=False)
    assert "'broken_scorer' of the package nucleus-share cannot be imported" in " ".join(
        failed.stderr.split()
    )
    misspelt = run(
        attrscore, *SMALL, "scorer=nucleus_share", "scorer.nucleus_share.regoin=cell",
        cwd=tmp_path, ok=False,
    )  # fmt: skip
    assert "Did you mean 'region'" in misspelt.stderr
