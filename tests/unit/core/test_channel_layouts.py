"""Layers that keep the channels of the image apart: found by a dry run, explained by stain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from channel_nets import GRID, PATCH, SPACE, Block, ChannelViT, Folded, OpenPhenom, planted, seeded
from torch import nn

from attrscore.core.contracts import Batch
from attrscore.core.dry_run import trace
from attrscore.core.heat import Heat, HeatOptions
from attrscore.core.layers import select_layers
from attrscore.core.layouts import Layout, LayoutOptions
from attrscore.core.passes import Pass
from attrscore.core.registry import SCORERS
from attrscore.engine.evaluate import evaluate
from attrscore.errors import LayerError, UnsupportedError
from attrscore.methods.cams import GradCAM, RandomCAM
from attrscore.methods.perturbation import AblationCAM, ScoreCAM
from attrscore.models.inputs import InputRule
from attrscore.targets import Index

STAINS = ("DNA", "ER", "AGP")
CHANNEL, PLACE = 1, (2, 1)

NETS = {
    "ChannelViT": lambda: seeded(ChannelViT),
    "place by place": lambda: seeded(ChannelViT, order="last"),
    "class token last": lambda: seeded(ChannelViT, order="last", behind=True),
    "OpenPhenom": lambda: seeded(OpenPhenom),
    "MorphEm": lambda: seeded(Folded, how="loop"),
    "folded": lambda: seeded(Folded),
    "stacked": lambda: seeded(Folded, how="stacked"),
    "attention over channels": lambda: seeded(Folded, pool="attention"),
}
BLOCKS = {
    "ChannelViT": ("first", (4, 3), 1),
    "place by place": ("last", (4, 3), 1),
    "class token last": ("last", (4, 3), 0),
    "OpenPhenom": ("first", (4, 3), 1),
    "MorphEm": ("stacked", (4, 3), 1),
    "folded": ("folded", (4, 3), 1),
    "stacked": ("stacked", (4, 3), 1),
    "attention over channels": ("folded", (4, 3), 1),
}
PATCHES = {
    **dict.fromkeys(("ChannelViT", "place by place", "class token last"), 2),
    **dict.fromkeys(("OpenPhenom", "MorphEm"), "stacked"),
}


def cells(n: int = 2) -> Batch:
    """The cell is the planted patch."""
    mask = torch.zeros(n, *SPACE, dtype=torch.bool)
    rows, columns = (slice(PATCH * at, PATCH * (at + 1)) for at in PLACE)
    mask[:, rows, columns] = True
    drawn = torch.rand((n, 3, *SPACE), generator=torch.Generator().manual_seed(2))
    return Batch(drawn.double(), {"cell": mask}, stains=STAINS)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("blind", [False, True])
def test_where_the_channels_lie_is_measured(name, blind):
    """Also of a model whose weights read one patch of one channel."""
    model = NETS[name]()
    if blind:
        model = planted(model, CHANNEL, PLACE)
    layers = select_layers(model, "blocks", cells().inputs)
    assert len(layers) == 3
    for layout in layers.layouts.values():
        assert (layout.channels, layout.grid, layout.prefix) == BLOCKS[name]
        assert layout.prefix + layout.suffix == 1
        assert layout.stains == (0, 1, 2)
    (patches,) = [info for info in trace(model, cells().inputs) if info.name.endswith("patches")]
    assert patches.grid == GRID
    assert patches.layout.channels == PATCHES.get(name, BLOCKS[name][0])
    assert not patches.repeats


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("method", ["hires_cam", "layer_cam", "activation_x_gradient"])
def test_a_model_that_reads_one_channel_at_one_place(name, method):
    """All of the heat lies there, at every block and at the patch embedding."""
    table = evaluate(
        planted(NETS[name](), CHANNEL, PLACE),
        cells(),
        methods=method,
        scorers=["grad_camo", "channel_shares"],
        layers=["blocks", "*patches"],
        target=Index(index=0),
        heat={"resize": "nearest"},
        progress="none",
    )
    assert len(table) == 2 * 4
    assert set(table["status"]) == {"ok"}
    np.testing.assert_array_equal(table["grad_camo"], 1)
    for stain in STAINS:
        np.testing.assert_array_equal(table[f"channel_shares.{stain}"], float(stain == "ER"))
        np.testing.assert_array_equal(table[f"channel_shares.{stain}.cell"], float(stain == "ER"))


WRONG = [
    *({"grid": grid} for grid in ([12, 3], [4, 9], [9, 4], [3, 4], [6, 6], [37, 1], [1, 12])),
    *({"channels": "none"}, {"prefix": None}, {"prefix": 2}, {"axes": "channels_last"}),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("layout", WRONG, ids=str)
def test_a_layout_that_the_model_contradicts_is_refused(name, layout):
    model = NETS[name]()
    if layout == {"prefix": None}:
        layout = {"prefix": 1 - BLOCKS[name][2]}
    for planting in (False, True):
        if planting:
            planted(model, CHANNEL, PLACE)
        with pytest.raises(LayerError, match=r"do(es)? not fit layout|layout.axes"):
            select_layers(model, "blocks", cells().inputs, layout=LayoutOptions(**layout))


def test_a_contradiction_costs_the_rows_of_an_evaluation():
    with pytest.warns(UserWarning, match="the dry run shows layout.grid=\\[4, 3\\]"):
        table = evaluate(
            NETS["ChannelViT"](),
            cells(),
            layers="blocks",
            layout={"grid": [4, 9]},
            progress="none",
        )
    assert set(table["status"]) == {"unsupported"}


@pytest.mark.parametrize("name", NETS)
def test_only_the_right_word_for_the_channels_is_taken(name):
    model, right = NETS[name](), BLOCKS[name][0]
    for word in ("first", "last"):
        stated = LayoutOptions(channels=word, grid=GRID, prefix=BLOCKS[name][2])
        if word == right:
            layers = select_layers(model, "blocks", cells().inputs, layout=stated)
            assert layers.layouts == select_layers(model, "blocks", cells().inputs).layouts
        else:
            with pytest.raises(LayerError, match="do not fit layout.grid"):
                select_layers(model, "blocks", cells().inputs, layout=stated)


@pytest.mark.parametrize("name", NETS)
def test_gradients_lie_at_their_stain_and_place(name):
    """Of a model with random weights: what a channel's pixels change, its activations show."""
    model = NETS[name]()
    layers = select_layers(model, "*patches", cells().inputs)
    (layer,) = layers
    run = Pass(model, cells(), Index(index=0), layers)
    stains = 3
    before = run.activations[layer].unflatten(1, (stains, -1))
    assert run.gradients[layer].shape == run.activations[layer].shape == (2, 12, *GRID)
    altered = cells().inputs
    altered[1, CHANNEL, PATCH * PLACE[0], PATCH * PLACE[1]] += 1
    after = run.on(altered).activations[layer].unflatten(1, (stains, -1))
    touched = (before != after).any(2).nonzero().tolist()
    assert touched == [[1, CHANNEL, *PLACE]]
    # the directional derivative, by the gradient at the layer and by two forward passes
    small = cells().inputs
    small[1, CHANNEL, PATCH * PLACE[0], PATCH * PLACE[1]] += 1e-6
    again = run.on(small)
    change = ((again.activations[layer] - run.activations[layer]) * run.gradients[layer]).sum()
    torch.testing.assert_close(change, (again.value - run.value).sum(), rtol=1e-3, atol=1e-13)


