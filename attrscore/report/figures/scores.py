"""Distributions of a score over cells, by method, layer and model."""

from __future__ import annotations

import textwrap
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from attrscore.errors import ConfigError, preview
from attrscore.report.figures.sheet import Sheet
from attrscore.report.figures.table import Table, thinned

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from attrscore.report.figures.table import Colour

__all__ = ["distribution", "distributions"]

_SHARED = 0.8
"""Width that the models of one layer share, of the 1.0 between layers; seaborn's own."""
_DOTS = 300
"""Most dots a group; of larger groups evenly spaced quantiles stand for all."""
_SMOOTH = 8
"""Fewest dots that get a violin."""
_DASHES = (0, (2.2, 1.2))
_BAND, _CEILING = "0.90", "0.55"
_LEGEND_INCHES = 3.1
_LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 8.5, "labelspacing": 0.8}
_SMALL: dict[str, Any] = {"fontsize": 7, "color": "0.35", "va": "center", "annotation_clip": False}
_UNDEFINED_POINTS = -10


def distribution(
    scores: pd.DataFrame, /, *, score: str = "grad_camo", ax: Axes | None = None
) -> Axes:
    """One method's scores at its layers, one colour a model; into ``ax``, or a figure of its own.

    A dot is a cell, a bar the median. Dashed: the mean score of a map that ignores the mask. Grey:
    from the lowest to the highest score that the layer's grid allows any of the cells, with a line
    at the mean of the highest. Cells without a score are counted under their group. Layers stand in
    the order in which the table names them first.

    :raises ConfigError: the column is not there, or the table holds several methods.
    :raises DataError: the table is empty.
    """
    table = Table.of(scores, score)
    if len(table.methods) > 1:
        raise ConfigError(
            f"distribution() draws one method; the table holds {preview(table.methods)}. Choose "
            "with scores[scores.method == '...'], or draw all with distributions(scores)."
        )
    (method,) = table.methods
    if ax is None:
        ax = Sheet(
            inches=(table.inches(method) + _LEGEND_INCHES, 3.4 + table.label_inches(method))
        ).subplots()
    _draw_panel(ax, table, method)
    ax.set_ylabel(textwrap.fill(table.words, 26))
    ax.legend(handles=_legend(table), loc="upper left", bbox_to_anchor=(1.01, 1.0), **_LEGEND)
    return ax


def distributions(scores: pd.DataFrame, /, *, score: str = "grad_camo") -> Sheet:
    """All methods side by side, a panel each as in ``distribution``, on one scale.

    :raises ConfigError: the column is not there.
    :raises DataError: the table is empty.
    """
    table = Table.of(scores, score)
    rows = table.rows()
    widest = max(3.5, *(sum(map(table.inches, row)) for row in rows))
    heights = [3.0 + max(map(table.label_inches, row)) for row in rows]
    sheet = Sheet(inches=(widest + _LEGEND_INCHES, sum(heights)))
    lines = sheet.add_gridspec(len(rows), 1, height_ratios=heights)
    for i, row in enumerate(rows):
        widths = [table.inches(method) for method in row]
        if len(rows) > 1 and (spare := widest - sum(widths)) > 0.1:
            widths.append(spare)  # so that groups are equally wide in all rows
        places = lines[i].subgridspec(1, len(widths), width_ratios=widths)
        for j, method in enumerate(row):
            ax = sheet.add_subplot(places[j])
            _draw_panel(ax, table, method)
            ax.set_ylabel(textwrap.fill(table.words, 26) if j == 0 else "")
            ax.tick_params(labelleft=j == 0)
    sheet.legend(handles=_legend(table), loc="outside right upper", **_LEGEND)
    notes = []
    if table.known("chance"):
        worse = {"higher": "below", "lower": "above"}.get(table.reading.better)
        notes.append(
            "Dashed: a map that ignores the mask"
            + (f"; {worse} it, the attribution lies elsewhere." if worse else ".")
        )
    if table.known("highest"):
        notes.append("Grey band: what a layer's grid can reach, whatever the network does.")
    title = table.words if table.words == score else table.words[0].upper() + table.words[1:]
    sheet.head(title, notes, beside=_LEGEND_INCHES)
    return sheet


