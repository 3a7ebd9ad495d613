"""Which rows of a results table belong to one condition, and which to its null and its swap."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from attrscore.core.columns import column_of
from attrscore.errors import DataError, did_you_mean
from attrscore.stats.resampling import numbers

__all__ = [
    "RANDOMIZE",
    "by_condition",
    "by_id",
    "columns_of",
    "distinguishing",
    "is_null",
    "label",
    "named",
    "null_of",
    "records",
    "short",
    "swap_of",
    "varying",
]

RANDOMIZE = "model.randomize"
"""The option of a model whose rows with another value than ``none`` are the null."""

_OF_MAPS = ("method", "layer", "target", "heat", "scorer")
"""First words of the columns that say what was computed; the others say of which model."""
_FINGERPRINT = re.compile(r"(fingerprint=[0-9a-f]{8})[0-9a-f]+")


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
    method_layer = [name for name in shown if name.partition(".")[0] in _OF_MAPS]
    series = [name for name in shown if name not in method_layer and name != RANDOMIZE]
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
            raise DataError(
                f"There is no model '{null}' to be the null. "
                f"{did_you_mean(null, set(table['model']))}"
            )
        found |= named
    return found


def null_of(
    condition: dict[str, Any],
    table: pd.DataFrame,
    nulls: pd.DataFrame,
    null: str | None,
    column: str,
    /,
) -> pd.DataFrame:
    """The rows of one condition under randomised weights: of several draws that of highest mean."""
    held = [name for name in columns_of(table, without=["model", "seed"]) if name != "attrscore"]
    rows: pd.DataFrame = nulls[_alike(nulls, condition, held)]
    named = rows["model"].astype(str) == null
    of_it = rows["model"].astype(str) == str(condition["model"])
    if RANDOMIZE in rows:
        of_it &= rows[RANDOMIZE].astype(str) == "all"
    rows = rows[named | of_it]
    if column not in rows or rows.empty:
        return rows
    draws = [draw for _, draw in by_condition(rows, columns_of(table))]
    return max(draws, key=lambda draw: _mean(numbers(draw, column)))


def _mean(values: np.ndarray[Any, Any]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else -np.inf


def swap_of(
    condition: dict[str, Any], table: pd.DataFrame, tested: pd.DataFrame, /
) -> pd.DataFrame:
    """The swap of a condition's model: a row a cell, whatever the method and layer.

    Columns ``inside``, ``outside`` and ``difference`` are NaN where the swap is undefined; without
    them no swap was run.
    """
    if "swap.inside" not in tested or "swap.outside" not in tested:
        return pd.DataFrame()
    held = columns_of(table, without=["method", "layer", "heat", "scorer"])
    rows: pd.DataFrame = tested[_alike(tested, condition, held)]
    inside, outside = (numbers(rows, f"swap.{side}") for side in ("inside", "outside"))
    rows = rows.assign(inside=inside, outside=outside, difference=inside - outside)
    means = rows.groupby("id")[["inside", "outside", "difference"]].transform("mean")
    return rows.assign(**{str(name): means[name] for name in means}).drop_duplicates("id")


def _alike(rows: pd.DataFrame, condition: dict[str, Any], names: Sequence[str]) -> Any:
    """Which rows have the condition's values in these columns; missing equals missing."""
    same = np.ones(len(rows), dtype=bool)
    for name in names:
        wanted = condition[name]
        column = rows[name]
        same &= (column.isna() if pd.isna(wanted) else column == wanted).to_numpy(dtype=bool)
    return same
