"""Where a transformer attends, and what of it speaks for the score.

The attention is that of whatever goes through ``scaled_dot_product_attention`` or a softmax over
tokens, without asking the model for it; all methods, at all blocks, cost the one forward and
backward pass that the gradient methods share.

A map is that of the tokens from which the score is read: the class token where the last attention
passes on to the score through it alone, the mean over those tokens where there are several (as
under mean pooling), and a pooling token's own weights where one attends to all tokens behind the
blocks. What a layer's map is made of is the last attention that runs inside the layer, so
``layers=blocks`` gives a map a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from attrscore.core.contracts import Maps, Partial
from attrscore.core.functions import Attention as Seen
from attrscore.core.passes import Pass
from attrscore.core.registry import METHODS
from attrscore.errors import UnsupportedError

__all__ = [
    "Attention",
    "AttentionRollout",
    "GradAttention",
    "LeGrad",
    "grad_attention",
    "legrad",
    "rollout",
]


def rollout(attentions: Iterable[Tensor], /) -> Iterator[Tensor]:
    """How much of each token of the image reaches each token behind a block.

    (N, H, T, T) of each block -> (N, T, T) behind each: the product of the blocks so far, half of
    each the mean over heads and half the identity, which stands for the shortcut. Abnar, Zuidema,
    ACL 2020.

    >>> attention = torch.tensor([[[[0.5, 0.5], [0.0, 1.0]]]])
    >>> *_, last = rollout([attention, attention])
    >>> last
    tensor([[[0.5625, 0.4375],
             [0.0000, 1.0000]]])
    """
    product: Tensor | None = None
    for each in attentions:
        mixed = (each.mean(1) + _identity(each)) / 2
        product = mixed if product is None else mixed @ product
        yield product


def grad_attention(pairs: Iterable[tuple[Tensor, Tensor]], /) -> Iterator[Tensor]:
    """The relevance of each token of the image for each token behind a block.

    (N, H, T, T) and its gradients of each block -> (N, T, T) behind each, without the identity from
    which it begins: R <- R + mean over heads of max(0, A dy / dA) times R. Chefer, Gur, Wolf, ICCV
    2021, equations 5 and 6.

    >>> attention = torch.tensor([[[[0.5, 0.5], [0.0, 1.0]]]])
    >>> list(grad_attention([(attention, torch.tensor([[[[2.0, 4.0], [-1.0, 1.0]]]]))]))
    [tensor([[[1., 2.],
             [0., 1.]]])]
    """
    relevance: Tensor | None = None
    for attention, gradient in pairs:
        step = (attention * gradient).clamp_(min=0).mean(1)
        # the identity apart
        relevance = step if relevance is None else relevance + step + step @ relevance
        yield relevance


def legrad(gradients: Iterable[Tensor], /) -> Iterator[Tensor]:
    """How much more attention to each token would raise the score.

    (N, H, T, T), the gradients of each block -> (N, T) behind each: the mean over heads, queries
    and the blocks so far of max(0, dy / dA). Bousselham et al., ICCV 2025 (arXiv 2404.03214, 2024).

    >>> list(legrad([torch.tensor([[[[2.0, 4.0], [-1.0, 1.0]]]])]))
    [tensor([[1.0000, 2.5000]])]
    """
    total: Tensor | None = None
    for number, each in enumerate(gradients, start=1):
        found = each.clamp(min=0).mean((1, 2))
        total = found if total is None else total + found
        yield total / number


def _identity(attention: Tensor) -> Tensor:
    return torch.eye(attention.shape[-1], dtype=attention.dtype, device=attention.device)


class _OfTokens:
    """A map of each layer from the attention of the blocks up to it."""

    needs_attention: ClassVar[bool] = True
    needs_model: ClassVar[bool] = False

    def __call__(self, run: Pass, /) -> Maps:
        """Layer -> (N, 1, *s)."""
        _check(run)
        of_blocks: dict[tuple[int, ...], dict[int, Tensor]] = {}
        maps: dict[str, Tensor] = {}
        refused: dict[str, str] = {}
        for layer in run.layers:
            if layer not in run.attention.within:
                refused[layer] = (
                    f"No attention runs inside '{layer}'; choose the block, or layers=blocks."
                )
                continue
            last = run.attention.within[layer][-1]
            kind = run.attention.calls[last].shape[::2]
            if kind not in of_blocks:
                blocks, read = _blocks(run, kind)
                each = self._each(list(blocks.values()), read)
                of_blocks[kind] = dict(zip(blocks, each, strict=True))
            tokens = of_blocks[kind].get(last)
            found = None if tokens is None else _on_grid(run, layer, tokens)
            if found is not None:
                maps[layer] = found
            else:
                refused[layer] = (
                    f"The attention of '{layer}' is not that of the tokens of its grid, from which "
                    "the score is read (it is within windows, over other tokens, or across two "
                    "sets of them); choose another block, or use grad_cam."
                )
        return Partial(maps, refused)

    def _each(self, blocks: Sequence[Seen], read: Tensor) -> Iterable[Tensor]:
        """From the attention of the blocks and the share of each token that is read, (B, T).

        (B, T) for each block.
        """
        raise NotImplementedError


def _on_grid(run: Pass, layer: str, tokens: Tensor) -> Tensor | None:
    """The tokens (B, T) as (N, 1, *s), or with the stains that a layer keeps apart."""
    info = run.layers.infos[layer]
    activation = run.activations[layer]
    if info.layout is not None and info.layout.axes == "tokens":
        try:
            found = info.layout.to_grid(tokens[..., None])
        except RuntimeError:  # of another number of tokens
            return None
    elif tokens.shape[1] == activation[0, 0].numel():
        found = tokens[:, None].unflatten(2, activation.shape[2:])  # type: ignore[no-untyped-call]  # torch
    else:
        return None
    fits = len(found) == len(run.batch) and found.shape[2:] == activation.shape[2:]
    return found.to(activation) if fits else None


def _check(run: Pass) -> None:
    """:raises UnsupportedError: there is no attention, or no gradient reaches it."""
    name = type(run.model).__name__
    calls = [each for each in run.attention.calls if each.shape[2] == each.shape[3]]
    if not calls:
        raise UnsupportedError(
            f"No attention over tokens runs in {name}: nothing goes through "
            "scaled_dot_product_attention or a softmax over tokens. Use grad_cam or hires_cam; an "
            "attention of another package (flash_attn, xformers) can be switched off in the model."
        )
    if not any(each.reaches for each in calls):
        raise UnsupportedError(
            f"No gradient flows from the attention of {name} to the score: a detach(), no_grad() "
            "or argmax inside the model blocks it. Use a perturbation method: occlusion, rise."
        )


def _blocks(run: Pass, kind: tuple[int, ...]) -> tuple[dict[int, Seen], Tensor]:
    """Self-attention of so many rows and tokens, and the share at which each is read, (B, T).

    Nothing where the score is read from none of them.
    """
    return run.once((_blocks, kind), lambda: _found(run, kind))


def _found(run: Pass, kind: tuple[int, ...]) -> tuple[dict[int, Seen], Tensor]:
    calls = run.attention.calls
    rows, tokens = kind
    blocks = {i: each for i, each in enumerate(calls) if each.shape[::2] == kind}
    blocks = {i: each for i, each in blocks.items() if each.shape[3] == tokens}
    reaching = [i for i, each in blocks.items() if each.reaches]
    if not reaching:
        return {}, torch.zeros(kind)
    behind = calls[reaching[-1] + 1 :]
    pooling = [each for each in behind if each.shape[0] == rows and each.shape[3] == tokens]
    if pooling:
        return blocks, pooling[0].weights.mean((1, 2))
    used = (cast("Tensor", blocks[reaching[-1]].gradient) != 0).any(3).any(1).double()
    return blocks, used / used.sum(1, keepdim=True)


def _read(read: Tensor, over: Tensor) -> Tensor:
    """Rows of a matrix of tokens, by the share of each: (B, T), (B, T, T) -> (B, T)."""
    return (read[:, None].to(over) @ over)[:, 0]


def _gradient(block: Seen) -> Tensor:
    """Of a block's weights; 0 where the score does not depend on it."""
    found = block.gradient
    return torch.zeros_like(block.weights) if found is None else found


