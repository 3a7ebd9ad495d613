"""A copy of a network that gives the same scores in less time.

BatchNorm is folded into the convolution before it, and the weights are laid out channels last
where a probe shows that to be faster: on a CPU it is in 2D, and the opposite in 3D.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from attrscore.core.contracts import INPUT, Batch
from attrscore.core.network import as_found
from attrscore.core.registry import SCORERS
from attrscore.core.wrappers import SealedNetwork, device_of, unwrap
from attrscore.engine.run import run

__all__ = ["Tuned", "fold_batch_norm", "tune"]

TOLERANCE = 1e-5
"""A faster network is taken where no score of the probe changes by more."""

CLEARLY = 0.95
"""A memory format is changed where a batch then takes at most this share of the time."""

_FORMATS = {4: "channels_last", 5: "channels_last_3d"}
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)  # not their subclasses, which may change their weights


@dataclass(frozen=True)
class Tuned:
    """A network to be used instead of another, and what was found."""

    model: nn.Module
    """A copy in eval mode; the network that was given is as it was."""
    folded: int
    """How many BatchNorm layers were folded; they are ``nn.Identity`` in the copy."""
    memory_format: str
    """``as given``, ``channels_last`` or ``channels_last_3d``."""
    ratio: float
    """Time that a batch takes, over that of the network as given."""
    difference: float
    """Largest change of a score on the cells of the probe."""

    def __str__(self) -> str:
        """One sentence for the log."""
        return (
            f"{self.folded} BatchNorm layers folded, memory format {self.memory_format}: a batch "
            f"takes {self.ratio:.2f} of the time, scores of the probe change by at most "
            f"{self.difference:.0e}."
        )


def tune(model: nn.Module, batch: Batch, /, **options: Any) -> Tuned:
    """A faster copy of ``model`` for results computed with these ``options`` of ``run``.

    What changes a score of the first two cells by more than 1e-5, computed with the methods and
    scorers asked for, or their status, is left as given. Folding does not depend on timing; the
    memory format does, so two machines may choose differently, within that tolerance. Costs about
    a dozen passes of ``batch``, which should be as large as the batches to come, and every method
    on two cells up to four times.
    """
    model = unwrap(model)
    if isinstance(model, SealedNetwork):
        return Tuned(model, 0, "as given", 1.0, 0.0)
    batch = batch.to(device_of(model))
    few = batch.rows(0, min(2, len(batch)))
    expected = _scores(model, few, options)
    layers = {layer for _, layer in expected}

    found, folded = fold_batch_norm(model, few, keep=layers)
    difference = _difference(expected, _scores(found, few, options)) if folded else 0.0
    if difference > TOLERANCE:
        found, folded, difference = copy.deepcopy(model).eval(), 0, 0.0

    name = _FORMATS[batch.inputs.ndim]
    other = copy.deepcopy(found)
    other.to(memory_format=getattr(torch, name))  # type: ignore[call-overload]  # torch's stub
    changed = _difference(expected, _scores(other, few, options))
    contestants = [model, found, *([other] if changed <= TOLERANCE else [])]
    given, *seconds = _seconds(contestants, batch, options, layers)
    if len(seconds) == 2 and seconds[1] < CLEARLY * min(given, seconds[0]):
        return Tuned(other, folded, name, seconds[1] / given, changed)
    return Tuned(found, folded, "as given", seconds[0] / given, difference)


def fold_batch_norm(
    model: nn.Module, batch: Batch, /, *, keep: Collection[str] = ()
) -> tuple[nn.Module, int]:
    """A copy in eval mode whose convolutions do their BatchNorm too, and how many do.

    Where a convolution's output goes into one BatchNorm and nowhere else, and no layer of ``keep``
    puts it out. Read from the graph of one forward pass on a cell of ``batch``.
    """
    pairs = _pairs(model, batch.rows(0, 1), keep)
    model = copy.deepcopy(model).eval()
    for convolution, norm in pairs:
        first, second = model.get_submodule(convolution), model.get_submodule(norm)
        fused = fuse_conv_bn_eval(cast("nn.Conv2d", first), cast("_BatchNorm", second))
        _replace(model, convolution, fused)
        _replace(model, norm, nn.Identity())
    return model, len(pairs)


def _pairs(model: nn.Module, cell: Batch, keep: Collection[str]) -> list[tuple[str, str]]:
    """Names of convolutions and of the BatchNorm behind each that can be one."""
    made: dict[int, tuple[str, Tensor, int]] = {}
    runs: Counter[str] = Counter()
    candidates: list[tuple[str, str, Tensor]] = []
    kept: list[Tensor] = []

    def watch(name: str, module: nn.Module) -> None:
        def hook(_module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            runs[name] += 1
            if name in keep:
                kept.append(output)
            if type(module) in _CONVOLUTIONS:
                made[id(output)] = (name, output, output._version)
            elif isinstance(module, _BatchNorm) and module.running_mean is not None:
                before, tensor, version = made.get(id(args[0]), ("", None, 0))
                if tensor is not None and version == tensor._version:
                    candidates.append((before, name, tensor))

        if name in keep or type(module) in _CONVOLUTIONS or isinstance(module, _BatchNorm):
            module.register_forward_hook(hook)

    with as_found(model):  # which takes the hooks away
        for name, module in model.named_modules():
            watch(name, module)
        output = model(cell.inputs.detach().clone().requires_grad_(), *cell.others)
    uses = _uses([each.grad_fn for each in _tensors(output)])
    return [
        (convolution, norm)
        for convolution, norm, tensor in candidates
        if runs[convolution] == runs[norm] == 1
        and uses[tensor.grad_fn] == 1
        and not any(each is tensor for each in kept)
    ]


def _uses(roots: Sequence[Any]) -> Counter[Any]:
    """How often each node of an autograd graph is the input of another."""
    uses: Counter[Any] = Counter()
    seen, stack = set(), list(roots)
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        parents = [parent for parent, _ in node.next_functions if parent is not None]
        uses.update(parents)
        stack.extend(parents)
    return uses


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping | Sequence) and not isinstance(output, str):
        for each in output.values() if isinstance(output, Mapping) else output:
            yield from _tensors(each)


def _replace(model: nn.Module, name: str, by: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, by)


_Scores = dict[tuple[str, str], dict[str, np.ndarray]]


def _scores(model: nn.Module, batch: Batch, options: Mapping[str, Any]) -> _Scores:
    """Method, layer -> the status and what each scorer gave as its score."""
    names = list(SCORERS.resolve(options.get("scorers", "grad_camo")))
    return {
        (result.method, result.layer): {
            name: result.columns[name] for name in ("status", *names) if name in result.columns
        }
        for result in run(model, batch, **options)
    }


def _difference(expected: _Scores, found: _Scores) -> float:
    """The largest change of a score, relative where it is above 1; infinite for another status."""
    largest = 0.0
    for place, columns in expected.items():
        others = found.get(place, {})
        if columns.keys() != others.keys() or (columns["status"] != others["status"]).any():
            return np.inf
        for name in columns.keys() - {"status"}:
            before, after = columns[name], others[name]
            if (np.isnan(before) != np.isnan(after)).any():
                return np.inf
            change = np.abs(after - before) / np.maximum(1, np.abs(before))
            largest = max(largest, float(np.nan_to_num(change).max(initial=0)))
    return largest


def _seconds(
    models: Sequence[nn.Module],
    batch: Batch,
    options: Mapping[str, Any],
    layers: Collection[str],
) -> list[float]:
    """Seconds of two batches each, taking turns; the better of two times.

    CPU time, which other processes of the machine hardly change; wall time on an accelerator.
    """
    method = "saliency" if layers == {INPUT} else "grad_cam"
    plain = {**options, "methods": method, "scorers": _mass}
    clock = time.perf_counter if batch.inputs.is_cuda else time.process_time

    def once(model: nn.Module) -> float:
        _finish(batch)
        start = clock()
        for _ in run(model, [batch, batch], **plain):
            pass
        _finish(batch)
        return clock() - start

    rounds = [[once(model) for model in models] for _ in range(2)]
    return [min(taken) for taken in zip(*rounds, strict=True)]


def _mass(heat: Any, _run: Any, /) -> Tensor:
    total: Tensor = heat.mass()
    return total


def _finish(batch: Batch) -> None:
    """Wait for an accelerator, which works while Python goes on."""
    if batch.inputs.is_cuda:
        torch.cuda.synchronize()
