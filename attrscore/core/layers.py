"""Which layers: names, globs, rules and relative depths; and what they put out during a pass."""

from __future__ import annotations

import fnmatch
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from attrscore.core.dry_run import LayerInfo, main_path, trace
from attrscore.core.layouts import Layout, LayoutOptions, hidden_state, replace_hidden_state
from attrscore.core.model import unwrap
from attrscore.errors import ConfigError, LayerError, did_you_mean, preview

DEPTH = "depth="
"""How an entry begins that asks for relative depths."""


class Layers(dict[str, nn.Module]):
    """Layers by name, in the order in which the model runs them, with what a dry run showed."""

    def __init__(self, infos: Iterable[LayerInfo] = ()) -> None:
        self.infos = {info.name: info for info in infos}
        super().__init__({name: info.module for name, info in self.infos.items()})

    @property
    def layouts(self) -> dict[str, Layout]:
        """Layer -> how its output becomes (N, C, *s)."""
        return {n: info.layout for n, info in self.infos.items() if info.layout is not None}

    @property
    def depths(self) -> dict[str, float]:
        """Layer -> its relative depth, in (0, 1]; NaN in a model without convolutions."""
        return {name: info.depth for name, info in self.infos.items()}

    def stains(self, name: str, /) -> tuple[int, ...]:
        """Numbers of the image's channels that a layer keeps apart; empty where it joins them."""
        layout = self.infos[name].layout
        return layout.stains if layout is not None else ()

    def only(self, names: Iterable[str], /) -> Layers:
        """Some of them."""
        wanted = set(names)
        return Layers(info for name, info in self.infos.items() if name in wanted)


def _all_conv(ran: Sequence[LayerInfo]) -> list[LayerInfo]:
    return [info for info in ran if info.is_convolution]


def _last_conv(ran: Sequence[LayerInfo]) -> list[LayerInfo]:
    return [info for info in _all_conv(ran) if not info.shortcut][-1:]


def _stages(ran: Sequence[LayerInfo]) -> list[LayerInfo]:
    last: dict[tuple[int, ...], LayerInfo] = {}
    for info in ran:
        if info.grid is None or not info.wide or info.repeats or info.pads:
            continue
        last[info.grid] = info
    return list(last.values())


def _blocks(ran: Sequence[LayerInfo]) -> list[LayerInfo]:
    """Modules with an inside that stand beside others of their class: residual blocks and such."""
    inside = [
        info
        for info in ran
        if info.wide
        and not info.repeats
        and list(info.module.children())
        and not isinstance(info.module, nn.Sequential)
    ]
    families = [(info.name.rpartition(".")[0], type(info.module)) for info in inside]
    repeated = [
        info for info, family in zip(inside, families, strict=True) if families.count(family) > 1
    ]
    within = tuple(f"{info.name}." for info in repeated)
    return [info for info in repeated if not info.name.startswith(within)]


LAYER_RULES: Mapping[str, Callable[[Sequence[LayerInfo]], list[LayerInfo]]] = {
    "last_conv": _last_conv,
    "all_conv": _all_conv,
    "stages": _stages,
    "blocks": _blocks,
}
"""Names that select layers by rule: ``last_conv`` (no pointwise shortcut beside a block),
``all_conv``, ``stages`` (the last layer at each grid size) and ``blocks`` (each of the blocks that
a model repeats)."""


def listed(wanted: str | Sequence[str], /) -> tuple[str, ...]:
    """What was asked for of the layers, one by one.

    :raises ConfigError: it is neither text nor a list of that.
    """
    found = (wanted,) if isinstance(wanted, str) else wanted
    if not isinstance(found, Collection) or not all(isinstance(each, str) for each in found):
        raise ConfigError(
            f"layers={wanted!r} must be the name of a layer, a glob ('features.*'), a rule "
            f"({preview(LAYER_RULES)}) or a relative depth ('depth=0.5'), or a list of these."
        )
    return tuple(found)


