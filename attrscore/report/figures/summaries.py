"""Figures of what a report says of its conditions; a sheet each, and what it is made of."""

from __future__ import annotations

import re
import textwrap
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from attrscore.core.readings import reading_of
from attrscore.errors import DataError, preview
from attrscore.report.figures._sheet import Sheet, axes_of, colours_for, grid, plain_text
from attrscore.report.figures.scores import distributions
from attrscore.stats.conditions import (
    RANDOMIZE,
    by_condition,
    is_null,
    label,
    named,
    records,
    short,
    varying,
)
from attrscore.stats.reporting import SHOWN
from attrscore.stats.resampling import CLUSTERS, numbers
from attrscore.stats.summary import threshold_curve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from attrscore.stats import Report

__all__ = [
    "agreement_matrix",
    "agreement_sheet",
    "area_sheet",
    "bands",
    "bands_sheet",
    "differences",
    "differences_sheet",
    "distributions_sheet",
    "plate_map",
    "plates_of",
    "plates_sheet",
    "region_bars",
    "regions_sheet",
    "score_against_area",
    "score_table",
    "table_sheet",
    "threshold_curves",
    "threshold_sheet",
    "well_position",
]

_LETTER_INCHES = 0.075
_WELL = re.compile(r"(A?[A-Z])0{0,2}([1-9]\d?)", re.IGNORECASE)
_LARGEST = (32, 48)
"""Rows and columns of the largest plate there is, of 1536 wells: A01 to AF48."""
_NULL, _CHANCE = "0.82", "0.25"
_PLATES = 6
"""Most plates in one figure."""