def test_channels_in_another_order_keep_their_names():
    """model.channels: the model sees two of three channels, the last first."""
    model = seeded(ChannelViT, channels=2)
    model.register_forward_pre_hook(InputRule(channels=(2, 1)))
    assert select_layers(model, "blocks", cells().inputs).stains("blocks.0") == (2, 1)
    table = evaluate(
        model,
        cells(),
        methods="hires_cam",
        scorers="channel_shares",
        layers="blocks.0",
        heat={"sign": "absolute"},
        progress="none",
    )
    shares = table[[f"channel_shares.{stain}" for stain in STAINS]]
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert (shares["channel_shares.DNA"] == 0).all()
    assert (shares["channel_shares.AGP"] > 0).all()


def test_heat_joins_the_stains_as_it_is_asked_to():
    """Each stain has a Grad-CAM of its own weights; the heat sums them, or takes another."""
    model = seeded(ChannelViT)
    layers = select_layers(model, "blocks.0", cells().inputs)
    run = Pass(model, cells(), Index(index=0), layers)
    signed = GradCAM()(run)["blocks.0"]
    assert signed.shape == (2, 3, *GRID)
    activation, gradient = (
        each["blocks.0"].unflatten(1, (3, -1)) for each in (run.activations, run.gradients)
    )
    by_hand = (gradient.mean((3, 4), keepdim=True) * activation).sum(2)
    torch.testing.assert_close(signed, by_hand)
    torch.testing.assert_close(Heat(signed, SPACE).native, by_hand.sum(1).clamp(min=0))
    absolute = HeatOptions(channels="absolute")
    torch.testing.assert_close(Heat(signed, SPACE, absolute).native, by_hand.abs().sum(1))


