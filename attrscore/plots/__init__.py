"""Figures: score distributions, what scores say, and heat laid over cells.

Nothing here registers a figure with pyplot or switches its backend, so the functions work the same
on a server without a screen and in a notebook. A Sheet shows itself there when a cell ends with it;
of Axes drawn without ``ax`` it is their ``.figure``.
"""

from attrscore.plots.cells import Example, overlay, overlays
from attrscore.plots.contact import contact_sheet
from attrscore.plots.evidence import (
    agreement_matrix,
    evidence,
    score_against_area,
    threshold_curves,
)
from attrscore.plots.scores import distribution, distributions
from attrscore.plots.sheet import Sheet, save

__all__ = [
    "Example",
    "Sheet",
    "agreement_matrix",
    "contact_sheet",
    "distribution",
    "distributions",
    "evidence",
    "overlay",
    "overlays",
    "save",
    "score_against_area",
    "threshold_curves",
]
