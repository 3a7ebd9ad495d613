from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from attrscore.core.statuses import Reason, stored
from attrscore.errors import ConfigError, DataError
from attrscore.stats import (
    Clusters,
    Rule,
    Verdict,
    adjusted,
    agreement,
    auroc,
    bootstrap,
    compare,
    map_agreement,
    paired,
    repairs,
    report,
    separation,
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


def judged(
    above=0.3, inside=0.4, cell=0.45, outside=0.01, flips=0.02, share=0.1, draws=19, **columns
) -> pd.DataFrame:
    """A trained condition with its swap, and draws of random weights around chance."""
    rng = np.random.default_rng(1)
    swap = {"inside": inside, "cell": cell, "outside": outside}
    trained = table(above=above, **{"model.randomize": "none", "seed": 0}, **columns)
    for side, drop in swap.items():
        trained[f"swap.{side}"] = drop + 0.01 * rng.normal(size=len(trained)) * (drop != 0)
    trained["swap.inside_flips"] = trained["swap.cell_flips"] = 0.5
    trained["swap.outside_flips"] = np.clip(flips + 0.01 * rng.normal(size=len(trained)), 0, 1)
    changed = trained["swap.cell"] != 0  # the share of nothing is undefined
    trained["swap.outside_share"] = np.where(
        changed, share + 0.01 * rng.normal(size=len(trained)), np.nan
    )
    return pd.concat([trained, *random_draws(draws)], ignore_index=True)


def random_draws(draws, above=0.0, **columns) -> list[pd.DataFrame]:
    """Draws of random weights, each a little higher than the one before."""
    option = {"model.randomize": "all"}
    return [
        table(above=above + 0.001 * i, **option, seed=i).assign(**columns) for i in range(draws)
    ]


# Units


def test_units_are_the_outermost_level_with_two_groups():
    assert (Clusters.of(table()).level, Clusters.of(table()).units) == ("Metadata_Well", 10)
    assert Clusters.of(table()).note == "on this Metadata_Plate only"
    cells = table().assign(Metadata_Plate=[f"P{i % 2}" for i in range(60)])
    assert (Clusters.of(cells).level, Clusters.of(cells).units) == ("Metadata_Plate", 2)
    assert "only 2 units (Metadata_Plate): a t interval" in Clusters.of(cells).note
    within = Clusters.of(cells, fewest=5)
    assert (within.level, within.units) == ("Metadata_Well", 10)
    assert within.note == "on these 2 groups of Metadata_Plate only"
    many = cells.assign(Metadata_Plate=[f"P{i % 6}" for i in range(60)])
    assert (Clusters.of(many).level, Clusters.of(many).units) == ("Metadata_Plate", 6)
    assert Clusters.of(many).note == ""
    unlike = cells.assign(Metadata_Plate=["P0"] * 50 + [f"P{i}" for i in range(1, 6)] * 2)
    assert "6 units (Metadata_Plate) that weigh as 1.4 alike ones" in Clusters.of(unlike).note


def test_a_well_is_told_apart_by_its_plate():
    cells = table(wells=3).assign(Metadata_Plate=np.repeat(["P1", "P2"], 30))
    assert len(set(Clusters.of(cells, fewest=3).outer)) == 6
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
    assert (one.low, one.high) != (other.low, other.high)


def test_a_constant_score_has_an_interval_without_width():
    found = bootstrap(table(grad_camo=0.3), "grad_camo", **QUICK)
    assert (found.low, found.value, found.high) == pytest.approx((0.3, 0.3, 0.3))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"confidence": 1.5}, "confidence=1.5"),
        ({"resamples": 3}, "resamples=3"),
        ({"interval": "bca"}, "interval='bca' is not a choice"),
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


