"""What every registered method must hold, in 2D and 3D; a new plugin joins by existing."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from nets import batch, net

from attrscore.attribution import explains_layers
from attrscore.core import INPUT
from attrscore.engine import run
from attrscore.passes import Pass
from attrscore.registry import METHODS
from attrscore.targets import Predicted

# Options for those that cannot be built without, and further algorithms of Captum.
NEED = {
    "captum:LayerConductance": {"algorithm": "LayerConductance"},
    "captum:Occlusion": {
        "algorithm": "Occlusion",
        "options": {"sliding_window_shapes": [1, 3, 3], "strides": [1, 2, 2]},
    },
    "captum:GradientShap": {
        "algorithm": "GradientShap",
        "options": {"n_samples": 3, "stdevs": 0.1, "baselines": 0.0},
    },
    "captum:InputXGradient": {"algorithm": "InputXGradient"},
    "captum:DeepLift": {"algorithm": "DeepLift"},
    # The defaults of these are meant for crops of real size.
    "occlusion": {"window": 3, "stride": 2},
    "feature_ablation": {"size": 4},
    "kernel_shap": {"size": 5, "samples": 20},
    "feature_ablation:slic": {"features": "slic", "segments": 6, "compactness": 10.0},
    "feature_ablation:instances": {"features": "instances", "spread": "value"},
    "kernel_shap:regions": {"features": "regions", "baseline": "mean"},
    "smooth_grad": {"samples": 3},
    "smooth_grad:layers": {"samples": 3, "method": "grad_cam", "kind": "vargrad"},
    "gradient_shap": {"samples": 5, "chunk": 3},
    "integrated_gradients": {"steps": 5, "chunk": 3, "baseline": "blurred", "sigma": 1.5},
    "layer_conductance": {"steps": 5},
    "lrp:gamma": {"rule": "gamma"},
}
ONLY_MODULES = ("lrp", "layer_lrp")
NAMES = [e.name for e in METHODS.entries() if e.alias_of is None and e.name != "captum"]
ALL = list(dict.fromkeys((*NAMES, *NEED)))


def build(name: str, dimensions: int):
    options = copy.deepcopy(NEED.get(name, {}))
    if dimensions == 3 and "sliding_window_shapes" in options.get("options", {}):
        options["options"] = {"sliding_window_shapes": [1, 2, 3, 3], "strides": [1, 1, 2, 2]}
    return METHODS.build(name.partition(":")[0], **options)


def network(name: str, dimensions: int, **options):
    return net(dimensions, pooled=name.partition(":")[0] in ONLY_MODULES, **options)


@pytest.fixture(params=ALL)
def name(request) -> str:
    return request.param


@pytest.fixture(params=[2, 3])
def dimensions(request) -> int:
    return request.param


def test_keys_are_layers_or_input_and_shapes_fit(name, dimensions):
    model, data = network(name, dimensions), batch(dimensions)
    layers = {"low": model.low, "high": model.high}
    method = build(name, dimensions)
    maps = method(Pass(model, data, Predicted(), layers))
    assert list(maps) == (list(layers) if explains_layers(method) else [INPUT])
    for signed in maps.values():
        assert signed.ndim == data.inputs.ndim
        assert len(signed) == len(data)
        assert not signed.requires_grad


def test_model_and_random_state_are_left_as_found(name, dimensions):
    model, data = network(name, dimensions, inplace=name != "captum:DeepLift"), batch(dimensions)
    model.train()
    model.act1.eval()
    model.low.weight.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    before = copy.deepcopy(model.state_dict())
    flags = [module.training for module in model.modules()]
    asked = [parameter.requires_grad for parameter in model.parameters()]
    state, drawn = torch.get_rng_state(), np.random.get_state()[1].copy()

    list(run(model, data, methods=build(name, dimensions), layers=["low", "high"]))

    assert [module.training for module in model.modules()] == flags
    assert [parameter.requires_grad for parameter in model.parameters()] == asked
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == drawn).all()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks
        assert getattr(module, "inplace", True) is not False or name == "captum:DeepLift"
    assert model.low.weight.grad is None
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))


# Captum's GradientShap draws its noise for the whole batch at once, so a sample alone gets another.
@pytest.mark.parametrize("name", [n for n in ALL if n != "captum:GradientShap"])
def test_a_batch_is_its_samples(name, dimensions):
    model, data = network(name, dimensions), batch(dimensions)
    method = build(name, dimensions)
    options = {"methods": method, "layers": ["low", "high"], "keep": "native"}
    whole = list(run(model, data, **options))
    single = [run(model, data.rows(i, i + 1), **options) for i in range(len(data))]
    for together, alone in zip(whole, zip(*single, strict=True), strict=True):
        np.testing.assert_allclose(
            together.maps, np.concatenate([r.maps for r in alone]), atol=1e-9
        )
        for column in together.columns:
            if column.startswith("grad_camo"):
                expected = np.concatenate([r.columns[column] for r in alone])
                np.testing.assert_allclose(together.columns[column], expected, atol=1e-6)


def test_the_same_again(name, dimensions):
    model, data = network(name, dimensions), batch(dimensions)
    method = build(name, dimensions)
    options = {"methods": method, "layers": ["low", "high"], "keep": "native"}
    first = [result.maps for result in run(model, data, **options)]
    torch.rand(5)
    second = [result.maps for result in run(model, data, **options)]
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_check_lets_pass_what_can_be_explained(name, dimensions):
    model, data = network(name, dimensions), batch(dimensions)
    method = build(name, dimensions)
    if hasattr(method, "check"):
        one = Pass(model, data.rows(0, 1), Predicted(), {"low": model.low, "high": model.high})
        assert method.check(one) is None
        assert not any(module._forward_hooks for module in model.modules())
