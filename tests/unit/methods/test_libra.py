"""``gradients=libra``: on a network by hand, and as an option of every method of gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import attending, batch, net
from torch import nn

from attrscore.core.contracts import INPUT, Batch
from attrscore.core.passes import Pass
from attrscore.core.registry import METHODS
from attrscore.engine.run import run
from attrscore.errors import ConfigError, UnsupportedError
from attrscore.methods import GradCAM, InputXGradient, Saliency
from attrscore.targets import Index
from attrscore.training import LivePass

WITH = sorted(
    entry.name
    for entry in METHODS.entries()
    if entry.alias_of is None and "gradients" in METHODS.options(entry.name)
)


def test_the_methods_that_have_the_option():
    assert set(WITH) == {
        *("grad_cam", "hires_cam", "layer_cam", "xgrad_cam", "grad_cam_plus_plus"),
        *("eigen_grad_cam", "activation_x_gradient", "finer_cam", "saliency", "input_x_gradient"),
    }


def test_a_gate_and_a_normalisation_by_hand():
    """y = w1 n1 + w2 n2 with n = LayerNorm(x): with the spread s fixed, dy/dx = (w - mean w) / s,
    and x dy/dx adds up to y; torch's gradient of it is orthogonal to x."""

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(2, eps=0.0, elementwise_affine=False)

        def forward(self, x):
            n = self.norm(x.flatten(1))
            return torch.stack([3 * n[:, 0] + n[:, 1], n[:, 0]], 1)

    data = Batch(torch.tensor([[[[1.0, 5.0]]]]).double(), {"cell": torch.ones(1, 1, 2) > 0})
    current = Pass(Normed().double(), data, Index(index=0), {})
    # mean 3, spread 2, n = (-1, 1), y = -2; (w - 2) / 2 = (1/2, -1/2)
    found = InputXGradient(gradients="libra")(current)[INPUT]
    assert found.flatten().tolist() == pytest.approx([0.5, -2.5])
    assert float(found.sum()) == pytest.approx(-2)
    plain = InputXGradient()(current)[INPUT]
    assert plain.abs().max() < 1e-9  # two values normalised are always -1 and 1


@pytest.mark.parametrize("name", WITH)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_network_without_softmax_or_normalisation_is_as_before(name, dimensions):
    maps = {
        each.method: each.maps
        for each in run(
            net(dimensions),
            batch(dimensions),
            methods={"plain": name, "libra": METHODS.build(name, gradients="libra")},
            layers="high",
            keep="native",
        )
    }
    np.testing.assert_array_equal(maps["plain"], maps["libra"])


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH)
def test_a_transformer_has_other_maps_at_every_place_alike(name):
    """Other gradients, the same activations and scores; a batch is its samples."""
    method = METHODS.build(name, gradients="libra")
    plain, libra = (
        next(iter(run(attending(2), batch(2), methods={name: each}, layers="low", keep="native")))
        for each in (METHODS.build(name), method)
    )
    assert not np.allclose(plain.maps, libra.maps)
    np.testing.assert_array_equal(plain.columns["explained"], libra.columns["explained"])
    for i in range(4):
        (alone,) = run(
            attending(2), batch(2).rows(i, i + 1), methods={name: method}, layers="low",
            keep="native",
        )  # fmt: skip
        np.testing.assert_allclose(alone.maps[0], libra.maps[i], rtol=1e-8, atol=1e-12)


def test_several_methods_share_the_one_pass_more():
    model, calls = attending(2), []
    current = Pass(model, batch(2), Index(index=0), {"low": model.low}, to_input=True)
    assert current.value is not None
    model.head.register_forward_hook(lambda *_: calls.append(1))
    for method in (GradCAM(gradients="libra"), Saliency(gradients="libra")):
        method(current)
    assert len(calls) == 1


def test_smoothed_with_libra():
    options = {"method": "saliency", "options": {"gradients": "libra"}, "samples": 2}
    (found,) = run(attending(2), batch(2), methods=METHODS.build("smooth_grad", **options))
    assert set(found.columns["status"]) == {"ok"}


def test_a_loss_takes_plain_gradients_only():
    live = LivePass.__new__(LivePass)
    with pytest.raises(UnsupportedError, match="cannot be a loss"):
        live._maps(GradCAM(gradients="libra"))


def test_a_wrong_word_fails_when_built():
    with pytest.raises(ConfigError, match="gradients='guided' is not a choice"):
        Saliency(gradients="guided")
