"""Guided methods refuse what Captum cannot guide."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from captum.attr import GuidedGradCam as CaptumGuidedGradCam
from nets import Net, batch, net
from torch import nn

from attrscore.core.contracts import INPUT
from attrscore.core.passes import Pass
from attrscore.engine.evaluate import evaluate
from attrscore.engine.run import run
from attrscore.errors import AttrscoreWarning, UnsupportedError
from attrscore.methods import FromCaptum, GuidedBackprop, GuidedGradCAM
from attrscore.targets import Label, Norm, Predicted


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


class Between(Net):
    """With a function of the features between its second ReLU and the head."""

    def __init__(self, function, module=None):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            super().__init__(2)
            self.function, self.module = function, module
            self.scale = nn.Parameter(torch.rand(4, 1, 1).double())
            self.register_buffer("offset", torch.rand(4, 1, 1).double())
            self.double().eval()

    def forward(self, x):
        x = self.high(self.act1(self.low(x)))
        x = self.function(x, self) if self.module is None else self.module(x)
        return self.head(x.flatten(2).mean(2))


def sliced(x, _):
    x = x.clone()
    x[:, :2].relu_()
    return x


def indexed(x, _):
    x = x.clone()
    x[x < 0] = 0
    return x


def padded(x, _):
    wider = x.new_zeros((len(x), 4, x.shape[2] + 2, x.shape[3]))
    wider[:, :, 1:-1] = x
    wider[:, :, 0] = 1.5
    return wider


def normalised(x, _):
    return (x - torch.tensor([0.1, 0.2, 0.3, 0.4]).view(4, 1, 1)) / torch.full_like(x, 3)


def no_gradient(x, of):
    with torch.no_grad():
        of.seen = (x * (x > 0)).mean()
    return x


def attending(x, _):
    tokens = x.flatten(2).transpose(1, 2)
    weights = torch.softmax(tokens @ tokens.transpose(1, 2), -1)
    return (weights @ tokens).transpose(1, 2)[..., None]


RECTIFYING = {
    "Clamp": lambda x, _: x.clamp(min=0),
    "ClampMin": lambda x, _: torch.clamp_min(x, 0),
    "Maximum": lambda x, _: torch.maximum(x, torch.zeros_like(x)),
    "Where": lambda x, _: torch.where(x > 0, x, 0.0),
    "MaskedFill": lambda x, _: x.masked_fill(x < 0, 0),
    "Abs": lambda x, _: (x + x.abs()) / 2,
    "Amax": lambda x, _: torch.stack([x, 0 * x]).amax(0),
    "IndexPut": indexed,
    "Threshold": lambda x, _: F.threshold(x, 0, 0),
    "functional ReLU": lambda x, _: torch.relu(x),
    "mul with values that carry no gradient": lambda x, _: x * (x > 0),
    "div with values that carry no gradient": lambda x, _: x / (x > 0).double().reciprocal(),
}
"""A ReLU by other means."""

OTHERS = {
    "Sigmoid": lambda x, _: x * torch.sigmoid(1.702 * x),
    "Tanh": lambda x, _: x.tanh(),
    "Hardtanh": lambda x, _: F.relu6(x),
    "Elu": lambda x, _: F.elu(x),
    "Softplus": lambda x, _: F.softplus(x),
    "Softmax": attending,
    "Reciprocal": lambda x, _: 1 / (3 + x),
    "Div": lambda x, _: torch.ones_like(x) / (3 + x),
    "product of features": lambda x, _: x * x.mean((2, 3), keepdim=True),
    "Pow": lambda x, _: x**2,
    "relu_ on a slice": sliced,
    "mul with values that carry no gradient": lambda x, _: x * torch.sigmoid(x).detach(),
}

LINEAR = {
    "scaled": lambda x, _: 2 * x / 3,
    "scaled by a parameter": lambda x, of: x * of.scale * of.scale.exp(),
    "shifted by a buffer": lambda x, of: of.offset - x,
    "normalised": normalised,
    "padded": padded,
    "widened": lambda x, _: torch.cat([x, torch.zeros_like(x)], 1)[:, :4],
    "shortcut without gradient": lambda x, _: x + torch.cat([x.data[:, :2], 0 * x.data[:, 2:]], 1),
    "residual": lambda x, _: x.add_(x.roll(1, 2)),
    "reflected": lambda x, _: F.pad(x.flip(2), (1, 1, 1, 1), mode="reflect"),
    "resized": lambda x, _: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "shuffled": lambda x, _: F.pixel_shuffle(x.repeat(1, 4, 1, 1), 2),
    "dropped": lambda x, _: F.dropout(x, training=False),
    "beside the way": lambda x, of: (setattr(of, "seen", x.sigmoid().max()), x)[1],
    "average": lambda x, _: F.adaptive_avg_pool2d(F.avg_pool2d(x, 2), 1),
    "without gradient for a while": no_gradient,
    "largest": lambda x, _: F.adaptive_max_pool2d(F.max_pool2d(x, 2), 1),
    "in other numbers": lambda x, _: x.float().double(),
}


def old_style(norm):
    with pytest.warns(FutureWarning, match="deprecated"):
        return norm(nn.Conv2d(4, 4, 1))


def twice():
    relu = nn.ReLU()
    return nn.Sequential(relu, nn.Conv2d(4, 4, 1), relu)


MODULES = {
    "batch": lambda: nn.BatchNorm2d(4),
    "instance": lambda: nn.InstanceNorm2d(4),
    "group": lambda: nn.GroupNorm(2, 4),
    "layer": lambda: nn.LayerNorm([4, 6, 5]),
    "relu of a view": lambda: nn.Sequential(
        nn.Flatten(), nn.ReLU(inplace=True), nn.Unflatten(1, (4, 6, 5))
    ),
    "relu twice": twice,
    "weight norm": lambda: old_style(torch.nn.utils.weight_norm),
    "parametrised": lambda: torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)),
    "spectral norm": lambda: torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 1)),
}


class Rectified(torch.autograd.Function):
    """A ReLU by the guided rule, in torch alone."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x > 0)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.clamp(min=0) * ctx.saved_tensors[0]


