"""The command line, as users type it."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import tifffile

import attrscore
from attrscore.cli import main

SMALL = ["dataset.cells=12", "dataset.size=[32,32]", "batch_size=5", "figures=none"]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def conditions(results: str = "results") -> list[int]:
    jobs = Path(results, "jobs").glob("*/job.json")
    return sorted(len(json.loads(job.read_text())["identity"]["conditions"]) for job in jobs)


def test_one_job_with_figures_and_a_table(capsys):
    assert main([*SMALL[:3], "layers=[features.3,features.6]", "keep=native"]) == 0
    out = capsys.readouterr()
    assert "grad_cam" in out.out
    assert "has random weights" in out.err
    assert len(list(Path("results/figures").glob("*.png"))) == 2
    scores = attrscore.read_scores("results")
    assert len(scores) == 24
    assert {"Metadata_Well", "grad_camo.auc", "status"} <= set(scores)
    assert set(scores["target"]) == {"predicted.logit"}
    ids, maps = attrscore.read_maps("results", "grad_cam", "features.3")
    assert len(ids) == len(maps) == 12
    assert maps.min() < 0


def test_chosen_cells_are_drawn(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        attrscore.plots, "overlays", lambda examples, **_: drawn.extend(examples) or plt.Figure()
    )
    ids = ["phantom-0-000007", "phantom-0-000002"]
    assert main([*SMALL[:3], f"show=[{','.join(ids)}]"]) == 0
    assert [example.id for example in drawn] == ids


def test_a_rerun_computes_nothing_and_an_addition_only_what_is_new(capsys):
    assert main(SMALL) == 0
    before = {path: path.stat().st_mtime_ns for path in Path("results/jobs").glob("*/*.h5")}
    capsys.readouterr()
    assert main(SMALL) == 0
    assert "nothing was computed" in capsys.readouterr().out
    assert main([*SMALL, "method=[grad_cam,hires_cam]", "layers=[features.3,features.6]"]) == 0
    assert conditions() == [1, 3]  # grad_cam at the last convolution was there
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    scores = attrscore.read_scores("results")
    assert not scores.duplicated(["id", "method", "layer"]).any()
    assert len(scores) == 4 * 12


def test_the_batch_size_is_no_part_of_a_result():
    for size in (12, 5, 1):
        main([*SMALL, f"batch_size={size}", f"results=by{size}", "layers=all_conv"])
    tables = [attrscore.read_scores(f"by{size}") for size in (12, 5, 1)]
    for other in tables[1:]:
        pd.testing.assert_frame_equal(tables[0], other, atol=1e-5, rtol=0)


def test_a_multirun_gathers_in_one_folder(capsys):
    sweep = ["method=grad_cam,integrated_gradients", "layers=last_conv,all_conv"]
    assert main(["-m", *SMALL, *sweep, "method.integrated_gradients.steps=4"]) in (0, 2)
    assert main(["-m", *SMALL, *sweep, "model=tiny_cnn,monai_resnet"]) == 0
    capsys.readouterr()
    for name in ("all.h5", "all.csv", "all.parquet"):
        assert main(["collect", "results", "-o", name, "--figures", "none"]) == 0
    out = capsys.readouterr().out
    assert "monai_resnet" in out
    tables = [
        attrscore.read_scores("all.h5"),
        pd.read_csv("all.csv"),
        pd.read_parquet("all.parquet"),
    ]
    for table in tables:
        assert set(table["model"]) == {"tiny_cnn", "monai_resnet"}
        assert set(table["method"]) == {"grad_cam", "integrated_gradients"}
        assert not table.duplicated(["id", "model", "method", "layer", "target"]).any()
    np.testing.assert_allclose(tables[0]["grad_camo"], tables[1]["grad_camo"], rtol=1e-12)


def test_a_sweep_over_an_option_keeps_its_rows_apart():
    assert main(["-m", *SMALL, "heat.sign=positive,absolute", "target.scalar=logit,margin"]) == 0
    scores = attrscore.read_scores("results")
    assert set(scores["heat.sign"]) == {"positive", "absolute"}
    assert set(scores["target"]) == {"predicted.logit", "predicted.margin"}
    assert not scores.duplicated(["id", "target", "heat.sign"]).any()


def test_one_failing_job_does_not_stop_a_sweep(capsys):
    assert main(["-m", *SMALL, "layers=nowhere,last_conv"]) != 0
    assert "No layer matches 'nowhere'" in capsys.readouterr().err
    assert len(attrscore.read_scores("results")) == 12


def test_an_unsupported_method_becomes_rows_and_an_exit_status(capsys):
    args = ["model=monai_efficientnet", "method=[grad_cam,guided_grad_cam]", *SMALL]
    assert main(args) == 3
    assert "Guided methods need every activation to be an nn.ReLU" in capsys.readouterr().err
    status = attrscore.read_scores("results").groupby("method")["status"].agg(set)
    assert status["guided_grad_cam"] == {"unsupported"}
    assert "unsupported" not in status["grad_cam"]


def test_one_plugin_under_two_names():
    twice = "+method={coarse: {name: integrated_gradients, steps: 2}}"
    assert main([*SMALL, "method=integrated_gradients", twice]) == 0
    assert set(attrscore.read_scores("results")["method"]) == {"integrated_gradients", "coarse"}


def test_a_target_from_configuration_needs_trust(capsys):
    node = "+method={mine: {_target_: attrscore.methods.GradCAM}}"
    assert main([*SMALL, node]) == 2
    assert "say trust=[attrscore]" in capsys.readouterr().err
    assert main(["-m", *SMALL, node, "trust=[attrscore]", "layers=features.3,features.6"]) == 0
    assert set(attrscore.read_scores("results")["method"]) == {"grad_cam", "mine"}


def test_train_then_audit_tells_honest_from_cheating(capsys):
    data = ["dataset.cells=192", "dataset.size=[32,32]", "figures=none"]
    for carrier in ("cell", "background"):
        args = [f"dataset.carrier={carrier}", f"train.output={carrier}.safetensors"]
        assert main(["train", *data, *args, "train.epochs=8"]) == 0
        assert "held-out accuracy" in capsys.readouterr().out
        audit = [f"model.weights={carrier}.safetensors", "dataset.seed=1", "target.scalar=margin"]
        assert main([*data, *audit, "layers=features.7"]) == 0
    mean = attrscore.read_scores("results").groupby("model")["grad_camo.above_chance"].mean()
    assert mean["tiny_cnn:cell"] > 0.1
    assert mean["tiny_cnn:background"] < 0


def test_inspect_shows_grids_and_what_can_be_reached(capsys):
    assert main(["inspect", "dataset=phantom_3d", "dataset.cells=4"]) == 0
    out = capsys.readouterr().out
    assert "features.6" in out
    assert "last_conv" in out
    assert "3 channels" in out


def test_plugins_are_listed_and_described(capsys):
    assert main(["plugins"]) == 0
    assert "energy_pointing_game" in capsys.readouterr().out
    assert main(["plugins", "integrated_gradients"]) == 0
    assert "steps = 50" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["train", "inspect", "collect", "plugins"])
def test_every_verb_has_help_with_an_example(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert "example: attrscore " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["layers=featurs.3"], "No layer matches 'featurs.3'. Did you mean 'features.3'"),
        (["method=gradcam"], "No method is called 'gradcam'. Did you mean 'grad_cam'"),
        (["model=tiny_cn"], "No model is called 'tiny_cn'. Did you mean 'tiny_cnn'"),
        (["method.grad_cam.chanels=keep"], "'chanels' in method.grad_cam. Did you mean 'channels'"),
        (["batchsize=3"], "There is no setting 'batchsize'. Did you mean 'batch_size'"),
        (["target.scalar=logits"], "Did you mean 'logit'"),
        (["dataset.images=a_[0-3]*.tif"], "needs quotes of its own"),
        (["dataset=fields"], "dataset.images must be given"),
        (["colect", "x"], "There is no verb 'colect'. Did you mean 'collect'"),
        (["collect", "nowhere"], "nowhere"),
        (["plugins", "grad_cm"], "Did you mean 'grad_cam'"),
        (["model.weights=absent.safetensors"], "absent.safetensors"),
        (["device=cuda:7"], "device=cuda:7"),
        (["method=[]"], "No method is chosen"),
        (["show=[phantom-0-0000]"], "is no cell of this dataset. Did you mean 'phantom-0-0"),
        (["target=index", "target.index=9"], "target.index=9 is not an output"),
    ],
)
def test_mistakes_get_one_sentence(args, sentence, capsys):
    small = [] if args[0].isalpha() or args == ["dataset=fields"] else SMALL
    assert main([*args, *small]) in (1, 2)
    err = capsys.readouterr().err
    assert sentence in " ".join(err.split())
    assert "Traceback" not in err


@pytest.fixture
def fields(tmp_path) -> None:
    """Two fields with four cells each, a mask without image, and a file that is no TIFF."""
    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for field in ("a", "b"):
        labels = np.zeros((60, 60), np.uint16)
        for number, (y, x) in enumerate([(12, 12), (12, 45), (45, 12), (45, 45)], start=1):
            labels[y - 6 : y + 6, x - 6 : x + 6] = number
        image = rng.integers(0, 200, (60, 60)).astype(np.uint8) + (labels > 0) * np.uint8(50)
        tifffile.imwrite(f"images/{field}.tif", image)
        tifffile.imwrite(f"labels/{field}.tif", labels)
    Path("images/broken.tif").write_bytes(b"not a tiff")
    tifffile.imwrite("labels/broken.tif", labels)


FIELDS = ["dataset=fields", "dataset.images=images/*.tif", "dataset.masks=labels/*.tif"]


@pytest.mark.usefixtures("fields")
def test_own_images_with_one_unreadable_file(capsys):
    assert main([*FIELDS, "dataset.crop=[24,24]", "dataset.axes=YX", "model.classes=2"]) == 3
    err = capsys.readouterr().err
    assert "broken.tif" in err
    assert "1 inputs were skipped" in err
    scores = attrscore.read_scores("results")
    assert len(scores) == 8
    assert set(scores["label"]) == {-1}


@pytest.mark.usefixtures("fields")
def test_label_target_without_labels(capsys):
    args = [*FIELDS, "dataset.crop=[24,24]", "dataset.axes=YX", "model.classes=2", "target=label"]
    assert main(args) == 1
    assert "8 of 8 have none" in capsys.readouterr().err


def test_an_embedding_is_audited_against_a_reference_wherever_it_lies():
    for name in ("DMSO.npy", "moved.npy"):
        np.save(name, np.array([1.0, -1.0]))
        assert main([*SMALL, "target=cosine", f"target.reference={name}"]) == 0
    assert conditions() == [1]  # the same numbers: nothing was computed twice
    assert set(attrscore.read_scores("results")["target"]) == {"cosine:DMSO"}


def test_secrets_of_the_environment_stay_out_of_files(monkeypatch, tmp_path):
    monkeypatch.setenv("LAB_TOKEN", "s3cr3t-t0ken")
    assert main([*SMALL, "train.output=${oc.env:LAB_TOKEN}/w", "results=out"]) == 0
    files = [path for path in Path("out").rglob("*") if path.is_file()]
    assert any(path.suffix == ".h5" for path in files)
    assert not [path for path in files if b"s3cr3t-t0ken" in path.read_bytes()]
