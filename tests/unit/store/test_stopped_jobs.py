"""Jobs that were stopped, and asked again for other conditions."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from results import BASE, GRAD_CAM, GRAD_CAMO, IG, LABELS, OTHER, fill, job, table

import attrscore
from attrscore import store
from attrscore.cli.main import main
from attrscore.jobs import assembly, planning
from attrscore.store import Condition, Writer, status_of, verify

KEPT = {**BASE, "keep": "native"}
CAM, BOTH, INTEGRATED = (
    Condition(GRAD_CAM, "a", GRAD_CAMO),
    Condition(GRAD_CAM, "a", OTHER),
    Condition(IG, "input", GRAD_CAMO),
)
HALF = job(CAM, BOTH, INTEGRATED, base=KEPT, rows=8, part_rows=2)


@pytest.fixture
def half(tmp_path):
    """Three of four parts."""
    writer = Writer(tmp_path, HALF, labels=LABELS)
    for start in (0, 2, 4):
        maps = {("grad_cam", "a"): np.full((2, 1, 3, 3), start + 1.0)}
        writer.write(start, start + 2, table(HALF, start, start + 2), maps)
    return tmp_path


@pytest.mark.slow
def test_an_unfinished_job_that_others_finished_lacks_nothing(half):
    def state():
        return next(each for each in status_of(half) if each.job == HALF.id)

    def lacking():
        return [each for each in verify(half).problems if each.kind == "missing"]

    assert (state().missing, len(lacking())) == (3, 1)
    fill(half, job(CAM, BOTH, base=KEPT, rows=8, part_rows=4))
    assert (state().missing, state().elsewhere, state().stopped) == (1, 2, "unfinished")
    fill(half, job(INTEGRATED, base=BASE, rows=8))  # without maps: no stand-in for one that keeps
    assert (state().missing, len(lacking())) == (1, 1)
    fill(half, job(INTEGRATED, base=KEPT, rows=8))
    assert (state().missing, state().done, state().stopped, lacking()) == (0, 3, "", [])


SMALL = ["dataset.cells=12", "dataset.size=[16,16]", "batch_size=4", "figures=none", "keep=native"]
LAYERS = "layers=[features.3,features.7]"


@pytest.mark.slow
def test_a_sweep_that_was_stopped_and_changed_ends_as_if_nothing_had_happened(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(assembly, "PART_ROWS", 4)
    write = Writer.write_part

    def stopped(self, start, *rest, **options):
        if start == 8:
            raise KeyboardInterrupt
        return write(self, start, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "write_part", stopped)
        assert main([*SMALL, LAYERS, "method=[grad_cam,saliency]"]) == 130
    for methods in ("grad_cam,hires_cam", "grad_cam,saliency", "saliency,grad_cam,hires_cam"):
        assert main([*SMALL, LAYERS, f"method=[{methods}]"]) == 0
    assert main(["status", "results"]) == main(["verify", "results"]) == 0
    whole = [*SMALL, LAYERS, "method=[saliency,grad_cam,hires_cam]", "results=direct"]
    assert main(whole) == 0
    resumed, direct = map(attrscore.read_scores, ("results", "direct"))
    pd.testing.assert_frame_equal(resumed, direct, check_exact=True)
    for method in ("grad_cam", "hires_cam"):
        (ids, maps), (others, of_others) = (
            store.read_maps(each, method, "features.3") for each in ("results", "direct")
        )
        order = [ids.index(name) for name in others]
        assert np.array_equal(maps[order], of_others)


@pytest.mark.slow
def test_parts_are_smaller_where_cells_take_more_and_a_job_begun_otherwise_goes_on(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    job = [*SMALL[:-1], "layers=features.3", "method=[integrated_gradients,grad_cam]"]

    def ranges(results):
        (folder,) = Path(results, "jobs").iterdir()
        return sorted(path.stem for path in folder.glob("*.h5"))

    assert main([*job, "results=whole"]) == 0
    assert ranges("whole") == ["000000000-000000012"]
    monkeypatch.setattr(planning, "PART_WORK", 1.0)
    assert main([*job, "results=whole"]) == 0, "what is finished is finished"
    assert len(ranges("whole")) == 1
    assert main([*job, "results=cut"]) == 0
    assert ranges("cut") == [f"{n:09}-{n + 4:09}" for n in (0, 4, 8)]
    Path(next(Path("cut", "jobs").iterdir()), "000000004-000000008.h5").unlink()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert main([*job, "results=cut"]) == 0
    assert len(ranges("cut")) == 3
    whole, cut = map(attrscore.read_scores, ("whole", "cut"))
    pd.testing.assert_frame_equal(whole, cut, check_exact=True)


@pytest.mark.slow
def test_what_plugins_draw_from_global_states_does_not_depend_on_the_size_of_parts(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)

    def noisy(heat, run, /):
        return torch.rand(len(run.batch)) + np.random.rand() + random.random()

    attrscore.SCORERS.register("noisy")(noisy)
    job = [*SMALL, "layers=features.3", "method=grad_cam", "+scorer.noisy={}"]
    try:
        assert main([*job, "results=whole"]) == 0
        monkeypatch.setattr(planning, "PART_WORK", 1.0)
        assert main([*job, "results=cut"]) == 0
    finally:
        attrscore.SCORERS._local.pop("noisy")
    whole, cut = map(attrscore.read_scores, ("whole", "cut"))
    assert whole["noisy"].nunique() == 12
    pd.testing.assert_frame_equal(whole, cut, check_exact=True)
