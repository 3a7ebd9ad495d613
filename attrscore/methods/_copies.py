"""Many altered copies of each input through the model, a bounded number at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from math import prod

import torch
from torch import Tensor

from attrscore.core.contracts import INPUT
from attrscore.core.functions import LightGradients
from attrscore.core.model import is_out_of_memory
from attrscore.core.passes import Pass, accumulated, gradients_of
from attrscore.errors import ConfigError, UnsupportedError

PIXELS = 2**17
"""Where ``chunk`` is not given: as many copies as have this many pixels together. More were seen to
gain no time on a CPU, and to lose some where their maps leave its caches."""


def check_chunk(chunk: int | None, /) -> None:
    """It must be None or a whole number, 1 or more.

    :raises ConfigError: it is not.
    """
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
        raise ConfigError(f"chunk={chunk!r} must be a whole number, 1 or more, or null.")


def at_once(chunk: int | None, inputs: Tensor, /) -> int:
    """How many copies of an input (N, C, *S) may be in memory at once."""
    return max(1, PIXELS // prod(inputs.shape[2:])) if chunk is None else chunk


def blocks(run: Pass, steps: int, chunk: int | None, /) -> Iterator[tuple[slice, slice]]:
    """Rows and steps that are computed together: all N x steps, at most ``chunk`` at a time.

    What is done between two of them is reported as progress.
    """
    n, size = len(run.batch), at_once(chunk, run.batch.inputs)
    done = 0
    for start in range(0, n, size):
        rows = slice(start, min(start + size, n))
        several = max(1, size // (rows.stop - rows.start))
        for first in range(0, steps, several):
            together = slice(first, min(first + several, steps))
            yield rows, together
            done += (rows.stop - rows.start) * (together.stop - together.start)
            run.step(done, n * steps)


def gradients_at(run: Pass, points: Tensor, rows: slice, /) -> Tensor:
    """Gradients of the explained score at k points for each of some rows, (k, n, C, *S) both.

    One forward and one backward pass of k x n inputs. Call it inside ``run.prepared()``.

    :raises UnsupportedError: no gradient reaches the input.
    """
    try:
        return _gradients_at(run, points, rows, as_torch=False)
    except Exception as error:  # a checkpointed part, say
        if isinstance(error, UnsupportedError) or is_out_of_memory(error):
            raise
        return _gradients_at(run, points, rows, as_torch=True)


def _gradients_at(run: Pass, points: Tensor, rows: slice, *, as_torch: bool) -> Tensor:
    inputs = points.flatten(0, 1).detach().requires_grad_()
    with contextlib.nullcontext() if as_torch else LightGradients():
        scalar = explained_at(run, inputs, rows).sum()
    if as_torch:
        (gradient,) = accumulated(scalar, [inputs])
    else:
        (gradient,) = gradients_of(scalar, {INPUT: inputs})
    if gradient is None:
        raise UnsupportedError(
            f"No gradient flows from the input to the output of {type(run.model).__name__}: a "
            "detach(), no_grad() or argmax inside the model blocks it. Use a perturbation "
            "method: occlusion, feature_ablation, kernel_shap."
        )
    return gradient.view_as(points)


def explained_at(run: Pass, inputs: Tensor, rows: slice, /) -> Tensor:
    """The explained score of k copies of some rows, (k x n, C, *S) -> (k x n,)."""
    times = len(inputs) // (rows.stop - rows.start)
    additional = (each[rows].repeat(times, *[1] * (each.ndim - 1)) for each in run.additional)
    found: Tensor = run.explained(inputs, *additional)
    return found


def values_at(
    run: Pass,
    rows: Tensor,
    altered: Callable[[slice], Tensor],
    /,
    *,
    chunk: int | None,
    before: int = 0,
    total: int | None = None,
) -> Tensor:
    """The explained score of P altered copies: (P,) float64.

    Copy p is made from sample ``rows[p]`` (int64); ``altered`` gets a slice of the copies and gives
    their inputs (p, C, *S). P forward passes of one input, at most ``chunk`` at a time. They count
    as progress, with ``before`` done already, of ``total``.
    """
    inputs, additional = run.batch.inputs, run.additional
    size = at_once(chunk, inputs)
    found = []
    with run.prepared(), torch.no_grad():
        for first in range(0, len(rows), size):
            which = slice(first, min(first + size, len(rows)))
            others = (each[rows[which]] for each in additional)
            found.append(run.explained(altered(which), *others).double())
            run.step(before + which.stop, total or len(rows))
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64, device=inputs.device)


def hiding(
    run: Pass, rows: Tensor, reference: Tensor, hidden: Callable[[slice], Tensor], /
) -> Callable[[slice], Tensor]:
    """Copies with ``reference`` in place of what ``hidden`` names, for :func:`values_at`.

    ``reference`` is (N, C, *S); ``hidden`` gets a slice of the copies and gives (p, *S): bool, or
    the share hidden, 0 to 1.
    """
    inputs = run.batch.inputs.detach()

    def altered(which: slice) -> Tensor:
        of, mask = rows[which], hidden(which)[:, None]
        if mask.dtype is torch.bool:
            return torch.where(mask, reference[of], inputs[of])
        return torch.lerp(inputs[of], reference[of], mask)

    return altered


def noisy(inputs: Tensor, noise: float, draws: Sequence[torch.Generator], /) -> Tensor:
    """Inputs (N, C, *S) with Gaussian noise, ``noise`` times the range of each channel.

    One generator a sample; they are drawn from on the CPU, so every device sees the same noise.
    """
    flat = inputs.flatten(2)
    spread = (flat.amax(2) - flat.amin(2)).view(*inputs.shape[:2], *[1] * (inputs.ndim - 2))
    drawn = [torch.randn(inputs.shape[1:], generator=each, dtype=torch.float64) for each in draws]
    return inputs + noise * spread * torch.stack(drawn).to(inputs)
