"""What Grad-CAM at 8 layers, scored, costs beside one forward and one backward pass.

    python benchmarks/cost_of_layers.py [--quick] [--network resnet18-2d ...] [--threads 2]

Prints CPU time as multiples of the floor, in one run, contestants interleaved. It asserts nothing;
``README.md`` beside it says what the floor is and which ratios were measured.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from monai.networks.nets import EfficientNetBN, resnet18
from torch import Tensor, nn

import attrscore
from attrscore.layers import select_layers
from attrscore.passes import Pass
from attrscore.registry import TARGETS
from attrscore.scorers import mask_ratio

try:
    from torchcam.methods import GradCAM as TorchcamGradCAM
except ModuleNotFoundError:
    TorchcamGradCAM = None

CLASSES = 4

RESIDUAL_BLOCKS = tuple(f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1))
# The last block of each of the seven stages, and the convolution behind them.
MOBILE_BLOCKS = (
    *("_blocks.0.0", "_blocks.1.2", "_blocks.2.4", "_blocks.3.7"),
    *("_blocks.4.10", "_blocks.5.14", "_blocks.6.15", "_conv_head"),
)


@dataclass(frozen=True)
class Case:
    """A network, its inputs, and 8 layers over its depth, the lowest first."""

    name: str
    make: Callable[[int, int], nn.Module]
    layers: Sequence[str]
    shape: tuple[int, ...]
    quick: tuple[int, ...]


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


CASES = (
    Case("resnet18-2d", resnet, RESIDUAL_BLOCKS, (32, 5, 128, 128), (8, 5, 64, 64)),
    Case("efficientnet-b0-2d", efficientnet, MOBILE_BLOCKS, (32, 5, 128, 128), (8, 5, 64, 64)),
    Case("efficientnet-b0-3d", efficientnet, MOBILE_BLOCKS, (4, 4, 32, 96, 96), (1, 4, 32, 48, 48)),
)


def ellipsoids(n: int, space: tuple[int, ...]) -> Tensor:
    """Masks (n, *space) of cells that differ in size and place: 5 to 30 % of the crop."""
    axes = torch.meshgrid(*(torch.linspace(-1, 1, extent) for extent in space), indexing="ij")
    radii = torch.linspace(0.3, 0.6, n)
    shift = torch.linspace(-0.2, 0.2, n)
    return torch.stack(
        [sum(((axis - s) / r) ** 2 for axis in axes) < 1 for r, s in zip(radii, shift, strict=True)]
    )


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


def ours_pass(model: nn.Module, layers: Sequence[str], inputs: Tensor, mask: Tensor):
    """The shared pass of attrscore, without maps, heat and scores."""
    modules = select_layers(model, layers, inputs[:1])
    target = TARGETS.build("predicted")
    batch = attrscore.Batch(inputs=inputs, regions={"cell": mask})
    return lambda: Pass(model, batch, target, modules).gradients


def ours(model: nn.Module, layers: Sequence[str], inputs: Tensor, mask: Tensor):
    """attrscore.run, one batch a call: the batch checked, 8 maps, all columns of grad_camo."""

    def batches() -> Iterator[attrscore.Batch]:
        while True:
            yield attrscore.Batch(inputs=inputs, regions={"cell": mask})

    results = attrscore.run(
        model, batches(), methods="grad_cam", scorers="grad_camo", layers=layers, on_error="raise"
    )
    # The first batch also selects the layers (once a run, one crop); it is the warm-up.
    return lambda: list(itertools.islice(results, len(layers)))


def captum_loop(model: nn.Module, layers: Sequence[str], inputs: Tensor, mask: Tensor):
    """LayerGradCam a layer at a time, resized, positive part, share on the mask."""
    explainers = [LayerGradCam(model, model.get_submodule(name)) for name in layers]
    with torch.no_grad():
        predicted = model(inputs).argmax(1)  # not in the time: Captum is told the class

    def once() -> list[Tensor]:
        return [
            share(explainer.attribute(inputs, target=predicted).detach(), mask)
            for explainer in explainers
        ]

    return once


def torchcam_pass(model: nn.Module, layers: Sequence[str], inputs: Tensor, mask: Tensor):
    """torchcam's GradCAM at all layers from one pass, then as above."""
    model = copy.deepcopy(model)  # its hooks stay
    explainer = TorchcamGradCAM(model, target_layer=list(layers))

    def once() -> list[Tensor]:
        output = model(inputs)
        maps = explainer(output.argmax(1).tolist(), output, normalized=False)
        return [share(each.detach()[:, None], mask) for each in maps]

    return once


def share(signed: Tensor, mask: Tensor) -> Tensor:
    mode = "bilinear" if mask.ndim == 3 else "trilinear"
    full = F.interpolate(signed, size=mask.shape[1:], mode=mode)[:, 0].clamp(min=0)
    return mask_ratio(full, mask)


def measure(
    contestants: dict[str, Callable[[], object]], repetitions: int
) -> dict[str, dict[str, float]]:
    """Median CPU seconds, and the median of the ratios to the floor in the same repetition."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for once in contestants.values():
        once()
    for repetition in range(repetitions):
        order = list(contestants)
        for name in order if repetition % 2 else reversed(order):
            start = time.process_time()
            contestants[name]()
            seconds[name].append(time.process_time() - start)
    return {
        name: {
            "seconds": statistics.median(taken),
            "ratio": statistics.median(
                mine / least for mine, least in zip(taken, seconds["floor"], strict=True)
            ),
        }
        for name, taken in seconds.items()
    }


def compare(case: Case, *, quick: bool, repetitions: int, peers: bool) -> None:
    shape = case.quick if quick else case.shape
    torch.manual_seed(0)
    model = case.make(len(shape) - 2, shape[1]).eval()
    inputs, mask = torch.rand(shape), ellipsoids(shape[0], shape[2:])
    contestants: dict[str, Callable[[], object]] = {
        "floor": floor(model, case.layers[0], inputs),
        "attrscore: pass alone": ours_pass(model, case.layers, inputs, mask),
        "attrscore.run, scored": ours(model, case.layers, inputs, mask),
    }
    if peers:
        contestants["Captum, layer by layer"] = captum_loop(model, case.layers, inputs, mask)
        if TorchcamGradCAM is not None:
            contestants["torchcam, one pass"] = torchcam_pass(model, case.layers, inputs, mask)
    measured = measure(contestants, repetitions)

    print(f"\n{case.name}  {shape}  {', '.join(case.layers)}")
    print(f"  {'':26}{'CPU s':>9}{'x floor':>9}")
    for name, numbers in measured.items():
        print(f"  {name:26}{numbers['seconds']:9.3f}{numbers['ratio']:9.2f}")
    through, whole = (
        measured[name]["ratio"] for name in ("attrscore: pass alone", "attrscore.run, scored")
    )
    print(
        f"  of attrscore.run: {through / whole:.0%} in the pass, "
        f"{1 - through / whole:.0%} in maps, heat and scores"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small batches, 1 repetition")
    parser.add_argument("--network", nargs="*", choices=[case.name for case in CASES])
    parser.add_argument("--repetitions", type=int, default=None)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-peers", action="store_true", help="only the floor and attrscore")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")  # Captum's, about inputs that need no gradient
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{platform.machine()}, Python {platform.python_version()}"
    )
    for case in CASES:
        if not given.network or case.name in given.network:
            compare(
                case,
                quick=given.quick,
                repetitions=given.repetitions or (1 if given.quick else 7),
                peers=not given.no_peers,
            )


if __name__ == "__main__":
    sys.exit(main())
