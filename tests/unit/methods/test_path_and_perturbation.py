"""What path and perturbation methods promise: by hand, bounded, seeded, with progress."""

from __future__ import annotations

import itertools
from math import factorial

import numpy as np
import pytest
import safetensors.numpy
import torch
from nets import SPACES, batch, net
from torch import nn

from attrscore.core.contracts import INPUT, Batch
from attrscore.core.passes import Pass
from attrscore.core.registry import METHODS
from attrscore.engine.run import run
from attrscore.errors import ConfigError, DataError
from attrscore.jobs.assembly import build_plugin
from attrscore.methods import (
    DeepLift,
    FeatureAblation,
    GradientShap,
    IntegratedGradients,
    KernelShap,
    LayerConductance,
    Occlusion,
    Saliency,
    SmoothGrad,
)
from attrscore.methods.perturbation import WithFeatures, coalitions, shapley_values
from attrscore.targets import Cosine, Index, Norm, Predicted


class Quadratic(nn.Module):
    """F = sum of squares of the first channel, and three times the sum of the second."""

    def forward(self, x):
        squares = x[:, 0].flatten(1).square().sum(1)
        return torch.stack([squares + 3 * x[:, 1].flatten(1).sum(1), squares], 1)


class Product(nn.Module):
    """F = a b + c of the means of three columns."""

    def forward(self, x):
        a, b, c = x[:, 0].mean(1).unbind(1)
        return (a * b + c)[:, None]


def columns(values: list[float]) -> Batch:
    inputs = torch.tensor(values).double().expand(1, 1, 2, 3).contiguous()
    cell = torch.zeros(1, 2, 3, dtype=torch.bool)
    cell[..., 0] = True
    return Batch(inputs, {"cell": cell})


def first(model: nn.Module, data: Batch, method) -> torch.Tensor:
    return method(Pass(model, data, Index(index=0), {}))[INPUT]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_integrated_gradients_of_a_square_by_hand(dimensions):
    """On the way from b to x, the integral of 2 t is x + b: (x + b)(x - b) for each pixel."""
    x = batch(dimensions).inputs
    found = first(Quadratic(), batch(dimensions), IntegratedGradients(steps=2, baseline=0.5))
    torch.testing.assert_close(found[:, 0], x[:, 0] ** 2 - 0.25, rtol=0, atol=1e-14)
    torch.testing.assert_close(found[:, 1], 3 * (x[:, 1] - 0.5), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "method",
    [
        IntegratedGradients(steps=7, chunk=3),
        GradientShap(samples=7, chunk=3),
        Occlusion(window=4, stride=4, chunk=3),
        FeatureAblation(size=4, chunk=3),
        KernelShap(size=4, samples=12, chunk=3),
    ],
    ids=lambda method: type(method).__name__,
)
def test_no_more_than_chunk_inputs_at_once_and_the_numbers_are_the_same(method):
    model, largest = net(), []
    model.register_forward_pre_hook(lambda _module, args: largest.append(len(args[0])))
    current = Pass(model, batch(), Predicted(), {})
    current.aux  # noqa: B018  # the clean input is one whole batch
    largest.clear()
    bounded = method(current)[INPUT]
    slim = [size for size in largest if size != len(batch())]  # but for the baseline's value
    assert slim
    assert max(slim) <= 3
    free = type(method)(**{**vars(method), "chunk": 1000})
    torch.testing.assert_close(bounded, free(Pass(net(), batch(), Predicted(), {}))[INPUT])


@pytest.mark.parametrize(
    "method",
    [
        IntegratedGradients(steps=7, chunk=3),
        GradientShap(samples=4),
        LayerConductance(steps=3),
        SmoothGrad(samples=3),
        Occlusion(window=4, stride=4, chunk=5),
        KernelShap(size=5, samples=9, chunk=4),
    ],
    ids=lambda method: type(method).__name__,
)
def test_progress_goes_up_to_the_end(method):
    told = []
    options = {"layers": "high", "on_step": lambda *step: told.append(step)}
    list(run(net(), batch(), methods={"slow": method}, **options))
    names, done, total = zip(*told, strict=True)
    assert set(names) == {"slow"}
    assert len(set(total)) == 1
    assert list(done) == sorted(done)
    assert done[-1] == total[0]


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [2, 3])
def test_gradient_shap_tends_to_integrated_gradients_without_noise(dimensions):
    data, model = batch(dimensions, n=2), net(dimensions)
    exact = first(model, data, IntegratedGradients(steps=200))
    found = first(model, data, GradientShap(samples=400, noise=0.0))
    assert (found - exact).abs().max() < 0.1 * exact.abs().max()
    torch.testing.assert_close(
        first(Quadratic(), data, GradientShap(samples=3, noise=0.0))[:, 1], 3 * data.inputs[:, 1]
    )


