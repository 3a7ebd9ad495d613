"""One batch through one network, once."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from nets import batch, net
from torch import nn

from attrscore.core.contracts import Batch
from attrscore.core.model import as_found, check_output
from attrscore.core.passes import Pass
from attrscore.engine.evaluate import evaluate
from attrscore.engine.run import run
from attrscore.errors import ConfigError, DataError, UnsupportedError
from attrscore.targets import Predicted


class Counted(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.forwards = 0
        self.backwards = 0

    def forward(self, x):
        self.forwards += 1
        output = self.inner(x)
        if output.requires_grad:
            output.register_hook(lambda _: setattr(self, "backwards", self.backwards + 1))
        return output


def test_all_layers_and_methods_of_the_family_cost_one_forward_and_one_backward():
    model = Counted(net())
    results = run(
        model,
        [batch(), batch(seed=1)],
        methods=["grad_cam", "hires_cam", "saliency"],
        layers=["inner.low", "inner.act1", "inner.high"],
    )
    for _ in range(3 + 3 + 1):  # the first batch, on which the model is also tried
        next(results)
    model.forwards = model.backwards = 0
    assert len(list(results)) == 7
    assert (model.forwards, model.backwards) == (1, 1)


def test_a_late_wish_for_the_input_gradient_is_right():
    model, data = net(), batch()
    late = Pass(model, data, Predicted(), {"low": model.low})
    assert late.gradients.keys() == {"low"}
    early = Pass(model, data, Predicted(), {}, to_input=True)
    torch.testing.assert_close(late.input_gradient, early.input_gradient)


def test_in_place_layers_change_nothing():
    data = batch()
    layers = ["low", "act1", "high"]
    plain = evaluate(net(), data, layers=layers, progress="none")
    inplace = evaluate(net(inplace=True), data, layers=layers, progress="none")
    torch.testing.assert_close(
        torch.tensor(plain["grad_camo"]), torch.tensor(inplace["grad_camo"]), rtol=0, atol=0
    )


def test_everything_is_restored_after_an_exception():
    model = net().train()

    def explode(run):
        model.low.register_forward_hook(lambda *_: None)
        model.zero_grad()
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        list(run(model, batch(), methods=explode, on_error="raise"))
    assert all(module.training for module in model.modules())
    assert not model.low._forward_hooks
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_no_grad_is_no_obstacle_and_inference_mode_gets_a_sentence():
    with torch.no_grad():
        assert evaluate(net(), batch(), progress="none")["status"].eq("ok").all()
    with (
        torch.inference_mode(),
        pytest.raises(UnsupportedError, match="torch.inference_mode\\(\\) forbids"),
    ):
        evaluate(net(), batch(), progress="none")


@pytest.mark.parametrize(
    ("output", "got"),
    [
        ((torch.zeros(2, 3), torch.zeros(2)), "a tuple of 2 items"),
        ({"logits": torch.zeros(2, 3)}, "a dictionary with the keys logits"),
        (torch.zeros(2, 3, 4, 4), r"a tensor \(2, 3, 4, 4\)"),
        (None, "a NoneType"),
    ],
)
def test_outputs_that_are_no_scores(output, got):
    with pytest.raises(UnsupportedError, match=f"returns {got}; expected one tensor"):
        check_output(output, 2)


def test_a_network_that_returns_a_tuple_is_told_at_once():
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()

        def forward(self, x):
            return self.inner(x), x

    with pytest.raises(UnsupportedError, match="returns a tuple of 2 items.*output=0"):
        evaluate(Pair(), batch(), progress="none")
    with pytest.raises(ConfigError, match="output=2 is no item"):
        evaluate(Pair(), batch(), output=2, progress="none")
    with pytest.raises(ConfigError, match="returns one tensor"):
        evaluate(net(), batch(), output=0, progress="none")


@pytest.mark.parametrize("which", [1, "logits"])
def test_an_item_of_the_output_can_be_chosen(which):
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()

        def forward(self, x):
            logits = self.inner(x)
            return (x, logits) if which == 1 else {"features": x, "logits": logits}

    options = {
        "methods": ["grad_cam", "saliency", "guided_grad_cam", "integrated_gradients"],
        "progress": "none",
    }
    plain = evaluate(net(), batch(), layers="high", **options)
    chosen = evaluate(Several(), batch(), layers="inner.high", output=which, **options)
    columns = [column for column in plain if column.startswith("grad_camo")]
    pd.testing.assert_frame_equal(plain[columns], chosen[columns], atol=1e-9)


def test_one_score_a_sample_becomes_one_column():
    assert check_output(torch.zeros(2), 2).shape == (2, 1)


class Blocked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = net()

    def forward(self, x):
        return self.inner(x).detach() * 2


def test_blocked_gradients_become_rows_and_perturbation_still_works():
    from attrscore.methods import FromCaptum

    occlusion = FromCaptum("Occlusion", {"sliding_window_shapes": [1, 3, 3]})
    with pytest.warns(UserWarning, match="to the output of Blocked"):
        table = evaluate(
            Blocked(),
            batch(),
            methods={"grad_cam": "grad_cam", "occlusion": occlusion},
            progress="none",
        )
    status = table.groupby("method")["status"].first()
    assert status.to_dict() == {"grad_cam": "unsupported", "occlusion": "ok"}


def test_a_layer_beside_the_way_is_named():
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()
            self.side = nn.Conv2d(2, 2, 1).double()

        def forward(self, x):
            self.side(x)
            return self.inner(x)

    with pytest.warns(UserWarning, match="No gradient flows from layer 'side'"):
        table = evaluate(Beside(), batch(), layers="side", progress="none")
    assert set(table["status"]) == {"unsupported"}
    with pytest.warns(UserWarning, match="does not depend on this layer"):
        table = evaluate(Beside(), batch(), layers=["side", "inner.high"], progress="none")
    status = table.groupby("layer")["status"].first().to_dict()
    assert status == {"side": "unsupported", "inner.high": "ok"}


def test_a_network_that_cannot_take_the_crops_is_told_at_once():
    wrong = Batch(torch.rand(2, 7, 12, 10).double(), batch(n=2).regions)
    with pytest.raises(
        DataError, match=r"Net cannot run on these crops \(7 channels, 2D, 12 x 10\)"
    ):
        evaluate(net(), wrong, progress="none")


def test_as_found_keeps_the_gradient_object():
    model = net()
    model.low.weight.grad = kept = torch.ones_like(model.low.weight)
    with as_found(model):
        model.low.weight.grad = None
    assert model.low.weight.grad is kept
