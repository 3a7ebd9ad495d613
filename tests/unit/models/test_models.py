"""Shipped networks, networks of one's own, and the files of their weights."""

from __future__ import annotations

import importlib
import importlib.util
import linecache
import os
import pickle
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from attrscore.core.contracts import InputSpec
from attrscore.core.registry import MODELS
from attrscore.errors import ConfigError, DataError, UnsupportedError
from attrscore.models import fingerprint, load_weights, save_weights
from attrscore.models.record import check_trained_for, read_record
from attrscore.models.tiny import TinyCNN

FLAT = InputSpec(channels=5, size=(64, 64), classes=3)
STACK = InputSpec(channels=2, size=(16, 48, 48), classes=3)
MONAI = ["monai_resnet", "monai_densenet", "monai_efficientnet"]
needs_monai = pytest.mark.skipif(
    importlib.util.find_spec("monai") is None, reason="MONAI, an extra, is not installed"
)
SHIPPED = ["tiny_cnn", *(pytest.param(name, marks=needs_monai) for name in MONAI)]


def inputs(spec: InputSpec, n: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, spec.channels, *spec.size, generator=generator)


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture
def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()).eval()


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """A working directory with a package of networks; gone from sys.modules afterwards."""
    folder = tmp_path / "mylab"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "nets.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def make(channels, classes, *, depth=1, spec=None):\n"
        "    net = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1),\n"
        "                        nn.Flatten(),\n"
        "                        *[nn.Linear(4, 4) for _ in range(depth - 1)],\n"
        "                        nn.Linear(4, classes))\n"
        "    net.spec = spec\n"
        "    return net.train()\n"
        "def needs(width, height): return nn.Identity()\n"
        "def pair(): return nn.Identity(), 1\n"
        "def kind(): return nn.Identity\n"
        "def broken(): raise KeyError('inside')\n"
        "class Holder:\n"
        "    @staticmethod\n"
        "    def make(dimensions, size): return nn.Linear(dimensions, size[0])\n"
        "ready = nn.Identity()\n"
    )
    (folder / "faulty.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "mylab"]:
        del sys.modules[name]


# Shipped networks


@pytest.mark.slow
@pytest.mark.parametrize("spec", [FLAT, STACK], ids=["2d", "3d"])
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_networks_take_channels_axes_and_classes_from_the_dataset(name, spec):
    model = MODELS.build(name)(spec)
    assert not any(module.training for module in model.modules())
    with torch.no_grad():
        assert model(inputs(spec)).shape == (2, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny_cnn", pytest.param("monai_resnet", marks=needs_monai)])
def test_the_seed_gives_the_weights_and_leaves_the_global_state(name):
    before = torch.get_rng_state()
    first, again, other = (MODELS.build(name, seed=seed)(FLAT) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first, again)
    assert not same(first, other)
    assert fingerprint(first) == fingerprint(again) != fingerprint(other)


def test_tiny_cnn_has_the_layers_that_the_documentation_names():
    model = TinyCNN()(FLAT)
    for name in ("features.0", "features.3", "features.6"):
        assert isinstance(model.get_submodule(name), nn.Conv2d)
    assert model.features[:7](inputs(FLAT)).shape == (2, 32, 16, 16)
    assert isinstance(model.features[-1], nn.ReLU)


def test_tiny_cnn_does_not_halve_a_short_axis():
    assert TinyCNN()(STACK).features(inputs(STACK)).shape[2:] == (4, 12, 12)
    thin = InputSpec(channels=1, size=(3, 40, 41), classes=2)
    assert TinyCNN()(thin).features(inputs(thin)).shape[2:] == (3, 10, 11)


def test_outputs_are_asked_for_where_the_dataset_has_no_classes():
    unlabelled = InputSpec(channels=1, size=(16, 16), classes=0)
    with pytest.raises(ConfigError, match=r"no classes.*model\.classes="):
        TinyCNN()(unlabelled)
    assert TinyCNN(classes=4)(unlabelled)(inputs(unlabelled)).shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tiny_cnn", {"kernel": 4}, "kernel must be odd"),
        ("tiny_cnn", {"width": 0}, "width must be at least 1"),
        ("tiny_cnn", {"widht": 8}, "Did you mean 'width'"),
        ("monai_resnet", {"depth": 19}, "depth='19' is not a choice"),
        ("monai_densenet", {"depth": 18}, "depth='18' is not a choice"),
        ("monai_efficientnet", {"variant": "b9"}, "variant='b9' is not a choice"),
    ],
)
def test_wrong_options_fail_before_anything_is_built(name, options, message):
    with pytest.raises(ConfigError, match=message):
        MODELS.build(name, **options)


