"""Small transformers with random weights, built without a download."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

SPACE = {2: (32, 32), 3: (16, 32, 24)}
GRID = {2: (4, 4), 3: (4, 4, 3)}
PATCH = {2: (8, 8), 3: (4, 8, 8)}


def _seeded(make) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return make().double().eval()


def monai_vit(dimensions: int = 2, *, classification: bool = True, **options) -> nn.Module:
    vit = pytest.importorskip("monai.networks.nets").ViT
    return _seeded(
        partial(
            vit,
            in_channels=2,
            img_size=SPACE[dimensions],
            patch_size=PATCH[dimensions],
            hidden_size=24,
            mlp_dim=32,
            num_layers=3,
            num_heads=2,
            classification=classification,
            num_classes=3,
            spatial_dims=dimensions,
            **options,
        )
    )


def monai_swin(dimensions: int = 2) -> nn.Module:
    """Blocks with grids from a half to a sixteenth of the input."""
    swin = pytest.importorskip("monai.networks.nets.swin_unetr").SwinTransformer
    return _seeded(
        partial(
            swin,
            in_chans=2,
            embed_dim=12,
            window_size=[4] * dimensions,
            patch_size=[2] * dimensions,
            depths=(2, 2, 1, 1),
            num_heads=(2, 2, 2, 2),
            spatial_dims=dimensions,
        )
    )


class SwinClassifier(nn.Module):
    """Scores from the mean over the last stage but one of a Swin transformer."""

    def __init__(self, dimensions: int = 2) -> None:
        super().__init__()
        self.swin = monai_swin(dimensions)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            self.head = nn.Linear(96, 3).double()
        self.eval()

    def forward(self, x):
        return self.head(self.swin(x)[-2].flatten(2).mean(2))


def hugging_face_vit() -> nn.Module:
    hub = pytest.importorskip("transformers")
    return _seeded(lambda: hub.ViTForImageClassification(hub.ViTConfig(**_SMALL)))


def dino_with_registers() -> nn.Module:
    hub = pytest.importorskip("transformers")
    config = hub.Dinov2WithRegistersConfig(**_SMALL, num_register_tokens=4)
    return _seeded(lambda: hub.Dinov2WithRegistersForImageClassification(config))


_SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
    "num_channels": 2,
    "num_labels": 3,
}
