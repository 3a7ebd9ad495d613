"""What single methods promise, on networks whose weights prove it."""

from __future__ import annotations

import re

import pytest
import torch
from nets import batch, conv, net
from torch import nn

import attrscore.methods
from attrscore.core.contracts import INPUT, Batch
from attrscore.core.passes import Pass
from attrscore.core.registry import METHODS
from attrscore.engine.run import run
from attrscore.errors import ConfigError
from attrscore.methods import FromCaptum, IntegratedGradients
from attrscore.targets import Index, Predicted


class Windowed(nn.Module):
    """Reads one region only, by construction: what lies outside ``window`` is multiplied by 0."""

    def __init__(self, window: torch.Tensor) -> None:
        super().__init__()
        self.window = window
        dimensions = window.ndim
        self.conv = conv(dimensions, 1, 3, 1).double()
        nn.init.constant_(self.conv.bias, 2.0)  # no ReLU is off
        self.relu = nn.ReLU()
        self.head = nn.Linear(3 * window.numel(), 2).double()

    def forward(self, x):
        return self.head((self.relu(self.conv(x)) * self.window).flatten(1))


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("reads", ["cell", "neighbours"])
@pytest.mark.parametrize("method", ["hires_cam", "saliency", "integrated_gradients"])
def test_regions_that_provably_are_not_read_get_exactly_nothing(dimensions, reads, method):
    data = batch(dimensions, n=1)
    data = Batch(data.inputs[:, :1], data.regions)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = Windowed(data.regions[reads][0].double())
    (found,) = run(
        model,
        data,
        methods=method,
        layers="relu",
        target=Index(index=0),
        heat={"sign": "absolute"},
    )
    assert found.columns["grad_camo"][0] == (1.0 if reads == "cell" else 0.0)
    assert found.columns["grad_camo.neighbours"][0] == (0.0 if reads == "cell" else 1.0)


def test_grad_cam_lights_up_what_hires_cam_proves_unread():
    """SCIENCE 3.3, the reason why HiResCAM stands beside Grad-CAM."""
    data = batch(n=1)
    data = Batch(data.inputs[:, :1], data.regions)
    model = Windowed(data.regions["cell"][0].double())
    scores = {
        found.method: found.columns["grad_camo"][0]
        for found in run(
            model,
            data,
            methods=["grad_cam", "hires_cam"],
            layers="relu",
            heat={"sign": "absolute"},
        )
    }
    assert scores["hires_cam"] == 1
    assert scores["grad_cam"] < 0.5


class NormalisedLast(nn.Module):
    """The score is read from positions whose channels are normalised first, as in ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = conv(2, 2, 8, 3).double(), conv(2, 8, 8, 3).double()
        self.norm, self.head = nn.LayerNorm(8).double(), nn.Linear(8, 3).double()

    def forward(self, x):
        x = self.high(self.low(x).relu())
        return self.head(self.norm(x.movedim(1, -1)).tanh().mean((1, 2)))


@pytest.mark.parametrize("name", ["hires_cam", "activation_x_gradient"])
def test_what_a_normalisation_cancels_is_no_map(name):
    """The score is the same however a position is scaled: x times its gradient sums to 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = NormalisedLast()
    plain, libra = METHODS.build(name), METHODS.build(name, gradients="libra")
    found = {
        (each.method, each.layer): each.columns
        for each in run(
            model, batch(2), methods={"plain": plain, "libra": libra, "layer_cam": "layer_cam"},
            layers=["low", "high"], target=Index(index=0),
        )
    }  # fmt: skip
    assert set(found["plain", "high"]["status"]) == {"unsupported"}
    assert "cancels at every position of 'high'" in found["plain", "high"]["reason"][0]
    for key in found.keys() - {("plain", "high")}:
        assert "unsupported" not in found[key]["status"], key


@pytest.mark.parametrize("dimensions", [2, 3])
def test_grad_cam_is_hires_cam_at_the_last_layer_before_pooling(dimensions):
    """A free exact test (Draelos, Carin 2020): under GAP + linear the gradient is constant."""
    maps = {
        found.method: torch.from_numpy(found.maps)
        for found in run(
            net(dimensions),
            batch(dimensions),
            methods=["grad_cam", "hires_cam"],
            layers="act2",
            keep="native",
        )
    }
    torch.testing.assert_close(maps["grad_cam"], maps["hires_cam"], rtol=0, atol=1e-12)


def test_saliency_is_the_gradient_by_hand():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, -2.0, 3.0, 0.0], [0.0, 0.0, 0.0, 1.0]]))
    data = Batch(torch.ones(1, 1, 2, 2).double(), {"cell": torch.eye(2, dtype=torch.bool)[None]})
    (found,) = run(model, data, methods="saliency", target=Index(index=0), keep="native")
    assert found.maps.ravel().tolist() == [1, 2, 3, 0]
    assert found.columns["grad_camo"][0] == pytest.approx(1 / 6)


def test_integrated_gradients_of_a_linear_network_are_weight_times_input():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False)).double()
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]).double()
    data = Batch(x, {"cell": torch.eye(2, dtype=torch.bool)[None]})
    current = Pass(model, data, Index(index=1), {})
    maps = IntegratedGradients(steps=3)(current)
    expected = (model[1].weight[1].detach() * x.flatten()).view_as(x)
    torch.testing.assert_close(maps[INPUT], expected)
    # Captum keeps the weights of its quadrature in float32.
    assert maps.diagnostics["completeness_error"].abs().max() < 1e-6
    assert maps.diagnostics["output_change"] == pytest.approx(model(x)[0, 1].item())


def test_the_mean_baseline_has_no_attribution_on_a_flat_crop():
    model = net()
    data = batch(n=1)
    flat = Batch(torch.full_like(data.inputs, 0.7), data.regions)
    maps = IntegratedGradients(baseline="mean")(Pass(model, flat, Predicted(), {}))
    assert maps[INPUT].abs().max() < 1e-12


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: FromCaptum("Oclusion"), "no algorithm 'Oclusion'.*Did you mean 'Occlusion'"),
        (lambda: FromCaptum("NeuronGradient"), "no algorithm 'NeuronGradient'"),
        (
            lambda: FromCaptum("Occlusion", {"sliding_windows": 3}),
            "no option 'sliding_windows'. Did you mean 'sliding_window_shapes'",
        ),
        (lambda: IntegratedGradients(steps=0), "steps=0 must be a whole number, 1 or more"),
        (lambda: IntegratedGradients(rule="simpson"), "rule='simpson' is not a choice"),
    ],
)
def test_wrong_options_fail_when_built(make, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make()


def test_the_table_of_methods_lists_every_one():
    """attrscore.methods.__doc__ says what each map means, its sign, cost and limits."""
    names = {entry.name for entry in METHODS.entries() if entry.alias_of is None}
    ours = {name for name in names if METHODS.load(name).__module__.startswith("attrscore.")}
    _, head, table, _ = re.split(r"^=[= ]+$", attrscore.methods.__doc__, flags=re.MULTILINE)
    assert head.split() == ["method", "the", "map", "is", "sign", "cost", "cannot", "explain"]
    assert {line.split()[0] for line in table.strip().splitlines()} == ours
