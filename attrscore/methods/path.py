"""Gradients along a path from a baseline to the input.

The loops are written here because Captum's sum with weights in float32, hold a whole batch at once
however small the chunk, and report no progress. Its quadrature rules are used as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from captum.attr._utils.approximation_methods import approximation_parameters
from torch import Tensor

from attrscore.core.contracts import INPUT, Diagnosed, Maps
from attrscore.core.passes import Pass, generator_of
from attrscore.core.registry import METHODS
from attrscore.errors import ConfigError, choose
from attrscore.methods._copies import at_once, blocks, check_chunk, gradients_at, noisy
from attrscore.methods._options import WithBaseline, check_share, check_whole

__all__ = [
    "GradientShap",
    "GuidedIG",
    "IntegratedGradients",
    "LayerConductance",
    "Rule",
    "completeness",
    "quadrature",
]

Rule = Literal[
    "gausslegendre", "riemann_left", "riemann_middle", "riemann_right", "riemann_trapezoid"
]

_RULES = ("gausslegendre", "riemann_left", "riemann_middle", "riemann_right", "riemann_trapezoid")


def quadrature(rule: str, steps: int, /) -> tuple[list[float], list[float]]:
    """Weights and points within [0, 1] of a rule, as Captum defines them."""
    weights, points = approximation_parameters(rule)
    return weights(steps), points(steps)


def check_rule(rule: str, steps: int, /) -> None:
    """:raises ConfigError: no such rule, or one that needs two steps or more."""
    choose(rule, _RULES, option="rule")
    if rule != "gausslegendre" and steps < 2:
        raise ConfigError(f"rule={rule} needs steps=2 or more.")


def completeness(run: Pass, signed: Tensor, reference: Tensor, /) -> dict[str, Tensor]:
    """``completeness_error``, sum of the map less F(input) - F(baseline), and that difference.

    (N,) float64 each. One forward pass. Call it inside ``run.prepared()``.
    """
    with torch.no_grad():
        change = run.value.double() - run.explained(reference, *run.additional).double()
    error = signed.flatten(1).sum(1, dtype=torch.float64) - change
    return {"completeness_error": error, "output_change": change}


@METHODS.register("integrated_gradients", aliases=("ig",))
@dataclass(frozen=True, kw_only=True)
class IntegratedGradients(WithBaseline):
    """Integrated Gradients: the mean gradient from a baseline to the input, times the difference.

    (x - x') times the integral of dF / dx along the straight line from the baseline x' to x: each
    pixel's share in F(x) - F(x'), signed. Costs ``steps`` forward and backward passes, and two
    forwards, in memory that does not grow with the steps. Needs gradients down to the input.

    Batches of one and of many cells give the same maps up to torch's rounding: on a CPU oneDNN
    convolves a single float32 crop otherwise. Measured in 3D (EfficientNet, 8 x 24 x 24): at most
    2e-6 of a cell's largest value, none in float64 or without oneDNN, and as much for plain torch;
    a voxel near 0 may differ by 2e-3 and more of its own value.

    The results get the columns ``completeness_error``, the sum of the map less F(input) -
    F(baseline), which is 0 for an exact integral, and ``output_change``, F(input) - F(baseline), to
    compare it with. Sundararajan et al., ICML 2017; numbers as Captum's ``IntegratedGradients``.

    >>> import attrscore
    >>> from attrscore.testing.samples import cells, net
    >>> method = IntegratedGradients(steps=8, baseline="blurred", sigma=2.0)
    >>> (result,) = attrscore.run(net(), cells(), methods=method, layers="input")
    >>> result.columns["grad_camo"].round(3)
    array([0.182, 0.161, 0.208, 0.177])
    """

    explains: ClassVar[str] = INPUT
    steps: int = 50
    """Points of the quadrature: forward and backward passes."""
    rule: Rule = "gausslegendre"
    """Of the quadrature."""
    chunk: int | None = None
    """Most copies of an input in memory at once; null: as many as suit the size of the crops."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "steps")
        check_chunk(self.chunk)
        check_rule(self.rule, self.steps)

    def check(self, run: Pass, /) -> None:
        """A single step of the path."""
        replace(self, steps=1, rule="gausslegendre")(run)

    def __call__(self, run: Pass, /) -> Maps:
        """INPUT -> (N, C, *S)."""
        inputs = run.batch.inputs.detach()
        reference = self.reference(inputs)
        weights, points = quadrature(self.rule, self.steps)
        run.additional  # noqa: B018  # the clean input's own pass comes first
        with run.prepared():
            mean = torch.zeros_like(inputs, dtype=torch.float64)
            for rows, steps in blocks(run, self.steps, self.chunk):
                low, way = reference[rows], inputs[rows] - reference[rows]
                path = torch.stack([low + at * way for at in points[steps]])
                gradients = gradients_at(run, path, rows)
                for weight, gradient in zip(weights[steps], gradients, strict=True):
                    mean[rows].add_(gradient, alpha=weight)
            signed = (mean * (inputs - reference)).to(inputs.dtype)
            return Diagnosed({INPUT: signed}, completeness(run, signed, reference))


