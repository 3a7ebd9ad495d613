"""What a dry run shows of layers: how their outputs lie, how deep they are, the main path."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from attrscore.core.graph import nodes
from attrscore.core.model import SealedModel, call, is_out_of_memory
from attrscore.errors import ConfigError, choose

Axes = Literal["auto", "channels_first", "channels_last", "tokens"]
_AXES = ("auto", "channels_first", "channels_last", "tokens")
Stated = Literal["auto", "none", "first", "last"]
_APART = {
    "first": "stain by stain",
    "last": "the stains of a position together",
    "folded": "the stains of a cell in the batch",
    "stacked": "stain by stain in the batch",
}


@dataclass(frozen=True)
class Layout:
    """How a layer's output becomes (N, C, *s).

    ``channels_first`` is (N, C, *s), ``channels_last`` (N, *s, C), and ``tokens`` (N, T, C) with
    ``prefix`` tokens (class, registers) and then one for each position of ``grid``, the last axis
    fastest.

    A layer that keeps the channels of the image apart lies so for each of them, and ``channels``
    says where their axis is. Of tokens: ``first``, all positions of one channel after those of
    another, or ``last``, all channels of a position together. In the batch: ``folded``, the
    channels of a cell together, (N * channels, ...), or ``stacked``, one channel after the other
    (channels * N, ...), as where the layer runs once a channel. Or on an axis of its own: its
    number. Then C counts the layer's own channels of each of them, one after the other.
    """

    axes: Literal["channels_first", "channels_last", "tokens"] = "channels_first"
    grid: tuple[int, ...] = ()
    """*s of tokens; empty for the others, whose shape says it."""
    prefix: int = 0
    channels: Literal["none", "first", "last", "folded", "stacked"] | int = "none"
    stains: tuple[int, ...] = ()
    """Numbers of the image's channels, as they lie; empty where they are joined."""

    @property
    def merged(self) -> bool:
        """Whether the image's channels lie on the axis of the tokens."""
        return self.channels in ("first", "last")

    def fits(self, shape: Sequence[int], axes: int, /) -> bool:
        """Whether an output of this shape can be so laid out, for inputs with ``axes`` axes."""
        row = self.row(shape)
        if self.axes == "tokens":
            positions = math.prod(self.grid) * (len(self.stains) if self.merged else 1)
            return len(row) == 3 and row[1] == self.prefix + positions
        return len(row) == axes + 2

    def to_grid(self, values: Tensor, /) -> Tensor:
        """(N, C, *s) of what lies as the layer's output does, prefix tokens left out."""
        if self.merged:
            values = values[:, self.prefix :]
        count = len(self.stains)
        if self.channels == "first":
            values = _split(values, 1, (count, -1)).flatten(0, 1)
        elif self.channels == "last":
            values = _split(values, 1, (-1, count)).movedim(2, 1).flatten(0, 1)
        elif self.channels == "stacked":
            values = _split(values, 0, (count, -1)).movedim(1, 0).flatten(0, 1)
        elif isinstance(self.channels, int):
            values = values.movedim(self.channels, 1).flatten(0, 1)
        if self.axes == "channels_last":
            values = values.movedim(-1, 1)
        elif self.axes == "tokens":
            positions = values if self.merged else values[:, self.prefix :]
            values = _split(positions.mT, 2, self.grid)
        return _split(values, 0, (-1, count)).flatten(1, 2) if count else values

    def row(self, shape: Sequence[int], /) -> tuple[int, ...]:
        """The shape without the axis of the image's channels, where that is one of its own."""
        return tuple(size for axis, size in enumerate(shape) if axis != self.channels)

    def grid_of(self, shape: Sequence[int], /) -> tuple[int, ...]:
        """*s of an output of this shape."""
        if self.axes == "tokens":
            return self.grid
        row = self.row(shape)
        return row[1:-1] if self.axes == "channels_last" else row[2:]

    def channels_of(self, shape: Sequence[int], /) -> int:
        """C of an output of this shape."""
        row = self.row(shape)
        each = row[1] if self.axes == "channels_first" else row[-1]
        return each * max(1, len(self.stains))

    def __str__(self) -> str:
        texts = [self.axes.replace("_", " ")]
        texts += [f"{self.prefix} before the grid"] if self.prefix else []
        if isinstance(self.channels, int):
            texts.append(f"stains on axis {self.channels}")
        elif self.channels != "none":
            texts.append(_APART[self.channels])
        return ", ".join(texts)


