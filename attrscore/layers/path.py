"""The main path: the layers through which everything passes on its way to the output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attrscore.layers.layouts import hidden_state
from attrscore.layers.measuring import watching
from attrscore.layers.tracing import LayerInfo
from attrscore.layers.wrappers import call

__all__ = ["main_path"]


def main_path(
    model: nn.Module,
    ran: Sequence[LayerInfo],
    inputs: Tensor,
    /,
    *others: Tensor,
    output: str | int | None = None,
) -> set[str]:
    """Names of the layers that every way from the image to the output goes through.

    No layer of a branch or inside a residual block is among them, and none whose grid the output
    does not depend on, as the patches of a vision transformer behind its last attention, where only
    the class token counts. ``output`` is the item that holds the scores. One forward and one
    backward pass of noise. Empty where no gradient reaches the image.
    """
    grids = {info.name: info for info in ran if info.wide and info.calls == 1}
    kept: dict[str, tuple[Tensor, Any]] = {}

    def see(name: str, found: Any) -> None:
        hidden = hidden_state(found)
        if hidden is not None and hidden.requires_grad:
            kept[name] = hidden, hidden.grad_fn  # the node as it is before any in-place change

    generator = torch.Generator().manual_seed(0)
    with torch.enable_grad():
        drawn = torch.randn(inputs.shape, generator=generator, dtype=torch.float64)
        image = drawn.to(inputs).requires_grad_()  # a black crop would pass no ReLU
        modules = {name: info.module for name, info in grids.items()}
        with watching(modules, see):
            found = call(model, image.clone(), *others)
        scores = [each.flatten(1) for each in _tensors(found, output) if each.requires_grad]
        if not scores:
            return set()
        # A sum would be blind to the output of a normalisation, which always sums to the same.
        root = (scores[0] * torch.randn(scores[0].shape, generator=generator).to(scores[0])).sum()
        gradients = torch.autograd.grad(
            root, [hidden for hidden, _ in kept.values()], allow_unused=True, retain_graph=True
        )
    through = _cuts(root.grad_fn, image)
    return {
        name
        for (name, (_, node)), gradient in zip(kept.items(), gradients, strict=True)
        if node in through and gradient is not None and _reaches(grids[name], gradient)
    }


def _reaches(info: LayerInfo, gradient: Tensor) -> bool:
    """Whether the output depends on more of the layer than its prefix tokens."""
    layout = info.layout
    return layout is None or not layout.prefix or bool(layout.to_grid(gradient).any())


def _tensors(found: Any, output: str | int | None) -> list[Tensor]:
    """What is explained, or, where that is not said, the first tensor of what a network returns."""
    if output is not None and not isinstance(found, Tensor):
        found = found[output]
    if isinstance(found, Mapping):
        found = list(found.values())
    items = found if isinstance(found, list | tuple) else [found]
    return [item for item in items if isinstance(item, Tensor) and item.ndim][:1]


def _cuts(root: Any, image: Tensor) -> set[Any]:
    """The nodes of an autograd graph that lie on every way from ``root`` to the image."""
    order = []  # every node after those that it leads to
    leads: dict[Any, bool] = {}
    stack = [(root, False)]
    while stack:
        node, left = stack.pop()
        below = [parent for parent, _ in node.next_functions if parent is not None]
        if left:
            ours = getattr(node, "variable", None) is image
            leads[node] = ours or any(leads[parent] for parent in below)
            order.append(node)
        elif node not in leads:
            leads[node] = False
            stack.append((node, True))
            stack += [(parent, False) for parent in below]
    ways = {
        node: [parent for parent, _ in node.next_functions if leads.get(parent)]
        for node in order
        if leads[node]
    }
    arriving = Counter(parent for below in ways.values() for parent in below)
    cuts = set()
    pending = 0  # edges from the nodes passed to those still to come
    for node in reversed(order):
        if not leads[node]:
            continue
        if pending == arriving[node]:
            cuts.add(node)
        pending += len(ways[node]) - arriving[node]
    return cuts
