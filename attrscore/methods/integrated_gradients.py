"""Integrated Gradients, with the class fixed on the clean input and memory bounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from torch import Tensor

from attrscore.core import INPUT, Diagnosed, Maps
from attrscore.errors import ConfigError, choose
from attrscore.passes import Pass
from attrscore.registry import METHODS

__all__ = ["IntegratedGradients"]

_RULES = ("gausslegendre", "riemann_left", "riemann_middle", "riemann_right", "riemann_trapezoid")


@METHODS.register("integrated_gradients", aliases=("ig",))
@dataclass(frozen=True)
class IntegratedGradients:
    """Gradients averaged on the straight way from a baseline to the input, times their difference.

    ``steps`` points of the quadrature ``rule`` (Captum's names); ``baseline`` is ``zero`` or
    ``mean`` (the mean of each channel over the crop). At most ``chunk`` copies of an input, or one
    batch if that is more, are in memory at once. Costs ``steps`` forward and backward passes.

    The results get the columns ``completeness_error``, the sum of the map less F(input) -
    F(baseline), which is 0 for an exact integral, and ``output_change``, F(input) - F(baseline), to
    compare it with. Sundararajan et al., ICML 2017, computed by Captum's ``IntegratedGradients``.
    """

    explains: ClassVar[str] = INPUT
    steps: int = 50
    rule: Literal[
        "gausslegendre", "riemann_left", "riemann_middle", "riemann_right", "riemann_trapezoid"
    ] = "gausslegendre"
    baseline: Literal["zero", "mean"] = "zero"
    chunk: int = 64

    def __post_init__(self) -> None:
        choose(self.rule, _RULES, option="rule")
        choose(self.baseline, ("zero", "mean"), option="baseline")
        for name in ("steps", "chunk"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise ConfigError(
                    f"{name}={getattr(self, name)!r} must be a whole number, 1 or more."
                )

    def __call__(self, run: Pass, /) -> Maps:
        """INPUT -> (N, C, *S)."""
        inputs = run.batch.inputs.detach()
        baseline = _baseline(inputs, self.baseline)
        aux = run.aux
        with run.prepared():
            signed = (
                CaptumIntegratedGradients(run.explained)
                .attribute(
                    inputs,
                    baselines=baseline,
                    additional_forward_args=aux,
                    n_steps=self.steps,
                    method=self.rule,
                    # Captum warns below the batch size and then takes one step at a time anyway.
                    internal_batch_size=max(self.chunk, len(inputs)),
                )
                .detach()
            )
            with torch.no_grad():
                change = (run.value - run.explained(baseline, aux)).double()
        error = signed.double().flatten(1).sum(1) - change
        return Diagnosed({INPUT: signed}, {"completeness_error": error, "output_change": change})


def _baseline(inputs: Tensor, kind: str) -> Tensor:
    if kind == "zero":
        return torch.zeros_like(inputs)
    return inputs.mean(tuple(range(2, inputs.ndim)), keepdim=True).expand_as(inputs).contiguous()
