"""Models as users write them: in place, failing backwards, checkpoints, odd tensors.

Each is compared with plain torch on a deep copy, or costs its own rows alone.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from nets import batch, net
from torch import nn
from torch.utils.checkpoint import checkpoint

from attrscore import METHODS, evaluate
from attrscore.core.model import in_precision
from attrscore.engine.preflight import preflight
from attrscore.engine.run import run
from attrscore.errors import AttrscoreWarning, UnsupportedError
from attrscore.models import randomized


class InPlace(nn.Module):
    """Halves its input where it lies, and a further input too."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net()

    def forward(self, x, *others):
        for other in others:
            other.mul_(0)
        return self.inner(x.sub_(0.5))


class OutOfPlace(InPlace):
    def forward(self, x, *others):
        return self.inner(x - 0.5)


ASKED = {
    **{name: METHODS.build(name) for name in ("hires_cam", "saliency", "integrated_gradients")},
    "occlusion": METHODS.build("occlusion", window=4, stride=4),
}


@pytest.mark.filterwarnings("ignore:InPlace changes its input in place")
def test_a_model_that_changes_its_input_scores_as_one_that_does_not():
    data = replace(batch(), others=(torch.ones(4, 3),))
    before = data.inputs.clone()
    found = [
        list(
            run(
                model,
                data,
                methods=ASKED,
                scorers=["grad_camo", "swap", "deletion"],
                layers=["inner.high"],
                pool=batch(n=6, seed=3),
                keep="native",
            )
        )
        for model in (InPlace(), OutOfPlace())
    ]
    assert torch.equal(data.inputs, before)
    assert torch.equal(data.others[0], torch.ones(4, 3))
    for ours, plain in zip(*found, strict=True):
        np.testing.assert_array_equal(ours.maps, plain.maps, err_msg=ours.method)
        for name, values in plain.columns.items():
            np.testing.assert_array_equal(ours.columns[name], values, err_msg=name)


def test_a_model_that_changes_its_input_is_noticed():
    (found,) = preflight(InPlace(), batch(), methods="saliency", layers="inner.high")
    assert (found.verdict, "changes its input in place" in found.reason) == ("caution", True)
    with pytest.warns(AttrscoreWarning, match="changes its input in place"):
        list(run(InPlace(), batch(), layers="inner.high"))


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()


class Broken(nn.Module):
    """Its backward pass fails in a way that users meet."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.inner, self.how = net(), how

    def forward(self, x):
        output = self.inner(x)
        if self.how == "no backward":
            return NoBackward.apply(output)
        if self.how == "in place":
            squashed = output.sigmoid()
            return squashed.add_(0) if not torch.is_grad_enabled() else squashed.mul_(1)
        if output.requires_grad:
            output.register_hook(self.complain)
        return output

    @staticmethod
    def complain(gradient):
        raise ValueError("a hook of the user's")


@pytest.mark.filterwarnings("ignore::attrscore.errors.AttrscoreWarning")
@pytest.mark.parametrize("how", ["no backward", "in place", "hook"])
def test_a_backward_that_fails_costs_its_methods_rows_alone(how):
    model = Broken(how)
    table = evaluate(model, batch(), methods=ASKED, layers="inner.high")
    status = table.groupby("method")["status"].unique()
    assert list(status["occlusion"]) == ["ok"]
    for method in ("hires_cam", "saliency"):
        assert not set(status[method]) & {"ok"}
        assert table.loc[table["method"] == method, "reason"].str.len().gt(0).all()
    found = {
        f.method: f.verdict for f in preflight(model, batch(), methods=ASKED, layers="all_conv")
    }
    assert found["occlusion"] in ("ok", "caution")
    assert found["saliency"] in ("fails", "refused")


class Checkpointed(nn.Module):
    """Batch normalisation and a pointwise convolution in a part that is run again backwards."""

    def __init__(self, how: str) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.first = nn.Conv3d(2, 3, 3, padding=1)
            self.part = nn.Sequential(nn.BatchNorm3d(3), nn.ReLU(), nn.Conv3d(3, 4, 1), nn.ReLU())
            self.head = nn.Linear(4, 3)
        self.how = how
        self.double().eval()

    def forward(self, x):
        x = self.first(x)
        reentrant = self.how == "reentrant"
        x = self.part(x) if self.how == "" else checkpoint(self.part, x, use_reentrant=reentrant)
        return self.head(x.flatten(2).mean(2))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("how", ["reentrant", "without"])
@pytest.mark.parametrize("method", ["grad_cam", "saliency", "integrated_gradients"])
def test_checkpointed_parts_have_the_gradients_of_plain_ones(method, how):
    (ours,), (plain,) = (
        run(Checkpointed(each), batch(3), methods=method, layers="first", keep="native")
        for each in (how, "")
    )
    assert set(ours.columns["status"]) == {"ok"}
    np.testing.assert_allclose(ours.maps, plain.maps, rtol=1e-10, atol=1e-14)


class Hooked(nn.Module):
    """Doubles the gradient at a layer's output, by a hook on the tensor itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net()

    def forward(self, x):
        low = self.inner.low(x)
        if low.requires_grad:
            low.register_hook(lambda gradient: 2 * gradient)
        high = self.inner.high(self.inner.act1(low))
        return self.inner.head(self.inner.act2(high).flatten(2).mean(2))


