"""The steps from a signed map to heat."""

from __future__ import annotations

import pytest
import torch

from attrscore.errors import ConfigError, DataError
from attrscore.heat import Grids, Heat, HeatOptions, join_channels, take_sign

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
