"""Crops side by side with the outlines of their masks, to see whether the data were understood."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from attrscore.errors import DataError
from attrscore.report.figures.cells import Example, draw_plane, stretched
from attrscore.report.figures.sheet import Sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["contact_sheet"]

_ACROSS = 6
_PANEL_INCHES = 1.6
_Array = np.ndarray[Any, Any]
_OUTLINES = {"cell": "solid", "neighbours": (0, (3.0, 2.0)), "nucleus": (0, (1.0, 1.0))}


def contact_sheet(
    examples: Sequence[Example],
    /,
    *,
    spacing: tuple[float, ...] | None = None,
    title: str = "",
    notes: Sequence[str] = (),
) -> Sheet:
    """A panel a cell; a volume takes two: the plane where the cell is largest, and from the side.

    Captions stand above. ``spacing`` (micrometres a voxel) gives the side view its true height.

    :raises DataError: no examples.
    """
    if not examples:
        raise DataError("There is no example to draw: choose at least one cell.")
    volumes = examples[0].image.ndim == 4
    panels = 2 if volumes else 1
    across = min(_ACROSS, len(examples) * panels)
    rows = -(-len(examples) * panels // across)
    sheet = Sheet(inches=(across * _PANEL_INCHES, rows * (_PANEL_INCHES + 0.35)))
    axes = sheet.subplots(rows, across, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for number, example in enumerate(examples):
        first = axes[number * panels]
        image = stretched(example.image)
        if not volumes:
            _panel(first, image, example)
        else:
            z = _widest(example.regions["cell"])
            _panel(first, image, example, partial(np.take, indices=z, axis=-3))
            side = axes[number * panels + 1]
            y = _middle(example.regions["cell"])
            _panel(side, image, example, partial(np.take, indices=y, axis=-2))
            side.set_aspect(spacing[-3] / spacing[-1] if spacing else 1.0)
            side.set_title(f"z down, x across, at y = {y}", fontsize=6, color="0.3")
        first.set_title(
            textwrap.fill(example.caption or example.id, 26) + (f"\nz = {z}" if volumes else ""),
            fontsize=6,
        )
    said = "Solid outline: the cell. Dashed: its neighbours. Dotted: its nucleus, if known."
    sheet.head(title, [said, *notes])
    return sheet


def _panel(
    ax: Axes, image: _Array, example: Example, view: Callable[[_Array], _Array] = np.asarray
) -> None:
    ax.set_axis_on()
    draw_plane(ax, image, None, example.regions, view, outlines=_OUTLINES)


def _widest(cell: _Array) -> int:
    """The plane with most of the cell; the middle one where there is none of it."""
    planes = cell.sum(axis=(-2, -1))
    return int(planes.argmax()) if planes.any() else cell.shape[0] // 2


def _middle(cell: _Array) -> int:
    rows = cell.sum(axis=(0, 2))
    return int(rows.argmax()) if rows.any() else cell.shape[1] // 2
