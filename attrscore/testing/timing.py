"""How long a plugin takes beside one of ours: told, never judged."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from attrscore.core.contracts import Batch, InputSpec, single_targets
from attrscore.core.grids import grids_of
from attrscore.core.heat import Heat
from attrscore.core.passes import Pass
from attrscore.core.registry import METHODS, MODELS, SCORERS
from attrscore.engine.attribution import new_pass
from attrscore.engine.run import run
from attrscore.targets import Predicted

__all__ = ["speed"]


def speed(kind: str, plugin: Any, /) -> str:
    """A sentence: on crops of 64 pixels for methods, scorers and targets, else of its own."""
    if kind == "dataset":
        rows = range(min(64, len(plugin.table)))
        took = _seconds(lambda: plugin.read(rows))
        return f"reads {len(rows) / took:.0f} cells a second"
    data = _crops()
    spec = InputSpec(3, data.space, 2)
    ours = MODELS.build("tiny_cnn")(spec)
    if kind == "model":
        theirs = plugin(spec)
        with torch.no_grad():
            took, usual = (_seconds(lambda m=m: m(data.inputs)) for m in (theirs, ours))  # type: ignore[misc]  # bound at once
        return f"{_times(took / usual)} times as long as tiny_cnn for a batch"
    options: dict[str, Any] = {"layers": ["features.3"], "pool": data, "scorers": "grad_camo"}

    def timed(**changed: Any) -> float:
        return _seconds(lambda: list(run(ours, data, **{**options, **changed})))

    if kind == "scorer":
        took, usual = (_of_scorer(s, ours, data) for s in (plugin, SCORERS.build("grad_camo")))
        return f"{_times(took / usual)} times as long as grad_camo for a map"
    told = "grad_cam, both with grad_camo" if kind == "method" else "predicted"
    took = timed(methods={"it": plugin}) if kind == "method" else timed(target=plugin)
    usual = timed()
    count = len(single_targets(plugin)) if kind == "target" else 1
    return f"{_times(took / usual / count)} times as long as {told} for a batch"


def _crops() -> Batch:
    generator = torch.Generator().manual_seed(0)
    cell = torch.zeros(8, 64, 64, dtype=torch.bool)
    cell[:, 20:44, 20:40] = True
    nucleus, neighbours = torch.zeros_like(cell), torch.zeros_like(cell)
    nucleus[:, 28:36, 26:34], neighbours[:, :12, :12] = True, True
    return Batch(
        inputs=torch.rand((8, 3, 64, 64), generator=generator),
        regions={"cell": cell, "nucleus": nucleus, "neighbours": neighbours},
        label=torch.arange(8) % 2,
        spacing=(0.5, 0.5),
    )


def _of_scorer(scorer: Any, model: nn.Module, data: Batch) -> float:
    """Seconds for the maps of a batch; nothing is known of another time."""
    method, layer = METHODS.build("grad_cam"), "features.3"

    def passed() -> Pass:
        layers = {layer: model.get_submodule(layer)}
        return new_pass(model, data, Predicted(), layers, {"": method}, pool=data)

    (signed,) = method(passed()).values()

    def work() -> None:
        grids = grids_of(data, "linear")
        scorer(Heat(signed, data.space, grids=grids, method=method, layer=layer), passed())

    return _seconds(work)


def _times(ratio: float) -> str:
    """Two digits.

    >>> _times(0.034), _times(234.0)
    ('0.034', '230')
    """
    return f"{float(f'{ratio:.2g}'):g}"


def _seconds(work: Callable[[], Any]) -> float:
    """The best of five, after one to warm up."""
    work()
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best