def test_differences_of_rounding_are_ties():
    """Grad-CAM and HiResCAM where they are one formula: always 1e-8 apart, which is equal."""
    one = pd.DataFrame({"id": range(60), "Metadata_Well": [f"A{i % 20:02d}" for i in range(60)]})
    one["x"] = np.linspace(-2, 3, 60).astype(np.float32).astype(float)
    found = paired(one.assign(x=one["x"] + 1e-8), one, "x", resamples=199)
    assert (found["difference"], found["low"], found["high"], found["p"]) == (0, 0, 0, 1)
    assert (found["ties"], found["same"], found["wins"]) == (60, True, 0.5)
    found = paired(one.assign(x=one["x"] + 1e-4), one, "x", resamples=199)
    assert found["p"] < 0.001
    assert (found["ties"], found["same"]) == (0, False)
    small = one.assign(x=one["x"] * 1e-12)  # what is small is told by its own size
    assert paired(small.assign(x=small["x"] * 1.1), small, "x", resamples=199)["ties"] == 0
    half = one.assign(x=one["x"].where(one["id"] % 2 == 0, one["x"] + 1))
    assert paired(half, one, "x", resamples=199)["ties"] == 30


@pytest.mark.slow
def test_accuracy_stands_apart_for_cells_that_a_model_was_trained_on():
    rows = table(cells=60, wells=10)
    rows["label"] = np.arange(60) % 3
    rows["predicted"] = rows["label"].where(np.arange(60) % 4 > 0, 0)
    both = pd.concat([rows, rows.assign(method="saliency")], ignore_index=True)  # each cell once
    (whole,) = report(both, **QUICK).accuracy.to_dict("records")
    right = (rows["predicted"] == rows["label"]).mean()
    assert (whole["cells"], whole["count"]) == ("all cells", 60)
    assert whole["accuracy"] == pytest.approx(right)
    assert whole["low"] < right < whole["high"]
    names = {"d": ["DMSO", "a drug", "another"]}
    apart = both.assign(held_out=[i % 60 < 20 for i in range(120)])
    found = report(apart, classes=names, **QUICK)
    assert found.accuracy[["cells", "count"]].values.tolist() == [
        ["held out", 20],
        ["trained on", 40],
    ]
    ((name, counts),) = found.confusion.items()
    assert name == "net, held out"
    assert list(counts) == list(counts.index) == names["d"]
    held = rows[:20]
    assert (
        counts.to_numpy().tolist() == pd.crosstab(held["label"], held["predicted"]).values.tolist()
    )
    assert set(found.subsets["subset"]) == {*names["d"], "right", "wrong", "held out", "trained on"}
    assert set(found.subsets["method"]) == {"grad_cam"}  # the primary condition alone
    drug = found.subsets.set_index("subset").loc["a drug"]
    assert drug["cells"] == 20
    assert drug["median"] == rows.loc[rows["label"] == 1, "grad_camo"].median()
    assert report(rows.assign(label=-1), **QUICK).accuracy.empty
    said = list(text_of(found))
    assert any("a drug" in each for each in said)


def text_of(found):
    """What the terminal shows."""
    from rich.console import Console

    from attrscore.report import text

    for part in text.parts(found):
        console = Console(file=io.StringIO(), width=300)
        console.print(part)
        yield console.file.getvalue()


def test_medians_and_clipped_cells_stand_beside_means():
    """A handful of cells without heat decides a mean, not a median: they are counted."""
    rows = table(cells=40)
    rows["grad_camo.log_odds"] = 0.06
    rows.loc[:3, "grad_camo.log_odds"] = -9.0
    rows["grad_camo.log_odds.clipped"] = (rows["grad_camo.log_odds"] < 0).astype(float)
    found = report(rows, **QUICK)
    (row,) = found.summary.to_dict("records")
    assert row["log_odds"] < -0.8
    assert row["log_odds.median"] == pytest.approx(0.06)
    assert row["log_odds.clipped"] == 4
    assert row["median"] == pytest.approx(rows["grad_camo"].median())
    assert any("0.060, 4" in each for each in text_of(found))


def test_methods_that_give_the_same_numbers_are_said_to_be_one():
    rows = table()
    other = rows.assign(method="hires_cam")
    other["grad_camo.log_odds"] += 1e-8
    found = report(pd.concat([rows, other]), **QUICK)
    (pair,) = found.comparisons["method"].to_dict("records")
    assert pair["same"]
    assert pair["p"] == 1
    said = " ".join(" ".join(text_of(found)).split())
    assert "grad_cam and hires_cam give the same grad_camo.log_odds in all 60 cells" in said
    assert "on this model they are one formula" in said


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
    for few in ({"Metadata_Well": "A"}, {"Metadata_Plate": np.arange(len(two)) % 4}):
        made = adjusted(two.assign(**few), group="model")
        assert made["adjusted"].notna().all()
        assert made["low"].isna().all()
    assert adjusted(two.assign(grad_camo=np.nan), group="model").empty
    with pytest.raises(ConfigError, match="Did you mean 'model'"):
        adjusted(two, group="modl")


