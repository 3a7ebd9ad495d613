"""A pass: one batch through one model, explained towards one scalar a sample.

Everything a method may ask for is computed at most once, on demand, and the network is left as it
was found.
"""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from attrscore.core import Batch, Target
from attrscore.errors import ConfigError, UnsupportedError, did_you_mean, preview
from attrscore.layers import capture, unwrap

__all__ = ["Explained", "Pass", "as_found", "check_output"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@contextmanager
def as_found(model: nn.Module, /) -> Iterator[None]:
    """Inside: eval mode, frozen parameters, gradients on. Afterwards: everything as before.

    That is the training flag and the hooks of every submodule, ``requires_grad`` and ``grad`` of
    every parameter, and the state of the random generators; also after an exception.

    :raises UnsupportedError: under ``torch.inference_mode``, where autograd cannot work.
    """
    if torch.is_inference_mode_enabled():
        raise UnsupportedError(
            "Attributions need gradients, and torch.inference_mode() forbids them; "
            "call attrscore outside of it (torch.no_grad() is no obstacle)."
        )
    modules = list(model.modules())
    parameters = list(model.parameters())
    training = [module.training for module in modules]
    frozen = [(p.requires_grad, p.grad) for p in parameters]
    hooks = [{name: set(getattr(m, name)) for name in _HOOKS} for m in modules]
    devices = sorted({p.device.index or 0 for p in parameters if p.device.type == "cuda"})
    drawn = random.getstate(), np.random.get_state()  # noqa: NPY002  # Captum draws from it
    with torch.random.fork_rng(devices=devices):
        try:
            if any(training):
                model.eval()
            for parameter in parameters:
                if parameter.requires_grad:
                    parameter.requires_grad_(False)  # noqa: FBT003  # torch names it so
            with torch.enable_grad():
                yield
        finally:
            for module, flag, known in zip(modules, training, hooks, strict=True):
                if module.training != flag:  # setting an attribute of a module is slow
                    module.training = flag
                for name, keys in known.items():
                    registered = getattr(module, name)
                    for key in [key for key in registered if key not in keys]:
                        del registered[key]
            for parameter, (flag, grad) in zip(parameters, frozen, strict=True):
                if parameter.requires_grad != flag:
                    parameter.requires_grad_(flag)
                if parameter.grad is not grad:
                    parameter.grad = grad
            random.setstate(drawn[0])
            np.random.set_state(drawn[1])  # noqa: NPY002  # as above


class Explained(nn.Module):
    """The explained scalar as a module, for Captum: (inputs (N, C, *S), aux (N, ...)) -> (N,).

    ``aux`` fixes what the target decided on the clean input; Captum repeats it for every perturbed
    copy when it is given as ``additional_forward_args``.
    """

    def __init__(self, model: nn.Module, target: Target, output: str | int | None = None) -> None:
        super().__init__()
        self.model = model
        self.target = target
        self.output = output

    def forward(self, inputs: Tensor, aux: Tensor) -> Tensor:
        """(N,)."""
        return self.target(check_output(self.model(inputs), len(inputs), self.output), aux)


class Pass:
    """One batch, one model, one target, some layers.

    ``activations`` and ``gradients`` of all layers come from one forward and one backward pass,
    which goes no deeper than the lowest of them. ``input_gradient`` is separate since it goes to
    the bottom of the network; a pass made with ``to_input=True`` gets it from the same backward.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Batch,
        target: Target,
        layers: Mapping[str, nn.Module],
        *,
        to_input: bool = False,
        output: str | int | None = None,
    ) -> None:
        self.model = unwrap(model)
        self.batch = batch
        self.target = target
        self.layers = dict(layers)
        self._to_input = to_input
        self._which = output
        self._output: Tensor | None = None
        self._aux: Tensor | None = None
        self._activations: dict[str, Tensor] | None = None
        self._gradients: dict[str, Tensor] | None = None
        self._input_gradient: Tensor | None = None

    @property
    def output(self) -> Tensor:
        """The network's scores on the clean input, (N, K), no gradient."""
        if self._output is None and (self.layers or self._to_input):
            with contextlib.suppress(UnsupportedError):  # comes back when gradients are asked for
                self._backward()  # its forward pass is needed anyway
        if self._output is None:
            with as_found(self.model), torch.no_grad():
                found = self.model(self.batch.inputs)
                self._output = check_output(found, len(self.batch), self._which)
        return self._output

    @property
    def aux(self) -> Tensor:
        """What the target fixes on the clean input, (N, ...): a class index, a reference vector."""
        if self._aux is None:
            self._aux = self.target.prepare(self.output, self.batch)
        return self._aux

    @functools.cached_property
    def explained(self) -> Explained:
        """The explained scalar as a module, for Captum; pass ``aux`` as additional argument."""
        return Explained(self.model, self.target, self._which)

    @functools.cached_property
    def value(self) -> Tensor:
        """The explained scalar on the clean input, (N,), no gradient."""
        with torch.no_grad():
            return self.target(self.output, self.aux)

    @property
    def activations(self) -> Mapping[str, Tensor]:
        """Layer -> its output (N, C, *s), no gradient."""
        if self._activations is None:
            self._backward()
        return cast("dict[str, Tensor]", self._activations)

    @property
    def gradients(self) -> Mapping[str, Tensor]:
        """Layer -> gradient of ``value`` with respect to the layer's output, (N, C, *s).

        A layer on which the value does not depend is left out.
        """
        if self._gradients is None:
            self._backward()
        return cast("dict[str, Tensor]", self._gradients)

    @property
    def input_gradient(self) -> Tensor:
        """Gradient of ``value`` with respect to the inputs, (N, C, *S)."""
        if self._input_gradient is None:
            if self._gradients is None:
                self._to_input = True
                self._backward()
            else:  # the shared pass is over: a second one, for the input alone
                alone = Pass(
                    self.model, self.batch, self.target, {}, to_input=True, output=self._which
                )
                self._input_gradient = alone.input_gradient
        return cast("Tensor", self._input_gradient)

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """For methods with passes of their own: inside, the network is ready for Captum."""
        with as_found(self.model):
            yield

    def _backward(self) -> None:
        """One forward and one backward pass for all layers."""
        inputs = self.batch.inputs.detach()
        if self._to_input:
            inputs = inputs.clone().requires_grad_()  # an in-place first layer must not spoil it
        with as_found(self.model):
            with capture(self.layers, inputs.ndim - 2, gradients=True) as recorded:
                found = self.model(inputs.clone() if self._to_input else inputs)
            output = check_output(found, len(inputs), self._which)
            self._output = output.detach()
            scalar = self.target(output, self.aux)
            sources = [*recorded.values(), *([inputs] if self._to_input else [])]
            gradients: Sequence[Tensor | None] = [None] * len(sources)
            if scalar.requires_grad:
                gradients = torch.autograd.grad(scalar.sum(), sources, allow_unused=True)
        if all(gradient is None for gradient in gradients):
            places = [f"layer '{name}'" for name in recorded] or ["the input"]
            raise UnsupportedError(
                f"No gradient flows from {preview(places)} to the output of "
                f"{type(self.model).__name__}: a detach(), no_grad() or argmax inside the network "
                "blocks it, or the layer is beside the way. Explain a layer further up, or use a "
                "perturbation method: captum Occlusion."
            )
        self._activations = {name: recorded[name].detach() for name in self.layers}
        by_name = dict(zip(recorded, gradients, strict=False))
        if self._to_input:
            self._input_gradient = gradients[-1]
        found = {name: by_name[name] for name in self.layers}
        self._gradients = {name: each for name, each in found.items() if each is not None}


def check_output(output: Any, n: int, /, which: str | int | None = None) -> Tensor:
    """The network's output as (N, K); of a tuple or dictionary, the item ``which``.

    :raises UnsupportedError: a tuple or a dictionary of which nothing is chosen, or a tensor of
        another shape.
    :raises ConfigError: no such item.
    """
    if which is not None:
        output = _item(output, which)
    if isinstance(output, Tensor):
        if output.shape == (n,):
            return output[:, None]
        if output.ndim == 2 and len(output) == n:
            return output
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
