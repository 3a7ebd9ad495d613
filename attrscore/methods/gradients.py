"""Gradients with respect to the input, plain or averaged over noisy copies of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from attrscore.core.contracts import INPUT, Maps, Method
from attrscore.core.passes import Pass, generator_of
from attrscore.core.registry import METHODS
from attrscore.errors import ConfigError, choose
from attrscore.methods._copies import noisy
from attrscore.methods._options import WithGradients, check_share, check_whole

__all__ = ["InputXGradient", "Saliency", "SmoothGrad"]


@METHODS.register("saliency", aliases=("vanilla_gradient",))
@dataclass(frozen=True)
class Saliency(WithGradients):
    """Saliency: the gradient of the explained score with respect to each pixel, |dy / dx|.

    ``values="absolute"`` is saliency as defined, and what Captum's ``Saliency`` returns;
    ``"signed"`` is the plain gradient. Costs one forward and one backward pass, shared with the
    other gradient methods. Simonyan et al., ICLR workshops 2014.

    >>> import attrscore
    >>> from attrscore.testing.samples import cells, net
    >>> (result,) = attrscore.run(net(), cells(), methods=Saliency(), layers="input")
    >>> result.columns["grad_camo"].round(3)
    array([0.146, 0.193, 0.288, 0.13 ])
    """

    explains: ClassVar[str] = INPUT
    needs_input_gradient: ClassVar[bool] = True
    values: Literal["absolute", "signed"] = "absolute"
    """Of the gradient."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choose(self.values, ("absolute", "signed"), option="values")

    def __call__(self, run: Pass, /) -> Maps:
        """INPUT -> (N, C, *S)."""
        gradient = self.differentiated(run).input_gradient
        return {INPUT: gradient.abs() if self.values == "absolute" else gradient}


@METHODS.register("input_x_gradient")
@dataclass(frozen=True)
class InputXGradient(WithGradients):
    """Input x gradient: each pixel times the gradient of the explained score, x dy / dx, signed.

    A black pixel gets nothing, whatever the model makes of it. Costs no more than ``saliency``,
    with which it shares its pass. Shrikumar et al., arXiv 1605.01713 (2016).
    """

    explains: ClassVar[str] = INPUT
    needs_input_gradient: ClassVar[bool] = True

    def __call__(self, run: Pass, /) -> Maps:
        """INPUT -> (N, C, *S)."""
        return {INPUT: run.batch.inputs * self.differentiated(run).input_gradient}


_KINDS = ("smoothgrad", "smoothgrad_sq", "vargrad")


@METHODS.register("smooth_grad")
@dataclass(frozen=True)
class SmoothGrad:
    """SmoothGrad: the maps of another ``method``, averaged over noisy copies of the input.

    The mean of M(x + e) over normal noise e, or by ``kind`` the mean square or the variance, which
    are never negative. Layers are explained where the method explains layers; the explained class
    stays that of the clean input. Costs ``samples`` times what the method costs, one batch in
    memory at a time. Cannot explain what the method cannot. Smilkov et al., arXiv 1706.03825
    (2017); Hooker et al., NeurIPS 2019; Adebayo et al., ICLR workshops 2018; as Captum's
    ``NoiseTunnel``.
    """

    method: str = "saliency"
    """Any other method, best one of a single pass."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of that method; add with +method.smooth_grad.options.NAME=VALUE."""
    samples: int = 20
    """How often the method is run."""
    noise: float = 0.15
    """Standard deviation, as a fraction of each channel's range."""
    kind: Literal["smoothgrad", "smoothgrad_sq", "vargrad"] = "smoothgrad"
    """The mean, the mean square or the variance."""
    seed: int = 0
    """Of what is drawn; a cell's draws follow from it and the id alone."""

    def __post_init__(self) -> None:
        choose(self.kind, _KINDS, option="kind")
        check_whole(self, "samples")
        check_whole(self, "seed", least=0)
        check_share(self, "noise")
        if self.method == "smooth_grad":
            raise ConfigError("smooth_grad cannot smooth itself; choose a method of one pass.")
        self._smoothed()

    def _smoothed(self) -> Method:
        built: Method = METHODS.build(self.method, **self.options)
        return built

    @property
    def explains(self) -> str:
        """What the smoothed method explains: ``layers`` or INPUT."""
        built = self._smoothed()
        behind = getattr(built, "function", built)
        return str(getattr(behind, "explains", "layers"))

    def check(self, run: Pass, /) -> None:
        """The smoothed method, once, on the clean input."""
        method = self._smoothed()
        getattr(method, "check", method)(run)

    def __call__(self, run: Pass, /) -> Maps:
        """Layer, or INPUT -> (N, C, *s)."""
        method = self._smoothed()
        layers = run.layers if self.explains == "layers" else {}
        inputs = run.batch.inputs.detach()
        draws = [generator_of(self.seed, "smooth_grad", cell) for cell in run.batch.ids]
        sums: dict[str, Tensor] = {}
        squares: dict[str, Tensor] = {}
        for done in range(1, self.samples + 1):
            inner = run.on(noisy(inputs, self.noise, draws), layers=layers)
            for layer, drawn in method(inner).items():
                signed = drawn.double()
                if done == 1:
                    sums[layer] = torch.zeros_like(signed)
                    squares[layer] = torch.zeros_like(signed)
                sums[layer] += signed
                squares[layer] += signed.square()
            run.step(done, self.samples)
        return {
            layer: self._joined(sums[layer] / self.samples, squares[layer] / self.samples).to(
                inputs
            )
            for layer in sums
        }

    def _joined(self, mean: Tensor, square: Tensor) -> Tensor:
        if self.kind == "smoothgrad":
            return mean
        return square if self.kind == "smoothgrad_sq" else (square - mean.square()).clamp(min=0)
