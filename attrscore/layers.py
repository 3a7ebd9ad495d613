"""Which layers: names, globs and rules, and what they put out on one forward pass."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from attrscore.errors import LayerError, did_you_mean, preview

__all__ = ["LAYER_RULES", "LayerInfo", "capture", "device_of", "select_layers", "trace", "unwrap"]


@dataclass(frozen=True)
class LayerInfo:
    """What one named module did on a dry run."""

    name: str
    module: nn.Module
    calls: int
    shape: tuple[int, ...] | None
    """Shape of the output, or None where it is not one tensor."""
    input_axes: int
    """Number of spatial axes of the network's input."""

    @property
    def grid(self) -> tuple[int, ...] | None:
        """*s, or None where the output is not (N, C, *s) with as many axes as the input."""
        if self.shape is None or len(self.shape) != self.input_axes + 2:
            return None
        return self.shape[2:]

    @property
    def pads(self) -> bool:
        """Whether this layer does nothing but pad: its grid reaches beyond the image."""
        leaves = [m for m in self.module.modules() if not list(m.children())]
        return all(type(leaf).__module__ == "torch.nn.modules.padding" for leaf in leaves)

    @property
    def is_convolution(self) -> bool:
        """A convolution whose grid has more than one place (squeeze-and-excitation has one)."""
        grid = self.grid
        return isinstance(self.module, _ConvNd) and grid is not None and max(grid) > 1


def unwrap(model: nn.Module, /) -> nn.Module:
    """The plain network inside ``torch.compile`` and ``nn.DataParallel`` wrappers.

    Hooks on a compiled module vanish after warm-up, and a parallel one runs replicas without them.
    """
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


