"""Class activation maps: small functions of a layer's activation and gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from attrscore.core import Maps
from attrscore.errors import choose
from attrscore.passes import Pass
from attrscore.registry import METHODS

__all__ = ["GradCAM", "HiResCAM", "grad_cam", "hires_cam"]


def grad_cam(activation: Tensor, gradient: Tensor, /, *, channels: str = "sum") -> Tensor:
    """Activations weighted by the spatial mean of their gradients, before the ReLU.

    (N, C, *s), (N, C, *s) -> (N, 1, *s), or (N, C, *s) with ``channels="keep"``. Selvaraju et al.,
    ICCV 2017, equations 1 and 2.

    >>> import torch
    >>> activation = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    >>> gradient = torch.tensor([[[[1.0, 3.0]], [[-1.0, 0.0]]]])
    >>> grad_cam(activation, gradient)
    tensor([[[[0.5000, 2.0000]]]])
    """
    weights = gradient.mean(tuple(range(2, gradient.ndim)), keepdim=True)
    weighted = weights * activation
    return weighted.sum(1, keepdim=True) if channels == "sum" else weighted


@METHODS.register("grad_cam")
@dataclass(frozen=True)
class GradCAM:
    """Grad-CAM at every layer of the pass, signed (the ReLU is the heat's ``sign="positive"``).

    Costs one forward and one backward pass for all layers and all methods of this family. At layers
    before the last convolution the spatial mean of the gradients can light up places that the
    network did not use. Selvaraju et al., ICCV 2017.
    """

    channels: Literal["sum", "keep"] = "sum"

    def __post_init__(self) -> None:
        choose(self.channels, ("sum", "keep"), option="channels")

    def __call__(self, run: Pass, /) -> Maps:
        """Layer -> (N, 1, *s)."""
        return {
            name: grad_cam(run.activations[name], gradient, channels=self.channels)
            for name, gradient in run.gradients.items()
        }


def hires_cam(activation: Tensor, gradient: Tensor, /) -> Tensor:
    """Activations weighted by their own gradients, place by place, before the ReLU.

    (N, C, *s), (N, C, *s) -> (N, 1, *s). Draelos, Carin, arXiv 2011.08891 (2020), equation 4.

    >>> import torch
    >>> activation = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    >>> gradient = torch.tensor([[[[1.0, 3.0]], [[-1.0, 0.0]]]])
    >>> hires_cam(activation, gradient)
    tensor([[[[-2.,  6.]]]])
    """
    return (gradient * activation).sum(1, keepdim=True)


@METHODS.register("hires_cam")
@dataclass(frozen=True)
class HiResCAM:
    """HiResCAM at every layer of the pass, signed.

    Lights up only places that raised the score where convolutions are followed by one linear layer;
    there, under global average pooling, it equals Grad-CAM at the last convolution. Costs nothing
    beside the shared pass. Draelos, Carin, arXiv 2011.08891 (2020).
    """

    def __call__(self, run: Pass, /) -> Maps:
        """Layer -> (N, 1, *s)."""
        return {
            name: hires_cam(run.activations[name], gradient)
            for name, gradient in run.gradients.items()
        }
