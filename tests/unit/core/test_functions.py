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


class Balanced(nn.Module):
    """A transformer of everything that LibraGrad balances, with its own attention or torch's."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.embed = nn.Conv2d(2, 8, 4, 4)
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.RMSNorm(8, eps=1e-6)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.gate, self.down = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 8)
        self.acts = nn.ModuleList(
            [nn.GELU(), nn.GELU("tanh"), nn.SiLU(inplace=True), nn.Mish(), nn.Hardswish()]
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.embed(x).flatten(2).mT
        q, k, v = (
            each.unflatten(2, (2, 4)).transpose(1, 2)
            for each in self.qkv(self.norm1(x)).chunk(3, 2)
        )
        if self.fused:
            mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q @ k.mT / 2).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        x = x + self.down(self.up(y) * self.acts[2](self.gate(y)))
        for act in self.acts:
            x = x + act(1.5 * x)
        return self.head(x.mean(1))


def balanced(*, fused: bool) -> Balanced:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Balanced(fused=fused).double().eval()


@pytest.mark.parametrize("fused", [True, False])
def test_libras_gradients_add_up_to_the_score_and_change_no_output(fused):
    """FullGrad completeness: x dy/dx + sum of b dy/db = y, which torch's gradients miss.

    The property that LibraGrad restores (Mehri et al., CVPR 2025)."""
    model, errors = balanced(fused=fused), []
    inputs = torch.rand(2, 2, 16, 16, generator=torch.Generator().manual_seed(1)).double()
    biases = [each for name, each in model.named_parameters() if name.endswith("bias")]
    model.requires_grad_(requires_grad=False)
    expected = model(inputs)
    for libra in (False, True):
        x = inputs.clone().requires_grad_()
        for bias in biases:
            bias.requires_grad_()
        with LightGradients(libra=libra):
            output = model(x)
        assert torch.equal(output, expected)
        score = output[:, 1].sum()
        sources = [x, *biases]
        gradients = torch.autograd.grad(score, sources, allow_unused=True)
        terms = [(g * s).sum() for g, s in zip(gradients, sources, strict=True) if g is not None]
        errors.append((torch.stack(terms).sum() - score).abs().item() / score.abs().item())
    assert errors[0] > 0.05
    assert errors[1] < 1e-12


def test_fused_and_plain_attention_are_balanced_alike():
    found = []
    for fused in (True, False):
        model = balanced(fused=fused).requires_grad_(requires_grad=False)
        x = torch.rand(2, 2, 16, 16, generator=torch.Generator().manual_seed(1)).double()
        x.requires_grad_()
        with LightGradients(libra=True):
            found.append(torch.autograd.grad(model(x)[:, 0].sum(), x)[0])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-14)


def test_keys_shared_by_several_heads_are_balanced():
    q, kv = torch.randn(2, 4, 5, 3).double(), torch.randn(2, 2, 5, 3).double()
    value = kv.clone().requires_grad_()
    wanted = kv.clone().requires_grad_()
    with LightGradients(libra=True):
        found = nn.functional.scaled_dot_product_attention(q, kv, value, enable_gqa=True)
    plain = nn.functional.scaled_dot_product_attention(q, kv, wanted, enable_gqa=True)
    for a, b in zip(
        torch.autograd.grad(found.square().sum(), value),
        torch.autograd.grad(plain.square().sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(a, b)  # of the values alone, both are the same