@pytest.mark.parametrize("dimensions", [2, 3])
def test_smooth_grad_of_a_linear_network_is_its_gradient(dimensions):
    data = batch(dimensions)
    found = first(Quadratic(), data, SmoothGrad(options={"values": "signed"}))
    torch.testing.assert_close(found[:, 1], torch.full_like(found[:, 1], 3.0))
    variance = first(Quadratic(), data, SmoothGrad(kind="vargrad", options={"values": "signed"}))
    assert variance[:, 1].abs().max() < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_smooth_grad_kinds_by_hand(kind):
    """The gradient of a square is twice the noisy pixel, so the maps tell the noise."""
    data = batch(n=1)
    spread = data.inputs[0, 0].max() - data.inputs[0, 0].min()
    method = SmoothGrad(samples=4000, noise=0.2, kind=kind, options={"values": "signed"})
    found = first(Quadratic(), Batch(data.inputs, data.regions), method)[0, 0]
    x, variance = data.inputs[0, 0], (0.2 * spread) ** 2
    expected = {
        "smoothgrad": 2 * x,
        "smoothgrad_sq": 4 * (x**2 + variance),
        "vargrad": 4 * variance.expand_as(x),
    }[kind]
    assert (found - expected).abs().max() < 0.12 * expected.abs().max()


def test_smooth_grad_explains_what_its_method_explains():
    data, model = batch(), net()
    current = Pass(model, data, Predicted(), {"high": model.high})
    assert SmoothGrad().explains == INPUT
    assert SmoothGrad(method="hires_cam").explains == "layers"
    smooth = SmoothGrad(method="hires_cam", noise=0.0, samples=2)(current)
    torch.testing.assert_close(
        smooth["high"], (current.activations["high"] * current.gradients["high"]).sum(1, True)
    )


def test_without_noise_nothing_is_smoothed():
    data, model = batch(), net()
    current = Pass(model, data, Predicted(), {})
    smooth = SmoothGrad(noise=0.0, samples=2)(current)[INPUT]
    torch.testing.assert_close(smooth, Saliency()(current)[INPUT])


def test_kernel_shap_by_hand():
    """F = a b + c at (2, 3, 5) from zero: a and b share a b = 6, c has 5 of its own."""
    data = columns([2.0, 3.0, 5.0])
    method = KernelShap(size=(2, 1), samples=6, spread="value")
    found = first(Product(), data, method)[0, 0]
    torch.testing.assert_close(found[0], torch.tensor([3.0, 3.0, 5.0]).double())
    shared = first(Product(), data, KernelShap(size=(2, 1), samples=6))
    torch.testing.assert_close(shared.sum(), torch.tensor(11.0).double())
    lost = first(Product(), data, FeatureAblation(size=(2, 1), spread="value"))[0, 0, 0]
    assert lost.tolist() == [6, 6, 5]  # a and b are each blamed for all that they do together


def test_shapley_values_of_any_game_by_their_definition():
    features, generator = 5, torch.Generator().manual_seed(0)
    game = torch.rand(2**features, generator=generator, dtype=torch.float64)
    game[0] = 0
    shown, weights = coalitions(features, 30, generator)
    numbers = (shown.long() * 2 ** torch.arange(features)).sum(1)
    found = shapley_values(shown, weights, game[numbers], game[-1])
    for feature in range(features):
        others = [each for each in range(features) if each != feature]
        expected = sum(
            factorial(size)
            * factorial(features - size - 1)
            / factorial(features)
            * (game[sum(2**each for each in some) + 2**feature] - game[sum(2**e for e in some)])
            for size in range(features)
            for some in itertools.combinations(others, size)
        )
        assert found[feature] == pytest.approx(float(expected), abs=1e-10)


