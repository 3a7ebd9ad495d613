"""Distributions of a score over cells, by method, layer and model."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from attrscore.errors import ConfigError, DataError, did_you_mean, preview
from attrscore.plots.sheet import Sheet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = ["distribution", "distributions"]

_NOT_SCORES = {
    *("id", "model", "dataset", "method", "layer", "target", "label", "predicted"),
    *("status", "reason", "explained", "confidence"),
}
_WORDS = {"grad_camo": "share of the attribution on the cell"}
_CONSTANT_CHANCE = {
    "grad_camo.lift": 1.0,
    "grad_camo.above_chance": 0.0,
    "grad_camo.log_odds": 0.0,
    "grad_camo.resolved": 0.0,
    "grad_camo.cell_vs_neighbours": 0.0,
    "grad_camo.auc": 0.5,
}
_DODGED = 0.8
"""Width that the models of one layer share, of the 1.0 between layers; seaborn's own."""
_DOTS = 300
"""Most dots a group; of larger groups evenly spaced quantiles stand for all."""
_ROW_INCHES = 12.0
_DASHES = (0, (2.2, 1.2))
_BAND, _CEILING = "0.90", "0.55"
_SMOOTH = 5
"""Fewest dots that get a violin."""
_LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 8.5, "labelspacing": 0.8}
_SMALL: dict[str, Any] = {"fontsize": 7, "color": "0.35"}


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
    table = _Table.of(scores, score)
    if len(table.methods) > 1:
        raise ConfigError(
            f"distribution() draws one method; the table holds {preview(table.methods)}. Choose "
            "with scores[scores.method == '...'], or draw all with distributions(scores)."
        )
    (method,) = table.methods
    if ax is None:
        ax = Sheet(inches=(table.inches(method) + 2.8, 3.6)).subplots()
    table.draw(ax, method)
    ax.set_ylabel(table.words)
    ax.legend(handles=table.legend(), loc="upper left", bbox_to_anchor=(1.01, 1.0), **_LEGEND)
    return ax


def distributions(scores: pd.DataFrame, /, *, score: str = "grad_camo") -> Sheet:
    """All methods side by side, a panel each as in ``distribution``, on one scale.

    :raises ConfigError: the column is not there.
    :raises DataError: the table is empty.
    """
    table = _Table.of(scores, score)
    rows = table.rows()
    widest = max(sum(table.inches(method) for method in row) for row in rows)
    sheet = Sheet(inches=(max(widest, 3.5) + 3.3, 3.0 * len(rows)))
    grid = sheet.add_gridspec(len(rows), 1)
    for line, row in zip(grid, rows, strict=True):
        ratios = [table.inches(method) for method in row]
        spare = widest - sum(ratios)
        cells = line.subgridspec(
            1, len(row) + (spare > 0.1), width_ratios=[*ratios, *([spare] if spare > 0.1 else [])]
        )
        for j, method in enumerate(row):
            ax = sheet.add_subplot(cells[j])
            table.draw(ax, method)
            ax.set_ylabel(table.words if j == 0 else "")
            ax.tick_params(labelleft=j == 0)
    sheet.legend(handles=table.legend(), loc="outside right upper", **_LEGEND)
    sheet.head(*table.head())
    return sheet


