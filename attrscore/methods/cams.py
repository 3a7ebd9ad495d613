"""Class activation maps: small functions of a layer's activation and gradient.

All of them, at all layers, cost one forward and one backward pass together. Every map is signed and
raw; the ReLU of the papers is the heat's ``sign="positive"``. Of a layer that keeps the channels of
the image apart, each has a map of its own, (N, stains, *s), which the heat's ``channels`` joins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attrscore.core.contracts import Batch, Maps, Partial, Target
from attrscore.core.model import dtype_of
from attrscore.core.passes import Pass, generator_of
from attrscore.core.registry import METHODS
from attrscore.errors import UnsupportedError, choose
from attrscore.methods._options import WithGradients, check_share, check_whole
from attrscore.targets import scores_of

__all__ = [
    "ActivationXGradient",
    "EigenGradCAM",
    "FinerCAM",
    "GradCAM",
    "GradCAMPlusPlus",
    "HiResCAM",
    "LayerCAM",
    "RandomCAM",
    "XGradCAM",
    "by_stain",
    "eigen_grad_cam",
    "grad_cam",
    "grad_cam_plus_plus",
    "hires_cam",
    "layer_cam",
    "weighted",
    "xgrad_cam",
]

CANCELS = 1e-3
"""A sum whose parts are a thousand times as large is what an epsilon and rounding leave of 0."""

PIECE = 4 * 2**20
"""Bytes of activations from which a map is made at once on a CPU."""


def grad_cam(activation: Tensor, gradient: Tensor, /, *, channels: str = "sum") -> Tensor:
    """Activations weighted by the spatial mean of their gradients.

    (N, C, *s), (N, C, *s) -> (N, 1, *s), or (N, C, *s) with ``channels="keep"``. Selvaraju et al.,
    ICCV 2017, equations 1 and 2.

    >>> activation = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    >>> gradient = torch.tensor([[[[1.0, 3.0]], [[-1.0, 0.0]]]])
    >>> grad_cam(activation, gradient)
    tensor([[[[0.5000, 2.0000]]]])
    """
    weights = gradient.mean(_space(gradient), keepdim=True)
    return weighted(activation, weights) if channels == "sum" else weights * activation


def hires_cam(activation: Tensor, gradient: Tensor, /) -> Tensor:
    """Activations weighted by their own gradients, voxel by voxel.

    (N, C, *s), (N, C, *s) -> (N, 1, *s). Draelos, Carin, arXiv 2011.08891 (2020).

    >>> activation = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    >>> gradient = torch.tensor([[[[1.0, 3.0]], [[-1.0, 0.0]]]])
    >>> hires_cam(activation, gradient)
    tensor([[[[-2.,  6.]]]])
    """
    return (gradient * activation).sum(1, keepdim=True)


def layer_cam(activation: Tensor, gradient: Tensor, /) -> Tensor:
    """Activations weighted by the positive part of their own gradients, voxel by voxel.

    (N, C, *s), (N, C, *s) -> (N, 1, *s). Jiang et al., IEEE Transactions on Image Processing 2021.

    >>> activation = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    >>> gradient = torch.tensor([[[[1.0, 3.0]], [[-1.0, 0.0]]]])
    >>> layer_cam(activation, gradient)
    tensor([[[[1., 6.]]]])
    """
    return (gradient.relu() * activation).sum(1, keepdim=True)


def xgrad_cam(activation: Tensor, gradient: Tensor, /) -> Tensor:
    """Activations weighted by the mean of their gradients, itself weighted by activation.

    (N, C, *s), (N, C, *s) -> (N, 1, *s). A channel whose activations sum to 0 gets the weight 0. Fu
    et al., BMVC 2020.

    >>> activation = torch.tensor([[[[1.0, 3.0]], [[0.0, 0.0]]]])
    >>> gradient = torch.tensor([[[[2.0, 6.0]], [[-1.0, 5.0]]]])
    >>> xgrad_cam(activation, gradient)  # (2 * 1 + 6 * 3) / (1 + 3) = 5
    tensor([[[[ 5., 15.]]]])
    """
    total = activation.sum(_space(activation), keepdim=True)
    products = (gradient * activation).sum(_space(activation), keepdim=True)
    weights = torch.where(total == 0, 0.0, products / torch.where(total == 0, 1.0, total))
    return weighted(activation, weights)


def grad_cam_plus_plus(activation: Tensor, gradient: Tensor, /) -> Tensor:
    """Activations weighted by positive gradients, each voxel by its share in the score.

    (N, C, *s), (N, C, *s) -> (N, 1, *s). The share is alpha = g^2 / (2 g^2 + g^3 sum(A)), 0 where
    it is undefined; derived for the exponential of the score. Chattopadhay et al., WACV 2018.

    >>> activation = torch.tensor([[[[1.0, 3.0]]]])
    >>> gradient = torch.tensor([[[[1.0, 0.0]]]])
    >>> grad_cam_plus_plus(activation, gradient)  # alpha = 1 / (2 + 4) at the first voxel
    tensor([[[[0.1667, 0.5000]]]])
    """
    # Divided by g^2, which underflows for small gradients: alpha = 1 / (2 + g sum(A)) where g > 0.
    below = (gradient * activation.sum(_space(activation), keepdim=True)).add_(2)
    weights = (gradient.relu() / below).sum(_space(gradient), keepdim=True)
    if not bool(weights.isfinite().all()):  # asking every voxel is slow, and it is rarely 0
        below = below.masked_fill(below == 0, torch.inf)
        weights = (gradient.relu() / below).sum(_space(gradient), keepdim=True)
    return weighted(activation, weights)


def eigen_grad_cam(activation: Tensor, gradient: Tensor, /) -> Tensor:
    """Gradient x activation projected on its first principal component over the channels.

    (N, C, *s), (N, C, *s) -> (N, 1, *s). A component has no sign of its own: it is turned to agree
    with the sum over channels. Muhammad, Yeasin, IJCNN 2020 (Eigen-CAM), with gradients.

    >>> activation = torch.tensor([[[[1.0, 3.0]], [[0.0, 0.0]]]])
    >>> eigen_grad_cam(activation, torch.ones_like(activation))
    tensor([[[[-1.,  1.]]]])
    """
    product = gradient * activation
    rows = product.flatten(2).mT  # (N, voxels, C)
    centred = rows - rows.mean(1, keepdim=True)
    finite = centred.isfinite().all(2).all(1)[:, None, None]  # LAPACK fails for the whole batch
    component = torch.linalg.svd(centred.where(finite, 0.0), full_matrices=False).Vh[:, :1].mT
    projected = (centred @ component)[..., 0]
    agrees = (projected * centred.sum(2)).sum(1, keepdim=True)
    turned = torch.where(agrees < 0, -projected, projected)
    return turned.view(len(product), 1, *product.shape[2:])


def _space(values: Tensor) -> tuple[int, ...]:
    return tuple(range(2, values.ndim))


def weighted(activation: Tensor, weights: Tensor) -> Tensor:
    """The sum over channels of activations times weights, one a channel, as a product of matrices.

    It makes no copy of the activations.
    """
    found = torch.bmm(weights.flatten(1)[:, None], activation.flatten(2))
    return found.reshape(len(activation), 1, *activation.shape[2:])


def by_stain(
    run: Pass, layer: str, formula: Callable[[Tensor, Tensor], Tensor], other: Tensor
) -> Tensor:
    """What a formula makes of a layer's activation and another tensor: (N, 1, *s).

    Of a layer that keeps the image's channels apart: (N, stains, *s), of each stain alone.
    """
    activation, count = run.activations[layer], len(run.layers.stains(layer))
    if not count:
        return formula(activation, other)
    each = [
        values.reshape(-1, values.shape[1] // count, *values.shape[2:])
        for values in (activation, other)
    ]
    found = formula(*each)
    return found.reshape(len(activation), -1, *found.shape[2:])


def _summed(run: Pass, maps: Maps) -> Maps:
    """Maps of sums over activation times gradient, but of layers where these cancel.

    Where positions reach the score through a normalisation of their channels alone, as before the
    last norm of a transformer or inside a ConvNeXt, the score is the same however they are scaled.
    Their sums are then 0, by Euler's theorem on homogeneous functions.
    """
    dtype = dtype_of(run.model)
    least = max(CANCELS, torch.finfo(dtype).eps if dtype else 0.0)
    refused = {}
    for name in maps:
        gradient = run.gradients[name].detach()
        row = next((row for row, each in enumerate(gradient) if each.any()), 0)
        product = run.activations[name].detach()[row] * gradient[row]
        product = product.view(max(1, len(run.layers.stains(name))), -1, *product.shape[1:])
        sums, parts = product.sum(1).abs(), product.abs().sum(1)
        if (parts > 0).sum() > 1 and sums.max() < least * parts.max():
            refused[name] = (
                f"Activation times gradient cancels at every position of '{name}': the score is "
                "read behind a normalisation and does not depend on their scale, so that the sum "
                "over channels shows nothing. Use gradients=libra, layer_cam, or an earlier layer."
            )
    return Partial({name: each for name, each in maps.items() if name not in refused}, refused)


@dataclass(frozen=True)
class _OfLayers(WithGradients):
    """A map of each layer from what the pass has of it."""

    @property
    def needs_model(self) -> bool:
        """Whether it runs the model itself."""
        return self.gradients != "plain"


@dataclass(frozen=True)
class _LayerByLayer(_OfLayers):
    """A map of each layer from its activation and gradient alone."""

    formula: ClassVar[Callable[..., Tensor]]

    def __call__(self, run: Pass, /) -> Maps:
        """Layer -> (N, 1, *s)."""
        run = self.differentiated(run)
        return {
            name: by_stain(run, name, self._in_pieces, gradient)
            for name, gradient in run.gradients.items()
        }

    def _in_pieces(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """Some cells at a time, so that what lies between stays near the processor."""
        formula = type(self).formula
        if activation.device.type != "cpu":
            return formula(activation, gradient)
        cells = max(1, PIECE // activation[0].nbytes)
        pieces = zip(*(torch.split(each, cells) for each in (activation, gradient)), strict=True)
        return torch.cat([formula(*piece) for piece in pieces])


@METHODS.register("grad_cam")
@dataclass(frozen=True)
class GradCAM(_OfLayers):
    """Grad-CAM: activations weighted by the spatial mean of their gradients.

    L = sum_k alpha_k A_k, alpha_k = mean over space of dy / dA_k, signed; the ReLU of the paper is
    the heat's. At layers before the last convolution the mean can light up voxels that the model
    did not use (``hires_cam`` does not). Selvaraju et al., ICCV 2017.

    >>> import attrscore
    >>> from attrscore.testing.samples import cells, net
    >>> for result in attrscore.run(net(), cells(), methods=GradCAM(), layers=["low", "high"]):
    ...     print(result.layer, result.columns["grad_camo"].round(3))
    low [0.219 0.237 0.29  0.144]
    high [0.172 0.104 0.062 0.   ]
    """

    channels: Literal["sum", "keep"] = "sum"
    """Over the channels of the layer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choose(self.channels, ("sum", "keep"), option="channels")

    def __call__(self, run: Pass, /) -> Maps:
        """Layer -> (N, 1, *s), or (N, C, *s)."""
        run, formula = self.differentiated(run), partial(grad_cam, channels=self.channels)
        return {
            name: by_stain(run, name, formula, gradient) for name, gradient in run.gradients.items()
        }


