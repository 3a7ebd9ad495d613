"""Figures of what scores say: shares above every threshold, agreement, score against area."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns

from attrscore.core.readings import reading_of
from attrscore.errors import DataError
from attrscore.report.figures.sheet import Sheet
from attrscore.stats import threshold_curve
from attrscore.stats.conditions import by_condition, label, varying
from attrscore.stats.resampling import numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes

    from attrscore.stats import Report

__all__ = [
    "agreement_matrix",
    "agreement_sheet",
    "area_sheet",
    "colours_for",
    "evidence",
    "grid",
    "score_against_area",
    "threshold_curves",
    "threshold_sheet",
]

_KEYS = ("model", "method", "layer")


def threshold_curves(
    scores: pd.DataFrame,
    /,
    *,
    score: str = "grad_camo",
    over: Sequence[str] = _KEYS,
    ax: Axes | None = None,
    **options: Any,
) -> Axes:
    """The share of cells above every threshold, a line a condition, with its band over wells.

    Dashed: the share of cells whose grid allows such a score at all. Dotted: a map that ignores the
    mask. Both are grey where they are the same for all conditions, else in the same colour. No band
    where no cell or every cell is above; the table of the curve has one there too. ``over`` are the
    columns that tell conditions apart; the options are those of
    :func:`attrscore.stats.threshold_curve`.

    :raises DataError: no cell has a score.
    """
    rows = scores[np.isfinite(numbers(scores, score))]
    if rows.empty:
        raise DataError(f"There is no cell with a {score} to draw.")
    parts = list(by_condition(rows, over))
    ax = _axes(ax, 5.2, 3.8)
    named = varying(rows, over) or list(over)[-1:]
    colours = colours_for(len(parts))
    curves = [threshold_curve(part, score=score, **options) for _, part in parts]
    for (condition, _), curve, colour in zip(parts, curves, colours, strict=True):
        at, above = curve["threshold"], curve["above"]
        ax.plot(at, above, color=colour, label=label(condition, named), gid="above")
        some = (above > 0) & (above < 1)
        band = curve["low"], curve["high"]
        ax.fill_between(at, *band, where=some, color=colour, alpha=0.2, lw=0, gid="band")
    for name, dashes in (("attainable", "--"), ("chance", ":")):
        same = all(curve[name].equals(curves[0][name]) for curve in curves)
        for curve, colour in [(curves[0], "0.4")] if same else zip(curves, colours, strict=True):
            ax.plot(curve["threshold"], curve[name], color=colour, ls=dashes, lw=1, gid=name)
    ends = (min(c["threshold"].min() for c in curves), max(c["threshold"].max() for c in curves))
    words = reading_of(scores, score).axis or score
    ax.set(xlabel=f"threshold t of {words}", ylabel="share of cells above t", xlim=ends)
    ax.set_ylim(-0.02, 1.02)
    ax.set_title("dashed: attainable on the grid; dotted: chance", loc="left", fontsize=9)
    ax.legend(frameon=False, fontsize=8)
    sns.despine(ax=ax)
    return ax


def agreement_matrix(matrix: pd.DataFrame, /, *, title: str = "", ax: Axes | None = None) -> Axes:
    """A matrix of :func:`attrscore.stats.agreement`, in colours and numbers; undefined is blank.

    :raises DataError: an empty matrix.
    """
    if matrix.empty:
        raise DataError("There is no condition whose agreement could be drawn.")
    side = 1.6 + 0.55 * len(matrix)
    ax = _axes(ax, side + 1.2, side)
    sns.heatmap(
        matrix,
        ax=ax,
        vmin=-1,
        vmax=1,
        cmap="vlag",
        annot=len(matrix) <= 12,
        fmt=".2f",
        annot_kws={"fontsize": 8},
        square=True,
        cbar_kws={"label": "rank correlation over cells", "shrink": 0.7},
    )
    ax.set(xlabel="", ylabel="")
    ax.tick_params(labelsize=8)
    ax.tick_params(axis="x", rotation=90)
    ax.tick_params(axis="y", rotation=0)
    ax.set_title(textwrap.fill(title, 50), loc="left", fontsize=9)
    return ax


def score_against_area(
    scores: pd.DataFrame,
    /,
    *,
    score: str = "grad_camo",
    over: Sequence[str] = _KEYS,
    ax: Axes | None = None,
) -> Axes:
    """Each cell's score against its area fraction, with the line of a map that ignores the mask.

    :raises DataError: no cell has a score.
    :raises ConfigError: the table has no ``<score>.chance``.
    """
    values, area = numbers(scores, score), numbers(scores, f"{score}.chance")
    finite = np.isfinite(values) & np.isfinite(area)
    if not finite.any():
        raise DataError(f"There is no cell with a {score} and an area to draw.")
    parts = list(by_condition(scores[finite], over))
    ax = _axes(ax, 4.6, 4.0)
    named = varying(scores[finite], over) or list(over)[-1:]
    for (condition, part), colour in zip(parts, colours_for(len(parts)), strict=True):
        x, y = part[f"{score}.chance"], part[score]
        ax.scatter(x, y, s=9, alpha=0.6, lw=0, color=colour, label=label(condition, named))
    ends = [float(area[finite].min()), float(area[finite].max())]
    ax.plot(ends, ends, color="black", ls="--", lw=1, gid="chance", label="ignores the mask")
    ax.set(xlabel="area fraction of the cell", ylabel=reading_of(scores, score).axis or score)
    ax.legend(frameon=False, fontsize=8)
    sns.despine(ax=ax)
    return ax


def evidence(scores: pd.DataFrame, found: Report, /) -> dict[str, Sheet]:
    """The figures of a report by file name: a panel a model and method; empty ones are left out."""
    draw = {
        "threshold-curves": threshold_sheet,
        "score-against-area": area_sheet,
        "agreement": agreement_sheet,
    }
    made = {name: each(scores, found) for name, each in draw.items()}
    return {name: sheet for name, sheet in made.items() if sheet is not None}


def threshold_sheet(scores: pd.DataFrame, found: Report, /) -> Sheet | None:
    """Threshold curves, a panel a model and method; None where no cell has a score."""
    panels = _panels(scores, found)
    if not panels:
        return None
    sheet, axes = grid(len(panels), (4.6, 3.6))
    for ax, (title, part) in zip(axes, panels, strict=True):
        threshold_curves(part, score=found.score, over=["layer"], ax=ax, clusters=found.clusters)
        ax.set_title(textwrap.fill(title, 48), loc="left", fontsize=9)
    sheet.head(
        "Share of cells above every threshold",
        [
            "Dashed: attainable on the layer's grid. Dotted: a map that ignores the mask.",
            "Bands: 95 % at each threshold, over units of replication.",
        ],
    )
    return sheet


def area_sheet(scores: pd.DataFrame, found: Report, /) -> Sheet | None:
    """Score against area, a panel a model and method; None where no cell has both."""
    chance = f"{found.score}.chance"
    panels = [
        panel
        for panel in _panels(scores, found)
        if chance in panel[1] and panel[1][chance].notna().any()
    ]
    if not panels:
        return None
    sheet, axes = grid(len(panels), (4.0, 3.4))
    for ax, (title, part) in zip(axes, panels, strict=True):
        score_against_area(part, score=found.score, over=["layer"], ax=ax)
        ax.set_title(textwrap.fill(title, 42), loc="left", fontsize=9)
    ends = np.array([ax.get_ylim() for ax in axes])
    for ax in axes:  # one scale, so that panels can be compared
        ax.set_ylim(ends.min(), ends.max())
    return sheet


def agreement_sheet(_scores: pd.DataFrame, found: Report, /) -> Sheet | None:
    """Agreement of scores over cells, a matrix a model; None where there is one condition."""
    if not found.agreement:
        return None
    side = 2.4 + 0.55 * max(map(len, found.agreement.values()))
    sheet, axes = grid(len(found.agreement), (side + 1, side))
    for ax, (model, matrix) in zip(axes, found.agreement.items(), strict=True):
        agreement_matrix(matrix, title=model, ax=ax)
    return sheet


def _panels(scores: pd.DataFrame, found: Report) -> list[tuple[str, pd.DataFrame]]:
    """The rows with a score, by model and method, under their names."""
    rows = scores[np.isfinite(numbers(scores, found.score))]
    told = [*(name for name in found.shown if name not in ("method", "layer")), "method"]
    return [(label(condition, told), part) for condition, part in by_condition(rows, told)]


def _axes(ax: Axes | None, width: float, height: float) -> Axes:
    return Sheet(inches=(width, height)).subplots() if ax is None else ax


def colours_for(count: int) -> Sequence[Any]:
    """Told apart by colour-blind readers up to ten."""
    colours: Sequence[Any] = sns.color_palette("colorblind" if count <= 10 else "husl", count)
    return colours


def grid(panels: int, inches: tuple[float, float]) -> tuple[Sheet, list[Axes]]:
    """At most three panels side by side."""
    across = min(3, panels)
    down = -(-panels // across)
    sheet = Sheet(inches=(across * inches[0], down * inches[1]))
    axes = list(sheet.subplots(down, across, squeeze=False).flat)
    for ax in axes[panels:]:
        ax.remove()
    return sheet, axes[:panels]
