"""What a dry run shows of layers: how their outputs lie, how deep they are, the main path."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from attrscore.core.graph import nodes
from attrscore.core.model import SealedModel, call
from attrscore.errors import ConfigError, choose

Axes = Literal["auto", "channels_first", "channels_last", "tokens"]
_AXES = ("auto", "channels_first", "channels_last", "tokens")


@dataclass(frozen=True)
class Layout:
    """How a layer's output becomes (N, C, *s).

    ``channels_first`` is (N, C, *s), ``channels_last`` (N, *s, C), and ``tokens`` (N, T, C) with
    ``prefix`` tokens (class, registers) and then one for each position of ``grid``, the last axis
    fastest.
    """

    axes: Literal["channels_first", "channels_last", "tokens"] = "channels_first"
    grid: tuple[int, ...] = ()
    """*s of tokens; empty for the others, whose shape says it."""
    prefix: int = 0

    def fits(self, shape: Sequence[int], axes: int, /) -> bool:
        """Whether an output of this shape can be so laid out, for inputs with ``axes`` axes."""
        if self.axes == "tokens":
            positions = 1
            for size in self.grid:
                positions *= size
            return len(shape) == 3 and shape[1] == self.prefix + positions
        return len(shape) == axes + 2

    def to_grid(self, values: Tensor, /) -> Tensor:
        """(N, C, *s) of what lies as the layer's output does, prefix tokens left out."""
        if self.axes == "channels_last":
            return values.movedim(-1, 1)
        if self.axes == "tokens":
            patches = values[:, self.prefix :].mT
            return patches.reshape(*patches.shape[:2], *self.grid)
        return values

    def grid_of(self, shape: Sequence[int], /) -> tuple[int, ...]:
        """*s of an output of this shape."""
        if self.axes == "tokens":
            return self.grid
        return tuple(shape[1:-1] if self.axes == "channels_last" else shape[2:])

    def channels_of(self, shape: Sequence[int], /) -> int:
        """C of an output of this shape."""
        return shape[1] if self.axes == "channels_first" else shape[-1]

    def __str__(self) -> str:
        if self.axes != "tokens":
            return self.axes.replace("_", " ")
        return f"tokens, {self.prefix} before the grid" if self.prefix else "tokens"


@dataclass(frozen=True)
class LayoutOptions:
    """What the user says of the layouts, where a dry run cannot find it.

    ``axes`` concerns the layers whose layout no dry run shows; ``prefix`` and ``grid`` are those of
    token layers: how many tokens come before the positions, and how many positions each axis has.
    """

    axes: Axes = "auto"
    prefix: int | None = None
    grid: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        choose(self.axes, _AXES, option="layout.axes")
        if self.prefix is not None and self.prefix < 0:
            raise ConfigError(f"layout.prefix={self.prefix} must be 0 or more.")
        if self.grid is not None:
            object.__setattr__(self, "grid", tuple(int(size) for size in self.grid))
            if not self.grid or min(self.grid) < 1:
                raise ConfigError(f"layout.grid={list(self.grid)} must be whole numbers from 1.")

    @classmethod
    def of(cls, given: LayoutOptions | Mapping[str, Any] | str | None, /) -> LayoutOptions:
        """Options from a word for ``axes``, from a mapping, or as they are."""
        if isinstance(given, LayoutOptions):
            return given
        if isinstance(given, str):
            return cls(axes=given)  # type: ignore[arg-type]  # checked when it is made
        return cls(**(given or {}))


def anchor_of(
    module: nn.Module, shape: Sequence[int], /
) -> Literal["channels_first", "channels_last"] | None:
    """The layout that a module has by what it is: a convolution, a linear layer; else None."""
    by_channel = (_ConvNd, _NormBase, nn.GroupNorm, nn.Upsample)
    if isinstance(module, by_channel) or type(module).__module__ == "torch.nn.modules.pooling":
        return "channels_first"
    # Subclasses of LayerNorm are free to permute, as torchvision's LayerNorm2d does.
    if type(module) is nn.Linear or (
        type(module) is nn.LayerNorm and tuple(module.normalized_shape) == (shape[-1],)
    ):
        return "channels_last"
    return None


def hidden_state(output: Any, /) -> Tensor | None:
    """The tensor that a layer puts out: itself, or the first item of a tuple or list.

    Blocks of some transformers return (hidden state, attention or None, ...). None where a second
    item has the same shape, so that either could be meant, or where there is no tensor.
    """
    if isinstance(output, Tensor):
        return output
    if type(output) not in (tuple, list) or not output or not isinstance(output[0], Tensor):
        return None
    first: Tensor = output[0]
    alike = [item for item in output[1:] if isinstance(item, Tensor) and item.shape == first.shape]
    return None if alike else first


