"""Parts 4 and 5: cells of another size, at another place, and masks that are wrong."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from common import CORRECTED, HEADLINE, PRESET, SIZES, Check, Scale
from matplotlib.figure import Figure
from scipy import ndimage
from torch import Tensor, nn

import attrscore
from attrscore import stats
from attrscore.core.contracts import Batch
from attrscore.datasets import Phantom
from attrscore.engine.run import batches_of
from attrscore.models import randomized
from attrscore.report.figures import save
from attrscore.targets import Predicted
from attrscore.training import train

RAW = "grad_camo"
FLAT = 0.3
"""A correlation, of either sign, below which a column does not move."""

SIZED = ("grad_camo.auc", "grad_camo.cell_vs_neighbours")
"""Promised to move with area neither under trained nor under random weights.

Heat spills over the edge of a cell of radius r by a width of the grid, so that its odds grow as r,
where those of chance grow as r^2 in 2D and r^3 in 3D: under an honest model log odds, which are
of a share of heat, must fall with size. A rank and a ratio of densities need not.
"""

DENSER = 10
"""The known map on the cell, beside elsewhere."""

COLUMNS = (RAW, *CORRECTED)
SPACING = 0.5
"""Micrometres a voxel, along every axis, that the phantom is taken to have here."""

STEPS = (-1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
"""Micrometres by which masks are dilated; negative: eroded."""

SHIFTS = (0.0, 1.0, 2.0, 4.0)
"""Micrometres by which masks are shifted along the last axis."""


def run(scale: Scale, out: Path) -> list[Check]:
    """An honest model a plane and seed, trained on cells of every size and place.

    Beside it the same model with random weights, whose map hardly knows the cell, and a map that
    is known: there log odds must not move with area either.
    """
    places, masks = [], []
    for plane, seed in itertools.product(scale.planes, scale.fresh):
        size = tuple(map(int, SIZES[plane][1].strip("[]").split(",")))
        kinds = {"area": (0.04, 0.35), "offset": 0.2, "size": size}
        cells = Phantom(cells=scale.trained_on, seed=400 + 2 * seed, **kinds)
        model = attrscore.MODELS.build("tiny_cnn", seed=1 + seed)(cells.spec)
        train(model, cells, epochs=scale.epochs, seed=seed)
        held_out = Phantom(cells=2 * scale.cells, seed=401 + 2 * seed, **kinds)
        batches = list(batches_of(held_out))
        about = {"plane": plane, "seed": seed}
        for weights, each in (("trained", model), ("randomised", randomized(model))):
            places.append(_by_place(each, batches).assign(weights=weights, **about))
        known = [_as_inputs(batch, seed) for batch in batches]
        places.append(_by_place(Plain(), known, "features").assign(weights="known", **about))
        masks.append(_by_mask(model, batches).assign(**about))
    place = pd.concat(places, ignore_index=True)
    mask = pd.concat(masks, ignore_index=True)
    moved = correlations(place)
    slopes = mask_slopes(mask)
    moved.to_csv(out / "size_and_place.csv", index=False)
    slopes.to_csv(out / "segmentation_error.csv", index=False)
    save(place_figure(place), out / "size_and_place.png")
    save(mask_figure(mask), out / "segmentation_error.png")
    return [*_place_checks(moved), *_adjusted_checks(place), *_mask_checks(slopes)]


class Plain(nn.Module):
    """A model whose map at ``features`` is its input."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, 2)."""
        mean = self.features(inputs).flatten(2).mean(2)
        return torch.cat([mean, -mean], 1)


def _as_inputs(batch: Batch, seed: int) -> Batch:
    """Maps ``DENSER`` times as dense on the cell as elsewhere, with noise, whatever its size."""
    cell = batch.regions["cell"][:, None]
    noise = torch.empty(cell.shape).exponential_(generator=torch.Generator().manual_seed(seed))
    return replace(batch, inputs=torch.where(cell, noise, noise / DENSER), stains=())


def _audit(model: nn.Module, batches: list[Batch], layer: str = PRESET[1]) -> pd.DataFrame:
    return attrscore.evaluate(
        model,
        batches,
        methods=PRESET[0],
        layers=layer,
        target=Predicted(scalar="margin"),
        progress="none",
    )


