"""What is explained."""

from __future__ import annotations

import pytest
import torch
from nets import batch, net

from attrscore.engine.run import run
from attrscore.errors import ConfigError, DataError, UnsupportedError
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
    with pytest.raises(ConfigError, match=r"target.index=5 is not an output.*0 to 2"):
        Index(index=5).prepare(OUTPUT, batch(n=2))
    with pytest.raises(UnsupportedError, match="this network has one output"):
        Predicted(scalar="margin")(OUTPUT[:, :1], torch.zeros(2, dtype=torch.int64))
    unlabelled = batch(n=2)
    unlabelled.label[1] = -1
    with pytest.raises(DataError, match="1 of 2 have another or none"):
        Label().prepare(OUTPUT, unlabelled)
