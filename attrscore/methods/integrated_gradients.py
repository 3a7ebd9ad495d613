"""Integrated Gradients, with the class fixed on the clean input and memory bounded.

The loop is written here because Captum's sums with weights in float32, holds a whole batch at once
however small the chunk, and tells no progress. Its quadrature rules are used as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from captum.attr._utils.approximation_methods import approximation_parameters
from torch import Tensor

from attrscore.core.contracts import INPUT, Diagnosed, Maps
from attrscore.core.passes import Pass
from attrscore.core.registry import METHODS
from attrscore.errors import ConfigError, choose
from attrscore.methods.baselines import WithBaseline
from attrscore.methods.copies import check_chunk
from attrscore.methods.options import check_whole
from attrscore.methods.straight import mean_gradient

__all__ = ["IntegratedGradients", "Rule", "completeness", "quadrature"]

Rule = Literal[
    "gausslegendre", "riemann_left", "riemann_middle", "riemann_right", "riemann_trapezoid"
]

_RULES = ("gausslegendre", "riemann_left", "riemann_middle", "riemann_right", "riemann_trapezoid")


def quadrature(rule: str, steps: int, /) -> tuple[list[float], list[float]]:
    """Weights and places within [0, 1] of a rule, as Captum defines them."""
    weights, places = approximation_parameters(rule)
    return weights(steps), places(steps)


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
    """Gradients averaged on the straight way from a baseline to the input, times their difference.

    Each pixel's share in F(input) - F(baseline), signed. ``steps`` points of the quadrature
    ``rule`` (Captum's names); ``baseline`` and ``sigma`` as
    :class:`attrscore.methods.baselines.WithBaseline`. At most ``chunk`` copies of an input are in
    memory at once, however many the steps; without it, as many as have 2**17 pixels together.
    Costs ``steps`` forward and backward passes, less what a convolution at the beginning of the
    network takes, and two forwards. Needs gradients down to the input.

    The results get the columns ``completeness_error``, the sum of the map less F(input) -
    F(baseline), which is 0 for an exact integral, and ``output_change``, F(input) - F(baseline), to
    compare it with. Sundararajan et al., ICML 2017; numbers as Captum's ``IntegratedGradients``.
    """

    explains: ClassVar[str] = INPUT
    steps: int = 50
    rule: Rule = "gausslegendre"
    chunk: int | None = None

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
        weights, places = quadrature(self.rule, self.steps)
        run.additional  # noqa: B018  # the clean input's own pass comes first
        with run.prepared():
            mean = mean_gradient(run, reference, weights, places, chunk=self.chunk)
            signed = (mean * (inputs - reference)).to(inputs.dtype)
            return Diagnosed({INPUT: signed}, completeness(run, signed, reference))
