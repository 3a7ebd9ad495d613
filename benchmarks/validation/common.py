"""What the parts of the validation share: the preset, checks that can fail, and tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

import attrscore
from attrscore.cli.main import main
from attrscore.core.contracts import Batch, Dataset
from attrscore.errors import AttrscoreError

PRESET = ("hires_cam", "features.3")
"""The method and the layer that we recommend: HiResCAM halfway through the convolutions. Chosen on
seed 11, which no part of the validation uses."""

HEADLINE = "grad_camo.log_odds"
"""The corrected score of the preset, chosen likewise."""

CORRECTED = tuple(
    f"grad_camo.{name}"
    for name in ("above_chance", "log_odds", "resolved", "cell_vs_neighbours", "auc")
)


@dataclass(frozen=True)
class Scale:
    """How much is run: the whole validation, or a small one that shows it works."""

    seeds: Sequence[int] = (0, 1, 2)
    fresh: Sequence[int] = (10, 11, 12, 13, 14)
    """Of the part on size and place: what it promises was stated after the others were seen."""
    cells: int = 96
    trained_on: int = 384
    epochs: int = 8
    planes: Sequence[str] = ("2D", "3D")
    strengths: Sequence[float] = (0.5, 0.7, 0.9, 1.0)
    """How often a confounder agrees with the label, in mixtures."""
    only: Sequence[str] = ()
    """Further overrides of the sweep over carriers: fewer methods."""

    @property
    def settings(self) -> list[str]:
        """Of the sweeps."""
        return [
            f"dataset.cells={self.cells}",
            f"train.dataset.cells={self.trained_on}",
            f"train.epochs={self.epochs}",
            f"seed={','.join(map(str, self.seeds))}",
        ]


QUICK = Scale(
    seeds=(0,),
    fresh=(0,),
    cells=24,
    trained_on=192,
    epochs=6,
    planes=("2D",),
    strengths=(0.5, 1.0),
    only=(
        "method=[grad_cam,hires_cam]",
        "~method.integrated_gradients",
        "layers=[features.3,features.7]",
    ),
)

SIZES = {"2D": ("phantom", "[64,64]"), "3D": ("phantom_3d", "[8,32,32]")}


@dataclass(frozen=True)
class Check:
    """A claim, what was expected of it beforehand, and what came out."""

    part: str
    claim: str
    expected: str
    measured: str
    holds: bool | None
    """None: reported, nothing was promised."""


def sweep(results: Path, plane: str, *overrides: str) -> pd.DataFrame:
    """Run ``attrscore +experiment=validation`` in one plane and read its scores."""
    dataset, size = SIZES[plane]
    code = main(
        [
            "+experiment=validation",
            f"dataset={dataset}",
            f"dataset.size={size}",
            f"label.dataset={plane}-${{seed}}",
            f"results={results}",
            *overrides,
        ]
    )
    if code:
        raise AttrscoreError(f"the sweep {' '.join(overrides)} ended with the exit status {code}")
    scores = attrscore.read_scores(results)
    scores = scores[scores["dataset"].str.startswith(plane)]
    plane_seed = scores["dataset"].str.split("-", expand=True)
    return scores.assign(plane=plane_seed[0], seed=plane_seed[1].astype(int))


@dataclass(frozen=True, eq=False)
class Changed:
    """The same cells with other labels, or changed as they are read."""

    cells: Dataset
    labels: np.ndarray | None = None
    change: Callable[[Batch], Batch] = lambda batch: batch

    def __post_init__(self) -> None:
        table = self.cells.table
        if self.labels is not None:
            table = table.assign(label=self.labels)
        object.__setattr__(self, "table", table)
        for name in ("classes", "spec", "skipped", "left_out"):
            object.__setattr__(self, name, getattr(self.cells, name))

    def read(self, rows: Sequence[int]) -> Batch:
        """The crops, changed and labelled anew."""
        batch = self.change(self.cells.read(rows))
        labels = self.table["label"].to_numpy()[list(rows)]
        return replace(batch, label=batch.label.new_tensor(labels))


def permuted(cells: Dataset, seed: int) -> Changed:
    """The same cells with each other's labels."""
    labels = cells.table["label"].to_numpy()
    return Changed(cells, labels[np.random.default_rng(seed).permutation(len(labels))])


def kept(path: Path, rows: Callable[[], Iterator[pd.DataFrame]]) -> pd.DataFrame:
    """The table that ``rows`` make, written whole or not at all; read where it is there."""
    if path.is_file():
        return pd.read_parquet(path)
    table = pd.concat(list(rows()), ignore_index=True)
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    table.to_parquet(scratch)
    scratch.replace(path)
    return table


def at_preset(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of the recommended method and layer."""
    method, layer = PRESET
    return scores[(scores["method"] == method) & (scores["layer"] == layer)]
