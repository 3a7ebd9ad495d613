"""What every registered scorer must hold with a network, in 2D and 3D; plugins join by existing.

What holds for given maps is asked in test_every_scorer_of_given_maps.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from nets import CHEAP, cells, net, pool

from attrscore.core import INPUT, SCORER_FAILED
from attrscore.engine import run
from attrscore.registry import SCORERS

NAMES = [entry.name for entry in SCORERS.entries() if entry.alias_of is None]
# What the region or the crop alone says, whatever the map.
OF_THE_MASK = (".chance", ".area", ".highest", ".lowest")
# These need a map of every stain.
OF_THE_INPUT = {"channel_shares"}


def scored(model, data, name: str, **options) -> list[dict[str, np.ndarray]]:
    """Columns of the scorer at each layer, and at the input; layers at which none works left out.

    Every NaN of a row that is ok has a reason, and none of the rows has failed.
    """
    results = run(
        model,
        data,
        methods=["grad_cam", "saliency"],
        layers=["low", "high"],
        scorers={name: SCORERS.build(name, **CHEAP.get(name, {}))},
        pool=pool(data.inputs.ndim - 2),
        **options,
    )
    found = []
    for result in results:
        own = {key: each for key, each in result.columns.items() if key.partition(".")[0] == name}
        lost = np.logical_or.reduce([np.isnan(values) for values in own.values()])
        reason = result.columns["reason"].astype(str)
        assert ((reason != "") == (lost & (result.columns["status"] == "ok"))).all()
        assert not np.char.startswith(reason, SCORER_FAILED).any()
        if result.layer == INPUT or name not in OF_THE_INPUT:
            found.append(own)
    return found


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture(params=[2, 3])
def dimensions(request) -> int:
    return request.param


def test_a_batch_is_its_samples_in_any_order(name, dimensions):
    model, data = net(dimensions), cells(dimensions)
    whole = scored(model, data, name)
    single = [scored(model, data.rows(i, i + 1), name) for i in (2, 0, 3, 1)]
    for together, *alone in zip(whole, *single, strict=True):
        for column, values in together.items():
            expected = np.concatenate([each[column] for each in alone])
            np.testing.assert_allclose(values[[2, 0, 3, 1]], expected, atol=1e-6, err_msg=column)


def test_the_network_and_the_random_state_are_left_as_found(name, dimensions):
    model, data = net(dimensions), cells(dimensions)
    model.train()
    model.act1.eval()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    before = copy.deepcopy(model.state_dict())
    flags = [module.training for module in model.modules()]
    state, drawn = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = scored(model, data, name)
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == drawn).all()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    torch.rand(5)
    for one, two in zip(first, scored(model, data, name), strict=True):
        for column, values in one.items():
            np.testing.assert_array_equal(values, two[column], err_msg=column)


def test_a_cell_that_is_not_finite_spoils_only_itself(name, dimensions):
    model, data = net(dimensions), cells(dimensions)
    spoilt = data.inputs.clone()
    spoilt[1, ..., 0] = torch.nan
    clean = scored(model, data, name)
    dirty = scored(model, replace(data, inputs=spoilt), name)
    for one, two in zip(clean, dirty, strict=True):
        for column, values in one.items():
            if not column.endswith(OF_THE_MASK):
                assert np.isnan(two[column][1]), column
            np.testing.assert_allclose(values[[0, 2, 3]], two[column][[0, 2, 3]], atol=1e-9)


def test_embeddings_have_no_class(name, dimensions):
    for columns in scored(net(dimensions), cells(dimensions), name, target="norm"):
        assert any(np.isfinite(values).any() for values in columns.values())
