"""Networks that Captum explains wrongly without a word: each is shown, and refused or put right."""

from __future__ import annotations

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from nets import Net, batch, conv, net
from torch import nn

from attrscore.core.contracts import INPUT, Batch
from attrscore.core.passes import Pass
from attrscore.engine.run import run
from attrscore.errors import UnsupportedError
from attrscore.methods import LRP, Deconvolution, DeepLift, GuidedBackprop, LayerLRP
from attrscore.targets import Index, Norm, Predicted

pytestmark = [
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require"),
    pytest.mark.filterwarnings("ignore:Setting (forward|backward)"),
]


class Head(nn.Module):
    """Whatever features, then pooling by modules and a linear layer."""

    def __init__(self, features: nn.Module, channels: int = 4, dimensions: int = 2) -> None:
        super().__init__()
        self.features = features
        self.pool = getattr(nn, f"AdaptiveAvgPool{dimensions}d")(1)
        self.flat = nn.Flatten()
        self.head = nn.Linear(channels, 3)
        self.double().eval()

    def forward(self, x):
        return self.head(self.flat(self.pool(self.features(x))))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu, self.last = nn.ReLU(), nn.ReLU()

    def forward(self, x):
        x = self.relu(self.first(x))
        return self.last(self.second(x) + x)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)

    def forward(self, x):
        return F.relu(self.conv(x))


class Reused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.second(self.relu(self.first(x))))


class Gated(nn.Module):
    """Squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.gate = nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Sigmoid()

    def forward(self, x):
        x = self.relu(self.conv(x))
        return x * self.gate(x.mean((2, 3), keepdim=True))


class Shared(nn.Module):
    """The input of a ReLU is used elsewhere too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(2, 4, 3), nn.ReLU()

    def forward(self, x):
        x = self.conv(x)
        return self.relu(x) - 2 * x


def built(features: type[nn.Module] | nn.Module) -> Head:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return Head(features() if isinstance(features, type) else features)


def simple(act: nn.Module, pool: nn.Module | None = None, dimensions: int = 2) -> nn.Module:
    parts = [conv(dimensions, 2, 4, 3, padding=1), act, *([pool] if pool else [])]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return nn.Sequential(*parts)


def asked(model: nn.Module, target=None, n: int = 4) -> Pass:
    return Pass(model, batch(n=n), target or Index(index=0), {})


def missed(model: nn.Module) -> float:
    """By how much Captum's own DeepLIFT misses completeness, as a share of the change."""
    inputs, reference = batch().inputs, batch(seed=1).inputs
    signed = captum.attr.DeepLift(model).attribute(inputs, reference, target=0)
    with torch.no_grad():
        change = model(inputs)[:, 0] - model(reference)[:, 0]
    return float(((signed.detach().flatten(1).sum(1) - change) / change).abs().max())


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        (Functional, "1 x Relu"),
        (Gated, "1 x Mul"),
        (simple(nn.SiLU()), "1 x Silu"),
        (simple(nn.GELU()), "1 x Gelu"),
        (simple(nn.ReLU(), nn.MaxPool2d(3, 1)), "windows that overlap .kernel 3, stride 1."),
    ],
)
def test_deep_lift_is_refused_where_captum_misses_the_sum(features, reason):
    model = built(features)
    assert missed(model) > 1e-3
    with pytest.raises(UnsupportedError, match=f"deep_lift cannot explain Head: .*{reason}"):
        DeepLift()(asked(model))


@pytest.mark.parametrize(
    ("features", "reason"),
    [(Reused, "ReLU modules run twice"), (simple(nn.Softmax(1)), "1 x Softmax")],
)
def test_deep_lift_is_refused_where_captum_fails_or_mixes_samples(features, reason):
    with pytest.raises(UnsupportedError, match=reason):
        DeepLift()(asked(built(features)))


