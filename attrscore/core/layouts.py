"""How a layer's output lies on the image: stated, or measured by what changes where."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from attrscore.core.model import call
from attrscore.core.options import from_mapping
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
    ``prefix`` tokens (class, registers), then one for each position of ``grid``, the last axis
    fastest, and then ``suffix`` more.

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
    suffix: int = 0

    @property
    def merged(self) -> bool:
        """Whether the image's channels lie on the axis of the tokens."""
        return self.channels in ("first", "last")

    def fits(self, shape: Sequence[int], axes: int, /) -> bool:
        """Whether an output of this shape can be so laid out, for inputs with ``axes`` axes."""
        row = self.row(shape)
        if self.axes == "tokens":
            positions = math.prod(self.grid) * (len(self.stains) if self.merged else 1)
            return len(row) == 3 and row[1] == self.prefix + positions + self.suffix
        return len(row) == axes + 2

    def to_grid(self, values: Tensor, /) -> Tensor:
        """(N, C, *s) of what lies as the layer's output does, prefix tokens left out."""
        if self.merged:
            values = self._on_image(values)
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
            positions = values if self.merged else self._on_image(values)
            values = _split(positions.mT, 2, self.grid)
        return _split(values, 0, (-1, count)).flatten(1, 2) if count else values

    def _on_image(self, tokens: Tensor) -> Tensor:
        return tokens[:, self.prefix : tokens.shape[1] - self.suffix]

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
        texts += [f"{self.suffix} behind the grid"] if self.suffix else []
        if isinstance(self.channels, int):
            texts.append(f"stains on axis {self.channels}")
        elif self.channels != "none":
            texts.append(_APART[self.channels])
        return ", ".join(texts)