def select_layers(
    model: nn.Module,
    wanted: str | Sequence[str],
    inputs: Tensor,
    /,
    *others: Tensor,
    layout: LayoutOptions | None = None,
    output: str | int | None = None,
) -> Layers:
    """The modules that ``wanted`` names, in the order in which the model runs them.

    ``wanted`` is a module name, a glob (``features.*``), a rule of :data:`LAYER_RULES`, relative
    depths (``depth=0.25,0.5,1``), or a list of these. ``inputs`` (a crop or two are enough), with
    the model's further inputs ``others``, is run once to see the order and the grids.

    The relative depth of a layer is the share of the model's convolutions and linear layers with
    more than one position that have run when it is done. A depth selects, among the layers of
    the main path (:func:`main_path`), the one nearest to it, and of several the
    last; ``output`` is the item of the model's output to which that path leads.

    :raises LayerError: nothing matches (with the nearest names), or a layer named outright never
        runs, runs twice or has no spatial grid.
    """
    model = unwrap(model)
    ran = trace(model, inputs, *others, layout=layout)
    infos = {info.name: info for info in ran}
    chosen: set[str] = set()
    for entry in listed(wanted):
        if entry in LAYER_RULES:
            found = _by_rule(model, entry, ran, inputs.ndim - 2)
        elif entry.startswith(DEPTH):
            path = main_path(model, ran, inputs, *others, output=output)
            found = _by_depth(model, entry, ran, path)
        elif any(sign in entry for sign in "*?["):
            found = [
                info.name
                for info in ran
                if fnmatch.fnmatchcase(info.name, entry) and info.grid and not info.repeats
            ]
            if not found:  # what matches says why it has no map
                names = [name for name, _ in model.named_modules() if name]
                entry = next((n for n in names if fnmatch.fnmatchcase(n, entry)), entry)
                _check_named(model, entry, infos, inputs.ndim - 2)
        else:
            _check_named(model, entry, infos, inputs.ndim - 2)
            found = [entry]
        chosen.update(found)
    return Layers(info for info in ran if info.name in chosen)


def with_layouts(
    model: nn.Module, layers: Mapping[str, nn.Module], inputs: Tensor, /, *others: Tensor
) -> Layers:
    """Modules given by hand, with their layouts, by a dry run of one crop."""
    if isinstance(layers, Layers):
        return layers
    ran = trace(model, inputs[:1], *(other[:1] for other in others)) if layers else []
    known = {id(info.module): info for info in ran}
    return Layers(
        replace(known[id(module)], name=name)
        if id(module) in known
        else LayerInfo(name, module, 1, None, Layout())
        for name, module in layers.items()
    )


def _by_rule(model: nn.Module, rule: str, ran: Sequence[LayerInfo], axes: int) -> list[str]:
    found = LAYER_RULES[rule](ran)
    kind = type(model).__name__
    if not found:
        unclear = [no_grid(info.name, info.shape, axes, info.reason) for info in ran if info.reason]
        raise LayerError(
            f"layers={rule} finds no layer with a {axes}D grid in {kind}. "
            f"{unclear[-1] if unclear else 'See: attrscore inspect model=...'}"
        )
    if rule == "last_conv" and found[0].depth < 0.5:
        raise LayerError(
            f"layers=last_conv would be '{found[0].name}', at {found[0].depth:.2f} of the depth of "
            f"{kind}: the rest has no convolution, as in a transformer. Use depth=1 for the "
            "last layer whose positions still reach the output, or layers=blocks."
        )
    return [info.name for info in found]


def _by_depth(model: nn.Module, entry: str, ran: Sequence[LayerInfo], path: set[str]) -> list[str]:
    candidates = [info for info in ran if info.name in path and not info.pads and info.depth > 0]
    if not candidates:
        raise LayerError(
            f"layers={entry} finds no layer that everything passes through in "
            f"{type(model).__name__}; name the layers. See: attrscore inspect model=..."
        )
    found = []
    for text in entry.removeprefix(DEPTH).split(","):
        try:
            wanted = float(text)
        except ValueError:
            wanted = -1.0
        if not 0 < wanted <= 1:
            raise ConfigError(
                f"depth={text} is no relative depth; expected a number above 0, up to 1. The input "
                "itself, at 0, is explained by the methods that give a map on the input."
            )
        nearest = min(round(abs(info.depth - wanted), 9) for info in candidates)
        found.append([c.name for c in candidates if round(abs(c.depth - wanted), 9) == nearest][-1])
    return found


def _check_named(model: nn.Module, name: str, infos: Mapping[str, LayerInfo], axes: int) -> None:
    names = {known for known, _ in model.named_modules() if known}
    if name not in names:
        raise LayerError(_no_match(model, name))
    if name not in infos:
        raise LayerError(
            f"Layer '{name}' never runs when {type(model).__name__} is called, so it has no map. "
            "See: attrscore inspect model=..."
        )
    info = infos[name]
    if info.repeats:
        raise LayerError(runs_twice(name, info.calls))
    if info.grid is None:
        raise LayerError(no_grid(name, info.shape, axes, info.reason))


