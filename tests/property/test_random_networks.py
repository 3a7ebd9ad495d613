"""Small random networks as users write them: each number that of plain torch, or none and why.

The expected values come from a second model of the same seed and torch alone.
"""

from __future__ import annotations

import contextlib
import random
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import batch
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from attrscore import METHODS, SCORERS, run

NETWORKS = 48
STEPS = 4
WIDTH = 4
LAYERS = ("stem", "last")
METHODS_ASKED = ("saliency", "input_x_gradient", "grad_cam", "hires_cam", "integrated_gradients")


class Residual(nn.Module):
    def __init__(self, inner, *, inplace):
        super().__init__()
        self.inner, self.inplace = inner, inplace

    def forward(self, x):
        made = self.inner(x)
        if self.inplace:
            made += x
            return made
        return x + made


class Checkpointed(nn.Module):
    def __init__(self, inner, how):
        super().__init__()
        self.inner, self.how = inner, how

    def forward(self, x):
        if self.how == "sequential":
            return checkpoint_sequential(self.inner, 2, x, use_reentrant=False)
        return checkpoint(self.inner, x, use_reentrant=self.how == "reentrant")


class Gated(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x.flatten(2).mean(2)).view(*x.shape[:2], *[1] * (x.ndim - 2))


class Does(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def doubled(x):
    if x.requires_grad:
        x.register_hook(lambda gradient: 2 * gradient)
    return x


def halved_slice(x):
    x[:, :2].mul_(0.5)
    return x


def cleared(x):
    x[x < -0.2] = 0
    return x


FUNCTIONS = (
    F.relu,
    F.silu,
    torch.relu_,
    lambda x: x.add_(0.1),
    lambda x: x.sub_(0.2).mul_(1.5),
    lambda x: F.leaky_relu(x, 0.1, inplace=True),
    lambda x: torch.where(x > 0, x, 0.1 * x),
    lambda x: x * (x > 0),
    lambda x: torch.cat([x[:, 1:], x[:, :1]], 1),
    lambda x: F.dropout(x, 0.5, training=False),
    lambda x: x + x.detach(),
    halved_slice,
    cleared,
    doubled,
)


class Network(nn.Module):
    """stem, some random steps, last, a ReLU and a head."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.d = draw.choice((2, 3))
        self.start = draw.choice(("none", "none", "sub_", "relu_", "slice"))
        self.conv = getattr(nn, f"Conv{self.d}d")
        self.stem = self.conv(2, WIDTH, 3, padding=1)
        self.again = self.conv(WIDTH, WIDTH, 1)
        self.steps = nn.ModuleList(self.step(draw) for _ in range(STEPS))
        self.last = self.conv(WIDTH, WIDTH, 3, padding=1)
        self.end = nn.ReLU(inplace=draw.random() < 0.5)
        self.head = nn.Linear(WIDTH, 3)
        self.hooked(draw)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                nn.init.uniform_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
        self.double().train(draw.random() < 0.3)
        for parameter in self.parameters():
            parameter.requires_grad_(draw.random() < 0.7)

    def step(self, draw: random.Random) -> nn.Module:
        def conv() -> nn.Module:
            groups = draw.choice((1, WIDTH))
            made = self.conv(
                WIDTH, WIDTH, size := draw.choice((1, 3)), padding=size // 2, groups=groups
            )
            old = draw.choice((None, None, None, nn.utils.weight_norm, nn.utils.spectral_norm))
            return made if old is None else old(made)

        def norm() -> nn.Module:
            return draw.choice((getattr(nn, f"BatchNorm{self.d}d")(WIDTH), nn.GroupNorm(2, WIDTH)))

        def activation() -> nn.Module:
            return draw.choice(
                (nn.ReLU(), nn.ReLU(inplace=True), nn.SiLU(inplace=True), nn.Hardtanh(inplace=True))
            )

        def block() -> nn.Module:
            return nn.Sequential(norm(), activation(), conv(), activation())

        kind = draw.choice(
            ("function", "function", "block", "residual", "checkpoint", "again", "gate", "pool")
        )
        if kind == "function":
            return Does(draw.choice(FUNCTIONS))
        if kind == "block":
            return block()
        if kind == "residual":
            return Residual(block(), inplace=draw.random() < 0.5)
        if kind == "checkpoint":
            return Checkpointed(block(), draw.choice(("reentrant", "not", "sequential")))
        if kind == "again":
            return Again()
        if kind == "gate":
            return Gated()
        return getattr(nn, draw.choice(("MaxPool", "AvgPool")) + f"{self.d}d")(2, ceil_mode=True)

    def hooked(self, draw: random.Random) -> None:
        convs = [m for m in self.modules() if isinstance(m, self.conv)]
        kind = draw.choice(("none", "none", "none", "forward", "pre", "backward", "backward seen"))
        module = draw.choice(convs)
        if kind == "forward":
            module.register_forward_hook(lambda _module, _args, output: 1.5 * output)
        elif kind == "pre":
            module.register_forward_pre_hook(lambda _module, args: (args[0] - 0.1,))
        elif kind == "backward":
            module.register_full_backward_hook(
                lambda _module, into, _out: tuple(None if g is None else 3 * g for g in into)
            )
        elif kind == "backward seen":
            module.register_full_backward_hook(lambda _module, _into, _out: None)

    def forward(self, x):
        if self.start == "sub_":
            x.sub_(0.3)
        elif self.start == "relu_":
            x = F.relu(x, inplace=True)
        elif self.start == "slice":
            x[:, 0] *= 2
        x = self.stem(x)
        for step in self.steps:
            x = self.again(x) if isinstance(step, Again) else step(x)
        return self.head(self.end(self.last(x)).flatten(2).mean(2))


class Again(nn.Module):
    """Stands for a convolution that all of these share."""


def network(seed: int) -> Network:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # weight_norm of old
        torch.manual_seed(seed)
        return Network(seed)


def state(model: nn.Module):
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [(m.training, *(list(getattr(m, each)) for each in hooks)) for m in model.modules()],
        [(p.requires_grad, p.grad) for p in model.parameters()],
        [getattr(m, "inplace", None) for m in model.modules()],
    )


def gradients(seed, x, label, layer=None):
    """Scores, and of the label's the gradient at the input or at a layer, with that layer's output.

    By ``backward()``, as reentrant checkpoints want it; from a layer the graph goes no deeper.
    """
    model = network(seed).eval().requires_grad_(False)
    kept = [x.clone().requires_grad_(layer is None)]

    def keep(_module, _args, output):
        kept[0] = output.detach().requires_grad_()
        return kept[0].clone()

    if layer is not None:
        getattr(model, layer).register_forward_hook(keep)
    scores = model(kept[0].clone())
    scores.gather(1, label[:, None]).sum().backward()
    return scores.detach(), kept[0].detach(), kept[0].grad


def by_hand(seed, data, other):
    """Map by method and layer, where there is one, and columns, in torch alone."""
    x, label, maps = data.inputs, data.label, {}
    with contextlib.suppress(RuntimeError):
        _, _, gradient = gradients(seed, x, label)
        maps["saliency", "input"] = gradient.abs()
        maps["input_x_gradient", "input"] = x * gradient
    for layer in LAYERS:
        with contextlib.suppress(RuntimeError):
            _, value, gradient = gradients(seed, x, label, layer)
            weights = gradient.mean(tuple(range(2, x.ndim)), keepdim=True)
            maps["grad_cam", layer] = (weights * value).sum(1, keepdim=True)
            maps["hires_cam", layer] = (gradient * value).sum(1, keepdim=True)
    with contextlib.suppress(RuntimeError):
        maps["integrated_gradients", "input"] = integrated(seed, x, label)
    model = network(seed).eval()

    def output(inputs):
        with torch.no_grad():
            return model(inputs)

    def probability(inputs):
        return output(inputs).softmax(1).gather(1, label[:, None])[:, 0]

    inside, scores = data.regions["cell"][:, None], output(x.clone())
    clean = probability(x.clone())
    return maps, {
        "explained": scores.gather(1, label[:, None])[:, 0],
        "predicted": scores.argmax(1),
        "confidence": scores.softmax(1).amax(1),
        "swap.outside": clean - probability(torch.where(inside, x, other.inputs)),
        "swap.inside": clean - probability(torch.where(inside, other.inputs, x)),
    }


def integrated(seed, x, label):
    points, weights = np.polynomial.legendre.leggauss(3)
    return x * sum(
        weight / 2 * gradients(seed, (point + 1) / 2 * x, label)[2]
        for point, weight in zip(points, weights, strict=True)
    )


SWAP = SCORERS.build("swap", count=1, donors="any", remainder="donor", align="none")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(NETWORKS))
def test_a_random_network_has_the_numbers_of_torch_or_a_reason(seed):
    model = network(seed)
    data, other = batch(model.d, n=2), batch(model.d, n=1, seed=5)
    before, inputs = state(model), data.inputs.clone()
    maps, columns = by_hand(seed, data, other)
    found = run(
        model,
        data,
        methods={
            name: METHODS.build(name, **({"steps": 3} if name.startswith("integ") else {}))
            for name in METHODS_ASKED
        },
        scorers={"swap": SWAP},
        layers=list(LAYERS),
        target="label",
        pool=other,
        keep="native",
    )
    for each in found:
        which = each.method, each.layer
        if each.maps is None:
            assert not set(each.columns["status"]) & {"ok"}, which
            assert all(each.columns["reason"]), which
            assert which not in maps, (which, each.columns["reason"][0])
            continue
        assert which in maps, which
        np.testing.assert_allclose(
            each.maps, maps[which], rtol=1e-9, atol=1e-13, err_msg=str(which)
        )
        for name, values in columns.items():
            np.testing.assert_allclose(
                each.columns[name], values, rtol=1e-9, atol=1e-13, err_msg=name
            )
    after = state(model)
    assert torch.equal(data.inputs, inputs)
    assert all(torch.equal(value, after[0][name]) for name, value in before[0].items())
    assert before[1:] == after[1:]
