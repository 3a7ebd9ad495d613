"""The contract of a method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from attrscore.core.contracts import INPUT, Batch
from attrscore.core.passes import Pass
from attrscore.engine.attribution import explains_layers, new_pass
from attrscore.engine.run import run
from attrscore.testing.contract import Check, Subject, left_as_found, nearly, pickles, require
from attrscore.testing.samples import batch, pool

LAYERS = ("low", "high")


def _pass(subject: Subject, data: Batch, dtype: torch.dtype = torch.float64) -> Pass:
    from attrscore.targets import Predicted

    model = subject.model(subject.dimensions).to(data.inputs.device, dtype)
    layers = {name: model.get_submodule(name) for name in LAYERS}
    others = pool(subject.dimensions).to(data.inputs.device)
    others = replace(others, inputs=others.inputs.to(dtype))
    return new_pass(model, data, Predicted(), layers, {"": subject.plugin}, pool=others)


def _maps(subject: Subject, data: Batch) -> dict[str, np.ndarray]:
    """Layer -> maps, through the engine, which stops at the first error."""
    found = run(
        subject.model(subject.dimensions),
        data,
        methods={subject.name: subject.plugin},
        layers=LAYERS,
        keep="native",
        on_error="raise",
        pool=pool(subject.dimensions),
    )
    return {result.layer: result.maps for result in found if result.maps is not None}


def maps_fit(subject: Subject) -> None:
    """Maps are signed tensors (N, C, *s) by layer, without a graph."""
    data = batch(subject.dimensions)
    maps = subject.plugin(_pass(subject, data))
    require(
        isinstance(maps, Mapping),
        f"it returned a {type(maps).__name__}; expected a mapping from layers to maps.",
    )
    expected = list(LAYERS) if explains_layers(subject.plugin) else [INPUT]
    require(
        list(maps) == expected,
        f"it returned maps for {list(maps)} where {expected} were asked for. Return one for every "
        "layer in run.layers; a method whose maps live on the input declares explains = 'input'.",
    )
    for layer, signed in maps.items():
        require(
            isinstance(signed, Tensor),
            f"the map of '{layer}' is a {type(signed).__name__}; expected a tensor (N, C, *s).",
        )
        require(
            signed.ndim == data.inputs.ndim and len(signed) == len(data),
            f"the map of '{layer}' has the shape {tuple(signed.shape)}; expected (N, C, *s) with "
            f"N = {len(data)} and {subject.dimensions} spatial axes.",
        )
        require(
            layer != INPUT or tuple(signed.shape[2:]) == data.space,
            f"the map of the input has the grid {tuple(signed.shape[2:])}; expected {data.space}.",
        )
        require(
            not signed.requires_grad,
            f"the map of '{layer}' still carries its graph, which would stay in memory; detach it.",
        )


def a_batch_is_its_samples(subject: Subject) -> None:
    """No cell's map depends on the cells that share its batch."""
    data = batch(subject.dimensions)
    together = _maps(subject, data)
    for i in range(len(data)):
        for layer, alone in _maps(subject, data.rows(i, i + 1)).items():
            nearly(
                alone,
                together[layer][i : i + 1],
                f"the map of the cell '{data.ids[i]}' at '{layer}'",
                "Nothing may be taken over the batch: not a mean, not a maximum, not one draw.",
                within=1e-8,
            )


def the_same_again(subject: Subject) -> None:
    """Equal maps whatever was drawn before."""
    data = batch(subject.dimensions)
    first = _maps(subject, data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20)
        second = _maps(subject, data)
    for layer, maps in first.items():
        nearly(
            second[layer],
            maps,
            f"the map at '{layer}'",
            "A second run must give the same: draw from a generator of a fixed seed.",
            within=0,
        )


def left_as_it_was(subject: Subject) -> None:
    """Flags, hooks, gradients, weights and random states of before."""
    data = batch(subject.dimensions)
    model = subject.model(subject.dimensions)
    model.get_parameter("low.weight").requires_grad = False
    head = model.get_parameter("head.weight")
    head.grad = torch.ones_like(head)
    # The engine would put most of it back: the method is asked alone first.
    with left_as_found(model):
        subject.plugin(_pass(replace(subject, model=lambda _: model), data))
    model.train()
    model.get_submodule("act1").eval()
    with left_as_found(model):
        _maps(replace(subject, model=lambda _: model), data)


def bad_cells_spoil_no_other(subject: Subject) -> None:
    """NaN pixels and a blank crop, each in a cell of its own."""
    data = batch(subject.dimensions)
    inputs = data.inputs.clone()
    inputs[1, ..., 0] = torch.nan
    inputs[2] = 0
    clean, dirty = (_maps(subject, each) for each in (data, replace(data, inputs=inputs)))
    for layer, maps in clean.items():
        nearly(
            dirty[layer][[0, 3]],
            maps[[0, 3]],
            f"the map at '{layer}' beside a cell with NaN and a blank one",
            "Nothing may be taken over the batch.",
        )


def _device_and_dtype(subject: Subject, where: str) -> None:
    data = batch(subject.dimensions).to(where)
    data = replace(data, inputs=data.inputs.float())
    for layer, signed in subject.plugin(_pass(subject, data, torch.float32)).items():
        require(
            signed.is_floating_point(),
            f"the map of '{layer}' is {signed.dtype} for a model in float32; expected floating "
            "point.",
        )
        require(
            signed.device.type == where,
            f"the map of '{layer}' lies on {signed.device} for a model on {where}; make new "
            "tensors with device=run.batch.inputs.device.",
        )


def a_check_lets_pass(subject: Subject) -> None:
    """``check``, where there is one, accepts what the method can explain."""
    behind = getattr(subject.plugin, "function", subject.plugin)
    check = getattr(subject.plugin, "check", getattr(behind, "check", None))
    if check is None:
        return
    data = batch(subject.dimensions)
    subject.plugin(_pass(subject, data))  # UnsupportedError: nothing to be let pass
    one = _pass(subject, data.rows(0, 1))
    with left_as_found(one.model):
        require(check(one) is None, "check(run) must return nothing, or raise UnsupportedError.")


DEVICES = ("cpu", *(["cuda"] if torch.cuda.is_available() else []))

CHECKS = (
    Check("method", "maps fit", maps_fit),
    Check("method", "a batch is its samples", a_batch_is_its_samples),
    Check("method", "the same again", the_same_again),
    Check("method", "model left as found", left_as_it_was),
    Check("method", "bad cells spoil no other", bad_cells_spoil_no_other),
    *(
        Check("method", f"float32 on {where}", partial(_device_and_dtype, where=where))
        for where in DEVICES
    ),
    Check("method", "check lets pass", a_check_lets_pass),
    Check("method", "pickles", pickles, once=True),
)