@pytest.mark.parametrize("name", MONAI)
def test_without_monai_the_sentence_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "monai", None)
    monkeypatch.setitem(sys.modules, "monai.networks", None)
    with pytest.raises(UnsupportedError, match=r'pip install "attrscore\[monai\]"'):
        MODELS.build(name)(FLAT)


@pytest.mark.slow
@needs_monai
@pytest.mark.parametrize("name", ["monai_densenet", "monai_efficientnet"])
def test_crops_that_monai_can_take_are_computed_as_monai_computes_them(name):
    from monai.networks import nets

    spec = InputSpec(channels=1, size=(40, 72), classes=2)
    ours = MODELS.build(name, seed=3)(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        theirs = (
            nets.DenseNet121(spatial_dims=2, in_channels=1, out_channels=2)
            if name == "monai_densenet"
            else nets.EfficientNetBN(
                "efficientnet-b0", pretrained=False, in_channels=1, num_classes=2
            )
        ).eval()
    with torch.no_grad():
        assert torch.equal(ours(inputs(spec)), theirs(inputs(spec)))


@needs_monai
@pytest.mark.parametrize("name", ["monai_densenet", "monai_efficientnet"])
def test_thin_stacks_run_where_monai_itself_fails(name):
    thin = InputSpec(channels=1, size=(1, 17, 40), classes=2)
    with torch.no_grad():
        assert MODELS.build(name)(thin)(inputs(thin, 1)).shape == (1, 2)


# Networks of one's own


@pytest.mark.parametrize("target", ["mylab.nets.make", "mylab.nets:make"])
def test_factory_fills_what_the_signature_names(nets, target):
    path = list(sys.path)
    model = MODELS.build("factory", target=target, options={"depth": 3})(FLAT)
    assert model(inputs(FLAT)).shape == (2, 3)
    assert model.spec == FLAT
    assert not model.training
    assert sys.path == path
    assert same(model, MODELS.build("factory", target=target, options={"depth": 3})(FLAT))


def test_factory_options_come_before_the_dataset(nets):
    model = MODELS.build("factory", target="mylab.nets.make", options={"classes": 7})(FLAT)
    assert model(inputs(FLAT)).shape == (2, 7)


def test_factory_reaches_into_classes_and_loads_weights(nets, tmp_path):
    build = MODELS.build("factory", target="mylab.nets.Holder.make", seed=1)
    model = build(STACK)
    assert model.weight.shape == (16, 3)
    save_weights(model, tmp_path / "w.safetensors")
    loaded = MODELS.build(
        "factory", target="mylab.nets.Holder.make", weights=str(tmp_path / "w.safetensors")
    )
    assert same(model, loaded(STACK))


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("make", {}, "'make' is not the path of a callable"),
        ("???", {}, "is not the path of a callable"),
        ("mylab.nets.mkae", {}, r"mylab\.nets has no 'mkae'\. Did you mean 'make'"),
        ("mylab.netz.make", {}, r"mylab has no 'netz'\. Did you mean 'nets'"),
        ("mylab.nets:Holder.mak", {}, r"Holder has no 'mak'\. Did you mean 'make'"),
        ("mylob.nets.make", {}, "there is no module 'mylob'"),
        ("mylab.faulty.make", {}, "faulty cannot be imported.*a_package_that_is_not_there"),
        ("mylab.nets.ready", {}, "is a Identity; expected a function"),
        ("mylab.nets.pair", {}, "pair returned tuple"),
        ("mylab.nets.kind", {}, "kind returned the class Identity"),
        ("mylab.nets.make", {"dpeth": 2}, "no parameter 'dpeth'. Did you mean 'depth'"),
        ("mylab.nets.needs", {"width": 2}, r"needs height: \+model\.options\.height="),
    ],
)
def test_a_target_that_cannot_be_used_is_explained(nets, target, options, message):
    with pytest.raises(ConfigError, match=message):
        MODELS.build("factory", target=target, options=options)(FLAT)


