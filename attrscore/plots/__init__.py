"""Figures: score distributions, and heat laid over cells.

Nothing here registers a figure with pyplot or switches its backend, so the functions work the same
on a server without a screen and in a notebook. A Sheet shows itself there when a cell ends with it;
of Axes drawn without ``ax`` it is their ``.figure``.
"""

from attrscore.plots.cells import Example, overlay, overlays
from attrscore.plots.scores import distribution, distributions
from attrscore.plots.sheet import Sheet, save

__all__ = ["Example", "Sheet", "distribution", "distributions", "overlay", "overlays", "save"]
