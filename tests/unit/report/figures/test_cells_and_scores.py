from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from attrscore.core.readings import attach, readings_of
from attrscore.errors import ConfigError, DataError
from attrscore.report.figures import (
    Example,
    Sheet,
    distribution,
    distributions,
    overlay,
    overlays,
    save,
)
from attrscore.report.figures.scores import thinned
from attrscore.scorers import GradCAMO

HONEST, CHEAT = "tiny_cnn:honest", "tiny_cnn:background"
LAYERS = {"grad_cam": ["features.3", "features.6"], "integrated_gradients": ["input"]}
CHANCE = {"features.3": 0.13, "features.6": 0.2, "input": 0.1}
HIGHEST = {"features.3": 0.9, "features.6": 0.6, "input": 1.0}


@pytest.fixture(autouse=True)
def _untouched():
    """No figure is left with pyplot, and neither its backend nor a random state has changed."""
    backend, state = mpl.get_backend(), np.random.get_state()[1].copy()  # seaborn's
    yield
    assert plt.get_fignums() == []
    assert mpl.get_backend() == backend
    assert np.array_equal(np.random.get_state()[1], state)


def table(cells=20, models=(HONEST, CHEAT), methods=LAYERS) -> pd.DataFrame:
    spread = np.linspace(-0.05, 0.05, cells)
    made = pd.concat(
        [
            pd.DataFrame(
                {
                    "id": [f"cell{i}" for i in range(cells)],
                    "model": model,
                    "dataset": "phantom",
                    "method": method,
                    "layer": layer,
                    "target": "predicted",
                    "label": 0,
                    "status": "ok",
                    "confidence": 0.9,
                    "grad_camo": (0.05 if model == CHEAT else 0.55) + spread,
                    "grad_camo.chance": CHANCE.get(layer, 0.1) + spread / 10,
                    "grad_camo.lowest": 0.0,
                    "grad_camo.highest": HIGHEST.get(layer, 1.0) + np.minimum(spread, 0),
                    "grad_camo.auc": 0.7,
                    "Metadata_Plate": 1,
                }
            )
            for model in models
            for method, layers in methods.items()
            for layer in layers
        ],
        ignore_index=True,
    )
    return attach(made, {"grad_camo": readings_of(GradCAMO)})


def marks(ax, gid):
    return [c for c in ax.collections if c.get_gid() == gid]


def heights(ax, gid):
    """Of horizontal segments, from left to right."""
    segments = [line.get_segments()[0] for line in marks(ax, gid)]
    return [float(s[0, 1]) for s in sorted(segments, key=lambda s: s[0, 0])]


def drawn(figure):
    figure.draw_without_rendering()  # runs the layout
    return figure


# ---------------------------------------------------------------- distributions


@pytest.mark.slow
def test_a_panel_a_method_with_its_own_layers_in_network_order():
    scores = table().sort_values("layer", key=lambda s: s != "features.6", kind="stable")
    figure = drawn(distributions(scores))
    assert isinstance(figure, Sheet)
    assert [ax.get_title("left") for ax in figure.axes] == list(LAYERS)
    labels = [[t.get_text() for t in ax.get_xticklabels()] for ax in figure.axes]
    assert labels == [["features.6", "features.3"], ["input"]]
    assert {ax.get_ylim() for ax in figure.axes} == {(-0.025, 1.025)}


def test_chance_and_attainable_interval_stand_at_their_values():
    ax = distributions(table()).axes[0]
    assert heights(ax, "chance") == pytest.approx([0.13, 0.13, 0.2, 0.2])
    ceiling = table().groupby("layer")["grad_camo.highest"].mean()
    assert heights(ax, "ceiling") == pytest.approx(
        [ceiling["features.3"]] * 2 + [ceiling["features.6"]] * 2
    )
    spans = [band.get_paths()[0].get_extents() for band in marks(ax, "attainable")]
    assert {s.y0 for s in spans} == {0}
    assert sorted(s.y1 for s in spans) == pytest.approx([0.6, 0.6, 0.9, 0.9])


