"""The command line, as users type it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import h5py
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from rich.console import Console

import attrscore
from attrscore.cli.hydra_app import configuration
from attrscore.cli.main import main
from attrscore.cli.output import headline, summary
from attrscore.datasets import write_hdf5
from attrscore.store import read_crops

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
    (part,) = Path("results/jobs").glob("*/*.h5")
    crops = read_crops(part)
    assert crops.ids == ids  # all, where there are fewer than 60
    assert crops.image.shape == (12, 3, 32, 32)
    assert {"cell", "neighbours"} <= set(crops.regions)


def test_chosen_cells_are_drawn(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        attrscore.report.figures,
        "overlays",
        lambda examples, **_: drawn.extend(examples) or plt.Figure(),
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
    assert main(["inspect", "model=tiny_cnn", "dataset=phantom_3d", "dataset.cells=4"]) == 0
    out = capsys.readouterr().out
    assert "features.6" in out
    assert "last_conv" in out
    assert "3 channels" in out


def test_inspect_ends_with_what_to_use_and_why(capsys):
    assert main(["inspect", "model=tiny_cnn", "dataset.cells=4", "--json"]) == 0
    advice = json.loads(capsys.readouterr().out)["recommended"]
    assert advice["method"] == "hires_cam"
    assert (advice["layer"], advice["scalar"]) == ("features.6", "margin")
    assert "lrp" in advice["refused"]
    tiny = ["dataset.cells=4", "dataset.size=[8,8]", "dataset.area=[0.01,0.02]"]
    assert main(["inspect", "model=tiny_cnn", *tiny]) == 0
    out = capsys.readouterr().out
    assert "recommended: method=[" in out
    assert "the deepest whose grid can put" in out or "no grid resolves" in out


def test_inspect_recommends_rollout_where_a_model_attends_over_tokens(capsys):
    vit = ["model=transformers", "model.architecture=vit", "+model.config.num_hidden_layers=4"]
    vit += ["+model.config.hidden_size=24", "+model.config.num_attention_heads=2"]
    vit += ["+model.config.patch_size=4", "dataset.size=[32,32]", "dataset.cells=4"]
    assert main(["inspect", *vit]) == 0
    out = capsys.readouterr().out
    assert "recommended: method=[attention_rollout]" in out
    assert "layers.1]' target.scalar=margin" in out  # of four
    assert "the same for every class" in out


@pytest.mark.parametrize(
    ("preset", "method", "scalar"),
    [("paper", "grad_cam", "logit"), ("recommended", "hires_cam", "margin")],
)
def test_a_preset_is_one_word_and_what_is_said_besides_wins(preset, method, scalar):
    found = configuration([f"preset={preset}"])
    assert (list(found.method), found.layers, found.target.scalar) == (
        [method],
        "last_conv",
        scalar,
    )
    found = configuration([f"preset={preset}", "method=[saliency]", "layers=stages"])
    assert (list(found.method), found.layers) == (["saliency"], "stages")


def test_a_job_returns_its_objective_to_a_sweeper_that_optimises(capsys):
    from hydra.core.utils import JobStatus
    from hydra.experimental.callback import Callback

    told = []

    class Heard(Callback):
        def on_job_end(self, config, job_return, **_):
            assert job_return.status is JobStatus.COMPLETED
            told.append(job_return.return_value)

    sys.modules["heard"] = types.SimpleNamespace(Heard=Heard)
    try:
        heard = "+hydra.callbacks.heard._target_=heard.Heard"
        assert main([*SMALL, "objective=grad_camo.log_odds", heard]) == 0
    finally:
        del sys.modules["heard"]
    scores = attrscore.read_scores("results")
    assert told == [scores["grad_camo.log_odds"].mean()]
    assert main([*SMALL, "objective=grad_camo.logodds"]) == 2
    assert "objective=grad_camo.logodds is no column." in capsys.readouterr().err


def test_optuna_searches_for_the_better_objective():
    extra = Path(sys.prefix) / "optuna"
    if not extra.is_dir():  # pytest by hand, in an environment that make did not set up
        pytest.skip("make test puts the extra optuna into .venv/optuna, which is not there")
    search = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1"]
    search += ["hydra.sweeper.sampler.seed=1", "model.seed=choice(1,2,3)"]
    command = [
        Path(sys.executable).with_name("attrscore"),
        *search,
        *SMALL,
        "objective=grad_camo.log_odds",
    ]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(extra)})
    best = next(Path().rglob("optimization_results.yaml")).read_text()
    means = (
        attrscore.read_scores("results").groupby("model.fingerprint")["grad_camo.log_odds"].mean()
    )
    assert float(best.partition("best_value: ")[2]) == pytest.approx(means.max())


def test_processes_that_read_ahead_change_no_number():
    drawn = ["method=[random_cam,smooth_grad]", "method.smooth_grad.samples=2"]
    tables = []
    for name, readers in (("here", 0), ("ahead", 2)):
        assert main([*SMALL, *drawn, f"readers={readers}", f"results={name}"]) == 0
        tables.append(attrscore.read_scores(name))
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert main([*SMALL, "readers=-2", "results=wrong"]) == 2


def test_inspect_honours_and_shows_relative_depth(capsys):
    assert main(["inspect", "dataset.cells=4", "depth=[0.3,1]", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    depths = {layer["name"]: layer["depth"] for layer in found["model"]["layers"]}
    chosen = [finding["layer"] for finding in found["findings"]]
    assert chosen == sorted(chosen, key=list(depths).index)
    assert [round(depths[layer], 2) for layer in chosen] == [0.33, 1.0]
    assert main(["inspect", "dataset.cells=4", "model=tiny_cnn"]) == 0
    assert "depth" in capsys.readouterr().out


def test_inspect_shows_what_a_dataset_holds_before_any_network_fits_it(capsys):
    assert main(["inspect", "dataset=phantom", "dataset.size=[9,9]", "dataset.cells=24"]) == 0
    out = capsys.readouterr().out
    for told in ("24", "3 (DNA, ER, AGP)", "9 x 9 pixels", "cell, nucleus", "plate", "A01"):
        assert told in out
    assert "features" not in out
    assert Path("results/figures/dataset-phantom.png").stat().st_size > 10_000
    volumes = ["dataset=phantom_3d", "dataset.cells=3", "label.dataset=volumes"]
    assert main(["inspect", *volumes]) == 0
    assert Path("results/figures/dataset-volumes.png").exists()
    assert main(["inspect", *volumes, "figures=none", "results=elsewhere"]) == 0
    assert not Path("elsewhere").exists()


def test_inspect_says_what_was_skipped_and_that_masks_were_made(capsys):
    pytest.importorskip("skimage", reason="masks=otsu needs pip install 'attrscore[otsu]'")
    image = np.random.default_rng(0).integers(0, 50, (48, 48)).astype(np.uint16)
    image[10:20, 10:20] = image[30:40, 25:36] = 900
    for name in ("a", "b"):
        tifffile.imwrite(f"{name}.tif", image if name == "a" else image * 0)
    cells = ["dataset=fields", "dataset.images='*.tif'", "dataset.masks=otsu", "dataset.axes=YX",
             "dataset.crop=[16,16]"]  # fmt: skip
    assert main(["inspect", *cells]) == 3
    told = capsys.readouterr()
    assert "made, not given" in told.out
    assert "2 in 1 images" in told.out
    assert "skipped: b.tif: 'b.tif' is the same everywhere" in told.err
    assert main([*cells, "layers=features.3", "model.classes=2", "figures=none"]) == 3
    assert "masks: made, not given" in capsys.readouterr().err
    job = json.loads(next(Path("results/jobs").glob("*/job.json")).read_text(encoding="utf-8"))
    assert job["provenance"]["data"]["masks"].startswith("made, not given")


def test_plugins_are_listed_and_described(capsys):
    assert main(["plugins"]) == 0
    assert "energy_pointing_game" in capsys.readouterr().out
    assert main(["plugins", "integrated_gradients"]) == 0
    assert "steps = 50" in capsys.readouterr().out


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
        (["colect", "x"], "There is no command 'colect'. Did you mean 'collect'"),
        (["collect", "nowhere"], "nowhere"),
        (["plugins", "grad_cm"], "Did you mean 'grad_cam'"),
        (["model.weights=absent.safetensors"], "absent.safetensors"),
        (["device=cuda:7"], "device=cuda:7"),
        (["method=[]"], "No method is chosen"),
        (["show=[phantom-0-0000]"], "is no cell of this dataset. Did you mean 'phantom-0-0"),
        (
            ["target=index", "target.index=9"],
            "asks for the outputs 9; this model has 2: expected numbers from 0 to 1",
        ),
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
    folder = tmp_path / "s3cr3t-t0ken"
    folder.mkdir()
    cell = torch.zeros(4, 16, 16, dtype=torch.bool)
    cell[:, 4:12, 4:12] = True
    write_hdf5(folder / "a.h5", [attrscore.Batch(torch.rand(4, 2, 16, 16), regions={"cell": cell})])
    data = ["dataset=hdf5", "dataset.path=${oc.env:LAB_TOKEN}/a.h5", "model.classes=2"]
    secret = "train.output=${oc.env:LAB_TOKEN}/w"
    assert main([*data, secret, "figures=none", "results=out"]) == 0
    files = [path for path in Path("out").rglob("*") if path.is_file()]
    assert any(path.suffix == ".h5" for path in files)
    assert main(["collect", "out", "-o", "out/all.h5", "--figures", "none"]) == 0
    assert main(["collect", "out", "-o", "out/all.parquet", "--figures", "none"]) == 0
    (part,) = Path("out").glob("jobs/*/*.h5")
    assert main(["reproduce", str(part)]) == 0
    files = [path for path in Path("out").rglob("*") if path.is_file()]
    assert not [path for path in files if b"s3cr3t-t0ken" in path.read_bytes()]
    monkeypatch.delenv("LAB_TOKEN")
    assert main(["reproduce", str(part)]) == 1


LEAKY = """
import torch
from dataclasses import dataclass
from attrscore.core.contracts import InputSpec
from attrscore.models.tiny import TinyCNN
def make(token):
    return TinyCNN()(InputSpec(3, (32, 32), 2))
