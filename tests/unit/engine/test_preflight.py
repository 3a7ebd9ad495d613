"""What is found out before a job: each way in which a network or a layer cannot be explained."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from nets import Net, batch, net
from torch import nn

from attrscore.engine.preflight import preflight, refusals
from attrscore.engine.run import run
from attrscore.errors import ConfigError, LayerError, UnsupportedError
from attrscore.methods import GradCAM


def found(model, cells=None, /, **options):
    findings = preflight(model, batch() if cells is None else cells, **options)
    return {(each.method, each.layer): each for each in findings}


def only(model, **options):
    (finding,) = found(model, **options).values()
    return finding


class Functional(Net):
    def forward(self, x):
        x = F.relu(self.high(F.relu(self.low(x))))
        return self.head(x.flatten(2).mean(2))


class Twice(Net):
    def forward(self, x):
        x = self.act2(self.high(self.act1(self.low(x))))
        return self.head(self.act2(x).flatten(2).mean(2))


class Detached(Net):
    def forward(self, x):
        x = self.act2(self.high(self.act1(self.low(x)).detach()))
        return self.head(x.flatten(2).mean(2))


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Custom(Net):
    def forward(self, x):
        x = self.act2(self.high(Straight.apply(self.act1(self.low(x)))))
        return self.head(x.flatten(2).mean(2))


class Dropping(Net):
    def forward(self, x):
        x = F.dropout(self.act2(self.high(self.act1(self.low(x)))), training=True)
        return self.head(x.flatten(2).mean(2))


class BatchNormed(Net):
    def __init__(self, dimensions, **options):
        super().__init__(dimensions, **options)
        norm = nn.BatchNorm2d if dimensions == 2 else nn.BatchNorm3d
        self.norm = norm(5, track_running_stats=False).double()

    def forward(self, x):
        x = self.act2(self.high(self.act1(self.norm(self.low(x)))))
        return self.head(x.flatten(2).mean(2))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_plain_network_is_explained_everywhere(dimensions):
    findings = found(
        net(dimensions),
        batch(dimensions),
        methods=["grad_cam", "saliency", "guided_grad_cam"],
        layers=["low", "high"],
    )
    assert set(findings) == {
        ("grad_cam", "low"),
        ("grad_cam", "high"),
        ("saliency", "input"),
        ("guided_grad_cam", "low"),
        ("guided_grad_cam", "high"),
    }
    said = {finding.verdict for finding in findings.values()}
    assert said <= {"ok", "caution"}  # a guided map of random weights may be blank
    assert findings["grad_cam", "low"].verdict == "ok"
    assert findings["saliency", "input"].verdict == "ok"


def test_guided_methods_are_refused_with_the_activation_named():
    for model, named in ((net(act=nn.SiLU), "Silu"), (Functional(2), "functional ReLU")):
        findings = found(model, methods=["guided_grad_cam", "grad_cam"], layers="high")
        assert findings["guided_grad_cam", "high"].verdict == "refused"
        assert named in findings["guided_grad_cam", "high"].reason
        assert findings["grad_cam", "high"].verdict == "ok"


def test_a_custom_autograd_function_is_refused_by_guided_and_told_to_the_others():
    findings = found(Custom(2), methods=["guided_grad_cam", "grad_cam"], layers="low")
    assert findings["guided_grad_cam", "low"].verdict == "refused"
    assert findings["grad_cam", "low"].verdict == "caution"
    assert "Straight" in findings["grad_cam", "low"].reason


@pytest.mark.parametrize(
    ("model", "layer", "told"),
    [
        (net(), "unused", "never runs"),
        (Twice(2), "act2", "runs 2 times"),
        (net(), "head", "puts out a tensor"),
    ],
)
def test_a_layer_without_a_map_is_refused_and_the_others_stand(model, layer, told):
    findings = found(model, layers=["high", layer])
    assert findings["grad_cam", "high"].verdict == "ok"
    assert findings["grad_cam", layer].verdict == "refused"
    assert told in findings["grad_cam", layer].reason


def test_a_layer_that_does_not_exist_is_a_mistake():
    with pytest.raises(LayerError, match="Did you mean 'high'"):
        found(net(), layers=["high", "hihg"])


def test_blocked_gradients():
    findings = found(Detached(2), methods=["grad_cam", "saliency"], layers=["low", "high"])
    assert findings["grad_cam", "low"].verdict == "refused"
    assert "does not depend" in findings["grad_cam", "low"].reason
    assert findings["grad_cam", "high"].verdict == "ok"
    assert findings["saliency", "input"].verdict == "refused"


def test_scores_that_depend_on_the_batch_are_refused():
    for dimensions in (2, 3):
        model = BatchNormed(dimensions)
        findings = found(model, batch(dimensions), methods=["grad_cam", "saliency"], layers="high")
        assert {finding.verdict for finding in findings.values()} == {"refused"}
        assert "norm keep no running statistics" in findings["saliency", "input"].reason


def test_a_network_in_training_mode_is_looked_at_in_eval_mode_and_left_as_it_was():
    model = net().train()
    assert only(model, layers="high").verdict == "ok"
    assert model.training
    assert model.low.training


def test_a_dropout_that_stays_on_is_told():
    finding = only(Dropping(2), layers="high")
    assert finding.verdict == "caution"
    assert "other scores" in finding.reason


def test_a_grid_too_coarse_for_the_masks_is_told():
    class Coarse(Net):
        def __init__(self):
            super().__init__(2)
            self.high = nn.Conv2d(5, 4, 3, padding=1, stride=(6, 10)).double()

    cells = batch()
    wide = torch.zeros_like(cells.regions["cell"])
    wide[..., 3:7] = True  # the same share of each half of the crop
    cells = replace(cells, regions={"cell": wide})
    finding = found(Coarse(), cells, layers="high")["grad_cam", "high"]
    assert finding.verdict == "caution"
    assert "2 x 1 cannot resolve the masks of 4 of 4 cells" in finding.reason


def test_a_map_that_is_blank_is_told():
    model = net()
    with torch.no_grad():
        model.head.weight.zero_()
    finding = only(model, layers="high")
    assert finding.verdict == "caution"
    assert "0 everywhere" in finding.reason


def test_an_output_or_a_class_that_fits_nothing_is_an_error():
    class Two(Net):
        def forward(self, x):
            scores = super().forward(x)
            return scores, scores

    with pytest.raises(UnsupportedError, match="output=0"):
        found(Two(2), layers="high")
    assert only(Two(2), layers="high", output=0).verdict == "ok"
    from attrscore.targets import Index

    with pytest.raises(ConfigError, match="expected numbers from 0 to 2"):
        found(net(), layers="high", target=Index(index=7))


@dataclass(frozen=True)
class Picky:
    """A method of a stranger that fails at one layer, and for all when asked for it too."""

    def __call__(self, run):
        if "low" in run.layers:
            raise UnsupportedError("low is beyond me.")
        return GradCAM()(run)


def test_a_method_that_fails_at_one_layer_keeps_the_others():
    findings = preflight(net(), batch(), methods={"picky": Picky()}, layers=["low", "high"])
    assert {f.layer: f.verdict for f in findings} == {"low": "refused", "high": "ok"}
    rows = {
        result.layer: result.columns
        for result in run(
            net(),
            batch(),
            methods={"picky": Picky(), "grad_cam": GradCAM()},
            layers=["low", "high"],
            refused=refusals(findings),
        )
        if result.method == "picky"
    }
    assert set(rows["low"]["status"]) == {"unsupported"}
    assert set(rows["low"]["reason"]) == {"low is beyond me."}
    assert set(rows["high"]["status"]) == {"ok"}


def test_a_method_is_asked_its_own_check_instead_of_being_run():
    asked = []

    class Slow:
        def check(self, run):
            asked.append(len(run.batch))
            raise UnsupportedError("not this network.")

        def __call__(self, run):
            raise AssertionError("it was run")

    finding = only(net(), methods={"slow": Slow()}, layers="high")
    assert (finding.verdict, finding.reason, asked) == ("refused", "not this network.", [1])


def test_an_unforeseen_error_is_told_and_does_not_refuse():
    def broken(run):
        return {"high": torch.zeros(1) / {}["nothing"]}

    finding = only(net(), methods={"broken": broken}, layers="high")
    assert finding.verdict == "fails"
    assert "KeyError" in finding.reason
    assert refusals([finding]) == {}