@dataclass(frozen=True)
class _Table:
    """The rows to draw under plain names, and what all panels share."""

    frame: pd.DataFrame
    """method, layer, series: text; value: NaN where undefined; chance, lowest, highest."""
    score: str
    methods: Sequence[str]
    series: Sequence[str]

    @classmethod
    def of(cls, scores: pd.DataFrame, score: str) -> _Table:
        if score not in scores.columns or not pd.api.types.is_numeric_dtype(scores[score]):
            known = [
                str(name)
                for name in scores.select_dtypes("number").columns
                if name not in _NOT_SCORES and not str(name).startswith("Metadata_")
            ]
            raise ConfigError(
                f"The table has no column of scores '{score}'. {did_you_mean(score, known)}"
            )
        if scores.empty:
            raise DataError(
                "The table of scores is empty: nothing was computed, or a filter left no row."
            )
        absent = pd.Series(np.nan, index=scores.index)
        frame = pd.DataFrame(
            {
                "method": scores["method"].astype(str),
                "layer": scores["layer"].astype(str),
                "series": _series(scores),
                "value": scores[score].astype(float),
                "chance": scores.get(f"{score}.chance", absent),
                "lowest": scores.get(f"{score}.lowest", absent),
                "highest": scores.get(f"{score}.highest", absent),
            }
        ).replace([np.inf, -np.inf], np.nan)
        if score in _CONSTANT_CHANCE:
            frame["chance"] = _CONSTANT_CHANCE[score]
        return cls(frame, score, list(frame["method"].unique()), list(frame["series"].unique()))

    @property
    def words(self) -> str:
        return textwrap.fill(_WORDS.get(self.score, self.score), 26)

    @property
    def colours(self) -> Sequence[tuple[float, float, float]]:
        few = len(self.series) <= 10
        palette: Sequence[tuple[float, float, float]] = sns.color_palette(
            "colorblind" if few else "husl", len(self.series)
        )
        return palette

    def layers(self, method: str) -> Sequence[str]:
        named = self.frame["layer"].unique()
        mine = set(self.frame.loc[self.frame["method"] == method, "layer"])
        return [layer for layer in named if layer in mine]

    def inches(self, method: str) -> float:
        """Width of a panel in which every group can be told apart."""
        group = 0.42 if len(self.series) < 4 else 0.24
        return max(2.1, len(self.layers(method)) * (len(self.series) * group + 0.16))

    def rows(self) -> list[list[str]]:
        """Methods in order, wrapped into rows that fit a page."""
        rows: list[list[str]] = [[]]
        used = 0.0
        for method in self.methods:
            if rows[-1] and used + self.inches(method) > _ROW_INCHES:
                rows.append([])
                used = 0.0
            rows[-1].append(method)
            used += self.inches(method)
        return rows

    def limits(self) -> tuple[float, float] | None:
        """0 to 1 for shares; None where the data decide."""
        shares = self.frame["value"].dropna().between(0, 1).all()
        return (-0.02, 1.02) if shares else None

    def draw(self, ax: Axes, method: str) -> None:
        """One panel: grids and chance behind, violins, dots and medians in front."""
        layers, series = self.layers(method), self.series
        frame = self.frame[self.frame["method"] == method]
        drawn = _thinned(frame)
        smooth = drawn[drawn.groupby(["layer", "series"])["value"].transform("count") >= _SMOOTH]
        if not smooth.empty:
            sns.violinplot(
                smooth,
                **{"x": "layer", "y": "value", "hue": "series", "order": layers},
                **{"hue_order": series, "palette": self.colours, "legend": False, "ax": ax},
                **{"cut": 0, "inner": None, "density_norm": "width", "gap": 0.12},
                **{"linewidth": 0, "alpha": 0.35, "zorder": 2},
            )
        step = _DODGED / len(series)
        for (layer, name), group in frame.groupby(["layer", "series"], sort=False):
            k = series.index(name)
            middle = layers.index(layer) + (k - (len(series) - 1) / 2) * step
            here = drawn[(drawn["layer"] == layer) & (drawn["series"] == name)]
            _draw_group(ax, middle, step, group, here["value"].to_numpy(), self.colours[k])
        self._dress(ax, method, layers, undefined=int(frame["value"].isna().sum()))

    def _dress(self, ax: Axes, method: str, layers: Sequence[str], *, undefined: int) -> None:
        ax.set_title(textwrap.fill(method, 30), loc="left", fontsize=10, fontweight="bold")
        ax.set_xlabel("")
        ax.set_ylabel("")
        ax.set_xlim(-0.5, len(layers) - 0.5)
        if (limits := self.limits()) is not None:
            ax.set_ylim(limits)
        ax.set_xticks(range(len(layers)), layers)
        ax.tick_params(axis="x", length=0, pad=15 if undefined else 5)
        room = self.inches(method) / len(layers)
        if max(len(layer) for layer in layers) * 0.085 > room:
            for tick in ax.get_xticklabels():
                tick.set(rotation=35, ha="right", rotation_mode="anchor")
        if undefined:
            ax.annotate(
                "undefined",
                (0, 0),
                xycoords="axes fraction",
                xytext=(-4, -10),
                textcoords="offset points",
                ha="right",
                va="center",
                **_SMALL,
            )
        ax.grid(axis="y", color="0.93", linewidth=0.8)
        ax.set_axisbelow(True)
        sns.despine(ax=ax)

    def legend(self) -> list[Artist]:
        """Each model with its cells above chance, then what the marks mean."""
        frame = self.frame
        handles: list[Artist] = []
        for name, colour in zip(self.series, self.colours, strict=True):
            label = textwrap.fill(name, 30)
            known = frame[frame["series"] == name].dropna(subset=["value", "chance"])
            if len(known):
                above = (known["value"] > known["chance"]).mean()
                label += f"\n{above:.0%} of scores above chance"
            handles.append(Patch(color=colour, label=label))
        handles.append(
            Line2D([], [], linestyle="", marker="o", ms=3, color="0.4", label="one cell")
        )
        handles.append(Line2D([], [], color="0.2", linewidth=2, label="median"))
        if frame["chance"].notna().any():
            handles.append(
                Line2D(
                    [], [], color="black", ls=_DASHES, label="chance: a map that\nignores the mask"
                )
            )
        if frame["highest"].notna().any():
            handles.append(Patch(color=_BAND, label="all that the layer's\ngrid can reach"))
            handles.append(Line2D([], [], color=_CEILING, label="ceiling of the average cell"))
        return handles

    def head(self) -> tuple[str, list[str]]:
        """Title and small print."""
        notes = []
        if self.frame["chance"].notna().any():
            notes.append(
                "Dashed: a map that ignores the mask. A network whose scores lie on or below it "
                "is not looking at the cell."
            )
        if self.frame["highest"].notna().any():
            notes.append("Grey band: what this layer's grid can reach, whatever the network does.")
        words = _WORDS.get(self.score, self.score)
        return words[0].upper() + words[1:], notes