def replace_hidden_state(output: Any, hidden: Tensor, /) -> Any:
    """The output of a layer with another hidden state."""
    return hidden if isinstance(output, Tensor) else type(output)((hidden, *output[1:]))


SLIGHT = 1e-6
"""Changes below this share of the largest are rounding."""


class _EnoughSeen(Exception):  # noqa: N818  # no error: it ends a forward pass early
    pass


@contextmanager
def watching(
    modules: Mapping[str, nn.Module], see: Callable[[str, Any], None], /
) -> Iterator[None]:
    """Show ``see`` the name and output of each module whenever it finishes inside ``with``.

    Of TorchScript nothing is seen: it takes no hooks.
    """

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _args, output: see(name, output)

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in modules.items()
        if not isinstance(module, torch.jit.ScriptModule)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def measure_axes(
    model: nn.Module,
    unclear: Mapping[str, tuple[nn.Module, tuple[int, ...]]],
    inputs: Tensor,
    others: Sequence[Tensor],
) -> dict[str, Layout]:
    """Layouts of the layers (module and shape) whose channels may be first or last.

    An image twice as large along each axis is run: the axes that grow about as much are
    positions; those of an attention matrix do not grow, or grow by 4 or 8. A model for one size
    alone raises on the way, and the layers behind that point stay unknown. One forward pass of 4 or
    8 crops.
    """
    seen: dict[str, tuple[int, ...]] = {}

    def see(name: str, output: Any) -> None:
        hidden = hidden_state(output)
        if hidden is not None:
            seen.setdefault(name, tuple(hidden.shape))

    larger = inputs.repeat(1, 1, *[2] * (inputs.ndim - 2))
    watched = {name: module for name, (module, _) in unclear.items()}
    with suppress(Exception), watching(watched, see):  # a model of one size may raise anything
        call(model, larger, *others)
    found = {}
    for name, (_, shape) in unclear.items():
        pairs = list(zip(shape[1:], seen.get(name, ())[1:], strict=False))
        grows = [new > old for old, new in pairs]
        if len(pairs) < len(shape) - 1 or any(new > 3 * old for old, new in pairs):
            continue
        if grows == [False] + [True] * (len(grows) - 1):
            found[name] = Layout("channels_first")
        elif grows == [True] * (len(grows) - 1) + [False]:
            found[name] = Layout("channels_last")
    return found


def measure_tokens(
    model: nn.Module,
    witness: nn.Module,
    inputs: Tensor,
    others: Sequence[Tensor],
    options: LayoutOptions,
) -> Layout | str:
    """How the tokens (N, T, C) that a layer puts out lie on the image, or why that stays unknown.

    ``witness`` is the first layer with that many tokens, before attention mixes them. Tokens that
    no change of the image reaches are the prefix. Then one slice of the image at a time is changed,
    at the lower end of each axis: the tokens that it reaches show how the rest is laid out. The
    grid must be the only one that explains them. Costs 2 + the number of axes forward passes of one
    crop, each only up to the witness.
    """
    generator = torch.Generator().manual_seed(0)

    def noise() -> Tensor:
        drawn = torch.randn(inputs.shape, generator=generator, dtype=torch.float64)
        return drawn.to(inputs)

    def tokens(image: Tensor) -> Tensor:
        kept: list[Tensor] = []

        def see(_name: str, output: Any) -> None:
            hidden = hidden_state(output)
            if hidden is not None:
                kept.append(hidden.detach().double()[0])
            raise _EnoughSeen

        with suppress(_EnoughSeen), watching({"": witness}, see):
            call(model, image, *others)
        return kept[0]

    def reached(image: Tensor) -> Tensor:
        change = (tokens(image) - base).abs().amax(1)
        return change > SLIGHT * change.amax()

    plain, other = noise(), noise()
    base = tokens(plain)
    anywhere = reached(other)
    prefix = int((~anywhere).long().cumprod(0).sum()) if options.prefix is None else options.prefix
    if not anywhere[prefix:].all():
        return "some tokens behind the first position do not depend on the image"
    slices = []
    for axis in range(2, inputs.ndim):
        changed = plain.clone()
        changed.narrow(axis, 0, 1).copy_(other.narrow(axis, 0, 1))
        slices.append(reached(changed)[prefix:])
    fitting = [
        grid
        for grid in _grids(len(base) - prefix, tuple(inputs.shape[2:]))
        if all(_explains(grid, axis, touched) for axis, touched in enumerate(slices))
    ]
    if len(fitting) == 1:
        return Layout("tokens", fitting[0], prefix)
    return "tokens are mixed before they can be seen" if fitting else "they lie on no regular grid"


