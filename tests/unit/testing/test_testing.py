"""The conformance kit finds what is broken, and says what and where: a plugin broken on purpose
for each check, and the sentence that it gets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from attrscore.core.registry import Configured
from attrscore.datasets import Phantom
from attrscore.errors import ConfigError, UnsupportedError
from attrscore.testing import NotConforming, assert_conforms, checks, conformance

# Methods


def cam(run, /):
    return {name: g * run.activations[name] for name, g in run.gradients.items()}


def one_layer(run, /):
    return dict(list(cam(run).items())[:1])


def no_mapping(run, /):
    return list(cam(run).values())


def flat(run, /):
    return {name: signed.flatten(2) for name, signed in cam(run).items()}


def with_graph(run, /):
    return {name: signed.requires_grad_() for name, signed in cam(run).items()}


def over_the_batch(run, /):
    return {name: signed / signed.abs().amax() for name, signed in cam(run).items()}


def random_map(run, /):
    return {name: torch.randn_like(signed) for name, signed in cam(run).items()}


def stateful(run, /, *, calls: list = []):  # noqa: B006  # the fault in question
    calls.append(1)
    return {name: signed * len(calls) for name, signed in cam(run).items()}


def hook_left(run, /):
    next(iter(run.layers.values())).register_forward_hook(lambda *_: None)
    return cam(run)


def weights_changed(run, /):
    with torch.no_grad():
        run.model.get_parameter("head.bias").add_(1)
    return cam(run)


def mode_changed(run, /):
    run.model.train()
    return cam(run)


def backward_used(run, /):
    found = cam(run)
    run.model.get_parameter("low.weight").requires_grad = True
    run.model(run.batch.inputs).sum().backward()
    return found


def in_integers(run, /):
    return {name: signed.long() for name, signed in cam(run).items()}


def raises(run, /):
    raise ZeroDivisionError("oops")


def refuses(run, /):
    raise UnsupportedError("No network suits it.")


# Scorers


def share(heat, run, /):
    return heat.mass(run.batch.regions["cell"]) / heat.mass()


def a_number(heat, run, /):
    return 0.5


def one_for_all(heat, run, /):
    return share(heat, run).mean()[None]


def in_integers_too(heat, run, /):
    return share(heat, run).nan_to_num().long()


def with_epsilon(heat, run, /):
    return heat.mass(run.batch.regions["cell"]) / (heat.mass() + 1e-8)


def infinite(heat, run, /):
    return heat.mass() / heat.area(run.batch.regions["cell"]) * 0 + torch.inf


def of_the_batch(heat, run, /):
    values = share(heat, run)
    return values - values.nanmean()


def in_place(heat, run, /):
    return heat.native.flatten(1).double().sum(1)


def with_numpy_state(heat, run, /):
    return share(heat, run) + torch.from_numpy(np.random.rand(len(heat)))


def out_of_range(heat, run, /):
    return 2 + share(heat, run)


out_of_range.readings = {"score": {"range": (0, 1)}}


def needs_spacing(heat, run, /):
    return share(heat, run) * min(run.batch.spacing)


# Targets


@dataclass(frozen=True)
class Good:
    def prepare(self, output, batch, /):
        return output.argmax(1)

    def __call__(self, output, aux, /):
        return output.gather(1, aux[:, None])[:, 0]


class Whole(Good):
    def __call__(self, output, aux, /):
        return output


class Detached(Good):
    def __call__(self, output, aux, /):
        return super().__call__(output.detach(), aux)


class Centred(Good):
    def __call__(self, output, aux, /):
        return super().__call__(output - output.mean(0), aux)


class Nameless:
    prepare, __call__ = Good.prepare, Good.__call__


class AsText(Good):
    def prepare(self, output, batch, /):
        return [str(i) for i in output.argmax(1)]


class Half(Good):
    def __call__(self, output, aux, /):
        return super().__call__(output, aux).long()


# Models


def linear(spec):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        conv = getattr(nn, f"Conv{spec.dimensions}d")(spec.channels, 4, 3)
        pool = getattr(nn, f"AdaptiveAvgPool{spec.dimensions}d")(1)
        head = nn.Linear(4, spec.classes)
    return nn.Sequential(conv, nn.ReLU(), pool, nn.Flatten(), head).eval()


def no_network(spec, /):
    return 3


def in_training(spec, /):
    return linear(spec).train()


def unseeded(spec, /):
    made = linear(spec)
    nn.init.normal_(made[-1].weight)
    return made


def maps_out(spec, /):
    return linear(spec)[:1].eval()


def always_training(spec, /):
    norm = getattr(nn, f"BatchNorm{spec.dimensions}d")
    made = linear(spec)
    layer = norm(4, track_running_stats=False)
    return nn.Sequential(made[0], layer, *made[1:]).eval()


# Datasets


def dataset(**faults):
    """A phantom whose attributes are replaced."""

    class Faulty:
        def __init__(self):
            self._inner = Phantom(cells=8, size=(24, 24))
            for name in ("table", "classes", "spec", "skipped", "left_out", "fingerprint"):
                setattr(self, name, getattr(self._inner, name))

        def read(self, rows, /):
            return self._inner.read(rows)

    made = Faulty()
    for name, fault in faults.items():
        setattr(made, name, partial(fault, made) if name == "read" else fault(made))
    return made


def renamed(made):
    return made.table.assign(id="same")


def numbers(made):
    return made.table.assign(id=range(8))


def labelled(made):
    return made.table.assign(label=5)


def taken(made):
    return made.table.assign(status="ok")


def backwards(made, rows):
    return made._inner.read(list(rows)[::-1])


def noisy(made, rows):
    found = made._inner.read(rows)
    return replace(found, inputs=found.inputs + np.random.default_rng().random())


def by_the_batch(made, rows):
    found = made._inner.read(rows)
    return replace(found, inputs=found.inputs / found.inputs.amax())


def on_time(made):
    return lambda: hex(id(object()) + np.random.default_rng().integers(1 << 60))[2:].zfill(16)


BROKEN = [
    ("method", one_layer, "maps fit", "returned maps for ['low'] where ['low', 'high']"),
    ("method", no_mapping, "maps fit", "returned a list; expected a mapping from layers to maps"),
    ("method", flat, "maps fit", "has the shape (4, 5, 120); expected (N, C, *s) with N = 4 and 2"),
    ("method", with_graph, "maps fit", "carries its graph"),
    ("method", over_the_batch, "a batch is its samples", "the cell 'c0-0' at 'low'"),
    ("method", random_map, "model left as found", "global random state of torch"),
    ("method", stateful, "the same again", "A second run must give the same"),
    ("method", hook_left, "model left as found", "it changed the hooks of low. Remove them"),
    ("method", weights_changed, "model left as found", "changed the weights of head.bias"),
    ("method", mode_changed, "model left as found", "changed the training mode of the model"),
    ("method", backward_used, "model left as found", "the gradients of low.weight"),
    ("method", in_integers, "float32 on cpu", "is torch.int64 for a model in float32"),
    ("method", raises, "maps fit", "raised ZeroDivisionError: oops (test_testing.py, line"),
    ("method", refuses, "is of use", "refuses 2D and 3D: No network suits it."),
    ("scorer", a_number, "a number a cell", "'score' is float; expected a tensor (4,), one number"),
    ("scorer", one_for_all, "a number a cell", "is a tensor (1,); expected a tensor (4,)"),
    ("scorer", in_integers_too, "a number a cell", "torch.int64; expected floating point"),
    ("scorer", with_epsilon, "undefined is NaN", "0 for a cell with the status 'no_positive_mass'"),
    ("scorer", with_epsilon, "scale of the map", "times the map"),
    ("scorer", infinite, "a number a cell", "'infinite' at 'input' is infinite; give NaN"),
    ("scorer", of_the_batch, "a batch is its samples", "of the cell 'c0-2'"),
    ("scorer", in_place, "scale of the map", "declares scale_free = False"),
    ("scorer", with_numpy_state, "model left as found", "global random state of numpy"),
    ("scorer", out_of_range, "a number a cell", "and its readings state 0 to 1"),
    ("scorer", needs_spacing, "without spacing", "which does not name it"),
    ("scorer", raises, "a number a cell", "takes 1 positional argument but 2 were given"),
    ("target", Whole(), "a scalar a cell", "a tensor (4, 3); expected a tensor (4,), one scalar"),
    ("target", AsText(), "a scalar a cell", "prepare(output, batch) gave list"),
    ("target", Detached(), "a gradient", "cannot be differentiated: no detach"),
    ("target", Centred(), "a batch is its samples", "of the cell 'c0-0'"),
    ("target", Nameless(), "a scalar a cell", "another one every time; make it a dataclass"),
    ("target", Half(), "a gradient", "cannot be differentiated"),
    ("target", 3, "a scalar a cell", "it has no prepare; a target is a class with"),
    ("model", no_network, "a model in eval mode", "gave a int; expected an nn.Module"),
    ("model", in_training, "a model in eval mode", "is in training mode; end with return"),
    ("model", unseeded, "the same again", "moved the global random state of torch"),
    ("model", maps_out, "a model in eval mode", "expected scores (N, K)"),
    ("model", always_training, "a batch is its samples", "In eval mode nothing may be taken over"),
    ("dataset", dataset(table=renamed), "a table of cells", "ids must be unique"),
    ("dataset", dataset(table=numbers), "a table of cells", "every id must be a text"),
    ("dataset", dataset(table=labelled), "a table of cells", "from -1 (unknown) to 1"),
    ("dataset", dataset(table=taken), "a table of cells", "['status'] are those of results"),
    ("dataset", dataset(read=backwards), "crops as stated", "in that order"),
    ("dataset", dataset(read=noisy), "the same again", "among others, then alone"),
    ("dataset", dataset(read=by_the_batch), "the same again", "a pixel of the cell"),
    ("dataset", dataset(fingerprint=on_time), "a fingerprint", "between two equal datasets"),
    ("dataset", 3, "a table of cells", "it has no table; see attrscore.core.contracts.Dataset"),
]


@pytest.mark.parametrize(("kind", "plugin", "check", "words"), BROKEN)
def test_a_broken_plugin_is_told_what_and_where(kind, plugin, check, words):
    if callable(plugin) and hasattr(plugin, "__code__") and plugin is not stateful:
        plugin = Configured(plugin)
    found = {}
    for each in [c for c in checks(kind) if c.name.startswith(check)] or checks(kind):
        try:
            each(plugin)
        except (NotConforming, UnsupportedError) as error:
            found[each.name] = str(error)
    if check == "is of use":
        found = {o.check: o.message for o in conformance(kind, plugin) if o.state == "broken"}
    told = found[next(name for name in found if name.startswith(check))]
    assert words in told
    if check != "is of use":
        assert told.startswith(f"{kind} '")


@pytest.mark.slow
def test_a_lambda_cannot_be_sent_to_another_process():
    with pytest.raises(NotConforming, match="Define it at the top level of a module"):
        assert_conforms("scorer", lambda heat, run: share(heat, run))


@pytest.mark.slow
def test_good_plugins_conform():
    assert_conforms("scorer", share)
    assert_conforms("method", cam)
    assert_conforms("target", Good)
    assert all(each.state == "holds" for each in conformance("scorer", "grad_camo", auc=False))


def test_wrong_questions_are_named():
    with pytest.raises(ConfigError, match="kind='scorers' is not a choice"):
        conformance("scorers", share)
    with pytest.raises(ConfigError, match="No scorer is called 'grad_cammo'"):
        conformance("scorer", "grad_cammo")
    with pytest.raises(ConfigError, match="'share' has no option 'region'"):
        conformance("scorer", share, region="cell")


@pytest.mark.slow
def test_what_refuses_3d_alone_is_no_fault():
    def flat_only(heat, run, /):
        if len(heat.space) == 3:
            raise UnsupportedError("3D is not supported.")
        return share(heat, run)

    states = {o.state for o in conformance("scorer", flat_only) if o.check != "pickles"}
    assert states == {"holds", "refused"}
