"""Layouts of outputs: which axes hold channels, which token is where; measured if need be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from attrscore.core.model import call
from attrscore.errors import ConfigError, choose

__all__ = [
    "Layout",
    "LayoutOptions",
    "anchor_of",
    "hidden_state",
    "measure_axes",
    "measure_tokens",
    "replace_hidden_state",
    "watching",
]

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


def anchor_of(module: nn.Module, shape: Sequence[int], /) -> str | None:
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
