from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from attrscore.core.statuses import Reason, stored
from attrscore.errors import ConfigError, DataError
from attrscore.stats import (
    Clusters,
    Verdict,
    adjusted,
    agreement,
    auroc,
    bootstrap,
    compare,
    map_agreement,
    paired,
    report,
    summarise,
    threshold_curve,
    undefined,
    verdict,
    verdicts,
)

QUICK = {"resamples": 199}


def table(cells=60, wells=10, above=0.3, **columns) -> pd.DataFrame:
    """One condition: scores spread around ``above`` chance, wells shifted a little."""
    rng = np.random.default_rng(0)
    well = np.arange(cells) % wells
    corrected = above + 0.02 * rng.normal(size=wells)[well] + 0.02 * rng.normal(size=cells)
    chance = 0.1 + 0.1 * rng.uniform(size=cells)
    made = {
        "id": [f"c{i:03}" for i in range(cells)],
        "model": "net",
        "dataset": "d",
        "method": "grad_cam",
        "layer": "l3",
        "target": "t",
        "status": "ok",
        "confidence": rng.uniform(0.5, 1, cells),
        "grad_camo": corrected * (1 - chance) + chance,
        "grad_camo.chance": chance,
        "grad_camo.highest": 0.9,
        "grad_camo.above_chance": corrected,
        "grad_camo.resolved": corrected,
        "grad_camo.log_odds": 4 * corrected,
        "grad_camo.cell_vs_neighbours": corrected,
        "Metadata_Plate": "P1",
        "Metadata_Well": [f"A{w:02}" for w in well],
    }
    return pd.DataFrame(made | columns)


def judged(above=0.3, null=0.0, inside=0.4, outside=0.1, **columns) -> pd.DataFrame:
    """A trained condition, its randomised weights, and a swap."""
    trained = table(above=above, **{"swap.inside": inside, "swap.outside": outside}, **columns)
    rng = np.random.default_rng(1)
    for side in ("inside", "outside"):
        trained[f"swap.{side}"] += 0.01 * rng.normal(size=len(trained))
    random = table(above=null, **{"model.randomize": "all"})
    return pd.concat([trained.assign(**{"model.randomize": "none"}), random], ignore_index=True)


# Units


def test_units_are_the_outermost_level_with_five_groups():
    cells = table().assign(Metadata_Plate=[f"P{i % 2}" for i in range(60)])
    assert (Clusters.of(cells).level, Clusters.of(cells).units) == ("Metadata_Well", 10)
    assert "2 groups of Metadata_Plate" in Clusters.of(cells).note
    many = cells.assign(Metadata_Plate=[f"P{i % 6}" for i in range(60)])
    assert (Clusters.of(many).level, Clusters.of(many).units) == ("Metadata_Plate", 6)
    assert Clusters.of(many).note == ""


def test_a_well_is_told_apart_by_its_plate():
    cells = table(wells=3).assign(Metadata_Plate=np.repeat(["P1", "P2"], 30))
    assert Clusters.of(cells).units == 6
    assert Clusters.of(cells, ["Metadata_Well"]).units == 3


def test_without_units_there_is_a_value_and_no_interval():
    for cells, words in (
        (table(wells=1), "one Metadata_"),
        (table().drop(columns=["Metadata_Plate", "Metadata_Well"]), "no column Metadata_Plate"),
    ):
        found = bootstrap(cells, "grad_camo")
        assert np.isfinite(found.value)
        assert np.isnan([found.low, found.high]).all()
        assert words in found.note
        assert np.isnan(paired(cells, cells, "grad_camo")["p"])


def test_undefined_cells_are_left_out_and_counted():
    cells = table()
    cells.loc[:9, "grad_camo"] = [np.nan] * 8 + [np.inf, -np.inf]
    found = bootstrap(cells, "grad_camo", **QUICK)
    assert (found.cells, found.undefined) == (50, 10)
    cells.loc[:9, "status"] = "no_positive_mass"
    bounds = undefined(cells, threshold=0.0)
    assert bounds["status.no_positive_mass"] == 10
    assert (bounds["as_zero"], bounds["left_out"], bounds["as_one"]) == (50 / 60, 1.0, 1.0)
    assert bounds["mean_as_zero"] == pytest.approx(found.value * 50 / 60)


