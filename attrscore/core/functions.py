"""torch's functions inside a pass: cheaper or balanced gradients, and attention that is seen."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
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

    With ``libra`` the gradients are those of LibraGrad, outputs as they are: normalisation is
    differentiated as if its spread were fixed, attention as if its weights were, GELU, SiLU, Mish
    and Hardswish as if the gate were by which they multiply, and a product of two features gives
    each half. Input times gradient, with the biases, then adds up to the score. What a model
    composes of other functions keeps torch's gradient. Mehri et al., CVPR 2025.
    """

    def __init__(self, *, libra: bool = False) -> None:
        super().__init__()
        self._instead = {**_LIGHTER, **_LIBRA} if libra else _LIGHTER

    def __torch_function__(
        self,
        func: Callable[..., Any],
        _types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return self._instead.get(func, func)(*args, **(kwargs or {}))


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


class _Fixed(torch.autograd.Function):
    """What ``made`` is, with a linear map of the gradient that goes back to ``values``."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,  # noqa: ARG004  # torch asks who gets a gradient
        made: Tensor,
        back: Callable[[Tensor], Tensor],
    ) -> Tensor:
        ctx.back = back
        return made.view_as(made)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.back(gradient), None, None


def _fixed(values: Tensor, made: Tensor, back: Callable[[Tensor], Tensor]) -> Tensor:
    return _Fixed.apply(values, made, back)  # type: ignore[no-any-return, no-untyped-call]  # torch


def _standing(values: Any) -> bool:
    return isinstance(values, Tensor) and values.requires_grad and torch.is_grad_enabled()


def _layer_norm(
    values: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    plain = values.detach() if _standing(values) else values
    made = F.layer_norm(plain, normalized_shape, weight, bias, eps)
    if plain is values:
        return made
    axes = tuple(range(-len(normalized_shape), 0))
    spread = (plain.var(axes, correction=0, keepdim=True) + eps).rsqrt()

    def back(gradient: Tensor) -> Tensor:
        scaled = gradient * spread if weight is None else gradient * weight.detach() * spread
        return scaled - scaled.mean(axes, keepdim=True)

    return _fixed(values, made, back)


def _rms_norm(
    values: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    plain = values.detach() if _standing(values) else values
    made = F.rms_norm(plain, normalized_shape, weight, eps)
    if plain is values:
        return made
    axes = tuple(range(-len(normalized_shape), 0))
    least = torch.finfo(values.dtype).eps if eps is None else eps
    factor = (plain.square().mean(axes, keepdim=True) + least).rsqrt()
    factor = factor if weight is None else factor * weight.detach()
    return _fixed(values, made, lambda gradient: gradient * factor)


def _gated(
    function: Callable[..., Tensor], gate: Callable[[Tensor], Tensor]
) -> Callable[..., Tensor]:
    """A function x * gate(x), differentiated as if the gate were fixed."""

    def called(values: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not _standing(values):
            return function(values, *args, **kwargs)
        plain = values.detach()
        made = function(plain.clone(), *args, **kwargs)  # which may be asked to work in place
        how = kwargs if function is F.gelu else {}
        return _fixed(values, made, lambda gradient: gradient * gate(plain, **how))

    return called


def _gelu_gate(values: Tensor, approximate: str = "none") -> Tensor:
    if approximate == "none":
        return (1 + torch.erf(values * 0.5**0.5)) / 2
    return (1 + torch.tanh((2 / math.pi) ** 0.5 * (values + 0.044715 * values**3))) / 2


def _fused_attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **how: Any) -> Tensor:
    query, key, plain = query.detach(), key.detach(), value.detach()
    made = F.scaled_dot_product_attention(query, key, plain, *args, **how)
    if not _standing(value):
        return made

    def back(gradient: Tensor) -> Tensor:
        found: Tensor = _weights(*_fused(query, key, plain, *args, **how)).mT @ gradient
        groups = found.shape[1] // value.shape[1]
        return found if groups == 1 else found.unflatten(1, (-1, groups)).sum(2)  # type: ignore[no-untyped-call]  # torch

    return _fixed(value, made, back)


def _softmax(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A softmax of three axes or more weighs something: its result is as if it were fixed."""

    def called(values: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return function(values.detach() if values.ndim > 2 else values, *args, **kwargs)

    return called


def _product(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def called(one: Any, other: Any, *args: Any, **kwargs: Any) -> Tensor:
        if not (_standing(one) and _standing(other)):
            return function(one, other, *args, **kwargs)
        with torch.no_grad():
            made = function(one, other, *args, **kwargs)
        half = function(one, other.detach() / 2) + function(other, one.detach() / 2)
        return made + (half - half.detach())

    return called


Fused = tuple[Tensor, Tensor, Tensor, Tensor | None, float]


@dataclass(frozen=True, eq=False)
class Attention:
    """One softmax attention of a forward pass, of B rows, H heads, Q queries and T tokens.

    B is N, or more where a model attends within windows or folds channels into the batch. Weights
    that a model never had in memory are computed when they are asked for.
    """

    source: Tensor
    """In the graph: the weights themselves, or what a fused attention put out."""
    fused: Fused | None = None
    """Of a fused one: queries, keys, values, what is added before the softmax, and the scale."""
    of_source: Tensor | None = None
    """The gradient of the explained score with respect to the source; None where none flows."""
    heads: int | None = None
    """Where the source has rows and heads on one axis."""
    axis: int = -1
    """Of the source, along which the weights sum to 1."""

    @property
    def weights(self) -> Tensor:
        """(B, H, Q, T), the tokens of each query sum to 1; no gradient."""
        return self._by_head(_weights(*self.fused) if self.fused else self.source.detach())

    @property
    def gradient(self) -> Tensor | None:
        """Of the explained score with respect to each weight, (B, H, Q, T)."""
        if self.of_source is None or self.fused is None:
            return None if self.of_source is None else self._by_head(self.of_source)
        return self._by_head(self.of_source @ self.fused[2].detach().mT)

    def _by_head(self, values: Tensor) -> Tensor:
        values = values.movedim(self.axis, -1)
        if values.ndim == 3:
            by_head: Tensor = values.unflatten(0, (-1, self.heads or 1))  # type: ignore[no-untyped-call]  # torch
            return by_head
        values = values.flatten(0, -4)  # windows are rows
        _, one, other, tokens = values.shape
        swapped = self.fused is None and one == tokens != other  # (B, Q, H, T)
        return values.transpose(1, 2) if swapped else values

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, H, Q, T)."""
        values = self.source.detach()
        if self.fused is not None:
            values = values[..., :1].expand(*values.shape[:-1], self.fused[1].shape[-2])
        return tuple(self._by_head(values).shape)  # type: ignore[return-value]

    @property
    def reaches(self) -> bool:
        """Whether the explained score depends on it."""
        return self.of_source is not None


@dataclass
class SeenAttention:
    """The attention of a forward pass."""

    calls: list[Attention] = field(default_factory=list)
    """In the order in which they ran."""
    within: dict[str, list[int]] = field(default_factory=dict)
    """Layer -> the last of them that ran inside it, each time that it ran."""

    def joined(self) -> SeenAttention:
        """What ran once for each channel of the image as one call, its rows one after the other."""
        ends = max(self.within.values(), key=len, default=[])
        runs, step = len(ends), ends[1] - ends[0] if len(ends) > 1 else 0
        if runs < 2 or ends != [ends[0] + run * step for run in range(runs)] or ends[0] >= step:
            return self
        calls = [_joined(self.calls[at : runs * step : step]) for at in range(step)]
        before = step * (runs - 1)
        within = {
            name: [each[0] if len(each) == runs else each[-1] - before]
            for name, each in self.within.items()
        }
        return SeenAttention(calls + self.calls[runs * step :], within)


def _joined(calls: Sequence[Attention]) -> Attention:
    """Their rows one after the other."""
    sources = [each.source.detach() for each in calls]
    flowing = [
        torch.zeros_like(source) if each.of_source is None else each.of_source
        for each, source in zip(calls, sources, strict=True)
    ]
    fused = None
    if parts := [each.fused for each in calls if each.fused]:
        inner, (bias, scale) = [part[:3] for part in parts], parts[0][3:]
        if bias is not None and bias.ndim == 4 and len(bias) > 1:
            bias = torch.cat([each[3] for each in parts if each[3] is not None])
        query, key, value = (torch.cat([part[axis] for part in inner]) for axis in range(3))
        fused = query, key, value, bias, scale
    of_source = torch.cat(flowing) if any(each.reaches for each in calls) else None
    return replace(calls[0], source=torch.cat(sources), fused=fused, of_source=of_source)


@contextmanager
def seeing_attention(
    layers: Mapping[str, nn.Module], rows: Sequence[int], /
) -> Iterator[SeenAttention]:
    """Inside, what goes through a fused attention or a softmax over tokens is kept.

    The model does as it would. A softmax is no attention where its result has fewer than three
    axes, or no multiple of any of the ``rows`` on the first, of which the earlier go before: a
    model may have its heads there, or channels of the image.
    """
    seen = SeenAttention()
    begun: dict[str, int] = {}
    handles = []
    for name, module in layers.items():

        def before(_module: nn.Module, _args: Any, name: str = name) -> None:
            begun[name] = len(seen.calls)

        def after(_module: nn.Module, _args: Any, _output: Any, name: str = name) -> None:
            if len(seen.calls) > begun[name]:
                seen.within.setdefault(name, []).append(len(seen.calls) - 1)

        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after))
    try:
        with _SeeAttention(seen.calls, rows):
            yield seen
    finally:
        for handle in handles:
            handle.remove()


class _SeeAttention(TorchFunctionMode):
    def __init__(self, calls: list[Attention], rows: Sequence[int]) -> None:
        super().__init__()
        self._calls, self._rows = calls, rows
        self._heads: int | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        _types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            self._heads = args[4]
            try:
                with self:
                    return _FROM_INSIDE(*args, **kwargs)
            finally:
                self._heads = None
        made = func(*args, **kwargs)
        fused = func is F.scaled_dot_product_attention
        if not fused and func not in (F.softmax, torch.softmax, Tensor.softmax):
            return made
        rows = next((each for each in self._rows if len(made) % each == 0), 0)
        if made.ndim > 2 and rows:
            heads = self._heads or len(made) // rows
            axis = -1 if fused else kwargs["dim"] if "dim" in kwargs else args[1]
            if fused:
                self._calls.append(Attention(made, _fused(*args, **kwargs), heads=heads))
            elif axis is not None and made.shape[axis] > 1:
                self._calls.append(Attention(made, heads=heads, axis=axis))
        return made


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001  # torch's own signature
    is_causal: bool = False,  # noqa: FBT001, FBT002
    scale: float | None = None,
    enable_gqa: bool = False,  # noqa: FBT001, FBT002
) -> Fused:
    """What a call of ``scaled_dot_product_attention`` is made of."""
    bias = attn_mask
    if is_causal:
        bias = torch.ones(
            query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device
        ).tril()
    if bias is not None and bias.dtype is torch.bool:
        bias = torch.zeros_like(bias, dtype=query.dtype).masked_fill(~bias, -torch.inf)
    if enable_gqa:
        key, value = (
            each.repeat_interleave(query.shape[-3] // each.shape[-3], -3) for each in (key, value)
        )
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return query, key, value, bias, scale


def _weights(
    query: Tensor, key: Tensor, _value: Tensor, bias: Tensor | None, scale: float
) -> Tensor:
    scores = query.detach() @ key.detach().mT * scale
    return (scores if bias is None else scores + bias.detach()).softmax(-1)


_FROM_INSIDE: Callable[..., Any] = types.FunctionType(
    F.multi_head_attention_forward.__code__,
    {**vars(F), "has_torch_function": lambda _tensors: False},
    argdefs=F.multi_head_attention_forward.__defaults__,
)
"""torch hands this function to a mode whole; here it runs as it is written, and the mode sees the
functions that it calls."""


_LIBRA: dict[Callable[..., Any], Callable[..., Any]] = {
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.gelu: _gated(F.gelu, _gelu_gate),
    F.silu: _gated(F.silu, torch.sigmoid),
    F.mish: _gated(F.mish, lambda values: torch.tanh(F.softplus(values))),
    F.hardswish: _gated(F.hardswish, F.hardsigmoid),
    F.scaled_dot_product_attention: _fused_attention,
    **{each: _softmax(each) for each in (F.softmax, torch.softmax, Tensor.softmax)},
    **{each: _product(each) for each in (torch.mul, Tensor.mul, Tensor.__mul__)},
}