@dataclass(frozen=True)
class LayoutOptions:
    """What the user says of the layouts, where a dry run cannot find it; it is checked by one.

    ``axes`` concerns the layers whose layout no dry run shows; the others are those of token
    layers: how many tokens come before the positions, how many positions each axis has (tokens left
    over come behind them), and whether all positions of one channel of the image come first, or all
    channels of one position (last).
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
        if isinstance(given, str):
            return cls(axes=given)  # type: ignore[arg-type]  # checked when it is made
        return from_mapping(cls, given, of="layout")

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
    """Which values of a tensor change with the first of the crops, bool; its calls joined."""

    anywhere: Tensor
    """With all of that crop."""
    slices: tuple[Tensor, ...]
    """With its lower end along each axis."""
    channels: tuple[Tensor, ...]
    """With each of its channels."""
    crops: int
    """One, or two, of which the second stays as it is."""

    @property
    def rows(self) -> int:
        """Of a crop."""
        return len(self.anywhere) // self.crops

    @property
    def alive(self) -> tuple[int, ...]:
        """The channels that change anything."""
        return tuple(number for number, change in enumerate(self.channels) if change.any())


def measure_changes(
    model: nn.Module,
    sights: Mapping[Sight, int],
    inputs: Tensor,
    others: Sequence[Tensor],
    *,
    crops: int,
) -> dict[Sight, Changes]:
    """What changes where, with noise for crops; ``sights`` say how often each is seen in a pass.

    Costs 2 + the number of axes and of channels forward passes, each only up to the last of the
    sights.
    """
    generator = torch.Generator().manual_seed(0)
    modules = dict(model.named_modules())
    watched = {name: modules[name] for name, _ in sights}
    beside = [torch.cat([each] * crops) for each in others]

    def noise() -> Tensor:
        drawn = torch.randn(inputs.shape, generator=generator, dtype=torch.float64)
        return drawn.to(inputs)

    plain, other, *rest = (noise() for _ in range(crops + 1))

    def seen(image: Tensor) -> dict[Sight, Tensor]:
        kept: dict[Sight, list[Tensor]] = {sight: [] for sight in sights}

        def see(sight: Sight, value: Any) -> None:
            hidden = hidden_state(value)
            if sight not in kept or hidden is None:
                return
            kept[sight].append(hidden.detach().clone())
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
            call(model, torch.cat([image, *rest]), *beside)
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
            anywhere[sight],
            tuple(each[sight] for each in ends),
            tuple(each[sight] for each in single),
            crops,
        )
        for sight in sights
    }


def candidates(
    changes: Changes, calls: int, space: Sequence[int], axes: Sequence[Any], options: LayoutOptions
) -> Iterator[Layout]:
    """Every layout that a tensor of this shape can have, by what is said in the options."""
    shape, alive = tuple(changes.anywhere.shape), changes.alive
    ways: list[Layout] = []
    if changes.rows == 1:
        own = [axis for axis in range(1, len(shape)) if shape[axis] == len(alive) > 1]
        ways = [Layout(), *(Layout(channels=axis, stains=alive) for axis in own)]
    elif changes.rows == len(alive) > 1:
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
    beside = [int((~each).long().cumprod(0).sum()) for each in (reached, reached.flip(0))]
    alive = changes.alive
    yield from _on_grids(flat, count, beside, space, options)
    if way.channels == "none" and len(alive) > 1:
        for order in ("first", "last"):
            apart = replace(flat, channels=order, stains=alive)
            yield from _on_grids(apart, count, beside, space, options)


def _on_grids(
    layout: Layout,
    count: int,
    beside: Sequence[int],
    space: Sequence[int],
    options: LayoutOptions,
) -> Iterator[Layout]:
    """Of so many tokens, those ``beside`` the positions before and behind, if nothing is said."""
    each = len(layout.stains) if layout.merged else 1
    prefix, suffix = beside
    if options.prefix is not None:
        prefix = options.prefix
    if options.grid is not None:
        left = count - each * math.prod(options.grid)
        if options.prefix is None:
            prefix = left - suffix
        else:
            suffix = left - prefix
    positions, rest = divmod(count - prefix - suffix, each)
    if min(prefix, suffix) < 0 or positions < 1 or rest:
        return
    grids = _grids(positions, space) if options.grid is None else [options.grid]
    for grid in grids:
        fits = len(grid) == len(space) and math.prod(grid) == positions
        if fits and not (layout.channels == "last" and positions == 1):  # the same as first
            yield replace(layout, grid=grid, prefix=prefix, suffix=suffix)


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


def explained(layout: Layout, changes: Changes) -> Layout | None:
    """The layout with the order of its channels, if it explains what changed.

    A cell changes nothing of another. A slice at the lower end of an axis reaches the lower end of
    that axis of the grid, and all of the rest. A channel reaches its own positions, all of them and
    no others, where channels are apart, else every position or none. Of convolutions on single
    channels it need not be all, for behind them many a position is 0.
    """
    count = max(1, len(layout.stains))

    def where(change: Tensor) -> Tensor:
        grid = layout.to_grid(change)
        return _split(grid, 1, (count, -1)).any(2).flatten(2)  # (crops, channels, positions)

    if where(changes.anywhere)[1:].any():
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
    order = apart(layout, changes)
    return replace(layout, stains=order) if order else None


def apart(layout: Layout, changes: Changes) -> tuple[int, ...]:
    """Which channel of the image changes what each channel's axis holds; empty if not one each."""
    count = len(layout.stains)
    grids = [layout.to_grid(change)[0] for change in changes.channels]
    touched = torch.stack([_split(grid, 0, (count, -1)).flatten(1).any(1) for grid in grids])
    if not (touched.sum(0) == 1).all() or touched.sum(1).max() > 1:
        return ()
    return tuple(touched.int().argmax(0).tolist())


def _at_lower_end(touched: Tensor, grid: tuple[int, ...], axis: int) -> bool:
    """Whether what is touched is the lower end of one axis of the grid, and all of the rest."""
    lines = touched.view(grid).movedim(axis, 0).flatten(1)
    along = lines[:, 0]
    whole = bool((lines == along[:, None]).all())
    return whole and bool(along[0]) and not bool((along[1:] & ~along[:-1]).any())


def is_sharp(layout: Layout, changes: Changes) -> bool:
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
def random_weights(model: nn.Module) -> Iterator[None]:
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
