"""The models, crops and masks of the benchmarks, and the floor that everything is measured by."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from monai.networks.nets import DenseNet121, EfficientNetBN, resnet18
from torch import Tensor, nn

import attrscore

CLASSES = 4

RESIDUAL_BLOCKS = tuple(f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1))
# The last block of each of the seven stages, and the convolution behind them.
MOBILE_BLOCKS = (
    *("_blocks.0.0", "_blocks.1.2", "_blocks.2.4", "_blocks.3.7"),
    *("_blocks.4.10", "_blocks.5.14", "_blocks.6.15", "_conv_head"),
)
DENSE_BLOCKS = tuple(
    f"features.{name}"
    for name in (
        *("pool0", "denseblock1", "transition1", "denseblock2"),
        *("transition2", "denseblock3", "transition3", "denseblock4"),
    )
)


@dataclass(frozen=True)
class Case:
    """A model, its inputs, and 8 layers over its depth, the lowest first."""

    name: str
    make: Callable[[int, int], nn.Module]
    layers: Sequence[str]
    shape: tuple[int, ...]
    quick: tuple[int, ...]
    guided: bool = False
    """Whether all of its activations are nn.ReLU modules."""

    def crops(self, *, quick: bool) -> tuple[int, ...]:
        return self.quick if quick else self.shape


def resnet(dimensions: int, channels: int) -> nn.Module:
    return resnet18(
        pretrained=False, spatial_dims=dimensions, n_input_channels=channels, num_classes=CLASSES
    )


def efficientnet(dimensions: int, channels: int) -> nn.Module:
    return EfficientNetBN(
        "efficientnet-b0",
        pretrained=False,
        spatial_dims=dimensions,
        in_channels=channels,
        num_classes=CLASSES,
    )


def densenet(dimensions: int, channels: int) -> nn.Module:
    return DenseNet121(spatial_dims=dimensions, in_channels=channels, out_channels=CLASSES)


IN_2D, QUICK_2D = (32, 5, 128, 128), (4, 5, 64, 64)
IN_3D, QUICK_3D = (4, 4, 32, 96, 96), (1, 4, 32, 48, 48)
CASES = {
    case.name: case
    for case in (
        Case("resnet18-2d", resnet, RESIDUAL_BLOCKS, IN_2D, QUICK_2D, guided=True),
        Case("efficientnet-b0-2d", efficientnet, MOBILE_BLOCKS, IN_2D, QUICK_2D),
        Case("efficientnet-b0-3d", efficientnet, MOBILE_BLOCKS, IN_3D, QUICK_3D),
        Case("densenet121-3d", densenet, DENSE_BLOCKS, IN_3D, QUICK_3D, guided=True),
    )
}


def prepared(
    case: Case, shape: tuple[int, ...], device: str = "cpu"
) -> tuple[nn.Module, Tensor, Tensor]:
    """The model with random weights in eval mode, crops and masks."""
    torch.manual_seed(0)
    model = case.make(len(shape) - 2, shape[1]).eval().to(device)
    return model, torch.rand(shape).to(device), ellipsoids(shape[0], shape[2:]).to(device)


def ellipsoids(n: int, space: tuple[int, ...]) -> Tensor:
    """Masks (n, *space) of cells that differ in size and place: 2 to 20 % of the crop."""
    axes = torch.meshgrid(*(torch.linspace(-1, 1, extent) for extent in space), indexing="ij")
    radii = torch.linspace(0.3, 0.6, n)
    shift = torch.linspace(-0.2, 0.2, n)
    return torch.stack(
        [sum(((axis - s) / r) ** 2 for axis in axes) < 1 for r, s in zip(radii, shift, strict=True)]
    )


def batch(inputs: Tensor, mask: Tensor) -> attrscore.Batch:
    return attrscore.Batch(inputs=inputs, regions={"cell": mask})


def floor(model: nn.Module, lowest: str, inputs: Tensor) -> Callable[[], Tensor]:
    """One forward pass and one backward pass to ``lowest``, nothing else: no attrscore in it."""
    model = copy.deepcopy(model).requires_grad_(False)  # noqa: FBT003
    leaves: list[Tensor] = []

    def make_leaf(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    model.get_submodule(lowest).register_forward_hook(make_leaf)

    def once() -> Tensor:
        leaves.clear()
        output = model(inputs)
        explained = output.gather(1, output.argmax(1, keepdim=True)).sum()
        return torch.autograd.grad(explained, leaves)[0]

    return once
