"""Why numbers are missing: what the column ``reason`` says of the scorers of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from attrscore.core import BETWEEN_REASONS, Scorer, Status
from attrscore.errors import preview
from attrscore.heat import Heat
from attrscore.passes import Pass
from attrscore.scorers.regions import every_region, find_region

__all__ = ["Gaps", "gaps_of", "reasons_of"]

Gaps = Mapping[str, np.ndarray]
"""Sentence -> which cells it holds for, (N,) bool."""

_OF_A_REGION: Mapping[str, str] = {
    "empty_region": "is empty",
    "full_region": "fills the crop",
}


def gaps_of(
    name: str,
    scorer: Scorer,
    scored: Tensor | Mapping[str, Tensor],
    columns: Mapping[str, np.ndarray],
    heat: Heat,
    run: Pass,
) -> Gaps:
    """Why ``columns``, which a scorer gave, are NaN: one sentence for each cell with a NaN.

    It is that of the scorer's region, or the first of the scorer's own that holds, or else names
    the columns. What the status of a row says is not asked here.
    """
    lost = {column: np.isnan(values) for column, values in columns.items()}
    open_cells = np.logical_or.reduce(list(lost.values()))
    if not open_cells.any():
        return {}
    told: dict[str, np.ndarray] = {}
    region = getattr(scorer, "region", None)
    if region in every_region(run):
        states = np.array(heat.status(find_region(run, region)))
        for status, words in _OF_A_REGION.items():
            told[f"{name}: the region {region!r} {words}."] = states == status
    for sentence, where in getattr(scored, "reasons", {}).items():
        told[f"{name}: {sentence}"] = where.cpu().numpy()
    gaps = {}
    for sentence, where in told.items():
        gaps[sentence] = where & open_cells
        open_cells = open_cells & ~where
    for row in np.flatnonzero(open_cells):
        missing = [column for column, where in lost.items() if where[row]]
        sentence = f"{name}: {preview(missing, most=3)} undefined."
        gaps.setdefault(sentence, np.zeros_like(open_cells))[row] = True
    return {sentence: where for sentence, where in gaps.items() if where.any()}


def reasons_of(
    states: Sequence[Status], failures: Sequence[str], unsupported: Sequence[str], gaps: Gaps
) -> np.ndarray:
    """The column ``reason``, (N,): failures in every row, all else where the status is ``ok``."""
    rows = [list(failures) for _ in states]
    fine = np.array(states) == "ok"
    for sentence, where in {**dict.fromkeys(unsupported, fine), **gaps}.items():
        for row in np.flatnonzero(where & fine):
            rows[row].append(sentence)
    return np.array([BETWEEN_REASONS.join(row) for row in rows], dtype=object)
