"""Real microscopy, from TIFF files to scores, through the command line.

The images lie beside the checkout in ../shared/data and are no part of it: nuclei of the 2018 Data
Science Bowl (BBBC038, CC0; Caicedo et al., Nature Methods 2019), mouse embryos (BBBC050, CC BY 3.0;
Tokuoka et al., npj Systems Biology and Applications 2020) and NF1 Cell Painting (CC BY 4.0;
Tomkinson et al., figshare 2023). What the networks look at is reported, not asserted: no known
answer exists.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from microscopy import DATA, fields, needs_images

import attrscore
from attrscore.cli.main import main
from attrscore.datasets import Fields

pytestmark = needs_images

AUDIT = ["target.scalar=margin", "layers=[features.3,features.7]", "method=[grad_cam,hires_cam]"]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


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


# Fields become cells: what holds on real images, whatever they show


def dataset(name: str, pattern: str = "*.tif", masks: str = "labels", **options) -> Fields:
    folder = DATA / name
    return Fields(
        images=f"{folder}/images/{pattern}",
        masks=f"{folder}/{masks}/{pattern}",
        labels=f"{folder}/labels.csv",
        **options,
    )


def test_regions_of_cell_painting():
    """Nuclei in their cells; a ring of 2 micrometres; the pixel size is made up: it is not told."""
    cells = dataset(
        "cp_nf1", masks="cells", nuclei=f"{DATA}/cp_nf1/nuclei/*.tif", axes="CYX", crop=[256, 256],
        image_key="field", label_column="genotype", spacing=[0.5, 0.5], boundary=2.0,
        where="nucleus_area > 0 and not cut",
    )  # fmt: skip
    batch = cells.read(range(len(cells.table)))
    assert len(batch) > 20
    area = {name: region.flatten(1).sum(1) for name, region in batch.regions.items()}
    table = cells.table
    assert area["cell"].tolist() == table["Metadata_area"].tolist()  # uncut, so all of it is there
    assert area["nucleus"].tolist() == table["Metadata_nucleus_area"].tolist()
    assert torch.equal(area["nucleus"] + area["cytoplasm"], area["cell"])
    ring, cell = batch.regions["boundary"], batch.regions["cell"]
    for name in ("nucleus", "cytoplasm", "neighbours"):
        assert (area[name] > 0).float().mean() > 0.9
    deep = (cell & ~ring).flatten(1).sum(1)
    assert ((ring & cell).flatten(1).sum(1) + deep == area["cell"]).all()
    # nuclei are DNA: brighter in the first channel than the rest of their cells
    means = [(batch.inputs[:, 0] * batch.regions[n]).flatten(1).sum(1) / area[n]
             for n in ("nucleus", "cytoplasm")]  # fmt: skip
    assert (means[0] > 2 * means[1]).float().mean() > 0.95


def test_masks_by_a_threshold_are_nearly_those_that_people_drew():
    pytest.importorskip("skimage", reason="masks=otsu needs pip install 'attrscore[otsu]'")
    pattern, options = "large_0*.tif", {"axes": "YX", "crop": [64, 64], "min_area": 50}
    drawn = dataset("dsb2018_nuclei", pattern, **options)
    made = Fields(images=f"{DATA}/dsb2018_nuclei/images/{pattern}", masks="otsu", **options)
    counts = [each.table.groupby("Metadata_image").size() for each in (drawn, made)]
    assert (counts[1] / counts[0]).between(0.5, 1.5).all()
    for field in drawn.table["Metadata_image"].unique():
        one, two = (each.field(field).labels > 0 for each in (drawn, made))
        assert (one & two).sum() / (one | two).sum() > 0.75


def test_embryos_in_micrometres_and_even_voxels():
    options = {
        "axes": "ZYX", "spacing": [1.75, 0.8, 0.8], "image_key": "volume", "carry": ["stage"],
        "crop": [42, 32, 32], "crop_unit": "micrometre",
    }  # fmt: skip
    plain = dataset(
        "bbbc050_embryos", "Emb01*.tif", **options, where="not cut and not touches_border"
    )
    even = dataset(
        "bbbc050_embryos",
        "Emb01*.tif",
        **options,
        resample="isotropic",
        where="not cut and not touches_border",
    )
    assert plain.spec.size == (24, 40, 40)
    assert even.spec.size == (52, 40, 40)
    same = sorted(set(plain.table["id"]) & set(even.table["id"]))
    assert len(same) > 20
    batches = [
        each.read([each.table["id"].tolist().index(name) for name in same])
        for each in (plain, even)
    ]
    volumes = [
        batch.regions["cell"].flatten(1).sum(1) * float(np.prod(batch.spacing)) for batch in batches
    ]
    assert volumes[1].numpy() == pytest.approx(volumes[0].numpy(), rel=0.05)
    brightness = [
        (b.inputs[:, 0] * b.regions["cell"]).flatten(1).sum(1) / b.regions["cell"].flatten(1).sum(1)
        for b in batches
    ]
    assert brightness[1].numpy() == pytest.approx(brightness[0].numpy(), rel=0.05)


def test_filters_say_what_the_makers_of_the_data_say():
    """Their own columns, computed by other code, against ours."""
    nuclei = dataset(
        "dsb2018_nuclei", "spotted_0*.tif", axes="YX", crop=[32, 32],
        label_column="kind", carry=["texture", "solidity"],
    )  # fmt: skip
    theirs = pd.read_csv(DATA / "dsb2018_nuclei" / "labels.csv")
    theirs = theirs[theirs["image"].isin(nuclei.table["Metadata_image"])]
    assert len(theirs) == len(nuclei.table)
    for ours, their in {
        "area > 200": theirs["area"] > 200,
        "touches_border": theirs["touches_border"] == 1,
        "solidity > 0.9 and not touches_border and kind == 'spotted'": (theirs["solidity"] > 0.9)
        & (theirs["touches_border"] == 0),
    }.items():
        kept = replace(nuclei, where=ours).table
        wanted = theirs[their]["image"] + ":" + theirs[their]["label"].astype(str)
        assert sorted(kept["id"]) == sorted(wanted)
