"""Depths, layouts, precision, embeddings and groups of cells, from the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import attrscore
from attrscore.cli.main import main
from attrscore.errors import StoreError

SMALL = ["dataset.cells=12", "dataset.size=[32,32]", "batch_size=5", "figures=none"]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_relative_depths_as_a_list_and_as_a_sweep():
    assert main([*SMALL, "depth=[0.25,0.5,1.0]"]) == 0
    scores = attrscore.read_scores("results")
    assert scores.groupby("layer")["depth"].first().to_dict() == {
        "features.2": pytest.approx(1 / 3),
        "features.5": pytest.approx(2 / 3),
        "features": 1.0,
    }
    assert main(["-m", *SMALL, "results=swept", "depth=0.25,0.5,1.0"]) == 0
    swept = attrscore.read_scores("swept")
    assert set(swept["layer"]) == set(scores["layer"])
    np.testing.assert_allclose(swept["grad_camo"], scores["grad_camo"])
    assert main([*SMALL, "depth=0.4", "results=one"]) == 0
    assert set(attrscore.read_scores("one")["layer"]) == {"features.2"}


def test_a_depth_in_the_list_of_layers():
    assert main([*SMALL, "layers=['depth=0.25',features.5]"]) == 0
    assert set(attrscore.read_scores("results")["layer"]) == {"features.2", "features.5"}
    assert main([*SMALL, "depth=2"]) == 2


def test_dimensions_of_an_embedding_in_one_job():
    sweep = [*SMALL, "target=embedding", "keep=native", "method=[grad_cam,saliency]"]
    assert main([*sweep, "target.index=[0,1]"]) == 0
    scores = attrscore.read_scores("results")
    assert set(scores["target"]) == {"embedding0", "embedding1"}
    assert len(scores) == 12 * 2 * 2
    assert not scores.duplicated(["id", "method", "layer", "target"]).any()
    for index in (0, 1):
        assert main([*sweep, f"target.index={index}", f"results=alone{index}"]) == 0
        alone = attrscore.read_scores(f"alone{index}")
        mine = scores[scores["target"] == f"embedding{index}"].reset_index(drop=True)
        np.testing.assert_allclose(mine["grad_camo"], alone["grad_camo"], atol=1e-5)
        np.testing.assert_allclose(mine["explained"], alone["explained"], atol=1e-5)
        layer = str(mine.loc[mine["method"] == "grad_cam", "layer"].iloc[0])
        ids, maps = attrscore.read_maps("results", "grad_cam", layer, target=f"embedding{index}")
        others, expected = attrscore.read_maps(f"alone{index}", "grad_cam", layer)
        assert ids == others
        np.testing.assert_allclose(maps, expected, atol=1e-3 * np.abs(expected).max())
    with pytest.raises(StoreError, match="kept for embedding0, embedding1; say target="):
        attrscore.read_maps("results", "grad_cam", layer)
    with pytest.raises(StoreError, match="of 'embedding7'"):
        attrscore.read_maps("results", "grad_cam", layer, target="embedding7")
    with pytest.raises(StoreError, match="of one target"):
        attrscore.read_maps("alone0", "grad_cam", layer, target="embedding0")
    assert main([*sweep, "target.index=0:2", "results=range"]) == 0
    ranged = attrscore.read_scores("range")
    np.testing.assert_allclose(ranged["grad_camo"], scores["grad_camo"], atol=1e-6)


def test_a_job_of_several_targets_is_resumed_and_drawn(capsys):
    arguments = [*SMALL[:3], "target=embedding", "target.index=[0,1]"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "embedding1" in out
    assert len(list(Path("results/figures").glob("*.png"))) == 2
    assert main(arguments) == 0
    assert "nothing was computed" in capsys.readouterr().out


def test_the_mean_of_a_group_of_cells_is_a_reference(capsys):
    wells = attrscore.DATASETS.build("phantom", cells=12, size=[32, 32]).table["Metadata_Well"]
    one, two = list(dict.fromkeys(wells))[:2]
    cosine = [*SMALL, "target=cosine", f"target.reference={{Metadata_Well: {one}}}"]
    assert main(cosine) == 0
    scores = attrscore.read_scores("results")
    assert set(scores["target"]) == {f"cosine:{one}"}
    mine = scores.loc[scores["Metadata_Well"] == one, "explained"]
    assert mine.mean() > 0.5
    assert main([*cosine, "readers=1"]) == 0
    assert "nothing was computed" in capsys.readouterr().out
    contrast = [f"target.first={{Metadata_Well: {one}}}", f"target.second={{Metadata_Well: {two}}}"]
    assert main([*SMALL, "target=contrast", *contrast, "results=contrast"]) == 0
    table = attrscore.read_scores("contrast")
    assert set(table["target"]) == {f"contrast:{one}:{two}"}
    means = table.groupby("Metadata_Well")["explained"].mean()
    assert means[one] > means[two]
    assert main([*SMALL, "target=cosine", "target.reference={Metadata_Wel: A01}"]) == 2
    assert "Did you mean 'Metadata_Well'" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["bfloat16", "autocast"])
def test_precision(precision):
    assert main(SMALL) == 0
    assert main([*SMALL, f"precision={precision}"]) == 0
    scores = attrscore.read_scores("results")
    assert set(scores["precision"].fillna("none")) == {"none", precision}
    plain, half = (
        group["grad_camo"].to_numpy()
        for _, group in scores.groupby("precision", dropna=False, sort=False)
    )
    assert np.nanmax(np.abs(plain - half)) < 0.05


def test_an_unknown_precision_and_layout(capsys):
    assert main([*SMALL, "precision=float8"]) == 2
    assert "precision='float8'" in capsys.readouterr().err
    assert main([*SMALL, "layout.axes=last"]) == 2
    assert "layout.axes='last'" in capsys.readouterr().err


UNFAIR = """
import torch
from torch import nn


