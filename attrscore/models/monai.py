"""MONAI's ResNet, DenseNet and EfficientNet in 2D and 3D, untrained unless weights are given.

They are MONAI's networks at MONAI's defaults, so state dicts trained there fit and compute the
same. Only axes so short that MONAI's own network fails on them (the Z of a thin stack) are treated
otherwise: see ``_spare_short_axes`` and ``_pad_short_axes``. MONAI is imported when one is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from attrscore.core.contracts import InputSpec
from attrscore.core.registry import MODELS
from attrscore.errors import UnsupportedError, choose
from attrscore.models.weights import initialise, outputs

__all__ = ["MonaiDenseNet", "MonaiEfficientNet", "MonaiResNet"]

RESNETS = ("10", "18", "34", "50", "101", "152", "200")
DENSENETS = ("121", "169", "201", "264")
EFFICIENTNETS = ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "l2")


@MODELS.register("monai_resnet")
@dataclass(frozen=True, kw_only=True)
class MonaiResNet:
    """ResNet (He et al., CVPR 2016), activations ``nn.ReLU``, last grid 1/16 of the input.

    ``stem_stride`` 2 is the original stem and halves every grid.
    """

    depth: int = 18
    """10 | 18 | 34 | 50 | 101 | 152 | 200."""
    stem_kernel: int = 7
    """Of the first convolution."""
    stem_stride: int = 1
    """Of the first convolution; 2 halves every grid."""
    classes: int | None = None
    """Outputs; null: as many as the dataset has classes."""
    seed: int = 0
    """Of the initialisation."""
    weights: str | None = None
    """Path of a .safetensors or .pt/.pth state dict; null: untrained."""

    def __post_init__(self) -> None:
        choose(str(self.depth), RESNETS, option="depth")

    def __call__(self, spec: InputSpec, /) -> nn.Module:
        """The network for a dataset, in eval mode."""
        make = getattr(_nets(), f"resnet{self.depth}")
        classes = outputs(spec, self.classes)
        return initialise(
            lambda: make(
                pretrained=False,
                spatial_dims=spec.dimensions,
                n_input_channels=spec.channels,
                num_classes=classes,
                conv1_t_size=self.stem_kernel,
                conv1_t_stride=self.stem_stride,
            ),
            seed=self.seed,
            weights=self.weights,
        )


@MODELS.register("monai_densenet")
@dataclass(frozen=True, kw_only=True)
class MonaiDenseNet:
    """DenseNet (Huang et al., CVPR 2017), activations ``nn.ReLU``, last grid 1/32 of the input."""

    depth: int = 121
    """121 | 169 | 201 | 264."""
    classes: int | None = None
    """Outputs; null: as many as the dataset has classes."""
    seed: int = 0
    """Of the initialisation."""
    weights: str | None = None
    """Path of a .safetensors or .pt/.pth state dict; null: untrained."""

    def __post_init__(self) -> None:
        choose(str(self.depth), DENSENETS, option="depth")

    def __call__(self, spec: InputSpec, /) -> nn.Module:
        """The network for a dataset, in eval mode."""
        kind = getattr(_nets(), f"DenseNet{self.depth}")
        classes = outputs(spec, self.classes)

        def make() -> nn.Module:
            model: nn.Module = kind(
                spatial_dims=spec.dimensions,
                in_channels=spec.channels,
                out_channels=classes,
                pretrained=False,
            )
            _spare_short_axes(model, spec.size)
            return model

        return initialise(make, seed=self.seed, weights=self.weights)


@MODELS.register("monai_efficientnet")
@dataclass(frozen=True, kw_only=True)
class MonaiEfficientNet:
    """EfficientNet (Tan and Le, ICML 2019), activations SiLU, last grid 1/32 of the input.

    Guided methods refuse it, for want of ``nn.ReLU``.
    """

    variant: str = "b0"
    """b0 to b8, l2."""
    classes: int | None = None
    """Outputs; null: as many as the dataset has classes."""
    seed: int = 0
    """Of the initialisation."""
    weights: str | None = None
    """Path of a .safetensors or .pt/.pth state dict; null: untrained."""

    def __post_init__(self) -> None:
        choose(self.variant, EFFICIENTNETS, option="variant")

    def __call__(self, spec: InputSpec, /) -> nn.Module:
        """The network for a dataset, in eval mode."""
        kind = _nets().EfficientNetBN
        classes = outputs(spec, self.classes)

        def make() -> nn.Module:
            model: nn.Module = kind(
                f"efficientnet-{self.variant}",
                pretrained=False,
                spatial_dims=spec.dimensions,
                in_channels=spec.channels,
                num_classes=classes,
            )
            _pad_short_axes(model, spec.size)
            return model

        return initialise(make, seed=self.seed, weights=self.weights)


def _nets() -> Any:
    try:
        from monai.networks import nets
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "monai":
            raise
        raise UnsupportedError(
            'This model needs MONAI, which is not installed: pip install "attrscore[monai]".'
        ) from error
    return nets


def _spare_short_axes(model: Any, size: tuple[int, ...]) -> None:
    """Leave an axis that has shrunk to one pixel out of the pooling between dense blocks."""
    extents = tuple(-(-extent // 4) for extent in size)  # the stem halves twice, rounding up
    for name, module in model.features.named_children():
        if name.startswith("transition"):
            window = tuple(min(2, extent) for extent in extents)
            if min(window) == 1:
                module.pool.kernel_size = module.pool.stride = window
            extents = tuple(extent // w for extent, w in zip(extents, window, strict=True))


def _pad_short_axes(model: Any, size: tuple[int, ...]) -> None:
    """Pad an axis that has become shorter than a kernel up to the kernel.

    MONAI fixes its "same" padding when it builds, for crops of 224 pixels or more, and fails on
    axes of 16 pixels or less.
    """
    blocks = [block for stack in model._blocks for block in stack]
    convolutions = [(model._conv_stem, model._conv_stem_padding)]
    convolutions += [(block._depthwise_conv, block._depthwise_conv_padding) for block in blocks]
    extents = list(size)
    for conv, padder in convolutions:
        padding = list(padder.padding)  # (before, after) an axis, the last axis first
        for axis, (kernel, stride) in enumerate(zip(conv.kernel_size, conv.stride, strict=True)):
            before = 2 * (len(size) - 1 - axis)
            padded = extents[axis] + sum(padding[before : before + 2])
            padding[before] += max(0, kernel - padded)
            extents[axis] = (max(padded, kernel) - kernel) // stride + 1
        padder.padding = tuple(padding)
