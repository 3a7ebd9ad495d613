"""Networks of transformers and timm by name, weights under other names, and what goes in first."""

from __future__ import annotations

import argparse
import copy
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

import attrscore
from attrscore.cli.hydra_app import configuration, settings_of
from attrscore.cli.main import main
from attrscore.core.contracts import InputSpec
from attrscore.core.layers import select_layers
from attrscore.core.registry import DATASETS, MODELS
from attrscore.engine.run import run
from attrscore.errors import ConfigError, DataError, LayerError, UnsupportedError
from attrscore.jobs import assembly
from attrscore.models import load_weights, save_weights
from attrscore.models.inputs import input_rule

SPEC = InputSpec(channels=3, size=(32, 32), classes=4)
VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SMALL = {
    "vit": {**VIT, "patch_size": 8},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    "swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
}


def crops(n: int = 2) -> torch.Tensor:
    return torch.randn(n, *(SPEC.channels, *SPEC.size), generator=torch.Generator().manual_seed(0))


# transformers


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers", reason="transformers, an extra, is not installed")


@pytest.mark.parametrize("name", SMALL)
def test_transformers_are_built_for_a_dataset_without_a_download(transformers, name):
    build = MODELS.build("transformers", architecture=name, config=SMALL[name], seed=3)
    model = build(SPEC)
    assert not model.training
    with torch.no_grad():
        assert model(crops()).shape == (2, 4)
        torch.testing.assert_close(model(crops()), build(SPEC)(crops()))
    features = MODELS.build("transformers", architecture=name, config=SMALL[name], head="features")
    with torch.no_grad():
        found = features(SPEC)(crops())
    assert found.ndim == 2
    assert len(found) == 2


def test_a_folder_of_save_pretrained_gives_its_network_back(transformers, tmp_path):
    given = {"architecture": "vit", "config": SMALL["vit"]}
    model = MODELS.build("transformers", seed=5, **given)(SPEC)
    model.save_pretrained(tmp_path / "vit")
    read = MODELS.build("transformers", weights=str(tmp_path / "vit"))(SPEC)
    with torch.no_grad():
        torch.testing.assert_close(read(crops()), model(crops()), rtol=0, atol=0)
    with pytest.raises(ConfigError, match="says its own architecture"):
        MODELS.build("transformers", weights=str(tmp_path / "vit"), **given)(SPEC)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is no folder of save_pretrained"):
        MODELS.build("transformers", weights=str(tmp_path / "empty"))(SPEC)


ENCODERS = {
    "dinov3_vit": (1, VIT),
    "clip_vision_model": (1, VIT),
    "siglip_vision_model": (0, VIT),
    "dinov2_with_registers": (5, {key: VIT[key] for key in VIT if key != "intermediate_size"}),
    "vit_msn": (1, VIT),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_of_images_has_features_and_blocks(transformers, name, tmp_path):
    prefix, fields = ENCODERS[name]
    config = {**fields, "patch_size": 8}
    build = MODELS.build("transformers", architecture=name, config=config, head="features")
    model = build(SPEC)
    layers = select_layers(model, "blocks", crops(1))
    assert {(each.grid, each.prefix) for each in layers.layouts.values()} == {((4, 4), prefix)}
    model.save_pretrained(tmp_path)
    read = MODELS.build("transformers", weights=str(tmp_path), head="features")(SPEC)
    with torch.no_grad():
        assert model(crops()).shape == (2, 16)
        torch.testing.assert_close(read(crops()), model(crops()), rtol=0, atol=0)


def test_a_masked_autoencoder_shuffles_its_tokens_and_so_has_no_map(transformers):
    config = {**VIT, "patch_size": 8}
    model = MODELS.build("transformers", architecture="vit_mae", config=config, head="features")
    with pytest.raises(LayerError, match="they lie on no regular grid"):
        select_layers(model(SPEC), "blocks", crops(1))


def test_of_a_folder_of_clip_the_vision_encoder_is_read(transformers, tmp_path):
    text = {**VIT, "vocab_size": 11, "max_position_embeddings": 8}
    seen = {**VIT, "patch_size": 8, "image_size": 32}
    whole = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=seen, projection_dim=8)
    ).eval()
    whole.save_pretrained(tmp_path)
    read = MODELS.build("transformers", weights=str(tmp_path), head="features")(SPEC)
    with torch.no_grad():
        expected = whole.vision_model(crops()).pooler_output
        torch.testing.assert_close(read(crops()), expected, rtol=0, atol=0)