def _by_place(model: nn.Module, batches: list[Batch], layer: str = PRESET[1]) -> pd.DataFrame:
    """Scores with each cell's area fraction and its distance from the centre, as a share."""
    scores = _audit(model, batches, layer)
    away = [_off_centre(mask.numpy()) for batch in batches for mask in batch.regions["cell"]]
    return scores.assign(area=scores["grad_camo.chance"], off_centre=away)


def _off_centre(mask: np.ndarray) -> float:
    centre = np.array(ndimage.center_of_mass(mask)) + 0.5
    return float(np.abs(centre / mask.shape - 0.5).max())


def _by_mask(model: nn.Module, batches: list[Batch]) -> pd.DataFrame:
    """Scores under masks that are too small, too large or beside the cell."""
    changes: list[tuple[str, float, Callable[[np.ndarray], np.ndarray]]] = [
        *(("dilated", by, lambda mask, by=by: _dilated(mask, by)) for by in STEPS),
        *(("shifted", by, lambda mask, by=by: _shifted(mask, by)) for by in SHIFTS),
    ]
    frames = []
    for kind, by, change in changes:
        wrong = [_with_cells(batch, change) for batch in batches]
        frames.append(_audit(model, wrong).assign(kind=kind, micrometres=by))
    return pd.concat(frames)


def _with_cells(batch: Batch, change: Callable[[np.ndarray], np.ndarray]) -> Batch:
    cells = np.stack([change(mask) for mask in batch.regions["cell"].numpy()])
    changed = torch.from_numpy(cells)
    neighbours = batch.regions["neighbours"] & ~changed
    return replace(batch, regions={"cell": changed, "neighbours": neighbours})


def _dilated(mask: np.ndarray, by: float) -> np.ndarray:
    """By a distance in micrometres; a mask that would vanish keeps its innermost voxels."""
    if by >= 0:
        return ndimage.distance_transform_edt(~mask) * SPACING <= by
    inside = ndimage.distance_transform_edt(mask) * SPACING
    return inside > min(-by, 0.9 * inside.max())


def _shifted(mask: np.ndarray, by: float) -> np.ndarray:
    return np.roll(mask, round(by / SPACING), axis=-1)


def correlations(place: pd.DataFrame) -> pd.DataFrame:
    """Pearson correlation of each column with area and with the distance from the centre.

    Beside it the means of the fifth of the cells with the least, and with the most, of it.
    """
    rows = []
    keys = ["weights", "plane", "seed"]
    for names, group in place.groupby(keys):
        for cause, column in itertools.product(("area", "off_centre"), COLUMNS):
            fifth = pd.qcut(group[cause], 5, labels=False)
            ends = [group.loc[fifth == end, column].mean() for end in (0, 4)]
            rows.append([*names, cause, column, group[column].corr(group[cause]), *ends])
    return pd.DataFrame(rows, columns=[*keys, "cause", "column", "correlation", "least", "most"])


def mask_slopes(mask: pd.DataFrame) -> pd.DataFrame:
    """Change of the mean of each column a micrometre, by least squares."""
    rows = []
    for (plane, kind), group in mask.groupby(["plane", "kind"]):
        means = group.groupby("micrometres")[list(COLUMNS)].mean()  # of all seeds
        for column in COLUMNS:
            slope = np.polyfit(means.index, means[column], 1)[0]
            rows.append([plane, kind, column, slope, means.loc[0.0, column]])
    return pd.DataFrame(rows, columns=["plane", "kind", "column", "slope", "with_true_masks"])


def _place_checks(moved: pd.DataFrame) -> list[Check]:
    checks = []
    for (weights, cause, plane), group in moved.groupby(["weights", "cause", "plane"], sort=False):
        means = group.groupby("column", sort=False)["correlation"].mean()
        which = "a known map" if weights == "known" else f"{weights} weights"
        about = f"{plane}, {which}: correlation with the cell's"
        if cause == "off_centre":
            flat: list[str] = [HEADLINE]
            expected = f"log odds within {FLAT} of 0"
        else:
            flat = [*SIZED, *([] if weights == "trained" else [HEADLINE])]
            expected = f"raw above {FLAT}; {_names(flat)} within {FLAT} of 0"
            chance_alone = means.drop([RAW, *flat])
            checks.append(
                Check(
                    "size and place",
                    f"{about} area: columns corrected for chance alone",
                    "reported",
                    _listed(chance_alone),
                    None,
                )
            )
        of_one = group[group["column"].isin(flat)]["correlation"].abs().max()
        holds = (means[flat].abs() < FLAT).all() and (cause != "area" or means[RAW] > FLAT)
        checks.append(
            Check(
                "size and place",
                f"{about} {cause.replace('_', '-')}",
                expected,
                f"{_listed(means)}; mean of {group['seed'].nunique()} models; of those promised "
                f"to stay, at most {of_one:.2f} under one model",
                bool(holds),
            )
        )
    return checks