@dataclass(frozen=True)
class LayoutOptions:
    """What the user says of the layouts, where a dry run cannot find it; it is checked by one.

    ``axes`` concerns the layers whose layout no dry run shows; the others are those of token
    layers: how many tokens come before the positions, how many positions each axis has, and whether
    all positions of one channel of the image come first, or all channels of one position (last).
    """

    axes: Axes = "auto"
    prefix: int | None = None
    grid: tuple[int, ...] | None = None
    channels: Stated = "auto"

    def __post_init__(self) -> None:
        choose(self.axes, _AXES, option="layout.axes")
        choose(self.channels, get_args(Stated), option="layout.channels")
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

    @property
    def of_tokens(self) -> str:
        """What is said of tokens, as it was given."""
        given = {"grid": list(self.grid or ()), "prefix": self.prefix, "channels": self.channels}
        empty: tuple[Any, ...] = ([], None, "auto")
        said = [f"layout.{name}={value}" for name, value in given.items() if value not in empty]
        return ", ".join(said)

    def allow(self, layout: Layout, /) -> bool:
        """Whether a layout of tokens is as is said here."""
        return (
            self.grid in (None, layout.grid)
            and self.prefix in (None, layout.prefix)
            and self.channels in ("auto", layout.channels)
        )


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


def _split(values: Tensor, axis: int, sizes: tuple[int, ...]) -> Tensor:
    split: Tensor = values.unflatten(axis, sizes)  # type: ignore[no-untyped-call]  # torch
    return split


SLIGHT = 1e-6
"""Changes below this share of the largest are rounding."""


class _EnoughSeen(Exception):  # noqa: N818  # no error: it ends a forward pass early
    pass


