"""Figures of a report's tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from attrscore import stats
from attrscore.cli.main import main
from attrscore.errors import ConfigError, DataError
from attrscore.report import figures as plots
from attrscore.stats.conditions import named, short


@pytest.fixture(autouse=True)
def _untouched():
    yield
    assert plt.get_fignums() == []


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frames = []
    for model, shift in (("one", 0.3), ("other", 0.0)):
        for weights in ("none", "all"):
            for layer in ("l3", "l7"):
                frame = pd.DataFrame({"id": [f"c{i}" for i in range(48)], "model": model})
                values = rng.uniform(0.1, 0.4, 48) + (shift if weights == "none" else 0)
                frame = frame.assign(method="grad_cam", layer=layer, grad_camo=values)
                frame["model.randomize"] = weights
                frame["grad_camo.chance"] = 0.2
                frame["grad_camo.cell"] = values
                frame["grad_camo.neighbours"] = 0.5 * (1 - values)
                frame["grad_camo.above_chance"] = (values - 0.2) / 0.8
                frame["Metadata_Plate"] = np.repeat(["P1", "P2"], 24)
                frame["Metadata_Well"] = [f"{'ABC'[i % 3]}{1 + i % 8:02d}" for i in range(48)]
                frames.append(frame)
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="module")
def found(table):
    return stats.report(table, resamples=199)


def by_gid(ax, gid):
    return [artist for artist in ax.get_children() if artist.get_gid() == gid]


@pytest.mark.slow
def test_every_kind_is_drawn_without_a_warning(table, found, tmp_path):
    for kind in plots.FIGURES:
        for suffix in ("png", "svg", "pdf") if kind == "scores" else ("svg",):
            path = plots.save(plots.figure(kind, table, found), tmp_path / f"{kind}.{suffix}")
            assert path.stat().st_size > 2000


def test_the_command_line_names_the_figures_that_there_are(capsys):
    with pytest.raises(SystemExit):
        main(["report", "--help"])
    told = "".join(capsys.readouterr().out.split())
    assert f"onefigurealone:{','.join(plots.FIGURES)}" in told


def test_every_figure_says_what_it_shows_and_needs():
    for name, each in plots.FIGURES.items():
        assert each.title, name
        assert each.needs, name


@pytest.mark.slow
def test_a_kind_that_is_not_there_or_has_nothing_to_show_says_so(table, found):
    with pytest.raises(ConfigError, match="Did you mean 'plates'"):
        plots.figure("plate", table, found)
    alone = table[(table["model"] == "one") & (table["layer"] == "l3")]
    alone = alone[alone["model.randomize"] == "none"].drop(columns="Metadata_Well")
    told = stats.report(alone, resamples=199)
    for kind, why in (("differences", "two models"), ("plates", "B02"), ("agreement", "two")):
        with pytest.raises(DataError, match=why):
            plots.figure(kind, alone, told)


def test_bands_show_mean_interval_chance_and_the_null_of_the_same_network(found):
    ax = plots.bands(found.summary, shown=found.shown, ax=Figure().subplots())
    tested = found.summary[found.summary["model.randomize"] == "none"]
    means = [line.get_xdata()[0] for line in by_gid(ax, "mean")]
    assert means == pytest.approx(tested["mean"].tolist())
    assert [line.get_xdata()[0] for line in by_gid(ax, "chance")] == pytest.approx([0.2] * 4)
    nulls = by_gid(ax, "null")
    assert len(nulls) == 4
    row = found.summary[found.summary["model.randomize"] == "all"].iloc[0]
    box = nulls[0].get_paths()[0].get_extents()
    assert (box.x0, box.x1) == pytest.approx((row["low"], row["high"]))


def test_a_heat_table_has_a_row_a_network_and_blanks_where_nothing_is_known(found):
    tested = found.summary[found.summary["model.randomize"] == "none"]
    lacking = tested.assign(mean=tested["mean"].where(tested["layer"] != "l7"))
    ax = plots.score_table(lacking, shown=found.shown, ax=Figure().subplots())
    assert [t.get_text() for t in ax.get_yticklabels()] == ["one", "other"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["grad_cam l3", "grad_cam l7"]
    drawn = [float(text.get_text()) for text in ax.texts]
    assert drawn == pytest.approx(tested.loc[tested["layer"] == "l3", "mean"].tolist(), abs=0.006)


def test_wells_lie_where_they_lie_on_the_plate(table):
    one = table[(table["model"] == "one") & (table["layer"] == "l3")]
    one = one[(one["model.randomize"] == "none") & (one["Metadata_Plate"] == "P1")]
    lost = one["Metadata_Well"] == "B02"
    one = one.assign(grad_camo=one["grad_camo"].where(~lost))
    ax = plots.plate_map(one, ax=Figure().subplots())
    grid = np.ma.filled(ax.images[0].get_array(), np.nan)
    assert grid.shape == (8, 12)
    a1 = one.loc[one["Metadata_Well"] == "A01", "grad_camo"].mean()
    assert grid[0, 0] == pytest.approx(a1)
    assert np.isnan(grid[1, 1])
    assert np.isnan(grid[7, 11])
    (cross,) = by_gid(ax, "undefined")
    assert (cross.get_xdata()[0], cross.get_ydata()[0]) == (1, 1)
    with pytest.raises(DataError, match="B02"):
        plots.plate_map(one.assign(Metadata_Well="here"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["T127", "AG01", "A49", "A0", "well 7", "embryo3", "x01_t2"])
def test_no_plate_is_drawn_of_names_that_are_not_all_wells(table, found, name):
    """A field E3 among others named otherwise lies on no plate."""
    assert plots.figure("plates", table, found)
    odd = table.assign(Metadata_Well=table["Metadata_Well"].replace("B02", name))
    with pytest.raises(DataError, match="all named as B02"):
        plots.figure("plates", odd, found)
    with pytest.raises(DataError, match=name):
        plots.plate_map(odd[odd["Metadata_Well"] == name])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "shape"), [(["A01", "P24"], (16, 24)), (["AF48", "a1"], (32, 48)), (["H12"], (8, 12))]
)
def test_a_plate_is_as_large_as_its_wells_need(table, names, shape):
    rows = table[:2].assign(Metadata_Well=pd.Series(names).reindex(range(2)).to_numpy())
    ax = plots.plate_map(rows, ax=Figure().subplots())
    assert ax.images[0].get_array().shape == shape


def test_bars_of_regions_sum_to_one_above_the_areas_of_the_regions(table, found):
    one = table[(table["model"] == "one") & (table["model.randomize"] == "none")]
    ax = plots.region_bars(one, ax=Figure().subplots())
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["grad_cam l3", "grad_cam l7"]  # no area of the neighbours is known
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "cell",
        "neighbours",
        "background",
    ]
    ends = {}
    for bar in ax.patches:
        ends[round(bar.get_y(), 3)] = bar.get_x() + bar.get_width()
    assert list(ends.values()) == pytest.approx([1, 1])
    regions = {"nucleus": 0.1, "cytoplasm": 0.3, "cell": 0.4, "neighbours": 0.2, "background": 0.4}
    whole = one.assign(
        **{f"region_shares.{name}": share for name, share in regions.items()},
        **{f"region_shares.{name}.area": share for name, share in regions.items()},
    )
    ax = plots.region_bars(whole, ax=Figure().subplots())
    assert ax.get_yticklabels()[-1].get_text() == "area"
    widths = [bar.get_width() for bar in ax.patches if bar.get_height() < 0.9]
    assert widths == pytest.approx([0.1] * 3 + [0.3] * 3 + [0.2] * 3 + [0.4] * 3)
    with pytest.raises(DataError, match="no share"):
        plots.region_bars(one.drop(columns=["grad_camo.cell"]))


def test_differences_are_those_of_the_comparison(found):
    compared = found.comparisons["model"]
    ax = plots.differences(compared, shown=found.shown, ax=Figure().subplots())
    drawn = [line.get_xdata()[0] for line in by_gid(ax, "difference")]
    assert drawn == pytest.approx(compared["difference"].tolist())
    assert ax.get_yticklabels()[0].get_text() == "one − other  (grad_cam l3)"
    with pytest.raises(DataError, match="no pair"):
        plots.differences(pd.DataFrame())


def test_names_tell_networks_from_what_was_asked_of_them():
    rows = pd.DataFrame({"model": ["n", "n"], "method": "m", "layer": "l"})
    rows["model.fingerprint"] = ["0123456789abcdef", "fedcba9876543210"]
    rows["heat.sign"] = ["positive", "absolute"]
    made = named(rows, ["model", "method", "layer", "model.fingerprint", "heat.sign"])
    assert made["series"].tolist() == ["n fingerprint=01234567", "n fingerprint=fedcba98"]
    assert made["method_layer"].tolist() == ["m l sign=positive", "m l sign=absolute"]
    assert short("no print") == "no print"
