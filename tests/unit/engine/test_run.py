"""The loop, its table, and what it does with failures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from nets import batch, net
from rich.console import Console

import attrscore
from attrscore.core.columns import KEY_COLUMNS
from attrscore.core.contracts import Batch, Reasoned
from attrscore.core.statuses import reason_table
from attrscore.engine.evaluate import evaluate
from attrscore.engine.run import run
from attrscore.errors import AttrscoreWarning, ConfigError, DataError, UnsupportedError
from attrscore.methods.gradients import Saliency


def quiet(*args, **options) -> pd.DataFrame:
    return evaluate(*args, **{"progress": "none", **options})


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [2, 3])
def test_one_tidy_row_a_cell_method_and_layer(dimensions):
    table = quiet(
        net(dimensions),
        [batch(dimensions, seed=0), batch(dimensions, seed=1)],
        methods=["grad_cam", "guided_grad_cam", "integrated_gradients"],
        layers=["low", "high"],
    )
    assert len(table) == 8 * (2 + 2 + 1)
    assert tuple(table.columns[: len(KEY_COLUMNS)]) == KEY_COLUMNS
    assert not table.duplicated(["id", "model", "method", "layer", "target"]).any()
    assert set(table["Metadata_Well"]) == {"A0", "A1", "A2", "A3"}
    # Guided gradients of a random network can be negative wherever the Grad-CAM is positive.
    assert set(table["status"]) <= {"ok", "no_positive_mass"}
    table = table[table["method"] != "guided_grad_cam"]
    assert table["status"].eq("ok").all()
    assert table["confidence"].between(1 / 3, 1).all()
    companions = "chance lift above_chance log_odds lowest highest resolved cell neighbours"
    for name in f"{companions} background cell_vs_neighbours auc".split():
        assert table[f"grad_camo.{name}"].notna().all(), name


def test_several_networks_and_renamed_plugins():
    table = quiet(
        {"a": net(), "b": net(inplace=True)},
        iter([batch()]),
        methods={
            "fine": attrscore.METHODS.build("integrated_gradients", steps=64),
            "coarse": attrscore.METHODS.build("integrated_gradients", steps=4),
        },
    )
    assert set(table["model"]) == {"a", "b"}
    error = table.groupby("method")["completeness_error"].apply(lambda e: e.abs().max())
    assert error["fine"] < error["coarse"]


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["gausslegendre", "riemann_trapezoid"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_integrated_gradients_are_complete(rule, dimensions):
    method = attrscore.METHODS.build("integrated_gradients", steps=200, rule=rule)
    table = quiet(net(dimensions), batch(dimensions), methods=method)
    # The integrand jumps where a ReLU switches, so the sum converges with the steps, not at once.
    assert table["completeness_error"].abs().max() < 0.02 * table["output_change"].abs().max()


@pytest.mark.slow
def test_integrated_gradients_do_not_depend_on_the_chunk_nor_change_the_class():
    results = [
        quiet(net(), batch(), methods=attrscore.METHODS.build("ig", steps=20, chunk=chunk))
        for chunk in (1, 7, 1000)
    ]
    for other in results[1:]:
        np.testing.assert_allclose(results[0]["grad_camo"], other["grad_camo"], atol=1e-9)


def test_a_plain_function_is_a_scorer_and_a_failing_one_spoils_nothing():
    def on_nucleus(heat, run, /, *, region: str = "nucleus"):
        return heat.mass(run.batch.regions[region]) / heat.mass()

    def total(heat, run, /):
        return heat.mass()

    with pytest.warns(AttrscoreWarning, match="scorer 'on_nucleus': KeyError: 'nucleus'"):
        table = quiet(net(), batch(), scorers=["grad_camo", on_nucleus, total])
    assert table["grad_camo"].notna().all()
    assert table["on_nucleus"].isna().all()
    assert (table["total"] > 0).all()
    assert table["status"].eq("ok").all()
    with pytest.raises(KeyError, match="nucleus"):
        quiet(net(), batch(), scorers=on_nucleus, on_error="raise")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("returned", "got"),
    [(torch.zeros(3), r"a tensor \(3,\)"), (0.5, "float"), ({"a": None}, "NoneType")],
)
def test_a_scorer_that_returns_the_wrong_thing(returned, got):
    with pytest.warns(AttrscoreWarning, match=rf"one number a cell; given: {got}"):
        table = quiet(net(), batch(), scorers=lambda heat, run: returned)
    assert table["status"].eq("error").all()


@pytest.mark.parametrize(
    ("maps", "sentence"),
    [
        ({"input": torch.zeros(4, 1, 12, 10)}, "declares explains = 'input'"),
        ({"high": torch.zeros(4, 12, 10)}, r"returned a map \(4, 12, 10\) for 'high'"),
        ({}, "does not depend on this layer"),
    ],
)
def test_a_method_that_returns_the_wrong_thing(maps, sentence):
    with pytest.warns(AttrscoreWarning, match=sentence):
        table = quiet(net(), batch(), methods={"mine": lambda run: maps})
    assert table["grad_camo"].isna().all()
    assert not table["status"].eq("ok").any()


@pytest.mark.slow
def test_memory_that_runs_out_is_a_status():
    def greedy(run):
        raise MemoryError("could not allocate")

    with pytest.warns(AttrscoreWarning) as told:
        table = quiet(net(), batch(), methods=["grad_cam", greedy])
    assert "4 rows of greedy are out_of_memory" in str(told[-1].message)
    assert set(table.groupby("method")["status"].first()) == {"ok", "out_of_memory"}


def test_non_finite_pixels_touch_only_their_own_rows():
    data = batch()
    spoilt = data.inputs.clone()
    spoilt[1, 0, 0, 0] = torch.nan
    spoilt[2, 0, 0, 0] = -torch.inf
    clean = quiet(net(), data, methods=["grad_cam", "integrated_gradients"])
    dirty = quiet(
        net(),
        Batch(spoilt, data.regions, ids=data.ids),
        methods=["grad_cam", "integrated_gradients"],
    )
    assert dirty["status"].tolist() == ["ok", "nonfinite", "nonfinite", "ok"] * 2
    fine = dirty["status"].eq("ok")
    np.testing.assert_allclose(dirty["grad_camo"][fine], clean["grad_camo"][fine], atol=1e-12)
    assert dirty.loc[~fine, [c for c in dirty if c.startswith("grad_camo")]].isna().all(axis=None)


def test_known_triples_are_skipped():
    results = list(
        run(net(), batch(), layers=["low", "high"], skip=[("grad_cam", "low", "grad_camo")])
    )
    assert [result.layer for result in results] == ["high"]


def test_maps_are_kept_signed_on_their_own_grid():
    (kept,) = run(net(), batch(), layers="high", keep="native")
    assert kept.maps.shape == (4, 1, 6, 5)
    assert kept.maps.min() < 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"methods": "grad_camm"}, "No method is called 'grad_camm'. Did you mean 'grad_cam'"),
        ({"scorers": []}, "No scorer is given"),
        ({"methods": ["grad_cam", "grad_cam"]}, "'grad_cam' is given twice"),
        ({"methods": 3}, "3 is no method; expected a registered name"),
        ({"methods": Saliency}, r"Saliency is a class, and no method yet; give Saliency\(\)"),
        ({"methods": []}, "No method is given"),
        ({"method": "saliency"}, "'method' is no option of run. Did you mean 'methods'"),
        ({"layers": []}, "layers=.. names no layer"),
        ({"layers": 0.5}, "layers=0.5 must be the name of a layer.*'depth=0.5'"),
        ({"layers": ["low", 3]}, "layers=.'low', 3. must be the name of a layer"),
        ({"heat": {"rezize": "nearest"}}, "'rezize' is no option of heat. Did you mean 'resize'"),
        ({"keep": "all"}, "keep='all' is not a choice"),
        ({"heat": {"sign": "both"}}, "sign='both' is not a choice"),
        ({"heat": 3}, "heat=3 must be a mapping of channels, sign, resize, minmax"),
        ({"layout": {"prefx": 1}}, "'prefx' is no option of layout. Did you mean 'prefix'"),
        ({"layout": 3}, "layout=3 must be a mapping of"),
        ({"target": "best"}, "No target is called 'best'"),
        ({"target": ["predicted", "label"]}, "names 2 targets; one is explained at a time"),
        ({"target": lambda output: output[:, 0]}, "is no target: it has no prepare"),
        ({"batch_size": 0}, "batch_size=0 must be a whole number from 1"),
        ({"batch_size": "8"}, "batch_size='8' must be a whole number"),
        ({"pool": "all"}, "pool='all' must be a Batch, or how many"),
        ({"progress": "yes"}, "progress='yes' is not a choice"),
    ],
)
def test_wrong_options(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        quiet(net(), batch(), **options)


def test_nothing_to_evaluate():
    with pytest.raises(DataError, match="no batch"):
        quiet(net(), [])
    with pytest.raises(DataError, match="None holds no batches"):
        quiet(net(), None)
    with pytest.raises(ConfigError, match="There is no model to evaluate"):
        quiet({}, batch())
    with pytest.raises(DataError, match="items=3 must say what each item of a batch is"):
        quiet(net(), (torch.ones(1, 2, 8, 8), torch.ones(1, 8, 8)), items=3)


def test_a_network_with_one_output_is_confident_by_its_sigmoid():
    model, data = net(classes=1), batch()
    table = quiet(model, data)
    with torch.no_grad():
        expected = model(data.inputs)[:, 0].abs().sigmoid()
    np.testing.assert_allclose(table["confidence"], expected)
    assert table["status"].eq("ok").all()


def test_a_missing_value_of_a_row_that_is_ok_has_a_reason():
    first = torch.tensor([True, False, False, False])

    def told(heat, run, /):
        values = heat.mass().masked_fill(first, torch.nan)
        return Reasoned({"score": values, "other": values * 0}, {"it is the first.": first})

    def untold(heat, run, /):
        return {"score": heat.mass(), "odd": heat.mass().masked_fill(~first, torch.nan)}

    data = batch()
    spoilt = data.inputs.clone()
    spoilt[3] = torch.nan
    table = quiet(net(), replace(data, inputs=spoilt), scorers=[told, untold])
    assert table["reason"].tolist() == [
        "told: it is the first.",
        *["untold: untold.odd undefined."] * 2,
        "",  # its status says why
    ]
    assert table["status"].tolist() == ["ok", "ok", "ok", "nonfinite"]


@pytest.mark.slow
def test_a_region_that_a_cell_lacks_is_its_reason():
    data = batch()
    nucleus = data.regions["cell"].clone()
    nucleus[1], nucleus[2] = False, True
    data = replace(data, regions={**data.regions, "nucleus": nucleus})
    names = ("auc", "distance", "iou", "relevance_rank", "circular_shift")
    for name in names:
        table = quiet(net(), data, scorers={"s": attrscore.SCORERS.build(name, region="nucleus")})
        assert table["s"].isna().tolist() == [False, True, True, False]
        empty, full = (f"s: the region 'nucleus' {is_}." for is_ in ("is empty", "fills the crop"))
        assert table["reason"].tolist() == ["", empty, full, ""]


@pytest.mark.slow
def test_a_scorer_that_cannot_work_is_told_and_is_no_failure():
    def never(heat, run, /):
        raise UnsupportedError("nothing to score.")

    def broken(heat, run, /):
        raise ValueError("a bug")

    with pytest.warns(AttrscoreWarning, match="never cannot work here: nothing to score"):
        table = quiet(net(), batch(), scorers=[never])
    assert table["status"].eq("ok").all()  # so that the row stays that of other scorers
    assert table["never"].isna().all()
    with pytest.warns(AttrscoreWarning) as caught:
        table = quiet(net(), batch(), scorers=[never, broken, "grad_camo"])
    assert len(caught) == 2
    assert set(table["reason"]) == {
        "scorer 'broken': ValueError: a bug | never cannot work here: nothing to score."
    }
    told = reason_table(table).set_index("kind")["rows"]
    assert told.to_dict() == {"failure": 4, "unsupported": 4}
    with pytest.warns(AttrscoreWarning, match="it returned no column"):
        quiet(net(), batch(), scorers=lambda heat, run: {})


@pytest.mark.parametrize(("installed", "shown"), [(None, False), (object(), True)])
def test_no_progress_in_a_notebook_that_cannot_show_it(installed, shown, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "attrscore.engine.evaluate.Console", lambda **_: Console(force_jupyter=True)
    )
    monkeypatch.setattr("attrscore.engine.evaluate.find_spec", lambda _: installed)
    monkeypatch.setattr(
        "attrscore.engine.evaluate.track",
        lambda each, *_, disable, **__: seen.append(not disable) or each,
    )
    evaluate(net(), batch(), layers="high")
    assert seen == [shown]


def test_a_layer_at_which_a_method_raises_costs_no_other_its_rows():
    def touchy(current):
        if "low" in current.layers:
            raise RuntimeError("not here")
        return dict(current.activations)

    with pytest.warns(AttrscoreWarning, match="4 rows of touchy are error"):
        both = quiet(net(), batch(), methods={"touchy": touchy}, layers=["low", "high"])
    alone = quiet(net(), batch(), methods={"touchy": touchy}, layers="high")
    assert set(both.loc[both["layer"] == "low", "status"]) == {"error"}
    high = both[both["layer"] == "high"].reset_index(drop=True)
    pd.testing.assert_frame_equal(high, alone, check_exact=True)
