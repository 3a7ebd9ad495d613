"""What is explained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import batch, net

from attrscore.engine.run import run
from attrscore.errors import ConfigError, DataError
from attrscore.targets import Index, Label, Predicted, logprob, margin

OUTPUT = torch.tensor([[1.0, 4.0, 2.0], [0.5, 0.0, 3.0]])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Predicted(), [4.0, 3.0]),
        (Predicted(scalar="margin"), [2.0, 2.5]),
        (Label(), [1.0, 0.0]),
        (Index(index=2), [2.0, 3.0]),
        (Index(index=2, scalar="margin"), [-2.0, 2.5]),
    ],
)
def test_scalars(target, expected):
    data = batch(n=2)
    assert target(OUTPUT, target.prepare(OUTPUT, data)).tolist() == expected


def test_logprob_is_the_log_of_softmax():
    index = torch.tensor([1, 2])
    expected = OUTPUT.softmax(1)[[0, 1], [1, 2]].log()
    torch.testing.assert_close(logprob(OUTPUT, index), expected)


@pytest.mark.parametrize("scalar", ["margin", "logprob"])
def test_invariant_to_a_common_shift_of_all_logits_where_logit_is_not(scalar):
    """SCIENCE 3.4: predictions stay the same, and so must the explanation."""

    class Shifted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()

        def forward(self, x):
            return self.inner(x) + x.square().sum((1, 2, 3))[:, None]

    def maps(model, scalar):
        (found,) = run(model, batch(), methods="saliency", target=Predicted(scalar), keep="native")
        return torch.from_numpy(found.maps)

    torch.testing.assert_close(maps(net(), scalar), maps(Shifted(), scalar))
    assert (maps(net(), "logit") - maps(Shifted(), "logit")).abs().max() > 0.1


def test_margin_of_the_best_is_not_negative():
    assert (margin(OUTPUT, OUTPUT.argmax(1)) >= 0).all()


def test_names_in_the_results():
    assert [str(t) for t in (Predicted(), Label(scalar="margin"), Index(index=3))] == [
        "predicted.logit",
        "label.margin",
        "index3.logit",
    ]


def test_errors():
    with pytest.raises(ConfigError, match=r"scalar='logits' is not a choice. Did you mean 'logit'"):
        Predicted(scalar="logits")
    with pytest.raises(
        ConfigError, match=r"asks for the outputs 5; this model has 3: expected numbers from 0 to 2"
    ):
        Index(index=5).prepare(OUTPUT, batch(n=2))
    unlabelled = batch(n=2)
    unlabelled.label[1] = -1
    with pytest.raises(DataError, match="1 of 2 have another or none"):
        Label().prepare(OUTPUT, unlabelled)


class OneOutput(torch.nn.Module):
    """The second logit of a model less the first, less what makes half of the cells class 1."""

    def __init__(self, *, flat: bool = False, probability: bool = False) -> None:
        super().__init__()
        self.inner, self.flat, self.probability = net(), flat, probability
        with torch.no_grad():
            logits = self.inner(batch(n=6).inputs)
        self.middle = float((logits[:, 1] - logits[:, 0]).median()) + 1e-6

    def score(self, x):
        logits = self.inner(x)
        return logits[:, 1] - logits[:, 0] - self.middle

    def forward(self, x):
        z = self.score(x).sigmoid() if self.probability else self.score(x)
        return z if self.flat else z[:, None]


@pytest.mark.parametrize("given", [{}, {"flat": True}, {"probability": True}])
def test_one_output_is_the_classifier_of_two_that_it_stands_for(given):
    """Against plain torch: predicted class, its probability, flips, and the gradient."""
    data = batch(n=6)
    model = OneOutput(**given).eval()
    x = data.inputs.clone().requires_grad_()
    z = model.score(x)
    assert 0 < int((z > 0).sum()) < 6  # else this test could not fail
    (found,) = run(
        model,
        data,
        methods="saliency",
        scorers=["swap"],
        pool=data,
        target=Predicted(one_output="probability" if given.get("probability") else "logit"),
        keep="native",
    )
    assert found.columns["predicted"].tolist() == (z > 0).long().tolist()
    np.testing.assert_allclose(found.columns["confidence"], z.abs().sigmoid().detach())
    assert not np.isnan(found.columns["swap.inside_flips"]).any()
    (gradient,) = torch.autograd.grad(z.sum(), x)
    np.testing.assert_allclose(found.maps, gradient.abs().numpy(), rtol=1e-6, atol=1e-12)


def test_one_output_with_labels_and_by_number():
    output = torch.tensor([[2.0], [-1.0]])
    data = batch(n=2)
    data.label[:] = torch.tensor([0, 1])
    assert Predicted()(output, Predicted().prepare(output, data)).tolist() == [2, 1]
    assert Label()(output, Label().prepare(output, data)).tolist() == [-2.0, -1.0]
    assert Index()(output, Index().prepare(output, data)).tolist() == [2.0, -1.0]
    logp = Label(scalar="logprob")(output, data.label)
    torch.testing.assert_close(logp, torch.nn.functional.logsigmoid(torch.tensor([-2.0, -1.0])))
    with pytest.raises(DataError, match="from 0 to 1"):
        Label().prepare(torch.tensor([[2.0], [-1.0], [0.0]]), batch(n=3))


@pytest.mark.parametrize(
    ("target", "same"),
    [(2, Index(index=2)), (torch.tensor(1), Index(index=1)), (np.int64(1), Index(index=1))],
)
def test_a_class_as_captum_users_write_it(target, same):
    pairs = (
        run(net(), batch(), methods="saliency", target=each, keep="native")
        for each in (target, same)
    )
    (one,), (other,) = pairs
    assert (one.maps == other.maps).all()


def test_a_class_for_each_sample():
    data = batch(n=3)
    (each,) = run(net(), data, methods="saliency", target=torch.tensor([2, 0, 1]), keep="native")
    for row, number in enumerate([2, 0, 1]):
        (one,) = run(net(), data, methods="saliency", target=number, keep="native")
        np.testing.assert_allclose(each.maps[row], one.maps[row], rtol=1e-5, atol=1e-7)
    with pytest.raises(DataError, match="target has 2 classes and the batch 3 samples"):
        list(run(net(), data, methods="saliency", target=[1, 1], on_error="raise"))
