"""Many draws of random weights in one job: the same rows as one by one, from data read once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import attrscore
from attrscore import store
from attrscore.cli.hydra_app import configuration, kept_settings, settings_of
from attrscore.datasets import Phantom
from attrscore.errors import ConfigError
from attrscore.jobs import assembly, planning
from attrscore.jobs import run as jobs

SMALL = ["dataset.cells=6", "dataset.size=[16,16]", "batch_size=4", "figures=none", "pool=5"]
SMALL += ["layers=features.3", "scorer=[grad_camo,mask_swap,swap]", "model.randomize=all"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(*changes: str):
    return settings_of(configuration([*SMALL, *changes]))


def run(*changes: str, **options):
    return jobs.run_job(settings(*changes), **options)


def identities(folder: str = "results") -> list[str]:
    """Of the jobs, as one text each, in the order of their names."""
    found = [json.loads(each.read_text()) for each in Path(folder).glob("jobs/*/job.json")]
    return sorted(json.dumps(each["identity"], sort_keys=True) for each in found)


@pytest.mark.slow
def test_each_draw_is_the_job_that_its_seed_alone_gives():
    together = run("model.draws=3", "seed=5")
    assert together.computed == 18
    for seed in (5, 6, 7):
        alone = [f"seed={seed}", "model.draws=1", "scorer=[grad_camo,mask_swap]"]
        assert run(*alone).computed == 0  # it is there
        assert run(*alone, "results=apart").computed == 6
    assert identities() == identities("apart")
    one, two = (
        attrscore.read_scores(each).sort_values(["seed", "id"], ignore_index=True)
        for each in ("results", "apart")
    )
    assert one["seed"].unique().tolist() == [5, 6, 7]
    columns = [c for c in one if c.startswith(("grad_camo", "mask_swap", "explained"))]
    assert one[columns].equals(two[columns])
    assert one["model.fingerprint"].nunique() == 3


@pytest.mark.slow
def test_draws_are_added_to_and_made_again():
    assert run("model.draws=1", "scorer=grad_camo").computed == 6
    assert run("model.draws=3", "scorer=grad_camo").computed == 12
    assert run("model.draws=2", "scorer=grad_camo").computed == 0
    assert len(attrscore.read_scores("results")) == 18
    again = run("model.draws=2", "scorer=grad_camo", "rerun=all")
    assert again.computed == 12
    assert len(again.scores) == 12
    assert run("model.draws=3", "model.randomize=none", "seed=1").computed == 6  # no draw


@pytest.mark.slow
@pytest.mark.parametrize("how", ["last", "all"])
def test_data_are_read_once_and_progress_names_the_draw(monkeypatch, how):
    read, digested, said, told = [], [], [], []
    plain, digest = Phantom.read, Phantom.fingerprint
    monkeypatch.setattr(
        Phantom, "read", lambda self, rows: (read.extend(rows), plain(self, rows))[1]
    )
    monkeypatch.setattr(Phantom, "fingerprint", lambda self: (digested.append(1), digest(self))[1])
    options = {"on_progress": lambda *each: said.append(each), "notify": told.append}
    one = [f"model.randomize={how}", "scorer=[grad_camo,swap]"]
    run("model.draws=1", *one, "results=one")
    once, digests = len(read), len(digested)
    read.clear()
    digested.clear()
    run("model.draws=4", *one, **options)
    assert len(read) <= once + 3  # and a cell that layers are found with, of each further draw
    assert len(digested) == digests
    assert told == ["left out of draws of random weights, for it looks at no map: swap"]
    assert said[-1] == (24, 24, "draw 4 of 4")
    assert {note for _, _, note in said} == {f"draw {number} of 4" for number in (1, 2, 3, 4)}
    assert all(total == 24 for _, total, _ in said)


@pytest.mark.slow
def test_what_is_read_once_is_not_kept_where_there_is_no_room(monkeypatch):
    whole = run("model.draws=2", "scorer=grad_camo").scores
    monkeypatch.setattr(jobs, "KEPT", 20_000)  # a batch and a half
    short = run("model.draws=2", "scorer=grad_camo", "results=short").scores
    assert whole["grad_camo"].equals(short["grad_camo"])


@pytest.mark.slow
def test_a_scorer_of_no_maps_is_drawn_where_it_is_asked_for_alone():
    scores = run("model.draws=2", "scorer=swap").scores
    assert len(scores) == 12
    assert scores["swap"].notna().any()


@pytest.mark.slow
def test_a_kept_draw_is_one_job_and_its_seed_is_its_own():
    given = ["model.draws=2", "seed=3", "dataset.seed=${seed}", "keep=native", "figures=all"]
    config = configuration([*SMALL, *given])
    from omegaconf import OmegaConf

    text = OmegaConf.to_yaml(config, resolve=False)
    made = jobs.run_job(settings_of(config), config=text, overrides=given)
    assert made.figures == ()
    for number, path in enumerate(sorted(made.folder.glob("jobs/*"), key=lambda p: _seed(p))):
        kept = store.JobFolder.read(path)
        plain = kept_settings(kept.config)
        assert plain["model"]["draws"] == 1
        assert plain["seed"] == 3 + number
        assert plain["dataset"]["seed"] == 3
        assert plain["keep"] == "none"
        assert assembly.build(plain).job.base == kept.job.base
        assert kept.provenance["overrides"][-3:] == [
            "model.draws=1",
            "keep=none",
            f"seed={3 + number}",
        ]


def _seed(path: Path) -> int:
    return int(json.loads((path / "job.json").read_text())["identity"]["base"]["seed"])


@pytest.mark.slow
def test_a_plan_counts_every_draw():
    found = planning.plan(settings("model.draws=3"), planned=set())
    assert (found.conditions, found.done, found.cells) == (6, 0, 18)
    assert found.scorers == ("grad_camo", "mask_swap")
    run("model.draws=2")
    found = planning.plan(settings("model.draws=3"), planned=set())
    assert (found.conditions, found.done, found.cells) == (6, 4, 6)
    assert found.forwards > 0


@pytest.mark.slow
@pytest.mark.parametrize("draws", ["0", "-1", "1.5", "many", "null", "true"])
def test_a_wrong_number_of_draws(draws):
    with pytest.raises(ConfigError, match="model.draws=.* must be a whole number from 1"):
        run(f"model.draws={draws}")
