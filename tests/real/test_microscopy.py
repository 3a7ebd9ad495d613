"""Real microscopy, from TIFF files to scores, through the command line.

The images lie beside the checkout in ../shared/data and are no part of it: nuclei of the 2018 Data
Science Bowl (BBBC038, CC0; Caicedo et al., Nature Methods 2019), mouse embryos (BBBC050, CC BY 3.0;
Tokuoka et al., npj Systems Biology and Applications 2020) and NF1 Cell Painting (CC BY 4.0;
Tomkinson et al., figshare 2023). What the networks look at is reported, not asserted: no known
answer exists.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import attrscore
from attrscore.cli import main

DATA = Path(__file__).parents[3] / "shared" / "data"

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"the microscopy of {DATA.name} is not beside this checkout"
)

AUDIT = ["target.scalar=margin", "layers=[features.3,features.7]", "method=[grad_cam,hires_cam]"]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def fields(name: str, pattern: str, **options: str) -> list[str]:
    folder = DATA / name
    settings = {
        "images": f"'{folder}/images/{pattern}'",
        "masks": f"'{folder}/labels/{pattern}'",
        "labels": f"{folder}/labels.csv",
        **options,
    }
    return ["dataset=fields", *(f"dataset.{key}={value}" for key, value in settings.items())]


def audit(capsys, training: list[str], held_out: list[str], *, split_by: str, epochs: int):
    """Train on some files, score the network on others; accuracy and scores."""
    fit = [f"train.split_by={split_by}", f"train.epochs={epochs}", "train.output=w.safetensors"]
    assert main(["train", *training, *fit]) == 0
    accuracy = re.search(r"balanced (\d\.\d+)", capsys.readouterr().out)
    assert main([*held_out, *AUDIT, "model.weights=w.safetensors"]) == 0
    scores = attrscore.read_scores("results")
    with capsys.disabled():
        means = scores.groupby(["method", "layer"], sort=False)[
            ["grad_camo", "grad_camo.chance", "grad_camo.above_chance"]
        ].mean()
        print(
            f"\nheld-out balanced accuracy {accuracy[1]}, {scores['id'].nunique()} cells\n{means}"
        )
    return float(accuracy[1]), scores


def check(scores) -> None:
    assert set(scores["status"]) <= {"ok", "no_positive_mass", "unresolvable"}
    ok = scores[scores["status"] == "ok"]
    assert len(ok) > 0.8 * len(scores)
    assert (ok["grad_camo"] >= ok["grad_camo.lowest"] - 1e-9).all()
    assert (ok["grad_camo"] <= ok["grad_camo.highest"] + 1e-9).all()
    assert (ok[["grad_camo.cell", "grad_camo.neighbours", "grad_camo.background"]] >= -1e-9).all(
        axis=None
    )
    assert len(list(Path("results/figures").glob("*.png"))) == 2


def test_nuclei_2d_split_by_image(capsys):
    options = {"axes": "YX", "crop": "[48,48]", "label_column": "kind"}
    accuracy, scores = audit(
        capsys,
        fields("dsb2018_nuclei", "*_[0-3]*.tif", **options),
        fields("dsb2018_nuclei", "*_[45]*.tif", **options),
        split_by="Metadata_image",
        epochs=4,
    )
    assert accuracy > 0.6  # of three kinds; chance is a third
    assert len(scores) == 4 * scores["id"].nunique() > 1000
    check(scores)


def test_embryos_3d_split_by_embryo(capsys):
    options = {
        "axes": "ZYX",
        "crop": "[8,32,32]",
        "label_column": "age",
        "image_key": "volume",
        "carry": "[embryo,stage]",
        "spacing": "[1.75,0.8,0.8]",
    }
    accuracy, scores = audit(
        capsys,
        fields("bbbc050_embryos", "Emb0[127]*.tif", **options),
        fields("bbbc050_embryos", "Emb04*.tif", **options),
        split_by="Metadata_embryo",
        epochs=6,
    )
    assert accuracy > 0.6  # of two ages; chance is a half
    assert set(scores["Metadata_embryo"]) == {"Emb04"}
    check(scores)


def test_cell_painting_with_nuclei_and_cells(capsys):
    """Two carriers of one number, a nucleus and its cell; three stains; untrained network."""
    folder = DATA / "cp_nf1"
    args = fields(
        "cp_nf1",
        "*.tif",
        masks=f"'{folder}/cells/*.tif'",
        nuclei=f"'{folder}/nuclei/*.tif'",
        axes="CYX",
        crop="[256,256]",
        image_key="field",
        label_column="genotype",
    )
    assert main([*args, "layers=features.3", "dataset.limit=12", "batch_size=4"]) == 0
    scores = attrscore.read_scores("results")
    assert len(scores) == 12
    check(scores)
