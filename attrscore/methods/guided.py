"""Guided backpropagation, Deconvolution and Guided Grad-CAM, for models of nn.ReLU modules.

Captum guides ``nn.ReLU`` modules; on SiLU, a functional ReLU or a sigmoid gate it returns the plain
gradient without a word. Here the autograd graph is read first: between the input and the output of
the model there may be nn.ReLU modules, what is linear, pooling and normalisation, and all else is
refused. The rule is set at the ReLU's own node of that graph: the check costs no pass of its own,
and a ReLU whose input is used elsewhere too comes out right, where Captum rectifies the sum of all
that flows back there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from attrscore.core.contracts import INPUT, Maps
from attrscore.core.graph import Severed, beyond_linear, kind_of, listed, out_of_place
from attrscore.core.grids import Grid
from attrscore.core.model import call, check_output
from attrscore.core.passes import Pass, relu_nodes
from attrscore.core.registry import METHODS
from attrscore.errors import UnsupportedError, choose
from attrscore.methods.cams import grad_cam

__all__ = ["Deconvolution", "GuidedBackprop", "GuidedGradCAM", "check_guidable", "guided_backprop"]

Rule = Literal["guided", "deconvolution"]

_BESIDE = ("AdaptiveMaxPool", "MaxPool", "MkldnnMaxPool", "NativeGroupNorm", "NativeLayerNorm")
"""What a gradient passes as it is, beside what is linear: pooling and normalisation."""


def guided_backprop(run: Pass, /, *, rule: Rule = "guided") -> Tensor:
    """Gradients of the explained score in which every ReLU passes positive gradients only.

    (N, C, *S), computed once a pass for each ``rule``: one backward pass on the forward pass that
    all methods share. ``guided`` keeps the ReLU's own gate as well, ``deconvolution`` drops it.

    :raises UnsupportedError: the model has an activation that cannot be guided, named.
    """
    return run.once((guided_backprop, rule), lambda: _guided(run, rule))


def _guided(run: Pass, rule: Rule) -> Tensor:
    def rectify(into: tuple[Tensor, ...], out: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return ((into if rule == "guided" else out)[0].clamp(min=0),)

    inputs, scalar, output, relus, severed = run.graph
    _refuse_others(run, output, relus, severed)
    handles = [relu.register_hook(rectify) for relu in relus]
    try:
        (gradient,) = torch.autograd.grad(scalar.sum(), inputs, retain_graph=True)
    finally:
        for handle in handles:
            handle.remove()
    return gradient


def check_guidable(run: Pass, /) -> None:
    """Run one sample: every activation on the way to the score must be an nn.ReLU module.

    For Captum's own guided methods. Call it inside ``run.prepared()``.

    :raises UnsupportedError: one is not, or there is none; Captum would return a plain gradient.
    """
    inputs = run.batch.inputs[:1].detach().clone().requires_grad_()
    others = (each[:1] for each in run.batch.others)
    with out_of_place(run.model), relu_nodes(run.model) as relus, Severed() as severed:
        found = call(run.model, inputs, *others, autocast=run.autocast)
        output = check_output(found, 1, run.explained.output, inputs.ndim)
    _refuse_others(run, output, relus, severed.found)


def _refuse_others(
    run: Pass, output: Tensor, relus: Collection[Any], severed: Iterable[str]
) -> None:
    name = type(run.model).__name__
    nodes = beyond_linear(output.grad_fn, relus, beside=_BESIDE)
    found = [_named(node) for node in nodes] or [*severed]
    if found:
        raise UnsupportedError(
            f"Guided methods need every activation to be an nn.ReLU module; {name} has "
            f"{listed(found)}. Captum would return its plain gradient instead. Replace them with "
            "nn.ReLU modules and retrain, or use grad_cam, integrated_gradients or saliency."
        )
    if not relus:
        raise UnsupportedError(
            f"Guided methods need nn.ReLU modules, and no nn.ReLU runs in {name}. "
            "Use grad_cam, integrated_gradients or saliency."
        )


def _named(node: Any) -> str:
    kind = kind_of(node)
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        return f"custom autograd function {kind}"
    return {"Relu": "functional ReLU", "Mul": "product of features"}.get(kind, kind)


@METHODS.register("guided_backprop")
@dataclass(frozen=True)
class GuidedBackprop:
    """Guided backpropagation: the gradient, passed back through a ReLU only where it is positive.

    Signed, but mostly shows edges: it changes little with the weights of the upper layers (Adebayo
    et al., NeurIPS 2018). Costs one backward pass, shared with ``guided_grad_cam``, on the shared
    forward pass. Between input and output it accepts ``nn.ReLU`` modules, what is linear, pooling
    and normalisation, and refuses all else: other activations, a functional ReLU,
    ``clamp(min=0)``, ``x * (x > 0)``, sigmoid gates (squeeze and excitation), attention, a softmax
    at the end. Springenberg et al., ICLR workshops 2015; numbers as Captum's ``GuidedBackprop``.
    """

    explains: ClassVar[str] = INPUT
    needs_graph: ClassVar[bool] = True

    def __call__(self, run: Pass, /) -> Maps:
        """INPUT -> (N, C, *S)."""
        return {INPUT: guided_backprop(run)}


@METHODS.register("deconvolution", aliases=("deconvnet",))
@dataclass(frozen=True)
class Deconvolution:
    """Deconvolution: the score sent back, each ReLU rectifying what comes from above.

    Whether a unit was active on the way up is ignored, except by max pooling. Signed. Costs one
    backward pass on the shared forward pass. Refuses what ``guided_backprop`` does. Zeiler, Fergus,
    ECCV 2014; numbers as Captum's ``Deconvolution``.
    """

    explains: ClassVar[str] = INPUT
    needs_graph: ClassVar[bool] = True

    def __call__(self, run: Pass, /) -> Maps:
        """INPUT -> (N, C, *S)."""
        return {INPUT: guided_backprop(run, rule="deconvolution")}


@METHODS.register("guided_grad_cam")
@dataclass(frozen=True)
class GuidedGradCAM:
    """Guided Grad-CAM: guided backpropagation times the positive Grad-CAM of each layer.

    ``interpolate`` brings the Grad-CAM to the input (Captum's default is ``nearest``). Signed.
    Costs one guided backward pass for all layers beside the shared forward and backward. Refuses
    what ``guided_backprop`` does. Selvaraju et al., ICCV 2017.
    """

    needs_graph: ClassVar[bool] = True
    interpolate: Literal["nearest", "linear"] = "nearest"
    """Brings the Grad-CAM to the input."""

    def __post_init__(self) -> None:
        choose(self.interpolate, ("nearest", "linear"), option="interpolate")

    def __call__(self, run: Pass, /) -> Maps:
        """Layer -> (N, C, *S)."""
        guided = guided_backprop(run)
        maps = {}
        for name, gradient in run.gradients.items():
            cam = grad_cam(run.activations[name], gradient)[:, 0].relu()
            grid = Grid(run.batch.space, tuple(cam.shape[1:]), self.interpolate)
            maps[name] = guided * grid.push(cam)[:, None]
        return maps
