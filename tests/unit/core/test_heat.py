"""The steps from a signed map to heat."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from nets import batch, net

from attrscore.core.grids import Grid, Grids, grids_of
from attrscore.core.heat import Heat, HeatOptions, join_channels, take_sign
from attrscore.engine.run import run
from attrscore.errors import ConfigError, DataError

SIGNED = torch.tensor([[[[2.0, -4.0]], [[-1.0, 1.0]]]])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[1.0, 0.0]]),
        ({"sign": "absolute"}, [[1.0, 3.0]]),
        ({"sign": "negative"}, [[0.0, 3.0]]),
        ({"channels": "absolute"}, [[3.0, 5.0]]),
        ({"channels": "max"}, [[2.0, 1.0]]),
        ({"sign": "absolute", "minmax": "each_map"}, [[0.0, 1.0]]),
    ],
)
def test_options(options, expected):
    assert Heat(SIGNED, (1, 2), HeatOptions(**options)).native[0].tolist() == expected


def test_one_channel_absolute_is_still_absolute():
    assert join_channels(torch.tensor([[[-2.0]]]), channels="absolute").tolist() == [[2.0]]
    assert take_sign(torch.tensor([-2.0]), sign="negative").tolist() == [2.0]


def test_a_constant_map_stretches_to_nothing():
    heat = Heat(torch.ones(1, 1, 2, 2), (4, 4), HeatOptions(minmax="each_map"))
    assert heat.status(torch.eye(4, dtype=torch.bool)[None]) == ["no_positive_mass"]


@pytest.mark.parametrize("option", ["channels", "sign", "resize", "minmax"])
def test_wrong_option_is_named_with_its_choices(option):
    with pytest.raises(ConfigError, match=rf"{option}='positiv' is not a choice.*Known"):
        HeatOptions(**{option: "positiv"})


def test_half_precision_is_summed_without_overflow():
    heat = Heat(torch.full((1, 1, 40, 40), 6e4, dtype=torch.float16), (40, 40))
    assert float(heat.mass()) == pytest.approx(6e4 * 1600, rel=1e-3)


def test_axes_that_do_not_fit():
    with pytest.raises(DataError, match="with 2 spatial axes"):
        Heat(torch.ones(1, 1, 2, 2, 2), (4, 4))


def test_a_region_is_pulled_down_once_for_all_methods():
    grids = Grids((8, 8), "linear")
    region = torch.eye(8, dtype=torch.bool)[None]
    first = Heat(torch.rand(1, 1, 3, 3), (8, 8), grids=grids)
    second = Heat(torch.rand(1, 4, 3, 3), (8, 8), grids=grids)
    assert first.grid is second.grid
    assert first.grid.pull(region) is second.grid.pull(region)


def test_heat_knows_what_it_was_made_of_and_keeps_what_was_computed():
    heat = Heat(SIGNED, (1, 2), layer="high")
    assert heat.signed is SIGNED
    assert heat.layer == "high"
    calls = []
    for _ in range(2):
        assert heat.once("key", lambda: calls.append(1) or 7) == 7
    assert calls == [1]


def test_undefined_is_what_the_status_says():
    heat = Heat(torch.tensor([1.0, 1, 1, -1, torch.nan, torch.inf]).view(6, 1, 1, 1), (2, 2))
    region = torch.zeros(6, 2, 2, dtype=torch.bool)
    region[:, 0, 0] = True
    region[1], region[2] = True, False
    numbers = [s in ("ok", "unresolvable") for s in heat.status(region)]
    assert (~heat.undefined(region)).tolist() == numbers
    assert heat.undefined().tolist() == [False] * 3 + [True] * 3


def test_two_models_and_targets_on_one_batch_share_the_pulled_down_regions(monkeypatch):
    pulled = []
    adjoint = Grid._adjoint
    monkeypatch.setattr(
        Grid, "_adjoint", lambda grid, region: (pulled.append(1), adjoint(grid, region))[1]
    )
    data = batch()
    list(run(net(), data, methods=["grad_cam", "hires_cam"], layers=["low", "high"]))
    once = len(pulled)
    assert once
    list(run(net(inplace=True), data, layers=["low", "high"], target="label"))
    assert len(pulled) == once
    assert grids_of(data) is grids_of(data)
    assert grids_of(data, "nearest") is not grids_of(data)


@pytest.mark.parametrize("resize", ["linear", "nearest"])
@pytest.mark.parametrize(
    ("native", "space"), [((3, 5), (12, 10)), ((13, 4), (6, 9)), ((2, 3, 5), (4, 9, 5))]
)
def test_pushing_is_torch_interpolation(resize, native, space):
    values = torch.rand((2, *native), dtype=torch.float64)
    mode = {2: "bilinear", 3: "trilinear"}[len(space)] if resize == "linear" else "nearest"
    expected = F.interpolate(values[:, None], size=space, mode=mode)[:, 0]
    torch.testing.assert_close(Grid(space, native, resize).push(values), expected)


@pytest.mark.parametrize(
    ("native", "space"),
    [((64, 64), (128, 128)), ((4, 4), (128, 128)), ((7, 5), (40, 96)), ((1, 3, 3), (32, 96, 96))],
)
def test_clear_regions_are_pulled_down_as_exactly_as_soft_ones(native, space):
    generator = torch.Generator().manual_seed(0)
    clear = torch.rand((2, *space), generator=generator) < 0.3
    grid = Grids(space, "linear")[native]
    expected = grid.pull(clear.double())  # float64 on every axis
    torch.testing.assert_close(grid.pull(clear), expected, rtol=1e-15, atol=0)
    torch.testing.assert_close(
        grid.weights(clear), grid.pull(torch.ones((1, *space), dtype=torch.float64))
    )


def test_fewer_digits_in_products_of_float32_change_no_region():
    region = torch.rand((2, 24, 24), generator=torch.Generator().manual_seed(0)) < 0.3
    torch.set_float32_matmul_precision("medium")
    try:
        assert Grids((24, 24), "linear").numbers(region).dtype == torch.float64
    finally:
        torch.set_float32_matmul_precision("highest")
    assert Grids((24, 24), "linear").numbers(region).dtype == torch.float32
