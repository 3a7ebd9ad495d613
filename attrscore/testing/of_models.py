"""The contract of a model: what builds a model for a dataset."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from attrscore.core.contracts import Batch, InputSpec
from attrscore.engine.run import run
from attrscore.errors import LayerError
from attrscore.models.weights import fingerprint
from attrscore.testing.contract import (
    Check,
    NotConforming,
    Subject,
    nearly,
    pickles,
    random_states_kept,
    require,
)
from attrscore.testing.of_methods import DEVICES

SPECS = {2: InputSpec(3, (48, 48), 2), 3: InputSpec(3, (32, 32, 32), 2)}


def _built(subject: Subject) -> nn.Module:
    made = subject.plugin(SPECS[subject.dimensions])
    require(
        isinstance(made, nn.Module),
        f"called with what a dataset holds it gave a {type(made).__name__}; expected an nn.Module.",
    )
    return made  # type: ignore[no-any-return]  # required above


def _crops(subject: Subject, n: int = 3) -> Tensor:
    spec = SPECS[subject.dimensions]
    generator = torch.Generator().manual_seed(0)
    return torch.rand((n, spec.channels, *spec.size), generator=generator)


def _scores(model: nn.Module, inputs: Tensor) -> Tensor:
    """(N, K): the output, or the first item of it that is one."""
    with torch.no_grad():
        made = model(inputs)
    items = list(made.values()) if isinstance(made, Mapping) else made
    for item in [items] if isinstance(items, Tensor) else items:
        if isinstance(item, Tensor) and item.ndim == 2 and len(item) == len(inputs):
            return item
    shape = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
    raise NotConforming(f"it gives {shape} for {len(inputs)} crops; expected scores (N, K).")


def a_model(subject: Subject) -> None:
    """An nn.Module in eval mode that gives (N, K), without hooks."""
    model = _built(subject)
    training = [name or "itself" for name, module in model.named_modules() if module.training]
    require(not training, f"{training[:3]} is in training mode; end with return model.eval().")
    hooked = [name for name, each in model.named_modules() if each._forward_hooks]
    require(not hooked, f"there are hooks on {hooked[:3]}; a model comes without.")
    scores = _scores(model, _crops(subject))
    require(scores.isfinite().all(), "its scores of crops within [0, 1] are not finite.")


def the_same_again(subject: Subject) -> None:
    """Two models of the same options have the same weights; the random states stay."""
    with random_states_kept():
        first = _built(subject)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20)
        second = _built(subject)
    require(
        fingerprint(first) == fingerprint(second),
        "two models of the same options have different weights: give it an option seed, or load "
        "weights.",
    )


def a_batch_is_its_samples(subject: Subject) -> None:
    """In eval mode no cell's scores depend on the others."""
    model, inputs = _built(subject), _crops(subject)
    together = _scores(model, inputs)
    for i in range(len(inputs)):
        nearly(
            _scores(model, inputs[i : i + 1]),
            together[i : i + 1],
            f"the scores of crop {i}, in a batch of three, then alone,",
            "In eval mode nothing may be taken over the batch.",
            within=1e-4,
        )


def it_can_be_explained(subject: Subject) -> None:
    """Grad-CAM at a layer, and saliency at the input, on a copy such as ``precision`` makes."""
    inputs = _crops(subject)
    cell = torch.zeros(len(inputs), *inputs.shape[2:], dtype=torch.bool)
    cell[(slice(None), *[slice(8, 24)] * subject.dimensions)] = True
    data = Batch(inputs=inputs, regions={"cell": cell})
    model = copy.deepcopy(_built(subject))
    options: dict[str, Any] = {"methods": ["grad_cam", "saliency"], "output": _item(model, inputs)}
    try:
        results = list(run(model, data, layers="last_conv", **options))
    except LayerError:
        results = list(run(model, data, layers="blocks", **options))
    for result in results:
        states = set(map(str, result.columns["status"]))
        require(
            not states & {"error", "nonfinite", "unsupported"},
            f"{result.method} cannot explain it at '{result.layer}': {result.columns['reason'][0]}",
        )


def _item(model: nn.Module, inputs: Tensor) -> str | int | None:
    """Which item of the output holds the scores, as ``output=`` says it."""
    with torch.no_grad():
        made = model(inputs)
    if isinstance(made, Tensor):
        return None
    scores = _scores(model, inputs)
    pairs = made.items() if isinstance(made, Mapping) else enumerate(made)
    return next(
        key for key, each in pairs if isinstance(each, Tensor) and each.shape == scores.shape
    )


def _devices(subject: Subject, where: str) -> None:
    model = _built(subject).to(where)
    scores = _scores(model, _crops(subject).to(where))
    require(
        scores.device.type == where,
        f"its scores lie on {scores.device} after model.to('{where}'); register what it holds as "
        "buffers.",
    )


CHECKS = (
    Check("model", "a model in eval mode", a_model),
    Check("model", "the same again", the_same_again),
    Check("model", "a batch is its samples", a_batch_is_its_samples),
    Check("model", "explained by Grad-CAM and saliency", it_can_be_explained),
    *(Check("model", f"on {where}", partial(_devices, where=where)) for where in DEVICES),
    Check("model", "pickles", pickles, once=True),
)
