"""Sweeps as users type them: shards, fused jobs, launchers, plans."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest

import attrscore
from attrscore.cli.main import main

SMALL = ["dataset.cells=12", "dataset.size=[32,32]", "batch_size=4", "figures=none"]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def jobs(results: str) -> list[Path]:
    return sorted(Path(results, "jobs").glob("*/job.json"))


KEYS = ["model", "dataset", "method", "layer", "target", "id"]


def test_shards_together_are_the_whole_to_the_last_bit():
    # one cell a batch: kernels may sum in another order where a batch has another size
    cells = [*SMALL[:2], "batch_size=1", "figures=none"]
    what = ["method=[grad_cam,random_cam]", "layers=[features.3,features.7]"]
    assert main([*cells, *what, "results=whole"]) == 0
    sharded = "dataset.shard=0/3,1/3,2/3"
    assert main(["-m", *cells, *what, "results=parts", sharded]) == 0
    assert len(jobs("parts")) == 3
    whole, parts = (
        attrscore.read_scores(name).sort_values(KEYS, ignore_index=True)
        for name in ("whole", "parts")
    )
    pd.testing.assert_frame_equal(whole, parts, check_exact=True)
    statistics = [table.groupby(KEYS[:5])["grad_camo"].describe() for table in (whole, parts)]
    pd.testing.assert_frame_equal(*statistics, check_exact=True)

    before = len(jobs("parts"))
    assert main(["-m", *cells, *what, "results=parts", sharded]) == 0
    assert len(jobs("parts")) == before


def test_shards_of_two_datasets_stay_apart():
    sweep = ["dataset.seed=0,1", "dataset.shard=0/2,1/2", "dataset.plates=1"]
    assert main(["-m", *SMALL, *sweep]) == 0
    scores = attrscore.read_scores("results")
    assert len(scores) == 24
    assert set(scores.groupby("dataset.of").size()) == {12}
    assert "dataset.shard" not in scores
    assert "dataset.fingerprint" not in scores


def test_two_ways_of_sharding_are_told_apart():
    assert main(["-m", *SMALL, "dataset.shard=0/2,1/2,0/3"]) == 0
    scores = attrscore.read_scores("results")
    assert set(scores["dataset.shard"]) == {"0/2", "1/2", "0/3"}
    assert not scores.duplicated([*KEYS, "dataset.shard"]).any()


def test_an_empty_shard_is_no_failure(capsys):
    sweep = ["dataset.shard=0/4,1/4,2/4,3/4", "dataset.cells=2"]
    assert main(["-m", *SMALL[1:], *sweep]) == 0
    assert "No cell belongs to shard" in capsys.readouterr().err
    assert len(attrscore.read_scores("results")) == 2


APART = "fuse=false"
SWEEPS = {
    "names": (["method=grad_cam,saliency,random_cam", "layers=features.3,features.7"], 1),
    "two models": (["method=grad_cam,layer_cam", "layers=all_conv,features.7",
                    "model.width=4,8"], 2),
    "lists": (["method=[grad_cam,saliency],[hires_cam]", "layers=[features.3,features.6],[stages]",
               "scorer=[grad_camo]"], 1),
    "globs and ranges": (["method=glob(grad_c*)", "layers='features.*',last_conv",
                          "dataset.seed=range(2)"], 2),
    "options": (["method=[grad_cam,integrated_gradients]", "layers=features.3,features.7",
                 "method.integrated_gradients.steps=2,3"], 2),
    "what is not on the line": (["layers=features.3,features.7", "heat.sign=positive,absolute"], 2),
    "an option of a scorer": (["layers=features.3,features.7",
                               "scorer.grad_camo.region=cell,neighbours"], 2),
}  # fmt: skip


@pytest.mark.parametrize("case", SWEEPS)
def test_fused_numbers_and_identities_are_those_of_the_plain_multirun(case):
    sweep, fused_jobs = SWEEPS[case]
    assert main(["-m", APART, *SMALL, *sweep, "results=plain"]) == 0
    assert main(["-m", *SMALL, *sweep, "results=fused"]) == 0
    assert len(jobs("fused")) == fused_jobs
    assert len(jobs("plain")) > fused_jobs
    plain, fused = (attrscore.read_scores(name) for name in ("plain", "fused"))
    pd.testing.assert_frame_equal(plain, fused, check_exact=True)

    counts = {name: len(jobs(name)) for name in ("plain", "fused")}
    assert main(["-m", APART, *SMALL, *sweep, "results=fused"]) == 0
    assert main(["-m", *SMALL, *sweep, "results=plain"]) == 0
    assert {name: len(jobs(name)) for name in counts} == counts, "something was computed twice"


def test_a_wrong_layer_costs_its_own_combination_alone(capsys):
    sweep = ["method=grad_cam,hires_cam", "layers=features.3,nowhere"]
    assert main(["-m", *SMALL, *sweep]) == 2
    err = capsys.readouterr().err
    assert "of 4 jobs: 2 done, 2 could not start" in err
    assert "No layer matches 'nowhere'" in err
    scores = attrscore.read_scores("results")
    assert set(scores["method"]) == {"grad_cam", "hires_cam"}
    assert set(scores["layer"]) == {"features.3"}


def test_only_what_could_not_start_runs_apart(capsys):
    sweep = ["method=grad_cam,hires_cam", "layers=features.3", "model.width=0,4,8"]
    assert main(["-m", *SMALL, *sweep]) == 2
    told = capsys.readouterr()
    assert "of 4 jobs: 2 done, 2 could not start" in told.err
    assert told.err.count("model.width=0") == 2
    assert len(jobs("results")) == 2


def test_an_experiment_that_sweeps_is_fused_too():
    Path("mine/experiment").mkdir(parents=True)
    Path("mine/experiment/methods.yaml").write_text(
        "# @package _global_\n"
        "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n"
        "      method: grad_cam,hires_cam\n      layers: features.3,features.7\n"
    )
    path = f"hydra.searchpath=[file://{Path('mine').resolve()}]"
    experiment = [*SMALL, path, "+experiment=methods"]
    assert main([*experiment, "results=fused"]) == 0
    assert main([*experiment, APART, "results=plain"]) == 0
    assert (len(jobs("fused")), len(jobs("plain"))) == (1, 4)
    plain, fused = (attrscore.read_scores(name) for name in ("plain", "fused"))
    pd.testing.assert_frame_equal(plain, fused, check_exact=True)
    # the command line wins
    assert main([*experiment, "layers=features.0", "results=other"]) == 0
    assert set(attrscore.read_scores("other")["layer"]) == {"features.0"}


def test_a_sweep_of_one_job():
    assert main(["-m", *SMALL]) == 0
    assert len(jobs("results")) == 1


def test_a_sweep_over_results_folders():
    assert main(["-m", *SMALL, "results=a,b"]) == 0
    assert (len(jobs("a")), len(jobs("b"))) == (1, 1)


def test_a_yaml_of_ones_own_is_not_fused_with_others():
    Path("mine/method").mkdir(parents=True)
    # it holds another plugin's key: fused with that one, either would be lost
    Path("mine/method/fine.yaml").write_text("grad_cam: {channels: keep}\n")
    sweep = ["method=grad_cam,fine", "layers=features.3,features.7"]
    path = f"hydra.searchpath=[file://{Path('mine').resolve()}]"
    assert main(["-m", APART, *SMALL, *sweep, path, "results=plain"]) == 0
    assert main(["-m", *SMALL, *sweep, path, "results=fused"]) == 0
    plain, fused = (attrscore.read_scores(name) for name in ("plain", "fused"))
    pd.testing.assert_frame_equal(plain, fused, check_exact=True)
    assert len(jobs("fused")) == 2


@pytest.fixture
def fresh_workers():
    """joblib keeps its processes, which would stay in the folder of an earlier test."""
    loky = pytest.importorskip("joblib.externals.loky")
    loky.get_reusable_executor().shutdown(wait=True)
    yield
    loky.get_reusable_executor().shutdown(wait=True)


LAUNCHERS = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local"],
}


@pytest.mark.usefixtures("fresh_workers")
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers_run_every_job_and_their_failures_reach_the_user(launcher, capsys):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    sweep = [*LAUNCHERS[launcher], "method=grad_cam,hires_cam", "layers=features.7"]
    assert main(["-m", *SMALL, *sweep, "dataset.seed=0,1", "results=out"]) == 0
    assert len(jobs("out")) == 2
    told = [json.loads(path.read_text())["runs"][-1]["threads"] for path in jobs("out")]
    assert max(told) <= max(1, len(os.sched_getaffinity(0)) // 2)
    capsys.readouterr()

    # two that are done, two that cannot start
    assert main(["-m", APART, *SMALL, *sweep, "model.width=16,0", "results=out"]) == 2
    err = capsys.readouterr().err
    assert "of 4 jobs: 2 done, 2 could not start" in err
    assert "width" in err
    assert len(jobs("out")) == 2


@pytest.mark.usefixtures("fresh_workers")
def test_a_worker_that_dies_is_told_and_the_same_command_goes_on(capsys, tmp_path):
    (tmp_path / "deadly.py").write_text(
        "import os, pathlib, signal\n"
        "def model():\n"
        "    if not pathlib.Path('again').exists():\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    from attrscore.models.tiny import TinyCNN\n"
        "    from attrscore.core.contracts import InputSpec\n"
        "    return TinyCNN()(InputSpec(3, (32, 32), 2))\n"
    )
    sweep = ["model=factory", "model.target=deadly.model", "trust=[deadly]", "dataset.seed=0,1"]
    command = ["-m", *SMALL, *LAUNCHERS["joblib"], *sweep]
    assert main(command) == 1
    assert "2 failed" in capsys.readouterr().err
    (tmp_path / "again").touch()
    assert main(command) == 0
    assert len(attrscore.read_scores("results")) == 24


@pytest.mark.parametrize(
    "launcher", ["joblib", "submitit_local", "submitit_slurm", "slurm", "dask"]
)
def test_launchers_compose_with_our_configuration(launcher):
    from attrscore.cli.hydra_app import configuration

    package = "distributed"
    if launcher != "dask":
        package = f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher"
    if launcher == "slurm":
        package = "hydra_plugins.hydra_submitit_launcher"
    pytest.importorskip(package, reason="an extra that is not installed here; make test has it")
    more = {  # as the README says
        "submitit_slurm": ["hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=1"],
        "slurm": ["hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=1"],
        "dask": ["hydra.launcher.scheduler='tcp://host:8786'"],
    }
    configuration([f"hydra/launcher={launcher}", *more.get(launcher, ())])


def status(capsys, results="results"):
    """What ``attrscore status`` says of the jobs that sweeps asked for, and its exit code."""
    capsys.readouterr()
    code = main(["status", results, "--json"])
    said = json.loads(capsys.readouterr().out)
    return code, {" ".join(job["overrides"]): job["state"] for job in said["asked"]}


STOPPING = (
    "import pathlib, signal\n"
    "def model():\n"
    "    if pathlib.Path('stop').exists():\n"
    "        signal.raise_signal(signal.SIGTERM)\n"
    "    from attrscore.models.tiny import TinyCNN\n"
    "    from attrscore.core.contracts import InputSpec\n"
    "    return TinyCNN()(InputSpec(3, (32, 32), 2))\n"
)


def test_status_names_the_jobs_that_never_started(capsys, tmp_path):
    (tmp_path / "halting.py").write_text(STOPPING)
    halt = tmp_path / "stop"
    halt.touch()
    sweep = ["model=factory", "model.target=halting.model", "trust=[halting]", "dataset.seed=0,1,2"]
    command = ["-m", *SMALL, *sweep]
    assert main(command) == 128 + 15
    err = capsys.readouterr().err
    assert "interrupted by SIGTERM" in err
    assert "of the one being computed nothing" in err
    code, states = status(capsys)
    assert code == 3
    assert sorted(states.values()) == ["absent", "absent", "stopped"]
    assert main(["status"]) == 3
    assert "Of 3 jobs that sweeps asked for: 2 absent, 1 stopped." in capsys.readouterr().out

    halt.unlink()
    # one of them by itself: the folder knows that it was asked for
    assert main([*SMALL, *sweep[:3], "dataset.seed=1"]) == 0
    code, states = status(capsys)
    assert (code, sorted(states.values())) == (3, ["absent", "done", "stopped"])
    assert main(command) == 0
    code, states = status(capsys)
    assert (code, set(states.values())) == (0, {"done"})


def test_a_mistake_in_the_command_leaves_nothing_to_do(capsys):
    assert main(["-m", *SMALL, "model.width=0,4"]) == 2
    assert status(capsys) == (0, {})


def planned(out: str) -> list[dict[str, object]]:
    return json.loads(out[out.index("[\n {") :])  # behind the log of an earlier run of this process


def test_a_plan_tells_what_is_done_and_what_the_rest_takes(capsys):
    sweep = ["method=grad_cam,integrated_gradients", "layers=features.3,features.7"]
    assert main([*SMALL, "layers=features.3"]) == 0
    before = sorted(Path("results").rglob("*"))
    capsys.readouterr()
    assert main(["plan", "-m", *SMALL, *sweep, "--json"]) == 0
    (fused,) = planned(capsys.readouterr().out)
    assert main(["plan", "-m", APART, *SMALL, *sweep, "--json", "hydra/launcher=joblib"]) == 0
    plain = planned(capsys.readouterr().out)
    assert sorted(Path("results").rglob("*")) == before, "a plan wrote something"
    # two layers of grad_cam, one of which is there, and integrated_gradients at the input
    assert (fused["conditions"], fused["done"], fused["cells"]) == (3, 1, 12)
    # integrated_gradients meets both layers in the plain sweep, and is computed once
    assert [(each["conditions"], each["done"]) for each in plain] == [
        (1, 1),
        (1, 0),
        (1, 0),
        (1, 1),
    ]
    assert plain[0]["cells"] == plain[3]["cells"] == 0
    assert (plain[1]["forwards"], plain[1]["backwards"]) == (1, 1)
    assert fused["forwards"] > 50  # the steps of integrated_gradients
    assert fused["backwards"] > 50
    assert fused["seconds"] > 0
    assert fused["megabytes"] > 0

    assert main(["plan", *SMALL]) == 0
    assert "1 jobs" in capsys.readouterr().out


def test_a_plan_of_what_cannot_start_says_why(capsys):
    assert main(["plan", "-m", *SMALL, "layers=nowhere,last_conv"]) == 2
    told = capsys.readouterr()
    assert "No layer matches 'nowhere'" in told.err
    assert "1 jobs" in told.out


def test_shards_draw_their_other_cells_from_the_whole_dataset():
    swap = [*SMALL, "method=grad_cam", "layers=features.7", "scorer=[grad_camo,swap]", "pool=6"]
    assert main([*swap, "scorer.swap.count=2", "batch_size=1", "results=whole"]) == 0
    shards = "dataset.shard=0/3,1/3,2/3"
    assert main(["-m", *swap, "scorer.swap.count=2", "batch_size=1", shards, "results=cut"]) == 0
    whole, cut = (attrscore.read_scores(each).sort_values("id") for each in ("whole", "cut"))
    assert whole["swap"].notna().any()
    for column in ("grad_camo", "swap", "swap.outside", "swap.inside"):
        assert whole[column].tolist() == pytest.approx(cut[column].tolist(), abs=0, nan_ok=True)