@pytest.mark.parametrize("target", [Predicted(scalar="logprob"), Norm()])
def test_deep_lift_refuses_targets_that_bend(target):
    with pytest.raises(UnsupportedError, match="operations that it cannot rescale"):
        DeepLift()(asked(built(Residual), target))


@pytest.mark.parametrize(
    "features",
    [
        Residual,
        simple(nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        simple(nn.Sigmoid(), nn.AvgPool2d(2)),
        simple(nn.ELU(), nn.BatchNorm2d(4)),
        simple(nn.Tanh(), nn.Dropout()),
    ],
)
def test_deep_lift_adds_up_elsewhere(features):
    found = DeepLift(baseline="mean")(asked(built(features)))
    assert found.diagnostics["completeness_error"].abs().max() < 1e-10


@pytest.mark.parametrize("dimensions", [2, 3])
def test_max_pooling_behind_a_relu_is_put_right(dimensions):
    """Captum's two hooks sit on one tensor, and the ReLU's does not see what the pooling's does."""
    pool = getattr(nn, f"MaxPool{dimensions}d")(2)
    model = Head(simple(nn.ReLU(), pool, dimensions), dimensions=dimensions)
    data = batch(dimensions)
    mean = data.inputs.mean(tuple(range(2, dimensions + 2)), keepdim=True)
    theirs = captum.attr.DeepLift(model).attribute(
        data.inputs, mean.expand_as(data.inputs).contiguous(), target=0
    )
    found = DeepLift(baseline="mean")(Pass(model, data, Index(index=0), {}))
    change = found.diagnostics["output_change"]
    assert ((theirs.flatten(1).sum(1) - change) / change).abs().max() > 1e-3
    assert found.diagnostics["completeness_error"].abs().max() < 1e-10


def test_max_pooling_does_not_mix_samples():
    """Captum's rule takes the first sample's gradient where input and baseline agree."""
    model = built(nn.Sequential(nn.Conv2d(2, 4, 1, bias=False), nn.MaxPool2d(2)))
    with torch.no_grad():
        model.features[0].weight.fill_(1.0)
    data = batch()
    inputs = data.inputs.clone()
    opposed = inputs[:, 0] > 0  # channels that cancel out: as the baseline to the pooling
    inputs[:, 1] = torch.where(opposed, -inputs[:, 0], inputs[:, 1] - 5)
    data = Batch(inputs, data.regions)
    theirs = captum.attr.DeepLift(model)
    together = theirs.attribute(inputs, target=0)
    alone = torch.cat([theirs.attribute(each[None], target=0) for each in inputs])
    assert (together - alone).abs().max() > 1e-3
    ours = DeepLift()(Pass(model, data, Index(index=0), {}))[INPUT]
    torch.testing.assert_close(ours, alone, rtol=0, atol=1e-12)


def test_what_no_graph_shows_the_sum_does(monkeypatch):
    from attrscore.methods import deep_lift

    monkeypatch.setattr(deep_lift, "_problem", lambda *_: "")
    with pytest.raises(UnsupportedError, match="does not add up in Head: the map of cell c0-"):
        DeepLift()(asked(built(simple(nn.SiLU()))))


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        (Residual, "outside of modules, where Captum has no rules: 1 x Add"),
        (Functional, "outside of modules, where Captum has no rules: 1 x Relu"),
        (Reused, "ReLU modules run twice"),
        (simple(nn.SiLU()), "Captum has no rule for 1 x SiLU"),
        (simple(nn.ReLU(), nn.InstanceNorm2d(4)), "no rule for 1 x InstanceNorm2d"),
    ],
)
@pytest.mark.parametrize("method", [LRP(), LayerLRP()])
def test_lrp_is_refused_with_the_reason(features, reason, method):
    with pytest.raises(UnsupportedError, match=f"LRP cannot explain Head: .*{reason}"):
        method(asked(built(features)))