@METHODS.register("attention")
@dataclass(frozen=True)
class Attention(_OfTokens):
    """Attention: where the token that is read looks, averaged over heads. A control.

    It does not depend on what is explained: the map of a class is the map of every other, so it
    shows where a model could have looked, not what it used. The class token's row of each block's
    attention, or as the module says. Never below 0. Costs no pass of its own beside the shared one.
    Refused for models without attention over tokens, and for attention within windows (Swin).
    """

    needs_gradients: ClassVar[bool] = False

    def _each(self, blocks: Sequence[Seen], read: Tensor) -> Iterable[Tensor]:
        return (_read(read, each.weights.mean(1)) for each in blocks)


@METHODS.register("attention_rollout")
@dataclass(frozen=True)
class AttentionRollout(_OfTokens):
    """Attention rollout: attention multiplied through the blocks, shortcuts as half of each.

    At a block, that of the image's tokens behind it; the paper's map is that of the last block. It
    does not depend on what is explained: a control, as ``attention``. Never below 0. Costs no pass
    of its own. Refused as ``attention``. Abnar, Zuidema, ACL 2020.
    """

    needs_gradients: ClassVar[bool] = False

    def _each(self, blocks: Sequence[Seen], read: Tensor) -> Iterable[Tensor]:
        return (_read(read, each) for each in rollout(each.weights for each in blocks))


@METHODS.register("grad_attention")
@dataclass(frozen=True)
class GradAttention(_OfTokens):
    """Gradient-weighted attention: relevance passed through the blocks by attention that matters.

    R <- R + mean over heads of max(0, A dy / dA) R, from the first block on; what the explained
    score does not use counts for nothing. At a block, the relevance so far; the paper's map is that
    of the last block. Never below 0. Costs no pass of its own. Refused as ``attention``. Chefer,
    Gur, Wolf, ICCV 2021, for networks of self-attention.
    """

    def _each(self, blocks: Sequence[Seen], read: Tensor) -> Iterable[Tensor]:
        pairs = ((each.weights, _gradient(each)) for each in blocks)
        return (_read(read, each) for each in grad_attention(pairs))


@METHODS.register("legrad")
@dataclass(frozen=True)
class LeGrad(_OfTokens):
    """LeGrad: how much more attention to each token would raise the score.

    The mean over heads, queries and the blocks so far of max(0, dy / dA); the map of the paper is
    that of the last block. y is the explained score itself at every block; the paper reads one of
    its own from the tokens behind each block, which not every model allows. At a single block they
    agree. Never below 0. Costs no pass of its own. Refused as ``attention``. Bousselham et al.,
    ICCV 2025.
    """

    def _each(self, blocks: Sequence[Seen], read: Tensor) -> Iterable[Tensor]:  # noqa: ARG002  # all
        return legrad(map(_gradient, blocks))