def _names(columns: Iterable[str]) -> str:
    return ", ".join(column.removeprefix("grad_camo.") for column in columns)


def _listed(means: pd.Series[float]) -> str:
    return ", ".join(f"{c.removeprefix('grad_camo.')} {r:+.2f}" for c, r in means.items())


def _adjusted_checks(place: pd.DataFrame) -> list[Check]:
    """Cells of one model in two groups, the one mostly of larger cells: no true difference."""
    checks = []
    trained = place[place["weights"] == "trained"]
    for plane, models in trained.groupby("plane", sort=False):
        found = []
        for seed, cells in models.groupby("seed"):
            drawn = np.random.default_rng(int(seed)).random(len(cells))
            group = np.where(drawn < cells["area"].rank(pct=True), "larger", "smaller")
            means = stats.adjusted(
                cells.assign(group=group),
                group="group",
                score=HEADLINE,
                covariates=["area"],
                clusters=["id"],
            ).set_index("group")[["mean", "adjusted"]]
            found.append(means.loc["larger"] - means.loc["smaller"])
        means = pd.DataFrame(found)
        checks.append(
            Check(
                "size and place",
                f"{plane}, trained weights: log odds of a group of larger cells minus one of "
                "smaller, before and after attrscore.stats.adjusted by area",
                "reported",
                f"{means['mean'].mean():+.2f}, {means['adjusted'].mean():+.2f}; each model: "
                + "; ".join(f"{a:+.2f}, {b:+.2f}" for a, b in means.to_numpy()),
                None,
            )
        )
    return checks


def _mask_checks(slopes: pd.DataFrame) -> list[Check]:
    return [
        Check(
            "segmentation error",
            f"{plane}: masks {kind}, change a micrometre",
            "reported",
            ", ".join(
                f"{row.column.removeprefix('grad_camo.')} {row.slope:+.3f}"
                for row in group.itertuples()
            ),
            None,
        )
        for (plane, kind), group in slopes.groupby(["plane", "kind"])
    ]


def place_figure(place: pd.DataFrame) -> Figure:
    """Raw and corrected score against area, a dot a cell."""
    shown = (RAW, "grad_camo.log_odds", "grad_camo.above_chance")
    planes = list(place["plane"].unique())
    colours = dict(zip(("trained", "randomised"), sns.color_palette("colorblind"), strict=False))
    figure = Figure(figsize=(3.4 * len(shown), 2.9 * len(planes)), layout="constrained")
    axes = figure.subplots(len(planes), len(shown), squeeze=False)
    for row, plane in zip(axes, planes, strict=True):
        for ax, column in zip(row, shown, strict=True):
            for weights, colour in colours.items():
                cells = place[(place["plane"] == plane) & (place["weights"] == weights)]
                sns.regplot(
                    cells, x="area", y=column, ax=ax, color=colour, label=weights, ci=None,
                    scatter_kws={"s": 6, "alpha": 0.3},
                )  # fmt: skip
            ax.set(title=plane, xlabel="area of the cell, share of the crop")
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure


def mask_figure(mask: pd.DataFrame) -> Figure:
    """Mean score along the error of the masks."""
    shown = (RAW, "grad_camo.log_odds")
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots(2, len(shown), squeeze=False)
    for row, kind in zip(axes, ("dilated", "shifted"), strict=True):
        for ax, column in zip(row, shown, strict=True):
            sns.lineplot(
                mask[mask["kind"] == kind], x="micrometres", y=column, hue="plane", ax=ax,
                marker="o", palette="colorblind",
            )  # fmt: skip
            ax.set(xlabel=f"masks {kind} by, micrometres")
    return figure