def _grids(positions: int, space: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every grid of so many positions that is nowhere finer than the image."""
    if len(space) == 1:
        if positions <= space[0]:
            yield (positions,)
        return
    for size in range(1, min(positions, space[0]) + 1):
        if positions % size == 0:
            for rest in _grids(positions // size, space[1:]):
                yield (size, *rest)


def _explains(grid: tuple[int, ...], axis: int, touched: Tensor) -> bool:
    """Whether the touched tokens are the lower end of one axis of the grid, and all of the rest."""
    lines = touched.view(grid).movedim(axis, 0).flatten(1)
    along = lines[:, 0]
    whole = bool((lines == along[:, None]).all())
    return whole and bool(along[0]) and not bool((along[1:] & ~along[:-1]).any())


@dataclass(frozen=True)
class LayerInfo:
    """What one named module did on a dry run."""

    name: str
    module: nn.Module
    calls: int
    shape: tuple[int, ...] | None
    """Shape of the output, or None where it is not one tensor."""
    layout: Layout | None = None
    """None where the output has no grid, or where it is unknown."""
    reason: str = ""
    """Why the layout is unknown."""
    depth: float = math.nan
    """Share of the model's convolutions and linear layers on a grid that have run, in (0, 1]."""
    shortcut: bool = False
    """Among the last convolutions: one of single pixels, beside the one that ran before it."""

    @property
    def grid(self) -> tuple[int, ...] | None:
        """*s, or None where the output has none."""
        if self.shape is None or self.layout is None:
            return None
        return self.layout.grid_of(self.shape)

    @property
    def channels(self) -> int | None:
        """C, or None where there is no grid."""
        if self.shape is None or self.layout is None:
            return None
        return self.layout.channels_of(self.shape)

    @property
    def wide(self) -> bool:
        """Whether the grid has more than one position."""
        return self.grid is not None and math.prod(self.grid) > 1

    @property
    def pads(self) -> bool:
        """Whether this layer does nothing but pad, beyond the image, or nothing at all."""
        leaves = [m for m in self.module.modules() if not list(m.children())]
        return all(
            type(leaf).__module__ == "torch.nn.modules.padding" or type(leaf) is nn.Identity
            for leaf in leaves
        )

    @property
    def is_convolution(self) -> bool:
        """A convolution whose grid has more than one position (squeeze-and-excitation has one)."""
        return isinstance(self.module, _ConvNd) and self.wide

    @property
    def pointwise(self) -> bool:
        """A convolution of single pixels."""
        return isinstance(self.module, _ConvNd) and set(self.module.kernel_size) == {1}


@torch.no_grad()
def trace(
    model: nn.Module, inputs: Tensor, /, *others: Tensor, layout: LayoutOptions | None = None
) -> list[LayerInfo]:
    """Every named module that ran on ``inputs`` (N, C, *S), in the order in which it finished.

    ``others`` are the model's further inputs. One forward pass for convolutional models; where
    outputs are tokens, or have channels first here and last there, some more on one crop, to
    measure which. The caller keeps the model in eval mode.
    """
    calls: dict[str, int] = {}
    shapes: dict[str, tuple[int, ...] | None] = {}

    def see(name: str, output: Any) -> None:
        calls[name] = calls.get(name, 0) + 1
        hidden = hidden_state(output)
        shapes[name] = None if hidden is None else tuple(hidden.shape)

    sealed = isinstance(model, SealedModel)
    modules = {name: module for name, module in model.named_modules() if name and not sealed}
    with watching(modules, see):
        call(model, inputs, *others)
    ran = [LayerInfo(name, modules[name], calls[name], shapes[name]) for name in shapes]
    first = inputs[:1], [other[:1] for other in others]
    ran = _with_axes(ran, model, len(inputs), *first, layout or LayoutOptions())
    ran = _with_tokens(ran, model, len(inputs), *first, layout or LayoutOptions())
    return _with_shortcuts(_with_depth(ran), model, inputs[:1], [other[:1] for other in others])


def _with_shortcuts(
    ran: list[LayerInfo], model: nn.Module, inputs: Tensor, others: Sequence[Tensor]
) -> list[LayerInfo]:
    """Which of the last convolutions are shortcuts, by what they were computed from.

    One more forward pass of a crop, with its graph, where the last convolution is pointwise. None
    is where that pass fails, or keeps no graph.
    """
    last = [info for info in ran if info.is_convolution and info.calls == 1]
    if len(last) < 2 or not last[-1].pointwise:
        return ran
    made: dict[str, Any] = {}
    with suppress(Exception), torch.enable_grad():  # a model may raise anything
        image = inputs.detach().clone().requires_grad_()
        with watching(
            {info.name: info.module for info in last},
            lambda name, output: made.update({name: getattr(output, "grad_fn", None)}),
        ):
            call(model, image.clone(), *others)
    shortcuts = set()
    for before, info in zip(last[-2::-1], last[:0:-1], strict=True):
        node = made.get(info.name)
        beside = node is not None and made.get(before.name) not in {None, *nodes(node)}
        if not info.pointwise or not beside:
            break
        shortcuts.add(info.name)
    return [replace(info, shortcut=True) if info.name in shortcuts else info for info in ran]


def _with_axes(
    ran: list[LayerInfo],
    model: nn.Module,
    n: int,
    inputs: Tensor,
    others: Sequence[Tensor],
    options: LayoutOptions,
) -> list[LayerInfo]:
    """Layouts of outputs with as many axes as the input."""
    fitting = {
        info.name: (info.module, info.shape)
        for info in ran
        if info.shape is not None and len(info.shape) == inputs.ndim and info.shape[0] == n
    }
    anchors = {name: anchor_of(module, shape) for name, (module, shape) in fitting.items()}
    # Where linear layers work on positions, an output can also be channels last, or an attention.
    mixed = any(
        len(info.shape or ()) > 2 and anchor_of(info.module, info.shape or ()) == "channels_last"
        for info in ran
    )
    fallback: Any = options.axes
    if not mixed and options.axes in ("auto", "tokens"):
        fallback = "channels_first"
    unclear = {name: each for name, each in fitting.items() if anchors[name] is None}
    known = {name: Layout(anchor) for name, anchor in anchors.items() if anchor is not None}
    if fallback in ("channels_first", "channels_last"):
        known |= {name: Layout(fallback) for name in unclear}
    if mixed:
        known |= measure_axes(model, unclear, inputs, others)
    why = (
        "which of its axes are channels cannot be measured, since the model takes no larger crop; "
        "unless it is a matrix of attention, say layout.axes=channels_first or "
        "layout.axes=channels_last"
    )
    return [
        replace(info, layout=known.get(info.name), reason="" if info.name in known else why)
        if info.name in fitting
        else info
        for info in ran
    ]


def _with_tokens(
    ran: list[LayerInfo],
    model: nn.Module,
    n: int,
    inputs: Tensor,
    others: Sequence[Tensor],
    options: LayoutOptions,
) -> list[LayerInfo]:
    """Layouts of outputs (N, T, C), by their number of tokens."""
    known: dict[int, Layout | str] = {}
    found = []
    for info in ran:
        shape = info.shape
        if shape is None or len(shape) != 3 or shape[0] != n or shape[1] < 2:
            found.append(info)
            continue
        count = shape[1]
        if count not in known:
            known[count] = _tokens(count, info.module, model, inputs, others, options)
        layout = known[count]
        if isinstance(layout, Layout):
            found.append(replace(info, layout=layout))
        else:
            found.append(replace(info, reason=layout))
    return found


def _tokens(
    count: int,
    witness: nn.Module,
    model: nn.Module,
    inputs: Tensor,
    others: Sequence[Tensor],
    options: LayoutOptions,
) -> Layout | str:
    ask = (
        "say layout.grid=[...], the number of positions along each axis, and layout.prefix=..., "
        "the number of tokens before them (class token, registers)"
    )
    if options.axes not in ("auto", "tokens"):
        return f"layout.axes={options.axes} is asked for, and it has three axes"
    if options.grid is None:
        found = measure_tokens(model, witness, inputs, others, options)
        if isinstance(found, Layout):
            return found
        return f"where its {count} tokens lie could not be measured ({found}); {ask}"
    prefix = count - math.prod(options.grid)
    fits = len(options.grid) == inputs.ndim - 2 and options.prefix in (None, prefix)
    if not fits or prefix < 0:
        given = f"layout.grid={list(options.grid)}, layout.prefix={options.prefix}"
        return f"its {count} tokens do not fit {given}"
    return Layout("tokens", options.grid, prefix)


def _with_depth(ran: Sequence[LayerInfo]) -> list[LayerInfo]:
    steps = [info.wide and isinstance(info.module, _ConvNd | nn.Linear) for info in ran]
    if not any(steps):
        return list(ran)
    done = zip(ran, itertools.accumulate(steps), strict=True)
    return [replace(info, depth=so_far / sum(steps)) for info, so_far in done]


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
    backward pass of noise. Empty where no gradient reaches the image, or
    where the backward pass fails.
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
            found = call(model, image, *others)
        scores = [each.flatten(1) for each in _tensors(found, output) if each.requires_grad]
        if not scores:
            return set()
        # A sum would be blind to the output of a normalisation, which always sums to the same.
        root = (scores[0] * torch.randn(scores[0].shape, generator=generator).to(scores[0])).sum()
        layers = [hidden for hidden, _ in kept.values()]
        try:
            gradients = torch.autograd.grad(root, layers, allow_unused=True, retain_graph=True)
        except Exception:  # noqa: BLE001  # of a backward or a hook of the user's
            return set()
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
    """What is explained, or, where that is not said, the first tensor of what a model returns."""
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
