"""Layer-wise relevance propagation, for plain chains of modules that Captum's rules know."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from captum.attr import LRP as CaptumLRP  # noqa: N811  # a name in capitals
from captum.attr._utils.lrp_rules import EpsilonRule, GammaRule
from torch import Tensor, nn

from attrscore.core.contracts import INPUT, Diagnosed, Maps
from attrscore.core.graph import calls, kind_of, listed, nodes, out_of_place, parents
from attrscore.core.model import SealedModel, check_output
from attrscore.core.passes import Pass
from attrscore.core.registry import METHODS
from attrscore.errors import UnsupportedError, choose
from attrscore.methods._options import check_positive

__all__ = ["LRP", "LayerLRP"]

_WEIGHTED = (nn.Conv2d, nn.Conv3d, nn.Linear)
_RULED = (
    *_WEIGHTED,
    *(nn.BatchNorm2d, nn.BatchNorm3d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.Flatten, nn.Identity),
)
"""Captum has rules for the 2D ones; here their 3D counterparts get the same."""

_PASSED = (nn.ReLU, nn.Tanh, nn.Dropout)
"""What lets relevance pass as it is."""

_VIEWS = (
    *("AccumulateGrad", "Alias", "Clone", "ReshapeAlias", "Squeeze", "UnsafeView", "Unsqueeze"),
    "View",
)


class _Recording(CaptumLRP):  # type: ignore[misc]  # Captum is untyped
    """Captum's LRP, which also keeps what arrives at the outputs of some modules.

    Captum's own ``LayerLRP`` knows layers with a rule only: no ReLU and no block.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
        super().__init__(model)
        self.wanted = layers
        self.kept: dict[str, Tensor] = {}

    def _register_forward_hooks(self) -> None:
        """As Captum's, and one more behind them at each layer."""
        super()._register_forward_hooks()
        for name, module in self.wanted.items():

            def keep(_module: nn.Module, _args: object, output: Tensor, name: str = name) -> None:
                output.retain_grad()  # behind all other hooks, where it is relevance
                self.kept[name] = output

            self.forward_handles.append(module.register_forward_hook(keep))


@dataclass(frozen=True)
class _Propagation:
    """The rule, and what models it needs."""

    rule: Literal["epsilon", "gamma"] = "epsilon"
    """gamma favours positive weights."""
    epsilon: float = 1e-9
    """Keeps divisions finite."""
    gamma: float = 0.25
    """Share by which positive weights are favoured."""

    def __post_init__(self) -> None:
        choose(self.rule, ("epsilon", "gamma"), option="rule")
        check_positive(self, "epsilon", "gamma")

    def check(self, run: Pass, /) -> None:
        """One forward pass of one sample, whose graph is read.

        :raises UnsupportedError: Captum has no rule, or would propagate wrongly, and why.
        """
        if isinstance(run.model, SealedModel):
            raise UnsupportedError(f"LRP needs modules to put its rules on. {run.model.refusal}")
        problem = _problem(run)
        if problem:
            raise UnsupportedError(
                f"LRP cannot explain {type(run.model).__name__}: {problem}. "
                "Use integrated_gradients or input_x_gradient."
            )

    def relevance(self, run: Pass, /) -> dict[str, Tensor]:
        """INPUT and every layer -> relevance, computed once a pass for each rule."""
        key = (_Propagation, self.rule, self.epsilon, self.gamma)
        return run.once(key, lambda: self._propagated(run))

    def _propagated(self, run: Pass) -> dict[str, Tensor]:
        self.check(run)
        additional, value = run.additional, run.value
        inputs = run.batch.inputs.detach().clone().requires_grad_()
        with self._ruled(run.model), run.prepared(), out_of_place(run.model):
            captum = _Recording(run.explained, run.layers)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Setting backward hooks")
                found = captum.attribute(inputs, additional_forward_args=additional)
            scale = value.view(-1, *[1] * (inputs.ndim - 1))
            kept = {
                name: torch.zeros_like(output) if output.grad is None else output.grad * scale
                for name, output in captum.kept.items()
            }
        return {INPUT: found.detach()} | kept

    @contextmanager
    def _ruled(self, model: nn.Module) -> Iterator[None]:
        """Inside, every module has its rule; afterwards, nothing of Captum is left on them."""
        modules = [module for module in model.modules() if not list(module.children())]
        known = [set(vars(module)) for module in modules]
        try:
            for module in modules:
                if type(module) in _PASSED:
                    continue
                weighted = self.rule == "gamma" and type(module) in _WEIGHTED
                rule = GammaRule(self.gamma) if weighted else EpsilonRule(self.epsilon)
                module.rule = rule  # Captum asks for one even where a module does not run
            yield
        finally:
            for module, before in zip(modules, known, strict=True):
                for name in set(vars(module)) - before:  # Captum forgets its ``activations``
                    delattr(module, name)