def test_scores_without_bounds_get_no_bounds_of_their_mean():
    assert np.isnan(undefined(table(above=-3), score="grad_camo.log_odds")["mean_as_one"])


def test_a_seed_fixes_an_interval_and_another_changes_it():
    one, again, other = (bootstrap(table(), "grad_camo", seed=s, **QUICK) for s in (1, 1, 2))
    assert one == again
    assert one.low != other.low


def test_a_constant_score_has_an_interval_without_width():
    found = bootstrap(table(grad_camo=0.3), "grad_camo", **QUICK)
    assert (found.low, found.value, found.high) == pytest.approx((0.3, 0.3, 0.3))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"confidence": 1.5}, "confidence=1.5"),
        ({"resamples": 3}, "resamples=3"),
        ({"resample": "all"}, "resample='all' is not a choice"),
        ({"interval": "bca"}, "interval='bca' is not a choice"),
        ({"statistic": "median"}, "statistic='median' is not a choice"),
        ({"clusters": ["Metadata_Wel"]}, "Did you mean 'Metadata_Well'"),
    ],
)
def test_wrong_options_get_a_sentence(options, sentence):
    with pytest.raises(ConfigError, match=sentence.replace("(", r"\(")):
        bootstrap(table(), "grad_camo", **options)


# Pairs


def test_pairs_are_matched_by_id_whatever_the_order():
    one = table()
    other = one.assign(grad_camo=one["grad_camo"] - 0.1).iloc[::-1][5:]
    found = paired(one, other, "grad_camo", **QUICK)
    assert (found["cells"], found["unmatched"]) == (55, 5)
    assert found["difference"] == pytest.approx(0.1)
    assert (found["low"], found["high"]) == pytest.approx((0.1, 0.1))
    assert found["wins"] == 1
    assert found["p"] == 2 / 2**10


def test_cells_may_be_declared_units_and_many_units_cost_no_resampling():
    rng = np.random.default_rng(0)
    cells = pd.DataFrame({"id": np.arange(3000), "x": rng.normal(0.05, 1, 3000)})
    found = paired(cells, cells.assign(x=0.0), "x", clusters=["id"])
    t = stats.ttest_1samp(cells["x"], 0)
    assert (found["units"], found["interval"]) == (3000, "t")
    assert (found["low"], found["high"]) == pytest.approx(t.confidence_interval(), rel=1e-9)
    assert found["p"] == pytest.approx(t.pvalue, rel=0.01)


def test_all_pairs_at_the_same_layer_are_compared_and_adjusted():
    tables = [
        table(above=above).assign(method=method, layer=layer)
        for method, above in (("grad_cam", 0.3), ("hires_cam", 0.31), ("saliency", 0.1))
        for layer in ("l3", "l7")
    ]
    found = compare(pd.concat(tables), "grad_camo.above_chance", between="method", **QUICK)
    assert len(found) == 2 * 3
    assert set(found["layer"]) == {"l3", "l7"}
    assert (found["q"] >= found["p"]).all()
    layers = compare(pd.concat(tables), "grad_camo.above_chance", between="layer", **QUICK)
    assert len(layers) == 3
    assert (layers["difference"] == 0).all()
    assert (layers["p"] == 1).all()


def test_models_with_other_weights_are_one_pair():
    fingerprints = {"model.fingerprint": ["a"] * 60 + ["b"] * 60}
    both = pd.concat([table(), table().assign(model="other")]).assign(**fingerprints)
    found = compare(both, "grad_camo", between="model", **QUICK)
    assert found[["first", "second"]].to_numpy().tolist() == [["net", "other"]]
    alike = both.assign(model="net")
    found = compare(alike, "grad_camo", between="model", **QUICK)
    assert found[["first", "second"]].to_numpy().tolist() == [
        ["net fingerprint=a", "net fingerprint=b"]
    ]


def test_a_cell_that_stands_twice_is_refused():
    twice = pd.concat([table(), table()])
    with pytest.raises(DataError, match="'c000' has several rows"):
        paired(twice, table(), "grad_camo")
    with pytest.raises(DataError, match="several rows"):
        agreement(twice)


# Curves, agreement, adjustment, summaries


