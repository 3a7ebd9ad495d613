"""Weights drawn anew: which, from what, and how results tell them apart."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from nets import batch, net
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from attrscore.core.contracts import InputSpec
from attrscore.errors import ConfigError, UnsupportedError
from attrscore.models import randomized
from attrscore.models.tiny import TinyCNN


def changed(before: nn.Module, after: nn.Module) -> set[str]:
    """Modules of which a parameter or buffer differs."""
    pairs = zip(before.state_dict().items(), after.state_dict().values(), strict=True)
    return {name.rpartition(".")[0] for (name, one), two in pairs if not torch.equal(one, two)}


def trained(seed: int = 0) -> nn.Module:
    """A network with weights, and running statistics, that no initialisation would give."""
    model = TinyCNN()(InputSpec(3, (16, 16), 2))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(3 + torch.rand(value.shape, generator=generator))
    return model


LAYERS = ["features.0", "features.2", "features.3", "features.5", "features.6", "head"]


@pytest.mark.parametrize(
    ("how", "to", "expected"),
    [
        ("none", None, []),
        ("last", None, ["head"]),
        ("all", None, LAYERS),
        ("cascade", 1, ["head"]),
        ("cascade", 3, LAYERS[-3:]),
        ("cascade", "features.5", LAYERS[-3:]),
        ("cascade", "features", LAYERS),
    ],
)
def test_which_layers_are_drawn(how, to, expected):
    model = trained()
    kept = copy.deepcopy(model.state_dict())
    made = randomized(model, how, to=to)
    assert changed(model, made) == set(expected)
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
    assert not made.training


def test_the_draw_follows_from_the_seed_and_the_layer():
    model = trained()
    state = torch.get_rng_state()
    one, again, two = (randomized(model, "all", seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert not changed(one, again)
    assert {"features.0", "features.3", "features.6", "head"} <= changed(one, two)
    # A cascade and `last` are on the way to `all`.
    assert changed(randomized(model, "last", 1), one) == set(LAYERS[:-1])
    # What was learnt leaves no trace.
    assert not changed(randomized(trained(seed=5), "all", 1), one)
    norm = one.features[2]
    assert norm.running_mean.eq(0).all()
    assert norm.running_var.eq(1).all()
    assert norm.weight.eq(1).all()


class Tokens(nn.Module):
    """Parameters of its own, beside modules that draw theirs under other names."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(5 + 2 * torch.randn(4000))
        self.scale = nn.Parameter(torch.full((3,), 0.1))
        self.attention = nn.MultiheadAttention(8, 2)
        self.linear = weight_norm(nn.Linear(40, 50))


def test_parameters_that_no_module_draws_keep_mean_and_spread():
    model = Tokens()
    made = randomized(model)
    token = made.token.detach()
    assert not torch.equal(token, model.token)
    assert float(token.mean()) == pytest.approx(5, abs=0.2)
    assert float(token.std()) == pytest.approx(2, abs=0.2)
    assert torch.equal(made.scale, model.scale)  # of one value: there is no other draw
    assert not torch.equal(made.attention.in_proj_weight, model.attention.in_proj_weight)
    x = torch.rand(1, 40)
    before, after = model.linear, made.linear
    assert not torch.allclose(before(x) - before.bias, after(x) - after.bias)


def test_frozen_networks_stay_frozen_and_compiled_ones_are_unwrapped():
    model = net()
    model.low.weight.requires_grad_(False)
    made = randomized(model)
    assert not made.low.weight.requires_grad
    assert made.high.weight.requires_grad
    assert type(randomized(torch.nn.DataParallel(model))) is type(model)
    assert made(batch().inputs).shape == (4, 3)


@pytest.mark.parametrize(
    ("how", "to", "sentence"),
    [
        ("some", None, "randomize='some' is not a choice"),
        ("cascade", None, "a cascade needs randomize_to"),
        ("all", 2, "the other choices do without"),
        ("cascade", 9, "the model has 6 layers with parameters"),
        ("cascade", "features.55", "Did you mean 'features.5'"),
    ],
)
def test_wrong_choices(how, to, sentence):
    with pytest.raises(ConfigError, match=sentence):
        randomized(trained(), how, to=to)


def test_nothing_to_draw_or_to_copy():
    with pytest.raises(UnsupportedError, match="has no parameter to draw anew"):
        randomized(nn.ReLU())
    model = nn.Linear(2, 2)
    model.lock = threading.Lock()
    with pytest.raises(UnsupportedError, match="Linear cannot be copied: cannot pickle"):
        randomized(model)
