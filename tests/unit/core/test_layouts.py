"""Layouts of transformers: found by a dry run or asked for, never guessed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers_nets import (
    GRID,
    SPACE,
    SwinClassifier,
    dino_with_registers,
    hugging_face_vit,
    monai_swin,
    monai_vit,
)

from attrscore.core.contracts import Batch
from attrscore.core.dry_run import trace
from attrscore.core.layers import select_layers
from attrscore.core.layouts import Layout, LayoutOptions
from attrscore.core.passes import Pass
from attrscore.engine.evaluate import evaluate
from attrscore.errors import ConfigError, LayerError
from attrscore.targets import Index


def crops(dimensions: int = 2, n: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand((n, 2, *SPACE[dimensions]), generator=generator, dtype=torch.float64)


def cells(dimensions: int = 2, n: int = 3) -> Batch:
    mask = torch.zeros((n, *SPACE[dimensions]), dtype=torch.bool)
    mask[..., 4:20, 4:20] = True
    return Batch(crops(dimensions, n), {"cell": mask})


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("classification", [True, False])
@pytest.mark.parametrize("projection", ["conv", "perceptron"])
def test_tokens_of_monai(dimensions, classification, projection):
    model = monai_vit(dimensions, classification=classification, proj_type=projection)
    layers = select_layers(model, "blocks", crops(dimensions))
    assert list(layers) == ["blocks.0", "blocks.1", "blocks.2"]
    prefix = int(classification)
    assert set(layers.layouts.values()) == {Layout("tokens", GRID[dimensions], prefix)}


@pytest.mark.parametrize(
    ("make", "glob", "prefix"),
    [
        (hugging_face_vit, "vit.layers.?", 1),
        (dino_with_registers, "dinov2_with_registers.encoder.layer.?", 5),
    ],
)
def test_tokens_of_hugging_face(make, glob, prefix):
    layers = select_layers(make(), glob, crops())
    assert len(layers) == 3
    assert set(layers.layouts.values()) == {Layout("tokens", (4, 4), prefix)}


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [2, 3])
def test_swin_has_channels_last_in_its_blocks_and_first_behind_a_stage(dimensions):
    space = SPACE[dimensions]
    layers = select_layers(monai_swin(dimensions), ["blocks", "layers[12].0"], crops(dimensions))
    layouts = {name: layout.axes for name, layout in layers.layouts.items()}
    assert layouts == {
        "layers1.0.blocks.0": "channels_last",
        "layers1.0.blocks.1": "channels_last",
        "layers1.0": "channels_first",
        "layers2.0.blocks.0": "channels_last",
        "layers2.0.blocks.1": "channels_last",
        "layers2.0": "channels_first",
    }
    assert layers.infos["layers1.0.blocks.1"].grid == tuple(size // 2 for size in space)
    assert layers.infos["layers2.0.blocks.1"].channels == 24


def test_attention_windows_are_no_cells_and_attention_matrices_no_images():
    model = monai_swin()
    ran = {info.name: info for info in trace(model, crops())}
    assert ran["layers1.0.blocks.0.attn"].shape == (16, 16, 12)  # windows, not crops
    assert ran["layers1.0.blocks.0.attn"].grid is None
    matrices = [i for i in trace(monai_vit(), crops()) if i.shape and i.shape[1:] == (2, 17, 17)]
    assert matrices
    assert all(info.grid is None for info in matrices)
    with pytest.raises(LayerError, match="layout.axes=channels_first"):
        select_layers(monai_vit(), matrices[0].name, crops())


@pytest.mark.parametrize("dimensions", [2, 3])
def test_activations_and_gradients_lie_on_the_grid(dimensions):
    """A gradient in one patch is found at the place of that patch."""

    class OnePatch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = monai_vit(dimensions, classification=False)

        def forward(self, x):
            tokens, _ = self.inner(x)
            places = tokens.mT.unflatten(2, GRID[dimensions])
            return places[(slice(None), slice(0, 3), 3, *[1] * (dimensions - 1))]

    model = OnePatch().double().eval()
    layers = select_layers(model, "inner.blocks.2", crops(dimensions))
    run = Pass(model, cells(dimensions), Index(index=1), layers)
    gradient = run.gradients["inner.blocks.2"]
    assert gradient.shape == (3, 24, *GRID[dimensions])
    touched = gradient.abs().sum((0, 1)).nonzero().tolist()
    assert touched == [[3, *[1] * (dimensions - 1)]]


def test_swin_activations_are_those_of_the_stage_behind():
    """layers1.0 is channels first, and its last step, a linear layer, is channels last."""
    model = monai_swin()
    layers = select_layers(model, ["layers1.0.downsample", "layers1.0"], crops())
    run = Pass(model, cells(), Index(), layers, output=-1)
    with pytest.raises(Exception, match="expected one tensor"):
        run.output  # noqa: B018  # a grid of features is no score
    classifier = SwinClassifier()
    names = ["swin.layers1.0.downsample", "swin.layers1.0"]
    run = Pass(classifier, cells(), Index(), select_layers(classifier, names, crops()))
    first, last = (run.activations[name] for name in names)
    torch.testing.assert_close(first, last, rtol=0, atol=0)
    torch.testing.assert_close(*(run.gradients[name] for name in names), rtol=0, atol=0)


def test_layers_given_by_hand_get_their_layouts_too():
    classifier = SwinClassifier()
    block = classifier.swin.layers1[0].blocks[1]
    by_hand = Pass(classifier, cells(), Index(), {"mine": block})
    assert by_hand.activations["mine"].shape == (3, 12, 16, 16)


def test_behind_the_last_attention_only_the_class_token_counts():
    with pytest.warns(UserWarning, match="only the class token counts"):
        table = evaluate(
            monai_vit(),
            cells(),
            layers=["blocks.1", "blocks.2.norm1", "blocks.2"],
            output=0,
            progress="none",
        )
    status = table.groupby("layer")["status"].agg(set).to_dict()
    assert status["blocks.2"] == {"unsupported"}
    assert "unsupported" not in status["blocks.1"] | status["blocks.2.norm1"]


def test_a_tuple_is_its_hidden_state():
    layers = select_layers(hugging_face_vit(), "vit.layers.1.attention", crops())
    assert layers.layouts["vit.layers.1.attention"].prefix == 1
    model = hugging_face_vit()
    table = evaluate(
        model, cells(), layers="vit.layers.1.attention", output="logits", progress="none"
    )
    assert set(table["status"]) <= {"ok", "no_positive_mass"}


class Mixed(nn.Module):
    """Tokens that are mixed before any module shows them."""

    def __init__(self, tokens: int = 17) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, 8, 8, 8)
        self.mix = nn.Linear(16, tokens)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)
        self.double()

    def forward(self, x):
        return self.head(self.norm(self.mix(self.patches(x).flatten(2)).mT).mean(1))


@pytest.mark.parametrize("tokens", [16, 17])
def test_tokens_that_cannot_be_placed_are_refused_until_told(tokens):
    model = Mixed(tokens)
    with pytest.raises(LayerError, match=r"could not be measured.*say layout.grid=\[...\]"):
        select_layers(model, "norm", crops())
    told = LayoutOptions(grid=(4, 4))
    layers = select_layers(model, "norm", crops(), layout=told)
    assert layers.layouts["norm"] == Layout("tokens", (4, 4), tokens - 16)
    with pytest.raises(LayerError, match="do not fit layout.grid"):
        select_layers(model, "norm", crops(), layout=LayoutOptions(grid=(5, 5)))
    with pytest.raises(LayerError, match="do not fit layout.grid"):
        select_layers(model, "norm", crops(), layout=LayoutOptions(grid=(4, 4), prefix=3))


def test_channels_as_tokens_are_refused():
    """(N, C, places), as flattening a convolution gives, must not be read as (N, T, C)."""
    model = nn.Sequential(
        nn.Conv2d(2, 16, 8, 8),
        nn.Flatten(2),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(16, 2),
    ).double()
    with pytest.raises(LayerError, match="could not be measured"):
        select_layers(model, "1", crops())


class FixedSize(nn.Module):
    """Channels last, and a position for each place, so that no other size runs."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, 4, 8, 8)
        self.position = nn.Parameter(torch.zeros(4, 4, 4))
        self.block = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.GELU())
        self.head = nn.Linear(4, 3)
        self.double()

    def forward(self, x):
        places = self.patches(x).movedim(1, -1) + self.position
        return self.head(self.block(places).flatten(1, 2).mean(1))


