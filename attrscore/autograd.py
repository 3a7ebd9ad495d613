"""One forward pass in torch's autograd graph, and gradients through it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Graph", "Recorded", "gradients_of", "relu_nodes"]


class Graph(NamedTuple):
    """The forward pass of a batch, to be differentiated again by rules of one's own."""

    inputs: Tensor
    scalar: Tensor
    """The explained score, (N,); differentiate it with ``retain_graph=True``."""
    relus: frozenset[Any]
    """The node of each call of an ``nn.ReLU`` module."""


class Recorded(NamedTuple):
    """One forward pass in the autograd graph."""

    sources: dict[str, Tensor]
    """Outputs of the layers as they put them out, and the inputs where their gradient is asked."""
    output: Tensor
    inputs: Tensor
    relus: frozenset[Any]


def gradients_of(
    scalars: Sequence[Tensor], sources: Mapping[str, Tensor], *, last: bool = True
) -> list[Sequence[Tensor | None]]:
    """Of each scalar, its gradients with respect to the sources; None where it depends on none.

    The graph can be used again unless these are the ``last``.
    """
    live = [scalar for scalar in scalars if scalar.requires_grad]
    if not live or not sources:
        return [[None] * len(sources) for _ in scalars]
    inputs = list(sources.values())
    if len(scalars) == 1:
        return [torch.autograd.grad(scalars[0], inputs, retain_graph=not last, allow_unused=True)]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")
            together = torch.autograd.grad(
                torch.stack(list(scalars)),
                inputs,
                torch.eye(len(scalars), device=scalars[0].device, dtype=scalars[0].dtype),
                allow_unused=True,
                retain_graph=True,
                is_grads_batched=True,
            )
    except RuntimeError:  # an operation that torch cannot vectorise
        return [
            torch.autograd.grad(scalar, inputs, allow_unused=True, retain_graph=True)
            for scalar in scalars
        ]
    return [[None if each is None else each[i] for each in together] for i in range(len(scalars))]


@contextmanager
def relu_nodes(model: nn.Module) -> Iterator[set[Any]]:
    """The graph node of each call of an ``nn.ReLU`` module inside."""
    found: set[Any] = set()

    def remember(_module: nn.Module, _args: Any, output: Tensor) -> None:
        found.add(output.grad_fn)

    relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    handles = [module.register_forward_hook(remember) for module in relus]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
        found.discard(None)
