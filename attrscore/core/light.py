"""Gradients of layers whose weights are fixed: less is remembered for them, and less computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class LightGradients(TorchFunctionMode):
    """Inside, layers with fixed weights have cheaper gradients, equal to torch's up to rounding.

    Their outputs are equal to the last bit. Batch normalisation with fixed statistics is a product
    and a sum a channel, and its gradient needs the factor alone, where torch keeps its whole input.
    In 3D a convolution of stride 1 that is depthwise, or has a kernel of one voxel, is
    differentiated by the convolution with its kernel turned around: on a CPU torch's own gradient
    was measured to take ten times as long where it is depthwise, and in 2D no longer.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        _types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return _LIGHTER.get(func, func)(*args, **(kwargs or {}))


def _batch_norm(
    values: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,  # noqa: FBT001, FBT002  # torch's own signature
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    fixed = mean is not None and variance is not None and not training
    if fixed and _differentiated(values, weight, bias):
        return _FixedNorm.apply(  # type: ignore[no-any-return, no-untyped-call]  # torch's own
            values, mean, variance, weight, bias, eps
        )
    return F.batch_norm(values, mean, variance, weight, bias, training, momentum, eps)


class _FixedNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        values: Tensor,
        mean: Tensor,
        variance: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        factor = (variance + eps).rsqrt()
        factor = factor if weight is None else factor * weight
        ctx.save_for_backward(factor.view(-1, *(1,) * (values.ndim - 2)))
        return F.batch_norm(values, mean, variance, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (factor,) = ctx.saved_tensors
        return (gradient * factor).to(gradient.dtype), None, None, None, None, None


def _convolution(
    values: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    kernel, pads = tuple(weight.shape[2:]), (padding,) * 3 if isinstance(padding, int) else padding
    depthwise = weight.shape[1] == 1 and groups == len(weight)
    pointwise = groups == 1 and kernel == (1, 1, 1)
    turns = (
        (depthwise or pointwise)
        and all(each in (1, (1, 1, 1)) for each in (stride, dilation))
        and not isinstance(pads, str)
        and all(pad < size for pad, size in zip(pads, kernel, strict=True))
    )
    on_cpu = values.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if turns and on_cpu and values.ndim == weight.ndim and _differentiated(values, weight, bias):
        return _Turned.apply(  # type: ignore[no-any-return, no-untyped-call]  # torch's own
            values, weight, bias, pads, groups
        )
    return F.conv3d(values, weight, bias, stride, padding, dilation, groups)


class _Turned(torch.autograd.Function):
    """A convolution of stride 1 that is depthwise or pointwise."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        padding: tuple[int, ...],
        groups: int,
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.padding, ctx.groups = padding, groups
        return F.conv3d(values, weight, bias, padding=padding, groups=groups)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        turned = weight.flip(2, 3, 4)
        turned = turned.transpose(0, 1) if ctx.groups == 1 else turned
        rest = [size - 1 - pad for size, pad in zip(weight.shape[2:], ctx.padding, strict=True)]
        found = F.conv3d(gradient, turned, padding=rest, groups=ctx.groups)
        return found, None, None, None, None


def _differentiated(values: Tensor, weight: Tensor | None, bias: Tensor | None) -> bool:
    """Whether a gradient is taken with respect to the values, and to nothing else."""
    fixed = not any(each is not None and each.requires_grad for each in (weight, bias))
    return fixed and values.requires_grad and torch.is_grad_enabled()


_LIGHTER: dict[Callable[..., Any], Callable[..., Any]] = {
    F.batch_norm: _batch_norm,
    F.conv3d: _convolution,
}