def test_first_or_last_is_not_guessed():
    model = FixedSize()
    assert select_layers(model, "block.1", crops()).layouts["block.1"].axes == "channels_last"
    with pytest.raises(
        LayerError, match="say layout.axes=channels_first or layout.axes=channels_last"
    ):
        select_layers(model, "block", crops())
    told = LayoutOptions(axes="channels_last")
    assert select_layers(model, "block", crops(), layout=told).layouts["block"].axes == told.axes


@pytest.mark.slow
def test_captum_layers_come_back_on_the_grid_or_are_refused():
    methods = {
        "product": {"algorithm": "LayerGradientXActivation"},
        "cam": {"algorithm": "LayerGradCam"},
    }
    from attrscore.core.registry import METHODS

    built = {key: METHODS.build("captum", **options) for key, options in methods.items()}
    built["own"] = METHODS.build("activation_x_gradient")
    for model, layer in (
        (hugging_face_vit(), "vit.layers.0"),
        (SwinClassifier(), "swin.layers1.0.blocks.1"),
    ):
        output = "logits" if "vit" in layer else None
        with pytest.warns(UserWarning, match="it takes the second axis for the channels"):
            table = evaluate(
                model, cells(), methods=built, layers=layer, output=output, progress="none"
            )
        table = table.set_index("method")
        assert set(table.loc["cam", "status"]) == {"unsupported"}
        assert table.loc["product", "grad_camo"].tolist() == pytest.approx(
            table.loc["own", "grad_camo"].tolist()
        )


@pytest.mark.parametrize(
    "options", [{"axes": "last"}, {"prefix": -1}, {"grid": []}, {"grid": (0, 3)}]
)
def test_wrong_options(options):
    with pytest.raises(ConfigError, match=r"axes|layout\."):
        LayoutOptions(**options)