def test_the_curve_stands_beside_what_is_attainable():
    cells = table(**{"grad_camo.highest": np.linspace(0.5, 0.9, 60)})
    curve = threshold_curve(cells, **QUICK).set_index("threshold")
    assert curve.loc[0.0, "above"] == 1
    assert curve.loc[0.7, "attainable"] == pytest.approx(0.5)
    assert curve.loc[1.0, ["above", "attainable", "chance"]].tolist() == [0, 0, 0]
    assert (curve["low"] <= curve["above"]).all()
    assert (curve["above"] <= curve["high"]).all()
    bare = threshold_curve(cells[["grad_camo", "Metadata_Well"]], **QUICK)
    assert bare[["attainable", "chance"]].isna().all(axis=None)


def test_constant_and_undefined_scores_agree_with_nothing():
    three = pd.concat(
        [
            table(),
            table(grad_camo=0.5).assign(method="flat"),
            table(grad_camo=np.nan).assign(method="blank"),
        ]
    )
    matrix = agreement(three)
    assert matrix.loc["grad_cam l3", "grad_cam l3"] == 1
    assert matrix.isna().sum().sum() == 8


def test_maps_agree_in_two_and_three_dimensions():
    rng = np.random.default_rng(0)
    for grid in ((6, 5), (3, 6, 5)):
        heat = rng.normal(size=(4, 2, *grid))
        heat[3] = -1  # blank
        ids = list("abcd")
        found = map_agreement({"x": (ids, heat), "y": (ids[1:], 3 * heat[1:])}).iloc[0]
        assert (found["cells"], found["rank"], found["overlap"]) == (2, pytest.approx(1), 1)
    with pytest.raises(DataError, match="one grid"):
        map_agreement({"x": (ids, heat), "y": (ids, heat[..., :2])})
    with pytest.raises(ConfigError, match="top=2"):
        map_agreement({}, top=2)


def test_adjustment_leaves_out_what_it_cannot_tell_apart():
    two = pd.concat([table(), table().assign(model="other")])
    flat = two.assign(
        confidence=1.0, **{"grad_camo.chance": np.where(two.model == "net", 0.1, 0.2)}
    )
    found = adjusted(flat, group="model", score="grad_camo")
    assert set(found["covariates"]) == {"none"}
    np.testing.assert_allclose(found["adjusted"], found["mean"])
    gone = adjusted(two.assign(confidence=np.nan), group="model")
    assert set(gone["covariates"]) == {"grad_camo.chance"}
    crowded = np.random.default_rng(3).uniform(size=len(two))
    dense = two.assign(**{"region_shares.neighbours.area": crowded})
    used = "grad_camo.chance, region_shares.neighbours.area, confidence"
    assert set(adjusted(dense, group="model")["covariates"]) == {used}
    counted = adjusted(dense.assign(Metadata_neighbours=crowded), group="model")
    assert set(counted["covariates"]) == {"grad_camo.chance, Metadata_neighbours, confidence"}
    one_well = adjusted(two.assign(Metadata_Well="A"), group="model")
    assert one_well["adjusted"].notna().all()
    assert one_well["low"].isna().all()
    assert adjusted(two.assign(grad_camo=np.nan), group="model").empty
    with pytest.raises(ConfigError, match="Did you mean 'model'"):
        adjusted(two, group="modl")


def test_groups_are_adjusted_for_many():
    treated = table(above=0.0, cells=200, wells=20)
    treated["Metadata_Treatment"] = np.where(treated["Metadata_Well"] < "A10", "drug", "DMSO")
    drug = treated["Metadata_Treatment"] == "drug"
    treated.loc[drug, "grad_camo.above_chance"] += 0.2
    found = summarise(treated, by=["Metadata_Treatment"], **QUICK).set_index("Metadata_Treatment")
    assert found.loc["drug", "q"] < 0.01
    assert found.loc["DMSO", "q"] > found.loc["DMSO", "p"] * 0.99
    assert found.loc["drug", "above_chance.low"] > 0.1
    with pytest.raises(ConfigError, match="no column 'Metadata_Dose'"):
        summarise(treated, by=["Metadata_Dose"])


# Verdicts


def only(cells: pd.DataFrame, **options) -> Verdict:
    return verdict(cells, **QUICK, **options)


