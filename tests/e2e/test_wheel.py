"""A user's environment: our wheel and strangers' plugin packages, run from an empty folder.

The new environment sees the installed dependencies of this one through a .pth file, which does not
carry this checkout's editable install along; attrscore itself comes from the wheel alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from attrscore.cli.commands.plugins import new_plugin

CHECKOUT = Path(__file__).parents[2]

BROKEN = {
    "pyproject.toml": """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "broken-plugins"
version = "0.3"

[project.entry-points."attrscore.scorers"]
nucleus_share = "broken_plugins:nucleus_share"
broken_scorer = "module_that_is_not_there:scorer"
auc = "broken_plugins:nucleus_share"
from_the_future = "broken_plugins:from_the_future"
my-scorer = "broken_plugins:nucleus_share"
""",
    "broken_plugins.py": """
def nucleus_share(heat, run, /, *, region: str = "nucleus"):
    return heat.mass(run.batch.regions[region]) / heat.mass()


def from_the_future(heat, run, /):
    return heat.mass()


from_the_future.attrscore_interface = 99
""",
}
KINDS = ("scorer", "method", "target", "model", "dataset")


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
    broken = folder / "broken"
    broken.mkdir()
    for name, text in BROKEN.items():
        (broken / name).write_text(text)
    new = [new_plugin(kind, f"my_{kind}", folder)[0].parent for kind in KINDS]
    wheels = folder / "wheels"
    for source in (CHECKOUT, broken, *new):
        pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
        run(*pip, "--wheel-dir", wheels, source, cwd=folder)
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-deps", *wheels.glob("*.whl"), cwd=folder)
    purelib = run(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder
    )
    pth = Path(purelib.stdout.strip()) / "dependencies.pth"
    pth.write_text("\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n")
    return python


SMALL = ("dataset.cells=6", "dataset.size=[32,32]", "figures=none")


def test_the_wheel_sweeps_from_an_empty_folder_with_a_strangers_scorer(python, tmp_path):
    attrscore = python.parent / "attrscore"
    where = run(python, "-c", "import attrscore; print(attrscore.__file__)", cwd=tmp_path).stdout
    assert str(CHECKOUT) not in where
    run(
        attrscore,
        "-m",
        *SMALL,
        "scorer=[grad_camo,nucleus_share]",
        "method=grad_cam,saliency",
        "scorer.nucleus_share.region=nucleus",
        cwd=tmp_path,
    )
    run(attrscore, "collect", "results", "-o", "all.csv", "--figures", "none", cwd=tmp_path)
    table = pd.read_csv(tmp_path / "all.csv")
    assert set(table["method"]) == {"grad_cam", "saliency"}
    assert len(list((tmp_path / "results" / "jobs").iterdir())) == 1  # fused
    defined = table[table["status"] == "ok"]
    assert len(defined)
    assert defined["nucleus_share"].between(0, 1).all()
    assert (defined["nucleus_share"] <= defined["grad_camo"] + 1e-9).all()


def test_the_wheel_has_the_launchers(python, tmp_path):
    """Its own come from the wheel; those of the extras from where those are installed."""
    attrscore = python.parent / "attrscore"
    where = "import hydra_plugins.attrscore_dask as dask; print(dask.__file__)"
    assert str(CHECKOUT) not in run(python, "-c", where, cwd=tmp_path).stdout
    extras = {"slurm": "hydra_plugins.hydra_submitit_launcher", "dask": "distributed"}
    for launcher, extra in extras.items():
        pytest.importorskip(extra)
        shown = (f"hydra/launcher={launcher}", "--cfg", "hydra")
        composed = run(attrscore, *shown, cwd=tmp_path).stdout
        assert f"_target_: hydra_plugins.attrscore_{launcher}." in composed
    dask = ("hydra/launcher=dask", "hydra.launcher.n_workers=1", "dataset.shard=0/2,1/2")
    run(attrscore, "-m", *SMALL, *dask, cwd=tmp_path)
    assert len(list((tmp_path / "results" / "jobs").iterdir())) == 2


def test_new_plugins_of_all_kinds_work_from_their_wheels(python, tmp_path):
    attrscore = python.parent / "attrscore"
    run(attrscore, "plugins", "new", "scorer", "another", cwd=tmp_path)
    assert (tmp_path / "another" / "tests" / "test_another.py").is_file()
    told = run(attrscore, "plugins", "my_dataset", cwd=tmp_path).stdout
    assert "dataset my_dataset (my-dataset 0.1.0)" in told
    assert "size = 32   # pixels along Y and X" in told
    mine = [f"{kind}=my_{kind}" for kind in ("target", "model", "dataset")]
    run(
        attrscore,
        "-m",
        *mine,
        "method=my_method",
        "method.my_method.power=1,0",
        "scorer=my_scorer",
        "model.randomize=none,all",
        "model.draws=1",
        "figures=none",
        cwd=tmp_path,
    )
    shown = run(attrscore, "report", "results", "--json", "--score", "my_scorer", cwd=tmp_path)
    found = json.loads(shown.stdout)
    assert found["reading"]["says"] == "share of heat on the region"
    assert len(found["summary"]) == 4
    assert {row["method.power"] for row in found["summary"]} == {0, 1}


def test_a_strangers_method_from_its_wheel_gets_its_row_in_the_leaderboard(python, tmp_path):
    small = ["seed=0", "plane=2D", "planes={2D:[16,16]}", "train.epochs=1", "dataset.cells=4"]
    small += ["train.dataset.cells=16", "method=[my_method,hires_cam,grad_cam]", "results=board"]
    run(python.with_name("attrscore"), "leaderboard", *small, cwd=tmp_path)
    table = pd.read_csv(tmp_path / "board" / "leaderboard.csv").set_index("method")
    assert set(table.index) == {"my_method", "hires_cam", "grad_cam"}
    assert table.loc["my_method", ["rank", "blind", "background", "seconds"]].notna().all()


def test_a_broken_plugin_breaks_only_itself(python, tmp_path):
    attrscore = python.parent / "attrscore"
    listed = run(attrscore, "plugins", "--json", cwd=tmp_path)
    told = {
        (e["name"], e["package"]): e["problem"] for e in json.loads(listed.stdout) if e["problem"]
    }
    for name, words in {
        "auc": "attrscore's own; that of the package broken-plugins is left out",
        "broken_scorer": "of the package broken-plugins cannot be imported: ModuleNotFoundError",
        "from_the_future": "was built for interface 99 of attrscore",
        "my-scorer": "letters, digits and underscores alone",
    }.items():
        assert words in told.pop((name, "broken-plugins"))
    assert not told
    failed = run(attrscore, *SMALL, "scorer=broken_scorer", cwd=tmp_path, ok=False)
    assert "'broken_scorer' of the package broken-plugins cannot be imported" in failed.stderr
    misspelt = run(
        attrscore, *SMALL, "scorer=nucleus_share", "scorer.nucleus_share.regoin=cell",
        cwd=tmp_path, ok=False,
    )  # fmt: skip
    assert "Did you mean 'region'" in misspelt.stderr