def _draw_panel(ax: Axes, table: Table, method: str) -> None:
    layers, series = table.layers(method), table.series
    frame = table.frame[table.frame["method"] == method]
    dots = thinned(frame, most=_DOTS)
    smooth = dots[dots.groupby(["layer", "series"])["value"].transform("size") >= _SMOOTH]
    if not smooth.empty:
        sns.violinplot(
            smooth,
            x="layer",
            y="value",
            hue="series",
            order=layers,
            hue_order=series,
            palette=table.colours,
            density_norm="width",
            cut=0,
            gap=0.12,
            inner=None,
            linewidth=0,
            alpha=0.35,
            legend=False,
            ax=ax,
        )
    step = _SHARED / len(series)
    for (at, layer), (k, name) in product(enumerate(layers), enumerate(series)):
        group, here = (
            rows[rows["layer"].eq(layer) & rows["series"].eq(name)] for rows in (frame, dots)
        )
        if len(group):
            middle = at + (k - (len(series) - 1) / 2) * step
            _draw_bounds(ax, middle, step, group)
            _draw_cells(ax, middle, step, group["value"], here["value"], table.colours[k])

    ax.set_title(textwrap.fill(method, 30), loc="left", fontsize=10, fontweight="bold")
    ax.set(xlabel="", ylabel="", xlim=(-0.5, len(layers) - 0.5), ylim=table.limits())
    ax.set_xticks(range(len(layers)), layers)
    undefined = bool(frame["value"].isna().any())
    if undefined:
        _write_below(ax, "undefined", 0.0, ha="right", xycoords="axes fraction")
    ax.tick_params(axis="x", length=0, pad=6 - _UNDEFINED_POINTS if undefined else 5)
    if table.label_inches(method):
        for tick in ax.get_xticklabels():
            tick.set(rotation=30, ha="right", rotation_mode="anchor")
    ax.grid(axis="y", color="0.93", linewidth=0.8)
    ax.set_axisbelow(True)
    sns.despine(ax=ax)


def _draw_bounds(ax: Axes, middle: float, step: float, group: pd.DataFrame) -> None:
    """Behind the cells: what the grid can reach; before them: chance."""
    left, right = middle - 0.48 * step, middle + 0.48 * step
    lowest, highest = group["lowest"].min(), group["highest"].max()
    if np.isfinite(lowest) and np.isfinite(highest):
        ax.fill_between(
            [left, right], lowest, highest, color=_BAND, lw=0, zorder=0.6, gid="attainable"
        )
        ceiling = group["highest"].mean()
        ax.hlines(ceiling, left, right, colors=_CEILING, lw=1, zorder=0.7, gid="ceiling")
    chance = group["chance"].mean()
    if np.isfinite(chance):
        ax.hlines(chance, left, right, colors="black", ls=_DASHES, lw=1.3, zorder=5, gid="chance")


def _draw_cells(
    ax: Axes,
    middle: float,
    step: float,
    values: pd.Series[float],
    dots: pd.Series[float],
    colour: Colour,
) -> None:
    if undefined := int(values.isna().sum()):
        _write_below(ax, str(undefined), middle, ha="center", xycoords=ax.get_xaxis_transform())
    if not len(dots):
        return
    few = len(dots) < _SMOOTH
    # Steps of the golden ratio spread dots evenly without touching a random state.
    aside = (np.arange(len(dots)) * 0.618034 % 1 - 0.5) * 0.5 * step
    ax.scatter(
        middle + aside,
        dots,
        s=16 if few else 5,
        color=[colour],
        alpha=1 if few else 0.6,
        linewidth=0,
        zorder=4.5 if few else 3,
        gid="cells",
    )
    red, green, blue = (0.55 * part for part in colour)
    left, right = middle - 0.4 * step, middle + 0.4 * step
    ax.hlines(
        values.median(), left, right, colors=[(red, green, blue)], lw=2, zorder=4, gid="median"
    )


def _write_below(ax: Axes, words: str, x: float, *, ha: str, xycoords: Any) -> None:
    shift = (-4 if ha == "right" else 0, _UNDEFINED_POINTS)
    note = ax.annotate(
        words, (x, 0), xycoords=xycoords, xytext=shift, textcoords="offset points", ha=ha, **_SMALL
    )
    note.set_gid("undefined")


def _legend(table: Table) -> Sequence[Artist]:
    """Each model with its share of scores above chance, then what the marks mean."""
    handles: list[Artist] = []
    both = table.frame.dropna(subset=["value", "chance"])
    for name, colour in zip(table.series, table.colours, strict=True):
        label = textwrap.fill(name, 30)
        mine = both[both["series"] == name]
        if len(mine):
            beaten = mine["value"] > mine["chance"]
            if table.reading.better == "lower":
                beaten = mine["value"] < mine["chance"]
            word = "below" if table.reading.better == "lower" else "above"
            label += f"\n{beaten.mean():.0%} of scores {word} chance"
        handles.append(Patch(color=colour, label=label))
    handles.append(Line2D([], [], ls="", marker="o", ms=3, color="0.4", label="one cell"))
    handles.append(Line2D([], [], color="0.2", lw=2, label="median"))
    if table.known("chance"):
        handles.append(Line2D([], [], color="black", ls=_DASHES, label="chance, on average"))
    if table.known("highest"):
        handles.append(Patch(color=_BAND, label="within reach of the layer's grid"))
        handles.append(Line2D([], [], color=_CEILING, label="ceiling, on average"))
    return handles