def treated() -> pd.DataFrame:
    """Cells of a drug that lie above random weights, and of DMSO that do not."""
    cells = table(above=0.0, cells=200, wells=20, **{"model.randomize": "none"})
    drug = cells["Metadata_Well"] < "A10"
    for name in ("above_chance", "log_odds"):
        cells.loc[drug, f"grad_camo.{name}"] += 0.2
    return cells.assign(Metadata_Treatment=np.where(drug, "drug", "DMSO"))


def draws_of_treated(draws) -> list[pd.DataFrame]:
    rows = treated().assign(**{"model.randomize": "all"})
    noise = np.random.default_rng(5).normal(0, 0.05, draws)
    return [
        rows.assign(seed=i, **{"grad_camo.log_odds": float(level)}) for i, level in enumerate(noise)
    ]


@pytest.mark.slow
def test_groups_are_ranked_among_draws_and_adjusted_within_their_condition():
    by = ["Metadata_Treatment"]
    draws = draws_of_treated(199)
    own = summarise(treated(), by=by, draws=pd.concat(draws), **QUICK).set_index(by[0])
    assert own.loc["drug", "p"] == 1 / 200
    assert own.loc["drug", "q"] == pytest.approx(1 / 100)
    assert own.loc["DMSO", "q"] == own.loc["DMSO", "p"] > 0.05
    assert own.loc["drug", "above_chance.low"] > 0.1
    found = summarise(pd.concat([treated(), *draws[:2]]), by=by, **QUICK)
    random = found["model.randomize"] == "all"
    assert found.loc[random, ["p", "q"]].isna().all(axis=None)
    assert found.loc[~random, "draws"].tolist() == [2, 2]
    with pytest.raises(ConfigError, match="no column 'Metadata_Dose'"):
        summarise(treated(), by=["Metadata_Dose"])


# Verdicts


def only(cells: pd.DataFrame, **options) -> Verdict:
    return verdict(cells, **QUICK, **options)


