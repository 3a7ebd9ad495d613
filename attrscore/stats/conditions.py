"""Which rows of a results table belong to one condition, and which to its null and its swap."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from attrscore.core.columns import column_of
from attrscore.errors import AbsentError, DataError, did_you_mean

__all__ = [
    "CONFLICTING",
    "GUIDE",
    "RANDOMIZE",
    "UNSCORED",
    "alike",
    "by_condition",
    "by_id",
    "by_model",
    "columns_of",
    "distinguishing",
    "draws_of",
    "guide_of",
    "is_null",
    "label",
    "named",
    "of_model",
    "pooled",
    "records",
    "short",
    "swap_of",
    "varying",
]

RANDOMIZE = "model.randomize"
"""The option of a model whose rows with another value than ``none`` are the null."""

GUIDE = "model.guide"
"""What kept a model on the cell while it was trained."""
UNSCORED = ("none", "swap", "masked_crops")
"""Guides that looked at no attribution."""

CONFLICTING = "Metadata_conflicting"
"""1 where what may be a shortcut speaks for another class than the cell, else 0."""

_OF_MAPS = ("method", "layer", "target", "heat", "scorer")
"""First words of the columns that say what was computed; the others say of which model."""
_OF_A_SHARD = ("dataset.shard", "dataset.of", "dataset.fingerprint")
_FINGERPRINT = re.compile(r"(fingerprint=[0-9a-f]{8})[0-9a-f]+")


def guide_of(about: Mapping[str, Any], /) -> str:
    """What guided a model while it was trained; "none" where nothing did, or nobody knows."""
    guide = about.get(GUIDE)
    return "none" if not guide or pd.isna(guide) else str(guide)


def columns_of(table: pd.DataFrame, /, *, without: Sequence[str] = ()) -> list[str]:
    """List the columns that name a condition: what was computed and how, but not the cell.

    ``without`` leaves out a name with its options: ``model`` also ``model.randomize``.

    >>> columns_of(pd.DataFrame(columns=["id", "model", "method", "heat.sign", "grad_camo.auc"]))
    ['model', 'method', 'heat.sign']

    :raises DataError: a table without ``id``, ``model``, ``method`` and ``layer``.
    """
    for name in ("id", "model", "method", "layer"):
        if name not in table and not table.empty:
            raise DataError(
                f"A table of results has a column '{name}'. {did_you_mean(name, table)} "
                "Read it with attrscore.read_scores('results')."
            )
    known = [str(n) for n in table if column_of(str(n)).kind in ("condition", "option")]
    return [name for name in known if name.partition(".")[0] not in without]


def of_model(columns: Sequence[str], /) -> list[str]:
    """Those of the columns that say which model was asked, on which cells.

    >>> of_model(["model", "model.randomize", "method", "seed", "heat.sign"])
    ['model', 'model.randomize', 'seed']
    """
    return [name for name in columns if name.partition(".")[0] not in _OF_MAPS]


def varying(table: pd.DataFrame, columns: Sequence[str], /) -> list[str]:
    """Those of the columns that have more than one value."""
    return [name for name in columns if len(table[name].drop_duplicates()) > 1]


def distinguishing(
    table: pd.DataFrame, columns: Sequence[str], always: Sequence[str] = (), /
) -> list[str]:
    """Those of the columns whose values differ between rows, and those of ``always``, in order.

    A fingerprint is left out where the other columns distinguish the same rows without it.
    """
    found = [name for name in columns if name in always or name in varying(table, [name])]
    for name in [name for name in found if name.endswith(".fingerprint")]:
        without = [other for other in found if other != name]
        if len(table[without].drop_duplicates()) == len(table[found].drop_duplicates()):
            found = without
    return found


def by_condition(
    table: pd.DataFrame, columns: Sequence[str], /
) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Each combination of values of these columns with its rows, in the order of the table."""
    if not columns:
        yield {}, table
        return
    for values, rows in table.groupby(list(columns), sort=False, dropna=False, observed=True):
        yield dict(zip(columns, values, strict=True)), rows


def by_id(rows: pd.DataFrame, /) -> pd.DataFrame:
    """The rows indexed by cell.

    :raises DataError: several rows of one cell.
    """
    twice = rows["id"][rows["id"].duplicated()]
    if len(twice):
        raise DataError(
            f"The cell '{twice.iloc[0]}' has several rows of one condition; ids must be unique. "
            "Choose one dataset or one setting of the table."
        )
    return rows.set_index(rows["id"].to_numpy())


def label(condition: dict[str, Any], shown: Sequence[str], /) -> str:
    """A condition as text: the values of these columns, options with their name.

    >>> label({"method": "grad_cam", "heat.sign": "absolute"}, ["method", "heat.sign"])
    'grad_cam sign=absolute'
    """
    return " ".join(
        f"{'' if column_of(name).kind == 'condition' else name.rpartition('.')[2] + '='}"
        f"{condition[name]}"
        for name in shown
        if pd.notna(condition.get(name))
    )


def named(rows: pd.DataFrame, shown: Sequence[str], /) -> pd.DataFrame:
    """Add two columns of names for people: ``series``, the model, and ``method_layer``.

    ``shown`` are the columns that distinguish the conditions, as a report has them.
    """
    method_layer = [name for name in shown if name not in of_model(shown)]
    series = [name for name in of_model(shown) if name != RANDOMIZE]
    return rows.assign(
        series=_labels(rows, series or ["model"]),
        method_layer=_labels(rows, method_layer or ["method", "layer"]),
    )


