"""Real, publicly trained networks on real microscopy, as a user audits them.

A 3D U-Net that learnt to find platelets is asked about nuclei of mouse embryos (BBBC050, CC BY 3.0;
Tokuoka et al., npj Systems Biology and Applications 2020); a network of ImageNet learns kinds of
nuclei (BBBC038, CC0; Caicedo et al., Nature Methods 2019). See trained_nets.py and
test_microscopy.py. What they look at is reported; only what must hold whatever they look at, and
that they do their task, is asserted.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from microscopy import fields, needs_images
from skimage import data, transform
from trained_nets import (
    EfficientNetLite0,
    PlateletUNet,
    efficientnet_weights,
    platelet_weights,
)

import attrscore
from attrscore.cli.main import main
from attrscore.models.weights import load_weights


@needs_images
def test_a_segmenter_of_platelets_decides_a_nucleus_by_the_nucleus(tmp_path, monkeypatch, capsys):
    weights = platelet_weights()
    monkeypatch.chdir(tmp_path)
    nuclei = fields(
        "bbbc050_embryos",
        "Emb01_t251.tif",
        axes="ZYX",
        image_key="volume",
        spacing="[1.75,0.8,0.8]",
        resample="[1.75,1.6,1.6]",
        crop="[8,32,32]",
        where="'tiny == 0'",
        limit="3",
    )
    model = ["model=factory", "model.target=trained_nets.PlateletUNet", f"model.weights={weights}"]
    dense = ["target=region", "target.index=3"]
    assert main(["inspect", *nuclei, *model, *dense, "layers=c7_0", "method=hires_cam"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "output: N x 5 x 8 x 32 x 32: dense, 5 values at each position" in said
    asked = ["layers=[c0,c7_0]", "method=[hires_cam,saliency]", "pool=3", "figures=none"]
    scorers = ["scorer=[grad_camo,swap]", "scorer.swap.donors=any", "scorer.swap.count=1"]
    assert main([*nuclei, *model, *dense, *asked, *scorers]) == 0
    table = attrscore.read_scores("results")
    assert set(table["status"]) == {"ok"}
    assert set(table["target"]) == {"region:cell:3"}
    shown = table.groupby(["method", "layer"], sort=False)[
        ["explained", "grad_camo", "grad_camo.chance", "swap.cell", "swap.outside"]
    ].mean()
    with capsys.disabled():
        print(f"\nplatelets' U-Net on {table['id'].nunique()} nuclei\n{shown}")
    assert (table["explained"] > 0.3).all()  # it finds nuclei, of which it never saw one
    assert (table["grad_camo"] > 4 * table["grad_camo.chance"]).all()
    assert (shown["grad_camo"] > 0.4).all()


def test_the_weights_of_imagenet_know_a_cat():
    model = EfficientNetLite0()
    load_weights(model, efficientnet_weights())
    image = data.chelsea()[:, 75:375]
    crop = transform.resize(image, (224, 224), anti_aliasing=True)
    inputs = torch.from_numpy((crop * 255 - 127) / 128).float().permute(2, 0, 1)[None]
    with torch.no_grad():
        found = model.eval()(inputs).argmax()
    assert found in (281, 282, 285)  # tabby, tiger cat, Egyptian cat


@needs_images
def test_imagenet_learns_kinds_of_nuclei_and_is_audited(tmp_path, monkeypatch, capsys):
    efficientnet_weights()
    monkeypatch.chdir(tmp_path)
    options = {"axes": "YX", "crop": "[48,48]", "label_column": "kind"}
    model = [
        *("model=factory", "model.target=trained_nets.efficientnet"),
        *("model.mean=[0.498]", "model.std=[0.502]"),  # what it was trained on: -1 to 1
    ]
    fit = [
        *("train.split_by=null", "train.epochs=1", "train.learning_rate=0.001"),
        *("train.balance=true", "train.watched=0", "train.output=kind.safetensors"),
    ]
    learnt = fields("dsb2018_nuclei", "*_2*.tif", **options)
    assert main(["train", *learnt, *model, *fit]) == 0
    audited = fields("dsb2018_nuclei", "spotted_3*.tif", limit="24", **options)
    asked = ["layers=[_blocks.4,_conv_head]", "method=[grad_cam,hires_cam]", "figures=none"]
    assert main([*audited, *model, *asked, "model.weights=kind.safetensors"]) == 0
    table = attrscore.read_scores("results")
    assert set(table["status"]) <= {"ok", "no_positive_mass", "unresolvable"}
    assert len(table) == 4 * table["id"].nunique()
    blocks = table[(table["layer"] == "_blocks.4") & (table["status"] == "ok")]
    assert np.isfinite(blocks["grad_camo"]).all()
    assert (blocks["grad_camo"] <= blocks["grad_camo.highest"] + 1e-9).all()
    right = (table["predicted"] == table["label"]).groupby(table["id"]).first()
    shown: pd.DataFrame = table.groupby(["method", "layer"], sort=False)[
        ["grad_camo", "grad_camo.chance", "grad_camo.log_odds"]
    ].mean()
    with capsys.disabled():
        print(f"\nImageNet on {len(right)} nuclei, {right.mean():.0%} right\n{shown}")


def test_both_networks_have_every_layer_asked_of_them():
    """Their classes are ours: that they are whole shows without any weights."""
    assert len(PlateletUNet().state_dict()) == 134
    assert len(EfficientNetLite0().state_dict()) == 296