def test_sampled_shapley_values_sum_to_the_change_and_come_close():
    data, model = batch(n=2), net()
    options = {"size": 4, "spread": "value", "chunk": 500}
    exact = first(model, data, KernelShap(samples=2**9, **options))
    found = KernelShap(samples=300, **options)(Pass(model, data, Index(index=0), {}))
    assert (found[INPUT] - exact).abs().max() < 0.1 * exact.abs().max()
    total = first(model, data, KernelShap(size=4, samples=100)).flatten(1).sum(1)
    torch.testing.assert_close(total, found.diagnostics["output_change"])


def test_one_feature_has_everything():
    found = KernelShap(size=100)(Pass(net(), batch(), Predicted(), {}))
    total = found[INPUT].flatten(1).sum(1)
    torch.testing.assert_close(total, found.diagnostics["output_change"])


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("features", ["grid", "slic", "regions", "instances"])
def test_features_divide_every_crop(dimensions, features):
    data = batch(dimensions)
    labels = WithFeatures(features=features, size=4, segments=8, compactness=10).labels(data)
    assert labels.shape == (len(data), *data.space)
    for each in labels:
        known = each.unique()
        assert known.tolist() == list(range(len(known)))
        assert len(known) > 1


def test_instances_are_the_cell_and_each_connected_neighbour():
    cell, neighbours = torch.zeros(2, 1, 6, 6, dtype=torch.bool)
    cell[0, :2, :2] = True
    neighbours[0, 4:, 4:] = neighbours[0, 0, 5] = True
    data = Batch(torch.zeros(1, 1, 6, 6), {"cell": cell, "neighbours": neighbours})
    (labels,) = WithFeatures(features="instances").labels(data)
    assert len(labels.unique()) == 4
    assert labels[0, 5] != labels[5, 5]
    (regions,) = WithFeatures(features="regions").labels(data)
    assert regions[0, 5] == regions[5, 5]
    assert len(regions.unique()) == 3


def test_a_region_hidden_as_one_holds_all_the_score_it_gave():
    data = columns([2.0, 3.0, 5.0])
    (found,) = run(
        Product(),
        data,
        methods=FeatureAblation(features="regions"),
        target=Index(index=0),
        keep="native",
    )
    # Without the cell, a b = 6 is lost, over 2 pixels; without the rest all 11, over 4.
    assert found.maps[0, 0, 0].tolist() == [3, 2.75, 2.75]


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
@pytest.mark.parametrize("whole", [False, True])
def test_a_baseline_from_a_file(tmp_path, dimensions, suffix, whole):
    shape = (2, *SPACES[dimensions]) if whole else (2,)
    values = np.random.default_rng(0).random(shape)

    def stored(name: str, array: np.ndarray) -> str:
        path = tmp_path / f"{name}{suffix}"
        if suffix == ".npy":
            np.save(path, array)
        else:
            safetensors.numpy.save_file({"baseline": array}, path)
        return str(path)

    one, same, other = stored("a", values), stored("b", values), stored("c", values + 1)
    method = IntegratedGradients(baseline=one, steps=2)
    data = batch(dimensions)
    reference = torch.from_numpy(values).view(
        2, *(SPACES[dimensions] if whole else (1,) * dimensions)
    )
    found = first(Quadratic(), data, method)
    torch.testing.assert_close(found[:, 1], 3 * (data.inputs - reference)[:, 1])
    assert method.identity == IntegratedGradients(baseline=same).identity
    assert method.identity != IntegratedGradients(baseline=other).identity
    assert IntegratedGradients(baseline="mean").identity == {}


def test_results_know_a_baseline_file_by_its_content(tmp_path):
    plugins = []
    for name in ("one", "same"):
        path = tmp_path / f"{name}.npy"
        np.save(path, np.array([0.1, 0.2]))
        _, plugin = build_plugin(METHODS, "occlusion", {"baseline": str(path)}, [])
        plugins.append(plugin)
    assert plugins[0] == plugins[1]
    assert "one" not in str(plugins[0])


def test_a_baseline_file_that_does_not_fit(tmp_path):
    np.save(tmp_path / "three.npy", np.zeros(3))
    with pytest.raises(ConfigError, match=r"three.npy has the shape \(3, 1, 1\); expected \(2,\)"):
        first(net(), batch(), IntegratedGradients(baseline=str(tmp_path / "three.npy")))
    np.save(tmp_path / "nan.npy", np.full(2, np.nan))
    with pytest.raises(DataError, match="must be finite numbers"):
        IntegratedGradients(baseline=str(tmp_path / "nan.npy"))
    with pytest.raises(DataError, match="cannot be read as one array"):
        IntegratedGradients(baseline=str(tmp_path / "none.npy"))


