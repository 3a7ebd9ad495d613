"""A small convolutional network that trains in seconds on two cores."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from attrscore.core import InputSpec
from attrscore.errors import ConfigError
from attrscore.models.weights import initialise, outputs
from attrscore.registry import MODELS

__all__ = ["TinyCNN", "TinyNetwork"]


class TinyNetwork(nn.Module):
    """Three convolutions, global average pooling, one linear layer.

    Convolutions are ``features.0``, ``features.3`` and ``features.6``, each followed by a ReLU;
    the last grid is a quarter of the input along every axis of at least 8 pixels (shorter ones,
    as the Z of a thin stack, are not pooled). Pooling and a linear head make Grad-CAM and HiResCAM
    equal at ``features.6`` and ``features.7``.
    """

    def __init__(self, spec: InputSpec, /, *, classes: int, width: int, kernel: int) -> None:
        super().__init__()
        conv = getattr(nn, f"Conv{spec.dimensions}d")
        pool = getattr(nn, f"MaxPool{spec.dimensions}d")
        stride = tuple(2 if extent >= 8 else 1 for extent in spec.size)
        half = kernel // 2
        self.features = nn.Sequential(
            conv(spec.channels, width, kernel, padding=half),
            nn.ReLU(),
            pool(stride, stride),
            conv(width, 2 * width, kernel, padding=half),
            nn.ReLU(),
            pool(stride, stride),
            conv(2 * width, 2 * width, kernel, padding=half),
            nn.ReLU(),
        )
        self.head = nn.Linear(2 * width, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, *S) -> (N, K)."""
        logits: Tensor = self.head(self.features(inputs).flatten(2).mean(2))
        return logits


@MODELS.register("tiny_cnn")
@dataclass(frozen=True, kw_only=True)
class TinyCNN:
    """Builds a TinyNetwork of ``width``, twice that and twice that channels."""

    width: int = 16
    kernel: int = 3
    classes: int | None = None
    seed: int = 0
    weights: str | None = None

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"width must be at least 1; given: {self.width}.")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ConfigError(f"kernel must be odd, so that grids align; given: {self.kernel}.")

    def __call__(self, spec: InputSpec, /) -> nn.Module:
        """The network for a dataset, in eval mode."""
        classes = outputs(spec, self.classes)
        return initialise(
            lambda: TinyNetwork(spec, classes=classes, width=self.width, kernel=self.kernel),
            seed=self.seed,
            weights=self.weights,
        )