def test_the_network_that_cheats_stands_below_chance():
    figure = distributions(table())
    ax = figure.axes[0]
    assert heights(ax, "median") == pytest.approx([0.55, 0.05, 0.55, 0.05])
    assert all(len(dots.get_offsets()) == 20 for dots in marks(ax, "cells"))
    (legend,) = figure.legends
    words = [text.get_text() for text in legend.get_texts()]
    assert words[:2] == [
        f"{HONEST}\n100% of scores above chance",
        f"{CHEAT}\n0% of scores above chance",
    ]


def test_undefined_cells_are_counted_under_their_group():
    scores = table()
    group = (scores.model == CHEAT) & (scores.layer == "features.6")
    scores.loc[scores[group].index[:7], "grad_camo"] = np.nan
    scores.loc[scores.method == "integrated_gradients", "grad_camo"] = np.nan
    left, right = drawn(distributions(scores)).axes
    notes = {t.get_text(): t.xy[0] for t in left.texts if t.get_gid() == "undefined"}
    assert notes == {"undefined": 0.0, "7": pytest.approx(1.2)}
    assert [t.get_text() for t in right.texts].count("20") == 2
    assert marks(right, "cells") == []
    assert heights(right, "chance") == pytest.approx([0.1, 0.1])


@pytest.mark.slow
@pytest.mark.parametrize("cells", [1, 3])
def test_few_cells_are_dots_without_a_violin(cells):
    ax = drawn(distributions(table(cells))).axes[0]
    assert [len(dots.get_offsets()) for dots in marks(ax, "cells")] == [cells] * 4
    assert {c.get_gid() for c in ax.collections} == {
        *("attainable", "ceiling", "chance", "cells", "median")
    }


def test_nothing_defined_at_all_and_infinite_scores_are_drawn():
    scores = table(3)
    scores["grad_camo"] = [np.nan, np.inf, -np.inf] * 6
    figure = drawn(distributions(scores))
    assert [t.get_text() for t in figure.axes[0].texts].count("3") == 4


def test_a_companion_column_has_its_own_chance_and_scale():
    scores = table().assign(**{"grad_camo.log_odds": np.linspace(-3, 4, 120)})
    ax = distributions(scores, score="grad_camo.log_odds").axes[0]
    assert set(heights(ax, "chance")) == {0.0}
    assert marks(ax, "attainable") == []
    assert ax.get_ylim() == pytest.approx((-3.175, 4.175))
    assert set(heights(distributions(scores, score="grad_camo.auc").axes[0], "chance")) == {0.5}


@pytest.mark.slow
def test_many_layers_methods_and_models_stay_apart():
    methods = {f"method_{i}": [f"encoder.layers.{k}.conv2" for k in range(10)] for i in range(3)}
    scores = table(2, [f"network{i}" for i in range(6)], methods)
    figure = drawn(distributions(scores))
    boxes = [ax.get_tightbbox() for ax in figure.axes]
    assert len(boxes) == 3
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
    for ax in figure.axes:
        slanted = {t.get_rotation() for t in ax.get_xticklabels()}
        assert slanted == {30.0}


def test_title_notes_panels_and_legend_do_not_overlap():
    figure = drawn(distributions(table(methods={"integrated_gradients": ["input"]})))
    (legend,) = figure.legends
    boxes = [
        *(text.get_window_extent() for text in figure.texts),
        legend.get_window_extent(),
        figure.axes[0].get_tightbbox(),
    ]
    for i, box in enumerate(boxes):
        assert not any(box.padded(-1).overlaps(other) for other in boxes[:i])


def test_a_model_on_several_datasets_becomes_several_series():
    scores = pd.concat([table(), table().assign(dataset="embryos")])
    texts = [t.get_text() for t in distributions(scores).legends[0].get_texts()]
    assert sum(t.startswith(f"{HONEST}, ") for t in texts) == 2
    assert not any(t.startswith(f"{HONEST}, ") for t in legend_of(table()))


