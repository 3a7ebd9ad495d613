"""What a stopped job has is not computed again, whatever is asked for next."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from results import BASE, GRAD_CAM, GRAD_CAMO, IG, LABELS, OTHER, fill, job, table

import attrscore
from attrscore import store
from attrscore.cli.main import main
from attrscore.jobs import assembly
from attrscore.jobs import run as jobs
from attrscore.store import Condition, Halves, Piece, Writer, joined, status_of, verify

KEPT = {**BASE, "keep": "native"}
CAM, BOTH, INTEGRATED = (
    Condition(GRAD_CAM, "a", GRAD_CAMO),
    Condition(GRAD_CAM, "a", OTHER),
    Condition(IG, "input", GRAD_CAMO),
)
HALF = job(CAM, BOTH, INTEGRATED, base=KEPT, rows=8, part_rows=2)
IDS = [f"cell{i}" for i in range(4)]


BROKEN = "scorer 'other': broke | grad_camo: no cell"


@pytest.fixture
def half(tmp_path, request):
    """Three of four parts; every row has this reason."""
    writer = Writer(tmp_path, HALF, labels=LABELS)
    for start in (0, 2, 4):
        rows = table(HALF, start, start + 2, reason=getattr(request, "param", ""))
        maps = {("grad_cam", "a"): np.full((2, 1, 3, 3), start + 1.0)}
        traces = rows[["method", "layer", "status", "reason"]].assign(traceback="here")
        writer.write(start, start + 2, rows, maps, traces=traces.drop_duplicates())
    return tmp_path


@pytest.mark.parametrize("half", [BROKEN], indirect=True)
def test_rows_of_a_stopped_job_are_taken_over_whole_spans_at_a_time(half):
    hires = Condition(replace(GRAD_CAM, key="hires", name="hires"), "a", GRAD_CAMO)
    asked = job(CAM, hires, base=KEPT, rows=8, part_rows=4)
    halves = Halves(half, asked)
    assert halves.jobs == [HALF.id]
    assert halves.left(0, 4) == {hires.triple}
    assert halves.left(4, 8) == {CAM.triple, hires.triple}  # its last two rows are not there
    assert halves.pieces(4, 8, ["cell4"]) == []

    new = table(job(hires, rows=8, part_rows=4), 0, 4, offset=1.0)
    made = store.Part(new, {("hires", "a"): np.ones((4, 1, 3, 3), np.float32)}, IDS[::-1], None)
    folder = store.JobFolder(half, asked, LABELS, "", {})
    whole = joined([*halves.pieces(0, 4, IDS), Piece(folder, made, {hires.triple})])
    rows = whole.table.set_index(["method", "id"])
    assert len(rows) == 8
    assert "other" not in rows
    assert rows.loc["grad_cam", "grad_camo"].tolist() == [0, 0.1, 0.2, 0.3]
    assert rows.loc["hires", "grad_camo"].tolist() == [1, 1.1, 1.2, 1.3]
    assert set(rows.loc["grad_cam", "reason"]) == {"grad_camo: no cell"}  # not of another scorer
    assert set(rows["Metadata_Plate"]) == {"Ä1"}
    assert list(whole.ids) == IDS
    assert whole.maps["grad_cam", "a"][:, 0, 0, 0].tolist() == [1, 1, 3, 3]
    assert set(whole.traces["method"]) == {"grad_cam"}
    writer = Writer(half, asked, labels=LABELS)
    writer.write_part(0, 4, whole)
    assert not verify(writer.folder / "000000000-000000004.h5").problems


def test_maps_are_taken_where_some_are_kept_only(half):
    asked = job(CAM, rows=8, part_rows=2)
    (piece,) = Halves(half, asked).pieces(0, 2, IDS[:2])
    assert not piece.part.maps
    assert Halves(half, job(CAM, base={**KEPT, "seed": 1}, rows=8, part_rows=2)).jobs == []


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


def test_a_sweep_that_was_stopped_and_changed_computes_only_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(assembly, "PART_ROWS", 4)
    write, compute = Writer.write, jobs.compute
    calls = []

    def stopped(self, start, *rest, **options):
        if start == 8:
            raise KeyboardInterrupt
        return write(self, start, *rest, **options)

    def told(parts, rows, *, wanted, **options):
        calls.append((rows[0], sorted({method for method, _, _ in wanted})))
        return compute(parts, rows, wanted=wanted, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "write", stopped)
        assert main([*SMALL, LAYERS, "method=[grad_cam,saliency]"]) == 130
    monkeypatch.setattr(jobs, "compute", told)
    assert main([*SMALL, LAYERS, "method=[grad_cam,hires_cam]"]) == 0
    assert calls == [(0, ["hires_cam"]), (4, ["hires_cam"]), (8, ["grad_cam", "hires_cam"])]
    assert main([*SMALL, LAYERS, "method=[grad_cam,saliency]"]) == 0
    assert calls[3:] == [(8, ["saliency"])]
    assert main([*SMALL, LAYERS, "method=[saliency,grad_cam,hires_cam]"]) == 0
    assert len(calls) == 4
    assert main(["status", "results"]) == main(["verify", "results"]) == 0
    whole = [*SMALL, LAYERS, "method=[saliency,grad_cam,hires_cam]", "results=direct"]
    assert main(whole) == 0
    taken, direct = map(attrscore.read_scores, ("results", "direct"))
    pd.testing.assert_frame_equal(taken, direct, check_exact=True)
    for method in ("grad_cam", "hires_cam"):
        (ids, maps), (others, of_others) = (
            store.read_maps(each, method, "features.3") for each in ("results", "direct")
        )
        order = [ids.index(name) for name in others]
        assert np.array_equal(maps[order], of_others)
