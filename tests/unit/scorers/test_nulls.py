"""Nulls against plain loops, and what they say of maps that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from nets import batch, net
from scipy import stats

from attrscore import SCORERS, evaluate
from attrscore.core.grids import area_fraction
from attrscore.core.heat import Heat
from attrscore.core.passes import Pass
from attrscore.errors import AttrscoreWarning, ConfigError
from attrscore.scorers import shifted_shares, standing
from attrscore.scorers.grad_camo import mask_ratio
from attrscore.targets import Predicted


@pytest.fixture(params=[2, 3])
def dimensions(request) -> int:
    return request.param


def prepared(dimensions: int, *, grid: str = "input", n: int = 4) -> tuple[Heat, Pass]:
    data = batch(dimensions, n=n)
    generator = torch.Generator().manual_seed(2)
    small = tuple(extent // 2 for extent in data.space)
    shape = data.space if grid == "input" else small
    signed = torch.randn((n, 1, *shape), generator=generator, dtype=torch.float64)
    pool = batch(dimensions, n=7, seed=9)
    return Heat(signed, data.space), Pass(net(dimensions), data, Predicted(), {}, pool=pool)


@pytest.mark.parametrize("grid", ["input", "layer"])
def test_circular_shifts_are_all_of_them_and_their_mean_is_the_area(dimensions, grid):
    heat, run = prepared(dimensions, grid=grid, n=2)
    mask = run.batch.regions["cell"]
    columns = SCORERS.build("circular_shift")(heat, run)
    np.testing.assert_allclose(columns["mean"], area_fraction(mask), atol=1e-9)
    axes = tuple(range(dimensions))
    for i in range(2):
        full = heat.full()[i]
        loop = np.array(
            [
                float(mask_ratio(full[None], mask[i].roll(shift, axes)[None]))
                for shift in np.ndindex(*run.batch.space)
            ]
        )
        np.testing.assert_allclose(shifted_shares(full, mask[i]).flatten(), loop, atol=1e-12)
        assert float(columns["sd"][i]) == pytest.approx(loop.std(ddof=1))
        assert float(columns["z"][i]) == pytest.approx((loop[0] - loop.mean()) / loop.std(ddof=1))
        below = stats.percentileofscore(loop, loop[0], kind="mean") / 100
        assert float(columns["score"][i]) == pytest.approx(below, abs=1e-9)


def test_shifts_of_a_soft_region():
    heat, run = prepared(2, n=2)
    soft = run.batch.regions["cell"].double() * 0.6
    run.batch = replace(run.batch, regions={"cell": soft})
    columns = SCORERS.build("circular_shift")(heat, run)
    np.testing.assert_allclose(columns["mean"], area_fraction(soft), atol=1e-9)


@pytest.mark.parametrize("grid", ["input", "layer"])
@pytest.mark.parametrize("of", ["share", "lift"])
def test_masks_of_other_cells_by_a_plain_loop(dimensions, grid, of):
    heat, run = prepared(dimensions, grid=grid)
    run.pool = replace(run.pool, ids=[run.batch.ids[1], *"abcdef"])
    columns = SCORERS.build("mask_swap", of=of)(heat, run)
    own, others = run.batch.regions["cell"], run.pool.regions["cell"]
    for i in range(4):
        full = heat.full()[i, None]

        def score(mask: torch.Tensor, full=full) -> float:
            share = float(mask_ratio(full, mask[None]))
            return share if of == "share" else share / float(mask.double().mean())

        null = np.array([score(others[p]) for p in range(7) if i != 1 or p != 0])
        observed = score(own[i])
        assert float(columns["mean"][i]) == pytest.approx(null.mean())
        assert float(columns["sd"][i]) == pytest.approx(null.std(ddof=1))
        below = np.mean((null < observed - 1e-9) + (abs(null - observed) <= 1e-9) / 2)
        assert float(columns["score"][i]) == pytest.approx(below)


@pytest.mark.parametrize("grid", ["input", "layer"])
def test_a_random_map_stands_anywhere_among_random_maps(dimensions, grid):
    heat, run = prepared(dimensions, grid=grid, n=40)
    columns = SCORERS.build("random_map", smooth=0.0, count=60)(heat, run)
    assert stats.kstest(columns["score"].numpy(), "uniform").pvalue > 0.01
    area = area_fraction(run.batch.regions["cell"]).mean()
    assert float(columns["mean"].mean()) == pytest.approx(float(area), rel=0.05)
    assert abs(float(columns["z"].mean())) < 0.5


@pytest.mark.parametrize("name", ["circular_shift", "mask_swap", "random_map"])
def test_a_map_on_the_cell_stands_above_and_one_off_it_below(dimensions, name):
    data = batch(dimensions)
    cell = data.regions["cell"].double()[:, None]
    far = batch(dimensions, n=7, seed=9)
    anywhere = torch.rand(far.regions["cell"].shape, generator=torch.Generator().manual_seed(0))
    elsewhere = replace(far, regions={"cell": anywhere < 0.2})
    run = Pass(net(dimensions), data, Predicted(), {}, pool=elsewhere)
    for signed, stands in ((cell + 0.01, 0.9), (1.01 - cell, 0.1)):
        columns = SCORERS.build(name)(Heat(signed, data.space), run)
        assert ((columns["score"] > stands) == (stands > 0.5)).all()
        assert ((columns["z"] > 0) == (stands > 0.5)).all()


def test_standing():
    null = torch.tensor([[0.1, 0.2, 0.2, torch.nan], [0.5, 0.5, 0.5, 0.5]])
    columns = standing(torch.tensor([0.2, 0.5]), null)
    assert columns["score"].tolist() == pytest.approx([2 / 3, 0.5])
    assert columns["sd"][0] == pytest.approx(np.std([0.1, 0.2, 0.2], ddof=1))
    assert columns["z"].isnan().tolist() == [False, True]
    nothing = standing(torch.tensor([torch.nan, 0.3]), torch.tensor([[0.1, 0.2], [torch.nan] * 2]))
    assert all(values.isnan().all() for values in nothing.values())


def test_undefined_cells_and_what_lacks_are_said():
    data = batch()
    cell = data.regions["cell"].clone()
    cell[1], cell[2] = False, True
    data = replace(data, regions={"cell": cell})
    names = ["circular_shift", "mask_swap", "random_map"]
    options = {"progress": "none", "scorers": names}
    table = evaluate(net(), data, pool=batch(seed=9, n=5), **options)
    for name in names:
        assert table[name].isna().tolist() == [False, True, True, False]
    with pytest.warns(AttrscoreWarning, match="mask_swap cannot work here: Other cells are needed"):
        table = evaluate(net(), data, **options)
    assert table["mask_swap"].isna().all()
    assert table["circular_shift"].notna().any()
    scorers = SCORERS.build("circular_shift", region="nuclei")
    with pytest.warns(AttrscoreWarning, match="circular_shift needs the region 'nuclei'"):
        evaluate(net(), data, scorers=scorers, progress="none")
    with pytest.raises(ConfigError, match="count of at least 2"):
        SCORERS.build("random_map", count=1)
