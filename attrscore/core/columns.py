"""The columns of a table of results: what each holds, and when it is known.

:data:`COLUMNS` is the one list; whatever orders, names or explains columns reads it. What a scorer
returns is said by the scorer itself (:mod:`attrscore.core.readings`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

ColumnKind = Literal["cell", "condition", "outcome", "option", "metadata", "diagnostic", "score"]
"""``cell``: which cell; ``condition``: what was computed; ``option``: a setting of it; ``outcome``:
what came of the row; ``diagnostic``: what a method says of its maps; ``metadata``: carried."""


@dataclass(frozen=True)
class Column:
    """What a column holds."""

    kind: ColumnKind
    says: str
    known: str = "always"
    """When it has a value."""
    title: str = ""
    """For the head of a table; the name itself where there is none."""


COLUMNS: Mapping[str, Column] = {
    "id": Column("cell", "name of the cell, unique in its dataset", title="cell"),
    "model": Column("condition", "name of the model"),
    "dataset": Column("condition", "name of the dataset"),
    "method": Column("condition", "name of the attribution method"),
    "layer": Column("condition", "where the maps lie: a layer of the model, or input"),
    "depth": Column("outcome", "how far the layer is through the model, from 0 to 1", "if traced"),
    "target": Column("condition", "name of what is explained"),
    "label": Column("cell", "number of the cell's class", "-1 where it has none"),
    "predicted": Column("outcome", "number of the class that the model predicts", "of classes"),
    "status": Column("outcome", "ok, or why the row has no score"),
    "reason": Column("outcome", "what happened, in words", "where something did"),
    "reasons": Column("outcome", "the same for programs: JSON", "where something did"),
    "explained": Column("outcome", "value of the target that was explained", "if it was computed"),
    "confidence": Column("outcome", "probability of the predicted class", "of classes"),
    "seed": Column("option", "seed of what is random", "where it differs"),
    "output": Column("option", "which output of the model is explained", "where it differs"),
    "batch_size": Column("option", "cells at once, which decides rounding", "where it differs"),
    "device": Column("option", "kind of device, which decides rounding", "where it differs"),
    "attrscore": Column("option", "version of attrscore", "where it differs"),
    "model.guide": Column(
        "option", "what kept the model on the cell in training", "where something did"
    ),
    "model.*": Column("option", "a setting of the model", "where it differs"),
    "dataset.*": Column("option", "a setting of the dataset", "where it differs"),
    "method.*": Column("option", "a setting of the method", "where it differs"),
    "target.*": Column("option", "a setting of the target", "where it differs"),
    "output.*": Column("option", "a setting of the output", "where it differs"),
    "heat.*": Column("option", "how maps became heat", "where it differs"),
    "scorer.*": Column("option", "a setting of the scorer", "where it differs"),
    "held_out": Column(
        "metadata", "whether the model was not trained on the cell", "where its weights say so"
    ),
    "Metadata_*": Column("metadata", "carried from the dataset", "where it carries it"),
    "completeness_error": Column(
        "diagnostic", "sum of a map less what it should be", "of path methods"
    ),
    "conservation_error": Column("diagnostic", "sum of a map less the output", "of LRP"),
    "output_change": Column("diagnostic", "output less that of the baseline", "of path methods"),
    "*.chance": Column("score", "score of a map that ignores the mask", title="chance"),
    "*.above_chance": Column(
        "score",
        "0 is chance whatever the area, 1 all on the cell; above 0 it grows with the area",
        title="above chance",
    ),
    "*.log_odds": Column(
        "score", "log odds ratio against the area of the cell: 0 is chance", title="log odds"
    ),
    "*.clipped": Column(
        "score",
        "1 where heat was scarcer than the layer's grid resolves, and was taken as scarce as that",
        "beside a log ratio",
        title="clipped",
    ),
    "*.lowest": Column(
        "score", "lowest score that the layer's grid allows", title="lowest attainable"
    ),
    "*.highest": Column(
        "score", "highest score that the layer's grid allows", title="highest attainable"
    ),
    "*.cell_vs_neighbours": Column(
        "score",
        "log ratio of the density of heat on the cell to that on its neighbours: 0 is equal",
        "of cells with neighbours",
        title="against neighbours",
    ),
    "*.auc": Column("score", "chance that a pixel of the cell is hotter", title="AUC"),
    "*": Column("score", "what a scorer returns", "where its scorer was run"),
}
"""Name or pattern -> what the column holds; the first that fits."""

KEY_COLUMNS = tuple(
    name
    for name, column in COLUMNS.items()
    if "*" not in name and column.kind in ("cell", "condition", "outcome")
)
"""The first columns of every results table: what a row is about, and whether it counts."""


def column_of(name: str, /) -> Column:
    """What a column of that name holds.

    >>> column_of("heat.sign").kind, column_of("grad_camo.chance").title
    ('option', 'chance')
    """
    if name in COLUMNS:
        return COLUMNS[name]
    return next(column for pattern, column in COLUMNS.items() if fnmatchcase(name, pattern))


def title_of(name: str, /) -> str:
    """The head of a column in tables for people.

    >>> title_of("id"), title_of("Metadata_Well"), title_of("swap.inside")
    ('cell', 'well', 'swap.inside')
    """
    carried = name.removeprefix("Metadata_")
    return column_of(name).title or (name if carried == name else carried.lower())
