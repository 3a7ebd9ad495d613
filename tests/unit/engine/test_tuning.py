"""A tuned network scores as the given one does, and the given one is as it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from nets import batch
from torch import nn

import attrscore
from attrscore.core.passes import Pass
from attrscore.engine.evaluate import evaluate
from attrscore.engine.tuning import fold_batch_norm, tune
from attrscore.targets import Predicted


class Normed(nn.Module):
    """conv-bn-relu, a block with a way around it, conv-bn, GAP, linear."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        conv, norm = (getattr(nn, f"{kind}{dimensions}d") for kind in ("Conv", "BatchNorm"))
        self.stem, self.norm0 = conv(2, 6, 3, padding=1), norm(6)
        self.mid, self.norm1 = conv(6, 6, 3, padding=1, bias=False), norm(6)
        self.skip, self.norm2 = conv(6, 6, 1), norm(6)  # the way around starts behind self.skip
        self.top, self.norm3 = conv(6, 5, 3, stride=2), norm(5, affine=False)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        x = self.act(self.norm0(self.stem(x)))
        x = self.act(self.norm1(self.mid(x)))
        x = self.skip(x)
        x = x + self.act(self.norm2(x))
        x = self.norm3(self.top(x))
        return self.head(x.flatten(2).mean(2))


def normed(dimensions: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = Normed(dimensions)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.5, 2)
    return model.eval()


def data(dimensions: int):
    made = batch(dimensions)
    return attrscore.Batch(made.inputs.float(), made.regions, made.label, made.ids)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_norms_are_folded_where_nothing_else_sees_the_convolution(dimensions):
    model, cells = normed(dimensions), data(dimensions)
    folded, count = fold_batch_norm(model, cells)
    assert count == 3  # all but norm2: what comes in there also goes around
    assert isinstance(folded.norm1, nn.Identity)
    assert not isinstance(folded.norm2, nn.Identity)
    torch.testing.assert_close(folded(cells.inputs), model(cells.inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("keep", "count"), [(["mid"], 2), (["norm1"], 3), (["stem", "top"], 1)])
def test_a_chosen_convolution_keeps_its_output(keep, count):
    folded, found = fold_batch_norm(normed(2), data(2), keep=keep)
    assert found == count
    for name in keep:
        outputs = []
        for model in (normed(2), folded):
            current = Pass(model, data(2), Predicted(), {name: model.get_submodule(name)})
            outputs.append(current.activations[name])
        torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_tuned_scores_are_the_scores_and_the_network_is_as_it_was(dimensions):
    model, cells = normed(dimensions).train(), data(dimensions)
    before = copy.deepcopy(model.state_dict())
    options = {
        "layers": ["mid", "norm1", "skip", "norm3"],
        "methods": ["grad_cam", "hires_cam", "layer_cam", "saliency", "integrated_gradients"],
    }
    tuned = tune(model, cells, **options)
    assert tuned.folded == 2
    assert tuned.difference < 1e-5
    assert tuned.memory_format in ("as given", "channels_last", "channels_last_3d")
    assert "2 BatchNorm layers folded" in str(tuned)
    plain = evaluate(model, cells, progress="none", **options)
    fast = evaluate(tuned.model, cells, progress="none", **options)
    np.testing.assert_allclose(fast["grad_camo"], plain["grad_camo"], atol=1e-5)
    assert fast["status"].tolist() == plain["status"].tolist()
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    after = model.state_dict()
    assert all(torch.equal(before[name], value) for name, value in after.items())


def test_what_changes_a_score_is_left_as_given():
    def looks_at_norms(heat, run, /):
        norms = sum(isinstance(m, nn.BatchNorm2d) for m in run.model.modules())
        return torch.full((len(heat),), float(norms))

    tuned = tune(normed(2), data(2), layers="top", scorers=looks_at_norms)
    assert tuned.folded == 0
    assert sum(isinstance(m, nn.BatchNorm2d) for m in tuned.model.modules()) == 4


def test_a_network_without_norms_and_a_method_on_the_input():
    tuned = tune(
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(240, 2)),
        data(2),
        methods="saliency",
    )
    assert tuned.folded == 0


def test_a_norm_that_follows_an_in_place_step_is_not_folded():
    class Rectified(nn.Sequential):
        def forward(self, x):
            x = self[0](x)
            torch.relu_(x)
            return self[1](x).flatten(2).mean(2)

    _, count = fold_batch_norm(Rectified(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).eval(), data(2))
    assert count == 0