def test_an_error_inside_the_target_keeps_its_own_words(nets):
    with pytest.raises(KeyError, match="inside") as caught:
        MODELS.build("factory", target="mylab.nets.broken")(FLAT)
    assert "mylab.nets.broken" in caught.value.__notes__[0]


# Files of weights


def test_weights_survive_a_round_trip_in_both_formats(small, tmp_path):
    save_weights(small, tmp_path / "new" / "w.safetensors")
    torch.save(small.state_dict(), tmp_path / "w.pt")
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["w.safetensors"]
    for path in (tmp_path / "new" / "w.safetensors", tmp_path / "w.pt"):
        other = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())
        assert not same(small, other)
        load_weights(other, path)
        assert same(small, other)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_wrappers_and_prefixes_are_removed(small, tmp_path, prefix, wrapper):
    state = {prefix + name: value + 1 for name, value in small.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "w.pth")
    expected = small[0].weight + 1
    load_weights(small, tmp_path / "w.pth")
    assert torch.equal(small[0].weight, expected)


def test_a_prefix_that_is_the_networks_own_stays(tmp_path):
    model = nn.ModuleDict({"model": nn.Linear(2, 2)})
    save_weights(model, tmp_path / "w.safetensors")
    load_weights(model, tmp_path / "w.safetensors")


def test_tied_weights_are_saved_and_may_be_given_once(tmp_path):
    model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    model["b"].weight = model["a"].weight
    save_weights(model, tmp_path / "w.safetensors")
    load_weights(model, tmp_path / "w.safetensors")
    safetensors.torch.save_file({"a.weight": torch.ones(2, 2)}, tmp_path / "one.safetensors")
    load_weights(model, tmp_path / "one.safetensors")
    assert torch.equal(model["b"].weight, torch.ones(2, 2))


def test_weights_that_do_not_fit_are_counted_and_the_network_is_untouched(small, tmp_path):
    state = {name: value + 1 for name, value in small.state_dict().items()}
    state["0.weight"] = torch.zeros(2, 5, 3, 3)
    state["head.bias"] = state.pop("0.bias")
    torch.save(state, tmp_path / "w.pt")
    before = fingerprint(small)
    with pytest.raises(DataError) as caught:
        load_weights(small, tmp_path / "w.pt")
    message = str(caught.value)
    assert (
        "of 7 tensors 1 missing (0.bias), 1 unexpected (head.bias), 1 of another shape" in message
    )
    assert "0.weight (2, 5, 3, 3) for (2, 1, 3, 3)" in message
    assert "channels and classes" in message
    assert fingerprint(small) == before


def test_a_missing_file_is_suggested(small, tmp_path):
    save_weights(small, tmp_path / "honest.safetensors")
    with pytest.raises(DataError, match="Did you mean 'honest.safetensors'"):
        load_weights(small, tmp_path / "hones.safetensors")
    with pytest.raises(DataError, match="the folder .* does not exist"):
        load_weights(small, tmp_path / "nowhere" / "w.pt")
    with pytest.raises(DataError, match="is a folder"):
        load_weights(small, tmp_path)


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", ["zip", "legacy", "pickle"])
def test_pickled_objects_are_refused_and_never_run(small, tmp_path, protocol):
    trap, file = tmp_path / "trap", tmp_path / "w.pt"
    state = {**small.state_dict(), "0.bias": Malicious(trap)}
    if protocol == "pickle":
        file.write_bytes(pickle.dumps(Malicious(trap)))
    else:
        torch.save(state, file, _use_new_zipfile_serialization=protocol == "zip")
    with pytest.raises(DataError, match="attrscore loads tensors only"):
        load_weights(small, file)
    assert not trap.exists()


