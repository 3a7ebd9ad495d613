"""Scorers by hand-checkable cases: regions that follow from others, options, sentences, sharing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import batch, net

from attrscore.core.contracts import INPUT, Batch
from attrscore.core.heat import Heat, HeatOptions
from attrscore.core.passes import Pass
from attrscore.core.regions import dilated, distance_to, every_region, find_region
from attrscore.core.registry import SCORERS
from attrscore.engine.run import run
from attrscore.errors import ConfigError, DataError, UnsupportedError
from attrscore.scorers import grad_camo, localisation, roc_auc
from attrscore.targets import Predicted


def strip(**named: list[int]) -> dict[str, torch.Tensor]:
    """Regions of one crop of a single row."""
    return {name: torch.tensor([[each]], dtype=torch.bool) for name, each in named.items()}


def passed(regions: dict[str, torch.Tensor], spacing=None, channels: int = 1) -> Pass:
    n, *space = regions["cell"].shape
    return Pass(
        torch.nn.Identity(),
        Batch(torch.zeros(n, channels, *space), regions, spacing=spacing),
        Predicted(),
        {},
    )


CELL, NUCLEUS = [0, 1, 1, 1, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0]
BESIDE = [0, 0, 0, 0, 0, 0, 1, 1]


def row(region: torch.Tensor) -> list[int]:
    return region[0, 0].int().tolist()


def test_regions_follow_from_others():
    known = passed(strip(cell=CELL, nucleus=NUCLEUS, neighbours=BESIDE))
    assert every_region(known) == (
        *("cell", "nucleus", "neighbours", "cytoplasm", "boundary", "background"),
    )
    assert row(find_region(known, "cytoplasm")) == [0, 1, 0, 1, 1, 0, 0, 0]
    assert row(find_region(known, "background")) == [1, 0, 0, 0, 0, 1, 0, 0]
    assert row(find_region(known, "boundary")) == [1, 1, 0, 0, 1, 1, 0, 0]
    assert row(find_region(known, "boundary", ring=2)) == [1, 1, 1, 1, 1, 1, 1, 0]
    assert find_region(known, "cytoplasm") is find_region(known, "cytoplasm")
    bare = passed(strip(cell=CELL))
    assert every_region(bare) == ("cell", "boundary")
    own = passed(strip(cell=CELL, background=BESIDE))
    assert find_region(own, "background") is own.batch.regions["background"]
    ringed = passed(strip(cell=CELL, neighbours=BESIDE, boundary=[1, 1, 0, 0, 1, 1, 0, 0]))
    assert row(find_region(ringed, "background")) == [1, 0, 0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize(
    ("name", "words"),
    [("cytoplasm", "'nucleus'"), ("background", "'neighbours'"), ("cel", "Did you mean 'cell'")],
)
def test_a_region_that_is_not_there_is_named(name, words):
    bare = passed(strip(cell=CELL))
    with pytest.raises(DataError, match=words):
        find_region(bare, name)


def test_the_boundary_is_in_micrometres_along_each_axis():
    cell = torch.zeros(1, 5, 7, dtype=torch.bool)
    cell[0, 2, 3] = True
    ring = find_region(passed({"cell": cell}, spacing=(2.0, 0.5)), "boundary", ring=1.0)
    assert ring[0].nonzero().tolist() == [[2, 1], [2, 2], [2, 3], [2, 4], [2, 5]]


def test_soft_regions_that_follow_keep_their_fractions():
    soft = {
        "cell": torch.tensor([[[0.0, 0.6, 1.0, 0.4]]]),
        "neighbours": torch.tensor([[[1.0, 0.3, 0.0, 0.0]]]),
        "nucleus": torch.tensor([[[0.0, 0.1, 1.0, 0.0]]]),
    }
    known = passed(soft)
    heat = Heat(torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]]), (1, 4))
    assert find_region(known, "cytoplasm")[0, 0].tolist() == pytest.approx([0, 0.5, 0, 0.4])
    columns = SCORERS.build("region_shares")(heat, known)
    together = sum(float(columns[name]) for name in ("cell", "neighbours", "background"))
    assert together == pytest.approx(1)
    assert float(columns["cell"]) == pytest.approx((1.2 + 3 + 1.6) / 10)


def test_dilation_and_erosion():
    known = passed(strip(cell=CELL), spacing=(1.0, 0.65))
    assert row(dilated(known, "cell", 0.0)) == CELL
    assert row(dilated(known, "cell", 1.3)) == [1, 1, 1, 1, 1, 1, 1, 0]
    assert row(dilated(known, "cell", 1.95)) == [1, 1, 1, 1, 1, 1, 1, 1]  # 3 * 0.65 is a bit more
    assert row(dilated(known, "cell", -0.65)) == [0, 0, 1, 1, 0, 0, 0, 0]
    assert row(dilated(known, "cell", -1.3)) == [0] * 8


def test_region_shares_by_hand():
    known = passed(strip(cell=CELL, nucleus=NUCLEUS, neighbours=BESIDE))
    heat = Heat(torch.tensor([[[[0.0, 1.0, 4.0, 1.0, 2.0, 0.0, 2.0, 0.0]]]]), (1, 8))
    columns = SCORERS.build("region_shares")(heat, known)
    assert {name: float(columns[name]) for name in every_region(known)} == pytest.approx(
        {
            "cell": 0.8,
            "nucleus": 0.4,
            "neighbours": 0.2,
            "cytoplasm": 0.4,
            "boundary": 0.3,
            "background": 0.0,
        }
    )
    assert float(columns["nucleus.density"]) == pytest.approx(0.4 * 8)
    assert float(columns["nucleus.log_density_ratio"]) == pytest.approx(
        np.log((0.4 / 0.125) / (0.6 / 0.875))
    )


def test_channel_shares_by_hand_and_by_the_sign_rule():
    known = passed(strip(cell=CELL), channels=2)
    signed = torch.zeros(1, 2, 1, 8)
    signed[0, 0, 0, :2] = torch.tensor([1.0, 2.0])
    signed[0, 1, 0, :3] = torch.tensor([-3.0, -1.0, 1.0])
    scorer = SCORERS.build("channel_shares", stains=["DNA", "ER"])
    for options, expected in (
        (HeatOptions(), {"DNA": 3 / 4, "DNA.cell": 2 / 4, "ER": 1 / 4, "ER.cell": 1 / 4}),
        (HeatOptions(sign="negative"), {"DNA": 0, "DNA.cell": 0, "ER": 1, "ER.cell": 1 / 4}),
        (
            HeatOptions(channels="absolute", minmax="each_map"),
            {"DNA": 3 / 8, "DNA.cell": 2 / 8, "ER": 5 / 8, "ER.cell": 2 / 8},
        ),
    ):
        columns = scorer(Heat(signed, (1, 8), options, layer=INPUT), known)
        assert {name: float(value) for name, value in columns.items()} == pytest.approx(expected)


def test_channel_shares_need_a_map_of_every_stain():
    known = passed(strip(cell=CELL), channels=2)
    scorer = SCORERS.build("channel_shares")
    for signed, layer in (
        (torch.rand(1, 2, 1, 8), "features.0"),  # as many channels as stains, but a layer
        (torch.rand(1, 1, 1, 8), INPUT),
        (torch.rand(1, 2, 1, 4), None),
    ):
        with pytest.raises(UnsupportedError, match="saliency"):
            scorer(Heat(signed, (1, 8), layer=layer), known)
    with pytest.raises(DataError, match="names 3 channels, and the inputs have 2"):
        SCORERS.build("channel_shares", stains=["a", "b", "c"])(
            Heat(torch.rand(1, 2, 1, 8), (1, 8), layer=INPUT), known
        )


def test_the_engine_names_the_layer_and_goes_on():
    data = batch(2)
    found = {
        result.layer: result.columns
        for result in run(
            net(2),
            data,
            methods=["saliency", "grad_cam"],
            scorers=["channel_shares", "sparsity"],
            layers="high",
        )
    }
    shares = found[INPUT]["channel_shares.c0"] + found[INPUT]["channel_shares.c1"]
    np.testing.assert_allclose(shares, 1)
    assert np.isnan(found["high"]["channel_shares"]).all()
    (reason,) = set(found["high"]["reason"])
    assert reason.startswith("channel_shares cannot work here: a map of every input channel")
    assert (found["high"]["status"] == "ok").all()
    assert np.isfinite(found["high"]["sparsity"]).all()


def test_distances_are_found_once_whatever_is_scored(monkeypatch):
    calls = []
    inner = distance_to

    def counted(mask, **options):
        calls.append(options)
        return inner(mask, **options)

    monkeypatch.setattr("attrscore.core.regions.distance_to", counted)
    list(
        run(
            net(2),
            batch(2),
            methods=["grad_cam", "hires_cam", "saliency"],
            scorers=["distance", "region_shares"],
            layers=["low", "high"],
        )
    )
    assert len(calls) == 2  # one for the distance, one as far as the boundary reaches


def test_top_k_states_what_a_small_region_can_reach():
    known = passed(strip(cell=NUCLEUS))
    heat = Heat(torch.tensor([[[[0.0, 1, 4, 1, 2, 0, 2, 0]]]]), (1, 8))
    columns = SCORERS.build("top_k", k=2)(heat, known)
    assert [float(columns[key]) for key in ("score", "chance", "highest")] == [0.5, 0.125, 0.5]
    fraction = SCORERS.build("top_k", k=0.25)(heat, known)
    assert float(fraction["score"]) == 0.5
    with pytest.raises(DataError, match="9 voxels are more than the 8"):
        SCORERS.build("top_k", k=9)(heat, known)


def test_erosion_that_leaves_nothing_and_dilation_that_leaves_no_outside_are_undefined():
    known = passed(strip(cell=CELL))
    heat = Heat(torch.rand(1, 1, 1, 8), (1, 8))
    columns = SCORERS.build("tolerance_curve", tolerances=[-2, -1, 0, 2, 50])(heat, known)
    undefined = [key for key, value in columns.items() if value.isnan().any()]
    assert undefined == ["-2", "50"]
    assert float(columns["-2.chance"]) == 0
    assert float(columns["50.chance"]) == 1


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("grad_camo", {"auc": "maybe"}, "auc=.maybe. must be true or false"),
        ("region_shares", {"ring": 0}, "ring=0"),
        ("region_shares", {"regions": []}, "different regions"),
        ("region_shares", {"regions": ["cell", "cell"]}, "different regions"),
        ("pointing_game", {"tolerance": -1}, "tolerance=-1"),
        ("top_k", {"k": 0}, "k=0"),
        ("top_k", {"k": 2.5}, "whole number"),
        ("iou", {"threshold": "otzu"}, "Did you mean 'otsu'"),
        ("dice", {"fraction": 1.0}, "fraction=1.0"),
        ("tolerance_curve", {"tolerances": [1, 1]}, "different micrometres"),
        ("tolerance_curve", {"tolerances": []}, "different micrometres"),
        ("channel_shares", {"stains": ["DNA", "DNA"]}, "different names"),
    ],
)
def test_wrong_options_fail_when_built(name, options, words):
    with pytest.raises(ConfigError, match=words):
        SCORERS.build(name, **options)


def test_the_auc_of_one_map_is_computed_once(monkeypatch):
    calls = []
    for module in (grad_camo, localisation):
        monkeypatch.setattr(
            module, "roc_auc", lambda heat, mask: calls.append(1) or roc_auc(heat, mask)
        )
    (result,) = run(net(2), batch(2), scorers=["grad_camo", "auc"], layers="high")
    assert len(calls) == 1
    np.testing.assert_array_equal(result.columns["auc"], result.columns["grad_camo.auc"])


def test_grad_camo_without_auc_has_the_other_columns_and_resizes_no_map(monkeypatch):
    whole, alone = SCORERS.build("grad_camo"), SCORERS.build("grad_camo", auc=False)
    (expected,) = run(net(2), batch(2), scorers=whole, layers="high")
    monkeypatch.setattr(Heat, "full", None)
    (result,) = run(net(2), batch(2), scorers=alone, layers="high", on_error="raise")
    assert set(expected.columns) - set(result.columns) == {"grad_camo.auc"}
    for name in set(result.columns) - {"reason"}:
        np.testing.assert_array_equal(result.columns[name], expected.columns[name])