class Drawing(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.features = nn.Conv2d(channels, 8, 3, padding=1)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        x = nn.functional.dropout(self.features(x).relu(), training=True)
        return self.head(x.mean((2, 3)))


def segmenter(channels, classes):
    return nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, classes, 1))
"""


def test_a_model_that_draws_at_random_has_no_scores_unless_that_is_accepted(monkeypatch, capsys):
    Path("unfair_nets.py").write_text(UNFAIR)
    monkeypatch.syspath_prepend(Path.cwd())
    job = [*SMALL[:3], "model=factory", "model.target=unfair_nets.Drawing", "layers=features"]
    assert main(job) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "refused: grad_cam at features: Drawing gives other scores" in said
    scores = attrscore.read_scores("results")
    assert set(scores["status"]) == {"unsupported"}
    assert scores["reason"].str.contains(r"accept=\[random\]").all()
    assert main([*job, "accept=[random]"]) == 0
    assert "caution: grad_cam at features: Drawing gives other scores" in " ".join(
        capsys.readouterr().err.split()
    )
    both = attrscore.read_scores("results")
    assert set(both["status"]) == {"unsupported", "ok"}  # another job, beside the first
    assert main([*job, "accept=[randm]"]) == 2
    assert "must be a list of random | batch | gradients" in capsys.readouterr().err


def test_a_dense_output_from_the_command_line(monkeypatch, capsys):
    Path("dense_nets.py").write_text(UNFAIR)
    monkeypatch.syspath_prepend(Path.cwd())
    job = [*SMALL, "model=factory", "model.target=dense_nets.segmenter", "layers=[0]"]
    assert main([*job]) == 1
    assert "target=region explains" in " ".join(capsys.readouterr().err.split())
    asked = ["target=region", "method=[hires_cam,saliency]", "scorer=[grad_camo,swap]"]
    assert main([*job, *asked, "keep=native", "pool=8"]) == 0
    scores = attrscore.read_scores("results")
    assert set(scores["target"]) == {"region:cell:predicted"}
    assert set(scores["status"]) == {"ok"}
    assert scores["swap.cell"].notna().all()
    assert main(["report", "results", "-o", "report"]) == 0
    assert Path("report/report.html").exists()
    ids, maps = attrscore.read_maps("results", "hires_cam", "0")
    assert (len(ids), maps.shape[2:]) == (12, (32, 32))
    assert main([*job, *asked, "target.of=nucleoli", "results=other"]) == 1
    assert "no region 'nucleoli'" in " ".join(capsys.readouterr().err.split())
