"""How a sweep is rewritten, what its jobs came to, how they share cores and devices."""

from __future__ import annotations

import json
import os

import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from attrscore.cli import sweeps
from attrscore.cli.main import main
from attrscore.cli.outcomes import FAILED, Ended, worst
from attrscore.cli.sweeps import WORKERS, Sweep, fused, share, workers_of
from attrscore.core.registry import conf_dir
from attrscore.errors import ConfigError
from attrscore.jobs import fitting


@pytest.fixture
def parser():
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        yield OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())


@pytest.mark.parametrize(
    ("axis", "joined"),
    [
        ("method=grad_cam,saliency", "method=[grad_cam,saliency]"),
        ("method=[grad_cam,saliency],[grad_cam,hires_cam]", "method=[grad_cam,saliency,hires_cam]"),
        ("method=glob(smooth_*)", "method=[smooth_grad]"),
        ("layers='features.*',last_conv", "layers=[features.*,last_conv]"),
        ("layers=0,'1'", "layers=[0,'1']"),
        ("layers='a b','it\\'s'", "layers=['a b','it\\'s']"),
        ("scorer=grad_camo,entropy", "scorer=[grad_camo,entropy]"),
        # what stays as it is
        ("method=grad_cam", ""),
        ("method=[grad_cam,saliency]", ""),
        ("method=grad_cam,not_ours", ""),
        ("method={grad_cam:{}},{saliency:{}}", ""),
        ("dataset.seed=0,1", ""),
        ("+method=grad_cam,saliency", ""),
        ("method.integrated_gradients.steps=2,3", ""),
        ("layers=true,false", ""),
    ],
)
def test_axes_that_can_share_a_pass_become_lists(axis, joined, parser):
    found = fused(parser.parse_overrides([axis])[0], parser)
    assert found == joined
    if joined:  # Hydra reads the same names
        assert parser.parse_override(found).value()


def test_jobs_that_did_not_say_what_they_came_to_are_lost(tmp_path):
    sweep = Sweep(folder=tmp_path, jobs=[("seed=0",), ("seed=1",), ("seed=2",)])
    said = {"code": 0, "why": "", "overrides": ["seed=1"]}
    (tmp_path / "ended-1.json").write_text(json.dumps(said))
    first, second, third = sweep.ended(RuntimeError("a worker died"))
    assert (first.code, first.why, first.overrides) == (
        FAILED,
        "RuntimeError: a worker died",
        ("seed=0",),
    )
    assert second == Ended(0, "", ["seed=1"])
    assert third.code == FAILED
    assert not list(tmp_path.iterdir())


def test_what_failed_decides_before_what_was_left_out():
    assert [worst(codes) for codes in ([0, 3, 1, 3], [2, 3], [2, 1], [3, 0], [0], [])] == [
        *(1, 2, 1, 3, 0, 0)
    ]


def test_a_job_of_slurm_has_the_cores_that_it_asked_for(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert share(SETTINGS, 0) == SETTINGS  # torch's own choice
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert share(SETTINGS, 0)["threads"] == 3
    assert share({**SETTINGS, "threads": 7}, 0)["threads"] == 7
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert share(SETTINGS, 0)["threads"] == 2


def test_training_has_the_cores_of_its_job_too(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    given = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)

    def fit(settings, **_):
        raise ConfigError(f"threads={given}")

    monkeypatch.setattr(fitting, "fit", fit)
    for words in ([], ["threads=3"]):
        assert main(["train", f"train.output={tmp_path / 'w.safetensors'}", *words]) == 2
    assert given == [1, 3]


SETTINGS = {"threads": None, "device": "auto"}
JOBLIB = {"_target_": "hydra_plugins.x.JoblibLauncher", "n_jobs": 2}
LOCAL = {"_target_": "hydra_plugins.x.LocalLauncher"}
SLURM = {"_target_": "hydra_plugins.x.SlurmLauncher"}


@pytest.mark.parametrize(
    ("launcher", "jobs", "at_once", "workers"),
    [
        (JOBLIB, 8, None, 2),
        (JOBLIB, 1, None, 1),  # one job has the machine to itself
        (LOCAL, 8, None, 8),  # submitit starts all of them at once
        (LOCAL, 8, 3, 3),
        (SLURM, 8, None, 1),
        ({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}, 8, None, 1),
    ],
)
def test_how_many_processes_a_launcher_starts_here(launcher, jobs, at_once, workers):
    assert workers_of(launcher, jobs, at_once) == workers
    assert WORKERS not in os.environ


@pytest.mark.parametrize(("cores", "number", "threads"), [(8, 2, 4), (8, 3, 2), (2, 4, 1)])
def test_cores_are_divided_and_a_lower_limit_is_kept(monkeypatch, cores, number, threads):
    monkeypatch.setattr(sweeps, "cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    monkeypatch.setenv(WORKERS, str(number))
    assert share(SETTINGS, 0)["threads"] == threads
    assert share({**SETTINGS, "threads": 7}, 0)["threads"] == 7
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # as OMP_NUM_THREADS=1 says
    assert share(SETTINGS, 0)["threads"] == 1


def test_devices_are_dealt_round(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    alone = [share(SETTINGS, number) for number in range(2)]
    assert alone == [SETTINGS, SETTINGS]  # one process at a time: nothing to share
    monkeypatch.setenv(WORKERS, "4")
    dealt = [share(SETTINGS, number)["device"] for number in range(5)]
    assert dealt == ["cuda:0", "cuda:1", "cuda:2", "cuda:0", "cuda:1"]
    assert share({**SETTINGS, "device": "cpu"}, 1)["device"] == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert share(SETTINGS, 1)["device"] == "auto"


@pytest.mark.parametrize(
    ("typed", "known"),
    [
        ("~method.integrated_gradients", ["~method.integrated_gradients=null"]),
        ("layers=[a, b]", ["layers=[a,b]"]),
        ("seed=0,1", ["seed=0", "seed=1"]),
    ],
)
def test_a_job_is_known_by_its_overrides_as_hydra_spells_them(typed, known):
    (override,) = OverridesParser.create().parse_overrides([typed])
    assert sweeps._texts(override) == known


@pytest.mark.parametrize(
    ("objective", "direction"),
    [("grad_camo.log_odds", "maximize"), ("grad_camo", "maximize"), ("deletion", "minimize")],
)
def test_the_direction_of_an_objective_is_that_of_its_readings(objective, direction):
    assert sweeps._direction(objective) == direction
