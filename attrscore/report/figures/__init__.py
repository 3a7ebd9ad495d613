"""Figures: score distributions, what scores say, and heat laid over cells.

:data:`FIGURES` lists those of a report, with their captions. Nothing here registers a figure with
pyplot or switches its backend, so the functions work the same on a server without a screen and in a
notebook. A Sheet shows itself there when a cell ends with it; of Axes drawn without ``ax`` it is
their ``.figure``. Names are imported when they are used: the list alone loads no matplotlib.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attrscore.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

    from attrscore.report.figures._sheet import Sheet, save
    from attrscore.report.figures.cells import Example, contact_sheet, overlay, overlays
    from attrscore.report.figures.scores import distribution, distributions
    from attrscore.report.figures.summaries import (
        agreement_matrix,
        bands,
        differences,
        plate_map,
        region_bars,
        score_against_area,
        score_table,
        threshold_curves,
        training_curves,
    )
    from attrscore.stats import Report

_MODULES = ("_sheet", "cells", "scores", "summaries")

__all__ = [
    "FIGURES",
    "Example",
    "Figure",
    "Sheet",
    "agreement_matrix",
    "bands",
    "contact_sheet",
    "differences",
    "distribution",
    "distributions",
    "figure",
    "figures_of",
    "overlay",
    "overlays",
    "plate_map",
    "region_bars",
    "save",
    "score_against_area",
    "score_table",
    "threshold_curves",
    "training_curves",
]


@dataclass(frozen=True)
class Figure:
    """A figure of a report: what draws it, and what is said of it."""

    function: str
    """Of :mod:`attrscore.report.figures.summaries`: (scores, report) -> Sheet, or None."""
    title: str
    caption: str
    """Beside the title in the page; empty where the figure itself says it all."""
    needs: str
    """The data without which there is nothing to draw."""
    most: int | None = 80
    """Conditions (or pairs) up to which it is legible; the page leaves out larger ones."""
    on_page: bool = True
    """Whether the page has this figure; else it has a table in its stead."""

    def legible(self, found: Report, /) -> bool:
        """Whether a report has no more conditions, or pairs, than it can show."""
        pairs = max(map(len, found.comparisons.values()), default=0)
        size = pairs if self.function == "differences_sheet" else len(found.summary)
        return self.most is None or size <= self.most

    def draw(self, scores: pd.DataFrame, found: Report, /) -> Sheet | None:
        """Draw it; None where its data are not there."""
        home = importlib.import_module("attrscore.report.figures.summaries")
        drawn: Sheet | None = getattr(home, self.function)(scores, found)
        return drawn


FIGURES: Mapping[str, Figure] = {
    "scores": Figure(
        "bands_sheet",
        "Mean scores beside chance and randomised weights",
        "Dot and line: mean and 95 % interval over units. Tick: a map that ignores the mask. "
        "Grey band: the interval of the same model with randomised weights, where it was run.",
        needs="a score of any trained model",
    ),
    "table": Figure(
        "table_sheet",
        "Mean scores as a table",
        "A row a model, a column a method and layer. Blank: no cell has a score.",
        needs="a score of any trained model",
        on_page=False,
    ),
    "distributions": Figure(
        "distributions_sheet",
        "Distributions of scores",
        "",
        needs="a score of any trained model",
    ),
    "regions": Figure(
        "regions_sheet",
        "Where the attribution lies",
        "Mean shares over cells; the parts of a bar sum to 1. Below each model those of a map "
        "that ignores the cell: the areas of the regions. Nucleus and cytoplasm stand apart where "
        "region_shares was run.",
        needs="shares of regions: the scorer grad_camo or region_shares",
    ),
    "area": Figure(
        "area_sheet",
        "Score against area fraction",
        "A dot is a cell. Dashed: a map that ignores the mask.",
        needs="cells with both a score and an area fraction",
    ),
    "thresholds": Figure(
        "threshold_sheet",
        "Share of cells above every threshold",
        "",
        needs="cells with a score",
    ),
    "plates": Figure(
        "plates_sheet",
        "Mean scores of wells on their plates",
        "One method and layer: the first of those that define most scores. Crossed out: no cell "
        "has a score.",
        needs="wells that are all named as B02, in Metadata_Well",
        most=None,
    ),
    "agreement": Figure(
        "agreement_sheet",
        "Rank correlation of scores over cells",
        "Of methods and layers, a matrix a model. Blank: undefined.",
        needs="two methods or layers of one model",
        on_page=False,
    ),
    "differences": Figure(
        "differences_sheet",
        "Paired differences",
        "Dot and line: mean difference on the same cells and its 95 % interval over units.",
        needs="two models, methods or layers on the same cells",
        most=60,
    ),
}
"""Every figure of a report by name: what ``attrscore report --figure`` and the page draw."""


def figure(name: str, scores: pd.DataFrame, found: Report, /) -> Sheet:
    """Draw one of :data:`FIGURES`; ``scores`` is the table that the report is of.

    :raises ConfigError: no such figure.
    :raises DataError: the results lack the data that it needs.
    """
    if name not in FIGURES:
        raise ConfigError(f"There is no figure {name!r}. {did_you_mean(name, FIGURES)}")
    sheet = FIGURES[name].draw(scores, found)
    if sheet is None:
        raise DataError(f"There is nothing to draw as {name}: it needs {FIGURES[name].needs}.")
    return sheet


def figures_of(
    scores: pd.DataFrame, found: Report, /, names: Iterable[str] = FIGURES
) -> Iterator[tuple[str, Sheet]]:
    """Draw those of the figures that have something to show and are legible, by name.

    None where no condition has a score.
    """
    for name in names:
        if found.summary["mean"].notna().any() and FIGURES[name].legible(found):
            sheet = FIGURES[name].draw(scores, found)
            if sheet is not None:
                yield name, sheet


def __getattr__(name: str) -> Any:
    if name in __all__:
        modules = (importlib.import_module(f"{__name__}.{each}") for each in _MODULES)
        return next(getattr(module, name) for module in modules if hasattr(module, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
