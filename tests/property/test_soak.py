"""A thousand batches: memory stays flat, and nothing stays behind in the network."""

from __future__ import annotations

import gc
import resource
import sys

import torch
from nets import batch, net

from attrscore.core.registry import METHODS
from attrscore.engine.run import run

BATCHES, WARM = 1000, 200
CHEAP = [
    entry.name
    for entry in METHODS.entries()
    if entry.alias_of is None
    and METHODS.load(entry.name).__module__
    in ("attrscore.methods.cams", "attrscore.methods.gradients")
]
GROWTH = 8 * 2**20
"""Bytes by which the peak may still rise; leaked tensors are counted, however small."""


def peak() -> int:
    """Bytes; macOS counts them, Linux counts kibibytes."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def tensors() -> int:
    gc.collect()
    return sum(type(each) is torch.Tensor for each in gc.get_objects())


def test_a_thousand_batches_leave_nothing_behind():
    model = net(inplace=True)
    seen = 0
    at_warm: tuple[int, int] = (0, 0)

    def stream():
        nonlocal seen, at_warm
        for seen in range(BATCHES):
            if seen == WARM:
                at_warm = tensors(), peak()
            yield batch(n=1, seed=seen)

    rows = sum(
        len(result) for result in run(model, stream(), methods=CHEAP, layers="high", scorers=_mass)
    )
    assert rows == BATCHES * len(CHEAP)
    assert tensors() <= at_warm[0]
    assert peak() - at_warm[1] < GROWTH
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks
        assert not module._backward_pre_hooks


def _mass(heat, run, /):
    return heat.mass(run.batch.regions["cell"]) / heat.mass()
