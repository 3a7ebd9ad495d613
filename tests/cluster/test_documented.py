"""What docs/clusters.md says besides sweeps on Slurm: rules of Snakemake, commands that compose."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from slurm_cluster import PATH

import attrscore
from attrscore.core.registry import conf_dir

PAGE = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text()
RULES = re.search(r"```text\n(SHARDS = .*?)```", PAGE, re.DOTALL)[1]
SMALL = "model=factory model.target=gelu.make trust=[gelu] layers=0 dataset.cells=8 batch_size=4"
MODEL = """
from torch import nn

def make(channels, classes):
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(4, classes))
"""


def snakemake(folder, method):
    """Run the rules as documented, on other data; exit code, and what was said."""
    rules, exchanged = re.subn(
        r'dataset=fields.*?results=results',
        f"{SMALL} method=[grad_cam,{method}] results=results",
        RULES, flags=re.DOTALL,
    )  # fmt: skip
    assert exchanged == 1
    (folder / "Snakefile").write_text(rules.replace("SHARDS = 4", "SHARDS = 2"))
    (folder / "gelu.py").write_text(MODEL)
    program = Path(sys.executable).with_name("snakemake")
    done = subprocess.run(
        [program, "--cores", "2"],
        cwd=folder,
        env={**os.environ, "PATH": PATH},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.skipif(
    not Path(sys.executable).with_name("snakemake").exists(), reason="Snakemake is not installed"
)
def test_a_rule_of_snakemake_for_which_something_left_out_is_success(tmp_path):
    code, said = snakemake(tmp_path, "no_such_method")
    assert code, said
    assert "No method is called 'no_such_method'" in said
    assert not (tmp_path / "scores.parquet").exists()
    code, said = snakemake(tmp_path, "guided_backprop")  # of ReLU alone
    assert not code, said
    scores = attrscore.read_scores(tmp_path / "scores.parquet")
    assert len(scores) == 16
    assert set(scores["status"]) == {"ok", "unsupported"}
    assert scores["id"].nunique() == 8


def commands():
    """Every command of the page with a launcher, as bash has its words."""
    text = PAGE.replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("attrscore -m")]
    return [shlex.split(line.partition("#")[0])[2:] for line in lines]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_for_machines_that_are_not_here_compose(words):
    if "hydra/launcher=slurm" in words:
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="an extra")
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("config", words, RunMode.MULTIRUN)
        given = dict(word.split("=", 1) for word in words if "," not in word)
        for name, value in given.items():
            if name.startswith("hydra.launcher."):
                option = name.removeprefix("hydra.launcher.")
                assert str(config.hydra.launcher[option]) == value
        overrides = [word for word in words if not word.startswith("hydra")]
        one = [re.sub(r"(dataset\.shard=\S+?),.*", r"\1", word) for word in overrides]
        assert loader.load_sweep_config(config, one).dataset.shard in ("0/4", "0/2")


def test_options_of_the_launcher_that_the_page_lists_exist():
    config = pytest.importorskip("hydra_plugins.hydra_submitit_launcher.config")
    table = PAGE[PAGE.index("| option of `hydra.launcher`") : PAGE.index("More than 1000 jobs")]
    named = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)))
    known = vars(config.SlurmQueueConf())
    assert len(named) >= 12
    assert set(named) <= known.keys()
    for name, default in re.findall(r"^\| `(\w+)` \|.*\((\d+)(?: seconds)?\)", table, re.MULTILINE):
        assert str(known[name]) == default