def test_weights_that_a_folder_lacks_do_not_stay_random(transformers, tmp_path):
    config = {**SMALL["vit"]}
    features = MODELS.build("transformers", architecture="vit", config=config, head="features")
    features(SPEC).save_pretrained(tmp_path / "encoder")
    with pytest.raises(DataError, match=r"has no weights for classifier.bias, classifier.weight"):
        MODELS.build("transformers", weights=str(tmp_path / "encoder"))(SPEC)
    classes = MODELS.build("transformers", architecture="vit", config=config)(SPEC)
    classes.save_pretrained(tmp_path / "classifier")
    read = MODELS.build("transformers", weights=str(tmp_path / "classifier"), head="features")(SPEC)
    with torch.no_grad():  # it has no pooling layer: the mean of its tokens
        expected = classes.vit(crops()).last_hidden_state.mean(1)
        torch.testing.assert_close(read(crops()), expected, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "spec", "error", "message"),
    [
        (
            {"architecture": "clip", "head": "features"},
            SPEC,
            ConfigError,
            "called with input_ids, not with an image; use the vision encoder",
        ),
        (
            {"architecture": "vit", "config": {"hidden_size": "many"}},
            SPEC,
            ConfigError,
            "The configuration of vit does not take these fields",
        ),
        ({}, SPEC, ConfigError, "Say model.architecture=vit"),
        ({"architecture": "vitt"}, SPEC, ConfigError, "no image model 'vitt'. Did you mean 'vit"),
        (
            {"architecture": "vit", "config": {"hidden": 3}},
            SPEC,
            ConfigError,
            "of vit has no 'hidden'. Did you mean",
        ),
        (
            {"architecture": "vit"},
            InputSpec(channels=1, size=(8, 16, 16), classes=2),
            UnsupportedError,
            "are 2D, and the crops have 3 axes",
        ),
    ],
)
def test_transformers_that_cannot_be_built_are_told(transformers, options, spec, error, message):
    with pytest.raises(error, match=message):
        MODELS.build("transformers", **options)(spec)


@pytest.mark.slow
def test_a_transformer_is_audited_from_the_command_line(transformers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = [f"+model.config.{name}={value}" for name, value in SMALL["vit"].items()]
    data = ["dataset.cells=4", "dataset.size=[32,32]", "figures=none", "layers=blocks"]
    model = ["model=transformers", "model.architecture=vit", *config]
    assert main([*data, *model, "method=[hires_cam,saliency]"]) in (0, 3)
    scores = attrscore.read_scores("results")
    assert {"ok"} <= set(scores["status"])
    assert set(scores["model"]) == {"transformers"}


# timm


def test_timm_is_built_for_a_dataset():
    try:
        import timm  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm needs a torchvision that fits this torch, which is not here: {error}")
    model = MODELS.build("timm", architecture="resnet10t")(SPEC)
    with torch.no_grad():
        assert model(crops()).shape == (2, 4)


def test_timm_is_asked_as_its_documentation_says(monkeypatch):
    """A stand-in, where torchvision cannot be had."""
    asked = {}

    def create_model(name: str, **options: object) -> nn.Module:
        asked[name] = options
        return nn.Linear(2, 2)

    stand_in = types.ModuleType("timm")
    stand_in.create_model, stand_in.list_models = create_model, lambda: ["resnet10t"]
    stand_in.is_model = lambda name: name in ("resnet10t",)
    monkeypatch.setitem(sys.modules, "timm", stand_in)
    MODELS.build("timm", architecture="resnet10t", options={"stem_width": 8})(SPEC)
    expected = {"pretrained": False, "in_chans": 3, "num_classes": 4, "stem_width": 8}
    assert asked == {"resnet10t": expected}
    with pytest.raises(ConfigError, match="no model 'resnet10'. Did you mean 'resnet10t'"):
        MODELS.build("timm", architecture="resnet10")(SPEC)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UnsupportedError, match=r'pip install "attrscore\[timm\]"'):
        MODELS.build("timm", architecture="resnet10t")(SPEC)


# Weights under other names


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def lightning(model: nn.Module, **more: object) -> dict[str, object]:
    """A checkpoint as Lightning writes it, with a loss that has weights too."""
    state = {f"net.{name}": value + 1 for name, value in model.state_dict().items()}
    return {
        "epoch": 3,
        "global_step": 40,
        "pytorch-lightning_version": "2.6.1",
        "state_dict": {**state, "criterion.weight": torch.ones(3)},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
        **more,
    }


def test_a_lightning_checkpoint_is_read_with_a_map_of_prefixes(tmp_path):
    model, file = small(), tmp_path / "last.ckpt"
    expected = model[0].weight + 1
    torch.save(lightning(model), file)
    with pytest.raises(DataError, match=r"6 fit without 'net\.': model\.prefix=\{net\.: ''\}"):
        load_weights(model, file)
    load_weights(model, file, prefix={"net.": "", "criterion.": None})
    assert torch.equal(model[0].weight, expected)


