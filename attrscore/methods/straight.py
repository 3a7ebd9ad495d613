"""The mean gradient on a straight way from one input to another."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor

from attrscore.core.light import LightGradients
from attrscore.core.passes import Pass
from attrscore.core.stem import PassedByError, Stem, find_stem
from attrscore.core.wrappers import dtype_of
from attrscore.methods._copies import blocks, explained_at, gradients_at

__all__ = ["mean_gradient"]


class _Way(NamedTuple):
    """From ``low`` straight to ``high``, (n, C, *S) both."""

    low: Tensor
    high: Tensor

    def at(self, places: Sequence[float], /) -> Tensor:
        """The points at k places within [0, 1], (k, n, C, *S)."""
        whole = self.high - self.low
        points = whole.new_empty(len(places), *whole.shape)
        for point, place in zip(points, places, strict=True):
            torch.add(self.low, whole, alpha=place, out=point)
        return points


def mean_gradient(
    run: Pass,
    reference: Tensor,
    weights: Sequence[float],
    places: Sequence[float],
    /,
    *,
    chunk: int | None,
) -> Tensor:
    """Gradients at places from ``reference`` to the inputs, weighted: (N, C, *S) float64.

    What is straight before the affine layers that a network begins with is straight behind them, so
    they are run for both ends and differentiated once, and left out at all places between. Where
    the input has another way into the network, nothing is left out. Call it inside
    ``run.prepared()``.
    """
    stem = _stem(run)
    if stem is not None:
        with suppress(PassedByError):
            return _mean(run, reference, weights, places, chunk, stem)
    return _mean(run, reference, weights, places, chunk, Stem(()))


def _mean(
    run: Pass,
    reference: Tensor,
    weights: Sequence[float],
    places: Sequence[float],
    chunk: int | None,
    stem: Stem,
) -> Tensor:
    inputs = run.batch.inputs.detach()
    found = torch.zeros_like(inputs, dtype=torch.float64)
    for rows, several in groupby(blocks(run, len(places), chunk), key=itemgetter(0)):
        way = _Way(reference[rows], inputs[rows])
        with torch.no_grad():
            behind = _Way(stem(way.low), stem(way.high))
        total = torch.zeros_like(behind.low, dtype=torch.float64)
        for _, steps in several:
            gradients = _gradients(run, stem, way, behind, places[steps], rows)
            for weight, gradient in zip(weights[steps], gradients, strict=True):
                total.add_(gradient, alpha=weight)
        found[rows] = stem.back(way.high, total.to(inputs.dtype)) if stem.layers else total
    return found


def _gradients(
    run: Pass, stem: Stem, way: _Way, behind: _Way, places: Sequence[float], rows: slice
) -> Tensor:
    """At k places, with respect to what is behind the stem: (k, n, C', *s)."""
    if not stem.layers:
        return gradients_at(run, way.at(places), rows)
    before = way.at(places).flatten(0, 1).requires_grad_()
    points = behind.at(places)
    leaf = points.flatten(0, 1).requires_grad_()
    given = before.clone()
    with stem.replaced(given, leaf), LightGradients():
        scalar = explained_at(run, given, rows)
    gradient: Tensor | None = None
    another_way: Tensor | None = None
    if scalar.requires_grad:
        gradient, another_way = torch.autograd.grad(scalar.sum(), [leaf, before], allow_unused=True)
    if gradient is None or another_way is not None:
        raise PassedByError
    return gradient.view_as(points)


def _stem(run: Pass) -> Stem | None:
    """None in half precision, where the points themselves are rounded by the network."""
    cell = run.batch.inputs[:1].detach()
    if run.autocast or dtype_of(run.model) is not cell.dtype:
        return None
    return find_stem(run.model, lambda: explained_at(run, cell, slice(0, 1)))
