"""Path, perturbation and relevance methods against Captum called directly, 2D and 3D."""

from __future__ import annotations

import captum.attr
import pytest
import torch
from captum.testing.helpers.basic_models import BasicModel_MultiLayer
from nets import batch, net
from scipy.ndimage import gaussian_filter
from torch import nn

from attrscore.core.contracts import Batch
from attrscore.core.passes import Pass
from attrscore.engine.run import run
from attrscore.methods import (
    LRP,
    DeepLift,
    DeepLiftShap,
    FeatureAblation,
    IntegratedGradients,
    KernelShap,
    LayerConductance,
    LayerLRP,
    Occlusion,
)
from attrscore.methods._options import blurred
from attrscore.methods.perturbation import grid_blocks
from attrscore.targets import Label

pytestmark = [
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require"),
    pytest.mark.filterwarnings("ignore:Setting (forward|backward)"),
]
RULES = ["gausslegendre", "riemann_left", "riemann_middle", "riemann_right", "riemann_trapezoid"]


@pytest.fixture(params=[2, 3])
def dimensions(request) -> int:
    return request.param


def maps(model: nn.Module, data: Batch, method: object, **options) -> dict[str, torch.Tensor]:
    found = run(
        model, data, methods=method, target="label", keep="native", on_error="raise", **options
    )
    return {each.layer: torch.from_numpy(each.maps) for each in found}


def close(ours: torch.Tensor, theirs: torch.Tensor, atol: float = 1e-10) -> None:
    torch.testing.assert_close(ours, theirs.detach().double().expand_as(ours), rtol=0, atol=atol)


@pytest.mark.parametrize("rule", RULES)
def test_integrated_gradients(dimensions, rule):
    data = batch(dimensions)
    ours = maps(net(dimensions), data, IntegratedGradients(rule=rule, steps=9, baseline=0.2))
    theirs = captum.attr.IntegratedGradients(net(dimensions)).attribute(
        data.inputs, 0.2, target=data.label, n_steps=9, method=rule
    )
    close(ours["input"], theirs, 1e-7)  # Captum keeps the weights in float32


def test_layer_conductance_of_all_layers_in_one_walk(dimensions):
    data, model = batch(dimensions), net(dimensions)
    ours = maps(net(dimensions), data, LayerConductance(steps=7), layers=["low", "high"])
    for layer, found in ours.items():
        theirs = captum.attr.LayerConductance(model, getattr(model, layer)).attribute(
            data.inputs, target=data.label, n_steps=7
        )
        close(found, theirs)


@pytest.mark.parametrize(("window", "stride"), [(3, 2), (4, 4), ((2, 5), (1, 3))])
def test_occlusion(dimensions, window, stride):
    if isinstance(window, tuple) and dimensions == 3:
        window, stride = (3, *window), (2, *stride)
    data = batch(dimensions)
    ours = maps(net(dimensions), data, Occlusion(window=window, stride=stride, baseline=0.1))
    wide = window if isinstance(window, tuple) else (window,) * dimensions
    far = stride if isinstance(stride, tuple) else (stride,) * dimensions
    theirs = captum.attr.Occlusion(net(dimensions)).attribute(
        data.inputs, (2, *wide), strides=(2, *far), baselines=0.1, target=data.label
    )
    close(ours["input"], theirs[:, :1], 1e-7)  # Captum works in float32 here
    assert torch.equal(
        theirs[:, :1], theirs[:, 1:]
    )  # each channel the same: they are hidden at once


def test_feature_ablation(dimensions):
    data = batch(dimensions)
    ours = maps(net(dimensions), data, FeatureAblation(size=4, spread="value", baseline=-0.5))
    blocks = grid_blocks(data.space, (4,) * dimensions)
    theirs = captum.attr.FeatureAblation(net(dimensions)).attribute(
        data.inputs, -0.5, target=data.label, feature_mask=blocks[None, None]
    )
    close(ours["input"], theirs[:, :1])


