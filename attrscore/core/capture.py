"""What layers put out during a forward pass, and where a backward pass ends."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from attrscore.core.layers import Layers, no_grid, runs_twice
from attrscore.core.layouts import Layout, hidden_state, replace_hidden_state
from attrscore.errors import LayerError, preview

__all__ = ["OverwrittenError", "capture"]

_OVERWRITTEN: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""Layers whose output is changed in place later on: they hand a copy to the network."""


class OverwrittenError(Exception):
    """A recorded output was changed in place. It is known now: capture again."""


@contextmanager
def capture(
    layers: Mapping[str, nn.Module], axes: int, /, *, gradients: bool
) -> Iterator[dict[str, Tensor]]:
    """Record each layer's output, as the layer puts it out, during the passes inside ``with``.

    With ``gradients``, the autograd graph starts at the lowest of the layers: a network with frozen
    parameters is then differentiated no deeper than asked. Outputs are recorded without a copy,
    except of layers known to be followed by an in-place ReLU or ``+=``. A plain mapping is of
    layers that have their channels first.

    :raises OverwrittenError: such an operation was found now; the second time a copy is made.
    """
    recorded: dict[str, Tensor] = {}
    versions: dict[str, int] = {}
    infos = layers.infos if isinstance(layers, Layers) else {}

    def record(name: str) -> Callable[[nn.Module, Any, Any], Any]:
        layout = infos[name].layout if name in infos else Layout()
        reason = infos[name].reason if name in infos else ""

        def hook(module: nn.Module, _args: Any, output: Any) -> Any:
            if name in recorded:
                raise LayerError(runs_twice(name, 2))
            hidden = hidden_state(output)
            if hidden is None or layout is None or not layout.fits(hidden.shape, axes):
                shape = None if hidden is None else tuple(hidden.shape)
                raise LayerError(no_grid(name, shape, axes, reason))
            if gradients and not hidden.requires_grad:
                hidden = hidden.detach().requires_grad_()
            recorded[name], versions[name] = hidden, hidden._version
            given = hidden.clone() if module in _OVERWRITTEN else hidden
            return replace_hidden_state(output, given)

        return hook

    handles = [module.register_forward_hook(record(name)) for name, module in layers.items()]
    try:
        yield recorded
    except RuntimeError as error:
        leaves = {layers[name] for name, kept in recorded.items() if kept.is_leaf}
        if "in-place operation" not in str(error) or leaves <= set(_OVERWRITTEN):
            raise
        _OVERWRITTEN.update(leaves)  # autograd refuses to change its leaves
        raise OverwrittenError from error
    finally:
        for handle in handles:
            handle.remove()
    changed = [name for name, kept in recorded.items() if kept._version != versions[name]]
    if changed:
        _OVERWRITTEN.update(layers[name] for name in changed)
        raise OverwrittenError
    never = [name for name in layers if name not in recorded]
    if never:
        raise LayerError(
            f"Layer {preview(map(repr, never))} never runs when the network is called, "
            "so it has no map. See: attrscore inspect model=..."
        )