def test_attribution_and_swap_on_the_cell_make_it_cell_focused():
    found = only(judged())
    assert found.kind == "cell-focused"
    assert [each.answer for each in found.conditions] == ["yes"] * 5
    assert found["null"].value == pytest.approx(0.3, abs=0.01)
    assert found["swap"].low > 0
    assert "+0.3" in found.sentence


def test_a_background_and_a_neighbour_shortcut_look_elsewhere():
    background = only(judged(above=-0.1, inside=0.0, outside=0.4))
    assert background.kind == "looks elsewhere"
    assert background["null"].answer == "no"
    cheat = judged(above=0.2, inside=0.02, outside=0.4)
    cheat["grad_camo.cell_vs_neighbours"] -= 0.5
    neighbours = only(cheat)
    assert neighbours.kind == "looks elsewhere"
    assert neighbours["null"].answer == "yes"
    assert neighbours["neighbours"].answer == "no"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inside": 0.0, "outside": 0.4}, "they disagree"),
        ({"above": -0.1}, "they disagree"),
        ({"inside": 0.1, "outside": 0.1}, "not decided"),
        ({"grad_camo.cell_vs_neighbours": -0.4}, "they disagree"),
    ],
)
def test_disagreement_is_inconclusive(change, words):
    found = only(judged(**change))
    assert found.kind == "inconclusive"
    assert words in found.sentence


def test_missing_evidence_is_named_with_the_command_that_adds_it():
    found = only(table())
    assert found.kind == "inconclusive"
    assert "model.randomize=all" in found.sentence
    assert "scorer=[grad_camo,swap]" in found.sentence
    assert (found["null"].answer, found["swap"].answer) == ("missing", "missing")


def test_a_swap_that_is_undefined_is_told_with_its_reason_and_not_asked_for_again():
    why = "no cell of a known other class in the pool can be a donor | or another."
    gaps = [Reason("gap", "grad_camo", "no neighbours in the crop."), Reason("gap", "swap", why)]
    found = only(judged(inside=np.nan, outside=np.nan, reasons=stored(gaps)))
    assert found["swap"].answer == "missing"
    assert why in found.sentence
    assert "run it again" not in found.sentence


def test_every_condition_is_printed_with_the_numbers_behind_it():
    from rich.console import Console

    from attrscore.report import text as printout

    cells = judged(grad_camo=0.3)
    found = report(cells, clusters=["Metadata_Well"], **QUICK)
    console = Console(width=250, file=io.StringIO())
    for part in printout.parts(found):
        console.print(part)
    told = " ".join(console.file.getvalue().split())
    (verdict,) = found.verdicts
    for name in ("null", "neighbours", "swap"):
        each = verdict[name]
        assert f"{each.answer}: {each.value:.3f} [{each.low:.3f}, {each.high:.3f}]" in told
    for words in ("cells", f"{verdict['resolvable'].value:.0%}", "all with one score"):
        assert words in told
    inside, outside = (cells[f"swap.{side}"].mean() for side in ("inside", "outside"))
    assert f"{inside:.3f} less {outside:.3f}" in told


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (judged(Metadata_Well="A01"), "fewer than 5: score more wells"),
        (judged().drop(columns=["Metadata_Plate", "Metadata_Well"]), "carry Metadata_Well"),
        (judged().query("id < 'c020'"), "20 cells with a score, fewer than 30"),
        (judged(grad_camo=np.nan), "no cell has a score"),
        (judged().drop(columns="grad_camo.above_chance"), "no column grad_camo.above_chance"),
    ],
)
def test_too_little_evidence_is_inconclusive_in_a_sentence(cells, words):
    if "model.randomize" in cells and "Metadata_Well" in cells and "carry" not in words:
        cells = cells.assign(Metadata_Plate="P1")
    found = only(cells)
    assert found.kind == "inconclusive"
    assert words in found.sentence


def test_a_grid_that_cannot_tell_is_unresolvable_not_low():
    found = only(judged(**{"grad_camo.resolved": [0.1] * 20 + [np.nan] * 40}))
    assert found.kind == "unresolvable"
    assert found["resolvable"].value == pytest.approx(1 / 3)