def test_captum_counts_the_relevance_of_a_residual_twice():
    """Why it is refused: without biases nothing is absorbed, and yet the sum is not the output."""
    model = built(Residual)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    model.flat.rule = captum.attr._utils.lrp_rules.EpsilonRule()
    data = batch()
    signed = captum.attr.LRP(model).attribute(data.inputs, target=0)
    output = model(data.inputs)[:, 0]
    assert ((signed.flatten(1).sum(1) - output) / output).abs().max() > 0.1


def test_lrp_starts_from_one_output():
    with pytest.raises(UnsupportedError, match="relevance starts from one output.*margin"):
        LRP()(asked(built(simple(nn.ReLU())), Predicted(scalar="margin")))


@pytest.mark.parametrize("rule", ["epsilon", "gamma"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_without_biases_lrp_conserves_the_output(dimensions, rule):
    parts = (nn.ReLU(inplace=True), getattr(nn, f"MaxPool{dimensions}d")(2))
    model = Head(simple(*parts, dimensions), dimensions=dimensions)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    current = Pass(model, batch(dimensions), Predicted(), {"features.0": model.features[0]})
    found = LRP(rule=rule)(current)
    assert found.diagnostics["conservation_error"].abs().max() < 1e-6
    (layer,) = LayerLRP(rule=rule)(current).values()
    torch.testing.assert_close(layer.flatten(1).sum(1), current.value, rtol=0, atol=1e-6)


def test_lrp_leaves_nothing_of_captum_on_the_modules():
    model = net(pooled=True)
    before = [set(vars(module)) for module in model.modules()]
    list(run(model, batch(), methods=["lrp", "layer_lrp"], layers="high"))
    assert [set(vars(module)) for module in model.modules()] == before


@pytest.mark.parametrize(
    ("method", "theirs"),
    [(GuidedBackprop(), "GuidedBackprop"), (Deconvolution(), "Deconvolution")],
)
def test_a_relu_whose_input_is_used_elsewhere_is_guided_alone(method, theirs):
    """Captum's hook sits on the input and rectifies all that flows back there."""
    model = built(Shared)
    ours = method(asked(model))[INPUT]
    inputs = batch().inputs
    kernel = model.features.conv.weight.detach()
    features = model.features.conv(inputs)
    above = model.head.weight[0].detach().view(1, -1, 1, 1) / features[0, 0].numel()
    gate = 1.0 if theirs == "Deconvolution" else (features > 0).double()
    expected = F.conv_transpose2d(
        (above.clamp(min=0) * gate - 2 * above).expand_as(features), kernel
    )
    torch.testing.assert_close(ours, expected.detach(), rtol=0, atol=1e-12)
    wrong = getattr(captum.attr, theirs)(model).attribute(inputs, target=0)
    assert (wrong - expected).abs().max() > 1e-3


def test_guided_methods_share_one_forward_pass():
    model, times = net(), []
    model.register_forward_hook(lambda _model, args, _output: times.append(len(args[0])))
    methods = ["grad_cam", "guided_grad_cam", "guided_backprop", "deconvolution", "saliency"]
    list(run(model, batch(), methods=methods, layers=["low", "high"]))
    assert times.count(4) == 1  # of the batch; crops alone find layers, and try the model
    assert max(times) == 4


def test_layers_may_be_relus_of_a_guided_network():
    model = net()
    data = batch()
    layers = {"act1": model.act1, "act2": model.act2}
    shared = Pass(model, data, Index(index=0), layers)
    torch.testing.assert_close(
        Deconvolution()(shared)[INPUT],
        Deconvolution()(Pass(model, data, Index(index=0), {}))[INPUT],
    )


def test_a_network_changed_in_place_is_not_judged_by_its_past():
    model = Net(2).eval()
    GuidedBackprop()(asked(model))
    model.act1 = nn.SiLU()
    with pytest.raises(UnsupportedError, match="1 x Silu"):
        GuidedBackprop()(asked(model))