KINDS = {
    "honest": ("cell-focused", {}),
    "honest by size, which the swap cannot see": ("cell-focused", {"inside": 0.0}),
    "half and half": ("reads both", {"inside": 0.3, "cell": 0.3, "outside": 0.3, "share": 0.5}),
    "60 and 40, saturated": ("reads both", {"outside": 0.01, "share": 0.4}),
    "flipped by its surroundings": ("reads both", {"outside": 0.03, "flips": 0.25}),
    "cheat": ("looks elsewhere", {"inside": 0.0, "cell": 0.01, "outside": 0.4, "share": 0.9}),
    "cheat whose heat lies on the cell": (
        "looks elsewhere",
        {"above": 0.5, "inside": 0.0, "cell": 0.0, "outside": 0.4, "share": 0.9},
    ),
    "cheat without draws": (
        "looks elsewhere",
        {"inside": 0.0, "cell": 0.0, "outside": 0.4, "share": 0.9, "draws": 0},
    ),
    "nothing": ("no effect", {"inside": 0.01, "cell": 0.02, "outside": 0.01, "share": 0.5}),
    "no better than random weights": ("inconclusive", {"above": 0.0}),
    "below random weights": ("inconclusive", {"above": -0.3}),
    "a little": ("inconclusive", {"inside": 0.08, "cell": 0.08}),
    "a coarse grid": ("unresolvable", {"grad_camo.resolved": [0.1] * 20 + [np.nan] * 40}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_each_kind_follows_from_its_evidence(name):
    kind, change = KINDS[name]
    found = only(judged(**change))
    assert found.kind == kind, found.sentence
    assert found.sentence.startswith(f"{kind}: ")


def test_the_sentence_has_the_numbers_that_a_reader_needs():
    found = only(judged())
    for words in (
        "drop by exchanging the cell +0.4",
        "by transplanting it whole +0.4",
        "by exchanging its surroundings +0.0",
        "which flips ",
        "10% [10%, 10%] of the changes of margin",
        "ranks 1 of 20 among random weights (p = 0.050)",
        "60 cells in 10 units of Metadata_Well, on this Metadata_Plate only",
    ):
        assert words in found.sentence
    assert found["draws"].value == 0.05
    assert found["inside"].low > 0.39
    assert str(found.rule).startswith("effect=0.1, negligible=0.05")


def test_an_untrained_model_has_no_effect_whatever_its_rank():
    found = only(judged(above=0.5, inside=0.0, cell=0.0, outside=0.0, flips=0.0))
    assert found.kind == "no effect"
    assert found["draws"].answer == "yes"
    for side in ("inside", "cell", "outside"):
        assert "+0.000 [+0.000, +0.000]" in found[side].text
    assert found["share"].answer == "missing"  # nothing of nothing


@pytest.mark.slow
def test_a_reader_of_both_halves_alike_is_never_cell_focused():
    for drop in np.linspace(0, 0.6, 9):
        half = {"inside": drop, "cell": drop, "outside": drop, "share": 0.5, "flips": drop / 2}
        assert only(judged(**half)).kind != "cell-focused"


def test_drops_that_cancel_over_cells_still_count_in_the_share():
    found = only(judged(outside=0, flips=0, share=0.4))
    assert found.kind == "reads both"
    assert found["share"].value == pytest.approx(0.4, abs=0.01)


def test_thresholds_are_options_and_stand_in_the_verdict():
    strict = Rule(effect=0.5)
    found = only(judged(), rule=strict)
    assert (found.kind, found.rule) == ("inconclusive", strict)
    with pytest.raises(ConfigError, match="draws=99 or more"):
        Rule(p=0.01)
    with pytest.raises(ConfigError, match="between 0 and effect"):
        Rule(negligible=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("guide", ["outside", "rrr", "of_ones_own"])
def test_a_model_guided_by_a_score_is_never_cell_focused_on_the_strength_of_one(guide):
    honest = only(judged().assign(**{"model.guide": guide}))
    assert honest.kind == "guided"
    assert honest.sentence.startswith(f"guided: trained with guide={guide}; drop by exchanging")
    without = only(judged(draws=0).assign(**{"model.guide": guide}))
    assert without.kind == "guided"
    gamed = {"above": 0.5, "inside": 0.0, "cell": 0.0, "outside": 0.99, "share": 0.99}
    found = only(judged(**gamed).assign(**{"model.guide": guide}))
    assert found.sentence.startswith(f"looks elsewhere: gamed by guide={guide}; drop")
    for kind, change in KINDS.values():
        guided = only(judged(**change).assign(**{"model.guide": guide})).kind
        assert guided == kind or (kind != "reads both" and guided == "guided")
        assert guided != "cell-focused"


@pytest.mark.slow
@pytest.mark.parametrize("guide", ["none", "swap", "masked_crops", np.nan, None])
def test_a_guide_that_looks_at_no_attribution_leaves_the_verdict_alone(guide):
    for kind, change in KINDS.values():
        assert only(judged(**change).assign(**{"model.guide": guide})).kind == kind


@pytest.mark.slow
def test_what_a_guide_did_is_found_by_the_swap_on_the_same_cells():
    cheat = {"above": 0.0, "inside": 0.0, "cell": 0.0, "outside": 0.6, "share": 0.9}
    arms = {
        "mended": {},
        "gamed": {**cheat, "above": 0.5},
        "partly": {**cheat, "outside": 0.3, "above": 0.2},
        "not mended": cheat,
    }
    plain = judged(**cheat).assign(model="plain")
    made = [
        judged(**change).assign(model=name, **{"model.guide": "outside"})
        for name, change in arms.items()
    ]
    found = repairs(pd.concat([plain, *made]), **QUICK).set_index("model")
    assert found["finding"].to_dict() == {name: name for name in arms}
    assert set(found["against"]) == {"plain"}
    assert found.loc["gamed", "score.low"] > 1
    assert found.loc["mended", "swap.high"] < -0.5
    honest = pd.concat([judged().assign(model="plain"), made[0]])
    assert repairs(honest, **QUICK)["finding"].tolist() == ["nothing to mend"]
    assert repairs(plain, **QUICK).empty
    assert repairs(made[0], **QUICK).empty
    assert report(pd.concat([plain, *made]), **QUICK).repairs["finding"].tolist() == list(arms)


@pytest.mark.slow
def test_a_guided_model_is_asked_where_the_shortcut_conflicts():
    swapped = judged().assign(**{"model.guide": "swap"})
    said = {"label": 0, "Metadata_conflicting": np.arange(len(swapped)) % 2}
    right = swapped.assign(**said, predicted=0)
    other = np.arange(len(swapped)) % 7 == 0  # another class, so that a guess is right in a half
    right = right.assign(label=other.astype(int), predicted=other.astype(int))
    found = only(right, rule=Rule(cells=20))
    assert found.kind == "cell-focused"
    assert "trained with guide=swap, as the swap tests" in found.sentence
    assert "right in 100% [" in found.sentence
    assert found["conflicting"].answer == "yes"
    wrong = right.assign(predicted=np.where(said["Metadata_conflicting"], 1, 0) ^ right["label"])
    found = only(wrong, rule=Rule(cells=20))
    assert found.kind == "inconclusive"
    assert "right in 0% [0%, 0%] of conflicting cells, where a guess is in 50%" in found.sentence
    assert only(wrong.assign(**{"model.guide": "none"}), rule=Rule(cells=20)).kind == "cell-focused"
    few = only(wrong, rule=Rule(cells=40))  # 30 such cells are fewer: they say nothing
    assert few.kind == "cell-focused"
    assert "conflicting" not in {each.name for each in few.conditions}

    cheat = {"inside": 0.0, "cell": 0.0, "outside": 0.6, "share": 0.9}
    plain = judged(**cheat).assign(
        model="plain", label=right["label"], predicted=right["predicted"]
    )
    plain["Metadata_conflicting"] = right["Metadata_conflicting"]
    made = repairs(pd.concat([plain, right.assign(model="it")]), **QUICK).iloc[0]
    assert (made["finding"], made["conflicting"]) == ("mended", 1.0)
    made = repairs(pd.concat([plain, wrong.assign(model="it")]), **QUICK).iloc[0]
    assert (made["finding"], made["conflicting"]) == ("guesses", 0.0)
    all_cells = [each.drop(columns="Metadata_conflicting") for each in (plain, wrong)]
    made = repairs(pd.concat([all_cells[0], all_cells[1].assign(model="it")]), **QUICK).iloc[0]
    assert made["finding"] == "guesses"
    assert np.isnan(made["conflicting"])


def test_a_table_of_before_is_judged_by_what_it_has():
    cells = judged()
    old = cells.drop(columns=[n for n in cells if "share" in n or "swap.cell" in n])
    assert only(old).kind == "cell-focused"
    assert only(old)["share"].answer == only(old)["cell"].answer == "missing"


def test_missing_evidence_is_named_with_the_command_that_adds_it():
    found = only(table())
    assert found.kind == "inconclusive"
    assert "scorer=[grad_camo,swap]" in found.sentence
    assert "model.randomize=all model.draws=19" in found.sentence
    assert (found["draws"].answer, found["outside"].answer) == ("missing", "missing")
    few = only(judged(draws=18))
    assert few.kind == "inconclusive"
    assert "18 draws of random weights, fewer than 19" in few.sentence


def test_a_swap_that_is_undefined_is_told_with_its_reason_and_not_asked_for_again():
    why = "no cell of a known other class in the pool can be a donor | or another."
    gaps = [Reason("gap", "grad_camo", "no neighbours in the crop."), Reason("gap", "swap", why)]
    found = only(judged(inside=np.nan, outside=np.nan, reasons=stored(gaps)))
    assert found["outside"].answer == "missing"
    assert why in found.sentence
    assert "run it again" not in found.sentence


def test_every_condition_is_printed_with_the_numbers_behind_it():
    from rich.console import Console

    from attrscore.report import text as printout

    found = report(judged(), clusters=["Metadata_Well"], **QUICK)
    console = Console(width=300, file=io.StringIO())
    for part in printout.parts(found):
        console.print(part)
    told = " ".join(console.file.getvalue().split())
    (verdict,) = found.verdicts
    for name in ("inside", "cell", "outside", "flips", "share"):
        each = verdict[name]
        assert f"{each.answer}: {each.value:.3f} [{each.low:.3f}, {each.high:.3f}]" in told
    for words in ("60 cells", "yes: p = 0.050", "1 of 20", "100%", verdict.sentence, "primary"):
        assert words in told


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (judged(Metadata_Well="A01"), "one Metadata_Well only: no interval: score more wells"),
        (judged().drop(columns=["Metadata_Plate", "Metadata_Well"]), "carry Metadata_Well"),
        (judged().query("id < 'c020'"), "20 cells with a score, fewer than 30"),
        (judged(grad_camo=np.nan), "0 cells with a score"),
    ],
)
def test_too_little_evidence_is_inconclusive_in_a_sentence(cells, words):
    found = only(cells)
    assert found.kind == "inconclusive"
    assert words in found.sentence


def test_a_verdict_on_few_plates_says_so_in_its_sentence():
    cells = judged()
    number = cells.index % 60
    few = only(cells.assign(Metadata_Plate=[f"P{i % 2}" for i in number]))
    assert few.kind == "cell-focused"
    words = "10 units of Metadata_Well, on these 2 groups of Metadata_Plate only"
    assert words in few.sentence
    many = only(cells.assign(Metadata_Plate=[f"P{i % 10 // 2}" for i in number]))
    assert many.sentence.endswith("60 cells in 5 units of Metadata_Plate")


# The null


def test_a_rank_counts_draws_at_least_as_high():
    found = only(judged(above=0.0105))  # above 11 of 19
    assert found["draws"].made_of == "9 of 20"
    assert found["draws"].value == pytest.approx(9 / 20)
    assert found["draws"].answer == "no"


def test_draws_without_a_score_in_half_of_the_cells_do_not_count():
    cells = judged()
    blank = cells["seed"].gt(0) & cells["id"].ge("c020")
    cells.loc[blank, "grad_camo.log_odds"] = np.nan
    found = only(cells)
    assert (found.kind, found["draws"].answer) == ("inconclusive", "missing")
    assert "1 draws of random weights (18 more define fewer than half" in found.sentence
    assert "model.draws=37" in found.sentence


def test_draws_on_a_shard_are_compared_on_the_cells_that_both_have():
    whole = {"dataset.shard": None, "dataset.of": None, "dataset.fingerprint": "whole"}
    cells = judged().assign(**whole, **{"scorer.swap.count": 4.0})
    drawn = cells["model.randomize"] == "all"
    cells.loc[drawn, list(whole)] = ["0/4", "the whole", "a shard"]
    cells.loc[drawn, "scorer.swap.count"] = np.nan  # they need no swap
    kept = cells[~drawn | cells["id"].lt("c015")].copy()
    assert only(kept).kind == "cell-focused"
    assert only(kept)["draws"].made_of == "1 of 20"
    kept.loc[~drawn & kept["id"].lt("c015"), "grad_camo.log_odds"] = -1.0
    assert only(kept)["draws"].made_of == "20 of 20"


def test_a_score_without_log_odds_is_ranked_itself_by_the_way_it_is_read():
    cells = judged()
    plain = cells.drop(columns="grad_camo.log_odds")
    assert only(plain)["draws"].made_of == "1 of 20"


def test_a_cascade_is_a_sanity_check_and_no_null():
    cells = judged()
    cells["model.randomize"] = cells["model.randomize"].replace("all", "last")
    found = only(cells)
    assert found["draws"].answer == "missing"
    assert "model.randomize=all" in found.sentence


def test_a_null_may_have_a_name_of_its_own_and_is_not_judged():
    cells = judged()
    cells["model"] = np.where(cells.pop("model.randomize") == "all", "random", "net")
    found = verdicts(cells, null="random", **QUICK)
    assert [each.kind for each in found] == ["cell-focused"]
    with pytest.raises(DataError, match="There is no model 'rnd'"):
        verdicts(cells, null="rnd")


# Methods and layers


def beside(cells: pd.DataFrame, **about) -> pd.DataFrame:
    """The same cells under another method or layer, without a swap of their own."""
    return cells.assign(**about, **{n: np.nan for n in cells if n.startswith("swap.")})


def test_one_swap_serves_all_methods_and_layers_of_a_model():
    cells = judged()
    both = pd.concat([cells, beside(cells, method="hires_cam")])
    assert [each.kind for each in verdicts(both, **QUICK)] == ["cell-focused"] * 2
    assert verdict(both, **QUICK).about["method"] == "grad_cam"
    models = pd.concat([cells, cells.assign(model="other")])
    with pytest.raises(DataError, match="net.* d grad_cam l3"):
        verdict(models, **QUICK)


def test_the_primary_condition_speaks_for_its_model_alone():
    cells = judged()
    low = cells["grad_camo.log_odds"].where(cells["model.randomize"] == "all", -1)
    other = beside(cells, layer="l7", **{"grad_camo.log_odds": low})
    both = pd.concat([cells.assign(depth=0.3), other.assign(depth=0.7)])
    deepest = verdict(both, **QUICK)
    assert (deepest.kind, deepest.about["layer"]) == ("inconclusive", "l7")
    chosen = verdict(both, primary={"layer": "l3"}, **QUICK)
    assert (chosen.kind, chosen.about["layer"]) == ("cell-focused", "l3")
    with pytest.raises(DataError, match="primary layer=l9; there are"):
        verdicts(both, primary={"layer": "l9"})


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.sampled_from(["blank draw", "twin", "method", "layer"]), min_size=1, max_size=4),
    st.sampled_from(["honest", "half and half", "cheat", "nothing", "a little"]),
    st.randoms(use_true_random=False),
)
def test_rows_that_are_added_change_no_other_rows_answer(added, name, random):
    cells = judged(**KINDS[name][1]).assign(depth=0.5)
    cells["Metadata_Treatment"] = np.where(cells["Metadata_Well"] < "A05", "drug", "DMSO")
    more = [cells]
    for i, what in enumerate(added):
        level = {"grad_camo.log_odds": random.uniform(-1, 2)}
        more.append(
            {
                "blank draw": lambda i=i: random_draws(
                    1, depth=0.5, Metadata_Treatment="drug", grad_camo=np.nan
                )[0].assign(seed=100 + i, **{"grad_camo.log_odds": np.nan}),
                "twin": lambda i=i, level=level: random_draws(1)[0].assign(
                    depth=0.5, seed=100 + i, **{"model.randomize": "last"}, **level
                ),
                "method": lambda i=i, level=level: beside(cells, method=f"a{i}", **level),
                "layer": lambda i=i, level=level: beside(
                    cells, method=f"a{i}", layer="l9", depth=0.9, **level
                ),
            }[what]()
        )
    after = pd.concat(more, ignore_index=True)
    before, found = (verdict(each, resamples=99) for each in (cells, after))
    assert (before.kind, before.sentence) == (found.kind, found.sentence)
    q = [
        made[(made["model.randomize"] == "none") & (made["method"] == "grad_cam")][
            ["Metadata_Treatment", "p", "q"]
        ].to_numpy()
        for made in (
            summarise(each[~each["seed"].between(3, 99)], by=["Metadata_Treatment"], resamples=99)
            for each in (cells, after)
        )
    ]
    assert q[0].tolist() == q[1].tolist()


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


