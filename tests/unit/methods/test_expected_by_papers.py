"""Methods that comparison papers expect, on networks whose weights prove what they must find."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from nets import batch, net, pool
from torch import nn

from attrscore.core.contracts import INPUT, Batch
from attrscore.core.passes import Pass
from attrscore.engine.run import run
from attrscore.errors import ConfigError, UnsupportedError
from attrscore.methods import (
    RISE,
    AblationCAM,
    DeepLift,
    DeepLiftShap,
    FinerCAM,
    GradCAM,
    GuidedIG,
    IntegratedGradients,
    ScoreCAM,
)
from attrscore.targets import Index, Norm, Predicted


class Reader(nn.Module):
    """Scores from a weighted sum of pixels: the first output reads one corner alone."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.head = nn.Linear(weight.numel(), 2).double()
        with torch.no_grad():
            self.head.weight.copy_(torch.stack([weight.flatten(), torch.zeros(weight.numel())]))
            self.head.bias.copy_(torch.tensor([50.0, 0.0]))

    def forward(self, x):
        return self.head(x.flatten(1))


def corner(*space: int) -> Batch:
    inputs = torch.rand((2, 1, *space), generator=torch.Generator().manual_seed(1)).double() + 1
    mask = torch.zeros((2, *space), dtype=torch.bool)
    mask[(slice(None), *[slice(0, size // 2) for size in space])] = True
    return Batch(inputs, {"cell": mask})


@pytest.mark.parametrize("space", [(16, 16), (4, 12, 12)])
def test_rise_finds_the_corner_that_is_read_whatever_is_added_to_the_score(space):
    data = corner(*space)
    method = RISE(samples=400, grid=tuple(min(4, size) for size in space))
    current = Pass(Reader(data.regions["cell"][0].double()), data, Index(index=0), {})
    found = method(current)[INPUT][:, 0].clamp(min=0)
    share = (found * data.regions["cell"]).flatten(1).sum(1) / found.flatten(1).sum(1)
    chance = data.regions["cell"].double().mean()
    assert share.min() > chance + 0.35
    plain = replace(method, offset="none")(current)[INPUT][:, 0]  # the paper's formula
    share = (plain * data.regions["cell"]).flatten(1).sum(1) / plain.flatten(1).sum(1)
    assert share.max() < chance + 0.1  # every pixel has the mean of the score


def test_rise_is_its_formula():
    """sum_i F(x * m_i) m_i / (samples * shown), with the masks that it draws."""
    data = corner(6, 6)
    model = Reader(torch.arange(36).double())
    method = RISE(samples=7, grid=3, shown=0.4, offset="none", chunk=2)
    found = method(Pass(model, data, Index(index=0), {}))[INPUT][0, 0]
    from attrscore.methods.perturbation import _enlarged

    masks = _enlarged(*method._draw(data.ids[0], (3, 3), (6, 6)), (6, 6))
    scores = model(data.inputs[0] * masks[:, None])[:, 0]
    expected = torch.einsum("k,kyx->yx", scores, masks) / (7 * 0.4)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-12)
    assert masks.min() >= 0
    assert masks.max() <= 1


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("layer", ["low", "high"])
def test_ablation_cam_is_one_forward_without_each_channel(dimensions, layer):
    data, model = batch(dimensions), net(dimensions)
    (found,) = run(model, data, methods=AblationCAM(chunk=3), layers=layer, keep="native")
    with torch.no_grad():
        output = model(data.inputs)
        kept: list[torch.Tensor] = []
        module = model.get_submodule(layer)
        handle = module.register_forward_hook(lambda _m, _a, out: kept.append(out))
        model(data.inputs)
        handle.remove()
        classes, expected = output.argmax(1), 0
        for channel in range(kept[0].shape[1]):

            def off(_m, _a, out, channel=channel):
                out = out.clone()
                out[:, channel] = 0
                return out

            handle = module.register_forward_hook(off)
            without = model(data.inputs)
            handle.remove()
            lost = (output - without).gather(1, classes[:, None])[:, 0]
            expected = expected + lost.view(-1, *[1] * dimensions) * kept[0][:, channel]
    np.testing.assert_allclose(found.maps[:, 0], expected.numpy(), rtol=1e-9, atol=1e-12)


def test_ablation_cam_behind_pooling_weighs_by_what_each_channel_adds():
    """With global average pooling and a linear head, y - y_k = w_k mean(A_k)."""
    data, model = batch(2), net(2)
    current = Pass(model, data, Index(index=2), {"act2": model.act2})
    found = AblationCAM()(current)["act2"]
    activation = current.activations["act2"]
    weights = model.head.weight[2].detach() * activation.mean((2, 3))
    torch.testing.assert_close(found[:, 0], torch.einsum("nc,ncyx->nyx", weights, activation))


def test_score_cam_needs_no_gradient():
    class Severed(type(net(2))):
        def forward(self, x):
            return super().forward(x).detach()

    model = net(2)
    model.__class__ = Severed
    found = list(
        run(model, batch(2), methods=["score_cam", "ablation_cam", "grad_cam"], layers="high")
    )
    status = {each.method: set(each.columns["status"]) for each in found}
    assert status["grad_cam"] == {"unsupported"}
    assert "unsupported" not in status["score_cam"] | status["ablation_cam"]
    (plain,) = run(net(2), batch(2), methods="score_cam", layers="high")
    severed = next(each for each in found if each.method == "score_cam")
    np.testing.assert_array_equal(severed.columns["grad_camo"], plain.columns["grad_camo"])


def test_a_channel_that_is_flat_hides_the_whole_crop():
    data, model = batch(2), net(2)
    with torch.no_grad():
        for parameter in model.low.parameters():
            parameter[0] = 0
    maps = ScoreCAM()(Pass(model, data, Predicted(), {"low": model.low}))
    assert maps["low"].isfinite().all()


def test_finer_cam_without_comparison_is_grad_cam_of_the_logit():
    data, model = batch(2), net(2)
    current = Pass(model, data, Predicted(), {"high": model.high})
    torch.testing.assert_close(
        FinerCAM(alpha=0.0)(current)["high"], GradCAM()(current)["high"], rtol=1e-12, atol=1e-15
    )


def test_finer_cam_takes_away_what_the_nearest_class_shares():
    """With one class compared, the map is Grad-CAM of y_c less that of the nearest y_d."""
    data, model = batch(2), net(2)
    layers = {"high": model.high}
    current = Pass(model, data, Index(index=1), layers)
    found = FinerCAM(compared=1)(current)["high"]
    apart = (current.output - current.output[:, 1:2]).abs()
    apart[:, 1] = torch.inf
    maps = torch.stack(
        [GradCAM()(Pass(model, data, Index(index=k), layers))["high"] for k in range(3)]
    )
    rows = torch.arange(len(data))
    torch.testing.assert_close(found, maps[1] - maps[apart.argmin(1), rows], rtol=1e-9, atol=1e-12)


def test_finer_cam_refuses_what_is_no_class():
    model = net(2)
    current = Pass(model, batch(2), Norm(), {"high": model.high})
    with pytest.raises(UnsupportedError, match="finer_cam compares a class"):
        FinerCAM()(current)


def test_guided_ig_of_a_linear_network_is_weight_times_input_on_any_path():
    data = corner(6, 6)
    weight = torch.linspace(-1, 1, 36).double()
    current = Pass(Reader(weight), data, Index(index=0), {})
    for fraction, distance in itertools.product((0.1, 1.0), (0.02, 1.0)):
        maps = GuidedIG(steps=11, fraction=fraction, max_distance=distance)(current)
        expected = weight.view(1, 1, 6, 6) * data.inputs
        torch.testing.assert_close(maps[INPUT], expected, rtol=1e-9, atol=1e-12)
        assert maps.diagnostics["completeness_error"].abs().max() < 1e-9


def test_guided_ig_moves_the_flattest_pixels_first():
    """By hand: two steps from (.5, .5) to (1, 1), one pixel at a time, no limit of distance."""

    class Product(nn.Module):
        def forward(self, x):
            a, b = x.flatten(1).unbind(1)
            return torch.stack([a * b, b], 1)

    inputs = torch.tensor([[[[1.0, 1.0]]]]).double()
    data = Batch(inputs, {"cell": torch.ones(1, 1, 2, dtype=torch.bool)})
    current = Pass(Product().double(), data, Index(index=0), {})
    method = GuidedIG(steps=2, fraction=0.0, max_distance=1.0, baseline=0.5)
    # (.5, .5): gradients (.5, .5), equal, both move, half of the length: (.75, .75).
    # There (.75, .75): equal again, to (1, 1). Map: .25 * .5 + .25 * .75 each.
    maps = method(current)[INPUT].flatten()
    torch.testing.assert_close(maps, torch.tensor([0.3125, 0.3125]).double())

    class Steep(nn.Module):
        def forward(self, x):
            a, b = x.flatten(1).unbind(1)
            return torch.stack([4 * a * b + b, b], 1)

    current = Pass(Steep().double(), data, Index(index=0), {})
    # (.5, .5): dF = (2, 3): a moves first, by all of the half of 1 that is asked: (1, .5).
    # There dF = (2, 5), a is done: b moves to 1. Map: .5 * 2 and .5 * 5; F(1,1) - F(.5,.5) = 3.5.
    maps = method(current)
    torch.testing.assert_close(maps[INPUT].flatten(), torch.tensor([1.0, 2.5]).double())
    assert float(maps.diagnostics["completeness_error"]) == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
def test_guided_ig_adds_up_as_integrated_gradients_do():
    data, model = batch(2), net(2)
    for method in (GuidedIG(steps=300), IntegratedGradients(steps=300)):
        maps = method(Pass(model, data, Predicted(), {}))
        error, change = maps.diagnostics["completeness_error"], maps.diagnostics["output_change"]
        assert (error.abs() / change.abs()).max() < 0.05


def test_deep_lift_shap_is_the_mean_over_other_cells():
    data, model, others = batch(2), net(2, pooled=True), pool(2)
    current = Pass(model, data, Predicted(), {}, pool=others)
    maps = DeepLiftShap(baselines=3)(current)
    chosen = DeepLiftShap(baselines=3)._chosen(current)
    each = [DeepLift()._against(current, others.inputs[rows]) for rows in chosen.T]
    torch.testing.assert_close(maps[INPUT], torch.stack([m[INPUT] for m in each]).mean(0))
    assert maps.diagnostics["completeness_error"].abs().max() < 1e-9


def test_deep_lift_shap_never_takes_the_cell_itself_and_needs_others():
    data, model = batch(2), net(2, pooled=True)
    chosen = DeepLiftShap(baselines=9)._chosen(Pass(model, data, Predicted(), {}, pool=data))
    assert chosen.shape == (len(data), len(data) - 1)
    assert not (chosen == torch.arange(len(data))[:, None]).any()
    without = Pass(model, data, Predicted(), {})
    DeepLiftShap().check(without)  # a preflight has no pool yet
    with pytest.raises(UnsupportedError, match="there is no pool"):
        DeepLiftShap()(without)
    alone = Pass(model, data.rows(0, 1), Predicted(), {}, pool=data.rows(0, 1))
    with pytest.raises(UnsupportedError, match="needs other cells as baselines"):
        DeepLiftShap()(alone)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: RISE(shown=1.0), "shown=1.0 must be below 1"),
        (lambda: RISE(grid=0), "grid=0 must be a number of pixels above 0"),
        (lambda: GuidedIG(fraction=1.5), "must be 1 or less"),
        (lambda: FinerCAM(compared=0), "compared=0 must be a whole number, 1 or more"),
        (lambda: DeepLiftShap(baselines=0), "baselines=0 must be a whole number"),
        (lambda: ScoreCAM(chunk=0), "chunk=0 must be a whole number"),
    ],
)
def test_wrong_options_fail_when_built(make, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make()
