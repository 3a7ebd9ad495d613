"""Figures: score distributions, what scores say, and heat laid over cells.

Nothing here registers a figure with pyplot or switches its backend, so the functions work the same
on a server without a screen and in a notebook. A Sheet shows itself there when a cell ends with it;
of Axes drawn without ``ax`` it is their ``.figure``.
"""

from attrscore.report.figures.cells import Example, overlay, overlays
from attrscore.report.figures.contact import contact_sheet
from attrscore.report.figures.evidence import (
    agreement_matrix,
    evidence,
    score_against_area,
    threshold_curves,
)
from attrscore.report.figures.kinds import KINDS, figure
from attrscore.report.figures.scores import distribution, distributions
from attrscore.report.figures.sheet import Sheet, save
from attrscore.report.figures.summaries import bands, differences, plate_map, score_table

__all__ = [
    "KINDS",
    "Example",
    "Sheet",
    "agreement_matrix",
    "bands",
    "contact_sheet",
    "differences",
    "distribution",
    "distributions",
    "evidence",
    "figure",
    "overlay",
    "overlays",
    "plate_map",
    "save",
    "score_against_area",
    "score_table",
    "threshold_curves",
]