def test_randomised_weights_are_a_series_of_their_own():
    both = pd.concat([table(), table()], ignore_index=True)
    half = len(both) // 2
    both["model.randomize"] = ["none"] * half + ["all"] * half
    texts = [" ".join(text.split()) for text in legend_of(both)]
    assert sum(text.startswith(f"{HONEST}, randomised weights") for text in texts) == 1
    assert len(texts) == len(legend_of(table())) + len(set(both["model"]))


def legend_of(scores):
    return [t.get_text() for t in distributions(scores).legends[0].get_texts()]


def test_one_method_is_drawn_into_the_axes_given():
    scores = table()
    ax = Figure().subplots()
    assert distribution(scores[scores.method == "grad_cam"], ax=ax) is ax
    assert heights(ax, "chance") == pytest.approx([0.13, 0.13, 0.2, 0.2])
    assert ax.get_ylabel().replace("\n", " ") == "share of the attribution on the cell"
    alone = distribution(scores[scores.method == "integrated_gradients"])
    assert isinstance(alone.figure, Sheet)
    with pytest.raises(ConfigError, match=r"grad_cam, integrated_gradients.*distributions"):
        distribution(scores, ax=ax)


def test_a_wrong_column_gets_a_suggestion_from_the_scores_alone():
    with pytest.raises(ConfigError, match=r"Did you mean 'grad_camo'\?") as caught:
        distributions(table(), score="gradcamo")
    assert "Metadata" not in str(caught.value)
    assert "confidence" not in str(caught.value)
    with pytest.raises(ConfigError, match="no column of scores 'status'"):
        distributions(table(), score="status")


def test_an_empty_table_is_said_to_be_empty():
    with pytest.raises(DataError, match="empty"):
        distributions(table()[:0])


def test_thinning_keeps_ends_and_quantiles():
    values = np.random.default_rng(0).beta(2, 5, 5000)
    frame = pd.DataFrame({"layer": "a", "series": "b", "value": values})
    kept = thinned(frame, most=300)["value"]
    assert 290 <= len(kept) <= 300
    assert (kept.min(), kept.max()) == (values.min(), values.max())
    assert kept.quantile([0.1, 0.5, 0.9]).to_numpy() == pytest.approx(
        np.quantile(values, [0.1, 0.5, 0.9]), abs=0.005
    )
    assert len(thinned(frame[:300], most=300)) == 300


# ---------------------------------------------------------------- overlays


def ball(space, at, radius):
    axes = np.meshgrid(*map(np.arange, space), indexing="ij")
    return sum((a - c) ** 2 for a, c in zip(axes, at, strict=True)) < radius**2


