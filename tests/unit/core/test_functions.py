"""Layers with fixed weights inside a pass: the same numbers, and less kept and done for them."""

import pytest
import torch
from torch import nn

from attrscore.core.functions import LightGradients


def net(dimensions: int, *, affine: bool = True) -> nn.Module:
    convolution = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
    norm = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dimensions]
    torch.manual_seed(0)
    made = nn.Sequential(convolution(2, 4, 3), norm(4, affine=affine), nn.ReLU(inplace=True))
    with torch.no_grad():
        for name, values in [*made.named_parameters(), *made.named_buffers()]:
            if values.is_floating_point() and name.startswith("1"):
                values.uniform_(0.5, 2)
    return made.eval().requires_grad_(requires_grad=False)


def gradient_and_kept(model: nn.Module, inputs: torch.Tensor, within) -> tuple:
    kept: list[torch.Tensor] = []
    inputs = inputs.clone().requires_grad_()
    watched = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t)
    with watched, within:
        output = model(inputs)
    (gradient,) = torch.autograd.grad(output.square().sum(), inputs)
    return output.detach(), gradient, {each.data_ptr(): each.nbytes for each in kept}


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_outputs_are_equal_gradients_nearly_and_one_map_less_is_kept(dimensions, affine):
    model = net(dimensions, affine=affine)
    inputs = torch.randn(3, 2, *(9,) * dimensions, generator=torch.Generator().manual_seed(1))
    expected, slope, kept = gradient_and_kept(model, inputs, torch.enable_grad())
    output, gradient, lighter = gradient_and_kept(model, inputs, LightGradients())
    assert torch.equal(output, expected)
    torch.testing.assert_close(gradient, slope, rtol=1e-5, atol=1e-6)
    assert sum(kept.values()) - sum(lighter.values()) > 0.9 * output.nbytes


def test_norms_that_learn_or_take_the_batch_are_left_alone():
    inputs = torch.randn(3, 2, 9, 9, generator=torch.Generator().manual_seed(1))
    for model in (net(2).train(), net(2).requires_grad_(requires_grad=True)):
        state = {name: values.clone() for name, values in model.state_dict().items()}
        expected, slope, _ = gradient_and_kept(model, inputs, torch.enable_grad())
        model.load_state_dict(state)
        output, gradient, _ = gradient_and_kept(model, inputs, LightGradients())
        assert torch.equal(output, expected)
        assert torch.equal(gradient, slope)


def test_many_gradients_at_once_are_those_taken_one_by_one():
    inputs = torch.randn(2, 2, 9, 9, generator=torch.Generator().manual_seed(1)).requires_grad_()
    with LightGradients():
        scores = net(2)(inputs).flatten(1).sum(0)[:3]
    together = torch.autograd.grad(
        scores, inputs, torch.eye(3), is_grads_batched=True, retain_graph=True
    )[0]
    for score, found in zip(scores, together, strict=True):
        torch.testing.assert_close(found, torch.autograd.grad(score, inputs, retain_graph=True)[0])


CONVOLUTIONS = {
    "depthwise": (4, 4, 3, {"groups": 4}),
    "depthwise, padded": (4, 4, (1, 3, 5), {"groups": 4, "padding": (0, 1, 2)}),
    "depthwise, two of each": (4, 8, 3, {"groups": 4}),
    "pointwise": (4, 3, 1, {}),
    "of one channel": (1, 1, 3, {"padding": 1}),
    "pads as much as its kernel": (4, 3, 1, {"padding": 1}),
    "strided": (4, 4, 3, {"groups": 4, "stride": 2}),
    "dilated": (4, 4, 3, {"groups": 4, "dilation": 2}),
    "padded by name": (4, 4, 3, {"groups": 4, "padding": "same"}),
    "in groups": (4, 4, 3, {"groups": 2}),
    "whole": (4, 3, 3, {}),
}
"""Channels in and out, kernel, options."""

LIGHTER = ("depthwise", "depthwise, padded", "pointwise", "of one channel")


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions_in_3d_have_the_gradients_of_torch(name, bias):
    torch.manual_seed(0)
    *sizes, options = CONVOLUTIONS[name]
    model = nn.Conv3d(*sizes, bias=bias, **options).requires_grad_(requires_grad=False)
    inputs = torch.randn(2, model.in_channels, 6, 7, 8)
    expected, slope, kept = gradient_and_kept(model, inputs, torch.enable_grad())
    output, gradient, lighter = gradient_and_kept(model, inputs, LightGradients())
    assert torch.equal(output, expected)
    torch.testing.assert_close(gradient, slope, rtol=1e-5, atol=1e-5)
    saved = sum(kept.values()) - sum(lighter.values())
    assert saved == (inputs.nbytes if name in LIGHTER else 0)


def test_convolutions_that_learn_keep_their_own_gradients():
    model = nn.Conv3d(4, 4, 3, groups=4)
    inputs = torch.randn(2, 4, 6, 7, 8)
    with LightGradients():
        model(inputs.requires_grad_()).sum().backward()
    assert model.weight.grad is not None
