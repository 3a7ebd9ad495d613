"""TorchScript and exported programs: the maps that they have are those of their network."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import attrscore
from attrscore.core.contracts import InputSpec
from attrscore.core.model import SealedModel, in_memory_format, unwrap
from attrscore.core.registry import METHODS, MODELS
from attrscore.engine.preflight import preflight
from attrscore.engine.run import run
from attrscore.errors import ConfigError, DataError, UnsupportedError
from attrscore.models import fingerprint, randomized

# torch itself uses the torch.jit that it deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*is deprecated:UserWarning"),
]

ON_THE_INPUT = {
    "feature_ablation": {},
    "gradient_shap": {"samples": 2},
    "guided_ig": {"steps": 3},
    "input_x_gradient": {},
    "integrated_gradients": {"steps": 4},
    "kernel_shap": {"samples": 4},
    "occlusion": {"window": [4, 4], "stride": [4, 4]},
    "rise": {"samples": 8, "grid": 2},
    "saliency": {},
    "smooth_grad": {"samples": 2},
}
"""What works, and its options for a quick test."""

SPEC = InputSpec(channels=2, size=(16, 16), classes=3)


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)),
            *(nn.Conv2d(4, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            nn.Linear(4, 3),
        ).eval()


def exported(model: nn.Module) -> torch.export.ExportedProgram:
    cells = torch.export.Dim("cells")
    return torch.export.export(model, (inputs(),), dynamic_shapes=({0: cells},))


def inputs() -> torch.Tensor:
    return torch.randn(3, 2, 16, 16, generator=torch.Generator().manual_seed(1))


def crops() -> attrscore.Batch:
    mask = torch.zeros(3, 16, 16, dtype=torch.bool)
    mask[:, 4:9, 4:9] = True
    return attrscore.Batch(inputs(), {"cell": mask})


FORMS = {
    "script": torch.jit.script,
    "trace": lambda model: torch.jit.trace(model, inputs()),
    "program": exported,
    "unflattened": lambda model: torch.export.unflatten(exported(model)),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_each_method_gives_the_networks_own_map_or_is_refused(form):
    plain = network()
    sealed = FORMS[form](plain)
    names = {each.name for each in METHODS.entries() if each.alias_of is None}
    names -= {"captum", "kept"}  # which need options
    methods = {name: METHODS.build(name, **ON_THE_INPUT.get(name, {})) for name in sorted(names)}
    options = {"methods": methods, "layers": ["0", "4"], "keep": "native", "pool": _pool()}
    findings = preflight(sealed, crops(), methods=methods, layers=["0", "4"])
    fine = {each.method for each in findings if each.verdict == "ok"}
    assert fine == set(ON_THE_INPUT)
    assert all(each.verdict == "refused" for each in findings if each.method not in fine)
    expected = {(each.method, each.layer): each for each in run(plain, crops(), **options)}
    for result in run(sealed, crops(), **options):
        if result.method in fine:
            same = expected[result.method, result.layer]
            # the first convolution of a network that can be watched is left out between steps
            close = {"rtol": 1e-4, "atol": 1e-6} if "gradients" in result.method else {"rtol": 0}
            np.testing.assert_allclose(result.maps, same.maps, **close)
            np.testing.assert_allclose(
                result.columns["grad_camo"], same.columns["grad_camo"], **close
            )
        else:
            assert set(result.columns["status"]) == {"unsupported"}
    reasons = {each.reason for each in findings if each.method == "grad_cam"}
    assert len(reasons) == 1
    assert "layers cannot be watched: only methods that explain the input" in reasons.pop()


def _pool() -> attrscore.Batch:
    drawn = torch.randn(8, 2, 16, 16, generator=torch.Generator().manual_seed(2))
    regions = {"cell": torch.ones(8, 16, 16, dtype=torch.bool)}
    return attrscore.Batch(drawn, regions, ids=[f"other{n}" for n in range(8)])


@pytest.mark.slow
def test_files_give_the_network_back_and_its_fingerprint_sees_code_and_weights(tmp_path):
    model = network()
    torch.jit.save(torch.jit.script(model), tmp_path / "net.pt")
    torch.export.save(exported(model), tmp_path / "net.pt2")
    prints = set()
    for name, file in (("torchscript", "net.pt"), ("exported", "net.pt2")):
        build = MODELS.build(name, weights=str(tmp_path / file))
        read = build(SPEC)
        assert isinstance(read, SealedModel)
        with torch.no_grad():
            torch.testing.assert_close(read(inputs()), model(inputs()), rtol=0, atol=0)
        assert fingerprint(read) == fingerprint(build(SPEC))
        prints.add(fingerprint(read))
    model[2] = nn.Tanh()
    prints.add(fingerprint(unwrap(torch.jit.script(model))))
    prints.add(fingerprint(unwrap(exported(model))))
    with torch.no_grad():
        model[0].bias += 1
    prints.add(fingerprint(unwrap(torch.jit.script(model))))
    assert len(prints) == 5


def test_numbers_are_those_that_the_file_was_made_with():
    options = {"methods": "saliency", "layers": ["0"], "keep": "native"}
    (expected,) = run(network(), crops(), precision="autocast", **options)
    (found,) = run(torch.jit.script(network()), crops(), precision="autocast", **options)
    np.testing.assert_allclose(found.maps, expected.maps, atol=0.02)
    with pytest.raises(UnsupportedError, match="precision=bfloat16: the model is TorchScript"):
        next(run(torch.jit.script(network()), crops(), precision="bfloat16", **options))


def test_a_program_for_a_fixed_number_of_cells_is_told(tmp_path):
    fixed = torch.export.export(network(), (inputs(),))
    with pytest.raises(UnsupportedError, match="does not take 1 cells.*dynamic_shapes"):
        preflight(fixed, crops(), methods="saliency")


def test_what_needs_layers_is_refused(tmp_path):
    sealed = unwrap(torch.jit.script(network()))
    with pytest.raises(UnsupportedError, match="randomize=all needs layers.*TorchScript"):
        randomized(sealed, "all")
    with pytest.raises(UnsupportedError, match="memory_format=channels_last: the model is Torch"):
        in_memory_format(sealed, "channels_last", 2)
    in_memory_format(sealed, "contiguous", 2)


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickled_objects_in_a_program_are_refused_and_never_run(tmp_path):
    import io
    import pickle
    import zipfile

    torch.export.save(exported(network()), tmp_path / "net.pt2")
    for kind in ("zip", "pickle"):
        buffer = io.BytesIO()
        if kind == "zip":
            torch.save(Trap(tmp_path / "trap"), buffer)
        else:
            pickle.dump(Trap(tmp_path / "trap"), buffer)
        with (
            zipfile.ZipFile(tmp_path / "net.pt2") as whole,
            zipfile.ZipFile(tmp_path / "bad.pt2", "w") as bad,
        ):
            for name in whole.namelist():
                sample = name.endswith("sample_inputs/model.pt")
                content = buffer.getvalue() if sample else whole.read(name)
                bad.writestr(name.replace("net/", "bad/", 1), content)
        with pytest.raises(DataError, match="holds pickled objects|is damaged"):
            MODELS.build("exported", weights=str(tmp_path / "bad.pt2"))(SPEC)
        assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("name", ["torchscript", "exported"])
def test_files_that_are_something_else_are_told(tmp_path, name):
    with pytest.raises(DataError, match="There is no file"):
        MODELS.build(name, weights=str(tmp_path / "none.pt"))(SPEC)
    for suffix, content in ((".pt2", b"PK\x03\x04 cut"), (".pt", b"no network")):
        file = tmp_path / f"bad{suffix}"
        file.write_bytes(content)
        with pytest.raises(DataError, match="is damaged, or is no file of torch"):
            MODELS.build(name, weights=str(file))(SPEC)
    torch.jit.save(torch.jit.script(network()), tmp_path / "net.pt")
    with pytest.raises(DataError, match="is TorchScript.*model=torchscript"):
        MODELS.build("tiny_cnn", weights=str(tmp_path / "net.pt"))(SPEC)


@pytest.mark.slow
def test_a_file_is_audited_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.jit.save(torch.jit.script(network()), "net.pt")
    data = ["dataset.cells=6", "dataset.size=[16,16]", "dataset.channels=2", "figures=none"]
    model = ["model=torchscript", "model.weights=net.pt", "method=[grad_cam,saliency]"]
    from attrscore.cli.main import main

    assert main([*data, *model]) == 3
    assert "layers cannot be watched" in " ".join(capsys.readouterr().err.split())
    scores = attrscore.read_scores("results")
    by_method = scores.groupby("method")["status"].unique()
    assert set(by_method["grad_cam"]) == {"unsupported"}
    assert set(by_method["saliency"]) <= {"ok", "no_positive_mass"}
    capsys.readouterr()
    assert main(["inspect", *data[:3], *model]) == 3
    told = " ".join(capsys.readouterr().out.split())
    assert "saliency input yes" in told
    assert "only methods that explain the input work" in told
    assert main(["train", *data[:3], *model[:2], "train.output=w.safetensors"]) == 1
    assert "TorchScript, which is not trained here" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ConfigError):
        MODELS.build("torchscript")
