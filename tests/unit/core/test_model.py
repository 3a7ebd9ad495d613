"""Networks inside wrappers, and in other numbers than float32."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from nets import Net, batch, net
from torch import nn

from attrscore.core.contracts import Batch
from attrscore.core.model import unwrap
from attrscore.core.registry import METHODS
from attrscore.engine.evaluate import evaluate
from attrscore.errors import ConfigError, UnsupportedError

METHOD_NAMES = ["grad_cam", "guided_grad_cam", "saliency", "integrated_gradients"]


def scored(model: nn.Module, data: Batch | None = None, **options):
    options = {"methods": METHOD_NAMES, "layers": ["low", "high"], "progress": "none"} | options
    return evaluate(model, data or batch(), **options)


def same(one, other) -> None:
    np.testing.assert_array_equal(one["grad_camo"], other["grad_camo"])


# torch itself uses the torch.jit that it deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.:FutureWarning"),
]


@pytest.mark.slow
def test_a_compiled_network_after_warm_up():
    model = net()
    expected = scored(model)
    compiled = torch.compile(model, backend="eager")
    compiled(batch().inputs)
    same(scored(compiled), expected)


@pytest.mark.slow
def test_a_network_compiled_in_place_after_warm_up():
    model = net()
    expected = scored(model)
    model.compile(backend="eager")
    model(batch().inputs)
    call = model.__dict__["_compiled_call_impl"]
    same(scored(model), expected)
    assert model.__dict__["_compiled_call_impl"] is call


def test_several_wrappers():
    model = net()
    wrapped = torch.compile(nn.DataParallel(model), backend="eager")
    assert unwrap(wrapped) is model
    same(scored(wrapped), scored(model))


def test_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1
    )
    try:
        model = net()
        model.unused.requires_grad_(requires_grad=False)
        assert unwrap(nn.parallel.DistributedDataParallel(model)) is model
    finally:
        torch.distributed.destroy_process_group()


class Holder(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


@pytest.mark.parametrize(
    ("wrap", "sentence"),
    [
        (lambda m: Holder(torch.jit.trace(m, batch().inputs)), "its module 'inner' is TorchScript"),
        (lambda m: Holder(torch.compile(m, backend="eager")), "'inner' went through torch.compile"),
        (lambda m: Holder(nn.DataParallel(m)), "'inner' is wrapped for several devices"),
    ],
)
def test_networks_whose_layers_cannot_be_watched_are_refused(wrap, sentence):
    wrapped = wrap(net())
    with pytest.raises(UnsupportedError, match=sentence):
        evaluate({"wrapped": wrapped}, batch(), progress="none")


def test_a_traced_graph_module_is_an_ordinary_network():
    same(scored(torch.fx.symbolic_trace(net())), scored(net()))


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("precision", ["bfloat16", "float16", "autocast"])
def test_half_precision_is_near_and_scored_in_full(dimensions, precision):
    model = net(dimensions).float()
    parameters = copy.deepcopy(model.state_dict())
    expected = scored(model, batch(dimensions))
    found = scored(model, batch(dimensions), precision=precision)
    assert found["status"].eq(expected["status"]).all()
    both = expected["grad_camo"].notna()
    difference = np.abs(found["grad_camo"] - expected["grad_camo"])[both]
    assert difference.max() > 0
    assert difference.median() < 0.02
    assert all(torch.equal(parameters[name], p) for name, p in model.state_dict().items())
    assert next(model.parameters()).dtype is torch.float32


def test_a_network_in_bfloat16_gets_inputs_of_its_own_type():
    half = net().to(torch.bfloat16)
    found = scored(half)
    np.testing.assert_array_equal(
        found["grad_camo"], scored(net(), precision="bfloat16")["grad_camo"]
    )
    mine = scored(half, keep="native", methods="grad_cam")
    assert mine["status"].eq("ok").all()


class Gated(Net):
    """A sigmoid makes 1 of an infinity, so the output does not show the overflow."""

    def forward(self, x):
        return super().forward(x) + torch.sigmoid(self.squash(x * 60000).mean((1, 2, 3)))[:, None]

    def __init__(self) -> None:
        super().__init__(2)
        self.squash = nn.Conv2d(2, 1, 1)
        nn.init.constant_(self.squash.weight, 30.0)
        self.double()


def test_an_overflow_in_float16_is_nonfinite_and_no_wrong_number():
    data = batch()
    inputs = data.inputs.clone().abs()
    inputs[0] *= 1e-6
    data = Batch(inputs, data.regions)
    model = Gated().eval()
    plain = scored(model, data, methods="grad_cam", layers="high")
    assert not plain["status"].eq("nonfinite").any()
    found = scored(model, data, methods="grad_cam", layers="high", precision="float16")
    assert found["status"].tolist()[1:] == ["nonfinite"] * 3
    assert found["grad_camo"].isna().tolist()[1:] == [True] * 3
    assert found["status"].tolist()[0] == plain["status"].tolist()[0]


def test_wrong_precision():
    with pytest.raises(ConfigError, match="precision='float8' is not a choice"):
        scored(net(), precision="float8")


def test_captum_layers_in_half_precision_come_back_in_float32():
    method = METHODS.build("captum", algorithm="LayerGradCam")
    found = scored(net(), methods={"captum": method, "own": "grad_cam"}, precision="bfloat16")
    both = found.set_index(["method", "layer"])["grad_camo"]
    np.testing.assert_allclose(
        both["captum"].to_numpy(), both["own"].to_numpy(), atol=0.02, equal_nan=True
    )
