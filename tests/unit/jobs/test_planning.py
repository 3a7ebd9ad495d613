"""What a plan costs, and what it says a job will take."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

import pytest
from torch import nn

from attrscore.cli.hydra_app import checked_settings, configuration
from attrscore.engine.attribution import layers_of
from attrscore.jobs import assembly, planning
from attrscore.jobs.planning import _Probe, plan
from attrscore.jobs.run import run_job


class Slow(nn.Module):
    """Sleeps as long for each cell, and besides once a pass."""

    def __init__(self, a_cell, a_pass):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)
        self.a_cell, self.a_pass = a_cell, a_pass
        self.cells = Counter()

    def forward(self, x):
        time.sleep(self.a_pass + self.a_cell * len(x))
        self.cells[len(x)] += 1
        return self.conv(x).mean((2, 3))


@pytest.fixture
def settings(tmp_path):
    def composed(*overrides):
        small = ["dataset.cells=96", "dataset.size=[16,16]", f"results={tmp_path}"]
        return checked_settings(configuration([*small, *overrides]))

    return composed


def planned(monkeypatch, settings, model, **options):
    def built(*given, **like):
        parts = assembly.build(*given, **like)
        chosen = layers_of(model, parts.dataset.read([0]), parts.methods, ["conv"])
        model.cells.clear()
        return replace(parts, model=model, chosen=chosen)

    monkeypatch.setattr(planning, "build", built)
    return plan(settings, planned=set(), **options)


@pytest.mark.slow
def test_of_a_slow_model_two_crops_are_run(monkeypatch, settings):
    model = Slow(a_cell=0.4, a_pass=0.0).eval()
    monkeypatch.setattr(planning, "PROBED", 1.0)
    tried = []
    found = planned(monkeypatch, settings(), model, on_method=tried.append)
    assert model.cells == {1: 1, 2: 1}
    assert tried == ["grad_cam", "grad_cam"]
    assert found.forwards == 1
    assert found.seconds == pytest.approx(96 * 0.4, rel=0.3)


@pytest.mark.slow
def test_what_a_pass_costs_besides_is_paid_once_a_batch(monkeypatch, settings):
    model = Slow(a_cell=0.001, a_pass=0.05).eval()
    found = planned(monkeypatch, settings(), model)
    assert max(model.cells) == 32
    assert found.seconds < 4  # 3 batches and the trials, below 1; one crop at a time 5.5


@pytest.mark.parametrize(
    ("took", "seconds"),
    [
        ({1: 2.0}, 64 * 2.0 + 12 * 2.0),
        ({2: 1.0, 8: 1.6}, 2 * (1.6 + 24 * 0.1) + 12 * 0.5),
        ({2: 0.1, 8: 0.1, 32: 0.5}, 2 * 0.5 + 12 * 0.05),
        ({2: 1.0, 8: 0.8}, 2 * (0.8 + 24 * 0.025) + 12 * 0.5),  # noise: no batch costs nothing
    ],
)
def test_seconds_of_batches_from_those_tried(took, seconds):
    assert _Probe(took=took).seconds(64, 32) == pytest.approx(seconds)


@pytest.mark.slow
def test_disk_is_that_of_the_parts(settings, tmp_path):
    one = settings("figures=none")
    found = plan(one, planned=set())
    assert (found.cells, found.conditions, found.done) == (96, 1, 0)
    run_job(one)
    size = sum(path.stat().st_size for path in tmp_path.glob("jobs/*/*.h5")) / 2**20
    assert size / 2 < found.megabytes < 2 * size
    assert plan(one, planned=set()).cells == 0