def _series(scores: pd.DataFrame) -> pd.Series[str]:
    """The model's name, with the dataset or target where one model has several."""
    name = scores["model"].astype(str)
    for column in ("dataset", "target"):
        if column in scores and (scores.groupby("model")[column].nunique() > 1).any():
            name = name + ", " + scores[column].astype(str)
    return name


def _thinned(frame: pd.DataFrame) -> pd.DataFrame:
    """The defined rows in order of value, at most ``_DOTS`` a group, evenly spaced in rank."""
    ordered = frame.dropna(subset=["value"]).sort_values("value", kind="stable")
    groups = ordered.groupby(["layer", "series"])["value"]
    rank, size = groups.cumcount(), groups.transform("size")
    last = (size - 1).clip(lower=1)
    slot = rank * (_DOTS - 1) // last
    first_of_slot = slot != (rank - 1) * (_DOTS - 1) // last
    return ordered[first_of_slot | (rank == 0)]


def _draw_group(
    ax: Axes,
    middle: float,
    step: float,
    group: pd.DataFrame,
    dots: np.ndarray,
    colour: tuple[float, float, float],
) -> None:
    left, right = middle - 0.48 * step, middle + 0.48 * step
    lowest, highest = group["lowest"].min(), group["highest"].max()
    if np.isfinite(lowest) and np.isfinite(highest):
        ax.bar(
            middle,
            highest - lowest,
            right - left,
            lowest,
            color=_BAND,
            zorder=0.6,
            gid="attainable",
        )
        ceiling = group["highest"].mean()
        ax.hlines(ceiling, left, right, colors=_CEILING, linewidth=1, zorder=0.7, gid="ceiling")
    chance = group["chance"].mean()
    if np.isfinite(chance):
        ax.hlines(
            chance, left, right, colors="black", ls=_DASHES, linewidth=1.3, zorder=5, gid="chance"
        )
    if len(dots):
        # Steps of the golden ratio spread dots evenly without touching a random state.
        aside = (np.arange(len(dots)) * 0.618034 % 1 - 0.5) * 0.5 * step
        ax.scatter(middle + aside, dots, s=5, color=colour, alpha=0.6, linewidth=0, zorder=3)
        median = group["value"].median()
        dark = tuple(0.55 * part for part in colour)
        ax.hlines(median, left, right, colors=[dark], linewidth=2, zorder=4, gid="median")
    if undefined := int(group["value"].isna().sum()):
        ax.annotate(
            str(undefined),
            (middle, 0),
            xycoords=ax.get_xaxis_transform(),
            xytext=(0, -10),
            textcoords="offset points",
            ha="center",
            va="center",
            gid="undefined",
            **_SMALL,
        )