@pytest.mark.slow
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


def test_separation_is_auroc_with_an_interval_over_the_units_of_both():
    honest, cheat = (table(above=level).drop(columns="Metadata_Plate") for level in (0.3, 0.29))
    cheat["grad_camo.log_odds"] += np.random.default_rng(7).normal(0, 0.1, len(cheat))
    column = "grad_camo.log_odds"
    found = separation(honest, cheat, column, resamples=999)
    assert found.value == pytest.approx(auroc(honest[column], cheat[column]))
    assert (found.units, found.cells, found.interval) == (10, 120, "expanded")
    assert 0 <= found.low < found.value < found.high <= 1
    cells = separation(honest, cheat, column, clusters=["id"], resamples=999)
    assert found.high - found.low != pytest.approx(cells.high - cells.low)
    none = separation(honest, cheat.assign(**{column: np.nan}), column)
    assert np.isnan([none.value, none.low]).all()


@pytest.mark.slow
def test_of_many_models_the_first_are_compared_and_the_rest_is_counted():
    many = pd.concat([table(model=f"m{i:02d}") for i in range(26)])
    found = report(many, **QUICK)
    compared = found.comparisons["model"]
    assert set(compared["first"]) | set(compared["second"]) == {f"m{i:02d}" for i in range(24)}
    assert found.uncompared == {"model": 2}
    assert len(found.verdicts) == 26