@pytest.mark.parametrize("target", [Norm(), Cosine(reference=(1.0, -2.0, 0.5))])
@pytest.mark.parametrize(
    "method",
    [
        IntegratedGradients(steps=64, baseline="mean"),
        LayerConductance(steps=64, rule="riemann_middle", baseline="mean"),
        KernelShap(size=6, baseline="mean"),
    ],
    ids=lambda method: type(method).__name__,
)
def test_embedding_targets_add_up(method, target):
    model, data = net(), batch()
    current = Pass(model, data, target, {"act1": model.act1})
    (signed,) = method(current).values()
    mean = data.inputs.mean((2, 3), keepdim=True).expand_as(data.inputs)
    with torch.no_grad():
        change = target(model(data.inputs), None) - target(model(mean), None)
    torch.testing.assert_close(signed.flatten(1).sum(1), change, rtol=0, atol=2e-3)


def test_further_inputs_of_the_network_go_along():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()

        def forward(self, x, factor):
            return self.inner(x) * factor

    data = batch()
    factor = torch.arange(1.0, 5.0).double()[:, None]
    both = Batch(data.inputs, data.regions, ids=data.ids, others=(factor,))
    for method in (
        IntegratedGradients(steps=4, chunk=3),
        GradientShap(samples=3, chunk=3),
        Occlusion(window=4, stride=4, chunk=3),
        KernelShap(size=6, samples=10),
        SmoothGrad(samples=2, options={"values": "signed"}),
    ):
        plain = first(net(), data, method)
        scaled = first(Two(), both, method)
        torch.testing.assert_close(scaled, plain * factor[..., None, None])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: IntegratedGradients(baseline="black"), "baseline='black' is not a choice"),
        (lambda: IntegratedGradients(baseline=float("nan")), "must be a finite number"),
        (lambda: IntegratedGradients(sigma=0), "sigma=0 must be a number of pixels above 0"),
        (lambda: IntegratedGradients(rule="riemann_left", steps=1), "needs steps=2 or more"),
        (lambda: IntegratedGradients(chunk=0), "chunk=0 must be a whole number"),
        (lambda: Occlusion(window=[3, 4, 5, 6]), "window=.* must be a number of pixels"),
        (lambda: Occlusion(window=2.5), "window=2.5 must be a number of pixels"),
        (lambda: KernelShap(features="blobs"), "features='blobs' is not a choice"),
        (lambda: KernelShap(samples=0), "samples=0 must be a whole number, 1 or more"),
        (lambda: SmoothGrad(method="salience"), "No method is called 'salience'.*saliency"),
        (lambda: SmoothGrad(method="smooth_grad"), "cannot smooth itself"),
        (lambda: SmoothGrad(noise=-1), "noise=-1 must be a number, 0 or more"),
        (lambda: SmoothGrad(kind="mean"), "kind='mean' is not a choice"),
    ],
)
def test_wrong_options_fail_when_built(make, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make()


def test_windows_that_do_not_fit_fail_in_the_check():
    current = Pass(net(), batch(), Predicted(), {})
    with pytest.raises(ConfigError, match=r"window=\[16, 16\] is larger than the crops \[12, 10\]"):
        Occlusion().check(current)
    with pytest.raises(ConfigError, match=r"window=\[3, 3, 3\] has 3 numbers and the crops 2 axes"):
        Occlusion(window=(3, 3, 3)).check(current)


@pytest.mark.parametrize(
    "method",
    [IntegratedGradients(), GradientShap(), LayerConductance(), SmoothGrad(), KernelShap(size=4),
     Occlusion(window=4), FeatureAblation(), DeepLift()],
    ids=lambda method: type(method).__name__,
)  # fmt: skip
def test_a_check_takes_a_few_passes_of_one_crop(method):
    model, times = net(), []
    model.register_forward_hook(lambda *_: times.append(1))
    one = batch().rows(0, 1)
    method.check(Pass(model, one, Predicted(), {"high": model.high}))
    assert 0 < len(times) <= 4
