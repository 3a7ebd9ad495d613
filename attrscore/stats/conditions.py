"""Which rows of a results table belong to one condition, and which to a null."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from attrscore.errors import DataError, did_you_mean

__all__ = [
    "RANDOMIZE",
    "by_condition",
    "columns_of",
    "is_null",
    "label",
    "once",
    "telling",
    "varying",
]

RANDOMIZE = "model.randomize"
"""The option of a model whose rows with another value than ``none`` are the null."""

_NAMES = ("model", "dataset", "method", "layer", "target")
_PREFIXES = ("model.", "dataset.", "method.", "target.", "output.", "heat.", "scorer.")
_BARE = ("seed", "output", "attrscore")


def columns_of(table: pd.DataFrame, /, *, without: Sequence[str] = ()) -> list[str]:
    """The columns that name a condition: what was computed how, beside the cell.

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
    known = [
        str(name)
        for name in table
        if name in _NAMES or name in _BARE or str(name).startswith(_PREFIXES)
    ]
    return [name for name in known if name.partition(".")[0] not in without]


def varying(table: pd.DataFrame, columns: Sequence[str], /) -> list[str]:
    """Those of the columns that have more than one value."""
    return [name for name in columns if len(table[name].drop_duplicates()) > 1]


def telling(
    table: pd.DataFrame, columns: Sequence[str], always: Sequence[str] = (), /
) -> list[str]:
    """Those of the columns that tell rows apart, and those always shown; in this order.

    Fingerprints stand for weights and data that have names: they are left out where those do.
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
    """The rows of each combination of these columns, in the order of the table.

    :raises DataError: a cell that stands twice in one condition.
    """
    if not columns:
        yield {}, table
        return
    for values, rows in table.groupby(list(columns), sort=False, dropna=False, observed=True):
        yield dict(zip(columns, values, strict=True)), rows


def once(rows: pd.DataFrame, /) -> pd.DataFrame:
    """The rows by id.

    :raises DataError: a cell that stands twice.
    """
    twice = rows["id"][rows["id"].duplicated()]
    if len(twice):
        raise DataError(
            f"The cell '{twice.iloc[0]}' has several rows of one condition; ids must be unique. "
            "Choose one dataset or one setting of the table."
        )
    return rows.set_index(rows["id"].to_numpy())


def is_null(table: pd.DataFrame, /, *, null: str | None = None) -> np.ndarray[Any, Any]:
    """Which rows are of randomised weights: by ``model.randomize``, or the model called ``null``.

    :raises DataError: there is no model of that name.
    """
    found = np.zeros(len(table), dtype=bool)
    if RANDOMIZE in table:
        told = table[RANDOMIZE]
        found |= (told.notna() & ~told.astype(str).isin(["none", ""])).to_numpy()
    if null is not None:
        named = (table["model"].astype(str) == null).to_numpy()
        if not named.any():
            raise DataError(
                f"There is no model '{null}' to be the null. "
                f"{did_you_mean(null, set(table['model']))}"
            )
        found |= named
    return found


def label(condition: dict[str, Any], shown: Sequence[str], /) -> str:
    """A condition in words: the values of these columns, options with their name.

    >>> label({"method": "grad_cam", "heat.sign": "absolute"}, ["method", "heat.sign"])
    'grad_cam sign=absolute'
    """
    return " ".join(
        f"{'' if name in _NAMES else name.rpartition('.')[2] + '='}{condition[name]}"
        for name in shown
        if pd.notna(condition.get(name))
    )
