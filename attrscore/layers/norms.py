"""Batch normalisation that remembers less for its gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["LightNorms"]


class LightNorms(TorchFunctionMode):
    """Inside, batch normalisation with fixed statistics and weights keeps no map for its gradient.

    It is then a product and a sum a channel, and its gradient needs the factor alone; torch keeps
    its whole input. Outputs are equal to the last bit, gradients up to rounding.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        _types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


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
    learning = any(each is not None and each.requires_grad for each in (weight, bias))
    if training or mean is None or variance is None or learning or not values.requires_grad:
        return F.batch_norm(values, mean, variance, weight, bias, training, momentum, eps)
    found: Tensor = _FixedNorm.apply(  # type: ignore[no-untyped-call]  # torch's own
        values, mean, variance, weight, bias, eps
    )
    return found


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
