"""Figures of a report's tables: scores beside chance and null, heat tables, plates, differences."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from attrscore.errors import DataError
from attrscore.report.figures.evidence import colours_for
from attrscore.report.figures.sheet import Sheet
from attrscore.stats.conditions import RANDOMIZE, is_null, label
from attrscore.stats.resampling import numbers

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = [
    "bands",
    "differences",
    "named",
    "plate_map",
    "records",
    "score_table",
    "short",
    "well_place",
]

_PLACE = ("method", "layer", "target", "heat", "scorer")
"""First words of the columns that say what was computed; the others say of which network."""
_FINGERPRINT = re.compile(r"(fingerprint=[0-9a-f]{8})[0-9a-f]+")
_LETTER_INCHES = 0.075
_WELL = re.compile(r"([A-Za-z]{1,2})0*([1-9]\d?)$")
_NULL, _CHANCE = "0.82", "0.25"


def named(rows: pd.DataFrame, shown: Sequence[str], /) -> pd.DataFrame:
    """Rows of conditions with two columns in words: ``series``, the network, and ``place``.

    ``shown`` are the columns that tell conditions apart, as a report has them.
    """
    place = [name for name in shown if name.partition(".")[0] in _PLACE]
    series = [name for name in shown if name not in place and name != RANDOMIZE]
    return rows.assign(
        series=_labels(rows, series or ["model"]),
        place=_labels(rows, place or ["method", "layer"]),
    )


def _labels(rows: pd.DataFrame, names: Sequence[str]) -> Any:
    """The words of each row, made once for rows that have the same."""
    groups = rows.groupby(list(names), sort=False, dropna=False, observed=True)
    words = [short(label(each, names)) for each in records(rows[list(names)].drop_duplicates())]
    return np.array(words, dtype=object)[groups.ngroup().to_numpy()]


def short(name: str, /) -> str:
    """A name of a condition in which fingerprints are cut to what tells them apart.

    >>> short("net fingerprint=b82121bebe30ac6f91fb618ce0ae6a79")
    'net fingerprint=b82121be'
    """
    return _FINGERPRINT.sub(r"\1", name)


def records(rows: pd.DataFrame, /) -> list[dict[str, Any]]:
    """A mapping a row, its columns as text."""
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def bands(
    summary: pd.DataFrame,
    /,
    *,
    shown: Sequence[str] = ("model", "method", "layer"),
    null: str | None = None,
    words: str = "score",
    ax: Axes | None = None,
) -> Axes:
    """The mean of every condition with its interval, over the interval of its randomised weights.

    A row a condition of :func:`attrscore.stats.summarise`, in its order. A tick marks chance: the
    mean score of a map that ignores the mask. Conditions without a score have no dot.

    :raises DataError: an empty summary.
    """
    rows = named(summary, shown)
    hidden = is_null(rows, null=null if null in set(rows["model"].astype(str)) else None)
    tested, nulls = rows[~hidden], rows[hidden]
    if tested.empty:
        raise DataError("There is no condition to draw.")
    if ax is None:
        beside = _LETTER_INCHES * max(map(len, tested["place"]))
        ax = Sheet(inches=(5.6 + beside, 1.3 + 0.25 * len(tested))).subplots()
    series = list(dict.fromkeys(tested["series"]))
    colours = dict(zip(series, colours_for(len(series)), strict=True))
    for y, (_, row) in enumerate(tested.iterrows()):
        alike = nulls[nulls["place"] == row["place"]]
        own = alike[(alike["model"] == row["model"]) | (alike["model"].astype(str) == null)]
        for _, of in own.iterrows():
            ends = [of[name] if np.isfinite(of[name]) else of["mean"] for name in ("low", "high")]
            ax.fill_between(ends, y - 0.4, y + 0.4, color=_NULL, lw=0.8, gid="null")
        ax.plot([row["chance"]] * 2, [y - 0.3, y + 0.3], color=_CHANCE, lw=1.4, gid="chance")
        colour = colours[row["series"]]
        ax.plot([row["low"], row["high"]], [y, y], color=colour, lw=2, gid="interval")
        ax.plot([row["mean"]], [y], "o", color=colour, ms=5, gid="mean")
    ax.set_yticks(range(len(tested)), list(tested["place"]))
    ax.set_ylim(len(tested) - 0.4, -0.6)
    if tested["mean"].dropna().between(0, 1).all():
        ax.set_xlim(0, 1)
    ax.set_xlabel(f"mean {words}")
    ax.tick_params(axis="y", length=0, labelsize=8)
    ax.grid(axis="x", color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
    handles: list[Artist] = [
        Line2D([], [], color=c, marker="o", ms=5, label=s) for s, c in colours.items()
    ]
    handles.append(Line2D([], [], color=_CHANCE, marker="|", ls="", ms=10, label="chance"))
    if len(nulls):
        handles.append(Patch(color=_NULL, label="randomised weights"))
    ax.legend(
        handles=handles, frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3
    )
    sns.despine(ax=ax, left=True)
    return ax


def score_table(
    summary: pd.DataFrame,
    /,
    *,
    value: str = "mean",
    shown: Sequence[str] = ("model", "method", "layer"),
    words: str = "",
    ax: Axes | None = None,
) -> Axes:
    """A heat table: networks down, methods and layers across, one number of the summary in each.

    A share is coloured from 0 to 1; what has chance at 0 in two colours around it. Undefined is
    blank.

    :raises DataError: an empty summary.
    """
    rows = named(summary, shown)
    if rows.empty:
        raise DataError("There is no condition to draw.")
    order = [list(dict.fromkeys(rows[name])) for name in ("series", "place")]
    first = rows.drop_duplicates(["series", "place"]).set_index(["series", "place"])[value]
    wide = pd.DataFrame(
        [[first.get((one, place), np.nan) for place in order[1]] for one in order[0]],
        index=order[0],
        columns=order[1],
        dtype=float,
    )
    finite = wide.to_numpy()[np.isfinite(wide.to_numpy())]
    share = not len(finite) or bool((finite >= 0).all() and (finite <= 1).all())
    ends = (0.0, 1.0) if share else (-float(np.abs(finite).max()), float(np.abs(finite).max()))
    if ax is None:
        inches = (2.6 + 0.7 * wide.shape[1], 1.9 + 0.4 * wide.shape[0])
        ax = Sheet(inches=inches).subplots()
    sns.heatmap(
        wide,
        ax=ax,
        vmin=ends[0],
        vmax=ends[1],
        cmap="cividis" if share else "vlag",
        annot=wide.shape[1] <= 24,
        fmt=".2f",
        annot_kws={"fontsize": 8},
        linewidths=1,
        cbar_kws={"label": words or value.replace("_", " "), "shrink": 0.8},
    )
    ax.set(xlabel="", ylabel="")
    ax.set_xticks(np.arange(wide.shape[1]) + 0.5, [textwrap.fill(p, 22) for p in order[1]])
    ax.tick_params(labelsize=8, length=0)
    ax.tick_params(axis="x", rotation=90)
    ax.tick_params(axis="y", rotation=0)
    return ax


def well_place(name: str, /) -> tuple[int, int] | None:
    """Row and column of a well, both from 0; None where its name is no well's.

    >>> well_place("B02"), well_place("AA1"), well_place("well 7")
    ((1, 1), (26, 0), None)
    """
    found = _WELL.fullmatch(str(name).strip())
    if found is None:
        return None
    row = 0
    for letter in found[1].upper():
        row = row * 26 + ord(letter) - ord("A") + 1
    return row - 1, int(found[2]) - 1


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
    """The mean score of each well of one plate where the well lies, for rows of one condition.

    Wells without a defined score are crossed out, places without a well are empty. The plate is as
    large as its wells need, of 6, 24, 96, 384 or 1536.

    :raises DataError: no row, or no name of a well such as B02.
    """
    values = pd.Series(numbers(scores, score), index=scores.index)
    means = values.where(np.isfinite(values)).groupby(scores[well].astype(str)).mean()
    places = {name: place for name in means.index if (place := well_place(name)) is not None}
    if not places:
        raise DataError(f"There is no well named as B02 in {well} to draw a plate of.")
    far = [max(place[axis] for place in places.values()) for axis in (0, 1)]
    sizes = ((2, 3), (4, 6), (8, 12), (16, 24), (32, 48))
    wide = (far[0] + 1, far[1] + 1)
    down, across = next((s for s in sizes if far[0] < s[0] and far[1] < s[1]), wide)
    grid = np.full((down, across), np.nan)
    if ax is None:
        ax = Sheet(inches=(1.6 + 0.32 * across, 1.0 + 0.3 * down)).subplots()
    for name, (row, column) in places.items():
        grid[row, column] = means[name]
        if not np.isfinite(means[name]):
            ax.plot(column, row, "x", color="0.5", ms=5, gid="undefined")
    low, high = limits or (0.0, float(np.nanmax(grid)) if np.isfinite(grid).any() else 1.0)
    drawn = ax.imshow(grid, cmap="cividis", vmin=low, vmax=high, aspect="equal")
    letters = [_letters(row) for row in range(down)]
    ax.set_xticks(range(across), [str(c + 1) if _told(c, across) else "" for c in range(across)])
    ax.set_yticks(range(down), [each if _told(r, down) else "" for r, each in enumerate(letters)])
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


def differences(
    comparison: pd.DataFrame,
    /,
    *,
    shown: Sequence[str] = ("method", "layer"),
    words: str = "score",
    ax: Axes | None = None,
) -> Axes:
    """Paired differences with their intervals, a row a pair of a comparison; 0 is no difference.

    :raises DataError: an empty comparison.
    """
    if comparison.empty:
        raise DataError("There is no pair to draw.")
    held = [name for name in shown if name in comparison]
    names = [
        short(f"{row['first']} − {row['second']}")
        + (f"  ({told})" if (told := label(row, held)) else "")
        for row in records(comparison)
    ]
    if ax is None:
        beside = _LETTER_INCHES * max(map(len, names))
        ax = Sheet(inches=(4.6 + beside, 1.1 + 0.25 * len(comparison))).subplots()
    ax.axvline(0, color="0.4", lw=1, gid="zero")
    for y, (_, row) in enumerate(comparison.iterrows()):
        ax.plot([row["low"], row["high"]], [y, y], color="#0173b2", lw=2, gid="interval")
        ax.plot([row["difference"]], [y], "o", color="#0173b2", ms=5, gid="difference")
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlabel(textwrap.fill(f"mean difference of {words}, same cells", 46))
    ax.tick_params(axis="y", length=0, labelsize=8)
    ax.grid(axis="x", color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
    sns.despine(ax=ax, left=True)
    return ax


def _letters(row: int) -> str:
    return (chr(ord("A") + row // 26 - 1) if row >= 26 else "") + chr(ord("A") + row % 26)


def _told(place: int, of: int) -> bool:
    """Whether a row or column is numbered: all of them up to 12, then every other one."""
    return of <= 12 or place % 2 == 0
