"""A figure that needs no pyplot, how it becomes a file, and what all figures share."""

from __future__ import annotations

import io
import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from attrscore.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes


plain_text = mpl.rc_context({"text.parse_math": False})
"""Decorates what draws names that users gave: ``$`` in them is a dollar and no formula."""

_SUFFIXES = (".png", ".svg", ".pdf")
_TITLE_INCHES, _NOTE_INCHES = 0.27, 0.19


class Sheet(Figure):
    """A figure outside pyplot's list of open ones; a notebook shows it when a cell returns it."""

    def __init__(self, *, inches: tuple[float, float]) -> None:
        super().__init__(figsize=inches, layout="constrained", facecolor="white")

    def draw(self, renderer: Any) -> None:
        """Draw it; the labels of ticks are made only now."""
        with mpl.rc_context({"text.parse_math": False}):
            super().draw(renderer)

    def _repr_png_(self) -> bytes:
        written = io.BytesIO()
        self.savefig(written, format="png")
        return written.getvalue()

    def head(self, title: str, notes: Iterable[str], *, beside: float = 0.0) -> None:
        """A bold title over small print; the axes make room for both.

        Lines are wrapped to the width less ``beside``, inches taken by a legend.
        """
        width, height = (float(side) for side in self.get_size_inches())
        lines = [(line, True) for line in textwrap.wrap(title, max(24, int((width - beside) * 9)))]
        for note in notes:
            lines += [
                (line, False) for line in textwrap.wrap(note, max(30, int((width - beside) * 13)))
            ]
        steps = [_TITLE_INCHES if bold else _NOTE_INCHES for _, bold in lines]
        height += sum(steps)
        self.set_size_inches(width, height)
        top = height - 0.08
        for (line, bold), step in zip(lines, steps, strict=True):
            self.text(
                0.1 / width,
                top / height,
                line,
                va="top",
                fontsize=12 if bold else 9,
                fontweight="bold" if bold else "normal",
                color="black" if bold else "0.3",
            )
            top -= step
        engine = self.get_layout_engine()
        if engine is not None:
            engine.set(rect=(0, 0, 1, top / height))  # type: ignore[call-arg]


def save(figure: Figure, path: str | os.PathLike[str], /, *, dpi: float = 150) -> Path:
    """Write the figure as PNG, SVG or PDF, as the suffix says, and close it; returns the path.

    The folder is made where it is missing. The file appears whole or not at all.

    :raises ConfigError: another suffix.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ConfigError(
            f"A figure is written as {', '.join(_SUFFIXES)}, as its name ends; given: '{path}'."
        )
    from attrscore.store.commit import new_file  # loads h5py, which drawing does not need

    try:
        with new_file(path) as aside:
            figure.savefig(aside, format=suffix[1:], dpi=dpi)
    finally:
        plt.close(figure)
    return path


def axes_of(ax: Axes | None, width: float, height: float) -> Axes:
    """The axes that were given, or those of a new sheet of so many inches."""
    return Sheet(inches=(width, height)).subplots() if ax is None else ax


def grid(panels: int, inches: tuple[float, float]) -> tuple[Sheet, list[Axes]]:
    """A sheet with at most three panels side by side, of so many inches each."""
    across = min(3, panels)
    down = -(-panels // across)
    sheet = Sheet(inches=(across * inches[0], down * inches[1]))
    axes = list(sheet.subplots(down, across, squeeze=False).flat)
    for ax in axes[panels:]:
        ax.remove()
    return sheet, axes[:panels]


def colours_for(count: int) -> Sequence[tuple[float, float, float]]:
    """Colours that colour-blind readers can tell apart, up to ten of them."""
    colours: Sequence[Any] = sns.color_palette("colorblind" if count <= 10 else "husl", count)
    return colours
