"""Several targets from one forward pass, and references that are means of groups of cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import Net, batch, net
from torch import Tensor

from attrscore.core.passes import Pass
from attrscore.engine.evaluate import evaluate
from attrscore.engine.run import run
from attrscore.errors import ConfigError, DataError
from attrscore.targets import Contrast, Cosine, Embedding, Norm, Predicted
from attrscore.targets.embeddings import group_mean, resolved


class Counted(Net):
    forwards = 0

    def forward(self, x):
        type(self).forwards += len(x) == 4  # crops alone find layers, and try the model
        return super().forward(x)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_backward_passes_of_one_forward_equal_separate_ones(dimensions):
    model, data = net(dimensions, classes=5), batch(dimensions)
    layers = {"low": model.low, "high": model.high}
    targets = [*Embedding(index="0:5").each, Norm(), Predicted(scalar="margin")]
    shared = Pass(model, data, targets[0], layers, to_input=True)
    found = list(shared.towards(targets))
    assert [str(each.target) for each in found] == [str(target) for target in targets]
    for target, each in zip(targets, found, strict=True):
        alone = Pass(model, data, target, layers, to_input=True)
        torch.testing.assert_close(each.input_gradient, alone.input_gradient, rtol=0, atol=1e-14)
        torch.testing.assert_close(each.value, alone.value, rtol=0, atol=1e-14)
        for name in layers:
            torch.testing.assert_close(
                each.gradients[name], alone.gradients[name], rtol=0, atol=1e-14
            )
            torch.testing.assert_close(each.activations[name], alone.activations[name])


class Odd(torch.autograd.Function):
    """Twice the input, by an operation of one's own."""

    @staticmethod
    def forward(context, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        return 2 * gradient if float(gradient.sum()) == float(gradient.sum()) else gradient


class WithOdd(Net):
    def forward(self, x):
        return Odd.apply(super().forward(x))


def test_operations_of_ones_own_are_differentiated_for_each_target():
    model = WithOdd(2).eval()
    model.load_state_dict(net().state_dict())
    targets = Embedding(index=[0, 2]).each
    shared = Pass(model, batch(), targets[0], {"high": model.high})
    for target, each in zip(targets, shared.towards(targets), strict=True):
        plain = net()
        alone = Pass(plain, batch(), target, {"high": plain.high})
        torch.testing.assert_close(each.gradients["high"], 2 * alone.gradients["high"])


def test_a_sweep_is_one_forward_pass_and_its_rows_are_those_of_single_jobs():
    model = Counted(2, classes=12).eval()
    Counted.forwards = 0
    methods = ["grad_cam", "saliency"]
    results = list(
        run(model, batch(), methods=methods, layers="high", target=Embedding(index="0:12"))
    )
    assert Counted.forwards == 1
    assert [result.target for result in results[::2]] == [f"embedding{i}" for i in range(12)]
    for result in results[:4]:
        (alone,) = run(
            model,
            batch(),
            methods=result.method,
            layers="high",
            target=Embedding(index=int(result.target[len("embedding") :])),
        )
        np.testing.assert_allclose(result.columns["grad_camo"], alone.columns["grad_camo"])
        np.testing.assert_allclose(result.columns["explained"], alone.columns["explained"])


def test_a_sweep_keeps_its_rows_where_gradients_are_blocked():
    class Blocked(Net):
        def forward(self, x):
            return super().forward(x).detach()

    with pytest.warns(UserWarning, match="No gradient flows"):
        table = evaluate(
            Blocked(2).eval(),
            batch(),
            layers="high",
            target=Embedding(index=[0, 1]),
            progress="none",
        )
    assert table.groupby("target")["status"].agg(set).to_dict() == {
        "embedding0": {"unsupported"},
        "embedding1": {"unsupported"},
    }


@pytest.mark.parametrize("index", [[], "4", "3:3", "a:b", [0, 0], [0.5], True, None])
def test_wrong_dimensions(index):
    with pytest.raises((ConfigError, TypeError), match="names no dimensions|not iterable"):
        Embedding(index=index)


def test_several_dimensions_are_no_single_target():
    with pytest.raises(ConfigError, match="2 targets; explain one of .each"):
        Embedding(index=[0, 1])(torch.zeros(2, 3), torch.zeros(2, 0))
    assert Embedding(index=3).each == (Embedding(index=3),)


def test_a_dimension_that_the_network_lacks():
    with pytest.raises(ConfigError, match="target.index=7 is no dimension"):
        evaluate(net(), batch(), target=Embedding(index=[0, 7]), progress="none")


@pytest.mark.parametrize(("values", "rows"), [("A1", [1]), (["A1", "A2"], [1, 2])])
def test_group_mean_by_hand(values, rows):
    model, data = net().train(), batch()
    where = {"Metadata_Well": values}
    mean = group_mean(model, [data.rows(0, 3), data.rows(3, 4)], where=where)
    with torch.no_grad():
        expected = net()(data.inputs)[rows].mean(0)
    assert mean == pytest.approx(expected.tolist())
    assert model.training
    assert group_mean(model, data, where=where) == pytest.approx(mean)


def test_targets_towards_groups():
    model, data = net(), batch()
    first, second = {"Metadata_Well": "A0"}, {"Metadata_Well": ["A1", "A3"]}
    target = resolved(Contrast(first, second), model, data)
    plain = Contrast(group_mean(model, data, where=first), group_mean(model, data, where=second))
    output = model(data.inputs).detach()
    torch.testing.assert_close(target(output, output), plain(output, output))
    assert str(target) == "contrast:A0:A1|A3"
    assert target.identity == Contrast(first, second).identity
    assert target.identity != Contrast(second, first).identity
    assert resolved(target, model, data) is target
    assert resolved(Norm(), model, data) == Norm()
    alone = resolved(Cosine(first), model, data)
    assert float(alone(output, output)[0]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: Cosine({}), ConfigError, "needs a column"),
        (
            lambda: evaluate(
                net(), batch(), target=Cosine({"Metadata_Well": "A0"}), progress="none"
            ),
            ConfigError,
            "group of cells .A0. that is not computed yet",
        ),
        (
            lambda: Contrast({"Metadata_Well": "A0"}, {"Metadata_Well": ["A0"]}),
            ConfigError,
            "the same reference",
        ),
        (
            lambda: group_mean(net(), batch(), where={"Metadata_Wel": "A0"}),
            DataError,
            "Did you mean 'Metadata_Well'",
        ),
        (
            lambda: group_mean(net(), batch(), where={"Metadata_Well": "H12"}),
            DataError,
            "No cell belongs to the group H12",
        ),
    ],
)
def test_errors_of_groups(make, error, sentence):
    with pytest.raises(error, match=sentence):
        make()
