"""Integrated gradients leave out the affine layers at a network's beginning, and change nothing."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from nets import batch
from torch import Tensor, nn

from attrscore.core.contracts import INPUT, Batch
from attrscore.core.passes import Pass
from attrscore.methods import IntegratedGradients
from attrscore.methods.path import quadrature
from attrscore.targets import Index

STEPS = 4


class Counted(nn.Module):
    """A rest of a network that a padding, a convolution and a norm stand before."""

    dimensions: ClassVar[int] = 2

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        three = self.dimensions == 3
        self.pad = nn.ConstantPad3d(1, 0.5) if three else nn.ConstantPad2d(1, 0.5)
        self.first = (nn.Conv3d if three else nn.Conv2d)(2, 4, 3, stride=2)
        self.norm = (nn.BatchNorm3d if three else nn.BatchNorm2d)(4)
        self.second = (nn.Conv3d if three else nn.Conv2d)(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 3)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)
        nn.init.uniform_(self.norm.running_mean)
        self.double().eval()

    def stem(self, x: Tensor) -> Tensor:
        return self.norm(self.first(self.pad(x)))

    def rest(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.second(self.relu(x))).flatten(2).mean(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.stem(x))


class InThree(Counted):
    dimensions = 3


class Beside(Counted):
    """The input goes past the stem too."""

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.stem(x)) + x.square().flatten(2).mean(2)[:, :1]


class FromWithin(Counted):
    """What is inside the stem is used once more."""

    def forward(self, x: Tensor) -> Tensor:
        inner = self.pad(x)
        return self.rest(self.norm(self.first(inner))) + inner.square().flatten(2).mean(2)[:, :1]


class Twice(Counted):
    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.stem(x)) + self.rest(self.stem(x.square()))


class Scaled(Counted):
    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.stem(x.square()))


class InPlace(Counted):
    """The convolution's output is changed in place, and used twice."""

    def forward(self, x: Tensor) -> Tensor:
        inner = self.first(self.pad(x))
        return self.rest(self.norm(self.relu(inner) + inner))


class InPlaceBefore(Counted):
    """The padding's output is changed in place before the convolution takes it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.norm(self.first(self.pad(x).mul_(2).sigmoid_())))


class Masked(Counted):
    """What is inside the stem decides without a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        inner = self.pad(x)
        bright = (inner > 0.2).flatten(1).double().mean(1, keepdim=True)
        return self.rest(self.norm(self.first(inner))) * bright


class Decides(Counted):
    """Where pixels are bright, which they are at the far end of the way, it scales them."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / 2 if x.abs().max() < 0.35 else x)


def hooked() -> nn.Module:
    model = Counted()
    model.first.register_forward_hook(lambda _module, _args, output: output.tanh())
    return model


LEFT_OUT = {"2D": Counted, "3D": InThree, "changed behind": InPlace, "masked": Masked}
ALWAYS_RUN = {
    "another way": Beside,
    "another way from within": FromWithin,
    "run twice": Twice,
    "changed within": InPlaceBefore,
    "given something else": Scaled,
    "given something else at times": Decides,
    "hooked": hooked,
}


def plain(model: nn.Module, inputs: Tensor) -> Tensor:
    weights, places = quadrature("gausslegendre", STEPS)
    total = torch.zeros_like(inputs)
    for weight, place in zip(weights, places, strict=True):
        point = (place * inputs).requires_grad_()
        total += weight * torch.autograd.grad(model(point)[:, 1].sum(), point)[0]
    return total * inputs


def crops(model: nn.Module) -> Batch:
    return batch(model.first.weight.ndim - 2, n=2)


def explained(model: nn.Module, data: Batch, steps: int) -> Tensor:
    method = IntegratedGradients(steps=steps, chunk=1)
    return method(Pass(model, data, Index(index=1), {}))[INPUT]


@pytest.mark.parametrize("make", [*LEFT_OUT.values(), *ALWAYS_RUN.values()])
def test_maps_are_those_of_the_plain_sum(make):
    model = make()
    data = crops(model)
    before = set(vars(model.first))
    found = explained(model, data, STEPS)
    torch.testing.assert_close(found, plain(model, data.inputs))
    assert set(vars(model.first)) == before


@pytest.mark.parametrize("make", LEFT_OUT.values(), ids=LEFT_OUT)
def test_a_stem_is_not_run_at_every_step(make, monkeypatch):
    few, many = (first_calls(make(), steps, monkeypatch) for steps in (2, 9))
    assert few == many > 0


@pytest.mark.parametrize("make", ALWAYS_RUN.values(), ids=ALWAYS_RUN)
def test_layers_that_are_not_alone_at_the_input_are_run_at_every_step(make, monkeypatch):
    few, many = (first_calls(make(), steps, monkeypatch) for steps in (2, 9))
    assert many > few


def first_calls(model: nn.Module, steps: int, monkeypatch) -> int:
    """How often the first convolution convolves."""
    calls = 0
    convolve = model.first._conv_forward

    def counted(*args):
        nonlocal calls
        calls += 1
        return convolve(*args)

    monkeypatch.setattr(model.first, "_conv_forward", counted)
    explained(model, crops(model), steps)
    return calls
