"""Figures as drawings inside the page: their greys follow the page, light or dark."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import matplotlib as mpl
from markupsafe import escape
from matplotlib.collections import PathCollection

if TYPE_CHECKING:
    from attrscore.report.figures import Sheet

__all__ = ["inline"]

_DOTS = 150
"""More dots than this become a picture inside the drawing: each would be an element."""
_GREY = re.compile(r"#([0-9a-f]{2})\1\1\b")
_POINTED = re.compile(r"(?<=url\(#)[^)]+(?=\))|(?<=href=\"#)[^\"]+(?=\")")
_NAMED = re.compile(r' id="([^"]+)"')


def inline(sheet: Sheet, name: str, title: str, /) -> str:
    """A sheet as SVG that can stand in a page beside others.

    Ids that nothing points to are dropped, ``name`` stands before the others.
    A grey becomes a mixture of the page's ink and paper. Text stays text.
    """
    for ax in sheet.axes:
        for each in ax.collections:
            if isinstance(each, PathCollection) and len(each.get_offsets()) > _DOTS:  # type: ignore[arg-type]  # an array
                each.set_rasterized(True)
    written = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        sheet.savefig(written, format="svg", dpi=130, metadata={"Date": None, "Creator": None})
    drawing = written.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    used = set(_POINTED.findall(drawing))
    drawing = _POINTED.sub(lambda found: f"{name}-{found[0]}", drawing)
    drawing = _NAMED.sub(
        lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", drawing
    )
    drawing = _GREY.sub(_mixed, drawing)
    return re.sub(r"<svg\b", f'<svg role="img" aria-label="{escape(title)}"', drawing, count=1)


def _mixed(grey: re.Match[str]) -> str:
    ink = round(100 * (1 - int(grey[1], 16) / 255))
    return {0: "var(--paper)", 100: "var(--ink)"}.get(
        ink, f"color-mix(in srgb, var(--ink) {ink}%, var(--paper))"
    )