def test_neighbours_are_not_asked_about_where_there_are_none():
    found = only(judged(**{"grad_camo.cell_vs_neighbours": np.nan}))
    assert found.kind == "cell-focused"
    assert found["neighbours"].answer == "not asked"


def test_the_highest_of_several_random_draws_is_the_null():
    draw = table(above=0.29, **{"model.randomize": "all", "model.fingerprint": "x"})
    cells = pd.concat([judged().assign(**{"model.fingerprint": "y"}), draw])
    assert only(cells)["null"].value == pytest.approx(0.01, abs=1e-6)


def test_a_cascade_is_a_sanity_check_and_no_null():
    cells = judged()
    cells["model.randomize"] = cells["model.randomize"].replace("all", "last")
    found = only(cells)
    assert found["null"].answer == "missing"
    assert "model.randomize=all" in found.sentence


def test_a_null_may_have_a_name_of_its_own_and_is_not_judged():
    cells = judged()
    cells["model"] = np.where(cells.pop("model.randomize") == "all", "random", "net")
    found = verdicts(cells, null="random", **QUICK)
    assert [each.kind for each in found] == ["cell-focused"]
    with pytest.raises(DataError, match="There is no model 'rnd'"):
        verdicts(cells, null="rnd")


def test_one_swap_serves_all_methods_and_layers_of_a_model():
    cells = judged()
    other = cells.assign(method="hires_cam", **{"swap.inside": np.nan, "swap.outside": np.nan})
    both = pd.concat([cells, other])
    assert [each.kind for each in verdicts(both, **QUICK)] == ["cell-focused"] * 2
    with pytest.raises(DataError, match="holds net d grad_cam l3"):
        verdict(both)


# The report


def awkward() -> dict[str, pd.DataFrame]:
    bare = table()[["id", "model", "method", "layer", "grad_camo"]]
    return {
        "bare": bare,
        "one cell": table()[:1],
        "one well": table(wells=1),
        "one class": table(label=0, predicted=0),
        "undefined": table(grad_camo=np.nan, status="no_positive_mass"),
        "constant": table(grad_camo=0.3, **{"grad_camo.above_chance": 0.2}),
        "two models undefined": pd.concat([bare, bare.assign(model="b", grad_camo=np.nan)]),
        "infinite": table(grad_camo=np.inf),
        "wells unknown": table(Metadata_Well=None),
    }


@pytest.mark.parametrize("name", awkward())
def test_a_report_of_awkward_tables_is_told_and_printed(name):
    from rich.console import Console

    from attrscore.report import text as printout

    found = report(awkward()[name], **QUICK)
    assert {each.kind for each in found.verdicts} == {"inconclusive"}
    assert found.as_dict()["cells"] >= 1
    console = Console(width=200, record=True, quiet=True)
    for part in printout.parts(found):
        console.print(part)


def test_a_report_refuses_what_is_no_table_of_results():
    with pytest.raises(DataError, match="is empty"):
        report(table()[:0])
    with pytest.raises(ConfigError, match="Did you mean 'grad_camo'"):
        report(table(), score="grad_cam")
    with pytest.raises(DataError, match="has a column 'layer'"):
        report(table().drop(columns="layer"))
    with pytest.raises(ConfigError, match="threshold=nan"):
        report(table(), threshold=float("nan"))


def test_auroc_counts_pairs_and_leaves_out_the_undefined():
    rng = np.random.default_rng(0)
    one, other = (pd.Series(rng.integers(0, 9, n).astype(float)) for n in (40, 25))
    pairs = one.to_numpy()[:, None] - other.to_numpy()
    expected = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    assert auroc(one, other) == pytest.approx(expected)
    with_gaps = pd.concat([other, pd.Series([np.nan, np.inf])])
    assert auroc(one, with_gaps) == pytest.approx(expected)
    assert np.isnan(auroc(one, other[:0]))


def test_of_many_models_the_first_are_compared_and_the_rest_is_counted():
    many = pd.concat([table(model=f"m{i:02d}") for i in range(26)])
    found = report(many, **QUICK)
    compared = found.comparisons["model"]
    assert set(compared["first"]) | set(compared["second"]) == {f"m{i:02d}" for i in range(24)}
    assert found.uncompared == {"model": 2}
    assert len(found.verdicts) == 26
