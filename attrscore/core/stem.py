"""The convolution that a network begins with: what is straight before it is straight behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["PassedByError", "Stem", "find_stem"]

_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)  # not subclasses, which may do something else
_PADS = (nn.ConstantPad2d, nn.ConstantPad3d, nn.ZeroPad2d, nn.ZeroPad3d, nn.Identity)


class PassedByError(Exception):
    """The network gave its stem something else than its input."""


class Stem:
    """Paddings and a convolution: each takes what the one before puts out, the first the input."""

    def __init__(self, layers: Sequence[nn.Module], /) -> None:
        self.layers = tuple(layers)

    def __call__(self, inputs: Tensor, /) -> Tensor:
        """What they make of inputs (N, C, *S): (N, C', *s)."""
        for layer in self.layers:
            inputs = layer(inputs)
        return inputs

    def back(self, inputs: Tensor, gradient: Tensor, /) -> Tensor:
        """The gradient (N, C', *s) behind the stem as one before it, like ``inputs``."""
        leaf = inputs.detach().requires_grad_()
        (found,) = torch.autograd.grad(self(leaf), leaf, gradient)
        return found

    @contextmanager
    def replaced(self, inputs: Tensor, outputs: Tensor, /) -> Iterator[None]:
        """Inside, the network takes ``outputs`` for what the stem makes of ``inputs``.

        :raises PassedByError: while it runs, where the stem is given anything else.
        """
        follow = _Follow(inputs)

        def instead(layer: nn.Module) -> Callable[[Tensor], Tensor]:
            def forward(values: Tensor) -> Tensor:
                if not follow.is_at(values):
                    raise PassedByError
                if layer is self.layers[-1]:
                    return outputs.clone()  # the next layer may work in place
                return follow.go(type(layer).forward(layer, values))

            return forward

        try:
            for layer in self.layers:
                vars(layer)["forward"] = instead(layer)
            yield
        finally:
            for layer in self.layers:
                vars(layer).pop("forward", None)


def find_stem(model: nn.Module, run: Callable[[], Any], /) -> Stem | None:
    """The layers up to the convolution that takes the input of ``model`` while ``run`` runs it.

    None where something else takes it. Whether the input has another way is not looked at.
    """
    layers: list[nn.Module] = []
    follow = _Follow(torch.empty(0))

    def begin(_model: nn.Module, args: tuple[Any, ...]) -> None:
        follow.go(args[0])

    def watch(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if follow.is_at(args[0]) and not isinstance(layers[-1] if layers else None, _CONVOLUTIONS):
            layers.append(module)
            follow.go(output)

    handles = [model.register_forward_pre_hook(begin)]
    handles += [each.register_forward_hook(watch) for each in model.modules() if _is_plain(each)]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    alone = len(set(layers)) == len(layers)
    return Stem(layers) if layers and isinstance(layers[-1], _CONVOLUTIONS) and alone else None


class _Follow:
    """A tensor on its way through layers; it is another one once it was changed in place."""

    def __init__(self, tensor: Tensor) -> None:
        self.go(tensor)

    def go(self, tensor: Tensor) -> Tensor:
        self._tensor, self._version = tensor, tensor._version
        return tensor

    def is_at(self, tensor: Tensor) -> bool:
        return tensor is self._tensor and tensor._version == self._version


def _is_plain(module: nn.Module) -> bool:
    """A padding or convolution as its class says: nobody has hooked or patched it."""
    return (
        type(module) in (*_CONVOLUTIONS, *_PADS)
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and "forward" not in vars(module)
    )
