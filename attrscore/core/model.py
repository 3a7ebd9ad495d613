"""A model while it is asked: unwrapped, left as it was found, its output as scores."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from attrscore.core.contracts import Target
from attrscore.errors import ConfigError, UnsupportedError, choose, did_you_mean, preview

Precision = Literal["float32", "bfloat16", "float16", "autocast"]

MemoryFormat = Literal["contiguous", "channels_last"]


class SealedModel(nn.Module):
    """A model whose inside cannot be watched: TorchScript, or an exported program.

    There are maps on its input and none of its layers. ``what`` says what it is.
    """

    def __init__(self, model: Any, /, what: str) -> None:
        super().__init__()
        self.model = model
        self.what = what

    @property
    def refusal(self) -> str:
        """Why no layer has a map."""
        return (
            f"The model is {self.what}, so its layers cannot be watched: only methods that "
            "explain the input work. For others, give the nn.Module that it was made from."
        )

    def forward(self, *inputs: Tensor) -> Any:
        """What the model returns.

        :raises UnsupportedError: an exported program for another number of cells.
        """
        try:
            return self.model(*inputs)
        except AssertionError as error:  # a guard of torch.export
            raise UnsupportedError(
                f"The model is {self.what} and does not take {len(inputs[0])} cells of "
                f"{tuple(inputs[0].shape[1:])}: {str(error).splitlines()[0]}. Give it crops "
                "of the size it was exported with, and export it with an axis of cells that is "
                "dynamic: dynamic_shapes=({0: torch.export.Dim('n')},)."
            ) from error

    def train(self, mode: bool = True) -> SealedModel:  # noqa: FBT001, FBT002  # torch's signature
        """Of TorchScript; an exported program stays as it was when it was exported."""
        self.training = mode
        if isinstance(self.model, torch.jit.ScriptModule):
            self.model.train(mode)
        return self


def unwrap(model: nn.Module, /) -> nn.Module:
    """The plain model inside ``torch.compile`` and ``nn.DataParallel`` wrappers.

    Hooks on a compiled module vanish after warm-up, and a parallel one runs replicas without them.

    TorchScript and exported programs come back sealed: :class:`SealedModel`.

    :raises UnsupportedError: no model, or one with parts whose inside cannot be watched: scripted
        or exported ones, and compiled ones below the top.
    """
    if isinstance(model, SealedModel):
        return model
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            break
    if isinstance(model, torch.jit.ScriptModule):
        return SealedModel(model, "TorchScript")
    if isinstance(model, torch.export.ExportedProgram):
        model = model.module()
    if not isinstance(model, nn.Module):
        raise UnsupportedError(f"A model must be a torch.nn.Module; given: {type(model).__name__}.")
    inside = torch.is_inference_mode_enabled()  # which gets a sentence of its own
    if not inside and any(parameter.is_inference() for parameter in model.parameters()):
        raise UnsupportedError(
            f"{type(model).__name__} was made under torch.inference_mode(), so no gradient can "
            "pass through its parameters; make it outside, or give a copy: copy.deepcopy(model)."
        )
    if _unwatchable(model) == EXPORTED:
        return SealedModel(model, "an exported program")
    for name, module in model.named_modules():
        if why := _unwatchable(module):
            where = f"its module '{name}'" if name else "it"
            raise UnsupportedError(
                f"{type(model).__name__} cannot be explained: {where} {why}, so its layers cannot "
                "be watched. Give the plain nn.Module that it was made from."
            )
    return model


EXPORTED = "is an exported program"


def _unwatchable(module: nn.Module) -> str:
    if isinstance(module, torch.jit.ScriptModule):
        return "is TorchScript"
    if type(module).__module__.startswith("torch.export") or (
        isinstance(module, torch.fx.GraphModule) and "eval" in vars(module)
    ):
        return EXPORTED
    if isinstance(module._modules.get("_orig_mod"), nn.Module):
        return "went through torch.compile"
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return "is wrapped for several devices"
    return ""


@contextmanager
def uncompiled(model: nn.Module, /) -> Iterator[None]:
    """Inside, modules on which ``.compile()`` was called run as they are written, hooks and all."""
    compiled = [
        (module, call)
        for module in model.modules()
        if (call := module.__dict__.get("_compiled_call_impl")) is not None
    ]
    for module, _ in compiled:
        module.__dict__["_compiled_call_impl"] = None
    try:
        yield
    finally:
        for module, call in compiled:
            module.__dict__["_compiled_call_impl"] = call


def device_of(model: nn.Module, /) -> torch.device:
    """Where the first parameter lies; the CPU for a model without any."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def dtype_of(model: nn.Module, /) -> torch.dtype | None:
    """What the first floating-point parameter is made of; None for a model without any."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), None)


def in_precision(model: nn.Module, wanted: Precision | None, /) -> nn.Module:
    """The model in this type of numbers: a copy, unless its parameters are of that type already.

    ``autocast`` and None leave it as it is.

    :raises UnsupportedError: a sealed model in other numbers.
    """
    choose(wanted or "autocast", get_args(Precision), option="precision")
    dtype = None if wanted in (None, "autocast") else getattr(torch, str(wanted))
    if dtype is None or all(p.dtype is dtype for p in model.parameters() if p.is_floating_point()):
        return model
    if isinstance(model, SealedModel):
        raise UnsupportedError(
            f"precision={wanted}: the model is {model.what}, and computes in the numbers that it "
            "was made with; leave precision out, or give the nn.Module that it was made from."
        )
    return copied(model).to(dtype)


def copied(model: nn.Module, /) -> nn.Module:
    """A deep copy; the model is left as it is.

    Old-style weight and spectral normalisation keep the weight of the last forward pass, computed
    from parameters, which torch refuses to copy: the copy gets its numbers, until its own forward.
    """
    memo: dict[int, Any] = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(model, memo)


def in_memory_format(model: nn.Module, wanted: MemoryFormat, dimensions: int, /) -> None:
    """Lay out the weights of convolutions with their channels last, in place, where asked.

    Faster on many processors in 2D, slower on some in 3D. torch then uses other kernels, so that
    the last digits of a score may differ.

    :raises UnsupportedError: a sealed model, which computes in the layout that it was made with.
    """
    choose(wanted, get_args(MemoryFormat), option="model.memory_format")
    if wanted == "contiguous":
        return
    if isinstance(model, SealedModel):
        raise UnsupportedError(
            f"model.memory_format={wanted}: the model is {model.what}, and computes in the layout "
            "that it was made with; leave it out, or give the nn.Module that it was made from."
        )
    model.to(memory_format=torch.channels_last if dimensions == 2 else torch.channels_last_3d)  # type: ignore[call-overload]  # torch's stub


def call(model: nn.Module, inputs: Tensor, /, *others: Tensor, autocast: bool = False) -> Any:
    """What the model returns, floating-point inputs in the type of its parameters.

    It gets copies, since it may change its inputs in place. ``autocast`` lets torch choose bfloat16
    where that is safe, and leaves the parameters alone.
    """
    wanted = dtype_of(model)
    copies = [
        each.to(wanted, copy=True) if wanted and each.is_floating_point() else each.clone()
        for each in (inputs, *others)
    ]
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=autocast):
        return model(*copies)


def seed_all(seed: int, /) -> None:
    """Set the random generators that models draw from: torch's, Python's and NumPy's."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # some draw from it


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
    modules = list(model.modules())
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

    ``aux`` fixes what the target decided on the clean input, and ``others`` are the model's
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
        return scalar(self.target, check_output(found, len(inputs), self.output, inputs.ndim), aux)


