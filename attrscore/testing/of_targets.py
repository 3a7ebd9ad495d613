"""The contract of a target."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from attrscore.core.contracts import Batch, Target, single_targets
from attrscore.engine.run import run
from attrscore.errors import UnsupportedError
from attrscore.testing.contract import Check, Subject, left_as_found, nearly, pickles, require
from attrscore.testing.of_methods import DEVICES
from attrscore.testing.samples import batch, net


def _model(subject: Subject) -> nn.Module:
    """A model of scores, or a dense one where the target cannot work with those."""
    model = subject.model(subject.dimensions)
    data = batch(subject.dimensions)
    try:
        for target in single_targets(subject.plugin):
            target.prepare(model(data.inputs).detach(), data)
    except UnsupportedError:
        return net(subject.dimensions, dense=True)
    except Exception:  # noqa: BLE001  # a check says so
        return model
    return model


def _output(subject: Subject, data: Batch) -> Tensor:
    """What the model says of these crops, (N, 3), or (N, 3, *s) where the target takes no other."""
    with torch.no_grad():
        made: Tensor = _model(subject)(data.inputs)
        return made


def _value(target: Target, output: Tensor, data: Batch) -> Tensor:
    return target(output, target.prepare(output, data))


def a_scalar_a_cell(subject: Subject) -> None:
    """``prepare`` fixes (N, ...), the call gives (N,); both finite, under a name that stays."""
    data = batch(subject.dimensions)
    output = _output(subject, data)
    for part in ("prepare", "__call__"):
        require(
            callable(getattr(subject.plugin, part, None)),
            f"it has no {part}; a target is a class with prepare(output, batch) and "
            "__call__(output, aux).",
        )
    for target in single_targets(subject.plugin):
        aux = target.prepare(output, data)
        require(
            isinstance(aux, Tensor) and aux.ndim > 0 and len(aux) == len(data),
            f"prepare(output, batch) gave {_described(aux)}; expected a tensor ({len(data)}, ...), "
            "a row a cell.",
        )
        value = target(output, aux)
        require(
            isinstance(value, Tensor) and tuple(value.shape) == (len(data),),
            f"it gave {_described(value)}; expected a tensor ({len(data)},), one scalar a cell.",
        )
        require(value.isfinite().all(), f"it is {value.tolist()} for ordinary outputs.")
        require(
            not re.search(r" at 0x|\n", str(target)),
            f"its name in the results would be {str(target)!r}, another one every time; make it a "
            "dataclass, or give it a __str__.",
        )


def _described(value: object) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def a_gradient(subject: Subject) -> None:
    """The scalar can be differentiated, and depends on the model."""
    data = batch(subject.dimensions)
    for target in single_targets(subject.plugin):
        aux = target.prepare(_output(subject, data), data)
        output = _output(subject, data).requires_grad_()
        value = target(output, aux)
        require(
            value.requires_grad,
            "it cannot be differentiated: no detach, no item, no numpy, no argmax in __call__; "
            "what is to be fixed belongs into prepare.",
        )
        (gradient,) = torch.autograd.grad(value.sum(), output, allow_unused=True)
        require(
            gradient is not None and gradient.isfinite().all() and (gradient != 0).any(),
            "its gradient with respect to the output is zero, missing or not finite.",
        )


def a_batch_is_its_samples(subject: Subject) -> None:
    """No cell's scalar depends on the cells that share its batch."""
    data = batch(subject.dimensions)
    output = _output(subject, data)
    for target in single_targets(subject.plugin):
        together = _value(target, output, data)
        for i in range(len(data)):
            nearly(
                _value(target, output[i : i + 1], data.rows(i, i + 1)),
                together[i : i + 1],
                f"the scalar of the cell '{data.ids[i]}', in a batch of four, then alone,",
                "Nothing may be taken over the batch.",
                within=1e-9,
            )


def bad_cells_spoil_no_other(subject: Subject) -> None:
    """An output that is NaN stays in its row."""
    data = batch(subject.dimensions)
    output = _output(subject, data)
    spoilt = output.clone()
    spoilt[1] = torch.nan
    others = [0, 2, 3]
    for target in single_targets(subject.plugin):
        nearly(
            _value(target, spoilt, data)[others],
            _value(target, output, data)[others],
            "the scalar of good cells, alone, then beside one that is NaN,",
            "Nothing may be taken over the batch.",
        )


def it_can_be_explained(subject: Subject) -> None:
    """Grad-CAM towards it, the same again, the model and the random states left as found."""
    data = batch(subject.dimensions)
    model = _model(subject)
    options: dict[str, Any] = {
        "layers": "high",
        "target": subject.plugin,
        "keep": "native",
        "on_error": "raise",
    }
    with left_as_found(model):
        first = list(run(model, data, **options))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20)
        second = list(run(model, data, **options))
    for one, two in zip(first, second, strict=True):
        what = f"the map towards {one.target}, once, then once more,"
        nearly(two.maps, one.maps, what, "Draw from a generator of a fixed seed.", within=0)


def _device_and_dtype(subject: Subject, where: str) -> None:
    data = batch(subject.dimensions).to(where)
    data = replace(data, inputs=data.inputs.float())
    output = _output(subject, batch(subject.dimensions)).to(where, torch.float32)
    for target in single_targets(subject.plugin):
        value = _value(target, output, data)
        require(
            value.is_floating_point() and value.device.type == where,
            f"it is {value.dtype} on {value.device} for outputs in float32 on {where}; make new "
            "tensors with output.new_tensor, or .to(output).",
        )


CHECKS = (
    Check("target", "a scalar a cell", a_scalar_a_cell),
    Check("target", "a gradient", a_gradient),
    Check("target", "a batch is its samples", a_batch_is_its_samples),
    Check("target", "bad cells spoil no other", bad_cells_spoil_no_other),
    Check("target", "explained by Grad-CAM, the same again", it_can_be_explained),
    *(
        Check("target", f"float32 on {where}", partial(_device_and_dtype, where=where))
        for where in DEVICES
    ),
    Check("target", "pickles", pickles, once=True),
)
