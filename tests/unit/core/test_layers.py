"""Selecting and capturing layers."""

from __future__ import annotations

import pytest
import torch
from nets import SPACES, Net, batch, net
from torch import nn

from attrscore.core.dry_run import trace
from attrscore.core.layers import OverwrittenError, capture, select_layers
from attrscore.core.model import unwrap
from attrscore.core.passes import Pass
from attrscore.errors import LayerError
from attrscore.targets import Predicted


def crop(dimensions: int = 2) -> torch.Tensor:
    return torch.zeros((1, 2, *SPACES[dimensions]), dtype=torch.float64)


def test_what_a_glob_matches_says_why_it_has_no_map():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(320, 2)).double()
    with pytest.raises(LayerError, match=r"Layer '1' puts out a tensor \(1, 320\)"):
        select_layers(model, "[12]", crop())
    with pytest.raises(LayerError, match=r"No layer matches '\[34\]'"):
        select_layers(model, "[34]", crop())


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("last_conv", ["high"]),
        ("all_conv", ["low", "high"]),
        ("stages", ["act1", "act2"]),
        ("act?", ["act1", "act2"]),
        (["high", "low"], ["low", "high"]),
        (["act2", "all_conv"], ["low", "high", "act2"]),
    ],
)
def test_rules_names_and_globs_in_running_order(dimensions, wanted, expected):
    assert list(select_layers(net(dimensions), wanted, crop(dimensions))) == expected


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("hihg", "No layer matches 'hihg'. Did you mean 'high'"),
        ("lay*", "No layer matches 'lay"),
        ("unused", "Layer 'unused' never runs when Net is called"),
        ("head", r"Layer 'head' puts out a tensor \(1, 3\); expected \(N, C, Y, X\)"),
    ],
)
def test_errors_name_the_layer_and_what_to_do(wanted, sentence):
    with pytest.raises(LayerError, match=sentence):
        select_layers(net(), wanted, crop())


def test_a_network_without_convolutions_has_no_last_conv():
    model = nn.Sequential(nn.Flatten(), nn.Linear(240, 2)).double()
    with pytest.raises(LayerError, match="last_conv finds no layer with a 2D grid in Sequential"):
        select_layers(model, "last_conv", crop())


def test_squeeze_and_excitation_convolutions_are_no_layers():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 3, 1)).double()
    assert list(select_layers(model, "all_conv", crop())) == ["0"]


class Residual(nn.Module):
    """A block whose shortcut runs last, as torchvision's and MONAI's do."""

    def __init__(self, shortcut, *, pointwise=True, frozen=False):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 6, 1 if pointwise else 3, padding=0 if pointwise else 1)
        self.shortcut = shortcut
        self.frozen = frozen

    def forward(self, x):
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            x = torch.relu(self.stem(x))
            out = self.conv2(torch.relu(self.conv1(x)))
            out += self.shortcut(x)
        return out.relu_().mean((2, 3))


@pytest.mark.parametrize("pointwise", [True, False])
@pytest.mark.parametrize(
    "shortcut",
    [
        nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6)),
        nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(4, 6, 1)),  # as in ResNet-D
    ],
    ids=["plain", "pooled"],
)
def test_the_last_convolution_is_no_shortcut(shortcut, pointwise):
    model = Residual(shortcut, pointwise=pointwise).double().eval()
    assert list(select_layers(model, "last_conv", crop())) == ["conv2"]
    assert list(select_layers(model, "all_conv", crop()))[-1].startswith("shortcut")


def test_a_pointwise_convolution_that_is_no_shortcut_stays_the_last():
    head = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1)).double()
    assert list(select_layers(head, "last_conv", crop())) == ["2"]
    frozen = Residual(nn.Conv2d(4, 6, 1), frozen=True).double().eval()  # keeps no graph
    assert list(select_layers(frozen, "last_conv", crop())) == ["shortcut"]


def test_padding_is_no_stage():
    pad = nn.Sequential(nn.ConstantPad2d(1, 0.0))
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), pad, nn.Conv2d(3, 3, 3, 2)).double()
    assert list(select_layers(model, "stages", crop())) == ["0", "2"]


def test_trace_counts_calls_and_shapes():
    class Twice(Net):
        def forward(self, x):
            return self.head(self.act1(self.high(self.act1(self.low(x)))).flatten(2).mean(2))

    ran = {info.name: info for info in trace(Twice(2), crop())}
    assert ran["act1"].calls == 2
    assert ran["low"].grid == (12, 10)
    assert ran["head"].grid is None


def test_capture_starts_the_graph_at_the_lowest_layer_and_leaves_no_hook():
    model = net().requires_grad_(False)
    with capture({"high": model.high}, 2, gradients=True) as recorded:
        output = model(crop())
    assert recorded["high"].is_leaf
    assert output.requires_grad
    assert not model.high._forward_hooks


def test_outputs_are_copied_only_where_something_overwrites_them():
    model = net(inplace=True).requires_grad_(False)
    layers = {"low": model.low, "act1": model.act1, "high": model.high}
    for _ in range(2):  # autograd refuses to change the leaf "low"; "high" shows afterwards
        with pytest.raises(OverwrittenError), capture(layers, 2, gradients=True) as recorded:
            model(crop())
    with capture(layers, 2, gradients=True) as recorded:
        model(crop())
    assert recorded["low"].data_ptr() != recorded["act1"].data_ptr()


def test_a_block_and_its_last_layer_are_one_tensor_and_both_are_explained():
    block = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU())
    model = nn.Sequential(block, nn.Flatten(), nn.Linear(240, 2)).double()
    current = Pass(model, batch(), Predicted(), {"0.1": block[1], "0": block})
    torch.testing.assert_close(current.gradients["0"], current.gradients["0.1"])
    assert current.gradients["0"].any()


def test_layer_that_does_not_run_inside_capture():
    model = net()
    with (
        pytest.raises(LayerError, match="'unused' never runs"),
        capture({"unused": model.unused}, 2, gradients=True),
    ):
        model(crop())


def test_layer_that_returns_a_tuple():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    model = nn.Sequential(Pair()).double()
    with pytest.raises(LayerError, match="puts out something that is not one tensor"):
        select_layers(model, "0", crop())


# torch itself uses the torch.jit that it deprecates.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_wrappers_are_unwrapped():
    model = net()
    assert unwrap(nn.DataParallel(model)) is model
    assert unwrap(torch.compile(model)) is model
