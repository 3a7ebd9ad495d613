"""Statistics against scipy and statsmodels, and against answers worked out by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from attrscore.stats import adjust, adjusted, agreement, bootstrap, map_agreement, sign_flip
from attrscore.stats.resampling import Clusters


@pytest.fixture
def cells() -> pd.DataFrame:
    """30 cells, each its own unit: one level."""
    x = np.random.default_rng(0).gamma(2.0, size=30)
    return pd.DataFrame({"id": np.arange(30), "x": x})


def test_percentiles_of_one_level_are_those_of_scipy(cells):
    ours = bootstrap(cells, "x", clusters=["id"], interval="percentile", resamples=20_000)
    theirs = stats.bootstrap(
        (cells["x"],), np.mean, method="percentile", n_resamples=20_000, random_state=0
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx(theirs, abs=0.015)
    assert ours.interval == "percentile"


def test_studentised_intervals_of_many_units_are_those_of_student(cells):
    normal = cells.assign(x=stats.norm.ppf((np.arange(30) + 0.5) / 30))
    ours = bootstrap(normal, "x", clusters=["id"], resamples=20_000)
    theirs = stats.t.interval(0.95, 29, normal["x"].mean(), stats.sem(normal["x"]))
    assert (ours.low, ours.high) == pytest.approx(theirs, abs=0.03)


def test_few_units_get_the_t_interval_of_their_means():
    """Equal units: leaving one out at a time is the textbook interval of the unit means.

    By default it is wider, as percentiles of few are (Hesterberg 2015), for skewed units.
    """
    table = pd.DataFrame({"Metadata_Well": np.repeat([1, 2, 3, 4], 5), "x": np.arange(20.0)})
    means = table.groupby("Metadata_Well")["x"].mean()
    theirs = stats.t.interval(0.95, 3, means.mean(), stats.sem(means))
    ours = bootstrap(table, "x", interval="t")
    assert (ours.low, ours.high) == pytest.approx(theirs, rel=1e-9)
    wider = bootstrap(table, "x")
    assert wider.high - wider.value == pytest.approx((4 / 3) ** 0.5 * (theirs[1] - wider.value))
    assert ours.interval == "t"
    assert ours.note.startswith("only 4 units")


def test_a_share_that_no_cell_reaches_is_bounded_as_by_clopper_and_pearson():
    """Of cells that are units; of cells in wells between theirs of all cells and of all wells."""
    for of_a_well in (1, 5):
        table = pd.DataFrame({"Metadata_Well": np.repeat(np.arange(8), of_a_well), "x": 0.1})
        cells, wells = (
            stats.binomtest(0, n).proportion_ci(method="exact").high for n in (len(table), 8)
        )
        none = bootstrap(table, "x", threshold=0.5)
        every = bootstrap(table, "x", threshold=0.0)
        assert (none.low, every.high) == (0, 1)
        assert none.high == pytest.approx(1 - every.low)
        if of_a_well == 1:
            assert none.high == pytest.approx(cells)
        else:
            assert cells < none.high < wells


def test_sign_flips_are_scipys_permutation_test():
    x = np.array([0.3, 1.2, -0.1, 0.8, 0.5, 0.9])
    table = pd.DataFrame({"id": np.arange(6), "x": x})
    ours = sign_flip(x, Clusters.of(table, ["id"]))
    theirs = stats.permutation_test((x,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert ours == pytest.approx(theirs.pvalue)


def test_adjustment_for_many_is_benjamini_and_hochberg_of_1995():
    """The 15 p values of their section 3.2: at 0.05 the procedure rejects the first four."""
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459]
    p += [0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    assert (adjust(np.array(p)) <= 0.05).sum() == 4


def test_adjusted_means_are_those_of_statsmodels_formula():
    rng = np.random.default_rng(5)
    table = pd.DataFrame({"Metadata_Well": np.repeat(np.arange(12), 20)})
    table["g"] = np.where(table["Metadata_Well"] % 2, "b", "a")
    table["x.chance"] = rng.uniform(0.1, 0.4, len(table)) + 0.1 * (table["g"] == "b")
    table["confidence"] = rng.uniform(size=len(table))
    table["x"] = table["x.chance"] + rng.normal(0, 0.1, len(table))
    found = adjusted(table, group="g", score="x")
    centred = table.assign(
        area=table["x.chance"] - table["x.chance"].mean(),
        sure=table["confidence"] - table["confidence"].mean(),
    )
    fitted = smf.ols("x ~ C(g) - 1 + area + sure", centred).fit(
        cov_type="cluster", cov_kwds={"groups": table["Metadata_Well"]}, use_t=True
    )
    theirs = fitted.conf_int().to_numpy()[:2]
    np.testing.assert_allclose(found["adjusted"], fitted.params[:2], rtol=1e-9)
    np.testing.assert_allclose(found[["low", "high"]], theirs, rtol=1e-9)
    assert found["covariates"].tolist() == ["x.chance, confidence"] * 2
    raw, fair = (abs(np.diff(found[name])[0]) for name in ("mean", "adjusted"))
    assert fair < 0.5 * raw  # the groups differ in area alone


def test_agreement_of_scores_and_maps_is_spearmans():
    rng = np.random.default_rng(6)
    a, b = rng.uniform(size=(2, 20)).round(1)  # with ties
    table = pd.DataFrame({"id": [*range(20)] * 2, "layer": "l", "grad_camo": [*a, *b]})
    table["method"] = ["x"] * 20 + ["y"] * 20
    theirs = stats.spearmanr(a, b).statistic
    assert agreement(table).loc["x l", "y l"] == pytest.approx(theirs)
    first, second = rng.normal(size=(2, 3, 1, 4, 4, 2))
    found = map_agreement({"a": (list("123"), first), "b": (list("123"), second)}).iloc[0]
    each = [
        stats.spearmanr(p.clip(0).ravel(), q.clip(0).ravel()).statistic
        for p, q in zip(first, second, strict=True)
    ]
    assert found["rank"] == pytest.approx(np.mean(each))
    assert found["overlap_chance"] == 3 / 32