@METHODS.register("gradient_shap")
@dataclass(frozen=True, kw_only=True)
class GradientShap(WithBaseline):
    """GradientShap: gradients at random points between a baseline and the noisy input.

    An estimate of Integrated Gradients, smoothed: each of ``samples`` draws adds Gaussian noise to
    the input and takes one point on the way. Signed. Costs ``samples`` forward and backward passes,
    and one forward. Needs gradients down to the input. Columns as ``integrated_gradients``; the
    completeness error falls with the square root of ``samples``. Lundberg, Lee, NeurIPS 2017;
    after Captum's ``GradientShap``, with one baseline a cell rather than a set to draw from.
    """

    explains: ClassVar[str] = INPUT
    samples: int = 20
    """Forward and backward passes."""
    noise: float = 0.1
    """Standard deviation, as a fraction of each channel's range."""
    chunk: int | None = None
    """Most copies of an input in memory at once; null: as many as suit the size of the crops."""
    seed: int = 0
    """Of what is drawn; a cell's draws follow from it and the id alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "samples")
        check_whole(self, "seed", least=0)
        check_chunk(self.chunk)
        check_share(self, "noise")

    def check(self, run: Pass, /) -> None:
        """A single sample."""
        replace(self, samples=1)(run)

    def __call__(self, run: Pass, /) -> Maps:
        """INPUT -> (N, C, *S)."""
        inputs = run.batch.inputs.detach()
        reference = self.reference(inputs)
        draws = [generator_of(self.seed, "gradient_shap", cell) for cell in run.batch.ids]
        total = torch.zeros_like(inputs, dtype=torch.float64)
        run.additional  # noqa: B018  # the clean input's own pass comes first
        with run.prepared():
            for rows, steps in blocks(run, self.samples, self.chunk):
                low, high, drawn = reference[rows], inputs[rows], draws[rows]
                ways, points = [], []
                for _ in range(steps.start, steps.stop):  # in order, however they are chunked
                    way = noisy(high, self.noise, drawn) - low
                    at = torch.stack([torch.rand(1, generator=each) for each in drawn]).to(way)
                    ways.append(way)
                    points.append(low + at.view(-1, *[1] * (way.ndim - 1)) * way)
                gradients = gradients_at(run, torch.stack(points), rows)
                for gradient, way in zip(gradients, ways, strict=True):
                    total[rows].add_(gradient * way, alpha=1 / self.samples)
            signed = total.to(inputs.dtype)
            return Diagnosed({INPUT: signed}, completeness(run, signed, reference))


@METHODS.register("guided_ig")
@dataclass(frozen=True, kw_only=True)
class GuidedIG(WithBaseline):
    """Guided Integrated Gradients: along a path that avoids steep, noisy directions.

    From the baseline to the input in ``steps``, each of the same length in sum of absolutes: those
    pixels move whose gradients are the smallest, a ``fraction`` of all at a time; none may stray
    further than ``max_distance`` of its way from the straight line. The map is the sum of gradient
    times movement, signed. Costs ``steps`` forward and backward passes one after the other, and two
    forwards, in memory that does not grow with the steps. Needs gradients down to the input.
    Columns as ``integrated_gradients``. The path is found by comparing gradients: where two are
    equal up to rounding, a cell in another batch may go another way. Kapishnikov et al., CVPR 2021.
    """

    explains: ClassVar[str] = INPUT
    steps: int = 200
    """Forward and backward passes."""
    fraction: float = 0.25
    """Of all pixels and channels, moved at once: those of the least gradients."""
    max_distance: float = 0.02
    """From the straight line at most, as a share of each pixel's way; 1: as far as it goes."""
    chunk: int | None = None
    """Most copies of an input in memory at once; null: as many as suit the size of the crops."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "steps")
        check_chunk(self.chunk)
        check_share(self, "fraction", "max_distance")
        if self.fraction > 1 or self.max_distance > 1:
            raise ConfigError(
                f"fraction={self.fraction} and max_distance={self.max_distance} must be 1 or less."
            )

    def check(self, run: Pass, /) -> None:
        """A single step of the path."""
        replace(self, steps=1)(run)

    def __call__(self, run: Pass, /) -> Maps:
        """INPUT -> (N, C, *S)."""
        inputs = run.batch.inputs.detach()
        reference = self.reference(inputs)
        total, size = torch.zeros_like(inputs), at_once(self.chunk, inputs)
        run.additional  # noqa: B018  # the clean input's own pass comes first
        with run.prepared():
            for first in range(0, len(inputs), size):
                rows = slice(first, min(first + size, len(inputs)))
                total[rows] = self._walk(run, inputs, reference, rows)
            return Diagnosed({INPUT: total}, completeness(run, total, reference))

    def _walk(self, run: Pass, inputs: Tensor, reference: Tensor, rows: slice) -> Tensor:
        """The maps of some rows, (n, C, *S)."""
        shape = inputs[rows].shape
        high, low = inputs[rows].flatten(1).double(), reference[rows].flatten(1).double()
        way = high - low
        length = way.abs().sum(1)
        total, point = torch.zeros_like(high), low
        for step in range(1, self.steps + 1):
            here = point.view(1, *shape).to(inputs.dtype)
            gradient = gradients_at(run, here, rows)[0].flatten(1).double()
            share = step / self.steps
            least = low + max(share - self.max_distance, 0) * way
            most = low + min(share + self.max_distance, 1) * way
            moved = self._moved(point, gradient, high, (low, least, most), length * (1 - share))
            total += (moved - point) * gradient
            point = moved
            run.step(rows.start * self.steps + step * len(high), len(inputs) * self.steps)
        return total.view(shape).to(inputs.dtype)

    def _moved(
        self,
        point: Tensor,
        gradient: Tensor,
        high: Tensor,
        bounds: tuple[Tensor, Tensor, Tensor],
        wanted: Tensor,
    ) -> Tensor:
        """Points (n, D) that have ``wanted`` (n,) of their way to ``high`` left.

        ``bounds`` are the beginning of the way, and between what each pixel must stay.
        """
        low, least, most = bounds
        behind = (point - low).abs() < (least - low).abs()
        point = torch.where(behind, least, point)
        slope, last = gradient.abs(), 1 + int(self.fraction * (gradient.shape[1] - 1))
        while True:
            left = (high - point).abs().sum(1)
            free = point != most
            going = (left > wanted) & ~torch.isclose(left, wanted, rtol=1e-9)
            lowest = slope.masked_fill(~free, torch.inf).kthvalue(last, dim=1, keepdim=True).values
            chosen = free & (slope <= lowest)
            reach = ((most - point).abs() * chosen).sum(1)
            going &= reach > 0
            if not bool(going.any()):
                return point
            portion = torch.where(going, (left - wanted) / reach, 0.0).clamp(max=1)
            ahead = torch.lerp(point, most, portion[:, None].expand_as(point))
            ahead = torch.where((portion >= 1)[:, None], most, ahead)
            point = torch.where(chosen & going[:, None], ahead, point)


@METHODS.register("layer_conductance")
@dataclass(frozen=True, kw_only=True)
class LayerConductance(WithBaseline):
    """Layer conductance: how much of F(input) - F(baseline) flows through each unit of a layer.

    Along the straight way from the baseline to the input, the changes of each activation times its
    gradient, summed over ``steps`` pieces between ``steps + 1`` points of ``rule``. Signed, with
    channels. At a layer through which everything flows the map sums to about F(input) -
    F(baseline). Costs ``steps + 1`` forward and backward passes for all layers together, one batch
    in memory at a time; Captum's, whose numbers these are, takes as many for each layer. Dhamdhere
    et al., ICLR 2019.
    """

    steps: int = 50
    """Pieces of the path; one forward and backward pass more than that."""
    rule: Rule = "gausslegendre"
    """Of the quadrature."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "steps")
        check_rule(self.rule, self.steps)

    def check(self, run: Pass, /) -> None:
        """Two points of the path."""
        replace(self, steps=1, rule="gausslegendre")(run)

    def __call__(self, run: Pass, /) -> Maps:
        """Layer -> (N, C, *s)."""
        inputs = run.batch.inputs.detach()
        reference = self.reference(inputs)
        _, points = quadrature(self.rule, self.steps + 1)
        total: dict[str, Tensor] = {}
        before = run.on(reference + points[0] * (inputs - reference))
        for done, point in enumerate(points[1:], start=1):
            here = run.on(reference + point * (inputs - reference))
            for name, gradient in before.gradients.items():
                change = here.activations[name] - before.activations[name]
                if name not in total:
                    total[name] = torch.zeros_like(change, dtype=torch.float64)
                total[name] += change * gradient
            before = here
            run.step(done, self.steps)
        return {name: each.to(inputs.dtype) for name, each in total.items()}
