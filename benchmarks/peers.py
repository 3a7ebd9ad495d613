"""Grad-CAM at several layers by other packages, as each of them is meant to be called.

A package that is not installed is left out, with a line that says so.
"""

from __future__ import annotations

import copy
import importlib
import sys
import types
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attrscore.scorers import mask_ratio

Once = Callable[[], object]


def share(signed: Tensor, mask: Tensor) -> Tensor:
    """Resized, positive part, share on the mask: what a user of a peer has to write."""
    mode = "bilinear" if mask.ndim == 3 else "trilinear"
    full = F.interpolate(signed, size=mask.shape[1:], mode=mode)[:, 0].clamp(min=0)
    return mask_ratio(full, mask)


def captum(model: nn.Module, layers: Sequence[str], inputs: Tensor, mask: Tensor) -> Once:
    """LayerGradCam a layer at a time; it is told the class."""
    from captum.attr import LayerGradCam

    explainers = [LayerGradCam(model, model.get_submodule(name)) for name in layers]
    with torch.no_grad():
        predicted = model(inputs).argmax(1)
    return lambda: [
        share(explainer.attribute(inputs, target=predicted).detach(), mask)
        for explainer in explainers
    ]


def captum_guided(model: nn.Module, layers: Sequence[str], inputs: Tensor, _mask: Tensor) -> Once:
    """GuidedGradCam a layer at a time; it is told the class."""
    from captum.attr import GuidedGradCam

    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # its backward hooks refuse the outputs of in-place modules
    explainers = [GuidedGradCam(model, model.get_submodule(name)) for name in layers]
    with torch.no_grad():
        predicted = model(inputs).argmax(1)
    return lambda: [explainer.attribute(inputs, target=predicted) for explainer in explainers]


def torchcam(model: nn.Module, layers: Sequence[str], inputs: Tensor, mask: Tensor) -> Once:
    """All layers from one pass."""
    from torchcam.methods import GradCAM

    model = copy.deepcopy(model)  # its hooks stay
    explainer = GradCAM(model, target_layer=list(layers))

    def once() -> list[Tensor]:
        output = model(inputs)
        maps = explainer(output.argmax(1).tolist(), output, normalized=False)
        return [share(each.detach()[:, None], mask) for each in maps]

    return once


def pytorch_grad_cam(model: nn.Module, layers: Sequence[str], inputs: Tensor, mask: Tensor) -> Once:
    """A layer at a time: of several layers it returns the mean. Maps come back min-max scaled."""
    _stub_torchvision()
    from pytorch_grad_cam import GradCAM

    model = copy.deepcopy(model)

    def at(name: str) -> Tensor:
        with GradCAM(model=model, target_layers=[model.get_submodule(name)]) as explainer:
            found = explainer(input_tensor=inputs, targets=None)
        return mask_ratio(torch.from_numpy(found).to(mask.device).clamp(min=0), mask)

    return lambda: [at(name) for name in layers]


def monai(model: nn.Module, layers: Sequence[str], inputs: Tensor, mask: Tensor) -> Once:
    """A layer at a time; one object a layer. Maps come back min-max scaled."""
    from monai.visualize import GradCAM

    explainers = [GradCAM(copy.deepcopy(model), target_layers=name) for name in layers]
    return lambda: [
        mask_ratio(torch.as_tensor(explainer(inputs))[:, 0].to(mask.device).clamp(min=0), mask)
        for explainer in explainers
    ]


def medcam(model: nn.Module, layers: Sequence[str], inputs: Tensor, _mask: Tensor) -> Once:
    """A layer at a time, maps alone (its evaluation fails on a current numpy); class 0."""
    from medcam import medcam as package

    explainers = [
        package.inject(
            copy.deepcopy(model), backend="gcam", layer=name, label=0, return_attention=True
        )
        for name in layers
    ]
    return lambda: [explainer(inputs)[1] for explainer in explainers]


def installed(package: str) -> bool:
    try:
        importlib.import_module(package)
    except ImportError as error:
        print(f"left out: {package} ({error})")
        return False
    return True


def grad_cam_peers(
    model: nn.Module, layers: Sequence[str], inputs: Tensor, mask: Tensor
) -> tuple[dict[str, Once], set[str]]:
    """The peers that are installed, and which of them are slow."""
    known: dict[str, tuple[str, Callable[..., Once]]] = {
        "torchcam, one pass": ("torchcam", torchcam),
        "Captum, layer by layer": ("captum", captum),
        "medcam, layer by layer": ("medcam", medcam),
        "MONAI, layer by layer": ("monai", monai),
        "pytorch-grad-cam, layer by layer": ("pytorch_grad_cam", pytorch_grad_cam),
    }
    _stub_torchvision()
    made = {
        name: make(model, layers, inputs, mask)
        for name, (package, make) in known.items()
        if installed(package)
    }
    return made, set(list(known)[1:])


def _stub_torchvision() -> None:
    """What pytorch-grad-cam imports of torchvision, which has no build for every machine."""
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision"):
        return
    package, transforms, functional = (
        types.ModuleType(f"torchvision{name}")
        for name in ("", ".transforms", ".transforms.functional")
    )
    package.__path__ = transforms.__path__ = []
    transforms.Compose = transforms.Normalize = transforms.ToTensor = object
    functional.resize = None
    package.transforms, transforms.functional = transforms, functional
    sys.modules |= {each.__name__: each for each in (package, transforms, functional)}
