"""Distributions of a score over cells, by method, layer and model."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from attrscore.core.columns import column_of
from attrscore.core.readings import Reading, chance_of, reading_of
from attrscore.errors import ConfigError, DataError, did_you_mean, preview
from attrscore.report.figures._sheet import Sheet, axes_of, colours_for, plain_text
from attrscore.stats.conditions import is_null

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = ["distribution", "distributions", "thinned"]

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
_ROW_INCHES = 12.0
_LETTER_INCHES = 0.085


@dataclass(frozen=True, eq=False)
class _Groups:
    """The rows to draw, with plain names, in groups and on one scale for all panels."""

    frame: pd.DataFrame
    """method, layer, series: text; value: NaN where undefined; chance, lowest, highest."""
    score: str
    reading: Reading
    methods: Sequence[str]
    series: Sequence[str]
    """Models, in the order in which the table names them first."""

    @classmethod
    def of(cls, scores: pd.DataFrame, score: str, /) -> _Groups:
        """Check the table and give its columns plain names."""
        if score not in scores.columns or not pd.api.types.is_numeric_dtype(scores[score]):
            known = [
                name
                for name in scores.select_dtypes("number").columns
                if column_of(str(name)).kind in ("score", "diagnostic")
            ]
            raise ConfigError(
                f"The table has no column of scores '{score}'. {did_you_mean(score, known)}"
            )
        if scores.empty:
            raise DataError(
                "The table of scores is empty: nothing was computed, or a filter left no row."
            )
        reading = reading_of(scores, score)
        absent = pd.Series(np.nan, index=scores.index)
        frame = pd.DataFrame(
            {
                "method": scores["method"].astype(str),
                "layer": scores["layer"].astype(str),
                "series": _series(scores),
                "value": scores[score].astype(float),
                "chance": chance_of(scores, score),
                "lowest": scores.get(f"{score}.lowest", absent),
                "highest": scores.get(f"{score}.highest", absent),
            }
        ).replace([np.inf, -np.inf], np.nan)
        methods, series = (list(frame[name].unique()) for name in ("method", "series"))
        return cls(frame, score, reading, methods, series)

    @property
    def words(self) -> str:
        """What the score is, for an axis."""
        return self.reading.axis or self.score

    def known(self, column: str, /) -> bool:
        """Whether the table knows ``chance`` or ``highest`` for any row."""
        return bool(self.frame[column].notna().any())

    def layers(self, method: str, /) -> list[str]:
        """The layers of a method, in the order in which the whole table names them first."""
        mine = set(self.frame.loc[self.frame["method"] == method, "layer"])
        return [layer for layer in self.frame["layer"].unique() if layer in mine]

    def inches(self, method: str, /) -> float:
        """Width of a panel in which every group can be seen."""
        group = 0.42 if len(self.series) < 4 else 0.24
        return max(2.1, len(self.layers(method)) * (len(self.series) * group + 0.16))

    def label_inches(self, method: str, /) -> float:
        """Height to add for the names of layers: 0 where they fit side by side, else slanted."""
        layers = self.layers(method)
        longest = max(map(len, layers)) * _LETTER_INCHES
        return 0.5 * longest if longest > self.inches(method) / len(layers) else 0.0

    def rows(self) -> list[list[str]]:
        """Methods in order, wrapped into rows that fit a page."""
        page = max(_ROW_INCHES, *map(self.inches, self.methods))
        rows: list[list[str]] = [[]]
        for method in self.methods:
            if rows[-1] and sum(map(self.inches, [*rows[-1], method])) > page:
                rows.append([])
            rows[-1].append(method)
        return rows

    def limits(self) -> tuple[float, float]:
        """The range that the score has; else 0 to 1 for what looks like shares, or what the data
        and the chance level need. With a little air.
        """  # noqa: D205  # one sentence
        drawn = self.frame["value"].dropna()
        low, high = self.reading.range
        if low is None or high is None:
            low, high = 0.0, 1.0
            if len(drawn) and not drawn.between(0, 1).all():
                both = pd.concat([drawn, self.frame["chance"].dropna()])
                low, high = float(both.min()), float(both.max())
        air = 0.025 * (high - low) or 0.5
        return low - air, high + air


def thinned(frame: pd.DataFrame, /, *, most: int) -> pd.DataFrame:
    """Rows with a value, at most ``most`` a (layer, series): evenly spaced in rank, ends kept."""
    ordered = frame.dropna(subset=["value"]).sort_values("value", kind="stable")
    groups = ordered.groupby(["layer", "series"])["value"]
    rank = groups.cumcount()
    last = (groups.transform("size") - 1).clip(lower=1)
    slot, slot_before = (r * (most - 1) // last for r in (rank, rank - 1))
    return ordered[slot != slot_before]


def _series(scores: pd.DataFrame) -> pd.Series[str]:
    """The model's name, with the dataset or target where one model has several.

    Randomised weights are a series of their own.
    """
    model = scores["model"].astype(str)
    name = model
    for column in ("dataset", "target"):
        if column in scores:
            seen = pd.DataFrame({"model": model, "other": scores[column].astype(str)})
            if seen.drop_duplicates()["model"].duplicated().any():
                name = name + ", " + seen["other"]
    hidden = is_null(scores)
    return name.where(~hidden, name + ", randomised weights") if hidden.any() else name


@plain_text
def distribution(
    scores: pd.DataFrame, /, *, score: str = "grad_camo", ax: Axes | None = None
) -> Axes:
    """Draw the scores of one method at its layers, one colour a model.

    A dot is a cell, a bar the median. Dashed: the mean score of a map that ignores the mask. Grey:
    from the lowest to the highest score that the layer's grid allows any of the cells, with a line
    at the mean of the highest. Cells without a score are counted under their group. Layers stand in
    the order in which the table names them first.

    :raises ConfigError: the column is not there, or the table holds several methods.
    :raises DataError: the table is empty.
    """
    table = _Groups.of(scores, score)
    if len(table.methods) > 1:
        raise ConfigError(
            f"distribution() draws one method; the table holds {preview(table.methods)}. Choose "
            "with scores[scores.method == '...'], or draw all with distributions(scores)."
        )
    (method,) = table.methods
    ax = axes_of(ax, table.inches(method) + _LEGEND_INCHES, 3.4 + table.label_inches(method))
    _draw_panel(ax, table, method)
    ax.set_ylabel(textwrap.fill(table.words, 26))
    ax.legend(handles=_legend(table), loc="upper left", bbox_to_anchor=(1.01, 1.0), **_LEGEND)
    return ax


@plain_text
def distributions(scores: pd.DataFrame, /, *, score: str = "grad_camo") -> Sheet:
    """Draw all methods side by side on one scale, a panel each as in :func:`distribution`.

    :raises ConfigError: the column is not there.
    :raises DataError: the table is empty.
    """
    table = _Groups.of(scores, score)
    rows = table.rows()
    widest = max(3.5, *(sum(map(table.inches, row)) for row in rows))
    heights = [3.0 + max(map(table.label_inches, row)) for row in rows]
    sheet = Sheet(inches=(widest + _LEGEND_INCHES, sum(heights)))
    lines = sheet.add_gridspec(len(rows), 1, height_ratios=heights)
    for i, row in enumerate(rows):
        widths = [table.inches(method) for method in row]
        if len(rows) > 1 and (spare := widest - sum(widths)) > 0.1:
            widths.append(spare)  # so that groups are equally wide in all rows
        cells = lines[i].subgridspec(1, len(widths), width_ratios=widths)
        for j, method in enumerate(row):
            ax = sheet.add_subplot(cells[j])
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
        notes.append("Grey band: what a layer's grid can reach, whatever the model does.")
    title = table.words if table.words == score else table.words[0].upper() + table.words[1:]
    sheet.head(title, notes, beside=_LEGEND_INCHES)
    return sheet


def _draw_panel(ax: Axes, table: _Groups, method: str) -> None:
    layers, series = table.layers(method), table.series
    colours = colours_for(len(series))
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
            palette=colours,
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
            _draw_cells(ax, middle, step, group["value"], here["value"], colours[k])

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
    colour: tuple[float, float, float],
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


def _legend(table: _Groups) -> Sequence[Artist]:
    """Each model with its share of scores above chance, then what the marks mean."""
    handles: list[Artist] = []
    both = table.frame.dropna(subset=["value", "chance"])
    for name, colour in zip(table.series, colours_for(len(table.series)), strict=True):
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
