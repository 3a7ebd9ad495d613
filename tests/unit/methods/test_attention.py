"""Attention methods: by hand on two blocks, and captured from anyone's attention."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from nets import attending, batch, net
from torch import nn
from transformers_nets import (
    GRID,
    SPACE,
    SwinClassifier,
    dino_with_registers,
    hugging_face_vit,
    monai_vit,
)

from attrscore.core.contracts import Batch
from attrscore.core.passes import Pass
from attrscore.engine.preflight import preflight
from attrscore.engine.run import run
from attrscore.methods import Attention, AttentionRollout, GradAttention, LeGrad
from attrscore.targets import Index

ALL = {
    "attention": Attention(),
    "attention_rollout": AttentionRollout(),
    "grad_attention": GradAttention(),
    "legrad": LeGrad(),
}

FIRST = [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]]
SECOND = [[0.25, 0.25, 0.5], [0.25, 0.5, 0.25], [0.5, 0.25, 0.25]]


class Fixed(nn.Module):
    """x + A x with an attention A that is always the same."""

    def __init__(self, attention: list[list[float]], how: str) -> None:
        super().__init__()
        self.register_buffer("scores", torch.tensor(attention).double().log())
        self.how = how

    def forward(self, x):
        scores = self.scores.expand(len(x), 1, -1, -1)
        value = x[:, None]
        if self.how == "fused":
            zero = torch.zeros_like(value)
            mixed = nn.functional.scaled_dot_product_attention(zero, zero, value, scores)
        elif self.how == "function":
            mixed = (
                nn.functional.softmax(scores + 0 * value.sum((2, 3), keepdim=True), dim=-1) @ value
            )
        elif self.how == "one head":  # three axes
            zero = torch.zeros_like(x)
            return x + nn.functional.scaled_dot_product_attention(zero, zero, x, scores[:, 0])
        elif self.how in ("queries first", "heads last"):  # (N, Q, H, T), (N, Q, T, H)
            axes = (0, 2, 1, 3) if self.how == "queries first" else (0, 2, 3, 1)
            scores = (scores + 0 * value.sum((2, 3), keepdim=True)).permute(axes)
            weights = scores.softmax(3 if self.how == "queries first" else 2)
            mixed = weights.permute(*map(axes.index, range(4))) @ value
        elif self.how == "method":
            mixed = (scores + 0 * value.sum((2, 3), keepdim=True)).softmax(-1) @ value
        else:
            scores = scores + 0 * value.sum((2, 3), keepdim=True)
            mixed = torch.softmax(scores, 3, dtype=torch.float64) @ value
        return x + mixed[:, 0]


class TwoBlocks(nn.Module):
    """Pixels as tokens of one number behind a class token of 0; the score is the class token."""

    def __init__(self, how: str = "fused") -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Fixed(FIRST, how), Fixed(SECOND, how)])
        self.tokens = nn.Identity()  # where they can be seen before they are mixed

    def forward(self, x):
        x = x.flatten(2).mT
        x = self.tokens(torch.cat([torch.zeros_like(x[:, :1]), x], 1))
        for block in self.blocks:
            x = block(x)
        return torch.cat([x[:, 0], -x[:, 0]], 1)


# x0 = (0, 1, 2), x1 = x0 + A1 x0 = (.75, 2, 3.25), y = x1[0] + A2[0] x1.
# dy/dA2 = x1 in row 0; dy/dA1 = g x0^T with g = e0 + A2[0] = (1.25, .25, .5).
EXPECTED = {
    # row 0 of A1, of A2
    "attention": ([0.25, 0.25], [0.25, 0.5]),
    # row 0 of (A1 + 1) / 2, of (A2 + 1) / 2 (A1 + 1) / 2 = (.625, .125, .25) @ ...
    "attention_rollout": ([0.125, 0.125], [0.203125, 0.28125]),
    # S1 = A1 * dA1: row 0 (0, .3125, .625), row 1 (0, .125, .125), row 2 (0, .125, .5);
    # S2 = A2 * dA2: row 0 (.1875, .5, 1.625). R1 = S1, R2 = S1 + S2 + S2 S1, row 0
    "grad_attention": ([0.3125, 0.625], [1.13671875, 3.2421875]),
    # E1 = mean(g) x0 = 2/3 (1, 2); E2 = x1 / 3; the mean of both behind the second block
    "legrad": ([2 / 3, 4 / 3], [(2 / 3 + 2 / 3) / 2, (4 / 3 + 3.25 / 3) / 2]),
}


HOW = ["fused", "function", "method", "torch", "one head", "queries first", "heads last"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", ALL)
def test_two_blocks_by_hand(name, how):
    inputs = torch.tensor([[[[1.0, 2.0]]]]).double()
    data = Batch(inputs, {"cell": torch.tensor([[[True, False]]])})
    found = run(
        TwoBlocks(how).double().eval(),
        data,
        methods={name: ALL[name]},
        layers=["blocks.0", "blocks.1"],
        target=Index(index=0),
        keep="native",
        on_error="raise",
    )
    for result, expected in zip(found, EXPECTED[name], strict=True):
        np.testing.assert_allclose(result.maps.ravel(), expected, rtol=1e-12)


def crops(dimensions: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand((2, 2, *SPACE[dimensions]), generator=generator, dtype=torch.float64)
    mask = torch.zeros((2, *SPACE[dimensions]), dtype=torch.bool)
    mask[..., :8, :8] = True
    return Batch(inputs, {"cell": mask})


def maps(model: nn.Module, data: Batch, layers: object = "blocks", **options) -> dict:
    found = run(model, data, methods=ALL, layers=layers, keep="native", on_error="raise", **options)
    return {(each.method, each.layer): each.maps for each in found}


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_attention_is_that_which_monai_keeps_when_asked(dimensions):
    model, data = monai_vit(dimensions, save_attn=True), crops(dimensions)
    found = maps(model, data, output=0)
    assert {shape.shape for shape in found.values()} == {(2, 1, *GRID[dimensions])}
    with torch.no_grad():
        model(data.inputs)
    for number, block in enumerate(model.blocks):
        expected = block.attn.att_mat.mean(1)[:, 0, 1:].detach().numpy()
        got = found["attention", f"blocks.{number}"].reshape(2, -1)
        np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_fused_and_plain_attention_of_transformers_give_the_same_maps():
    model, data = hugging_face_vit(), crops()
    by_kind = []
    for kind in ("eager", "sdpa"):
        model.set_attn_implementation(kind)
        by_kind.append(maps(model, data, output="logits"))
    for key, found in by_kind[0].items():
        np.testing.assert_allclose(found, by_kind[1][key], rtol=1e-5, atol=1e-9)  # float32
    model.set_attn_implementation("eager")
    with torch.no_grad():
        theirs = model(data.inputs, output_attentions=True).attentions
    got = by_kind[1]["attention", "vit.layers.1"].reshape(2, -1)
    np.testing.assert_allclose(got, theirs[1].mean(1)[:, 0, 1:].numpy(), rtol=1e-6)


def test_registers_are_left_out():
    found = maps(dino_with_registers(), crops(), output="logits")
    assert {each.shape for each in found.values()} == {(2, 1, 4, 4)}
    (last,) = [v for (name, at), v in found.items() if name == "attention" and at.endswith("2")]
    assert (last.sum((1, 2, 3)) < 1).all()  # the rest went to the class token and the registers


class Torch(nn.Module):
    """Two blocks of nn.MultiheadAttention, read by the mean of tokens or by an attention pool."""

    def __init__(self, *, weights: bool, pool: str = "mean") -> None:
        super().__init__()
        self.weights, self.pool = weights, pool
        self.embed = nn.Conv2d(2, 8, 8, stride=8)
        self.norm = nn.LayerNorm(8)
        self.blocks = nn.ModuleList(nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2))
        self.probe = nn.Parameter(torch.randn(1, 1, 8))
        self.pooling = nn.MultiheadAttention(8, 2, batch_first=True)
        self.gate = nn.Linear(8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.embed(x).flatten(2).mT
        for block in self.blocks:
            x = x + block(*[self.norm(x)] * 3, need_weights=self.weights)[0]
        if self.pool == "mean":
            return self.head(x.mean(1))
        if self.pool == "probe":
            probe = self.probe.expand(len(x), -1, -1)
            return self.head(self.pooling(probe, x, x, need_weights=self.weights)[0][:, 0])
        self.last = self.gate(x).softmax(1)
        return self.head((self.last * x).sum(1))


def of_torch(**options) -> Torch:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Torch(**options).double().eval()


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["mean", "probe", "gate"])
def test_torchs_own_attention_with_and_without_its_weights(pool):
    both = [maps(of_torch(weights=each, pool=pool), crops()) for each in (True, False)]
    assert both[0].keys() == {(name, f"blocks.{n}") for name, n in itertools.product(ALL, (0, 1))}
    for key, found in both[0].items():
        np.testing.assert_allclose(found, both[1][key], rtol=1e-9, atol=1e-15)


def test_a_pooling_token_weighs_the_tokens_that_it_reads():
    model, data = of_torch(weights=False, pool="gate"), crops()
    found = maps(model, data)["attention", "blocks.1"].reshape(2, -1)
    current = Pass(model, data, Index(index=0), {"blocks.1": model.blocks[1]})
    last = current.attention.calls[1].weights.mean(1)
    expected = (model.last.mT @ last)[:, 0].detach()
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-10)
    mean = maps(of_torch(weights=False), data)["attention", "blocks.1"].reshape(2, -1)
    np.testing.assert_allclose(mean.sum(1), 1, rtol=1e-10)  # rows that sum to 1, averaged


def test_torchs_encoder_layer_is_seen_although_it_has_a_fast_path():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.1)

        class Encoder(Torch):
            def forward(self, x):
                x = self.norm(self.embed(x).flatten(2).mT)
                return self.head(self.encoder(x).mean(1))

        model = Encoder(weights=False)
        model.encoder = nn.TransformerEncoder(layer, 2)
    found = maps(model.double().eval(), crops(), layers=["encoder.layers.0", "encoder.layers.1"])
    assert len(found) == 2 * len(ALL)


@pytest.mark.parametrize("name", ALL)
def test_a_network_without_attention_is_refused_with_the_reason(name):
    (found,) = run(net(2), batch(2), methods={name: ALL[name]}, layers="high")
    assert set(found.columns["status"]) == {"unsupported"}
    assert "No attention over tokens runs in Net" in found.columns["reason"][0]
    (finding,) = preflight(net(2), batch(2), methods={name: ALL[name]}, layers="high")
    assert finding.verdict == "refused"


def test_attention_within_windows_is_refused():
    layer = "swin.layers1.0.blocks.1"
    for found in run(SwinClassifier(2), crops(), methods=ALL, layers=layer):
        assert set(found.columns["status"]) == {"unsupported"}
        assert "within windows" in found.columns["reason"][0]


def test_a_layer_without_attention_costs_no_other_its_map():
    found = {
        (each.method, each.layer): each
        for each in run(
            attending(2), batch(2), methods={**ALL, "grad_cam": "grad_cam"}, layers=["norm", "low"]
        )
    }
    for name in ALL:
        assert "unsupported" not in found[name, "low"].columns["status"]
        assert "No attention runs inside 'norm'" in found[name, "norm"].columns["reason"][0]


def test_a_blocked_gradient_is_named():
    class Blocked(type(attending(2))):
        def forward(self, x):
            return super().forward(x).detach()

    model = attending(2)
    model.__class__ = Blocked
    (found,) = run(model, batch(2), methods="grad_attention", layers="high")
    assert "No gradient flows" in found.columns["reason"][0]


def test_attention_and_rollout_do_not_depend_on_the_target():
    found = [maps(attending(2), batch(2), target=Index(index=i), layers="high") for i in (0, 1)]
    for name in ALL:
        same = np.array_equal(found[0][name, "high"], found[1][name, "high"])
        assert same == name.startswith("attention")


def test_what_else_is_asked_of_the_pass_has_the_same_bytes():
    def grad_cam(methods):
        found = run(
            hugging_face_vit(), crops(), methods=methods, layers="blocks", keep="native",
            output="logits",
        )  # fmt: skip
        return [each.maps for each in found if each.method == "grad_cam"]

    for alone, beside in zip(grad_cam(["grad_cam"]), grad_cam([*ALL, "grad_cam"]), strict=True):
        np.testing.assert_array_equal(alone, beside)


def test_all_blocks_and_methods_cost_one_forward_and_one_backward_pass():
    calls = []
    model = attending(2)
    model.head.register_forward_hook(lambda *_: calls.append("forward"))
    current = Pass(
        model, batch(2), Index(index=0), {n: model.get_submodule(n) for n in ("low", "high")},
        keep_attention=True,
    )  # fmt: skip
    calls.clear()
    for method in ALL.values():
        assert method(current).keys() == {"low", "high"}
    assert current.output is not None
    assert calls == ["forward"]


class Einsum(nn.Module):
    """The attention of nn.MultiheadAttention, by einsum: the axes of its weights are named."""

    def __init__(self, own: nn.MultiheadAttention, axes: str) -> None:
        super().__init__()
        self.own, self.axes = own, axes

    def forward(self, q, *_, **__):
        parts = nn.functional.linear(q, self.own.in_proj_weight, self.own.in_proj_bias)
        q, k, v = (each.unflatten(2, (2, 4)) for each in parts.chunk(3, 2))
        scores = torch.einsum(f"bqhd,bkhd->{self.axes}", q / 2, k)
        weights = scores.softmax(self.axes.index("k"))
        mixed = torch.einsum(f"{self.axes},bkhd->bqhd", weights, v)
        return self.own.out_proj(mixed.flatten(2)), None


@pytest.mark.parametrize("axes", ["bhqk", "bqhk", "bqkh", "bhkq"])
def test_heads_may_lie_on_any_axis(axes):
    model = of_torch(weights=True)
    expected = maps(model, crops())
    model.blocks = nn.ModuleList(Einsum(each, axes) for each in model.blocks)
    for key, found in maps(model, crops(), ["blocks.0", "blocks.1"]).items():
        np.testing.assert_allclose(found, expected[key], rtol=1e-9, atol=1e-15)


class OneHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, q, k, v):
        return (self.q(q) @ self.k(k).mT).softmax(-1) @ self.v(v), None


class ByChannel(nn.Module):
    """A class token and the patches of each channel: together (apart), in the batch (folded).

    Or one channel after the other (loop).
    """

    def __init__(self, kind: str, *, by_hand: bool = False, over: bool = False) -> None:
        super().__init__()
        self.kind, self.by_hand = kind, by_hand
        self.over = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True) if over else nn.Identity()
        self.embed = nn.Conv2d(1, 8, 8, 8)
        self.first, self.which = (nn.Parameter(torch.randn(1, n, 1, 8)) for n in (1, 2))
        self.tokens = nn.Identity()
        self.blocks = nn.ModuleList(
            OneHead() if by_hand else nn.MultiheadAttention(8, 2, batch_first=True)
            for _ in range(2)
        )
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        n, channels = x.shape[:2]
        x = self.embed(x.flatten(0, 1)[:, None]).flatten(2).mT.unflatten(0, (n, channels))
        x = x + self.which
        x = x.flatten(1, 2) if self.kind == "apart" else x.flatten(0, 1)
        if self.kind == "apart":
            return self.head(self.token(x))
        if self.kind == "folded":
            found = self.token(x).unflatten(0, (n, channels))
        else:
            each = x.unflatten(0, (n, channels)).unbind(1)
            found = torch.stack([self.token(channel) for channel in each], 1)
        return self.head(self.over(found).mean(1))

    def token(self, x):
        x = self.tokens(torch.cat([self.first[0].expand(len(x), -1, -1), x], 1))
        for block in self.blocks:
            y = self.norm(x)
            x = x + block(y, y, y, **({} if self.by_hand else {"need_weights": False}))[0]
        return x[:, 0]


def by_channel(*args, **options) -> ByChannel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ByChannel(*args, **options).double().eval()


@pytest.mark.slow
@pytest.mark.parametrize("over", [False, True], ids=["", "attention over channels"])
@pytest.mark.parametrize("by_hand", [False, True], ids=["", "three axes"])
def test_a_channel_after_the_other_is_as_all_in_the_batch(by_hand, over):
    both = [
        maps(by_channel(kind, by_hand=by_hand, over=over), crops(), ["blocks.0", "blocks.1"])
        for kind in ("folded", "loop")
    ]
    assert len(both[0]) == 2 * len(ALL)
    for key, found in both[0].items():
        assert found.shape == (2, 2, 4, 4)
        np.testing.assert_allclose(found, both[1][key], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("kind", ["apart", "folded"])
def test_a_layer_that_keeps_the_channels_apart_has_a_map_of_each(kind):
    model, data = by_channel(kind), crops()
    found = maps(model, data, layers=["blocks.0", "blocks.1"])
    assert {each.shape for each in found.values()} == {(2, 2, 4, 4)}
    layers = {"blocks.1": model.blocks[1]}
    weights = Pass(model, data, Index(index=0), layers).attention.calls[1].weights.mean(1)
    expected = weights[:, 0, 1:].reshape(2, 2, 4, 4).numpy()
    np.testing.assert_allclose(found["attention", "blocks.1"], expected, rtol=1e-10)