def test_kernel_shap_is_exact_where_all_coalitions_are_tried(dimensions):
    """Against Captum's Shapley values over all orders of 4 features."""
    data = batch(dimensions, n=2)
    size = tuple(-(-extent // 2) for extent in data.space[-2:])
    size = (data.space[0], *size) if dimensions == 3 else size
    ours = maps(net(dimensions), data, KernelShap(size=size, samples=14, spread="value"))
    blocks = grid_blocks(data.space, size)
    assert int(blocks.max()) == 3
    theirs = captum.attr.ShapleyValues(net(dimensions)).attribute(
        data.inputs, target=data.label, feature_mask=blocks[None, None]
    )
    close(ours["input"], theirs[:, :1], 1e-7)  # Captum works in float32 here


def test_deep_lift_shap(dimensions):
    """All cells of the pool but one are baselines where none is the cell itself."""
    data, others = batch(dimensions), batch(dimensions, n=3, seed=5)
    chosen = [
        DeepLiftShap()._chosen(Pass(net(dimensions), data.rows(i, i + 1), Label(), {}, pool=others))
        for i in range(len(data))
    ]
    ours = maps(net(dimensions), data, DeepLiftShap(), pool=others)["input"]
    for i, (rows,) in enumerate(chosen):
        assert len(rows) == 2
        theirs = captum.attr.DeepLiftShap(net(dimensions)).attribute(
            data.inputs[i : i + 1], others.inputs[rows], target=int(data.label[i])
        )
        close(ours[i : i + 1], theirs)


@pytest.mark.parametrize("baseline", ["zero", "blurred"])
def test_deep_lift(dimensions, baseline):
    data = batch(dimensions)
    reference = {
        "zero": torch.zeros_like(data.inputs),
        "blurred": blurred(data.inputs, (1.5,) * dimensions),
    }[baseline]
    ours = maps(net(dimensions, inplace=True), data, DeepLift(baseline=baseline, sigma=1.5))
    theirs = captum.attr.DeepLift(net(dimensions)).attribute(
        data.inputs, reference, target=data.label
    )
    close(ours["input"], theirs)


def test_lrp_in_two_dimensions_where_captum_has_rules():
    model, data = net(2, pooled=True), batch(2)
    del model.unused  # Captum asks for a rule even there, and for nn.Flatten
    model.pooling[1].rule = captum.attr._utils.lrp_rules.EpsilonRule()
    theirs = captum.attr.LRP(model).attribute(data.inputs, target=data.label)
    close(maps(net(2, pooled=True), data, LRP())["input"], theirs)
    model.pooling[1].rule = captum.attr._utils.lrp_rules.EpsilonRule()
    layers = captum.attr.LayerLRP(model, [model.low, model.high])
    ours = maps(net(2, pooled=True), data, LayerLRP(), layers=["low", "high"])
    for found, expected in zip(
        ours.values(), layers.attribute(data.inputs, target=data.label), strict=True
    ):
        close(found, expected)


def test_lrp_of_a_relu_network_is_input_x_gradient_in_the_limit(dimensions):
    """Ancona et al., ICLR 2018, proposition 1: independent of Captum, and of the dimensions."""
    data, model = batch(dimensions), net(dimensions, pooled=True, inplace=True)
    ours = maps(model, data, LRP(epsilon=1e-12))
    close(ours["input"], maps(model, data, "input_x_gradient")["input"], 1e-8)
    layers = {"layers": ["low", "act1", "high", "pooling.0"]}
    relevance = maps(model, data, LayerLRP(epsilon=1e-12), **layers)
    for layer, expected in maps(model, data, "activation_x_gradient", **layers).items():
        close(relevance[layer], expected, 1e-8)


def test_published_occlusion_through_the_typed_method():
    """captum's tests/attr/test_occlusion.py (Captum 0.9, BSD-3): three features as three pixels."""

    class AsImage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = BasicModel_MultiLayer()

        def forward(self, x):
            return self.inner(x.flatten(1))

    inputs = torch.tensor([[[[20.0, 50.0, 30.0]]]])
    data = Batch(
        inputs, {"cell": torch.tensor([[[True, False, False]]])}, torch.zeros(1, dtype=int)
    )
    found = maps(AsImage(), data, Occlusion(window=1, stride=1))
    assert found["input"].ravel().tolist() == [80.0, 200.0, 120.0]


@pytest.mark.parametrize("sigma", [0.4, 2.0, 9.0])
def test_the_blurred_baseline_equals_scipy(dimensions, sigma):
    inputs = batch(dimensions).inputs
    widths = tuple(sigma * factor for factor in (1, 0.5, 2)[:dimensions])
    expected = gaussian_filter(
        inputs.numpy(), widths, axes=tuple(range(2, dimensions + 2)), mode="nearest"
    )
    close(blurred(inputs, widths), torch.from_numpy(expected), 1e-12)
