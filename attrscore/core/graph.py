"""What the autograd graph says: which operations lie between the score and the input.

Captum sees modules only; what a model does outside of them it gets wrong without a word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "Calls",
    "Severed",
    "beyond_linear",
    "calls",
    "kind_of",
    "listed",
    "nodes",
    "out_of_place",
    "parents",
]

_LINEAR = {
    *("AccumulateGrad", "Add", "Addmm", "Alias", "AsStrided", "Cat", "Clone", "Col2Im"),
    *("ConstantPadNd", "Convolution", "CopySlices", "CudnnBatchNorm", "CudnnConvolution"),
    *("Expand", "Flip", "Gather", "Im2Col", "Index", "IndexSelect", "Mean", "MiopenBatchNorm"),
    *("MkldnnConvolution", "Mv", "NativeBatchNorm", "Neg", "Permute", "PixelShuffle"),
    *("PixelUnshuffle", "Repeat", "ReshapeAlias", "Roll", "Rsub", "Select", "Slice", "Split"),
    *("SplitWithSizes", "Squeeze", "Stack", "Sub", "Sum", "T", "Transpose", "ToCopy", "Unbind"),
    *("UnsafeSplit", "UnsafeView", "Unsqueeze", "View"),
}
"""Graph nodes that are linear in all of their operands together, up to a constant."""

_LINEAR_BEGINNINGS = ("AdaptiveAvgPool", "AvgPool", "Reflection", "Replication", "Upsample")

_PRODUCTS = ("Mul", "Div", "Mm", "Bmm", "Dot")
"""Linear where only one operand depends on the input."""


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


def beyond_linear(
    root: Any, known: Collection[Any], /, *, beside: tuple[str, ...] = ()
) -> list[Any]:
    """The nodes behind ``root`` that are not linear, but those ``known``.

    Nor those whose kind begins as one of ``beside``.
    """
    allowed = (*_LINEAR_BEGINNINGS, *beside)
    return [
        node
        for node in nodes(root)
        if node not in known and not (_is_linear(node) or kind_of(node).startswith(allowed))
    ]


def _is_linear(node: Any) -> bool:
    kind = kind_of(node)
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        return False  # whatever its name
    if kind in _PRODUCTS:
        depend = [parent for parent in parents(node) if parent is not None]
        return len(depend) == 1 and not (kind == "Div" and parents(node)[0] is None)
    return kind in _LINEAR


_FILLED = re.compile(r"_like$|^new_")
"""Operations that take a shape and a type from a tensor, not its values."""


_BESIDE = {"add", "cat", "copy", "rsub", "stack", "sub"}
"""What puts values beside others and gates none: a shortcut by ``.data`` has no gradient in torch
either."""


class Severed(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Finds where values of the input that carry no gradient gate those that do.

    ``x * (x > 0)`` is a ReLU, of which the graph shows a product with a constant. Nor does the
    graph show what was done to a slice in place: ``x[:, :2].relu_()``. ``found`` names both.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.found: list[str] = []
        self._made: dict[int, Tensor] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        _types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = func.__name__.partition(".")[0]
        given = list(_tensors(args))
        carry = [each for each in given if each.requires_grad]
        severed = any(id(each) in self._made and not each.requires_grad for each in given)
        if not torch.is_grad_enabled():
            pass  # what comes of it carries no gradient either
        elif carry and severed and name.rstrip("_") not in _BESIDE:
            self.found.append(f"{name} with values that carry no gradient")
        elif carry and name.endswith("_") and args[0]._is_view() and not _is_linear_in(name, carry):
            self.found.append(f"{name} on a slice")
        made = func(*args, **(kwargs or {}))
        if (carry or severed) and not _FILLED.search(name):
            self._made |= {id(each): each for each in _tensors((made,))}
        return made


def _is_linear_in(name: str, carry: list[Tensor]) -> bool:
    """Whether an operation in place is linear in the tensors that depend on the input."""
    scaled = name in ("div_", "mul_") and len(carry) == 1
    return scaled or name in ("add_", "copy_", "fill_", "sub_", "zero_")


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


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