def device_of(model: nn.Module, /) -> torch.device:
    """Where the first parameter lies; the CPU for a network without any."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


@torch.no_grad()
def trace(model: nn.Module, inputs: Tensor, /) -> list[LayerInfo]:
    """Every named module that ran on ``inputs`` (N, C, *S), in the order in which it finished.

    One forward pass; the caller keeps the network in eval mode.
    """
    calls: dict[str, int] = {}
    shapes: dict[str, tuple[int, ...] | None] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            shapes[name] = tuple(output.shape) if isinstance(output, Tensor) else None

        return hook

    modules = {name: module for name, module in model.named_modules() if name}
    handles = [module.register_forward_hook(watch(name)) for name, module in modules.items()]
    try:
        model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    axes = inputs.ndim - 2
    return [LayerInfo(name, modules[name], calls[name], shapes[name], axes) for name in shapes]


def _last_conv(ran: Sequence[LayerInfo]) -> list[LayerInfo]:
    return [info for info in ran if info.is_convolution][-1:]


def _all_conv(ran: Sequence[LayerInfo]) -> list[LayerInfo]:
    return [info for info in ran if info.is_convolution]


def _stages(ran: Sequence[LayerInfo]) -> list[LayerInfo]:
    last: dict[tuple[int, ...], LayerInfo] = {}
    for info in ran:
        if info.grid is None or max(info.grid) == 1 or info.calls > 1 or info.pads:
            continue
        last[info.grid] = info
    return list(last.values())


LAYER_RULES: Mapping[str, Callable[[Sequence[LayerInfo]], list[LayerInfo]]] = {
    "last_conv": _last_conv,
    "all_conv": _all_conv,
    "stages": _stages,
}
"""Names that select layers by rule: ``last_conv``, ``all_conv`` and ``stages`` (the last layer at
each grid size)."""


def select_layers(
    model: nn.Module, wanted: str | Sequence[str], inputs: Tensor, /
) -> dict[str, nn.Module]:
    """The modules that ``wanted`` names, in the order in which the network runs them.

    ``wanted`` is a module name, a glob (``features.*``), a rule of :data:`LAYER_RULES`, or a list
    of these. ``inputs`` (a crop or two are enough) is run once to see the order and the grids.

    :raises LayerError: nothing matches (with the nearest names), or a layer named outright never
        runs, runs twice or has no spatial grid.
    """
    model = unwrap(model)
    ran = trace(model, inputs)
    infos = {info.name: info for info in ran}
    chosen: set[str] = set()
    for entry in [wanted] if isinstance(wanted, str) else wanted:
        if entry in LAYER_RULES:
            found = [info.name for info in LAYER_RULES[entry](ran)]
            if not found:
                raise LayerError(
                    f"layers={entry} finds no layer with a {inputs.ndim - 2}D grid in "
                    f"{type(model).__name__}. See: attrscore inspect model=..."
                )
        elif any(sign in entry for sign in "*?["):
            found = [
                info.name
                for info in ran
                if fnmatch.fnmatchcase(info.name, entry) and info.grid and info.calls == 1
            ]
            if not found:
                raise LayerError(_no_match(model, entry))
        else:
            _check_named(model, entry, infos)
            found = [entry]
        chosen.update(found)
    return {info.name: info.module for info in ran if info.name in chosen}


def _check_named(model: nn.Module, name: str, infos: Mapping[str, LayerInfo]) -> None:
    names = {known for known, _ in model.named_modules() if known}
    if name not in names:
        raise LayerError(_no_match(model, name))
    if name not in infos:
        raise LayerError(
            f"Layer '{name}' never runs when {type(model).__name__} is called, so it has no map. "
            "See: attrscore inspect model=..."
        )
    info = infos[name]
    if info.calls > 1:
        raise LayerError(_runs_twice(name, info.calls))
    if info.grid is None:
        raise LayerError(_no_grid(name, info.shape, info.input_axes))


def _no_match(model: nn.Module, entry: str) -> str:
    names = [name for name, _ in model.named_modules() if name]
    return (
        f"No layer matches {entry!r}. {did_you_mean(entry, [*names, *LAYER_RULES])} "
        "See: attrscore inspect model=..."
    )


def _runs_twice(name: str, calls: int) -> str:
    return (
        f"Layer '{name}' runs {calls} times in one forward pass, so its map is ambiguous; "
        "choose a layer that runs once, or give each use a module of its own."
    )


def _no_grid(name: str, shape: tuple[int, ...] | None, axes: int) -> str:
    got = f"a tensor {shape}" if shape is not None else "something that is not one tensor"
    return (
        f"Layer '{name}' puts out {got}; expected (N, C, {'Z, ' if axes == 3 else ''}Y, X). "
        "Choose a convolution or the block before it."
    )


@contextmanager
def capture(
    layers: Mapping[str, nn.Module], axes: int, /, *, gradients: bool
) -> Iterator[dict[str, Tensor]]:
    """Record each layer's output during the forward passes inside ``with``.

    With ``gradients``, the autograd graph starts at the lowest of the layers: a network with frozen
    parameters is then differentiated no deeper than asked. The network gets a copy of every
    recorded output, since a later in-place ReLU or ``+=`` would overwrite it.
    """
    recorded: dict[str, Tensor] = {}

    def record(name: str) -> Callable[[nn.Module, Any, Any], Tensor]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> Tensor:
            if name in recorded:
                raise LayerError(_runs_twice(name, 2))
            if not isinstance(output, Tensor) or output.ndim != axes + 2:
                shape = tuple(output.shape) if isinstance(output, Tensor) else None
                raise LayerError(_no_grid(name, shape, axes))
            if gradients and not output.requires_grad:
                output = output.detach().requires_grad_()
            kept: Tensor = output
            recorded[name] = kept
            return kept.clone()

        return hook

    handles = [module.register_forward_hook(record(name)) for name, module in layers.items()]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()
    never = [name for name in layers if name not in recorded]
    if never:
        raise LayerError(
            f"Layer {preview(map(repr, never))} never runs when the network is called, "
            "so it has no map. See: attrscore inspect model=..."
        )
