"""Answers that are known without a network, for every mask and map, 2D and 3D."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import batch
from scipy.stats import mannwhitneyu

from attrscore.core.contracts import Batch
from attrscore.core.grids import area_fraction
from attrscore.core.heat import Heat, HeatOptions
from attrscore.core.passes import Pass
from attrscore.errors import DataError
from attrscore.scorers import (
    Distance,
    GradCAMO,
    RegionShares,
    ToleranceCurve,
    mask_ratio,
    mean_distance,
    roc_auc,
)
from attrscore.targets import Predicted


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, str]:
    """A signed map (N, C, *s), a mask (N, *S) that is neither empty nor full, and a resize."""
    axes = draw(st.integers(2, 3))
    space = tuple(draw(st.integers(2, 9)) for _ in range(axes))
    native = tuple(draw(st.integers(1, 9)) for _ in range(axes))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    n = draw(st.integers(1, 3))
    signed = torch.randn((n, 2, *native), generator=generator, dtype=torch.float64)
    mask = torch.rand((n, *space), generator=generator) < draw(st.floats(0.1, 0.9))
    mask.flatten(1)[:, 0], mask.flatten(1)[:, 1] = True, False
    return signed, mask, draw(st.sampled_from(["linear", "nearest"]))


def scored(signed: torch.Tensor, regions: dict[str, torch.Tensor], **options: str):
    space = tuple(next(iter(regions.values())).shape[1:])
    data = Batch(torch.zeros((len(signed), 1, *space)), regions)

    class Run:
        batch = data

    heat = Heat(signed, space, HeatOptions(**options))
    return {k: v.numpy() for k, v in GradCAMO()(heat, Run()).items()}, heat


@settings(max_examples=150)
@given(cases())
def test_adjoint_equals_the_resized_map(case):
    signed, mask, resize = case
    columns, heat = scored(signed, {"cell": mask}, resize=resize)
    resized = mask_ratio(heat.full(), mask).numpy()
    np.testing.assert_allclose(columns["score"], resized, atol=1e-9)
    np.testing.assert_allclose(heat.mass().numpy(), heat.full().flatten(1).sum(1), atol=1e-9)


@settings(max_examples=100)
@given(cases())
def test_score_lies_in_the_attainable_interval_and_one_hot_maps_reach_it(case):
    signed, mask, resize = case
    columns, heat = scored(signed, {"cell": mask}, resize=resize)
    defined = ~np.isnan(columns["score"])
    assert (columns["score"][defined] >= columns["lowest"][defined] - 1e-9).all()
    assert (columns["score"][defined] <= columns["highest"][defined] + 1e-9).all()

    share = heat.grid.pull(mask) / heat.grid.weights(mask)
    share = share.nan_to_num(-1.0)  # places that no voxel reads
    best = share.flatten(1).argmax(1)
    hot = torch.zeros_like(signed[:, :1]).flatten(1)
    hot[torch.arange(len(hot)), best] = 1
    reached, _ = scored(hot.view(len(hot), 1, *signed.shape[2:]), {"cell": mask}, resize=resize)
    np.testing.assert_allclose(reached["score"], reached["highest"], atol=1e-9)


@settings(max_examples=50)
@given(cases())
def test_flat_map_scores_chance(case):
    signed, mask, resize = case
    columns, _ = scored(torch.ones_like(signed), {"cell": mask}, resize=resize)
    area = area_fraction(mask).numpy()
    np.testing.assert_allclose(columns["score"], area, atol=1e-9)
    np.testing.assert_allclose(columns["lift"], 1, atol=1e-9)
    np.testing.assert_allclose(columns["above_chance"], 0, atol=1e-9)
    np.testing.assert_allclose(columns["log_odds"], 0, atol=1e-6)
    np.testing.assert_allclose(columns["auc"], 0.5, atol=1e-6)


@settings(max_examples=50)
@given(cases())
def test_score_of_mask_and_of_its_complement_sum_to_one(case):
    signed, mask, resize = case
    inside, heat = scored(signed, {"cell": mask}, resize=resize)
    outside, _ = scored(signed, {"cell": ~mask}, resize=resize)
    hot = np.array(heat.status(mask)) != "no_positive_mass"
    np.testing.assert_allclose((inside["score"] + outside["score"])[hot], 1, atol=1e-9)
    shares, _ = scored(signed, {"cell": mask, "neighbours": ~mask & mask.roll(1, -1)})
    together = shares["cell"] + shares["neighbours"] + shares["background"]
    np.testing.assert_allclose(together[~np.isnan(together)], 1, atol=1e-9)


@settings(max_examples=50)
@given(cases(), st.floats(-30, 30))
def test_positive_scale_and_flips_change_nothing(case, exponent):
    signed, mask, resize = case
    before, _ = scored(signed, {"cell": mask}, resize=resize)
    after, _ = scored(signed * 10.0**exponent, {"cell": mask}, resize=resize)
    axes = tuple(range(2, signed.ndim))
    flipped, _ = scored(
        signed.flip(axes), {"cell": mask.flip(tuple(a - 1 for a in axes))}, resize=resize
    )
    for name, values in before.items():
        np.testing.assert_allclose(values, after[name], atol=1e-6, err_msg=name)
        # Nearest resizing rounds down, so its flip is another map unless the sizes divide.
        if resize == "linear":
            np.testing.assert_allclose(values, flipped[name], atol=1e-6, err_msg=name)


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([torch.float32, torch.float64]))
def test_auc_is_the_mann_whitney_statistic(seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    heat = torch.randint(0, 6, (2, 7, 5), generator=generator).to(dtype) / 7  # with ties
    mask = torch.rand((2, 7, 5), generator=generator) < 0.4
    mask[:, 0, 0], mask[:, 0, 1] = True, False
    for i, auc in enumerate(roc_auc(heat, mask)):
        on, off = heat[i][mask[i]], heat[i][~mask[i]]
        expected = mannwhitneyu(on, off).statistic / (len(on) * len(off))
        assert float(auc) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("power", [1, 5])  # at 5 most heat is far below the hottest voxel's
@pytest.mark.parametrize(
    ("grid", "space"),
    [((4, 4), (128, 128)), ((32, 32), (128, 128)), ((128, 128),) * 2, ((4, 6, 6), (32, 48, 48))],
)
def test_auc_of_smooth_maps_is_as_good_as_by_ranks(grid, space, power):
    generator = torch.Generator().manual_seed(0)
    native = torch.randn((4, 1, *grid), generator=generator).clamp(min=0) ** power
    heat = Heat(native, space).full()
    mask = torch.rand((4, *space), generator=generator) < 0.1 + 0.3 * (heat > heat.mean())
    for auc, values, on in zip(roc_auc(heat, mask), heat, mask, strict=True):
        statistic = mannwhitneyu(values[on], values[~on]).statistic
        expected = statistic / (int(on.sum()) * int((~on).sum()))
        assert float(auc) == pytest.approx(expected, abs=2e-5)


def test_negative_heat_has_no_auc():
    mask = torch.tensor([[True, False]])
    with pytest.raises(DataError, match="settle the sign first"):
        roc_auc(torch.tensor([[-1.0, 1.0]]), mask)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_map_inside_or_outside_the_mask(dimensions):
    regions = batch(dimensions).regions
    for region, expected in (("cell", 1.0), ("neighbours", 0.0)):
        columns, _ = scored(regions[region].double()[:, None], dict(regions))
        np.testing.assert_allclose(columns["score"], expected, atol=1e-12)
        assert columns["cell_vs_neighbours"] == pytest.approx(
            np.sign(expected - 0.5) * abs(columns["cell_vs_neighbours"])
        )
    positions, area = regions["cell"][0].numel(), area_fraction(regions["cell"]).numpy()
    columns, _ = scored(regions["cell"].double()[:, None], dict(regions))
    assert columns["log_odds"] == pytest.approx([math.log(positions / f) for f in area])
    assert columns["log_odds.clipped"].tolist() == [1] * len(area)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_ratio_is_clipped_by_what_the_layers_grid_resolves(dimensions):
    """A map without any heat on the cell is ln K below chance, K positions, and is counted."""
    cell = torch.zeros((1, *(16,) * dimensions), dtype=torch.bool)
    cell[(0, *(slice(4, 8),) * dimensions)] = True
    regions = {"cell": cell, "neighbours": cell.roll(8, 1)}
    rest = 1 - float(area_fraction(cell))
    for side in (4, 8, 16, 32):
        corner = torch.zeros((1, 1, *(side,) * dimensions), dtype=torch.float64)
        corner[(0, 0, *(0,) * dimensions)] = 1
        columns, _ = scored(corner, dict(regions), resize="nearest")
        positions = min(side, 16) ** dimensions  # of the grid, or of the crop where it is coarser
        assert columns["log_odds"] == pytest.approx(-math.log(positions) + math.log(rest))
        assert columns["cell_vs_neighbours"] == pytest.approx(0)
        assert columns["log_odds.clipped"] == columns["cell_vs_neighbours.clipped"] == [1]
        flat, _ = scored(torch.ones_like(corner), dict(regions), resize="nearest")
        assert flat["log_odds.clipped"] == flat["cell_vs_neighbours.clipped"] == [0]


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("resize", ["linear", "nearest"])
def test_undefined_cases_have_a_status_and_no_number(dimensions, resize):
    regions = {name: region.clone() for name, region in batch(dimensions, n=6).regions.items()}
    signed = torch.rand((6, 1, *(2,) * dimensions), dtype=torch.float64)
    signed[0] = 0
    signed[1] = -1
    signed[2].view(-1)[0] = torch.nan
    signed[3].view(-1)[0] = torch.inf
    regions["cell"][4] = False
    regions["cell"][5], regions["neighbours"][5] = True, False
    columns, heat = scored(signed, regions, resize=resize)
    assert heat.status(regions["cell"]) == [
        "no_positive_mass",
        "no_positive_mass",
        "nonfinite",
        "nonfinite",
        "empty_region",
        "full_region",
    ]
    for name, values in columns.items():
        assert np.isnan(values).all(), name


def test_a_grid_of_one_place_is_unresolvable_not_low():
    regions = dict(batch(2).regions)
    columns, heat = scored(torch.rand(4, 1, 1, 1), regions)
    assert heat.status(regions["cell"]) == ["unresolvable"] * 4
    np.testing.assert_allclose(columns["score"], columns["chance"])
    assert np.isnan(columns["resolved"]).all()


@settings(max_examples=60)
@given(cases())
def test_regions_and_distances_by_the_adjoint_equal_the_resized_map(case):
    signed, mask, resize = case
    space = tuple(mask.shape[1:])
    beside = ~mask & mask.roll(1, -1)
    spacing = (2.0, 0.7, 0.4)[: len(space)]
    regions = {"cell": mask, "neighbours": beside}
    current = Pass(
        torch.nn.Identity(),
        Batch(torch.zeros((len(mask), 1, *space)), regions, spacing=spacing),
        Predicted(),
        {},
    )
    heat = Heat(signed, space, HeatOptions(resize=resize))
    full = heat.full()
    hot = ~heat.undefined()
    shares = RegionShares()(heat, current)
    together = shares["cell"] + shares["neighbours"] + shares["background"]
    np.testing.assert_allclose(together[hot], 1, atol=1e-9)
    rest = ~mask & ~beside
    for name, region in {**regions, "background": rest}.items():
        expected = mask_ratio(full, region)
        known = ~expected.isnan()
        np.testing.assert_allclose(shares[name][known], expected[known], atol=1e-9)
    distance = Distance()(heat, current)["score"]
    np.testing.assert_allclose(distance, mean_distance(full, mask, spacing=spacing), atol=1e-9)
    curve = ToleranceCurve(tolerances=(0.0, 0.4, 0.8, 2.1))(heat, current)
    values = np.stack([curve[key] for key in ("0", "0.4", "0.8", "2.1")])
    np.testing.assert_allclose(values[0], GradCAMO()(heat, current)["score"], atol=1e-12)
    steps = np.diff(values, axis=0)
    assert (steps[~np.isnan(steps)] >= -1e-12).all()