def _labels(rows: pd.DataFrame, names: Sequence[str]) -> Any:
    """The label of each row, made once for rows that share it."""
    groups = rows.groupby(list(names), sort=False, dropna=False, observed=True)
    words = [short(label(each, names)) for each in records(rows[list(names)].drop_duplicates())]
    return np.array(words, dtype=object)[groups.ngroup().to_numpy()]


def short(name: str, /) -> str:
    """A name of a condition in which fingerprints are cut to 8 digits.

    >>> short("net fingerprint=b82121bebe30ac6f91fb618ce0ae6a79")
    'net fingerprint=b82121be'
    """
    return _FINGERPRINT.sub(r"\1", name)


def records(rows: pd.DataFrame, /) -> list[dict[str, Any]]:
    """A mapping a row, its columns as text."""
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def is_null(table: pd.DataFrame, /, *, null: str | None = None) -> np.ndarray[Any, Any]:
    """Which rows are of randomised weights: by ``model.randomize``, or the model called ``null``.

    :raises DataError: there is no model of that name.
    """
    found = np.zeros(len(table), dtype=bool)
    if RANDOMIZE in table:
        option = table[RANDOMIZE]
        found |= (option.notna() & ~option.astype(str).isin(["none", ""])).to_numpy()
    if null is not None:
        named = (table["model"].astype(str) == null).to_numpy()
        if not named.any():
            raise AbsentError(
                f"There is no model '{null}' to be the null. "
                f"{did_you_mean(null, set(table['model']))}"
            )
        found |= named
    return found


def by_model(rows: pd.DataFrame, /) -> dict[str, pd.DataFrame]:
    """The rows of each model: looked up, so that a report of many models stays linear."""
    return {str(name): each for name, each in rows.groupby(rows["model"].astype(str), sort=False)}


def draws_of(
    condition: dict[str, Any],
    nulls: Mapping[str, pd.DataFrame],
    score: str,
    null: str | None = None,
    /,
) -> list[pd.DataFrame]:
    """The rows of one condition and score under random weights, a frame a draw.

    ``nulls`` are rows of random weights :func:`by_model`: of the condition's own name, or of
    ``null``. Draws differ in ``seed`` and in settings of the model; their cells may be a shard of
    the condition's, and they need no other scorer. A cascade, ``model.randomize=last``, is a sanity
    check and no draw.
    """
    found = []
    for name in dict.fromkeys((str(condition["model"]), null)):
        rows = nulls.get(name or "", pd.DataFrame())
        columns = columns_of(rows)
        free = ("model", "seed", "attrscore", "scorer")
        held = [n for n in columns if n in condition and n.partition(".")[0] not in free]
        held += [n for n in condition if n in columns and n.startswith(f"scorer.{score}.")]
        if {"dataset.shard", "dataset.of"} & set(columns):
            held = [name for name in held if name not in _OF_A_SHARD]
        rows = rows[alike(rows, condition, held)]
        rows = rows[~_cascade(rows)]
        own = [name for name in columns if name.partition(".")[0] in ("model", "seed")]
        found += [draw for _, draw in by_condition(rows, own) if len(draw)]
    return found


def pooled(table: pd.DataFrame, hidden: np.ndarray[Any, Any], /) -> pd.DataFrame:
    """The table with the draws of random weights, ``hidden`` rows, as one condition.

    What distinguishes draws is blanked: the seed, settings of the model, the shard of their cells.
    """
    names = [
        n for n in columns_of(table) if n == "seed" or n.startswith("model.") or n in _OF_A_SHARD
    ]
    names = [name for name in names if name != RANDOMIZE]
    drawn = hidden & ~_cascade(table)
    return table.assign(**{name: table[name].astype(object).mask(drawn, "") for name in names})


def _cascade(rows: pd.DataFrame) -> np.ndarray[Any, Any]:
    """Rows of models that kept some of their weights."""
    if RANDOMIZE not in rows:
        return np.zeros(len(rows), dtype=bool)
    return rows[RANDOMIZE].astype(str).isin(["last", "cascade"]).to_numpy(dtype=bool)


def swap_of(condition: dict[str, Any], rows: pd.DataFrame, /) -> pd.DataFrame:
    """The swap of a model towards a condition's target: a row a cell, whatever method and layer.

    Columns of numbers ``swap.*`` are NaN where undefined; without them no swap was run.
    """
    rows = rows[alike(rows, condition, [n for n in condition if n.partition(".")[0] == "target"])]
    sides = [n for n in map(str, rows) if n.startswith("swap.") and is_numeric_dtype(rows[n])]
    means = rows.groupby("id")[sides].transform("mean") if sides else rows[[]]
    return rows.assign(**{name: means[name] for name in sides}).drop_duplicates("id")


def alike(rows: pd.DataFrame, condition: Mapping[str, Any], names: Sequence[str], /) -> Any:
    """Which rows have the condition's values in these columns; missing equals missing."""
    same = np.ones(len(rows), dtype=bool)
    for name in names:
        wanted = condition[name]
        column = rows[name]
        same &= (column.isna() if pd.isna(wanted) else column == wanted).to_numpy(dtype=bool)
    return same