def test_a_whole_pickled_network_is_refused_by_name(small, tmp_path):
    torch.save(small, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"pickled objects \(torch\.nn\.modules.*state_dict\(\)"):
        load_weights(small, tmp_path / "w.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_damaged_file_is_called_so(small, tmp_path, suffix):
    whole, file = tmp_path / f"whole{suffix}", tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save(small.state_dict(), whole)
    else:
        save_weights(small, whole)
    content = whole.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"<!DOCTYPE html><html>Not found</html>"):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"{len(damaged)} bytes\) is damaged or is not a"):
            load_weights(small, file)
    with pytest.raises(DataError, match="It begins with '<!DOCTYPE html>"):
        load_weights(small, file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "holds a list, not a state dict"),
        ({"epoch": 3, "net": {"a": torch.zeros(1)}}, "more than tensors: epoch, net"),
    ],
)
def test_other_content_is_described(small, tmp_path, content, message):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(DataError, match=message):
        load_weights(small, tmp_path / "w.pt")


def test_other_suffixes_are_refused(small, tmp_path):
    (tmp_path / "w.onnx").write_bytes(b"x")
    with pytest.raises(DataError, match="is not known as a file of weights"):
        load_weights(small, tmp_path / "w.onnx")
    with pytest.raises(DataError, match=r"written as \.safetensors"):
        save_weights(small, tmp_path / "w.pt")


def test_a_save_that_fails_leaves_the_old_file_and_no_other(small, tmp_path, monkeypatch):
    file = tmp_path / "w.safetensors"
    save_weights(small, file)
    before = file.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_weights(small, file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_the_fingerprint_sees_weights_settings_and_activations():
    def net(activation: nn.Module, stride: int = 1) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Sequential(nn.Conv2d(1, 2, 3, stride), activation)

    base = fingerprint(net(nn.ReLU()))
    assert len(base) == 32
    assert fingerprint(net(nn.ReLU())) == base
    assert fingerprint(net(nn.SiLU())) != base
    assert fingerprint(net(nn.ReLU(), stride=2)) != base
    assert fingerprint(net(nn.ReLU()).double()) != base
    changed = net(nn.ReLU())
    with torch.no_grad():
        changed[0].bias[1] += 1e-6
    assert fingerprint(changed) != base
    assert fingerprint(net(nn.ReLU()).train()) == base
    assert fingerprint(nn.Linear(2, 1).bfloat16())


def test_the_fingerprint_sees_an_edited_forward(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    text = "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        return "
    source = tmp_path / "edited_network.py"
    source.write_text(text + "x\n")
    module = importlib.import_module("edited_network")
    before = fingerprint(module.Net())
    assert fingerprint(module.Net()) == before
    source.write_text(text + "x + 1\n")
    importlib.reload(module)
    linecache.clearcache()
    assert fingerprint(module.Net()) != before
    del sys.modules["edited_network"]


def test_weights_remember_their_classes(small, tmp_path):
    """Trained with one table and asked about another, every label might be flipped."""
    file = tmp_path / "w.safetensors"
    save_weights(small, file, classes=("dmso", "Taxol"))
    load_weights(small, file)
    record = read_record(file)
    for fitting in (("dmso", "Taxol"), (), ("0", "1")):  # the last without names
        check_trained_for(file, record, classes=fitting)
    for other in (("Taxol", "dmso"), ("dmso",), ("dmso", "Taxol", "x")):
        with pytest.raises(DataError, match=r"class_order=\[dmso,Taxol\]"):
            check_trained_for(file, record, classes=other)
    save_weights(small, file)
    assert read_record(file) is None
    assert read_record(tmp_path / "nowhere.safetensors") is None
    file.write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"w\.safetensors"):
        read_record(file)
