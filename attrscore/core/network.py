"""A network while it is asked, left as it was found, and its output as scores."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attrscore.core.contracts import Target
from attrscore.core.wrappers import call, parts_of, uncompiled
from attrscore.errors import ConfigError, UnsupportedError, did_you_mean, preview

__all__ = ["Explained", "as_found", "check_output", "wide"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@contextmanager
def as_found(model: nn.Module, /) -> Iterator[None]:
    """Inside: eval mode, frozen parameters, gradients on, nothing compiled. Afterwards: as before.

    That is the training flag and the hooks of every submodule, ``requires_grad`` and ``grad`` of
    every parameter, and the state of the random generators; also after an exception.

    :raises UnsupportedError: under ``torch.inference_mode``, where autograd cannot work.
    """
    if torch.is_inference_mode_enabled():
        raise UnsupportedError(
            "Attributions need gradients, and torch.inference_mode() forbids them; "
            "call attrscore outside of it (torch.no_grad() is no obstacle)."
        )
    modules = parts_of(model)
    parameters = [p for module in modules for p in module._parameters.values() if p is not None]
    training = [module.training for module in modules]
    frozen = [(p.requires_grad, p.grad) for p in parameters]
    hooks = {id(registered): set(registered) for registered in _hooks(modules)}
    devices = sorted({p.device.index or 0 for p in parameters if p.device.type == "cuda"})
    drawn = random.getstate(), np.random.get_state()  # noqa: NPY002  # Captum draws from it
    with torch.random.fork_rng(devices=devices):
        try:
            if any(training):
                model.eval()
            for parameter in parameters:
                if parameter.requires_grad:
                    parameter.requires_grad_(False)  # noqa: FBT003  # torch names it so
            with torch.enable_grad(), uncompiled(model):
                yield
        finally:
            for module, flag in zip(modules, training, strict=True):
                if module.training != flag:  # setting an attribute of a module is slow
                    module.training = flag
            for registered in _hooks(modules):
                for key in registered.keys() - hooks.get(id(registered), set()):
                    del registered[key]
            for parameter, (flag, grad) in zip(parameters, frozen, strict=True):
                if parameter.requires_grad != flag:
                    parameter.requires_grad_(flag)
                if parameter.grad is not grad:
                    parameter.grad = grad
            random.setstate(drawn[0])
            np.random.set_state(drawn[1])  # noqa: NPY002  # as above


def _hooks(modules: Sequence[nn.Module]) -> list[dict[int, Any]]:
    """The hooks of each kind of the modules that have some."""
    return [some for module in modules for name in _HOOKS if (some := module.__dict__[name])]


class Explained(nn.Module):
    """The explained scalar as a module, for Captum: (inputs (N, C, *S), aux, others...) -> (N,).

    ``aux`` fixes what the target decided on the clean input, and ``others`` are the network's
    further inputs; Captum repeats both for every perturbed copy when they are given as
    ``additional_forward_args=run.additional``.
    """

    def __init__(
        self,
        model: nn.Module,
        target: Target,
        output: str | int | None = None,
        *,
        autocast: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.target = target
        self.output = output
        self.autocast = autocast

    def forward(self, inputs: Tensor, aux: Tensor, *others: Tensor) -> Tensor:
        """(N,)."""
        found = call(self.model, inputs, *others, autocast=self.autocast)
        return self.target(check_output(found, len(inputs), self.output), aux)


def wide(values: Tensor) -> Tensor:
    """Half precision as float32, in which maps are made."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def check_output(output: Any, n: int, /, which: str | int | None = None) -> Tensor:
    """The network's output as (N, K), of a tuple or dictionary the item ``which``; no half floats.

    :raises UnsupportedError: a tuple or a dictionary of which nothing is chosen, or a tensor of
        another shape.
    :raises ConfigError: no such item.
    """
    if which is not None:
        output = _item(output, which)
    if isinstance(output, Tensor):
        if output.shape == (n,):
            return wide(output[:, None])
        if output.ndim == 2 and len(output) == n:
            return wide(output)
        got = f"a tensor {tuple(output.shape)}"
    elif isinstance(output, Mapping):
        got = f"a dictionary with the keys {preview(output)}"
    elif isinstance(output, Sequence):
        got = f"a {type(output).__name__} of {len(output)} items"
    else:
        got = f"a {type(output).__name__}"
    raise UnsupportedError(
        f"The network returns {got}; expected one tensor ({n}, K) of scores. Say which item holds "
        "them (output=0, output=logits), or wrap the network in a module that returns them."
    )


def _item(output: Any, which: str | int) -> Any:
    if isinstance(output, Tensor):
        raise ConfigError(f"output={which!r} chooses an item, but the network returns one tensor.")
    try:
        return output[which]
    except (KeyError, IndexError, TypeError) as error:
        known = list(output) if isinstance(output, Mapping) else []
        if isinstance(output, Sequence):
            known = list(range(len(output)))
        raise ConfigError(
            f"output={which!r} is no item of what the network returns. {did_you_mean(which, known)}"
        ) from error
