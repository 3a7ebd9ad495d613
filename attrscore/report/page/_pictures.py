"""Pictures and drawings as text of the page: crops, heat, outlines, figures.

A volume is a strip: its planes below each other in one picture, of which the page shows one. An
image is a strip of one plane.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from markupsafe import escape
from matplotlib.collections import PathCollection
from PIL import Image

from attrscore.report.figures.cells import HEAT, colours_of

if TYPE_CHECKING:
    from attrscore.report.figures import Sheet


Array = np.ndarray[Any, Any]

_QUALITY = 88
"""Of WebP, where a picture is not to be measured; heat is stored without loss."""
_PALETTE = np.rint(255 * HEAT(np.linspace(0, 1, 256))).astype(np.uint8)


_DOTS = 150
"""More dots than this become a picture inside the drawing: each would be an element."""
_GREY = re.compile(r"#([0-9a-f]{2})\1\1\b")
_LINE = re.compile(r"(stroke: )(#[0-9a-f]{6})\b")
"""The colour of a line, which is lighter on dark paper."""
_POINTED = re.compile(r"(?<=url\(#)[^)]+(?=\))|(?<=href=\"#)[^\"]+(?=\")")
_NAMED = re.compile(r' id="([^"]+)"')


def shrunk(volume: Array, space: Sequence[int], /) -> Array:
    """Average an array (*S, ...) down to at most *space*, by whole pixels."""
    made = volume.astype(np.float64)
    for axis, most in enumerate(space):
        size = made.shape[axis]
        if size > most:
            edges = np.linspace(0, size, most + 1).astype(int)
            widths = np.diff(edges).reshape([-1 if i == axis else 1 for i in range(made.ndim)])
            made = np.add.reduceat(made, edges[:-1], axis=axis) / widths
    return made


def strip(planes: Array, /) -> Array:
    """Planes (P, Y, X, ...) below each other, (P * Y, X, ...)."""
    return planes.reshape(-1, *planes.shape[2:])


def composite(image: Array, /) -> Array:
    """Channels (C, *S) in [0, 1] added up in colours, (*S, 3) uint8."""
    mixed = np.tensordot(image, colours_of(image), axes=(0, 0)).clip(0, 1)
    coloured: Array = np.rint(255 * mixed).astype(np.uint8)
    return coloured


def picture(pixels: Array, /) -> str:
    """Grey (Y, X) or coloured (Y, X, 3) uint8 as a data URI."""
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, "WEBP", quality=_QUALITY, method=4)
    return _uri("image/webp", made.getvalue())


def heat_picture(share: Array, /) -> str:
    """Heat (Y, X) in [0, 1] as a data URI: transparent at 0, 256 steps, no loss."""
    made = io.BytesIO()
    steps = np.rint(255 * share).astype(np.uint8)
    image = Image.frombytes("P", steps.shape[::-1], steps.tobytes())
    image.putpalette(_PALETTE[:, :3].tobytes())
    image.save(made, "PNG", transparency=_PALETTE[:, 3].tobytes(), optimize=True)
    return _uri("image/png", made.getvalue())


def outline_picture(regions: Mapping[str, Array], /) -> str:
    """The borders of regions, planes (P, Y, X) each, as a drawing: cell solid, others broken.

    The nucleus is dotted, neighbours are dashed.

    Empty where there is no region.
    """
    if not regions:
        return ""
    ((planes, height, width),) = {mask.shape for mask in regions.values()}
    paths = []
    for name, mask in regions.items():
        pattern = {"cell": "", "nucleus": "1 1.6"}.get(name, "3 2.4")
        dashes = f' stroke-dasharray="{pattern}"' if pattern else ""
        way = outline(mask)
        paths += [
            f'<path d="{way}" stroke="{colour}" stroke-width="{thick}"{dashes}/>'
            for colour, thick in (("#000a", 2.6), ("#fff", 1.2))
        ]
    drawing = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {planes * height}" '
        'preserveAspectRatio="none"><style>path{fill:none;vector-effect:non-scaling-stroke}</style>'
        f"{''.join(paths)}</svg>"
    )
    return _uri("image/svg+xml", drawing.encode())


def outline(mask: Array, /) -> str:
    """The border of a region of planes (P, Y, X) as an SVG path over their strip.

    Along the sides of pixels; it closes where the region leaves the crop.

    >>> outline(np.array([[[False, True], [False, False]]]))
    'M1 0H2M1 1H2M1 0V1M2 0V1'
    """
    height = mask.shape[1]
    way = []
    for p, plane in enumerate(np.pad(mask.astype(bool), ((0, 0), (1, 1), (1, 1)))):
        for y, line in enumerate(plane[1:, 1:-1] != plane[:-1, 1:-1]):
            way += [f"M{a} {y + p * height}H{b}" for a, b in _runs(line)]
        for x, line in enumerate((plane[1:-1, 1:] != plane[1:-1, :-1]).T):
            way += [f"M{x} {a + p * height}V{b + p * height}" for a, b in _runs(line)]
    return "".join(way)


def _runs(line: Array) -> list[tuple[int, int]]:
    """Where flags are set, as start and stop of each run."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def inline(sheet: Sheet, name: str, title: str, /) -> str:
    """A sheet as SVG that can stand in a page beside others.

    Ids that nothing points to are dropped, ``name`` stands before the others.
    A grey becomes a mixture of the page's ink and paper, and lines are mixed with ink on dark
    paper. Text stays text.
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
    drawing = _LINE.sub(r"\1color-mix(in srgb, \2 var(--pure), var(--ink))", drawing)
    return re.sub(r"<svg\b", f'<svg role="img" aria-label="{escape(title)}"', drawing, count=1)


def _mixed(grey: re.Match[str]) -> str:
    ink = round(100 * (1 - int(grey[1], 16) / 255))
    return {0: "var(--paper)", 100: "var(--ink)"}.get(
        ink, f"color-mix(in srgb, var(--ink) {ink}%, var(--paper))"
    )
