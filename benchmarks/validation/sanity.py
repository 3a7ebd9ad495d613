"""Part 3: models that know nothing. Their scores must fall into the null band."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from common import HEADLINE, PRESET, SIZES, Check, Scale, permuted
from scipy import stats

import attrscore
from attrscore.core.contracts import Dataset
from attrscore.datasets import Phantom
from attrscore.models import randomized
from attrscore.targets import Predicted
from attrscore.training import train

RANDOM = 20
"""Draws of weights that make the band."""

BAND = 0.99
"""Of the interval in which one more draw is to be expected: with six models beside it, one at
95 % would lie outside by chance in every fourth validation."""


def run(scale: Scale, out: Path) -> list[Check]:
    """Honest, permuted and randomised models beside each other.

    Each draw of random weights is itself held against the others, without which one would not know
    that the band is one.
    """
    found = pd.concat(
        [_of(scale, plane, seed) for plane in scale.planes for seed in scale.seeds],
        ignore_index=True,
    )
    found.to_csv(out / "sanity.csv", index=False)
    checks = []
    for plane, group in found.groupby("plane"):
        for kind in ("permuted", "honest"):
            inside = _inside_band(group, kind)
            promised = "inside" if kind == "permuted" else "outside"
            words = "trained on permuted labels" if kind == "permuted" else "honest"
            checks.append(
                Check(
                    "sanity",
                    f"{plane}: a model {words}, beside {RANDOM} randomised ones",
                    f"{promised} the {BAND:.0%} band of randomised weights, every seed",
                    f"inside in {sum(inside)} of {len(inside)}",
                    all(inside) if kind == "permuted" else not any(inside),
                )
            )
        inside = _inside_band(group, "randomised")
        checks.append(
            Check(
                "sanity",
                f"{plane}: each draw of random weights, beside the others of its seed",
                f"inside the {BAND:.0%} band in 95 % of draws or more",
                f"inside in {sum(inside)} of {len(inside)}",
                bool(np.mean(inside) >= 0.95),
            )
        )
    return checks


def _inside_band(group: pd.DataFrame, kind: str) -> list[bool]:
    """Whether each model of a kind lies where one more draw of random weights would."""
    inside = []
    for _, seed in group.groupby("seed"):
        for place, value in seed.loc[seed["kind"] == kind, "score"].items():
            draws = seed.loc[seed["kind"] == "randomised", "score"].drop(place, errors="ignore")
            # Of a normal: the interval of a prediction, not of the mean.
            spread = draws.std() * np.sqrt(1 + 1 / len(draws))
            reach = stats.t.ppf(0.5 + BAND / 2, len(draws) - 1) * spread
            inside.append(bool(abs(value - draws.mean()) <= reach))
    return inside


def _of(scale: Scale, plane: str, seed: int) -> pd.DataFrame:
    size = tuple(map(int, SIZES[plane][1].strip("[]").split(",")))
    cells = Phantom(size=size, cells=scale.trained_on, seed=200 + seed)
    held_out = Phantom(size=size, cells=scale.cells, seed=300 + seed)
    make = attrscore.MODELS.build("tiny_cnn", seed=seed)
    rows = []
    for kind, data in (("honest", cells), ("permuted", permuted(cells, seed))):
        model = make(cells.spec)
        train(model, data, epochs=scale.epochs, seed=seed)
        rows.append([plane, seed, kind, _score(model, held_out)])
    mine = range(RANDOM * seed, RANDOM * (seed + 1))  # of each seed its own: a draw follows from it
    draws = (_score(randomized(model, "all", draw), held_out) for draw in mine)
    rows += [[plane, seed, "randomised", score] for score in draws]
    return pd.DataFrame(rows, columns=["plane", "seed", "kind", "score"])


def _score(model, cells: Dataset) -> float:
    method, layer = PRESET
    scores = attrscore.evaluate(
        model,
        cells,
        methods=method,
        layers=layer,
        target=Predicted(scalar="margin"),
        progress="none",
    )
    return float(scores[HEADLINE].mean())
