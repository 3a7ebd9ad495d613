"""What the autograd graph says: which operations lie between the score and the input.

Captum sees modules only; what a model does outside of them it gets wrong without a word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Calls", "activations", "calls", "kind_of", "listed", "nodes", "out_of_place"]

_ACTIVATIONS = re.compile(
    r"^(Celu|Elu|Gelu|Glu|Hardshrink|Hardsigmoid|Hardswish|Hardtanh|LeakyRelu|LogSigmoid|Mish|Prelu|"
    r"PreluKernel|Relu6|Rrelu|RreluWithNoise|Silu|Softplus|Softshrink|Tanh|Threshold)Backward"
)


def nodes(root: Any, /, *, stop: Collection[Any] = ()) -> Iterator[Any]:
    """Every node of the graph behind ``root``, once, but nothing from the nodes ``stop`` on."""
    seen, stack = set(stop), [root]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        stack.extend(parents(node))


def parents(node: Any, /) -> list[Any]:
    """Where the gradient of a node flows on to; None for an operand without gradient."""
    return [parent for parent, _ in node.next_functions]


def kind_of(node: Any, /) -> str:
    """What a node does: ``Relu``, ``Convolution``, ``MaxPool3DWithIndices``."""
    return re.sub(r"Backward\d*$", "", type(node).__name__)


def activations(root: Any, known: Collection[Any], /) -> list[str]:
    """The activations behind ``root`` other than the nodes ``known``, in words."""
    found = []
    for node in nodes(root):
        kind = type(node).__name__
        if kind.startswith("ReluBackward"):
            if node not in known:
                found.append("functional ReLU")
        elif _ACTIVATIONS.match(kind):
            if node not in known:
                found.append(kind_of(node))
        elif isinstance(node, torch.autograd.function.BackwardCFunction):
            found.append(f"custom autograd function {kind_of(node)}")
        elif kind.startswith("MulBackward") and _is_swish(parents(node)):
            found.append("x * sigmoid(x)")
    return found


def _is_swish(factors: list[Any]) -> bool:
    """Whether one factor is the sigmoid of the other, as in a SiLU written by hand."""
    for gate, other in (factors, factors[::-1]) if len(factors) == 2 else ():
        if type(gate).__name__.startswith("SigmoidBackward") and other is not None:
            return any(parent is other for parent in parents(gate))
    return False


def listed(names: Iterable[str], /) -> str:
    """``2 x Silu, 1 x Tanh``."""
    return ", ".join(f"{count} x {name}" for name, count in sorted(Counter(names).items()))


@dataclass
class Calls:
    """What some modules did on the forward passes inside :func:`calls`."""

    times: Counter[nn.Module] = field(default_factory=Counter)
    outputs: dict[Any, nn.Module] = field(default_factory=dict)
    """Last graph node of each call -> its module."""
    within: set[Any] = field(default_factory=set)
    """Every graph node that a call made."""


@contextmanager
def calls(modules: Iterable[nn.Module], /) -> Iterator[Calls]:
    """Record the calls of ``modules``, each with one tensor in and one out."""
    seen = Calls()

    def record(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        seen.times[module] += 1
        if isinstance(output, Tensor) and output.grad_fn is not None:
            into = [arg.grad_fn for arg in args if isinstance(arg, Tensor)]
            if output.grad_fn in into and not getattr(module, "inplace", False):
                return  # it does nothing, as dropout in eval mode
            seen.outputs[output.grad_fn] = module
            seen.within.update(nodes(output.grad_fn, stop=into))

    handles = [module.register_forward_hook(record) for module in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def out_of_place(model: nn.Module, /) -> Iterator[None]:
    """Inside, no module overwrites its input, which Captum's hooks could not bear."""
    changed = [module for module in model.modules() if getattr(module, "inplace", False) is True]
    try:
        for module in changed:
            module.inplace = False  # type: ignore[assignment]  # a plain attribute
        yield
    finally:
        for module in changed:
            module.inplace = True  # type: ignore[assignment]  # as above
