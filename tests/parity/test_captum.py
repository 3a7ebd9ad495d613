"""Captum's own published numbers, and Captum itself, layer by layer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from captum.attr import LayerGradCam
from captum.testing.helpers.basic_models import BasicModel_ConvNet_One_Conv, BasicModel_MultiLayer
from nets import Net, batch, net
from torch import nn

from attrscore.core.contracts import INPUT, Batch
from attrscore.core.heat import HeatOptions
from attrscore.core.passes import Pass
from attrscore.engine.run import run
from attrscore.errors import UnsupportedError
from attrscore.methods import FromCaptum, GradCAM, GuidedGradCAM, guided_backprop
from attrscore.targets import Index


@pytest.fixture
def one_conv() -> tuple[nn.Module, Batch]:
    """The case of captum's tests/attr/layer/test_grad_cam.py (Captum 0.9, BSD-3)."""
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[:, 2:, :2] = True
    inputs = torch.arange(16.0).view(1, 1, 4, 4)
    return BasicModel_ConvNet_One_Conv(), Batch(inputs, {"cell": mask})


def results(model: nn.Module, data: Batch, method: object, layer: str, **options):
    (found,) = run(
        model, data, methods=method, layers=layer, target=Index(index=0), keep="native", **options
    )
    return found


@pytest.mark.parametrize(
    ("method", "layer", "expected"),
    [
        (GradCAM(), "conv1", [[[11.25, 13.5], [20.25, 22.5]]]),
        (GradCAM(), "relu1", [[[0.0, 4.0], [28.0, 32.5]]]),
        (
            GradCAM(channels="keep"),
            "conv1",
            [[[-3.75, 3.0], [23.25, 30.0]], [[15.0, 10.5], [-3.0, -7.5]]],
        ),
        (
            GuidedGradCAM(),
            "relu1",
            [[[0, 0, 4, 4], [0, 0, 12, 8], [28, 84, 97.5, 65], [28, 56, 65, 32.5]]],
        ),
    ],
)
def test_published_maps(one_conv, method, layer, expected):
    found = results(*one_conv, method, layer)
    torch.testing.assert_close(torch.from_numpy(found.maps)[0], torch.tensor(expected))


def test_published_map_with_two_inputs(one_conv):
    model, data = one_conv
    ones = torch.ones_like(data.inputs)
    found = results(model, replace(data, others=(ones,)), GradCAM(), "conv1")
    torch.testing.assert_close(
        torch.from_numpy(found.maps)[0, 0], torch.tensor([[14.5, 19.0], [32.5, 37.0]])
    )


def test_published_map_with_frozen_parameters(one_conv):
    model, data = one_conv
    model.requires_grad_(False)
    found = results(model, data, GradCAM(), "conv1")
    assert found.maps[0].tolist() == [[[11.25, 13.5], [20.25, 22.5]]]


def test_published_guided_backprop_and_deconvolution(one_conv):
    model, data = one_conv
    current = Pass(model, data, Index(index=0), {})
    guided = guided_backprop(current)
    assert guided[0, 0].tolist() == [[0, 1, 1, 1], [1, 3, 3, 2], [1, 3, 3, 2], [1, 2, 2, 1]]
    deconvolved = FromCaptum("Deconvolution")(current)[INPUT]
    assert deconvolved[0, 0].tolist() == [[2, 3, 3, 1], [3, 5, 5, 2], [3, 5, 5, 2], [1, 2, 2, 1]]


def test_published_occlusion():
    class AsImage(nn.Module):
        """Captum's multi-layer model takes three features; here they are three pixels."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = BasicModel_MultiLayer()

        def forward(self, x):
            return self.inner(x.flatten(1))

    inputs = torch.tensor([[[[20.0, 50.0, 30.0]]]])
    data = Batch(inputs, {"cell": torch.tensor([[[True, False, False]]])})
    method = FromCaptum("Occlusion", {"sliding_window_shapes": [1, 1, 1]})
    (found,) = run(AsImage(), data, methods=method, target=Index(index=0), keep="native")
    assert found.maps.ravel().tolist() == [80.0, 200.0, 120.0]


@pytest.mark.parametrize(
    ("method", "layer", "resize", "expected"),
    [
        (GuidedGradCAM(), "relu1", "linear", 0.404958678),
        (GradCAM(), "conv1", "nearest", 0.3),
        (GradCAM(), "conv1", "linear", 0.2875),
    ],
)
def test_published_scores(one_conv, method, layer, resize, expected):
    found = results(*one_conv, method, layer, heat=HeatOptions(resize=resize))
    assert found.columns["grad_camo"][0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("options", [{}, {"inplace": True}], ids=["plain", "inplace"])
@pytest.mark.parametrize("frozen", [False, True])
def test_grad_cam_equals_captum_at_every_layer(dimensions, options, frozen):
    data = batch(dimensions)
    layers = ["low", "high", "act2"]
    ours = net(dimensions, **options).requires_grad_(not frozen)
    found = {
        result.layer: result.maps
        for result in run(ours, data, layers=layers, keep="native", target="label")
    }
    for layer in layers:
        theirs = net(dimensions)  # without in-place ReLU, which Captum's single hook would read
        expected = LayerGradCam(theirs, getattr(theirs, layer)).attribute(
            data.inputs, target=data.label
        )
        torch.testing.assert_close(torch.from_numpy(found[layer]), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_integrated_gradients_equal_captum_for_the_class_of_the_clean_input(dimensions):
    data, model = batch(dimensions), net(dimensions)
    (found,) = run(model, data, methods="integrated_gradients", keep="native")
    expected = CaptumIntegratedGradients(model).attribute(
        data.inputs, target=model(data.inputs).argmax(1), n_steps=50
    )
    torch.testing.assert_close(torch.from_numpy(found.maps), expected, rtol=0, atol=1e-10)


def test_reused_module_is_refused_by_name():
    class Twice(Net):
        def forward(self, x):
            x = self.high(self.act1(self.low(x)))
            return self.head(self.act1(x).flatten(2).mean(2))

    with pytest.raises(UnsupportedError, match="'act1' runs 2 times"):
        list(run(Twice(2).eval(), batch(2), layers="act1", on_error="raise"))
