"""Guided backpropagation and Guided Grad-CAM, for networks whose only rectifier is nn.ReLU.

Captum guides ``nn.ReLU`` modules; on SiLU, GELU or a functional ReLU it returns the plain gradient
without a word. Here the autograd graph of one sample is read first, and such a network is refused.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from captum.attr import GuidedBackprop
from torch import Tensor, nn

from attrscore.core import Maps
from attrscore.errors import UnsupportedError, choose
from attrscore.methods.cams import grad_cam
from attrscore.passes import Pass
from attrscore.registry import METHODS

__all__ = ["GuidedGradCAM", "check_guidable", "guided_backprop"]

_ACTIVATIONS = re.compile(
    r"^(Celu|Elu|Gelu|Glu|Hardshrink|Hardsigmoid|Hardswish|Hardtanh|LeakyRelu|LogSigmoid|Mish|Prelu|"
    r"PreluKernel|Relu6|Rrelu|RreluWithNoise|Silu|Softplus|Softshrink|Tanh|Threshold)Backward"
)


def guided_backprop(run: Pass, /) -> Tensor:
    """Gradients of the explained score in which every ReLU passes positive gradients only.

    (N, C, *S). Springenberg et al., ICLR workshops 2015, computed by Captum's ``GuidedBackprop``.

    :raises UnsupportedError: the network has an activation that cannot be guided, named.
    """
    with run.prepared(), warnings.catch_warnings():
        check_guidable(run)
        warnings.filterwarnings("ignore", message="Setting backward hooks on ReLU")
        attribution: Tensor = GuidedBackprop(run.explained).attribute(
            run.batch.inputs.detach().clone().requires_grad_(), additional_forward_args=run.aux
        )
    return attribution.detach()


@METHODS.register("guided_grad_cam")
@dataclass(frozen=True)
class GuidedGradCAM:
    """Guided backpropagation times the rectified Grad-CAM of each layer, at the size of the input.

    ``interpolate`` brings the Grad-CAM to the input (Captum's default is ``nearest``). Costs one
    guided forward and backward pass for all layers beside the shared one. Refuses networks with
    activations other than ``nn.ReLU`` modules. Selvaraju et al., ICCV 2017.
    """

    interpolate: Literal["nearest", "linear"] = "nearest"

    def __post_init__(self) -> None:
        choose(self.interpolate, ("nearest", "linear"), option="interpolate")

    def __call__(self, run: Pass, /) -> Maps:
        """Layer -> (N, C, *S)."""
        guided = guided_backprop(run)
        linear = {2: "bilinear", 3: "trilinear"}[guided.ndim - 2]
        mode = linear if self.interpolate == "linear" else "nearest"
        return {
            name: guided
            * F.interpolate(
                grad_cam(run.activations[name], gradient).relu(), size=run.batch.space, mode=mode
            )
            for name, gradient in run.gradients.items()
        }


def check_guidable(run: Pass, /) -> None:
    """Read the graph of one sample: every activation in it must be an nn.ReLU module.

    Call it inside ``run.prepared()``.

    :raises UnsupportedError: one is not, or there is none; Captum would return a plain gradient.
    """
    guided: set[Any] = set()

    def remember(_module: nn.Module, _args: Any, output: Tensor) -> None:
        guided.add(output.grad_fn)

    relus = [module for module in run.model.modules() if isinstance(module, nn.ReLU)]
    handles = [module.register_forward_hook(remember) for module in relus]
    try:
        inputs = run.batch.inputs[:1].detach().clone().requires_grad_()
        scalar = run.explained(inputs.clone(), run.aux[:1])
    finally:
        for handle in handles:
            handle.remove()
    found = Counter(_activations(scalar.grad_fn, guided))
    name = type(run.model).__name__
    if found:
        listed = ", ".join(f"{count} x {what}" for what, count in sorted(found.items()))
        raise UnsupportedError(
            f"Guided methods need every activation to be an nn.ReLU module; {name} has {listed}. "
            "Captum would return its plain gradient instead. Replace them with nn.ReLU modules and "
            "retrain, or use grad_cam, integrated_gradients or saliency."
        )
    if not guided:
        raise UnsupportedError(
            f"Guided methods need nn.ReLU modules, and no nn.ReLU runs in {name}. "
            "Use grad_cam, integrated_gradients or saliency."
        )


def _activations(root: Any, guided: set[Any]) -> list[str]:
    """Names of the activations between the scalar and the input that Captum would not guide."""
    found, seen, stack = [], set(), [root]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        parents = [parent for parent, _ in node.next_functions]
        stack.extend(parents)
        kind = type(node).__name__
        if kind.startswith("ReluBackward"):
            if node not in guided:
                found.append("functional ReLU")
        elif _ACTIVATIONS.match(kind):
            found.append(re.sub(r"Backward\d*$", "", kind))
        elif isinstance(node, torch.autograd.function.BackwardCFunction):
            found.append(f"custom autograd function {kind.removesuffix('Backward')}")
        elif kind.startswith("MulBackward") and _is_swish(parents):
            found.append("x * sigmoid(x)")
    return found


def _is_swish(factors: list[Any]) -> bool:
    """Whether one factor is the sigmoid of the other, as in a SiLU written by hand."""
    for gate, other in (factors, factors[::-1]) if len(factors) == 2 else ():
        if type(gate).__name__.startswith("SigmoidBackward") and other is not None:
            return any(parent is other for parent, _ in gate.next_functions)
    return False
