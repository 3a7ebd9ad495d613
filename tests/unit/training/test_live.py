"""The loss: equal to 1 - evaluate, differentiable in the parameters, and safe where undefined."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import attrscore
from attrscore.core.contracts import Batch, InputSpec
from attrscore.errors import AttrscoreWarning, UnsupportedError
from attrscore.models.tiny import TinyCNN
from attrscore.targets import Label
from attrscore.training import outside, watch

METHODS = (
    "grad_cam",
    "hires_cam",
    "layer_cam",
    "xgrad_cam",
    "grad_cam_plus_plus",
    "activation_x_gradient",
)
SIZES = ((16, 16), (6, 12, 12))


def problem(size, *, blank=False, n=4, classes=3):
    """A model in float64 and a batch of noise; its first cell may be blank."""
    spec = InputSpec(channels=2, size=size, classes=classes)
    model = TinyCNN(width=4, seed=0)(spec).double()
    if blank:  # then nothing is hot where nothing is seen
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                nn.init.zeros_(module.bias)
    generator = torch.Generator().manual_seed(3)
    inputs = torch.rand(n, 2, *size, generator=generator, dtype=torch.float64)
    if blank:
        inputs[0] = 0
    cell = torch.zeros(n, *size, dtype=torch.bool)
    cell[(slice(None), *[slice(extent // 3, 2 * extent // 3) for extent in size])] = True
    label = torch.arange(n) % classes
    return model, Batch(inputs, {"cell": cell}, label)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", METHODS)
def test_it_is_one_less_the_score_of_an_audit(method, size):
    model, batch = problem(size)
    for layers in ("last_conv", ["features.0", "features.3"]):
        rows = attrscore.evaluate(model, batch, methods=method, layers=layers, progress="none")
        loss = outside(model, batch, method=method, layers=layers)
        assert abs(float(loss.detach()) - (1 - rows["grad_camo"].mean())) < 1e-12


@pytest.mark.parametrize("blank", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:.*have no score")
def test_its_derivative_is_that_of_finite_differences(method, size, blank):
    model, batch = problem(size, blank=blank)

    def loss():
        return outside(model, batch, method=method, layers="features.3", target="label")

    loss().backward()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if blank and parameter.ndim == 1:
            continue  # with another bias nothing is blank: there the loss jumps
        along = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        along /= along.norm()
        slope = float((parameter.grad * along).sum()) if parameter.grad is not None else 0.0
        ends = []
        with torch.no_grad():
            start = parameter.clone()
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                parameter.copy_(start + step * along)
            ends.append(float(loss().detach()))
        with torch.no_grad():
            parameter.copy_(start)
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-7)


def test_cells_without_a_score_are_left_out_counted_and_harm_no_gradient():
    model, batch = problem((16, 16), blank=True)
    empty = batch.regions["cell"].clone()
    empty[1] = False
    batch = replace(batch, regions={"cell": empty})
    with pytest.warns(AttrscoreWarning, match="2 of 4 cells have no score"):
        loss = outside(model, batch)
    rows = attrscore.evaluate(model, batch, methods="hires_cam", progress="none")
    assert list(rows["status"]) == ["no_positive_mass", "empty_region", "ok", "ok"]
    assert abs(float(loss.detach()) - (1 - rows["grad_camo"].mean())) < 1e-12
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_a_batch_without_any_score_gives_0_and_a_derivative_without_nan():
    model, batch = problem((16, 16))
    batch = replace(batch, regions={"cell": torch.zeros_like(batch.regions["cell"])})
    with pytest.warns(AttrscoreWarning, match="4 of 4 cells"):
        loss = outside(model, batch)
    assert loss.item() == 0
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.filterwarnings("ignore:.*have no score")
def test_watching_ones_own_forward_pass_costs_no_other_and_leaves_the_model_alone():
    model, batch = problem((16, 16))
    calls = []
    model.features[0].register_forward_hook(lambda *_: calls.append(1))
    outside(model, batch)
    calls.clear()
    model.train()
    with watch(model) as live:
        model(batch.inputs)
        assert all(module.training for module in model.modules())
        assert len(calls) == 1  # the layers were found by the call before
        model.eval()
        logits = model(batch.inputs)  # the last pass is what counts
    assert torch.equal(live.of(logits, batch).outside(), outside(model, batch))
    assert len(model._forward_pre_hooks) == 0
    assert not any(module._forward_hooks for module in (*model.features[1:], model.head))
    assert all(p.requires_grad for p in model.parameters())


def test_a_layer_that_is_changed_in_place_keeps_its_own_output():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(inplace=True))
    model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).double()
    _, batch = problem((16, 16), classes=2)
    rows = attrscore.evaluate(model, batch, methods="hires_cam", layers="0.0", progress="none")
    loss = outside(model, batch, layers="0.0")
    loss.backward()
    assert abs(float(loss.detach()) - (1 - rows["grad_camo"].mean())) < 1e-12


def test_below_a_frozen_layer_there_is_a_loss_too():
    model, batch = problem((16, 16))
    for parameter in model.features.parameters():
        parameter.requires_grad_(False)
    expected = outside(model, batch)
    expected.backward()
    assert model.head.weight.grad.abs().sum() > 0


def test_what_cannot_be_a_loss_is_refused_in_words():
    model, batch = problem((16, 16))
    for method in ("eigen_grad_cam", "integrated_gradients", "saliency"):
        with pytest.raises(UnsupportedError, match="cannot be a loss"):
            outside(model, batch, method=method)
    with watch(model) as live:
        pass
    with pytest.raises(UnsupportedError, match="No forward pass was watched"):
        live.of(torch.zeros(4, 3), batch)
    with torch.no_grad(), watch(model) as live:
        logits = model(batch.inputs)
    with pytest.raises(UnsupportedError, match="not in the autograd graph"):
        live.of(logits, batch)


@pytest.mark.filterwarnings("ignore:.*have no score")
def test_descending_it_moves_attribution_onto_the_cell():
    model, batch = problem((16, 16))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    before = outside(model, batch, target=Label(scalar="margin")).item()
    for _ in range(60):
        optimizer.zero_grad()
        with watch(model) as live:
            logits = model(batch.inputs)
        loss = live.of(logits, batch, target=Label(scalar="margin")).outside()
        loss.backward()
        optimizer.step()
    assert outside(model, batch, target=Label(scalar="margin")).item() < before - 0.1


def test_a_sum_that_cancels_is_no_loss():
    """Behind a normalisation of the channels alone, activation times gradient is rounding noise."""

    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = (
                nn.Conv2d(2, 8, 3),
                nn.LayerNorm(8, 0.0),
                nn.Linear(8, 2),
            )

        def forward(self, x):
            return self.head(self.norm(self.conv(x).movedim(1, -1)).mean((1, 2)))

    torch.manual_seed(0)
    model = Normalised()
    _, cells = problem((16, 16))
    model = model.double()
    with pytest.raises(
        UnsupportedError, match="Activation times gradient cancels at every position"
    ):
        outside(model, cells, layers="conv")
    assert outside(model, cells, layers="conv", method="layer_cam").isfinite()