@contextmanager
def watching(
    modules: Mapping[str, nn.Module],
    see: Callable[[str, Any], None],
    /,
    given: Callable[[str, Any], None] | None = None,
) -> Iterator[None]:
    """Show ``see`` the name and output of each module whenever it finishes inside ``with``.

    And ``given`` what it gets, the first tensor of it, before it begins. Of TorchScript nothing is
    seen: it takes no hooks.
    """

    def after(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _args, output: see(name, output)

    def before(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
            if given is not None and tensors:
                given(name, tensors[0])

        return hook

    handles = []
    for name, module in modules.items():
        if not isinstance(module, torch.jit.ScriptModule):
            handles.append(module.register_forward_hook(after(name)))
            if given is not None:
                handles.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
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


class Sight(NamedTuple):
    """Where a tensor is seen: what a module gets, or what it puts out."""

    name: str
    side: Literal["in", "out"]


class Changes(NamedTuple):
    """Which values of a tensor change with the first of two crops, bool; its calls joined."""

    anywhere: Tensor
    """With all of that crop."""
    slices: tuple[Tensor, ...]
    """With its lower end along each axis."""
    channels: tuple[Tensor, ...]
    """With each of its channels."""

    @property
    def alive(self) -> tuple[int, ...]:
        """The channels that change anything."""
        return tuple(number for number, change in enumerate(self.channels) if change.any())


def measure_changes(
    model: nn.Module, sights: Mapping[Sight, int], inputs: Tensor, others: Sequence[Tensor]
) -> dict[Sight, Changes]:
    """What changes where, with noise for crops; ``sights`` say how often each is seen in a pass.

    Costs 2 + the number of axes and of channels forward passes of two crops, each only up to the
    last of the sights.
    """
    generator = torch.Generator().manual_seed(0)
    modules = dict(model.named_modules())
    watched = {name: modules[name] for name, _ in sights}
    pairs = [torch.cat([each, each]) for each in others]

    def noise() -> Tensor:
        drawn = torch.randn(inputs.shape, generator=generator, dtype=torch.float64)
        return drawn.to(inputs)

    plain, other, beside = noise(), noise(), noise()

    def seen(image: Tensor) -> dict[Sight, Tensor]:
        kept: dict[Sight, list[Tensor]] = {sight: [] for sight in sights}

        def see(sight: Sight, value: Any) -> None:
            hidden = hidden_state(value)
            if sight not in kept or hidden is None:
                return
            kept[sight].append(hidden.detach().to(torch.float64, copy=True))
            if all(len(kept[each]) == calls for each, calls in sights.items()):
                raise _EnoughSeen

        with (
            suppress(_EnoughSeen),
            torch.random.fork_rng(devices=[]),
            watching(
                watched,
                lambda name, value: see(Sight(name, "out"), value),
                lambda name, value: see(Sight(name, "in"), value),
            ),
        ):
            torch.manual_seed(0)  # a model that is random is the same in every pass
            call(model, torch.cat([image, beside]), *pairs)
        return {sight: torch.cat(each) for sight, each in kept.items()}

    base = seen(plain)

    def changed(at: tuple[slice, ...]) -> dict[Sight, Tensor]:
        image = plain.clone()
        image[at] = other[at]
        found = {}
        for sight, after in seen(image).items():
            change = (after - base[sight]).abs()
            change = change > SLIGHT * change.amax()
            found[sight] = change.any(2, keepdim=True) if change.ndim == 3 else change
        return found

    every = slice(None)
    anywhere = changed((every,))
    ends = [changed((*[every] * axis, slice(0, 1))) for axis in range(2, inputs.ndim)]
    count = inputs.shape[1]
    single = [changed((every, slice(c, c + 1))) for c in range(count)] if count > 1 else [anywhere]
    return {
        sight: Changes(
            anywhere[sight], tuple(e[sight] for e in ends), tuple(c[sight] for c in single)
        )
        for sight in sights
    }


def _candidates(
    changes: Changes, calls: int, space: Sequence[int], axes: Sequence[Any], options: LayoutOptions
) -> Iterator[Layout]:
    """Every layout that a tensor of this shape can have, by what is said in the options."""
    shape, alive = tuple(changes.anywhere.shape), changes.alive
    rows = shape[0] // 2
    ways: list[Layout] = []
    if rows == 1:
        own = [axis for axis in range(1, len(shape)) if shape[axis] == len(alive) > 1]
        ways = [Layout(), *(Layout(channels=axis, stains=alive) for axis in own)]
    elif rows == len(alive):
        ways = [Layout(channels="stacked", stains=alive)]
        ways += [Layout(channels="folded", stains=alive)] if calls == 1 else []
    for way in ways:
        row = way.row(shape)
        if len(row) == len(space) + 2:
            yield from (replace(way, axes=each) for each in axes)
        elif len(row) == 3:
            yield from _token_candidates(way, row[1], changes, space, options)


def _token_candidates(
    way: Layout, count: int, changes: Changes, space: Sequence[int], options: LayoutOptions
) -> Iterator[Layout]:
    flat = replace(way, axes="tokens", grid=(count,))
    reached = flat.to_grid(changes.anywhere)[0].any(0)
    unreached = int((~reached).long().cumprod(0).sum())
    alive = changes.alive
    yield from _on_grids(flat, count, unreached, space, options)
    if way.channels == "none" and len(alive) > 1:
        for order in ("first", "last"):
            apart = replace(flat, channels=order, stains=alive)
            yield from _on_grids(apart, count, unreached, space, options)


def _on_grids(
    layout: Layout, count: int, prefix: int, space: Sequence[int], options: LayoutOptions
) -> Iterator[Layout]:
    each = len(layout.stains) if layout.merged else 1
    if options.prefix is not None:
        prefix = options.prefix
    elif options.grid is not None:
        prefix = count - each * math.prod(options.grid)
    positions, rest = divmod(count - prefix, each)
    if prefix < 0 or positions < 1 or rest:
        return
    grids = _grids(positions, space) if options.grid is None else [options.grid]
    for grid in grids:
        fits = len(grid) == len(space) and math.prod(grid) == positions
        if fits and not (layout.channels == "last" and positions == 1):  # the same as first
            yield replace(layout, grid=grid, prefix=prefix)


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


def _explained(layout: Layout, changes: Changes) -> Layout | None:
    """The layout with the order of its channels, if it explains what changed.

    A cell changes nothing of another. A slice at the lower end of an axis reaches the lower end of
    that axis of the grid, and all of the rest. A channel reaches its own positions, all of them and
    no others, where channels are apart, else every position or none. Of convolutions on single
    channels it need not be all, for behind them many a position is 0.
    """
    count = max(1, len(layout.stains))

    def where(change: Tensor) -> Tensor:
        grid = layout.to_grid(change)
        return _split(grid, 1, (count, -1)).any(2).flatten(2)  # (2, channels, positions)

    if where(changes.anywhere)[1].any():
        return None
    hits = torch.stack([where(change)[0] for change in changes.channels])
    touched = hits.any(2)
    if layout.axes == "tokens" or layout.channels not in ("folded", "stacked"):
        if not where(changes.anywhere)[0].all() or not torch.equal(touched, hits.all(2)):
            return None
        grid = layout.grid_of(changes.anywhere.shape)
        for axis, change in enumerate(changes.slices):
            if not all(_at_lower_end(each, grid, axis) for each in where(change)[0]):
                return None
    if not layout.stains:
        return layout
    if layout.merged and hits[list(changes.alive)].all():  # they are mixed already
        return layout
    if not (touched.sum(0) == 1).all() or touched.sum(1).max() > 1:
        return None
    return replace(layout, stains=tuple(touched.int().argmax(0).tolist()))


def _at_lower_end(touched: Tensor, grid: tuple[int, ...], axis: int) -> bool:
    """Whether what is touched is the lower end of one axis of the grid, and all of the rest."""
    lines = touched.view(grid).movedim(axis, 0).flatten(1)
    along = lines[:, 0]
    whole = bool((lines == along[:, None]).all())
    return whole and bool(along[0]) and not bool((along[1:] & ~along[:-1]).any())


def _is_sharp(layout: Layout, changes: Changes) -> bool:
    """Whether slices and channels show where the positions lie: they do not reach all of them."""
    if layout.axes != "tokens" and layout.channels in ("folded", "stacked"):
        return True
    if layout.merged:
        apart = layout.to_grid(changes.channels[layout.stains[0]])[0]
        if _split(apart, 0, (len(layout.stains), -1)).any(1).all():
            return False
    grid = layout.grid_of(changes.anywhere.shape)
    return all(
        size == 1 or not layout.to_grid(change)[0].any(0).all()
        for size, change in zip(grid, changes.slices, strict=True)
    )


@contextmanager
def _random_weights(model: nn.Module) -> Iterator[None]:
    """Other weights inside: where the positions lie is a matter of the code, not of the weights.

    A trained model may be blind to parts of the image.
    """
    generator = torch.Generator().manual_seed(0)
    own = [(each, each.data) for each in model.parameters() if each.is_floating_point()]
    try:
        for each, data in own:
            drawn = torch.randn(data.shape, generator=generator)
            drawn = 1 + 0.1 * drawn if data.ndim < 2 else drawn / data[0].numel() ** 0.5
            each.data = drawn.to(data)
        yield
    finally:
        for each, data in own:
            each.data = data


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
    def repeats(self) -> bool:
        """Whether it runs several times, and not once for each of the image's channels."""
        return self.calls > 1 and not (self.layout and self.layout.stains)

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
    seen: dict[Sight, list[tuple[int, ...] | None]] = {}

    def see(name: str, side: Literal["in", "out"], value: Any) -> None:
        hidden = hidden_state(value)
        shape = None if hidden is None else tuple(hidden.shape)
        seen.setdefault(Sight(name, side), []).append(shape)

    sealed = isinstance(model, SealedModel)
    modules = {name: module for name, module in model.named_modules() if name and not sealed}
    with watching(
        modules,
        lambda name, output: see(name, "out", output),
        lambda name, value: see(name, "in", value),
    ):
        call(model, inputs, *others)
    ran = [
        LayerInfo(name, modules[name], len(shapes), shapes[-1])
        for (name, side), shapes in seen.items()
        if side == "out"
    ]
    first = inputs[:1], [other[:1] for other in others]
    ran = _with_layouts(ran, seen, model, len(inputs), *first, layout or LayoutOptions())
    return _with_shortcuts(_with_depth(ran), model, *first)


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


class _Axes(NamedTuple):
    """Where a layer with as many axes as the input has its channels, as far as is known."""

    axes: Literal["channels_first", "channels_last"] | None
    sure: bool
    """Whether that needs no measuring."""
    stated: bool = False


def _axes_of(
    ran: Sequence[LayerInfo],
    model: nn.Module,
    inputs: Tensor,
    others: Sequence[Tensor],
    options: LayoutOptions,
) -> dict[str, _Axes]:
    """Of outputs with as many axes as the input, by what the modules are, or by a larger crop."""
    fitting = {
        info.name: (info.module, info.shape)
        for info in ran
        if info.shape is not None and len(info.shape) == inputs.ndim
    }
    anchors = {name: anchor_of(module, shape) for name, (module, shape) in fitting.items()}
    # Where linear layers work on positions, an output can also be channels last, or an attention.
    mixed = any(
        len(info.shape or ()) > 2 and anchor_of(info.module, info.shape or ()) == "channels_last"
        for info in ran
    )
    unclear = {name: each for name, each in fitting.items() if anchors[name] != "channels_first"}
    grown = measure_axes(model, unclear, inputs, others) if mixed else {}
    stated = options.axes if options.axes in ("channels_first", "channels_last") else None
    found = {}
    for name, anchor in anchors.items():
        if anchor == "channels_first":
            found[name] = _Axes(anchor, sure=True)
        elif name in grown and anchor in (None, grown[name].axes):
            found[name] = _Axes(grown[name].axes, sure=True)  # type: ignore[arg-type]  # no tokens
        elif anchor is not None:
            found[name] = _Axes(anchor, sure=False)
        elif stated is not None:
            found[name] = _Axes(stated, sure=False, stated=True)
        else:
            found[name] = _Axes(None if mixed else "channels_first", sure=not mixed)
    return found


def _with_layouts(
    ran: list[LayerInfo],
    seen: Mapping[Sight, Sequence[tuple[int, ...] | None]],
    model: nn.Module,
    n: int,
    inputs: Tensor,
    others: Sequence[Tensor],
    options: LayoutOptions,
) -> list[LayerInfo]:
    """Layouts of all layers: by what they are, else measured, once for each kind of output."""
    axes = _axes_of(ran, model, inputs, others, options)
    count = inputs.shape[1]
    plain = {
        info.name: Layout(known.axes)
        for info in ran
        if (known := axes.get(info.name))
        and known.axes
        and known.sure
        and _rows(info, n, seen) == 1
    }
    asked: dict[str, _Question] = {}
    for info in ran:
        shape, known = info.shape or (), axes.get(info.name, _Axes(None, sure=False))
        learned = info.calls == 1 or any(True for _ in info.module.parameters())
        if info.name in plain or not learned or not 1 <= _rows(info, n, seen) <= count:
            continue
        if len(shape) == 3 or known.axes or shape[1:].count(count):
            sight = _sight(info, ran, axes, seen)
            asked[info.name] = _Question(sight, info.calls, shape[:-1], known)
    answers: dict[str, Layout | str] = dict(plain)
    found = _answers(set(asked.values()), model, inputs, others, options)
    answers |= {name: found[question] for name, question in asked.items()}
    return [_answered(info, axes.get(info.name), answers.get(info.name), n) for info in ran]


class _Question(NamedTuple):
    """What is to be measured of layers alike, and where."""

    sight: Sight
    calls: int
    shape: tuple[int, ...]
    """But for the last axis."""
    known: _Axes


def _rows(info: LayerInfo, n: int, seen: Mapping[Sight, Sequence[tuple[int, ...] | None]]) -> int:
    """How many rows a layer puts out for each of ``n`` cells, in all calls; 0 if unclear."""
    shapes = set(seen[Sight(info.name, "out")])
    if len(shapes) > 1 or info.shape is None or len(info.shape) < 3 or 0 in info.shape:
        return 0
    rows, rest = divmod(info.calls * info.shape[0], n)
    return 0 if rest or (info.calls > 1 and info.shape[0] != n) else rows


def _sight(
    info: LayerInfo,
    ran: Sequence[LayerInfo],
    axes: Mapping[str, _Axes],
    seen: Mapping[Sight, Sequence[tuple[int, ...] | None]],
) -> Sight:
    """Where such an output is seen first, before attention mixes its positions."""
    shape = info.shape or ()
    if len(shape) == 3:
        return next(
            sight
            for sight, shapes in seen.items()
            if len(shapes) == info.calls
            and all(each is not None and len(each) == 3 for each in shapes)
            and {(each or ())[:2] for each in shapes} == {shape[:2]}
        )
    kind = info.calls, shape[:-1], axes.get(info.name)
    return next(
        Sight(each.name, "out")
        for each in ran
        if (each.calls, (each.shape or ())[:-1], axes.get(each.name)) == kind
    )


def _answers(
    asked: Collection[_Question],
    model: nn.Module,
    inputs: Tensor,
    others: Sequence[Tensor],
    options: LayoutOptions,
) -> dict[_Question, Layout | str]:
    """The layout that answers each question, or why it stays unknown."""
    space = tuple(inputs.shape[2:])
    known: dict[_Question, list[Changes]] = {question: [] for question in asked}
    measured: dict[_Question, Layout | None] = dict.fromkeys(asked)
    for weights in (nullcontext(), _random_weights(model)):
        left = [question for question, answer in measured.items() if answer is None]
        if not left:
            break
        try:
            with weights:
                sights = {each.sight: each.calls for each in left}
                found = measure_changes(model, sights, inputs, others)
        except Exception as error:  # a model may raise anything
            if is_out_of_memory(error):
                raise
            continue
        for each in left:
            known[each].append(found[each.sight])
            measured[each] = _measured(each, found[each.sight], space)
    return {each: _checked(measured[each], each, known[each], space, options) for each in asked}


def _fitting(
    question: _Question, changes: Changes, space: Sequence[int], options: LayoutOptions
) -> list[Layout]:
    """Every layout that explains what changed."""
    rows = len(changes.anywhere) // 2
    axes = ("channels_first", "channels_last") if rows == 1 else (question.known.axes,)
    return [
        found
        for layout in _candidates(changes, question.calls, space, axes, options)
        if layout.axes is not None and (found := _explained(layout, changes))
    ]


def _measured(question: _Question, changes: Changes, space: Sequence[int]) -> Layout | None:
    """The layout that the dry run shows, if it shows one."""
    fitting = _fitting(question, changes, space, LayoutOptions())
    return fitting[0] if len(fitting) == 1 and _is_sharp(fitting[0], changes) else None


def _checked(
    measured: Layout | None,
    question: _Question,
    known: Sequence[Changes],
    space: Sequence[int],
    options: LayoutOptions,
) -> Layout | str:
    """What was measured, if it is as was said; what was said, if nothing was measured."""
    shape, axes = question.shape, question.known.axes
    count, said = math.prod(shape[1:]), options.of_tokens
    if measured and measured.axes == "tokens":
        if options.axes not in ("auto", "tokens"):
            return f"layout.axes={options.axes} is asked for, and the dry run shows tokens"
        if options.allow(measured):
            return measured
        return f"its {count} tokens do not fit {said}: the dry run shows {_said_of(measured)}"
    if measured and (measured.stains or not axes or measured.axes == axes):
        return measured if axes or measured.stains else _WHICH
    if len(shape) != 2:
        plain = Layout(axes or "channels_first")
        every = [each for changes in known for each in _fitting(question, changes, space, options)]
        if axes and (plain in every or (question.known.stated and not every)):
            return plain
        if question.known.stated:
            return f"layout.axes={axes} is not what the dry run shows"
        return _WHICH if axes is None else "its axes are not those of the image"
    if options.axes not in ("auto", "tokens"):
        return f"layout.axes={options.axes} is asked for, and it has three axes"
    stated = {
        each
        for changes in known[-1:]
        for each in _fitting(question, changes, space, options)
        if options.allow(each)
    }
    if said and len(stated) == 1:
        return stated.pop()
    if said and not stated:
        return f"its {count} tokens do not fit {said}"
    why = "tokens are mixed before they can be seen" if stated else "they lie on no regular grid"
    return f"where its {count} tokens lie could not be measured ({why}); {_ASK}"


def _said_of(layout: Layout) -> str:
    shown = f"layout.grid={list(layout.grid)}, layout.prefix={layout.prefix}"
    if layout.channels in ("none", *get_args(Stated)):
        return f"{shown}, layout.channels={layout.channels}"
    return f"{shown}, and {layout}"


_WHICH = (
    "which of its axes are channels cannot be measured, since the model takes no larger crop; "
    "unless it is a matrix of attention, say layout.axes=channels_first or "
    "layout.axes=channels_last"
)
_ASK = (
    "say layout.grid=[...], the number of positions along each axis, layout.prefix=..., the number "
    "of tokens before them (class token, registers), and layout.channels=none, or first or last "
    "where every channel of the image has its own"
)


def _answered(
    info: LayerInfo, known: _Axes | None, answer: Layout | str | None, n: int
) -> LayerInfo:
    if isinstance(answer, Layout):
        return replace(info, layout=answer)
    if known is not None and info.shape is not None and info.shape[0] == n:
        if info.calls > 1 and known.axes:  # it has no map, and yet a grid
            return replace(info, layout=Layout(known.axes))
        answer = answer or ("" if known.axes else _WHICH)
    return replace(info, reason=answer or "")


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
    grids = {info.name: info for info in ran if info.wide and not info.repeats}
    kept: dict[str, list[tuple[Tensor, Any]]] = {}

    def see(name: str, found: Any) -> None:
        hidden = hidden_state(found)
        if hidden is not None and hidden.requires_grad:
            # the node as it is before any in-place change
            kept.setdefault(name, []).append((hidden, hidden.grad_fn))

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
        layers = [hidden for calls in kept.values() for hidden, _ in calls]
        try:
            gradients = torch.autograd.grad(root, layers, allow_unused=True, retain_graph=True)
        except Exception:  # noqa: BLE001  # of a backward or a hook of the user's
            return set()
    if not _leads(root, image, ()):
        return set()
    flowing = dict(zip(map(id, layers), gradients, strict=True))
    return {
        name
        for name, calls in kept.items()
        if _reaches(grids[name], [(hidden, flowing[id(hidden)]) for hidden, _ in calls])
        and not _leads(root, image, [node for _, node in calls])
    }


def _leads(root: Tensor, image: Tensor, without: Collection[Any]) -> bool:
    """Whether a way leads from ``root`` to the image, and through none of these nodes."""
    behind = nodes(root.grad_fn, stop=without)
    return any(getattr(node, "variable", None) is image for node in behind)


def _reaches(info: LayerInfo, calls: Sequence[tuple[Tensor, Tensor | None]]) -> bool:
    """Whether the output depends on more of the layer than its prefix tokens."""
    if all(gradient is None for _, gradient in calls):
        return False
    if info.layout is None or not info.layout.prefix:
        return True
    flowing = [torch.zeros_like(hidden) if each is None else each for hidden, each in calls]
    return bool(info.layout.to_grid(torch.cat(flowing)).any())


def _tensors(found: Any, output: str | int | None) -> list[Tensor]:
    """What is explained, or, where that is not said, the first tensor of what a model returns."""
    if output is not None and not isinstance(found, Tensor):
        found = found[output]
    if isinstance(found, Mapping):
        found = list(found.values())
    items = found if isinstance(found, list | tuple) else [found]
    return [item for item in items if isinstance(item, Tensor) and item.ndim][:1]