def _no_match(model: nn.Module, entry: str) -> str:
    names = [name for name, _ in model.named_modules() if name]
    return (
        f"No layer matches {entry!r}. {did_you_mean(entry, [*names, *LAYER_RULES])} "
        "See: attrscore inspect model=..."
    )


def runs_twice(name: str, calls: int, /) -> str:
    """Why a layer that runs several times has no map."""
    return (
        f"Layer '{name}' runs {calls} times in one forward pass, so its map is ambiguous; "
        "choose a layer that runs once, or give each use a module of its own."
    )


def no_grid(name: str, shape: tuple[int, ...] | None, axes: int, reason: str = "", /) -> str:
    """Why an output of this shape has no map."""
    got = f"a tensor {shape}" if shape is not None else "something that is not one tensor"
    if reason:
        return f"Layer '{name}' puts out {got}: {reason}."
    return (
        f"Layer '{name}' puts out {got}; expected (N, C, {'Z, ' if axes == 3 else ''}Y, X). "
        "Choose a convolution or the block before it."
    )


_OVERWRITTEN: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""Layers whose output is changed in place later on: they hand a copy to the model."""


class OverwrittenError(Exception):
    """A recorded output was changed in place. It is known now: capture again."""


def calls_of(info: LayerInfo, /) -> list[str]:
    """What :func:`capture` calls the outputs of a layer: its name, and further calls numbered."""
    again = range(1, info.calls if info.layout and info.layout.stains else 1)
    return [info.name, *(f"{info.name}, call {number + 1}" for number in again)]


@contextmanager
def capture(
    layers: Mapping[str, nn.Module], axes: int, /, *, gradients: bool
) -> Iterator[dict[str, Tensor]]:
    """Record each layer's output, as the layer puts it out, during the passes inside ``with``.

    With ``gradients``, the autograd graph starts at the lowest of the layers: a model with frozen
    parameters is then differentiated no deeper than asked. Outputs are recorded without a copy,
    except of layers known to be followed by an in-place ReLU or ``+=``. A plain mapping is of
    layers that have their channels first. Of a layer that runs once for each of the image's
    channels, the calls are recorded by the keys of :func:`calls_of`.

    :raises OverwrittenError: such an operation was found now; the second time a copy is made.
    """
    recorded: dict[str, Tensor] = {}
    versions: dict[str, int] = {}
    behind: dict[str, nn.Module] = {}
    infos = layers.infos if isinstance(layers, Layers) else {}
    wanted = {name: calls_of(infos[name]) if name in infos else [name] for name in layers}

    def record(name: str) -> Callable[[nn.Module, Any, Any], Any]:
        layout = infos[name].layout if name in infos else Layout()
        reason = infos[name].reason if name in infos else ""

        def hook(module: nn.Module, _args: Any, output: Any) -> Any:
            key = next((each for each in wanted[name] if each not in recorded), None)
            if key is None:
                raise LayerError(runs_twice(name, len(wanted[name]) + 1))
            hidden = hidden_state(output)
            if hidden is None or layout is None or not layout.fits(hidden.shape, axes):
                shape = None if hidden is None else tuple(hidden.shape)
                raise LayerError(no_grid(name, shape, axes, reason))
            if gradients and not hidden.requires_grad:
                hidden = hidden.detach().requires_grad_()
            recorded[key], versions[key], behind[key] = hidden, hidden._version, module
            # A view, on which hooks of the user's come to lie: autograd.grad is blind to the rest.
            given = hidden.clone() if module in _OVERWRITTEN else hidden.view_as(hidden)
            return replace_hidden_state(output, given)

        return hook

    handles = [module.register_forward_hook(record(name)) for name, module in layers.items()]
    try:
        yield recorded
    except RuntimeError as error:
        leaves = {behind[key] for key, kept in recorded.items() if kept.is_leaf}
        if "in-place operation" not in str(error) or leaves <= set(_OVERWRITTEN):
            raise
        _OVERWRITTEN.update(leaves)  # autograd refuses to change its leaves
        raise OverwrittenError from error
    finally:
        for handle in handles:
            handle.remove()
    changed = [key for key, kept in recorded.items() if kept._version != versions[key]]
    if changed:
        _OVERWRITTEN.update(behind[key] for key in changed)
        raise OverwrittenError
    never = [name for name, keys in wanted.items() if not recorded.keys() >= set(keys)]
    if never:
        raise LayerError(
            f"Layer {preview(map(repr, never))} never runs when the model is called, "
            "so it has no map. See: attrscore inspect model=..."
        )