@dataclass(frozen=True)
class Login:
    token: str
    def __call__(self, heat, run, /):
        raise ValueError(f"cannot log in with {self.token}")
"""


def test_secrets_that_plugins_take_and_tell_stay_out_of_files(monkeypatch, tmp_path, capsys):
    (tmp_path / "leaky.py").write_text(LEAKY)
    monkeypatch.syspath_prepend(str(tmp_path))
    token = "token='Bearer ${oc.env:LAB_TOKEN}'"
    command = [*SMALL, "trust=[leaky]", "model=factory", "model.target=leaky.make", "results=out"]
    command += ["+scorer.login._target_=leaky.Login", f"+scorer.login.{token}"]
    command += [f"+model.options.{token}"]
    for secret in ("s3cr3t-t0ken", "an0ther-t0ken"):
        monkeypatch.setenv("LAB_TOKEN", secret)
        assert main(command) == 3
        assert secret not in capsys.readouterr().err
        files = [path for path in Path("out").rglob("*") if path.is_file()]
        assert not [path for path in files if secret.encode() in path.read_bytes()]
    scores = attrscore.read_scores("out")
    assert (
        scores["reason"].str.contains("log in with Bearer ${oc.env:LAB_TOKEN}", regex=False).all()
    )
    assert len(list(Path("out/jobs").iterdir())) == 2  # the value still names what it made


def test_what_cannot_be_explained_becomes_rows_and_the_rest_still_runs(capsys):
    settings = [
        "model=monai_efficientnet",
        "dataset.cells=6",
        "method=[grad_cam,guided_grad_cam]",
        "layers=[_conv_head,_fc]",
        "figures=none",
    ]
    assert main(settings) == 3
    told = capsys.readouterr().err
    assert "refused: guided_grad_cam at _conv_head" in told
    scores = attrscore.read_scores("results").groupby(["method", "layer"], observed=True)
    status, reason = scores["status"].unique(), scores["reason"].first()
    assert list(status["guided_grad_cam", "_conv_head"]) == ["unsupported"]
    assert "Silu" in reason["guided_grad_cam", "_conv_head"]
    assert list(status["grad_cam", "_fc"]) == ["unsupported"]
    assert "puts out a tensor" in reason["grad_cam", "_fc"]
    assert "unsupported" not in status["grad_cam", "_conv_head"]

    assert main(["inspect", *settings]) == 3
    table = capsys.readouterr().out
    assert "Guided methods need" in table
    assert "yes" in table


def test_a_job_of_random_weights_trains_the_same_network_that_others_take():
    train = ["train.when=missing", "train.epochs=1", "train.held_out=0.5"]
    for name, randomize in (("plain", "none"), ("random", "all")):
        options = [f"model.weights={name}.safetensors", f"model.randomize={randomize}"]
        assert main([*SMALL, *train, *options, f"results={name}"]) == 0
    assert Path("plain.safetensors").read_bytes() == Path("random.safetensors").read_bytes()


def test_a_network_is_trained_first_where_its_weights_are_missing(capsys):
    cells = ["dataset.cells=48", "dataset.size=[32,32]", "figures=none", "train.epochs=1"]
    settings = [*cells, "model.weights=made/w.safetensors", "train.dataset={seed: 5, cells: 64}"]
    assert main([*settings, "train.when=missing"]) == 0
    assert "is not there: training first." in capsys.readouterr().err
    weights = Path("made/w.safetensors")
    written = weights.stat().st_mtime_ns
    assert main([*settings, "train.when=missing"]) == 0
    assert "nothing was computed" in capsys.readouterr().out
    assert weights.stat().st_mtime_ns == written

    assert main(["train", *cells, "dataset.seed=5", "dataset.cells=64"]) == 0
    assert Path("weights.safetensors").read_bytes() == weights.read_bytes()

    assert main([*cells, "train.when=missing"]) == 2
    assert "needs model.weights" in capsys.readouterr().err


def test_a_null_is_added_to_the_scores_and_joined_with_those_that_are_there():
    assert main(SMALL) == 0
    nulls = "null=circular_shift,mask_swap,[random_map,mask_swap]"
    assert main(["-m", *SMALL, "pool=6", nulls]) == 0
    scores = attrscore.read_scores("results")
    assert len(scores) == 12
    assert headline(scores) == "grad_camo"  # the others come first in the alphabet
    for null in ("circular_shift", "mask_swap", "random_map"):
        assert scores[null].between(0, 1).any()
        assert {f"{null}.{each}" for each in ("mean", "sd", "z")} <= set(scores)
    assert main([*SMALL, "pool=5", "null=mask_swap"]) == 0
    scores = attrscore.read_scores("results")
    assert sorted(scores["scorer.mask_swap.pool"].unique()) == [5, 6]


def test_a_scorer_that_cannot_work_at_a_layer_is_told_once_and_costs_nothing(capsys):
    both = [*SMALL, "method=[grad_cam,saliency]"]
    assert main([*both, "scorer=[grad_camo,channel_shares]"]) == 0
    err = capsys.readouterr().err
    assert err.count("channel_shares cannot work here: a map of every input channel") == 1
    assert "undefined for single cells: grad_camo: no neighbours in the crop (" in err
    scores = attrscore.read_scores("results")
    assert set(scores["status"]) == {"ok"}
    stains = ["channel_shares.DNA", "channel_shares.ER", "channel_shares.AGP"]
    at_input = scores["layer"] == "input"
    np.testing.assert_allclose(scores.loc[at_input, stains].sum(axis=1), 1)
    assert scores.loc[~at_input, stains].isna().all(axis=None)
    for scorer in ("grad_camo", "channel_shares"):  # one after the other, the same table
        assert main([*both, f"scorer={scorer}", "results=joined"]) == 0
    joined = attrscore.read_scores("joined")
    for column in ("status", "grad_camo", *stains):
        pd.testing.assert_series_equal(joined[column], scores[column])
    sentences = [
        table["reason"].map(lambda text: set(text.split(" | "))) for table in (scores, joined)
    ]
    pd.testing.assert_series_equal(*sentences)


@pytest.mark.parametrize("width", [60, 100, 200])
def test_the_summary_fits_the_terminal(width):
    assert main([*SMALL, "scorer=[entropy,grad_camo,iou,region_shares,sparsity]"]) == 0
    console = Console(width=width, record=True)
    console.print(summary(attrscore.read_scores("results"), width=width))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    assert ("sparsity" in text) == (width == 200)
    assert ("more columns: attrscore collect" in text) == (width < 200)


def test_shards_resumes_and_batches_swap_with_the_same_donors():
    options = [*SMALL[:2], "figures=none", "scorer=swap", "pool=6", "scorer.swap.count=2"]
    assert main([*options, "batch_size=12"]) == 0
    assert main([*options, "batch_size=5", "results=others"]) == 0
    one, two = (attrscore.read_scores(folder) for folder in ("results", "others"))
    np.testing.assert_allclose(one["swap"], two["swap"], atol=1e-6)
    assert one["swap"].notna().any()


def test_randomised_networks_are_a_sweep_that_results_tell_apart(capsys):
    sweep = ["model.randomize=none,last,all", "label.model=honest", "model.draws=2"]
    assert main(["-m", *SMALL, *sweep]) == 0
    assert main([*SMALL, "model.randomize=cascade", "model.randomize_to=2", *sweep[1:]]) == 0
    scores = attrscore.read_scores("results")
    assert set(scores["model"]) == {"honest"}
    means = scores.groupby("model.randomize")["explained"].mean()
    assert set(means.index) == {"none", "last", "cascade", "all"}
    assert means.nunique() == 4
    draws = scores.groupby("model.randomize")["seed"].nunique()
    assert draws.to_dict() == {"none": 1, "last": 2, "cascade": 2, "all": 2}
    capsys.readouterr()
    assert main(["collect", "results"]) == 0
    table = capsys.readouterr().out
    assert all(word in table for word in ("model.randomize", "cascade", "last", "all", "none"))
    assert main([*SMALL, "model.randomize=cascade"]) == 2
    assert "a cascade needs randomize_to" in capsys.readouterr().err


def test_the_folder_of_a_sweep_is_its_owners_alone():
    assert main(["-m", *SMALL, "dataset.cells=2", "layers=features.3,features.6"]) == 0
    (folder,) = Path("results/hydra").glob("*/*")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_reproduce_runs_a_job_again_and_says_what_moved(capsys, tmp_path):
    assert main(["train", *SMALL[:3], "train.epochs=1", "train.output=w.safetensors"]) == 0
    args = ["model.weights=w.safetensors", "method=[grad_cam,saliency]", "keep=native"]
    assert main([*SMALL, *args, "batch_size=7"]) == 0
    (folder,) = Path("results/jobs").iterdir()
    (part,) = folder.glob("*.h5")
    before = part.read_bytes()
    for path in (folder, part):
        capsys.readouterr()
        assert main(["reproduce", str(path)]) == 0
        assert "Identical: 24 rows" in capsys.readouterr().out
    assert part.read_bytes() == before
    assert main([*SMALL, *args[:1], "method=grad_cam", "heat.sign=absolute"]) == 0
    assert main(["collect", "results", "--figures", "none"]) == 0
    capsys.readouterr()
    assert main(["reproduce", "results"]) == 0
    assert capsys.readouterr().out.count("Identical: ") == 2
    assert main(["reproduce", "results/results.h5"]) == 1
    assert "holds no part of a job" in capsys.readouterr().err
    with h5py.File(part, "r+") as file:
        file["scores/grad_camo"][3] += 0.25
    assert main(["reproduce", str(folder)]) == 3
    assert "grad_camo: by 0.25 at most" in capsys.readouterr().out
    weights = Path("w.safetensors").rename("elsewhere.safetensors")
    assert main(["reproduce", str(folder)]) == 1
    assert "cannot be run again here" in capsys.readouterr().out
    assert main(["train", *SMALL[:3], "train.epochs=2", "train.output=w.safetensors"]) == 0
    assert main(["reproduce", str(folder)]) == 1
    assert "model.fingerprint" in capsys.readouterr().out
    assert weights != Path("w.safetensors")


@pytest.mark.parametrize(
    ("command", "patched", "said"),
    [
        (["train"], "attrscore.jobs.fitting.train", "interrupted. Nothing was written: weights"),
        (["inspect"], "attrscore.jobs.assembly.dataset_of", "interrupted.\n"),
        ([], "attrscore.jobs.run.build", "interrupted. Parts that were written are kept"),
    ],
)
def test_interrupted_says_what_is_true_of_the_command(command, patched, said, monkeypatch, capsys):
    def stopped(*_given, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(patched, stopped)
    assert main([*command, *SMALL]) == 130
    err = capsys.readouterr().err
    assert said in err
    assert ("kept" in err) == (command == [])


def test_interrupted_means_done_is_kept(monkeypatch, capsys):
    real = attrscore.store.Writer.write
    monkeypatch.setattr(attrscore.jobs.assembly, "PART_ROWS", 4)

    def stop_at_the_second(self, start, *rest, **options):
        if start:
            raise KeyboardInterrupt
        return real(self, start, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(attrscore.store.Writer, "write", stop_at_the_second)
        assert main(SMALL) == 130
    assert "the same command goes on from there" in (err := capsys.readouterr().err)
    assert "4 of 12 cells of this job are kept in results" in err
    assert main(["status", "results"]) == 3
    out = capsys.readouterr().out
    assert "interrupted: KeyboardInterrupt" in out
    assert "1 of 3 parts" in out
    assert main(SMALL) == 0
    assert main(["status", "results"]) == 0
    assert len(attrscore.read_scores("results")) == 12


@pytest.mark.parametrize("calls", [0, 6], ids=["at once", "later"])
@pytest.mark.parametrize("raised", ["BrokenPipeError", "ZeroDivisionError", "KeyError"])
@pytest.mark.parametrize("verb", [[], ["inspect"]], ids=["run", "inspect"])
def test_a_model_that_raises_is_a_sentence(verb, raised, calls, tmp_path, monkeypatch, capsys):
    module = f"raising_{raised.lower()}_{calls}_{len(verb)}"
    (tmp_path / f"{module}.py").write_text(
        f"""
from torch import nn

class Raising(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.calls = nn.Conv2d(3, 2, 3), 0

    def forward(self, x):
        self.calls += 1
        if self.calls > {calls}:
            raise {raised}("by its own code")
        return self.conv(x).mean((2, 3))

def make():
    return Raising()
""",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    of_it = ["model=factory", f"model.target={module}.make", "layers=conv", "dataset.cells=4"]
    code = main([*verb, *of_it])
    err = " ".join(capsys.readouterr().err.split())
    assert "Traceback" not in err
    if not (verb and calls):  # fewer calls than that
        assert code == 1
        assert f"Raising fails on a few cells of this dataset: {raised}: " in err
        assert f"{module}.py, line 12" in err
