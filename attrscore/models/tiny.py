"""A small convolutional model that trains in seconds on two cores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from attrscore.core.contracts import InputSpec
from attrscore.core.registry import MODELS
from attrscore.errors import ConfigError
from attrscore.models.weights import ModelOfClasses


class TinyNetwork(nn.Module):
    """Three convolutions, global average pooling, one linear layer.

    The convolutions ``features.0``, ``features.3`` and ``features.6`` feed straight into a ReLU, so
    that 0 means the same to a class activation map as to the model; batch normalisation stands
    behind the ReLU. The second and third convolution halve every axis of at least 8 pixels
    (shorter ones, as the Z of a thin stack, stay). At ``features.7``, where only pooling and a
    linear layer follow, Grad-CAM and HiResCAM are equal.
    """

    def __init__(self, spec: InputSpec, /, *, classes: int, width: int, kernel: int) -> None:
        super().__init__()
        conv = getattr(nn, f"Conv{spec.dimensions}d")
        norm = getattr(nn, f"BatchNorm{spec.dimensions}d")
        stride = tuple(2 if extent >= 8 else 1 for extent in spec.size)
        half = kernel // 2
        self.features = nn.Sequential(
            conv(spec.channels, width, kernel, padding=half),
            nn.ReLU(),
            norm(width),
            conv(width, 2 * width, kernel, stride, padding=half),
            nn.ReLU(),
            norm(2 * width),
            conv(2 * width, 2 * width, kernel, stride, padding=half),
            nn.ReLU(),
        )
        self.head = nn.Linear(2 * width, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, *S) -> (N, K)."""
        logits: Tensor = self.head(self.features(inputs).flatten(2).mean(2))
        return logits


@MODELS.register("tiny_cnn")
@dataclass(frozen=True, kw_only=True)
class TinyCNN(ModelOfClasses):
    """Builds a TinyNetwork of ``width``, twice that and twice that channels.

    The seed 0 would draw a model whose last layer has no positive Grad-CAM on phantom cells,
    a poor first sight; hence 1.
    """

    width: int = 16
    """Channels of the first convolution; the two others have twice as many."""
    kernel: int = 3
    """Of all three convolutions, odd."""
    seed: int = 1
    """Of the initialisation."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"width must be at least 1; given: {self.width}.")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ConfigError(f"kernel must be odd, so that grids align; given: {self.kernel}.")

    def _maker(self, spec: InputSpec) -> Callable[[], nn.Module]:
        classes = self._outputs(spec)
        return lambda: TinyNetwork(spec, classes=classes, width=self.width, kernel=self.kernel)
