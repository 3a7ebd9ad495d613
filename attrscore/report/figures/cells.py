"""Single cells: heat and outlines laid over their images, and crops side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns
from matplotlib import patheffects
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, to_rgb

from attrscore.errors import DataError
from attrscore.report.figures._sheet import Sheet, axes_of, plain_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["HEAT", "Example", "colours_of", "contact_sheet", "overlay", "overlays"]

_CHANNELS = {
    1: ("#ffffff",),
    2: ("#ff40ff", "#30ff60"),
    3: ("#3070ff", "#30ff60", "#ff5040"),
    4: ("#3070ff", "#30ff60", "#ff5040", "#ffd030"),
    5: ("#3070ff", "#30e0e0", "#30ff60", "#ffd030", "#ff5040"),
}
"""Additive colours by number of channels."""
_OUTLINES = {"cell": "solid", "nucleus": (0, (1.0, 1.0)), "neighbours": (0, (3.0, 2.0))}
_LEGEND = "Solid outline: the cell. Dashed: its neighbours. Dotted: its nucleus, if known."
_ACROSS = 6
"""Panels of a contact sheet side by side."""
_CONTACT_INCHES = 1.6
_SLICES = 5
_PROJECTION = "max projection"
_PANEL_INCHES = 1.75
# Opacity hides: nothing at 0, so that the image shows where the map is silent.
HEAT = ListedColormap(
    [
        (*colour, 0.9 * share**0.6)
        for share, colour in zip(
            np.linspace(0, 1, 256), sns.color_palette("inferno", 356)[100:], strict=True
        )
    ]
)
_Array = np.ndarray[Any, Any]
_View = Callable[[_Array], _Array]


@dataclass(frozen=True, eq=False)
class Example:
    """One cell to look at.

    ``image`` is (C, *S); ``regions`` hold ``cell`` and maybe ``neighbours``, (*S) each; ``heats``
    are non-negative (*S) under the heading of their column ("grad_cam features.3"), and ``scores``
    under the same headings.

    :raises DataError: shapes that do not fit together, or heat that is negative.
    """

    id: str
    image: _Array
    regions: Mapping[str, _Array]
    heats: Mapping[str, _Array]
    scores: Mapping[str, float]
    caption: str = ""

    def __post_init__(self) -> None:
        if self.image.ndim not in (3, 4):
            raise DataError(
                f"An image to draw must be (C, Y, X) or (C, Z, Y, X); given: {self.image.shape}."
            )
        space = self.image.shape[1:]
        for kind, arrays in (("region", self.regions), ("heat", self.heats)):
            for name, array in arrays.items():
                if array.shape != space:
                    raise DataError(
                        f"{kind} '{name}' must have the image's shape {space}; given: "
                        f"{array.shape}. Heat on a layer's own grid is resized by Heat.full()."
                    )
        for name, heat in self.heats.items():
            if (heat < 0).any():
                raise DataError(
                    f"heat '{name}' has negative values: settle the sign of a map before drawing."
                )


@plain_text
def overlay(
    image: _Array,
    heat: _Array | None,
    regions: Mapping[str, _Array],
    /,
    *,
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """Draw one cell in 2D under its heat: image (C, Y, X), heat and regions (Y, X).

    Without heat the channels are added up in colours; under heat the image is grey, so that colour
    means heat alone. Heat is scaled by its own maximum, for display only, and transparent at 0; a
    blank or undefined map says so in words. Solid outline: ``cell``; dashed: ``neighbours``;
    dotted: ``nucleus``. Channels are stretched from their 1st to their 99.8th percentile.

    :raises DataError: shapes that do not fit, or heat that is negative.
    """
    example = Example("", image, regions, {} if heat is None else {"heat": heat}, {})
    if image.ndim != 3:
        raise DataError(
            f"overlay() draws one plane, an image (C, Y, X); given: {image.shape}. "
            "Slices and projections of a volume: overlays([Example(...)])."
        )
    ax = axes_of(ax, 3.2, 3.4)
    (_, view), *_ = _views(example)
    _draw_plane(ax, _stretched(image), heat, regions, view)
    ax.set_title(title, fontsize=9)
    return ax


@plain_text
def overlays(examples: Sequence[Example], /, *, title: str = "") -> Sheet:
    """Draw a row a cell: first its image, then a column for each heat with its score.

    A volume takes several rows: its maximum projection, then up to 5 slices evenly spaced through
    the cell. Contrast and heat are scaled over the whole volume, so its slices can be compared.

    :raises DataError: no examples.
    """
    if not examples:
        raise DataError("There is no example to draw: choose at least one cell.")
    names = list(dict.fromkeys(name for example in examples for name in example.heats))
    rows = [(example, *view) for example in examples for view in _views(example)]
    heights = [
        _PANEL_INCHES * example.image.shape[-2] / example.image.shape[-1]
        + (0.25 if plane in ("", _PROJECTION) else 0.05)
        for example, plane, _ in rows
    ]
    sheet = Sheet(inches=((1 + len(names)) * _PANEL_INCHES + 0.6, sum(heights) + 0.8))
    axes = sheet.subplots(len(rows), 1 + len(names), squeeze=False)
    for i, (example, plane, view) in enumerate(rows):
        image = _stretched(example.image)
        first = plane in ("", _PROJECTION)
        label = [textwrap.fill(example.caption or example.id, 22)] if first else []
        axes[i, 0].set_ylabel("\n".join([*label, *([plane] if plane else [])]), fontsize=8)
        _draw_plane(axes[i, 0], image, None, example.regions, view)
        for ax, name in zip(axes[i, 1:], names, strict=True):
            if name in example.heats:
                _draw_plane(ax, image, example.heats[name], example.regions, view)
            else:
                _draw_nothing(ax)
            score = example.scores.get(name) if first else None
            known = score is not None and np.isfinite(score)
            ax.set_title(f"{score:.2f}" if known else "undefined" * (score is not None), fontsize=9)
        if i == 0:
            for ax, name in zip(axes[0], ["image", *names], strict=True):
                heading = textwrap.fill(name, 20)
                ax.set_title(f"{heading}\n{ax.get_title()}".rstrip(), fontsize=9)
    if names:
        bar = sheet.colorbar(
            ScalarMappable(cmap=HEAT), ax=axes, location="bottom", shrink=0.35, aspect=30, pad=0.01
        )
        bar.set_ticks([0, 1], labels=["0", "each map's own maximum"])
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=8)
    notes = [_LEGEND]
    if names:
        notes.append("Above a map: its score. Heat is scaled map by map, for display only.")
    sheet.head(title, notes)
    return sheet


def _views(example: Example) -> Iterator[tuple[str, _View]]:
    """Ways to see an example as planes, (..., *S) -> (..., Y, X), each with its label."""
    if example.image.ndim == 3:
        yield "", lambda array: array
        return
    yield _PROJECTION, lambda array: array.max(axis=-3)
    cell = example.regions.get("cell", np.zeros(0))
    inside = np.flatnonzero(cell.any(axis=(-2, -1))) if cell.any() else np.array([])
    first, last = (inside[0], inside[-1]) if len(inside) else (0, example.image.shape[1] - 1)
    bins = (np.arange(_SLICES) + 0.5) / _SLICES
    for z in np.unique((first + bins * (last - first + 1)).astype(int)):
        yield f"z = {z}", partial(np.take, indices=z, axis=-3)


def _stretched(image: _Array) -> _Array:
    """(C, *S) to [0, 1], each channel between two of its percentiles; 0 where not finite."""
    out = np.zeros(image.shape)
    for c, channel in enumerate(image.astype(float)):
        finite = np.isfinite(channel)
        if finite.any():
            low, high = np.percentile(channel[finite], (1, 99.8))
            if high > low:
                out[c][finite] = ((channel[finite] - low) / (high - low)).clip(0, 1)
    return out


def colours_of(image: _Array) -> _Array:
    """(C, 3) to add up a stretched image (C, *S) in, so dark that hardly any pixel overflows."""
    palette = _CHANNELS.get(len(image)) or sns.color_palette("husl", len(image))
    colours = np.array([to_rgb(colour) for colour in palette])
    brightest = np.percentile(np.tensordot(image, colours, axes=(0, 0)), 99.5)
    return colours / max(1.0, float(brightest))


def _draw_plane(
    ax: Axes,
    image: _Array,
    heat: _Array | None,
    regions: Mapping[str, _Array],
    view: _View,
) -> None:
    """Draw one plane; ``image`` is stretched, and heat is scaled by the whole map's maximum."""
    channels = view(image)
    if heat is None:
        coloured = np.tensordot(channels, colours_of(image), axes=(0, 0)).clip(0, 1)
        ax.imshow(coloured, interpolation="nearest")
    else:
        ax.imshow(0.8 * channels.mean(axis=0), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        top = float(heat.max())
        if not np.isfinite(heat).all():
            _write(ax, "undefined")
        elif top == 0:
            _write(ax, "blank: no attribution")
        else:
            share = view(heat) / top
            ax.imshow(share, cmap=HEAT, vmin=0, vmax=1, interpolation="nearest")
    for name, style in _OUTLINES.items():
        if name in regions:
            _outline(ax, view(regions[name]), style, name)
    height, width = channels.shape[1:]
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _outline(ax: Axes, mask: _Array, style: Any, name: str) -> None:
    # Padded, so that an outline closes where the crop cuts the cell; without a crossing of 0.5
    # matplotlib warns.
    padded = np.pad(mask.astype(float), 1)
    if padded.max() <= 0.5:
        return
    y, x = (np.arange(size) - 1 for size in padded.shape)
    lines = ax.contour(
        x, y, padded, levels=[0.5], colors="white", linewidths=1.3, linestyles=[style]
    )
    lines.set(gid=name, path_effects=[patheffects.withStroke(linewidth=2.6, foreground="black")])


def _draw_nothing(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[], facecolor="0.95", box_aspect=1)
    ax.spines[:].set_visible(False)
    ax.text(0.5, 0.5, "not computed", transform=ax.transAxes, ha="center", va="center", color="0.4")


def _write(ax: Axes, words: str) -> None:
    ax.text(
        *(0.5, 0.04, words),
        transform=ax.transAxes,
        ha="center",
        fontsize=8,
        color="white",
        bbox={"facecolor": "black", "alpha": 0.7, "linewidth": 0, "pad": 2},
    )


@plain_text
def contact_sheet(
    examples: Sequence[Example],
    /,
    *,
    spacing: tuple[float, ...] | None = None,
    title: str = "",
    notes: Sequence[str] = (),
) -> Sheet:
    """Draw a panel a cell; a volume takes two: where the cell is largest, and from the side.

    Captions stand above. ``spacing`` (micrometres a voxel) gives the side view its true height.

    :raises DataError: no examples.
    """
    if not examples:
        raise DataError("There is no example to draw: choose at least one cell.")
    volumes = examples[0].image.ndim == 4
    panels = 2 if volumes else 1
    across = min(_ACROSS, len(examples) * panels)
    rows = -(-len(examples) * panels // across)
    sheet = Sheet(inches=(across * _CONTACT_INCHES, rows * (_CONTACT_INCHES + 0.35)))
    axes = sheet.subplots(rows, across, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for number, example in enumerate(examples):
        first = axes[number * panels]
        image = _stretched(example.image)
        if not volumes:
            _panel(first, image, example)
        else:
            z = _fullest(example.regions["cell"], 0)
            _panel(first, image, example, partial(np.take, indices=z, axis=-3))
            side = axes[number * panels + 1]
            y = _fullest(example.regions["cell"], 1)
            _panel(side, image, example, partial(np.take, indices=y, axis=-2))
            side.set_aspect(spacing[-3] / spacing[-1] if spacing else 1.0)
            side.set_title(f"z down, x across, at y = {y}", fontsize=6, color="0.3")
        first.set_title(
            textwrap.fill(example.caption or example.id, 26) + (f"\nz = {z}" if volumes else ""),
            fontsize=6,
        )
    sheet.head(title, [_LEGEND, *notes])
    return sheet


def _panel(ax: Axes, image: _Array, example: Example, view: _View = np.asarray) -> None:
    ax.set_axis_on()
    _draw_plane(ax, image, None, example.regions, view)


def _fullest(cell: _Array, axis: int) -> int:
    """The plane across an axis with most of the cell; the middle one where there is none of it."""
    planes = cell.sum(axis=tuple({0, 1, 2} - {axis}))
    return int(planes.argmax()) if planes.any() else cell.shape[axis] // 2
