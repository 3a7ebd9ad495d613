"""Relative depth, the main path and the rules that use them."""

from __future__ import annotations

import pytest
import torch
from nets import batch, net
from torch import Tensor, nn
from transformers_nets import (
    SPACE,
    SwinClassifier,
    dino_with_registers,
    hugging_face_vit,
    monai_vit,
)

from attrscore.core.contracts import INPUT, InputSpec
from attrscore.core.dry_run import main_path, trace
from attrscore.core.layers import select_layers
from attrscore.core.registry import MODELS
from attrscore.engine.evaluate import evaluate
from attrscore.errors import ConfigError, LayerError

QUARTERS = "depth=0.25,0.5,0.75,1.0"
CROPS = {2: (1, 2, 64, 64), 3: (1, 2, 32, 64, 64)}


def built(name: str, dimensions: int, **options) -> tuple[nn.Module, Tensor]:
    crop = torch.zeros(CROPS[dimensions])
    spec = InputSpec(2, tuple(crop.shape[2:]), 3)
    return MODELS.build(name, **options)(spec), crop


def test_depth_counts_convolutions_that_have_run():
    """net: low, act1, high, act2 and a head behind the grid."""
    infos = {info.name: info for info in trace(net(), batch().inputs[:1])}
    assert {name: infos[name].depth for name in ("low", "act1", "high", "act2")} == {
        "low": 0.5,
        "act1": 0.5,
        "high": 1.0,
        "act2": 1.0,
    }


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("monai_resnet", {"depth": 18}, ["layer1", "layer2", "layer3", "layer4"]),
        ("monai_densenet", {}, ["denseblock2", "denseblock3", "denseblock4", "class_layers.relu"]),
        ("monai_efficientnet", {}, ["_blocks.2.3", "_blocks.4.8", "_blocks.5.11", "_bn1"]),
        ("tiny_cnn", {}, ["features.2", "features.5", "features"]),
    ],
)
def test_quarters_are_different_sensible_layers(name, options, expected, dimensions):
    model, crop = built(name, dimensions, **options)
    layers = select_layers(model, QUARTERS, crop)
    assert len(layers) == len(expected)
    for found, part in zip(layers, expected, strict=True):
        assert part in found
    assert list(layers)[-1] == list(select_layers(model, "stages", crop))[-1]
    assert layers.depths[list(layers)[-1]] == 1.0
    (last,) = select_layers(model, "last_conv", crop).infos.values()
    assert layers.infos[list(layers)[-1]].grid == last.grid
    reached = [layers.depths[layer] for layer in layers]
    assert reached == sorted(reached)
    if name != "tiny_cnn":  # which has three convolutions
        assert reached == pytest.approx([0.25, 0.5, 0.75, 1.0], abs=0.06)


@pytest.mark.slow
def test_selection_is_deterministic():
    model, crop = built("monai_efficientnet", 2)
    assert list(select_layers(model, QUARTERS, crop)) == list(select_layers(model, QUARTERS, crop))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.inside = nn.Conv2d(4, 4, 3, padding=1)
        self.shortcut = nn.Conv2d(4, 4, 1)
        self.after = nn.ReLU(inplace=True)
        self.aside = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)
        self.double()

    def forward(self, x):
        x = self.stem(x)
        x = self.after(self.inside(x) + self.shortcut(x))
        self.aside(x)
        return self.head(x.mean((2, 3)))


def test_branches_are_not_on_the_main_path():
    model, crop = Residual(), batch().inputs[:1]
    path = main_path(model, trace(model, crop), crop)
    assert path == {"stem", "after"}
    assert list(select_layers(model, "depth=0.5", crop)) == ["after"]
    assert list(select_layers(model, "depth=0.3", crop)) == ["stem"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "output", "last"),
    [
        (monai_vit, 0, "blocks.1"),  # behind the last attention only the class token counts
        (lambda: monai_vit(3), 0, "blocks.1"),
        (hugging_face_vit, "logits", "vit.layers.1"),
        (
            dino_with_registers,
            "logits",
            "dinov2_with_registers.layernorm",
        ),  # head reads patches too
        (SwinClassifier, None, "swin.layers3.0"),
    ],
)
def test_depth_1_of_a_transformer_is_the_last_layer_whose_places_count(make, output, last):
    model = make()
    dimensions = 3 if any(isinstance(m, nn.Conv3d) for m in model.modules()) else 2
    crop = torch.zeros((1, 2, *SPACE[dimensions]), dtype=torch.float64)
    assert list(select_layers(model, "depth=1", crop, output=output)) == [last]
    with pytest.raises(
        LayerError, match="layers=last_conv would be .* as in a transformer.*depth=1"
    ):
        select_layers(model, "last_conv", crop)


@pytest.mark.parametrize("wrong", ["depth=0", "depth=1.5", "depth=half", "depth=", "depth=nan"])
def test_wrong_depths(wrong):
    with pytest.raises(ConfigError, match="is no relative depth"):
        select_layers(net(), wrong, batch().inputs[:1])


def test_results_carry_the_depth():
    table = evaluate(
        net(), batch(), methods=["grad_cam", "saliency"], layers=QUARTERS, progress="none"
    )
    assert table.groupby("layer")["depth"].first().to_dict() == {"act1": 0.5, "act2": 1.0, INPUT: 0}


def test_blocks_are_what_a_network_repeats():
    model, crop = built("monai_resnet", 2, depth=18)
    blocks = [f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)]
    assert list(select_layers(model, "blocks", crop)) == blocks
    with pytest.raises(LayerError, match="layers=blocks finds no layer"):
        select_layers(net(), "blocks", batch().inputs[:1])
