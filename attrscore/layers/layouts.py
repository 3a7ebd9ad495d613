"""Where a layer's output keeps its channels and its places: what Grad-CAM must never mix up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from attrscore.errors import ConfigError, choose

__all__ = ["Layout", "LayoutOptions", "anchor_of", "hidden_state", "replace_hidden_state"]

Axes = Literal["auto", "channels_first", "channels_last", "tokens"]
_AXES = ("auto", "channels_first", "channels_last", "tokens")


@dataclass(frozen=True)
class Layout:
    """How a layer's output becomes (N, C, *s).

    ``channels_first`` is (N, C, *s), ``channels_last`` (N, *s, C), and ``tokens`` (N, T, C) with
    ``prefix`` tokens (class, registers) and then one for each place of ``grid``, the last axis
    fastest.
    """

    axes: Literal["channels_first", "channels_last", "tokens"] = "channels_first"
    grid: tuple[int, ...] = ()
    """*s of tokens; empty for the others, whose shape tells."""
    prefix: int = 0

    def fits(self, shape: Sequence[int], axes: int, /) -> bool:
        """Whether an output of this shape can be so laid out, for inputs with ``axes`` axes."""
        if self.axes == "tokens":
            places = 1
            for size in self.grid:
                places *= size
            return len(shape) == 3 and shape[1] == self.prefix + places
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

    ``axes`` concerns the layers whose layout no dry run tells; ``prefix`` and ``grid`` are those of
    token layers: how many tokens come before the places, and how many places each axis has.
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