def scalar(target: Target, output: Tensor, aux: Tensor, /) -> Tensor:
    """What is explained, (N,).

    :raises UnsupportedError: the target gives something else.
    """
    value = target(output, aux)
    if tuple(value.shape) != (len(output),):
        raise UnsupportedError(
            f"The target {target} gives {tuple(value.shape)} of an output {tuple(output.shape)}; "
            f"expected ({len(output)},), one scalar a cell. Of a dense output, target=region "
            "explains the mean over a region."
        )
    return value


_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")


def is_out_of_memory(error: BaseException, /) -> bool:
    """Whether memory ran out: also where torch, cuBLAS or cuDNN raise a plain RuntimeError.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."))
    True
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def wide(values: Tensor) -> Tensor:
    """Half precision as float32, in which maps are made."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def check_output(output: Any, n: int, /, which: str | int | None = None, axes: int = 2) -> Tensor:
    """The model's output as (N, K), of a tuple or dictionary the item ``which``; no half floats.

    A dense output, (N, K, *S), has as many ``axes`` as the input, where that is given.

    :raises UnsupportedError: a tuple or a dictionary of which nothing is chosen, or a tensor of
        another shape.
    :raises ConfigError: no such item.
    """
    dense = ""
    if which is not None:
        output = _item(output, which)
    if isinstance(output, Tensor):
        output = output.float() if output.dtype is torch.bool else output
        if output.shape == (n,):
            return wide(output[:, None])
        if output.ndim in (2, axes) and len(output) == n:
            return wide(output)
        got = f"a tensor {tuple(output.shape)}"
        if axes > 2:
            dense = f" A dense output has {axes} axes, (N, K, *S)."
        elif output.ndim > 3:
            dense = " What is put out pixel by pixel, target=region explains."
    elif isinstance(output, Mapping):
        got = f"a dictionary with the keys {preview(output)}"
    elif isinstance(output, Sequence):
        got = f"a {type(output).__name__} of {len(output)} items"
    else:
        got = f"a {type(output).__name__}"
    raise UnsupportedError(
        f"The model returns {got}; expected one tensor ({n}, K) of scores. Say which item holds "
        f"them (output=0, output=logits), or wrap the model in a module that returns them.{dense}"
    )


def _item(output: Any, which: str | int) -> Any:
    if isinstance(output, Tensor):
        raise ConfigError(f"output={which!r} chooses an item, but the model returns one tensor.")
    try:
        return output[which]
    except (KeyError, IndexError, TypeError) as error:
        known = list(output) if isinstance(output, Mapping) else []
        if isinstance(output, Sequence):
            known = list(range(len(output)))
        raise ConfigError(
            f"output={which!r} is no item of what the model returns. {did_you_mean(which, known)}"
        ) from error
