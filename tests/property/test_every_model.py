"""What every registered model must hold; a new plugin joins by existing."""

from __future__ import annotations

import importlib

import pytest
import torch

from attrscore.core.registry import MODELS
from attrscore.testing import checks
from attrscore.testing.of_models import SPECS

# torch itself uses what it deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.:FutureWarning"),
]


def own(channels: int, classes: int, dimensions: int):
    """A user's network, of float32 and three channels."""
    from torch import nn

    return nn.Sequential(
        getattr(nn, f"Conv{dimensions}d")(channels, 4, 3),
        nn.ReLU(),
        getattr(nn, f"AdaptiveAvgPool{dimensions}d")(1),
        nn.Flatten(),
        nn.Linear(4, classes),
    )


NEED = {
    "factory": {"target": f"{__name__}.own"},
    "monai_resnet": {"stem_stride": 2, "stem_kernel": 3},
    "timm": {"architecture": "resnet10t"},
    "transformers": {
        "architecture": "resnet",
        "config": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    },
}
LIBRARIES = ("timm", "transformers")
# Files of a network, and how they are made.
SEALED = {
    "exported": lambda model, inputs, file: torch.export.save(
        torch.export.export(model, (inputs,), dynamic_shapes=({0: torch.export.Dim("cells")},)),
        file,
    ),
    "torchscript": lambda model, _inputs, file: torch.jit.save(torch.jit.script(model), file),
}
# Layers of such files cannot be watched, and the flags of an exported program mean nothing, for it
# stays in the mode that it was exported in; see tests/unit/models/test_factory.py.
# A network of transformers comes with a hook of its own.
NOT_HELD = {
    ("exported", "a model in eval mode"),
    ("exported", "explained by Grad-CAM and saliency"),
    ("torchscript", "explained by Grad-CAM and saliency"),
    ("transformers", "a model in eval mode"),
}
# MONAI's take seconds in 3D, where tests/unit/test_models.py asks them; the libraries are 2D alone.
FLAT = ("monai_densenet", "monai_efficientnet", *LIBRARIES)
NAMES = [e.name for e in MODELS.entries() if e.alias_of is None]
CASES = [
    pytest.param(name, check, d, id=f"{name}-{check}-{d}")
    for name in NAMES
    for check in checks("model")
    for d in ((2,) if check.once or name in FLAT else (2, 3))
    if (name, check.name) not in NOT_HELD
]


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """The options to build a model with, for crops of so many axes."""

    def of(name: str, dimensions: int) -> dict[str, object]:
        if name not in SEALED:
            return NEED.get(name, {})
        file = tmp_path_factory.mktemp("sealed") / "net.pt2"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = own(3, 2, dimensions).eval()
        SEALED[name](
            model, torch.rand(2, SPECS[dimensions].channels, *SPECS[dimensions].size), file
        )
        return {"weights": str(file)}

    return of


@pytest.mark.parametrize(("name", "check", "dimensions"), CASES)
def test_contract(name, check, dimensions, options):
    if name in LIBRARIES:
        try:
            importlib.import_module(name)
        except (ImportError, RuntimeError) as error:  # timm where torchvision does not fit torch
            pytest.skip(f"{name}, an extra, cannot be had here: {error}")
    check(MODELS.build(name, **options(name, dimensions)), name=name, dimensions=dimensions)