def example(space=(32, 32), channels=5, **changes):
    cell = ball(space, [s // 2 for s in space], 6)
    neighbours = ball(space, [*(s // 2 for s in space[:-1]), space[-1]], 7) & ~cell
    image = np.random.default_rng(0).uniform(size=(channels, *space)) + cell
    given = {
        "id": "plate1/B02/cell7",
        "image": image,
        "regions": {"cell": cell, "neighbours": neighbours},
        "heats": {"grad_cam features.3": cell * 2.0, "saliency input": 1.0 - cell},
        "scores": {"grad_cam features.3": 1.0, "saliency input": 0.0},
    }
    return Example(**(given | changes))


def outlines(ax):
    return {c.get_gid(): c for c in ax.collections if c.get_gid()}


def test_overlay_outlines_cell_and_neighbours_around_their_pixels():
    e = example()
    ax = overlay(e.image, e.heats["grad_cam features.3"], e.regions, title="grad_cam")
    found = outlines(ax)
    assert set(found) == {"cell", "neighbours"}
    y, x = np.nonzero(e.regions["cell"])
    box = found["cell"].get_paths()[0].get_extents()
    assert box.extents == pytest.approx(
        (x.min() - 0.5, y.min() - 0.5, x.max() + 0.5, y.max() + 0.5)
    )
    assert found["cell"].get_linestyle()[0][1] is None
    assert found["neighbours"].get_linestyle()[0][1] is not None
    assert ax.get_title() == "grad_cam"
    assert (ax.get_xlim(), ax.get_ylim()) == ((-0.5, 31.5), (31.5, -0.5))


def test_heat_is_scaled_by_its_own_maximum_and_transparent_at_zero():
    e = example()
    ax = overlay(e.image, e.heats["grad_cam features.3"], e.regions)
    grey, heat = ax.images
    assert grey.get_array().ndim == 2
    assert heat.get_array().max() == 1
    assert heat.get_clim() == (0, 1)
    assert heat.cmap(0.0)[3] == 0
    assert heat.cmap(1.0)[3] > 0.8


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 7])
def test_channels_without_heat_are_added_up_in_colours(channels):
    e = example(channels=channels)
    (image,) = overlay(e.image, None, {}).images
    colours = image.get_array()
    assert colours.shape == (32, 32, 3)
    assert colours.max() <= 1
    assert (np.ptp(colours, axis=-1).max() < 1e-9) == (channels == 1)
    assert (colours.min(axis=-1) >= 1).mean() < 0.02, "a composite must not drown in white"


def test_a_bad_pixel_a_flat_channel_and_a_lost_channel_do_not_spoil_the_image():
    e = example(channels=3)
    e.image[0, 0, 0] = np.inf
    e.image[1] = 4.0
    e.image[2] = np.nan
    (image,) = overlay(e.image, None, e.regions).images
    assert np.isfinite(image.get_array()).all()
    assert image.get_array().max() > 0.5


@pytest.mark.parametrize(
    ("heat", "words"),
    [(0.0, "blank: no attribution"), (np.nan, "undefined"), (np.inf, "undefined")],
)
def test_blank_and_undefined_heat_say_so(heat, words):
    e = example()
    ax = overlay(e.image, np.full((32, 32), heat), e.regions)
    assert [t.get_text() for t in ax.texts] == [words]
    assert len(ax.images) == 1


@pytest.mark.parametrize("mask", [np.zeros((32, 32), bool), np.ones((32, 32), bool)])
def test_empty_and_full_masks_do_not_warn(mask):
    e = example()
    ax = overlay(e.image, None, {"cell": mask, "neighbours": ~mask})
    assert set(outlines(ax)) == {"cell" if mask.any() else "neighbours"}


@pytest.mark.parametrize(
    ("image", "heat", "mask", "words"),
    [
        ((32, 32), (32, 32), (32, 32), r"\(C, Y, X\)"),
        ((3, 32, 32), (8, 8), (32, 32), r"heat 'heat'.*\(32, 32\).*\(8, 8\).*Heat\.full\(\)"),
        ((3, 32, 32), (32, 32), (32, 31), r"region 'cell'.*\(32, 31\)"),
        ((3, 8, 32, 32), (8, 32, 32), (8, 32, 32), r"one plane.*overlays"),
    ],
)
def test_shapes_that_do_not_fit_are_named(image, heat, mask, words):
    with pytest.raises(DataError, match=words):
        overlay(np.zeros(image), np.zeros(heat), {"cell": np.zeros(mask, bool)})


def test_signed_maps_are_refused():
    with pytest.raises(DataError, match="sign"):
        overlay(np.zeros((1, 4, 4)), np.full((4, 4), -1.0), {})


def test_overlays_give_a_row_a_cell_and_a_column_a_heat():
    other = example(
        id="cell8",
        regions={"cell": example().regions["cell"]},
        heats={"grad_cam features.3": np.zeros((32, 32))},
        scores={"grad_cam features.3": np.nan},
        caption="cell 8, treated",
    )
    figure = drawn(overlays([example(), other], title="tiny_cnn"))
    panels = np.array(figure.axes[:6]).reshape(2, 3)
    titles = [[ax.get_title() for ax in row] for row in panels]
    assert titles == [
        ["image", "grad_cam features.3\n1.00", "saliency input\n0.00"],
        ["", "undefined", ""],
    ]
    assert [ax.get_ylabel() for ax in panels[:, 0]] == ["plate1/B02/cell7", "cell 8, treated"]
    assert set(outlines(panels[1, 1])) == {"cell"}
    assert [t.get_text() for t in panels[1, 2].texts] == ["not computed"]
    assert figure.texts[0].get_text() == "tiny_cnn"
    assert any("for display only" in t.get_text() for t in figure.texts)


@pytest.mark.slow
def test_a_volume_becomes_its_projection_and_slices_through_the_cell():
    e = example(space=(20, 32, 32), channels=2)
    figure = drawn(overlays([e]))
    panels = np.array(figure.axes[:18]).reshape(6, 3)
    labels = [ax.get_ylabel() for ax in panels[:, 0]]
    assert labels == ["plate1/B02/cell7\nmax projection", *(f"z = {z}" for z in (6, 8, 10, 12, 14))]
    projected, middle = panels[0, 1].images[1].get_array(), panels[3, 1].images[1].get_array()
    assert np.array_equal(projected, e.heats["grad_cam features.3"].max(axis=0) / 2)
    assert np.array_equal(middle, e.heats["grad_cam features.3"][10] / 2)
    wide, narrow = (
        outlines(ax)["cell"].get_paths()[0].get_extents().width
        for ax in (panels[0, 0], panels[1, 0])
    )
    assert wide > narrow
    assert panels[0, 1].get_title().endswith("1.00")
    assert panels[1, 1].get_title() == ""


def test_a_thin_cell_gives_no_slice_twice_and_a_lost_cell_the_whole_depth():
    cell = np.zeros((20, 32, 32), bool)
    cell[3:5, 8:12, 8:12] = True
    nothing = {"heats": {}, "scores": {}}
    thin = overlays([example((20, 32, 32), regions={"cell": cell}, **nothing)])
    assert [ax.get_ylabel() for ax in thin.axes[1:]] == ["z = 3", "z = 4"]
    lost = overlays([example((20, 32, 32), regions={}, **nothing)])
    assert [ax.get_ylabel() for ax in lost.axes[1:]] == [f"z = {z}" for z in (2, 6, 10, 14, 18)]


def test_no_examples_is_an_error():
    with pytest.raises(DataError, match="at least one cell"):
        overlays([])


# ---------------------------------------------------------------- files


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "magic"), [("a.png", b"\x89PNG"), ("b.SVG", b"<?xml"), ("c.pdf", b"%PDF")]
)
def test_save_writes_what_the_suffix_says(tmp_path, name, magic):
    path = save(distributions(table(3)), tmp_path / "new" / "folder" / name)
    assert path == tmp_path / "new" / "folder" / name
    assert path.read_bytes().startswith(magic)
    assert [p.name for p in path.parent.iterdir()] == [name]


def test_save_refuses_other_suffixes(tmp_path):
    with pytest.raises(ConfigError, match=r"\.png, \.svg, \.pdf"):
        save(Figure(), tmp_path / "figure.docx")


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path):
    class Broken(Figure):
        def savefig(self, path, **options):
            path.write_bytes(b"half")
            raise OSError("disk full")

    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="disk full"):
        save(Broken(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_save_closes_a_figure_of_pyplot(tmp_path):
    figure, ax = plt.subplots()
    distribution(table(3, methods={"saliency": ["input"]}), ax=ax)
    save(figure, tmp_path / "figure.png")
    assert plt.get_fignums() == []


def test_a_notebook_shows_a_sheet_without_pyplot():
    assert distributions(table(3))._repr_png_().startswith(b"\x89PNG")