@plain_text
def bands(
    summary: pd.DataFrame,
    /,
    *,
    shown: Sequence[str] = SHOWN,
    words: str = "score",
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean of every condition with its interval, over that of its randomised weights.

    A row a condition of :func:`attrscore.stats.summarise`, in its order. A tick marks chance: the
    mean score of a map that ignores the mask. Conditions without a score have no dot.

    :raises DataError: an empty summary.
    """
    rows = named(summary, shown)
    hidden = is_null(rows)
    tested, nulls = rows[~hidden], rows[hidden]
    if tested.empty:
        raise DataError("There is no condition to draw.")
    beside = _LETTER_INCHES * max(map(len, tested["method_layer"]))
    ax = axes_of(ax, 5.6 + beside, 1.3 + 0.25 * len(tested))
    series = list(dict.fromkeys(tested["series"]))
    colours = dict(zip(series, colours_for(len(series)), strict=True))
    for y, (_, row) in enumerate(tested.iterrows()):
        alike = nulls[nulls["method_layer"] == row["method_layer"]]
        for _, of in alike[alike["model"] == row["model"]].iterrows():
            ends = [of[name] if np.isfinite(of[name]) else of["mean"] for name in ("low", "high")]
            ax.fill_between(ends, y - 0.4, y + 0.4, color=_NULL, lw=0.8, gid="null")
        ax.plot([row["chance"]] * 2, [y - 0.3, y + 0.3], color=_CHANCE, lw=1.4, gid="chance")
        colour = colours[row["series"]]
        ax.plot([row["low"], row["high"]], [y, y], color=colour, lw=2, gid="interval")
        ax.plot([row["mean"]], [y], "o", color=colour, ms=5, gid="mean")
    _name_rows(ax, list(tested["method_layer"]))
    ax.grid(axis="x", color="0.92", linewidth=0.8)
    if tested["mean"].dropna().between(0, 1).all():
        ax.set_xlim(0, 1)
    ax.set_xlabel(f"mean {words}")
    handles: list[Artist] = [
        Line2D([], [], color=c, marker="o", ms=5, label=s) for s, c in colours.items()
    ]
    handles.append(Line2D([], [], color=_CHANCE, marker="|", ls="", ms=10, label="chance"))
    if len(nulls):
        handles.append(Patch(color=_NULL, label="randomised weights"))
    ax.legend(
        handles=handles, frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3
    )
    return ax


def _name_rows(ax: Axes, names: Sequence[str]) -> None:
    """A name beside each row, the first on top."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0, labelsize=8)
    ax.set_axisbelow(True)
    sns.despine(ax=ax, left=True)


@plain_text
def score_table(
    summary: pd.DataFrame,
    /,
    *,
    shown: Sequence[str] = SHOWN,
    ax: Axes | None = None,
) -> Axes:
    """Draw a heat table of mean scores: models down, methods and layers across.

    A share is coloured from 0 to 1; what has chance at 0 in two colours around it. Undefined is
    blank.

    :raises DataError: an empty summary.
    """
    rows = named(summary, shown)
    if rows.empty:
        raise DataError("There is no condition to draw.")
    first = rows.drop_duplicates(["series", "method_layer"])
    wide = first.pivot_table(
        "mean", "series", "method_layer", aggfunc="first", dropna=False, sort=False
    )
    finite = wide.to_numpy()[np.isfinite(wide.to_numpy())]
    share = not len(finite) or bool((finite >= 0).all() and (finite <= 1).all())
    ends = (0.0, 1.0) if share else (-float(np.abs(finite).max()), float(np.abs(finite).max()))
    ax = axes_of(ax, 2.6 + 0.7 * wide.shape[1], 1.9 + 0.4 * wide.shape[0])
    _coloured_table(
        ax,
        wide,
        *ends,
        cmap="cividis" if share else "vlag",
        annot=wide.shape[1] <= 24,
        linewidths=1,
        cbar_kws={"label": "mean", "shrink": 0.8},
    )
    ax.set_xticks(np.arange(wide.shape[1]) + 0.5, [textwrap.fill(str(name), 22) for name in wide])
    ax.tick_params(length=0)
    return ax


def _coloured_table(ax: Axes, table: pd.DataFrame, low: float, high: float, **options: Any) -> None:
    sns.heatmap(table, ax=ax, vmin=low, vmax=high, fmt=".2f", annot_kws={"fontsize": 8}, **options)
    ax.set(xlabel="", ylabel="")
    ax.tick_params(labelsize=8)
    ax.tick_params(axis="x", rotation=90)
    ax.tick_params(axis="y", rotation=0)


@plain_text
def plate_map(
    scores: pd.DataFrame,
    /,
    *,
    score: str = "grad_camo",
    well: str = "Metadata_Well",
    limits: tuple[float, float] | None = None,
    words: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean score of each well where it lies on its plate, for rows of one condition.

    Wells without a defined score are crossed out, positions without one are empty. The plate is
    as large as its wells need, of 6, 24, 96, 384 or 1536.

    :raises DataError: no row, or a name that is no well's, as B02 is.
    """
    values = pd.Series(numbers(scores, score), index=scores.index)
    means = values.where(np.isfinite(values)).groupby(scores[well]).mean()
    wells = _positions(means.index)
    if not wells:
        raise DataError(
            f"{well} holds {preview([str(each) for each in means.index], most=3) or 'nothing'}; a "
            "plate is drawn where every well has a name such as B02."
        )
    far = [max(at[axis] for at in wells.values()) for axis in (0, 1)]
    sizes = ((2, 3), (4, 6), (8, 12), (16, 24), _LARGEST)
    down, across = next(s for s in sizes if far[0] < s[0] and far[1] < s[1])
    plate = np.full((down, across), np.nan)
    ax = axes_of(ax, 1.6 + 0.32 * across, 1.0 + 0.3 * down)
    for name, (row, column) in wells.items():
        plate[row, column] = means[name]
        if not np.isfinite(means[name]):
            ax.plot(column, row, "x", color="0.5", ms=5, gid="undefined")
    low, high = limits or (0.0, float(np.nanmax(plate)) if np.isfinite(plate).any() else 1.0)
    drawn = ax.imshow(plate, cmap="cividis", vmin=low, vmax=high, aspect="equal")
    letters = [_letters(row) for row in range(down)]
    ax.set_xticks(
        range(across), [str(c + 1) if _numbered(c, across) else "" for c in range(across)]
    )
    ax.set_yticks(
        range(down), [each if _numbered(r, down) else "" for r, each in enumerate(letters)]
    )
    ax.set_xticks(np.arange(across + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(down + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="0.85", linewidth=0.6)
    ax.tick_params(which="both", length=0, labelsize=7)
    ax.xaxis.tick_top()
    ax.spines[:].set_visible(False)
    if ax.figure is not None:
        bar = ax.figure.colorbar(drawn, ax=ax, shrink=0.8, pad=0.02)
        bar.set_label(textwrap.fill(f"mean {words or score}", 26), fontsize=8)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=7)
    return ax


def well_position(name: str, /) -> tuple[int, int] | None:
    """Row and column of a well, both from 0; None where its name is no well's, A01 to AF48.

    >>> well_position("B02"), well_position("AA1"), well_position("well 7"), well_position("T99")
    ((1, 1), (26, 0), None, None)
    """
    found = _WELL.fullmatch(str(name).strip())
    if found is None:
        return None
    row = 0
    for letter in found[1].upper():
        row = row * 26 + ord(letter) - ord("A") + 1
    at = row - 1, int(found[2]) - 1
    return at if at[0] < _LARGEST[0] and at[1] < _LARGEST[1] else None


def _positions(names: Iterable[Any]) -> dict[Any, tuple[int, int]]:
    """Where each well lies on a plate; empty where one of the names is no well's."""
    found = {name: well_position(str(name)) for name in names}
    known = {name: at for name, at in found.items() if at is not None}
    return known if len(known) == len(found) else {}


def _letters(row: int) -> str:
    return (chr(ord("A") + row // 26 - 1) if row >= 26 else "") + chr(ord("A") + row % 26)


def _numbered(position: int, of: int) -> bool:
    """Whether a row or column is numbered: all of them up to 12, then every other one."""
    return of <= 12 or position % 2 == 0


_REGIONS = {
    "nucleus": "#0173b2",
    "cytoplasm": "#56b4e9",
    "cell": "#2f93d0",
    "neighbours": "#de8f05",
    "background": "#b8bec6",
    "outside the cell": "#b8bec6",
}


def _shares_of(rows: pd.DataFrame, end: str = "") -> dict[str, float]:
    """Mean share of heat in regions that cover the crop, or their areas (``end=".area"``)."""
    means = {}
    for name in ("nucleus", "cytoplasm", "cell", "neighbours", "background"):
        of = [f"region_shares.{name}{end}"] + ([] if end else [f"grad_camo.{name}"])
        of += ["grad_camo.chance"] if end and name == "cell" else []
        values = [numbers(rows, column) for column in of if column in rows]
        finite = next((each[np.isfinite(each)] for each in values if np.isfinite(each).any()), None)
        if finite is not None:
            means[name] = float(finite.mean())
    if "cell" not in means:
        return {}
    apart = {"nucleus", "cytoplasm"} <= set(means)
    shown = {n: means[n] for n in (("nucleus", "cytoplasm") if apart else ("cell",))}
    if "neighbours" not in means:
        return {**shown, "outside the cell": 1 - means["cell"]}
    shown["neighbours"] = means["neighbours"]
    return {**shown, "background": max(0.0, 1 - sum(shown.values()))}


@plain_text
def region_bars(
    scores: pd.DataFrame, /, *, shown: Sequence[str] = SHOWN, ax: Axes | None = None
) -> Axes:
    """Draw how heat is spread over regions: a bar a condition, above that of the regions' areas.

    Nucleus and cytoplasm, or the cell where they are not known; neighbours and background, or what
    lies outside the cell. Means over cells with a score, which sum to 1.

    :raises DataError: no share of the cell.
    """
    rows = named(scores, shown)
    bars: list[tuple[str, dict[str, float]]] = []
    several = len(rows["series"].unique()) > 1
    for series, own in rows.groupby("series", sort=False):
        made = [
            (f"{series}: {name}" if several else str(name), found)
            for name, part in own.groupby("method_layer", sort=False)
            if (found := _shares_of(part))
        ]
        areas = _shares_of(own.drop_duplicates("id"), ".area")
        if made and set(areas) == set(made[0][1]):
            made.append((f"{series}: area" if several else "area", areas))
        bars += made
    if not bars:
        raise DataError("There is no share of the heat on the cell to draw.")
    beside = _LETTER_INCHES * max(len(name) for name, _ in bars)
    ax = axes_of(ax, 6.2 + beside, 1.3 + 0.27 * len(bars))
    ends = np.zeros(len(bars))
    for region, colour in _REGIONS.items():
        widths = np.array([each.get(region, 0.0) for _, each in bars])
        if widths.any():
            ax.barh(range(len(bars)), widths, 0.76, left=ends, color=colour, label=region)
            for y, (width, start) in enumerate(zip(widths, ends, strict=True)):
                if width >= 0.07:
                    dark = region in ("nucleus", "cell")
                    at = (start + width / 2, y)
                    ax.annotate(
                        f"{width:.0%}",
                        at,
                        ha="center",
                        va="center",
                        fontsize=7,
                        color="white" if dark else "#101418",
                    )
        ends += widths
    for y, (name, _) in enumerate(bars):
        if name.endswith("area"):
            ax.axhspan(y - 0.5, y + 0.5, color="0.93", lw=0, zorder=0)
    _name_rows(ax, [name for name, _ in bars])
    ax.set(xlim=(0, 1), xlabel="mean share of the attribution; of the area, its share of the crop")
    ax.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=5)
    return ax


def regions_sheet(scores: pd.DataFrame, found: Report, /) -> Sheet | None:
    """Shares of regions of all conditions; None where no scorer gave any."""
    rows = _tested(scores)
    known = {"grad_camo.cell", "region_shares.cell"} & set(map(str, rows))
    if not any(np.isfinite(numbers(rows, name)).any() for name in known):
        return None
    return _sheet_of(region_bars(rows, shown=found.shown))


@plain_text
def differences(
    comparison: pd.DataFrame,
    /,
    *,
    shown: Sequence[str] = ("method", "layer"),
    words: str = "score",
    ax: Axes | None = None,
) -> Axes:
    """Draw paired differences with their intervals, a row a pair of a comparison.

    :raises DataError: an empty comparison.
    """
    if comparison.empty:
        raise DataError("There is no pair to draw.")
    held = [name for name in shown if name in comparison]
    names = [
        short(f"{row['first']} − {row['second']}")
        + (f"  ({shared})" if (shared := label(row, held)) else "")
        for row in records(comparison)
    ]
    beside = _LETTER_INCHES * max(map(len, names))
    ax = axes_of(ax, 4.6 + beside, 1.1 + 0.25 * len(comparison))
    ax.axvline(0, color="0.4", lw=1, gid="zero")
    for y, (_, row) in enumerate(comparison.iterrows()):
        ax.plot([row["low"], row["high"]], [y, y], color="#0173b2", lw=2, gid="interval")
        ax.plot([row["difference"]], [y], "o", color="#0173b2", ms=5, gid="difference")
    _name_rows(ax, names)
    ax.set_xlabel(textwrap.fill(f"mean difference of {words}, same cells", 46))
    ax.grid(axis="x", color="0.92", linewidth=0.8)
    return ax


@plain_text
def threshold_curves(
    scores: pd.DataFrame,
    /,
    *,
    score: str = "grad_camo",
    over: Sequence[str] = SHOWN,
    ax: Axes | None = None,
    **options: Any,
) -> Axes:
    """Draw the share of cells above every threshold, a line a condition, with its band over wells.

    Dashed: the share of cells whose grid allows such a score at all. Dotted: a map that ignores the
    mask. Both are grey where they are the same for all conditions, else in the same colour. No band
    where no cell or every cell is above; the table of the curve has one there too. ``over`` are the
    columns that name a condition; the options are those of
    :func:`attrscore.stats.threshold_curve`.

    :raises DataError: no cell has a score.
    """
    rows = scores[np.isfinite(numbers(scores, score))]
    if rows.empty:
        raise DataError(f"There is no cell with a {score} to draw.")
    parts = list(by_condition(rows, over))
    ax = axes_of(ax, 5.2, 3.8)
    differing = varying(rows, over) or list(over)[-1:]
    colours = colours_for(len(parts))
    curves = [threshold_curve(part, score=score, **options) for _, part in parts]
    for (condition, _), curve, colour in zip(parts, curves, colours, strict=True):
        at, above = curve["threshold"], curve["above"]
        ax.plot(at, above, color=colour, label=label(condition, differing), gid="above")
        some = (above > 0) & (above < 1)
        band = curve["low"], curve["high"]
        ax.fill_between(at, *band, where=some, color=colour, alpha=0.2, lw=0, gid="band")
    for name, dashes in (("attainable", "--"), ("chance", ":")):
        same = all(curve[name].equals(curves[0][name]) for curve in curves)
        drawn: Any = [(curves[0], "0.4")] if same else zip(curves, colours, strict=True)
        for curve, colour in drawn:
            ax.plot(curve["threshold"], curve[name], color=colour, ls=dashes, lw=1, gid=name)
    ends = (min(c["threshold"].min() for c in curves), max(c["threshold"].max() for c in curves))
    words = reading_of(scores, score).axis or score
    ax.set(xlabel=f"threshold t of {words}", ylabel="share of cells above t", xlim=ends)
    ax.set_ylim(-0.02, 1.02)
    ax.set_title("dashed: attainable on the grid; dotted: chance", loc="left", fontsize=9)
    ax.legend(frameon=False, fontsize=8)
    sns.despine(ax=ax)
    return ax


@plain_text
def agreement_matrix(matrix: pd.DataFrame, /, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw a matrix of :func:`attrscore.stats.agreement`; what is undefined stays blank.

    :raises DataError: an empty matrix.
    """
    if matrix.empty:
        raise DataError("There is no condition whose agreement could be drawn.")
    side = 1.6 + 0.55 * len(matrix)
    ax = axes_of(ax, side + 1.2, side)
    _coloured_table(
        ax,
        matrix,
        *(-1, 1),
        cmap="vlag",
        annot=len(matrix) <= 12,
        square=True,
        cbar_kws={"label": "rank correlation over cells", "shrink": 0.7},
    )
    ax.set_title(textwrap.fill(title, 50), loc="left", fontsize=9)
    return ax


@plain_text
def score_against_area(
    scores: pd.DataFrame,
    /,
    *,
    score: str = "grad_camo",
    over: Sequence[str] = SHOWN,
    ax: Axes | None = None,
) -> Axes:
    """Draw each cell's score against its area fraction, and a map that ignores the mask as a line.

    :raises DataError: no cell has a score.
    :raises ConfigError: the table has no ``<score>.chance``.
    """
    values, area = numbers(scores, score), numbers(scores, f"{score}.chance")
    finite = np.isfinite(values) & np.isfinite(area)
    if not finite.any():
        raise DataError(f"There is no cell with a {score} and an area to draw.")
    parts = list(by_condition(scores[finite], over))
    ax = axes_of(ax, 4.6, 4.0)
    differing = varying(scores[finite], over) or list(over)[-1:]
    for (condition, part), colour in zip(parts, colours_for(len(parts)), strict=True):
        x, y = part[f"{score}.chance"], part[score]
        ax.scatter(x, y, s=9, alpha=0.6, lw=0, color=colour, label=label(condition, differing))
    ends = [float(area[finite].min()), float(area[finite].max())]
    ax.plot(ends, ends, color="black", ls="--", lw=1, gid="chance", label="ignores the mask")
    ax.set(xlabel="area fraction of the cell", ylabel=reading_of(scores, score).axis or score)
    ax.legend(frameon=False, fontsize=8)
    sns.despine(ax=ax)
    return ax


def bands_sheet(_scores: pd.DataFrame, found: Report, /) -> Sheet | None:
    """Means of all conditions beside chance and randomised weights."""
    words = found.reading.axis or found.score
    return _sheet_of(bands(found.summary, shown=found.shown, words=words))


def table_sheet(_scores: pd.DataFrame, found: Report, /) -> Sheet | None:
    """Means as a heat table of models and conditions; None where there are only random ones."""
    tested = _tested(found.summary)
    return None if tested.empty else _sheet_of(score_table(tested, shown=found.shown))


def differences_sheet(_scores: pd.DataFrame, found: Report, /) -> Sheet | None:
    """Paired differences of what was compared first; None where nothing was."""
    tables = [each for each in found.comparisons.values() if len(each)]
    if not tables:
        return None
    words = found.compared.replace("_", " ")
    return _sheet_of(differences(tables[0], shown=found.shown, words=words))


def distributions_sheet(scores: pd.DataFrame, found: Report, /) -> Sheet | None:
    """Distributions over cells; None where there are only randomised weights."""
    tested = _tested(scores)
    if tested.empty:
        return None
    words = named(tested, found.shown)["series"]
    several = [name for name in ("dataset", "target") if name in tested]  # named in the words
    return distributions(tested.drop(columns=several).assign(model=words), score=found.score)


@plain_text
def threshold_sheet(scores: pd.DataFrame, found: Report, /) -> Sheet | None:
    """Threshold curves, a panel a model and method; None where no cell has a score."""
    draw = partial(threshold_curves, score=found.score, over=["layer"], clusters=found.clusters)
    sheet = _side_by_side(_panels(scores, found), (4.6, 3.6), draw)
    if sheet is not None:
        sheet.head(
            "Share of cells above every threshold",
            [
                "Dashed: attainable on the layer's grid. Dotted: a map that ignores the mask.",
                "Bands: 95 % at each threshold, over units of replication.",
            ],
        )
    return sheet


def _side_by_side(
    panels: Sequence[tuple[str, pd.DataFrame]],
    inches: tuple[float, float],
    draw: Callable[..., Axes],
) -> Sheet | None:
    """A panel of so many inches for each table, under its title; None where there is none."""
    if not panels:
        return None
    sheet, axes = grid(len(panels), inches)
    for ax, (title, part) in zip(axes, panels, strict=True):
        draw(part, ax=ax)
        ax.set_title(textwrap.fill(title, int(10.5 * inches[0])), loc="left", fontsize=9)
    return sheet


@plain_text
def area_sheet(scores: pd.DataFrame, found: Report, /) -> Sheet | None:
    """Score against area, a panel a model and method; None where no cell has both."""
    chance = f"{found.score}.chance"
    panels = [
        panel
        for panel in _panels(scores, found)
        if chance in panel[1] and panel[1][chance].notna().any()
    ]
    draw = partial(score_against_area, score=found.score, over=["layer"])
    sheet = _side_by_side(panels, (4.0, 3.4), draw)
    axes = [] if sheet is None else sheet.axes
    ends = [end for ax in axes for end in ax.get_ylim()]
    for ax in axes:  # one scale, so that panels can be compared
        ax.set_ylim(min(ends), max(ends))
    return sheet


@plain_text
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
    """The rows of trained weights with a score, by model and method, under their names."""
    rows = _tested(scores)
    rows = rows[np.isfinite(numbers(rows, found.score))]
    by = [n for n in found.shown if n not in ("method", "layer", RANDOMIZE)] + ["method"]
    return [(label(condition, by), part) for condition, part in by_condition(rows, by)]


def plates_of(scores: pd.DataFrame, found: Report, /) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each model on each plate, at one method and layer, under their names.

    The method and layer with the most defined scores, the first of equals. At most 6 plates.
    """
    well = _well_of(scores, found)
    if well is None or scores.empty:
        return []
    rows = named(_tested(scores), found.shown)
    rows = rows[rows[well].notna()]
    if not _positions(rows[well].unique()):
        return []
    defined = pd.Series(np.isfinite(numbers(rows, found.score)), index=rows.index)
    most = defined.groupby(rows["method_layer"], sort=False).sum().idxmax()
    rows = rows[rows["method_layer"] == most]
    above = [name for name in found.clusters if name in scores and name != well]
    plate = above[0] if above else None
    plates = list(rows[plate].astype(str).unique()) if plate else [""]
    series = list(rows["series"].unique())
    panels = []
    for one, name in product(series, plates):
        part = rows[rows["series"] == one]
        part = part[part[plate].astype(str) == name] if plate else part
        if len(part):
            head = f"{one}, plate {name}" if plate else one
            panels.append((f"{head}: {most}", part))
    return panels[:_PLATES]


def _well_of(scores: pd.DataFrame, found: Report) -> str | None:
    """The column of wells: the innermost unit of replication that is no plate."""
    names = [name for name in found.clusters if name in scores and name != CLUSTERS[0]]
    return names[-1] if names else None


@plain_text
def plates_sheet(scores: pd.DataFrame, found: Report, /) -> Sheet | None:
    """Mean scores of wells on their plates; None where a well has a name that is no well's."""
    panels = plates_of(scores, found)
    if not panels:
        return None
    well = str(_well_of(scores, found))
    means = pd.concat(
        [
            part.assign(value=numbers(part, found.score)).groupby(well)["value"].mean()
            for _, part in panels
        ]
    ).dropna()
    ends = (float(means.min()), float(means.max())) if len(means) else (0.0, 1.0)
    words = found.reading.axis or found.score
    draw = partial(plate_map, score=found.score, well=well, limits=ends, words=words)
    return _side_by_side(panels, (5.2, 3.4), draw)


def _tested(rows: pd.DataFrame) -> pd.DataFrame:
    """Without randomised weights."""
    return rows[~is_null(rows)]


def training_curves(
    epochs: pd.DataFrame, /, *, band: tuple[float, float] = (np.nan, np.nan)
) -> Sheet:
    """Where a model in training looked after each epoch, over the band of random weights.

    A row an epoch with the columns ``accuracy``, ``log_odds``, ``swap_outside``, ``swap_inside``.
    """
    sheet, (left, right) = grid(2, (4.0, 2.8))
    at = np.arange(1, len(epochs) + 1)
    blue, orange, green = colours_for(3)
    if np.isfinite(band).all():
        left.axhspan(*band, color=_NULL, lw=0, label="random weights")
    left.axhline(0, color=_CHANCE, lw=1, label="chance")
    left.plot(at, epochs["log_odds"], "o-", color=blue, ms=4, label="log odds")
    left.set(xlabel="epoch", ylabel="log odds on the cell")
    for name, colour, words in (
        ("accuracy", _CHANCE, "accuracy in training"),
        ("swap_outside", orange, "drop by other surroundings"),
        ("swap_inside", green, "drop by another inside"),
    ):
        right.plot(at, epochs[name], "o-", color=colour, ms=4, label=words)
    right.set(xlabel="epoch", ylim=(-0.1, 1.05))
    for ax in (left, right):
        ax.legend(fontsize=7, frameon=False)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return sheet


def _sheet_of(ax: Axes) -> Sheet:
    return cast(Sheet, ax.figure)  # drawn without ax, as all of these are