@pytest.mark.parametrize("name", NETS)
def test_ablating_and_hiding_by_stain(name):
    """Methods of perturbation too: nothing but the planted stain has a weight."""
    model = planted(NETS[name](), CHANNEL, PLACE)
    (layer,) = [key for key, _ in model.named_modules() if key.endswith("blocks.1")]
    run = Pass(model, cells(), Index(index=0), select_layers(model, layer, cells().inputs))
    scorer = SCORERS.build("channel_shares")
    for method in (AblationCAM(), ScoreCAM(), RandomCAM()):
        if name == "MorphEm" and isinstance(method, AblationCAM):
            with pytest.raises(UnsupportedError, match="once for each channel"):
                method(run)
            continue
        signed = method(run)[layer]
        assert signed.shape == (2, 3, *GRID)
        shares = scorer(Heat(signed, SPACE, HeatOptions(sign="absolute"), layer=layer), run)
        torch.testing.assert_close(sum(shares[stain] for stain in STAINS).float(), torch.ones(2))
        if isinstance(method, AblationCAM):
            assert (shares["ER"] == 1).all()


class Factorised(nn.Module):
    """Attention over places, then over channels: both put the other into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 4, 8, 8)
        self.over_places, self.over_channels = Block(), Block()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        n, channels = x.shape[:2]
        tokens = self.patches(x.flatten(0, 1)[:, None]).flatten(2).mT  # (N * C, places, D)
        tokens = self.over_places(tokens).unflatten(0, (n, channels)).transpose(1, 2)
        tokens = self.over_channels(tokens.flatten(0, 1))  # (N * places, C, D)
        return self.head(tokens.unflatten(0, (n, -1)).mean((1, 2)))


def test_places_in_the_batch_are_not_taken_for_channels():
    """Four channels and four places: both blocks have the same shape."""
    model, crop = seeded(Factorised), torch.rand(1, 4, 16, 16).double()
    ran = {info.name: info for info in trace(model, crop)}
    assert ran["over_places"].shape == ran["over_channels"].shape == (4, 4, 4)
    assert ran["patches"].layout.channels == "folded"
    assert ran["over_places.norm"].layout.channels == "folded"
    assert all(not info.grid for name, info in ran.items() if name.startswith("over_channels"))


class Volumes(nn.Module):
    """Stacks: a 3D patch embedding once a channel, channel by channel, without a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv3d(1, 4, (4, 8, 8), (4, 8, 8))
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2, enable_nested_tensor=False
        )
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        tokens = [self.patches(channel).flatten(2).mT for channel in x.split(1, 1)]
        return self.head(self.encoder(torch.cat(tokens, 1)).mean(1))


def test_stacks_and_the_encoder_of_torch():
    """What the first block gets shows where tokens lie; what it puts out is mixed already."""
    model, crop = seeded(Volumes), torch.rand(1, 2, 8, 16, 24).double()
    layers = select_layers(model, ["patches", "encoder.layers.?"], crop)
    assert {info.grid for info in layers.infos.values()} == {(2, 2, 3)}
    assert [layout.channels for layout in layers.layouts.values()] == ["stacked", "first", "first"]
    assert {layout.stains for layout in layers.layouts.values()} == {(0, 1)}


def test_heads_of_attention_are_no_positions():
    """(N, heads, tokens, d): a LayerNorm of queries, whose last axis is that of channels."""

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 8, 8)
            self.position = nn.Parameter(torch.randn(1, 16, 8))
            self.norm = nn.LayerNorm(4)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            tokens = self.patches(x).flatten(2).mT + self.position
            q = self.norm(tokens.unflatten(2, (2, 4)).transpose(1, 2))
            mixed = (q @ q.mT).softmax(-1) @ q
            return self.head(mixed.transpose(1, 2).flatten(2).mean(1))

    with pytest.raises(LayerError, match="its axes are not those of the image"):
        select_layers(seeded(Heads), "norm", torch.rand(1, 3, 32, 32).double())


def test_tokens_mixed_before_they_are_seen_are_laid_out_as_is_said():
    class Mixed(ChannelViT):
        def forward(self, x):
            tokens = self.patches(x[:, None]).flatten(2).mT
            tokens = (tokens @ tokens.mT).softmax(-1) @ tokens
            return self.head(self.blocks[0](tokens).mean(1))

    model = seeded(Mixed)
    with pytest.raises(LayerError, match="tokens are mixed before they can be seen"):
        select_layers(model, "blocks.0", cells().inputs)
    said = LayoutOptions(grid=GRID, channels="last")
    layers = select_layers(model, "blocks.0", cells().inputs, layout=said)
    assert layers.layouts["blocks.0"] == Layout("tokens", GRID, 0, "last", (0, 1, 2))
    with pytest.raises(LayerError, match="do not fit layout.grid"):
        select_layers(model, "blocks.0", cells().inputs, layout=LayoutOptions(grid=(7, 7)))