def _problem(run: Pass) -> str:
    """Why Captum's rules do not hold for this model and target; empty if they do."""
    inputs = run.batch.inputs[:1].detach().clone().requires_grad_()
    aux, *others = (each[:1] for each in run.additional)
    leaves = [module for module in run.model.modules() if not list(module.children())]
    with run.prepared(), out_of_place(run.model):
        with calls(leaves) as seen:
            output = check_output(run.model(inputs, *others), 1, run.explained.output, inputs.ndim)
        if output.grad_fn is None:
            return "no gradient flows from the input to the output"
        scalar = run.target(output, aux)
        (start,) = torch.autograd.grad(scalar.sum(), output, retain_graph=True)
    unknown = [type(m).__name__ for m in seen.times if type(m) not in (*_RULED, *_PASSED)]
    if unknown:
        return f"Captum has no rule for {listed(unknown)}"
    twice = [type(module).__name__ for module, count in seen.times.items() if count > 1]
    if twice:
        return f"{twice[0]} modules run twice in one forward pass"
    behind = list(nodes(output.grad_fn))
    beside = [
        kind_of(node) for node in behind if node not in seen.within and kind_of(node) not in _VIEWS
    ]
    if beside:
        return f"it works outside of modules, where Captum has no rules: {listed(beside)}"
    uses = Counter(parent for node in behind for parent in parents(node) if parent is not None)
    if any(count > 1 for count in uses.values()):
        return "features go two ways, and Captum would count their relevance twice"
    if (start != 0).sum() != 1 or float(start.max()) != 1:
        return f"relevance starts from one output, and the target {run.target} is made of several"
    return ""


@METHODS.register("lrp")
@dataclass(frozen=True)
class LRP(_Propagation):
    """LRP: the output, handed down from layer to layer in proportion to what each unit gave.

    R_i = sum_j a_i w_ij / (sum_i a_i w_ij + epsilon) R_j, signed. ``rule`` is ``epsilon``
    (``epsilon`` keeps the divisions finite; at ReLU networks its limit is input x gradient) or
    ``gamma``, which favours positive weights of convolutions and linear layers by the share
    ``gamma``. Costs two forward passes, one of a single sample, and one backward. The column
    ``conservation_error`` is the sum of the map less the output: what biases and epsilon absorb.

    Refuses what Captum has no rule for: modules other than convolutions, linear layers, batch
    normalisation, pooling, ReLU, Tanh and dropout; operations outside of modules; residual and
    dense connections; modules that run twice; targets that are not one output. Bach et al., PLOS
    ONE 2015; Montavon et al., 2019 (gamma); computed by Captum's ``LRP``.
    """

    explains: ClassVar[str] = INPUT

    def __call__(self, run: Pass, /) -> Maps:
        """INPUT -> (N, C, *S)."""
        signed = self.relevance(run)[INPUT]
        error = signed.flatten(1).sum(1, dtype=torch.float64) - run.value.double()
        return Diagnosed({INPUT: signed}, {"conservation_error": error})


@METHODS.register("layer_lrp")
@dataclass(frozen=True)
class LayerLRP(_Propagation):
    """The relevance that arrives at the output of each layer, by the rules of ``lrp``.

    Signed, with channels. Costs two forward passes and one backward for all layers, shared with an
    ``lrp`` of the same options, and refuses the same models. Bach et al., PLOS ONE 2015;
    computed by Captum's ``LRP``.
    """

    def __call__(self, run: Pass, /) -> Maps:
        """Layer -> (N, C, *s)."""
        relevance = self.relevance(run)
        return {name: relevance[name] for name in run.layers}
