"""Memory that runs out costs time, never a score."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import batch, net

from attrscore.core.model import is_out_of_memory
from attrscore.core.statuses import SMALLER_BATCHES
from attrscore.engine.evaluate import evaluate
from attrscore.engine.memory import Room
from attrscore.engine.run import run
from attrscore.errors import AttrscoreWarning
from attrscore.methods.cams import GradCAM


class Tight(torch.nn.Module):
    """Refuses more than ``most`` samples at once, as a full accelerator does."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.inner, self.most, self.sizes = net(), most, []

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.inner(x)


def quiet(model, data, **options):
    return evaluate(model, data, progress="none", **options)


def numbers(table):
    return table[[column for column in table if column.startswith("grad_camo")]]


@pytest.mark.slow
def test_a_network_too_large_for_the_batch_scores_the_same_in_halves():
    data = [batch(n=7, seed=0), batch(n=7, seed=1)]
    options = {"layers": ["inner.low", "inner.high"], "methods": ["grad_cam", "saliency"]}
    plain = quiet(Tight(10**6), data, **options)
    tight = Tight(3)
    with pytest.warns(AttrscoreWarning, match="ran out with 7 cells at once; going on with 3"):
        halved = quiet(tight, data, **options)
    order = ["method", "layer", "id"]
    plain, halved = plain.sort_values(order), halved.sort_values(order)
    assert halved["status"].tolist() == plain["status"].tolist()
    assert halved.loc[halved["status"] == "ok", "reason"].eq(str(SMALLER_BATCHES)).all()
    np.testing.assert_allclose(numbers(plain), numbers(halved), atol=1e-12)
    assert (halved["explained"].to_numpy() == plain["explained"].to_numpy()).all()
    assert tight.sizes.count(7) == 1  # remembered for the second batch


@pytest.mark.slow
def test_only_the_method_that_needs_more_room_is_halved_and_rows_stay_in_order():
    class Greedy(GradCAM):
        def __call__(self, run, /):
            if len(run.batch) > 2:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
            return super().__call__(run)

    methods = {"first": GradCAM(), "greedy": Greedy(), "last": GradCAM()}
    data = batch(n=5)
    with pytest.warns(AttrscoreWarning, match="Memory ran out"):
        table = quiet(net(), data, methods=methods)
    for method, rows in table.groupby("method"):
        assert tuple(rows["id"]) == data.ids
        assert rows["status"].eq("ok").all()
        assert rows["reason"].eq("" if method == "first" else str(SMALLER_BATCHES)).all()
    scores = table.set_index(["method", "id"])["grad_camo"].unstack("method")
    np.testing.assert_allclose(scores["first"], scores["greedy"], atol=1e-12)


@pytest.mark.slow
def test_a_scorer_that_runs_out_is_given_halves():
    def greedy(heat, run, /):
        if len(heat) > 1:
            raise MemoryError
        return heat.mass()

    with pytest.warns(AttrscoreWarning, match="Memory ran out"):
        table = quiet(net(), batch(), scorers=["grad_camo", greedy])
    assert table["greedy"].notna().all()
    assert table["status"].eq("ok").all()


@pytest.mark.slow
def test_a_single_cell_that_does_not_fit_gets_a_status():
    data = batch(n=2)
    with pytest.warns(AttrscoreWarning) as told:
        table = quiet(Tight(1), data, methods={"mine": _never}, layers="inner.high")
    assert table["status"].eq("out_of_memory").all()
    assert table["reason"].str.contains("not enough memory").all()
    assert (table["predicted"] >= 0).all()
    assert any("2 rows of mine are out_of_memory" in str(each.message) for each in told)
    with pytest.warns(AttrscoreWarning), pytest.raises(RuntimeError, match="not enough memory"):
        list(run(net(), data, methods=_never, on_error="raise"))


def test_a_network_that_fits_no_cell_gets_a_status_too():
    model = Tight(1)
    room = Room()
    results = run(model, batch(n=2), layers="inner.high", room=room)
    with pytest.warns(AttrscoreWarning):
        first = next(results)
    model.most = 0
    (second,) = results
    assert first.columns["status"].tolist() == ["ok"]
    assert second.columns["status"].tolist() == ["out_of_memory"]
    assert second.columns["predicted"].tolist() == [-1]
    assert room.cells == 1


def test_what_was_learnt_is_carried_to_a_later_run():
    room = Room()
    with pytest.warns(AttrscoreWarning):
        list(run(Tight(3), batch(), layers="inner.high", room=room))
    later = Tight(3)
    list(run(later, batch(), layers="inner.high", room=room))
    assert max(later.sizes) == 2


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_that_are_in_truth_about_memory(error, expected):
    assert is_out_of_memory(error) is expected


def _never(_run, /):
    raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes")
