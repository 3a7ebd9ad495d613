"""From real fields to scores, and back into a lab's tables and images: the same cells and numbers.

The images lie beside the checkout in ../shared/data and are no part of it; see test_microscopy.py.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from microscopy import DATA, needs_images

import attrscore
from attrscore.cli.main import main
from attrscore.core.heat import Heat

pytestmark = [
    needs_images,
    pytest.mark.filterwarnings("ignore:.*future.infer_string"),  # anndata's, of pandas 3
]

KEY = "Metadata_image"
CASES = {
    "dsb2018_nuclei": {
        "images": "images/*_0[0-4]*.tif",
        "masks": "labels/*_0[0-4]*.tif",
        "axes": "YX",
        "crop": "[32,32]",
        "label_column": "kind",
        "limit": "120",
    },
    "cp_nf1": {
        "images": "images/*.tif",
        "masks": "cells/*.tif",
        "nuclei": "nuclei/*.tif",
        "axes": "CYX",
        "crop": "[96,96]",
        "image_key": "field",
        "label_column": "genotype",
        "stains": "[DNA,ER,actin]",
    },
    "bbbc050_embryos": {
        "images": "images/Emb0[12]*.tif",
        "masks": "labels/Emb0[12]*.tif",
        "axes": "ZYX",
        "crop": "[8,32,32]",
        "image_key": "volume",
        "label_column": "age",
        "spacing": "[1.75,0.8,0.8]",
    },
}


@pytest.mark.parametrize("name", CASES)
def test_fields_to_scores_and_back(name, tmp_path, monkeypatch, capsys):
    anndata = pytest.importorskip("anndata", reason="anndata, an extra, is not installed")
    monkeypatch.chdir(tmp_path)
    options, folder = dict(CASES[name]), DATA / name
    options |= {
        key: f"'{folder}/{options[key]}'" for key in ("images", "masks", "nuclei") if key in options
    }
    dataset = [f"dataset.{key}={value}" for key, value in options.items()]
    dataset = ["dataset=fields", *dataset, f"dataset.labels={folder}/labels.csv"]
    fit = ["train.epochs=2", "train.split_by=null", "train.output=w.safetensors"]
    assert main(["train", *dataset, *fit]) == 0
    audit = ["model.weights=w.safetensors", "method=[grad_cam,saliency]", "figures=none"]
    layers = "layers=[features.3,features.7]"
    assert main([*dataset, *audit, layers, "keep=native"]) in (0, 3)
    scores = attrscore.read_scores("results")

    profiles = pd.read_csv(folder / "labels.csv")
    image, label = options.get("image_key", "image"), options["label_column"]
    profiles = profiles.rename(columns={"area": "Cells_AreaShape_Area"})
    profiles.to_parquet("profiles.parquet")
    on = f"{KEY}={image},Metadata_object=label"
    onto = ["--profiles", "profiles.parquet", "--on", on]
    for to, more in (("csv", []), ("anndata", []), ("tiff", ["--overlap", "cells"])):
        assert main(["export", "results", "--to", to, *more]) == 0
    joined_at = ["-o", "joined.parquet"]
    assert main(["export", "results", "--to", "parquet", *onto, *joined_at]) == 0
    assert f"{scores['id'].nunique()} rows of" in " ".join(capsys.readouterr().err.split())

    # the same cells, the same numbers
    table = pd.read_csv("results/export/scores.csv").set_index("Metadata_attrscore_id")
    annotated = anndata.read_h5ad("results/export/scores.h5ad").to_df()
    assert list(table.index) == list(annotated.index) == list(scores["id"].unique())
    for (method, layer), rows in scores.groupby(["method", "layer"]):
        column = f"Metadata_attrscore_{method}_{layer}_grad_camo"
        expected = rows.set_index("id")["grad_camo"].reindex(table.index)
        np.testing.assert_array_equal(table[column], expected)
        np.testing.assert_array_equal(annotated[f"{method}_{layer}_grad_camo"], expected)
    joined = pd.read_parquet("joined.parquet").dropna(subset="Metadata_attrscore_id")
    assert set(joined["Metadata_attrscore_id"]) == set(table.index)
    rows = table.loc[joined["Metadata_attrscore_id"]]
    assert (rows[KEY].to_numpy() == joined[image].to_numpy()).all()
    classes = sorted(profiles[label].dropna().unique())
    known = [classes[int(number)] for number in rows["Metadata_attrscore_label"]]
    assert known == joined[label].tolist()

    # what lies on a cell in its field, over all of its map, is its score
    for channel, (method, layer) in enumerate(
        [("grad_cam", "features.3"), ("grad_cam", "features.7"), ("saliency", "input")]
    ):
        ids, maps = attrscore.read_maps("results", method, layer)
        size = [int(each) for each in options["crop"].strip("[]").split(",")]
        whole = dict(zip(ids, Heat(torch.from_numpy(maps), tuple(size)).mass(), strict=True))
        found = []
        for field, cells in table.groupby(KEY):
            heat = tifffile.imread(f"results/export/tiff/{field}_attrscore.ome.tif")[channel]
            labels = tifffile.imread(
                options["masks"].strip("'").rpartition("/")[0] + f"/{field}.tif"
            )
            heat = heat.reshape(labels.shape)
            mass = np.bincount(labels.ravel(), weights=heat.ravel())
            numbers = cells["Metadata_object"].items()
            found += [(i, mass[n] / float(whole[i])) for i, n in numbers if whole[i] > 0]
        told = table[f"Metadata_attrscore_{method}_{layer}_grad_camo"]
        found = pd.Series(dict(found)).reindex(told.index)
        defined = told.notna()
        assert defined.sum() > 0.5 * len(told)
        np.testing.assert_allclose(found[defined], told[defined], atol=2e-3)
