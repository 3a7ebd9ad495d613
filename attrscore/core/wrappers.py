"""The plain network inside what others wrapped around it, and where and in what it computes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from attrscore.errors import UnsupportedError, choose

__all__ = [
    "MemoryFormat",
    "Precision",
    "SealedNetwork",
    "call",
    "device_of",
    "dtype_of",
    "in_memory_format",
    "in_precision",
    "parts_of",
    "uncompiled",
    "unwrap",
]

Precision = Literal["float32", "bfloat16", "float16", "autocast"]

MemoryFormat = Literal["contiguous", "channels_last"]


class SealedNetwork(nn.Module):
    """A network whose inside cannot be watched: TorchScript, or an exported program.

    There are maps on its input and none of its layers. ``what`` says what it is.
    """

    def __init__(self, network: Any, /, what: str) -> None:
        super().__init__()
        self.network = network
        self.what = what

    @property
    def refusal(self) -> str:
        """Why no layer has a map."""
        return (
            f"The network is {self.what}, so its layers cannot be watched: only methods that "
            "explain the input work. For others, give the nn.Module that it was made from."
        )

    def forward(self, *inputs: Tensor) -> Any:
        """What the network returns.

        :raises UnsupportedError: an exported program for another number of cells.
        """
        try:
            return self.network(*inputs)
        except AssertionError as error:  # a guard of torch.export
            raise UnsupportedError(
                f"The network is {self.what} and does not take {len(inputs[0])} cells of "
                f"{tuple(inputs[0].shape[1:])}: {str(error).splitlines()[0]}. Give it crops "
                "of the size it was exported with, and export it with an axis of cells that is "
                "dynamic: dynamic_shapes=({0: torch.export.Dim('n')},)."
            ) from error

    def train(self, mode: bool = True) -> SealedNetwork:  # noqa: FBT001, FBT002  # torch's signature
        """Of TorchScript; an exported program stays as it was when it was exported."""
        self.training = mode
        if isinstance(self.network, torch.jit.ScriptModule):
            self.network.train(mode)
        return self


def unwrap(model: nn.Module, /) -> nn.Module:
    """The plain network inside ``torch.compile`` and ``nn.DataParallel`` wrappers.

    Hooks on a compiled module vanish after warm-up, and a parallel one runs replicas without them.

    TorchScript and exported programs come back sealed: :class:`SealedNetwork`.

    :raises UnsupportedError: no network, or one with parts whose inside cannot be watched: scripted
        or exported ones, and compiled ones below the top.
    """
    if isinstance(model, SealedNetwork):
        return model
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            break
    if isinstance(model, torch.jit.ScriptModule):
        return SealedNetwork(model, "TorchScript")
    if isinstance(model, torch.export.ExportedProgram):
        model = model.module()
    if not isinstance(model, nn.Module):
        raise UnsupportedError(
            f"A network must be a torch.nn.Module; given: {type(model).__name__}."
        )
    if _unwatchable(model) == EXPORTED:
        return SealedNetwork(model, "an exported program")
    for module in parts_of(model):
        if why := _unwatchable(module):
            name = next(name for name, each in model.named_modules() if each is module)
            where = f"its module '{name}'" if name else "it"
            raise UnsupportedError(
                f"{type(model).__name__} cannot be explained: {where} {why}, so its layers cannot "
                "be watched. Give the plain nn.Module that it was made from."
            )
    return model


EXPORTED = "is an exported program"


def parts_of(model: nn.Module, /) -> list[nn.Module]:
    """The network and all that is inside it, each once.

    As ``modules()``, which names them all and takes three times as long, several times a batch.
    """
    found = {model: None}
    waiting = [model]
    while waiting:
        for child in waiting.pop()._modules.values():
            if child is not None and child not in found:
                found[child] = None
                waiting.append(child)
    return list(found)


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
        for module in parts_of(model)
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
    """Where the first parameter lies; the CPU for a network without any."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def dtype_of(model: nn.Module, /) -> torch.dtype | None:
    """What the first floating-point parameter is made of; None for a network without any."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), None)


def in_precision(model: nn.Module, wanted: Precision | None, /) -> nn.Module:
    """The network in this type of numbers: a copy, unless its parameters are of that type already.

    ``autocast`` and None leave it as it is.

    :raises UnsupportedError: a sealed network in other numbers.
    """
    choose(wanted or "autocast", get_args(Precision), option="precision")
    dtype = None if wanted in (None, "autocast") else getattr(torch, str(wanted))
    if dtype is None or all(p.dtype is dtype for p in model.parameters() if p.is_floating_point()):
        return model
    if isinstance(model, SealedNetwork):
        raise UnsupportedError(
            f"precision={wanted}: the network is {model.what}, and computes in the numbers that it "
            "was made with; leave precision out, or give the nn.Module that it was made from."
        )
    return copy.deepcopy(model).to(dtype)


def in_memory_format(model: nn.Module, wanted: MemoryFormat, dimensions: int, /) -> None:
    """Lay out the weights of convolutions with their channels last, in place, where asked.

    Faster on many processors in 2D, slower on some in 3D. torch then uses other kernels, so that
    the last digits of a score may differ.

    :raises UnsupportedError: a sealed model, which computes in the layout that it was made with.
    """
    choose(wanted, get_args(MemoryFormat), option="model.memory_format")
    if wanted == "contiguous":
        return
    if isinstance(model, SealedNetwork):
        raise UnsupportedError(
            f"model.memory_format={wanted}: the model is {model.what}, and computes in the layout "
            "that it was made with; leave it out, or give the nn.Module that it was made from."
        )
    model.to(memory_format=torch.channels_last if dimensions == 2 else torch.channels_last_3d)  # type: ignore[call-overload]  # torch's stub


def call(model: nn.Module, inputs: Tensor, /, *others: Tensor, autocast: bool = False) -> Any:
    """What the network returns, floating-point inputs in the type of its parameters.

    ``autocast`` lets torch choose bfloat16 where that is safe, and leaves the parameters alone.
    """
    wanted = dtype_of(model)
    if wanted is not None:
        inputs, *others = (  # type: ignore[assignment]  # a list does as well
            each.to(wanted) if each.is_floating_point() else each for each in (inputs, *others)
        )
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=autocast):
        return model(inputs, *others)