@METHODS.register("finer_cam")
@dataclass(frozen=True, kw_only=True)
class FinerCAM(WithGradients):
    """Finer-CAM: Grad-CAM of what sets the class apart from those that are most like it.

    The explained scalar is the mean of y_c - alpha y_d over the ``compared`` classes d whose scores
    are nearest to that of the explained class c, weighted by their probabilities: what these
    classes share cancels. The class is the target's; its ``scalar`` is not used. Costs one forward
    and one backward pass of its own for all layers. Cannot explain targets that are no class.
    Zhang et al., CVPR 2025; numbers as pytorch-grad-cam's ``FinerCAM``.
    """

    alpha: float = 1.0
    """Share of the other classes' scores that is taken off; 0 is Grad-CAM of the logit."""
    compared: int = 3
    """Classes of the nearest scores, or all others where there are fewer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self, "alpha")
        check_whole(self, "compared")

    def __call__(self, run: Pass, /) -> Maps:
        """Layer -> (N, 1, *s)."""
        classes = run.aux.dtype is torch.int64 and run.aux.ndim == 1
        if not classes or not getattr(run.target, "of_classes", True):
            raise UnsupportedError(
                f"finer_cam compares a class with those like it, and target={run.target} explains "
                "none; use target=predicted, label or index, or grad_cam."
            )
        (finer,) = self.differentiated(run).towards(
            [_Finer(run.target, run.aux, self.alpha, self.compared)]
        )
        return GradCAM()(finer)


@dataclass(frozen=True)
class _Finer:
    """The target of Finer-CAM."""

    behind: Target
    aux: Tensor
    alpha: float
    compared: int

    def prepare(self, _output: Tensor, _batch: Batch, /) -> Tensor:
        return self.aux

    def __call__(self, output: Tensor, aux: Tensor, /) -> Tensor:
        scores = scores_of(self.behind, output)
        own = scores.gather(1, aux[:, None])
        apart = (scores.detach() - own.detach()).abs().scatter(1, aux[:, None], torch.inf)
        most = min(self.compared, scores.shape[1] - 1)
        others = apart.argsort(stable=True, dim=1)[:, :most]
        weights = scores.softmax(1).gather(1, others)
        differences = own - self.alpha * scores.gather(1, others)
        return (weights * differences).sum(1) / weights.sum(1)


@METHODS.register("hires_cam")
@dataclass(frozen=True)
class HiResCAM(_LayerByLayer):
    """HiResCAM: activations weighted by their own gradients, voxel by voxel.

    L = sum_k A_k dy / dA_k. Lights up only voxels that changed the score where convolutions are
    followed by one linear layer; under global average pooling it equals Grad-CAM there. Refused
    where the sum cancels, as before a normalisation of the channels behind which alone the score is
    read (the last block of a transformer, stages of ConvNeXt): there use ``gradients=libra``.
    Draelos, Carin, arXiv 2011.08891.
    """

    formula = staticmethod(hires_cam)

    def __call__(self, run: Pass, /) -> Maps:
        """Layer -> (N, 1, *s)."""
        return _summed(self.differentiated(run), super().__call__(run))


@METHODS.register("layer_cam")
@dataclass(frozen=True)
class LayerCAM(_LayerByLayer):
    """LayerCAM: as HiResCAM with positive gradients only; made for early layers.

    L = sum_k A_k max(0, dy / dA_k). Jiang et al., IEEE Transactions on Image Processing 2021.
    """

    formula = staticmethod(layer_cam)


@METHODS.register("xgrad_cam")
@dataclass(frozen=True)
class XGradCAM(_LayerByLayer):
    """XGrad-CAM: Grad-CAM whose spatial mean is weighted by activation.

    L = sum_k alpha_k A_k, alpha_k = sum(A_k dy / dA_k) / sum(A_k). Meant for layers behind a ReLU:
    activations of both signs can cancel in its denominator. Fu et al., BMVC 2020.
    """

    formula = staticmethod(xgrad_cam)


@METHODS.register("grad_cam_plus_plus", aliases=("grad_cam_pp",))
@dataclass(frozen=True)
class GradCAMPlusPlus(_LayerByLayer):
    """Grad-CAM++: positive gradients weighted by each voxel's share in the score.

    Meant for layers behind a ReLU, and for a score whose exponential is explained. Chattopadhay et
    al., WACV 2018.
    """

    formula = staticmethod(grad_cam_plus_plus)


@METHODS.register("eigen_grad_cam")
@dataclass(frozen=True)
class EigenGradCAM(_LayerByLayer):
    """Eigen-Grad-CAM: the first principal component of gradient x activation.

    Centred over the voxels, so about half of them are below 0; costs a singular value decomposition
    a cell and layer. After Muhammad, Yeasin, IJCNN 2020.
    """

    formula = staticmethod(eigen_grad_cam)
    differentiable: ClassVar[bool] = False  # equal singular values have no derivative


@METHODS.register("activation_x_gradient")
@dataclass(frozen=True)
class ActivationXGradient(_OfLayers):
    """Activation times gradient with its channels kept; their sum is HiResCAM.

    As Captum's ``LayerGradientXActivation``; refused where HiResCAM is. Shrikumar et al., arXiv
    1605.01713 (2016), for layers.
    """

    def __call__(self, run: Pass, /) -> Maps:
        """Layer -> (N, C, *s)."""
        run = self.differentiated(run)
        maps = {name: run.activations[name] * each for name, each in run.gradients.items()}
        return _summed(run, maps)


@METHODS.register("random_cam")
@dataclass(frozen=True)
class RandomCAM:
    """A control: activations weighted by random numbers from -1 to 1, one a channel.

    What a method must beat. A cell's numbers follow from ``seed``, its id and the layer alone,
    whatever the batch.
    """

    needs_gradients: ClassVar[bool] = False
    needs_model: ClassVar[bool] = False
    seed: int = 0
    """Of what is drawn; a cell's draws follow from it and the id alone."""

    def __call__(self, run: Pass, /) -> Maps:
        """Layer -> (N, 1, *s)."""
        return {name: self._map(run, name) for name in run.layers}

    def _map(self, run: Pass, layer: str) -> Tensor:
        activation = run.activations[layer]
        weights = torch.stack(
            [self._weights(cell, layer, activation.shape[1]) for cell in run.batch.ids]
        ).to(activation)
        return by_stain(run, layer, weighted, weights)

    def _weights(self, cell: str, layer: str, channels: int) -> Tensor:
        generator = generator_of(self.seed, layer, cell)
        return torch.rand(channels, generator=generator, dtype=torch.float64) * 2 - 1
