"""Part 7: real cells, where nobody knows the answer: masked against unmasked training crops.

Expected beforehand: a model trained on crops whose outside is black has nowhere else to look, so
its corrected score is higher than that of the same model trained on whole crops. Reported
whatever it is. In 3D it was not so, hence the silhouettes, added after the first run: crops that
show the outline of the cell and nothing else. What is read of them is read of the black.

Images: nuclei of the 2018 Data Science Bowl (BBBC038, CC0; Caicedo et al., Nature Methods 2019) and
mouse embryos (BBBC050, CC BY 3.0; Tokuoka et al., npj Systems Biology and Applications 2020), which
lie beside the checkout and are no part of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from common import HEADLINE, PRESET, Check, Scale
from torch import nn

import attrscore
from attrscore.core.contracts import Batch, Dataset
from attrscore.targets import Predicted
from attrscore.training import train

DATA = Path(__file__).parents[3] / "shared" / "data"

NUCLEI: dict[str, Any] = {
    "axes": "YX",
    "crop": [48, 48],
    "label_column": "kind",
}
EMBRYOS: dict[str, Any] = {
    "axes": "ZYX",
    "crop": [8, 32, 32],
    "label_column": "age",
    "image_key": "volume",
    "carry": ["embryo", "stage"],
    "spacing": [1.75, 0.8, 0.8],
}


@dataclass(frozen=True)
class Masked:
    """The same cells on black: what lies outside the mask is 0.

    ``flat`` leaves nothing inside either but each channel's mean over the cells of a batch.
    """

    cells: Dataset
    flat: bool = False

    def __post_init__(self) -> None:
        for name in ("table", "classes", "spec", "skipped", "left_out"):
            object.__setattr__(self, name, getattr(self.cells, name))

    def read(self, rows) -> Batch:
        """The crops, black outside of the cell."""
        batch = self.cells.read(rows)
        cell = batch.regions["cell"][:, None]
        inputs = batch.inputs * cell
        if self.flat:
            others = (0, *range(2, inputs.ndim))
            inputs = cell * inputs.sum(others, keepdim=True) / cell.sum()
        return replace(batch, inputs=inputs)


def run(scale: Scale, out: Path) -> list[Check]:
    """Nuclei in 2D, embryos in 3D."""
    if not DATA.is_dir():
        words = f"the microscopy of {DATA.name} is not beside this checkout"
        return [Check("real cells", "masked against unmasked training", "", words, None)]
    checks, tables = [], []
    sources = [
        ("nuclei 2D", fields_of("dsb2018_nuclei", "*_[0-3]*.tif", NUCLEI),
         fields_of("dsb2018_nuclei", "*_[45]*.tif", NUCLEI), "Metadata_image"),
        ("embryos 3D", fields_of("bbbc050_embryos", "Emb0[127]*.tif", EMBRYOS),
         fields_of("bbbc050_embryos", "Emb04*.tif", EMBRYOS), "Metadata_embryo"),
    ]  # fmt: skip
    for name, training, held_out, group in sources[: len(scale.planes)]:
        for seed in scale.seeds:
            for kind in ("whole", "masked"):
                cells = training if kind == "whole" else Masked(training)
                model = attrscore.MODELS.build("tiny_cnn", seed=seed)(cells.spec)
                epochs = max(1, scale.epochs // 2)
                trained = train(model, cells, epochs=epochs, split_by=group, seed=seed)
                for audited, others in {
                    "whole": held_out,
                    "masked": Masked(held_out),
                    "silhouette": Masked(held_out, flat=True),
                }.items():
                    about = {"cells": name, "seed": seed, "training": kind, "audited": audited}
                    known = {"accuracy": trained.balanced_accuracy}
                    tables.append(about | known | _audit(model, others))
    table = pd.DataFrame(tables)
    table.to_csv(out / "real.csv", index=False)
    for name, part in table.groupby("cells", sort=False):
        own = part[part["training"] == part["audited"]]
        checks.append(_check(own, f"{name}: trained and audited on masked against whole crops"))
        same = part[part["audited"] == "whole"]
        checks.append(_check(same, f"{name}: trained on masked or whole, audited on whole crops"))
        right = part[part["training"] == "masked"].groupby("audited")["right"].mean()
        checks.append(
            Check(
                "real cells",
                f"{name}: what a model trained on masked crops knows of other cells, as the "
                f"mean recall over classes",
                "reported",
                ", ".join(f"{each:.2f} on {audited} crops" for audited, each in right.items()),
                None,
            )
        )
    return checks


def _check(part: pd.DataFrame, claim: str) -> Check:
    means = part.groupby("training")[["accuracy", "above", "score"]].mean()
    listed = "; ".join(
        f"{kind}: log odds {row['score']:+.2f}, S {row['above']:+.3f} above chance, "
        f"held-out accuracy {row['accuracy']:.2f}"
        for kind, row in means.iterrows()
    )
    scores = part.pivot_table(index="seed", columns="training", values="score")
    higher = int((scores["masked"] > scores["whole"]).sum())
    return Check(
        "real cells",
        claim,
        "masked higher (expected, not promised)",
        f"{listed}: higher in {higher} of {len(scores)} seeds",
        None,
    )


def fields_of(name: str, pattern: str, options: dict[str, Any]) -> Dataset:
    """The objects of those files of a collection beside the checkout."""
    folder = DATA / name
    return attrscore.DATASETS.build(
        "fields",
        images=str(folder / "images" / pattern),
        masks=str(folder / "labels" / pattern),
        labels=str(folder / "labels.csv"),
        **options,
    )


def _audit(model: nn.Module, held_out: Dataset) -> dict[str, float]:
    method, layer = PRESET
    scores = attrscore.evaluate(
        model,
        held_out,
        methods=method,
        layers=layer,
        target=Predicted(scalar="margin"),
        progress="none",
    )
    return {
        "defined": float(scores["grad_camo"].notna().mean()),
        "above": float((scores["grad_camo"] - scores["grad_camo.chance"]).mean()),
        "score": float(scores[HEADLINE].mean()),
        "right": float(
            (scores["predicted"] == scores["label"]).groupby(scores["label"]).mean().mean()
        ),
    }