def by_hand(model: nn.Module, data) -> torch.Tensor:
    """The guided gradient, each nn.ReLU being another function meanwhile."""
    relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    for module in relus:
        module.forward = Rectified.apply
    inputs = data.inputs.clone().requires_grad_()
    scores = model(inputs.clone()).gather(1, data.label[:, None])
    for module in relus:
        del module.forward
    return torch.autograd.grad(scores.sum(), inputs)[0]


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (net(act=nn.SiLU), "2 x Silu"),
        (net(act=nn.GELU), "2 x Gelu"),
        (net(act=nn.LeakyReLU), "2 x LeakyRelu"),
        (Functional(2), "1 x functional ReLU"),
        (Swish(2), "1 x Sigmoid, 1 x product of features"),
        (Custom(2), "1 x custom autograd function Double"),
    ],
)
@pytest.mark.parametrize("method", [GuidedGradCAM(), FromCaptum("GuidedBackprop")])
def test_refused_with_the_reason(model, what, method):
    with pytest.raises(
        UnsupportedError, match=f"nn.ReLU module; {type(model).__name__} has {what}"
    ):
        attempt(model.double(), method)


@pytest.mark.parametrize(
    ("what", "function"), [*RECTIFYING.items(), *OTHERS.items()], ids=[*RECTIFYING, *OTHERS]
)
@pytest.mark.parametrize("method", [GuidedBackprop(), FromCaptum("Deconvolution")])
def test_what_is_neither_an_nn_relu_nor_linear_is_refused_by_name(what, function, method):
    with pytest.raises(UnsupportedError, match=f"Between has .*1 x {what}"):
        attempt(Between(function), method)


@pytest.mark.slow
@pytest.mark.parametrize("function", RECTIFYING.values(), ids=RECTIFYING)
def test_what_is_refused_is_a_relu_that_captum_does_not_guide(function):
    data, theirs = batch(), Between(function)
    same = Between(None, nn.ReLU())
    torch.testing.assert_close(theirs(data.inputs), same(data.inputs), rtol=0, atol=1e-12)
    assert not torch.allclose(by_hand(theirs, data), by_hand(same, data), atol=1e-4)


@pytest.mark.parametrize("end", [nn.Softmax(1), nn.Sigmoid(), nn.LogSoftmax(1)])
def test_an_end_that_is_not_linear_is_refused_too(end):
    with pytest.raises(UnsupportedError, match=f"has 1 x {type(end).__name__}"):
        attempt_scores(nn.Sequential(net(), end))


@pytest.mark.parametrize("target", [Predicted("logprob"), Predicted("margin"), Norm()])
def test_what_the_target_makes_of_the_output_does_not_matter(target):
    attempt_scores(net(), target)


def attempt_scores(model: nn.Module, target=None) -> None:
    GuidedBackprop()(Pass(model, batch(), target or Predicted(), {}))


@pytest.mark.parametrize("name", [*LINEAR, *MODULES])
@pytest.mark.parametrize("n", [1, 3])
def test_what_is_linear_is_accepted_with_the_values_of_torch(name, n):
    data = batch(n=n)
    model = Between(LINEAR.get(name), MODULES[name]() if name in MODULES else None)
    expected = by_hand(model, data)
    found = GuidedBackprop()(Pass(model, data, Label(), {}))[INPUT]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    attempt(model, FromCaptum("GuidedBackprop"))


def test_a_network_without_activations_is_refused():
    with pytest.raises(UnsupportedError, match="no nn.ReLU runs in Net"):
        attempt(net(act=nn.Identity))


@pytest.mark.parametrize("model", [net(), net(inplace=True)])
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