def test_a_lightning_checkpoint_with_objects_is_refused_with_the_way_out(tmp_path):
    file = tmp_path / "last.ckpt"
    torch.save(lightning(small(), hyper_parameters=argparse.Namespace(lr=0.1)), file)
    with pytest.raises(DataError, match=r"Lightning checkpoint .*argparse\.Namespace.*state_dict"):
        load_weights(small(), file)


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ({"nett.": ""}, "No tensor of .* begins with nett.; they begin with criterion., net."),
        (
            {"net.0.": "a.", "net.1.": "a.", "criterion.": None},
            "makes two tensors of .* 'a.weight'",
        ),
    ],
)
def test_prefixes_that_cannot_be_used_are_told(tmp_path, prefix, message):
    torch.save(lightning(small()), tmp_path / "last.ckpt")
    with pytest.raises(ConfigError, match=message):
        load_weights(small(), tmp_path / "last.ckpt", prefix=prefix)


def test_the_longest_prefix_counts(tmp_path):
    model = small()
    state = {f"old.{name}": value for name, value in model.state_dict().items()}
    state["old.head.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt", prefix={"old.": "", "old.head.": None})


def settings(*overrides: str) -> dict[str, object]:
    small = ["dataset.cells=4", "dataset.size=[16,16]", "layers=features.3"]
    return settings_of(configuration([*small, *overrides]))


def test_a_prefix_is_said_on_the_command_line(tmp_path):
    dataset = DATASETS.build("phantom", cells=4, size=[16, 16])
    model = MODELS.build("tiny_cnn", seed=9)(dataset.spec)
    state = {f"net.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": {**state, "criterion.weight": torch.ones(3)}}, tmp_path / "w.ckpt")
    given = [f"model.weights={tmp_path}/w.ckpt", "model.prefix={net.: '', criterion.: null}"]
    parts = assembly.build(settings(*given))
    save_weights(model, tmp_path / "w.safetensors")
    plain = assembly.build(settings(f"model.weights={tmp_path}/w.safetensors"))
    assert parts.job.id == plain.job.id  # the same network, whatever its file


# What the network gets


def test_channels_are_picked_and_scaled_before_the_network_and_the_layers_keep_their_names():
    options = ["model.channels=[2,0]", "model.mean=[0.1,0.2]", "model.std=[0.5,2.0]"]
    parts = assembly.build(settings(*options))
    model, dataset = parts.model, parts.dataset
    assert model.features[0].in_channels == 2
    batch = dataset.read(range(4))
    bare = copy.deepcopy(model)
    bare._forward_pre_hooks.clear()
    scaled = batch.inputs[:, [2, 0]] - torch.tensor([0.1, 0.2]).view(1, 2, 1, 1)
    scaled = scaled / torch.tensor([0.5, 2.0]).view(1, 2, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(model(batch.inputs), bare(scaled))
    asked = {"methods": ["grad_cam", "saliency"], "layers": ["features.3"], "keep": "native"}
    layer, pixels = run(model, batch, **asked)
    same, _ = run(bare, attrscore.Batch(scaled, batch.regions, ids=batch.ids), **asked)
    np.testing.assert_allclose(layer.maps, same.maps, rtol=1e-5, atol=1e-9)
    assert pixels.maps.shape[1] == 3
    assert not pixels.maps[:, 1].any()  # the channel that the network does not get
    assert pixels.maps[:, 0].any()


@pytest.mark.slow
def test_channels_by_name_are_those_by_number_but_for_their_spelling():
    names = DATASETS.build("phantom", cells=4, size=[16, 16]).read([0]).stains
    by_name = assembly.build(settings(f"model.channels=[{names[2]},{names[0]}]"))
    by_number = assembly.build(settings("model.channels=[2,0]"))
    batch = by_name.dataset.read([0])
    with torch.no_grad():
        torch.testing.assert_close(by_name.model(batch.inputs), by_number.model(batch.inputs))
    base = by_name.job.base["model"]["options"]
    assert base["channels"] == [names[2], names[0]]
    assert by_number.job.id != assembly.build(settings()).job.id


@pytest.mark.slow
def test_the_output_stands_in_the_models_configuration():
    assert settings("model.output=logits")["output"] == "logits"
    assert settings("model.output=logits", "output=0")["output"] == 0
    assert settings()["output"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": [3]}, "asks for channel 3; the dataset has 3, from 0"),
        ({"channels": ["DNB"]}, "no channel 'DNB'. Did you mean 'DNA'"),
        ({"mean": [0.1]}, "has 1 numbers; expected 3, one for each channel"),
        ({"channels": [1], "std": [1.0, 1.0]}, "has 2 numbers; expected 1"),
        ({"std": [1.0, 0.0, 1.0]}, "must be above 0"),
    ],
)
def test_channels_that_cannot_be_given_are_told(options, message):
    plain = {"channels": None, "mean": None, "std": None, "stains": ("DNA", "ER", "AGP")}
    with pytest.raises(ConfigError, match=message):
        input_rule(**{**plain, **options}, count=3)
    assert input_rule(**plain, count=3) is None
