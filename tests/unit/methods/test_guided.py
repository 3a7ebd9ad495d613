"""Guided methods refuse what Captum cannot guide."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from captum.attr import GuidedGradCam as CaptumGuidedGradCam
from nets import Net, batch, net
from torch import nn

from attrscore.core.passes import Pass
from attrscore.engine.evaluate import evaluate
from attrscore.engine.run import run
from attrscore.errors import AttrscoreWarning, UnsupportedError
from attrscore.methods import FromCaptum, GuidedGradCAM
from attrscore.targets import Predicted


def attempt(model: nn.Module, method=None) -> None:
    data = batch()
    (method or GuidedGradCAM())(Pass(model, data, Predicted(), {"high": model.high}))


class Functional(Net):
    def forward(self, x):
        return self.head(F.relu(self.high(self.act1(self.low(x)))).flatten(2).mean(2))


class Swish(Net):
    def forward(self, x):
        x = self.high(self.act1(self.low(x)))
        return self.head((x * torch.sigmoid(x)).flatten(2).mean(2))


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class Custom(Net):
    def forward(self, x):
        return super().forward(Double.apply(x))


class Gated(Net):
    """Squeeze and excitation: a sigmoid that is a gate, not an activation of what it gates."""

    def forward(self, x):
        x = self.act2(self.high(self.act1(self.low(x))))
        gate = torch.sigmoid(x.mean((2, 3), keepdim=True))
        return self.head((x * gate).flatten(2).mean(2))


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (net(act=nn.SiLU), "2 x Silu"),
        (net(act=nn.GELU), "2 x Gelu"),
        (net(act=nn.LeakyReLU), "2 x LeakyRelu"),
        (Functional(2), "1 x functional ReLU"),
        (Swish(2), r"1 x x \* sigmoid\(x\)"),
        (Custom(2), "1 x custom autograd function Double"),
    ],
)
@pytest.mark.parametrize("method", [GuidedGradCAM(), FromCaptum("GuidedBackprop")])
def test_refused_with_the_reason(model, what, method):
    with pytest.raises(
        UnsupportedError, match=f"nn.ReLU module; {type(model).__name__} has {what}"
    ):
        attempt(model.double(), method)


def test_a_network_without_activations_is_refused():
    with pytest.raises(UnsupportedError, match="no nn.ReLU runs in Net"):
        attempt(net(act=nn.Identity))


@pytest.mark.parametrize("model", [net(), net(inplace=True), Gated(2).double()])
def test_accepted(model):
    attempt(model)


def test_a_functional_relu_beside_the_way_does_not_matter():
    class Beside(Net):
        def forward(self, x):
            F.relu(x)
            return super().forward(x)

    attempt(Beside(2))


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU")
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_guided_grad_cam_equals_captum(dimensions, inplace):
    data, theirs = batch(dimensions), net(dimensions)
    found = run(
        net(dimensions, inplace=inplace),
        data,
        methods="guided_grad_cam",
        layers=["low", "high"],
        target="label",
        keep="native",
    )
    for result in found:
        expected = CaptumGuidedGradCam(theirs, getattr(theirs, result.layer)).attribute(
            data.inputs.clone(), target=data.label
        )
        torch.testing.assert_close(torch.from_numpy(result.maps), expected, rtol=0, atol=1e-10)


def test_in_a_comparison_the_other_methods_go_on():
    with pytest.warns(AttrscoreWarning, match="guided_grad_cam are unsupported"):
        table = evaluate(
            net(act=nn.SiLU), batch(), methods=["guided_grad_cam", "grad_cam"], progress="none"
        )
    status = table.groupby("method")["status"].first().to_dict()
    assert status == {"grad_cam": "ok", "guided_grad_cam": "unsupported"}
