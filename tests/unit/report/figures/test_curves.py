from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from attrscore import stats
from attrscore.errors import ConfigError, DataError
from attrscore.report import figures as plots


@pytest.fixture(autouse=True)
def _untouched():
    yield
    assert plt.get_fignums() == []


@pytest.fixture
def scores() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    one = pd.DataFrame(
        {
            "id": [f"c{i}" for i in range(40)],
            "model": "net",
            "method": "grad_cam",
            "layer": "l3",
            "grad_camo": rng.uniform(0.1, 0.6, 40),
            "grad_camo.chance": rng.uniform(0.1, 0.2, 40),
            "grad_camo.highest": 0.7,
            "Metadata_Well": np.arange(40) % 8,
        }
    )
    return pd.concat([one, one.assign(layer="l7", grad_camo=one["grad_camo"] / 2)])


def by_gid(ax, gid):
    return [artist for artist in ax.get_children() if artist.get_gid() == gid]


def test_threshold_curves_draw_what_the_table_says(scores):
    ax = plots.threshold_curves(scores, resamples=199)
    lines = ("above", "band", "attainable", "chance")
    assert [len(by_gid(ax, gid)) for gid in lines] == [2, 2, 1, 1]  # one grid, one chance
    curve = stats.threshold_curve(scores[scores["layer"] == "l3"], resamples=199)
    assert np.array_equal(by_gid(ax, "above")[0].get_ydata(), curve["above"])
    assert np.array_equal(by_gid(ax, "attainable")[0].get_ydata(), curve["attainable"])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["l3", "l7"]


def test_a_line_shared_by_all_conditions_is_grey_and_others_have_their_colours(scores):
    own = np.where(scores["layer"] == "l3", 0.7, 0.5)
    ax = plots.threshold_curves(scores.assign(**{"grad_camo.highest": own}), resamples=199)
    above, attainable = (
        [line.get_color() for line in by_gid(ax, gid)] for gid in ("above", "attainable")
    )
    assert above == attainable
    (chance,) = by_gid(ax, "chance")
    assert chance.get_color() not in above


def test_no_band_where_every_cell_or_no_cell_is_above(scores):
    ax = plots.threshold_curves(scores[scores["layer"] == "l3"], resamples=199)
    (band,) = by_gid(ax, "band")
    drawn = np.concatenate([path.vertices[:, 0] for path in band.get_paths()])
    low, high = scores["grad_camo"][scores["layer"] == "l3"].agg(["min", "max"])
    assert low - 0.01 < drawn.min() < drawn.max() < high + 0.01


def test_figures_go_into_axes_that_are_given(scores):
    sheet = plots.Sheet(inches=(9, 3))
    axes = sheet.subplots(1, 3)
    matrix = stats.agreement(scores)
    assert plots.threshold_curves(scores, ax=axes[0], resamples=199) is axes[0]
    assert plots.score_against_area(scores, ax=axes[1]) is axes[1]
    assert plots.agreement_matrix(matrix, ax=axes[2]) is axes[2]
    assert [text.get_text() for text in axes[2].texts] == ["1.00"] * 4
    (line,) = by_gid(axes[1], "chance")
    assert np.array_equal(line.get_xdata(), line.get_ydata())


def test_figures_that_cannot_be_drawn_say_why(scores):
    blank = scores.assign(grad_camo=np.nan)
    for draw in (plots.threshold_curves, plots.score_against_area):
        with pytest.raises(DataError, match="no cell with a grad_camo"):
            draw(blank)
    with pytest.raises(ConfigError, match=r"grad_camo\.chance"):
        plots.score_against_area(scores.drop(columns="grad_camo.chance"))
    with pytest.raises(DataError, match="no condition"):
        plots.agreement_matrix(pd.DataFrame())


@pytest.mark.slow
def test_many_layers_and_unknown_units_are_drawn(scores):
    many = pd.concat([scores[scores["layer"] == "l3"].assign(layer=f"l{i}") for i in range(12)])
    bare = many.drop(columns=["Metadata_Well", "grad_camo.chance", "grad_camo.highest"])
    ax = plots.threshold_curves(bare, resamples=199)
    assert len(by_gid(ax, "above")) == 12
    assert set(dict(plots.figures_of(bare, stats.report(bare, resamples=199)))) == {
        *("scores", "table", "distributions", "thresholds", "agreement")
    }  # too many pairs for one figure of differences


@pytest.mark.slow
def test_a_report_has_its_figures_and_a_blank_one_none(scores, tmp_path):
    found = stats.report(scores, resamples=199)
    sheets = dict(plots.figures_of(scores, found))
    assert set(sheets) == set(plots.FIGURES) - {"plates", "regions"}  # of columns not here
    for name, sheet in sheets.items():
        assert plots.save(sheet, tmp_path / f"{name}.png").stat().st_size > 1000
    blank = scores.assign(grad_camo=np.nan)[scores["layer"] == "l3"]
    assert not list(plots.figures_of(blank, stats.report(blank, resamples=199)))


@pytest.mark.slow
def test_a_dollar_in_a_name_is_a_dollar(scores, tmp_path):
    priced = scores.assign(model=r"a$\frac$b", layer=[f"$x_{n}$" for n in scores["layer"]])
    found = stats.report(priced, resamples=199)
    for name, sheet in plots.figures_of(priced, found):
        text = plots.save(sheet, tmp_path / f"{name}.svg").read_text("utf-8")
        assert text.count("$x") or name == "area", name
    ax = plots.distribution(priced)
    shown = [label.get_text() for label in ax.get_xticklabels()]
    assert shown == ["$x_l3$", "$x_l7$"]
    assert not any(label.get_parse_math() for label in ax.get_xticklabels())
