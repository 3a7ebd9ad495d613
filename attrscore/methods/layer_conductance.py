"""Layer conductance of all layers in one walk along the path."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attrscore.core.contracts import Maps
from attrscore.core.passes import Pass
from attrscore.core.registry import METHODS
from attrscore.methods.baselines import WithBaseline
from attrscore.methods.integrated_gradients import Rule, check_rule, quadrature
from attrscore.methods.options import check_whole

__all__ = ["LayerConductance"]


@METHODS.register("layer_conductance")
@dataclass(frozen=True, kw_only=True)
class LayerConductance(WithBaseline):
    """How much of F(input) - F(baseline) flows through each unit of a layer.

    Along the straight way from the baseline to the input, the changes of each activation times its
    gradient, summed over ``steps`` pieces between ``steps + 1`` places of ``rule``. Signed, with
    channels. At a layer through which everything flows the map sums to about F(input) -
    F(baseline). Costs ``steps + 1`` forward and backward passes for all layers together, one batch
    in memory at a time; Captum's, whose numbers these are, takes as many for each layer. Dhamdhere
    et al., ICLR 2019.
    """

    steps: int = 50
    rule: Rule = "gausslegendre"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "steps")
        check_rule(self.rule, self.steps)

    def check(self, run: Pass, /) -> None:
        """Two places of the path."""
        replace(self, steps=1, rule="gausslegendre")(run)

    def __call__(self, run: Pass, /) -> Maps:
        """Layer -> (N, C, *s)."""
        inputs = run.batch.inputs.detach()
        reference = self.reference(inputs)
        _, places = quadrature(self.rule, self.steps + 1)
        total: dict[str, Tensor] = {}
        before = run.on(reference + places[0] * (inputs - reference))
        for done, place in enumerate(places[1:], start=1):
            here = run.on(reference + place * (inputs - reference))
            for name, gradient in before.gradients.items():
                change = here.activations[name] - before.activations[name]
                if name not in total:
                    total[name] = torch.zeros_like(change, dtype=torch.float64)
                total[name] += change * gradient
            before = here
            run.step(done, self.steps)
        return {name: each.to(inputs.dtype) for name, each in total.items()}
