"""Failure is data, and it can be computed again: alone, or with everything else."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

import attrscore
from attrscore import store
from attrscore.cli.hydra_app import configuration, settings_of
from attrscore.core.registry import METHODS, SCORERS
from attrscore.errors import AttrscoreWarning, ConfigError, DataError
from attrscore.jobs import assembly
from attrscore.jobs import run as jobs

SMALL = [
    "dataset.cells=6",
    "dataset.size=[16,16]",
    "batch_size=4",
    "figures=none",
    "layers=features.3",
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


FAILING: dict[str, BaseException] = {}
"""Cell id -> what the method raises for a batch that holds it."""


@dataclass(frozen=True)
class Fragile:
    def __call__(self, run, /):
        for name, error in FAILING.items():
            if name in run.batch.ids:
                raise error
        return run.activations


@dataclass(frozen=True)
class Broken:
    def __call__(self, heat, run, /):
        if FAILING:
            raise ZeroDivisionError("no heat")
        return heat.mass()


@dataclass(frozen=True)
class Share:
    """Of heat and regions alone."""

    def __call__(self, heat, run, /):
        return heat.mass(run.batch.regions["cell"]) / heat.mass()


@dataclass(frozen=True)
class Confident:
    """Asks the network, without saying so."""

    def __call__(self, heat, run, /):
        return run.output.softmax(1).amax(1)


@pytest.fixture(autouse=True)
def plugins(monkeypatch):
    FAILING.clear()
    monkeypatch.setitem(METHODS._local, "fragile", Fragile)
    for name, scorer in (("broken", Broken), ("share", Share), ("confident", Confident)):
        SCORERS._built_in()
        monkeypatch.setitem(SCORERS._local, name, scorer)


def run(*changes, methods=("grad_cam", "fragile"), scorers=("grad_camo",), **settings):
    """One job with plugins that have no YAML."""
    plain = settings_of(configuration([*SMALL, *changes]))
    plain |= {"method": {m: {} for m in methods}, "scorer": {s: {} for s in scorers}}
    return jobs.run_job({**plain, **settings})


def parts():
    return {path: path.read_bytes() for path in Path("results/jobs").glob("*/*.h5")}


ID = "phantom-0-00000{}".format


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("bad cell"), "error"),
        (torch.OutOfMemoryError("no memory"), "out_of_memory"),
        (MemoryError("no memory"), "out_of_memory"),
        (attrscore.errors.UnsupportedError("never"), "unsupported"),
    ],
)
def test_an_exception_becomes_rows_with_a_traceback_and_the_rest_goes_on(error, status):
    FAILING[ID(5)] = error
    halved = pytest.warns(AttrscoreWarning, match="Memory ran out")
    with halved if status == "out_of_memory" else nullcontext():
        scores = run().scores.set_index(["method", "id"])
    assert set(scores.loc["grad_cam", "status"]) == {"ok"}
    bad = scores.loc["fragile"]
    assert status in set(bad["status"])
    assert str(error) in bad.loc[ID(5), "reason"]
    assert bad.loc[ID(5), ["grad_camo"]].isna().all()
    told = [told for part in parts() for told in [store.read_part(part).traces] if told is not None]
    if status == "unsupported":
        assert not told
    else:
        assert "__call__" in told[0]["traceback"][0]
        assert str(error) in told[0]["traceback"][0]
        assert "/" not in told[0]["traceback"][0].replace("</", "")  # modules, no paths


@pytest.mark.slow
def test_failed_computes_again_what_failed_and_touches_nothing_else():
    FAILING[ID(5)] = ValueError("bad cell")
    before = run(keep="native").scores
    assert set(before["status"]) == {"ok", "error"}
    assert run(keep="native").computed == 0  # rerun=missing: a failure is a result
    FAILING.clear()
    outcome = run(keep="native", rerun="failed")
    after = outcome.scores
    assert outcome.computed == (before["status"] == "error").sum()
    good = before["status"] == "ok"
    pd.testing.assert_frame_equal(before[good], after[good])
    assert set(after["status"]) == {"ok"}
    direct = run(results="direct").scores
    pd.testing.assert_frame_equal(after, direct, atol=1e-6, rtol=0)
    assert all(store.read_part(part).traces is None for part in parts())
    ids, maps = store.read_maps("results", "fragile", "features.3")
    assert len(ids) == 6
    assert torch.from_numpy(maps).isfinite().all()
    assert run(keep="native", rerun="failed").computed == 0


@pytest.mark.slow
def test_a_rerun_that_fails_loses_nothing():
    before = run().scores
    FAILING[ID(0)] = ValueError("now it breaks")
    after = run(rerun="all").scores
    pd.testing.assert_frame_equal(before, after)
    held = parts()
    FAILING[ID(0)] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run(rerun="all")
    assert parts() == held


@pytest.mark.slow
def test_all_computes_everything_again():
    first = run()
    outcome = run(rerun="all")
    assert outcome.computed == 6
    pd.testing.assert_frame_equal(first.scores, outcome.scores)
    two = run(rerun="all", methods=("grad_cam", "fragile", "saliency"))
    assert two.computed == 12  # the new method, then what was there


@pytest.mark.slow
def test_a_scorer_that_raised_counts_as_failed_and_is_computed_again():
    FAILING["nobody"] = ValueError()
    first = run(scorers=("grad_camo", "broken"))
    assert first.scores["broken"].isna().all()
    (job,) = store.status_of("results")
    assert (job.failed, job.done) == (4, 0)
    assert "ZeroDivisionError: no heat" in job.failures[0].reason
    FAILING.clear()
    again = run(scorers=("grad_camo", "broken"), rerun="failed").scores
    assert again["broken"].notna().all()
    assert not again["reason"].str.contains("broken").any()
    pd.testing.assert_series_equal(first.scores["grad_camo"], again["grad_camo"])


@pytest.mark.slow
def test_what_cannot_be_read_becomes_rows(monkeypatch):
    gone = {3}
    real = assembly.dataset_of

    def dataset_of(settings):
        dataset = real(settings)
        read = dataset.read

        def spoiled(rows):
            if gone & set(rows):
                raise DataError("image_3.tif is gone")
            return read(rows)

        object.__setattr__(dataset, "read", spoiled)
        return dataset

    monkeypatch.setattr(assembly, "dataset_of", dataset_of)
    scores = run(keep="native").scores.set_index(["method", "id"])
    assert set(scores.loc[("grad_cam", ID(3)), ["status"]]) == {"unreadable"}
    assert scores.loc[("grad_cam", ID(3)), "reason"] == "image_3.tif is gone"
    assert (scores["status"] == "unreadable").sum() == 2
    assert scores.loc["grad_cam"].index.tolist() == [ID(i) for i in range(6)]
    gone.clear()
    assert set(run(keep="native", rerun="failed").scores["status"]) == {"ok"}
    assert len(store.read_maps("results", "grad_cam", "features.3")[0]) == 6


@pytest.mark.slow
def test_a_job_that_stops_says_how(monkeypatch):
    for error, kind in (
        (KeyboardInterrupt(), "interrupted"),
        (MemoryError("x"), "out_of_memory"),
        (DataError("x"), "unreadable"),
        (RuntimeError("x"), "error"),
    ):

        def stop(*_, error=error, **__):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(jobs, "compute", stop)
            with pytest.raises(type(error)):
                run()
        (job,) = store.status_of("results")
        assert job.stopped == kind
        assert (job.missing, job.failed) == ((2, 0) if kind == "interrupted" else (0, 2))
    run()
    (job,) = store.status_of("results")
    assert (job.stopped, job.done) == ("", 2)


KEPT = {"kept": {"results": "first", "method": "grad_cam"}}


@pytest.mark.slow
def test_a_new_scorer_runs_on_kept_maps():
    run(keep="native", results="first", methods=("grad_cam",))
    Path("first").rename("moved")
    kept = {"kept": {"results": "moved", "method": "grad_cam"}}
    found = run(method=kept, scorers=("share", "confident")).scores
    assert set(found["status"]) == {"ok"}
    first = attrscore.read_scores("moved")
    moved = (found["share"] - first["grad_camo"]).abs()
    assert 0 < moved.max() <= 2**-12
    assert (found["confident"] - found["confidence"]).abs().max() < 1e-6
    Path("moved").rename("again")
    kept["kept"]["results"] = "again"  # no part of what the job is
    assert run(method=kept, scorers=("share", "confident")).computed == 0


@pytest.mark.slow
def test_kept_maps_serve_other_heat_options():
    run(keep="native", results="first", methods=("grad_cam",))
    run(method=KEPT)
    run("heat.sign=absolute", method=KEPT)
    scores = attrscore.read_scores("results")
    assert set(scores["heat.sign"]) == {"positive", "absolute"}


@pytest.mark.slow
def test_kept_maps_of_another_model_or_method_are_refused():
    run(keep="native", results="first", methods=("grad_cam",))
    scores = run("model.seed=3", method=KEPT).scores
    assert set(scores["status"]) == {"unsupported"}
    assert scores["reason"].str.contains("of another model, target or data").all()
    with pytest.raises(ConfigError, match="keeps no maps of 'grad_cat'. Did you mean 'grad_cam'"):
        run(method={"kept": {"results": "first", "method": "grad_cat"}})


def test_provenance_says_what_a_number_came_from(monkeypatch):
    monkeypatch.setenv("LAB_TOKEN", "s3cr3t")
    run()
    (path,) = Path("results/jobs").iterdir()
    told = json.loads((path / "job.json").read_text())
    (ran,) = told["runs"]
    assert {"started", "seconds", "peak_memory_mib", "cpu", "cores", "memory_mib", "device"} <= set(
        ran
    )
    assert {(each["method"], each["layer"]) for each in ran["conditions"]} == {
        ("grad_cam", "features.3"),
        ("fragile", "features.3"),
    }
    for each in ran["conditions"]:
        assert 0 < each["seconds"] <= ran["seconds"]
        assert 10 < each["peak_memory_mib"] <= ran["peak_memory_mib"]
    assert ran["peak_memory_mib"] > 10
    (part,) = parts()
    found = store.provenance_of(part)
    assert found["provenance"]["packages"]["torch"]
    assert found["provenance"]["git"] is None  # the working folder is no repository
    assert (found["start"], found["stop"]) == (0, 6)
    with h5py.File(part) as file:
        assert b"started" not in bytes(file.attrs["provenance"])
    (status,) = store.status_of("results")
    assert status.rows == {"ok": 12}


@pytest.mark.slow
def test_several_targets_are_kept_collected_verified_and_computed_again():
    target = ("target=embedding", "target.index=[0,1]")
    FAILING[ID(5)] = ValueError("bad cell")
    before = run(*target, keep="native").scores
    assert len(before) == 2 * 2 * 6
    FAILING.clear()
    after = run(*target, keep="native", rerun="failed").scores
    assert set(before["status"]) == {"ok", "error"}
    assert set(after["status"]) == {"ok"}
    direct = run(*target, results="direct", keep="native").scores
    pd.testing.assert_frame_equal(after, direct, atol=1e-6, rtol=0)
    for name in after["target"].unique():
        for method in ("grad_cam", "fragile"):
            (ids, maps), (_, others) = (
                store.read_maps(folder, method, "features.3", target=name)
                for folder in ("results", "direct")
            )
            assert len(ids) == 6
            np.testing.assert_allclose(maps, others, atol=1e-3)
    assert store.collect("results", "all.parquet") == len(after)
    pd.testing.assert_frame_equal(store.read_scores("all.parquet"), after)
    assert not store.verify("results").problems
