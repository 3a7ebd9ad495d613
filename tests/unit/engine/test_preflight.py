"""What is found out before a job: each way in which a network or a layer cannot be explained."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import Net, batch, net
from torch import nn

from attrscore import METHODS, evaluate
from attrscore.core.contracts import Batch
from attrscore.engine.preflight import preflight, refusals
from attrscore.engine.run import run
from attrscore.errors import AttrscoreWarning, ConfigError, LayerError, UnsupportedError
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


def test_attention_over_the_batch_is_no_fault_of_a_normalisation():
    class Mixed(type(net())):
        def forward(self, x):
            found = super().forward(x)
            return (found @ found.mT).softmax(-1) @ found

    model = net()
    model.__class__ = Mixed
    reason = only(model, layers="high").reason
    assert "(attention, a mean or a normalisation over the batch inside of it?)" in reason
    assert "BatchNorm" not in reason


def test_a_network_in_training_mode_is_looked_at_in_eval_mode_and_left_as_it_was():
    model = net().train()
    assert only(model, layers="high").verdict == "ok"
    assert model.training
    assert model.low.training


class DroppingPath(Net):
    """Leaves out a branch, as stochastic depth does, one time in ten."""

    def forward(self, x):
        kept = 0.0 if torch.rand(()) < 0.1 else 1.0
        x = self.act2(self.high(kept * self.act1(self.low(x))))
        return self.head(x.flatten(2).mean(2))


class Masked(Net):
    """Sees a quarter of the pixels, drawn by NumPy."""

    def forward(self, x):
        seen = torch.from_numpy(np.random.random(x.shape[2:]) < 0.25)
        return super().forward(x * seen)


def vit_mae():
    """Masks three quarters of the patches, whatever its mode."""
    hub = pytest.importorskip("transformers")
    small = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = hub.ViTMAEConfig(
        **small, intermediate_size=32, image_size=32, patch_size=8, num_channels=2
    )
    return hub.ViTMAEModel(config).eval()


@pytest.mark.parametrize("model", [Dropping(2), DroppingPath(2), Masked(2)])
def test_a_model_that_draws_at_random_is_refused_unless_that_is_accepted(model):
    finding = only(model, layers="high")
    assert finding.verdict == "refused"
    assert "other scores" in finding.reason
    assert "accept=[random]" in finding.reason
    finding = only(model, layers="high", accept=["random"])
    assert finding.verdict == "caution"
    assert "accept" not in finding.reason


def test_what_is_random_is_found_whatever_was_drawn_before_and_the_state_is_left():
    model = DroppingPath(2)
    for seed in range(3):
        torch.manual_seed(seed)
        state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        assert only(model, layers="high").verdict == "refused"
        assert torch.equal(torch.get_rng_state(), state[0])
        assert (random.getstate(), np.random.get_state()[1].tolist()) == state[1:]


@pytest.mark.slow
def test_a_masked_autoencoder_is_never_ok():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn((4, 2, 32, 32), generator=generator)
    mask = torch.zeros((4, 32, 32), dtype=torch.bool)
    mask[:, 8:24, 8:24] = True

    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = vit_mae()

        def forward(self, x):
            return self.inner(x).last_hidden_state[:, 0]

    asked = {"methods": ["grad_cam", "saliency"], "target": "embedding"}
    with pytest.warns(AttrscoreWarning, match="other scores"):
        table = evaluate(Features(), Batch(inputs, {"cell": mask}), **asked, progress="none")
    assert set(table["status"]) == {"unsupported"}
    assert table["reason"].str.contains("other scores").all()
    with pytest.warns(AttrscoreWarning, match="one draw of many"):
        table = evaluate(
            Features(), Batch(inputs, {"cell": mask}), **asked, accept="random", progress="none"
        )
    assert set(table["status"]) == {"ok"}


def test_a_layer_that_a_random_model_hides_is_refused_with_the_true_reason():
    with pytest.raises(LayerError) as error:
        preflight(Dropping(2), batch(), layers="hihg")
    assert any("other scores" in note for note in error.value.__notes__)
    with pytest.raises(LayerError) as error:
        preflight(net(), batch(), layers="hihg")
    assert not hasattr(error.value, "__notes__")


class OverTheBatch(Net):
    """Attention from each cell to all of its batch."""

    def forward(self, x):
        features = self.act2(self.high(self.act1(self.low(x)))).flatten(2).mean(2)
        return self.head(F.softmax(features @ features.T, 1) @ features)


@pytest.mark.slow
@pytest.mark.parametrize("model", [OverTheBatch(2), BatchNormed(2)])
@pytest.mark.parametrize("cells", [batch(), batch(n=1), torch.zeros(())], ids=["4", "1", "alike"])
def test_company_is_found_out_with_one_cell_and_with_cells_that_are_alike(model, cells):
    if not isinstance(cells, Batch):
        one = batch(n=1).inputs
        cells = replace(batch(n=2), inputs=torch.cat([one, one]))
    with pytest.warns(AttrscoreWarning, match="by the other cells of its batch"):
        table = evaluate(model, cells, layers="high", progress="none")
    assert set(table["status"]) == {"unsupported"}
    with pytest.warns(AttrscoreWarning, match="by the other cells of its batch"):
        table = evaluate(model, cells, layers="high", accept="batch", progress="none")
    assert not set(table["status"]) & {"unsupported"}


class ReadsABox(Net):
    """Gradients reach few pixels, and no others count."""

    def forward(self, x):
        seen = torch.zeros_like(x)
        seen[..., 3:7, 3:7] = 1
        return super().forward(x * seen)


class Third(Net):
    """Gradients of three columns alone, though all count."""

    def forward(self, x):
        return super().forward(torch.cat([x[..., :3], x[..., 3:].detach()], -1))


class Rounded(Net):
    def forward(self, x):
        return super().forward((10 * x).round())


def test_gradients_that_are_zero_everywhere_are_found():
    finding = only(Rounded(2), methods="saliency", layers="high")
    assert finding.verdict == "refused"
    assert "reach 0% of the pixels" in finding.reason


def test_gradients_that_miss_most_pixels_are_refused_and_perturbation_is_not():
    model = Third(2)
    methods = {"saliency": METHODS.build("saliency"), "grad_cam": GradCAM()}
    methods["occlusion"] = METHODS.build("occlusion", window=4, stride=4)
    findings = found(model, methods=methods, layers="high")
    for method, layer in (("saliency", "input"), ("grad_cam", "high")):
        assert findings[method, layer].verdict == "refused"
        assert "30% of the pixels" in findings[method, layer].reason
        assert "accept=[gradients]" in findings[method, layer].reason
    assert findings["occlusion", "input"].verdict == "ok"
    accepting = found(model, methods=methods, layers="high", accept=["gradients"])
    assert accepting["saliency", "input"].verdict == "caution"
    with pytest.warns(AttrscoreWarning, match="30% of the pixels"):
        table = evaluate(model, batch(), methods=methods, layers="high", progress="none")
    refused = table["status"] == "unsupported"
    assert set(table.loc[refused, "method"]) == {"saliency", "grad_cam"}
    assert set(table.loc[~refused, "method"]) == {"occlusion"}


def test_a_model_may_look_at_few_pixels():
    """An honest one does: where the others do not count, blank maps are right."""
    findings = found(ReadsABox(2), methods=["saliency", "grad_cam"], layers="high")
    assert {each.verdict for each in findings.values()} == {"ok"}
    pooled = nn.Sequential(
        *(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU()),
        *(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
    ).double()
    assert found(pooled, layers="3")["grad_cam", "3"].verdict in ("ok", "caution")


def test_what_is_accepted_has_a_name():
    with pytest.raises(ConfigError, match="accept='randm' is not a choice. Did you mean 'random'"):
        evaluate(net(), batch(), accept=["randm"])


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


class Rounding(Net):
    """Rounds otherwise in a larger batch, where a crop is brighter than any cell."""

    def forward(self, x):
        bright = (x.mean((1, 2, 3)) > x.amax((1, 2, 3)) / 2)[:, None]
        return super().forward(x) * (1 + 0.01 * len(x) * bright)


def test_a_cell_is_asked_about_and_not_the_stranger_beside_it():
    cells = batch()
    assert not (cells.inputs.mean((1, 2, 3)) > cells.inputs.amax((1, 2, 3)) / 2)[0]
    assert only(Rounding(2), layers="high").verdict == "ok"


class Following(Net):
    """Scores a cell by what came before it in the batch."""

    def forward(self, x):
        return super().forward(x).cumsum(0)


def test_a_cell_is_asked_about_behind_another_too():
    finding = only(Following(2), layers="high")
    assert finding.verdict == "refused"
    assert "the same crop alone scores differently" in finding.reason