@pytest.mark.parametrize("beside", [[], ["saliency"], ["guided_backprop"]])
def test_a_hook_on_a_layers_output_counts_whatever_shares_the_pass(beside):
    data = batch()
    found, *_ = run(
        Hooked(),
        data,
        methods=["hires_cam", *beside],
        layers="inner.low",
        target="label",
        keep="native",
    )
    (plain,) = run(net(), data, methods="hires_cam", layers="low", target="label", keep="native")
    np.testing.assert_allclose(found.maps, 2 * plain.maps, rtol=1e-12)


@pytest.mark.filterwarnings("ignore:`?torch.nn.utils.weight_norm")
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_old_style_normalised_weights_can_be_copied(norm):
    model = net().float()
    norm(model.high)
    model.eval()
    inputs = batch().inputs.float()
    model(inputs)  # the weight is now the last forward's
    other = in_precision(model, "bfloat16")
    assert other is not model
    with torch.no_grad():
        near = other(inputs.bfloat16()).float()
        torch.testing.assert_close(near, model(inputs), rtol=0.1, atol=0.05)
    assert randomized(model, "all") is not model


@pytest.mark.slow
def test_tensors_of_inference_mode_and_subclasses_are_plain_inside():
    from monai.data import MetaTensor

    data = batch()
    with torch.inference_mode():
        odd = data.inputs.clone()
    (expected,) = run(net(), data, methods="saliency", keep="native")
    for inputs in (odd, MetaTensor(data.inputs)):
        given = replace(data, inputs=inputs)
        assert type(given.inputs) is torch.Tensor
        (found,) = run(net(), given, methods="saliency", keep="native")
        np.testing.assert_array_equal(found.maps, expected.maps)


def test_a_model_of_inference_mode_is_refused_in_a_sentence_and_its_copy_works():
    with torch.inference_mode():
        model = net()
    with pytest.raises(UnsupportedError, match=r"made under torch.inference_mode.*deepcopy"):
        list(run(model, batch()))
    list(run(copy.deepcopy(model), batch(), layers="high"))


class OfItsBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = net()

    def forward(self, x):
        return self.inner(x - x.mean(0))


@pytest.mark.filterwarnings("ignore:4 rows of grad_cam are unsupported")
def test_a_model_that_depends_on_its_batch_is_refused_in_python_too():
    table = evaluate(OfItsBatch(), batch(), layers="inner.high")
    assert set(table["status"]) == {"unsupported"}
    assert table["reason"].str.contains("scores a cell by the other cells of its batch").all()
    with pytest.raises(UnsupportedError, match="by the other cells of its batch"):
        list(run(OfItsBatch(), batch(), layers="inner.high", on_error="raise"))
