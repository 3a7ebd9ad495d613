"""Tables beside images, CSV or Parquet, and the classes that a column of one names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_float_dtype

from attrscore.errors import ConfigError, DataError, did_you_mean

__all__ = ["carried_columns", "classes_of", "need_columns", "read_table"]


def read_table(path: str | Path, /, *, option: str, text: Iterable[str] = ()) -> pd.DataFrame:
    """A CSV (also ``.csv.gz``, ``.tsv``) or Parquet file; ``text`` are columns kept as they stand.

    Only an empty field, NA and NaN are missing: the genotype "NULL" and the treatment "None" are
    names.

    :raises DataError: unreadable, or without a row.
    """
    where = Path(path).expanduser()
    parquet = where.suffix.lower() in (".parquet", ".pq")
    kind = "Parquet" if parquet else "CSV"
    try:
        if parquet:
            table = pd.read_parquet(where)
            for column in set(text) & set(table.columns):
                table[column] = table[column].astype("string").astype(object)
        else:
            table = pd.read_csv(
                where,
                sep="\t" if where.name.lower().endswith((".tsv", ".tsv.gz", ".txt")) else ",",
                dtype=dict.fromkeys(text, str),  # an image may be called 007
                keep_default_na=False,
                na_values=["", "NA", "NaN", "nan"],
                low_memory=False,  # else one column may hold text and numbers
            )
    except Exception as error:  # whatever a damaged file does to its reader
        raise DataError(
            f"{option}='{path}' cannot be read as a {kind}: {error}; check the path."
        ) from error
    if table.empty:
        raise DataError(f"'{where.name}' has no rows; expected one a cell.")
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise DataError(f"'{where.name}' has two columns '{twice[0]}'; rename one.")
    return table


def need_columns(table: pd.DataFrame, columns: Sequence[tuple[str, str]], /, *, name: str) -> None:
    """That a table has the columns that options name: pairs of option and column.

    :raises ConfigError: the first that it has not, with the nearest.
    """
    for option, column in columns:
        if column not in table.columns:
            raise ConfigError(
                f"{option}='{column}' is not a column of '{name}'. "
                f"{did_you_mean(column, table.columns)}"
            )


def carried_columns(
    table: pd.DataFrame, carry: Sequence[str], /, *, taken: Iterable[str], name: str
) -> dict[str, str]:
    """Column -> what the results call it: the ``Metadata_`` ones, and those of ``carry``.

    :raises ConfigError: a name that attrscore gives itself.
    """
    carried = {str(c): str(c) for c in table.columns if str(c).startswith("Metadata_")}
    carried |= {column: f"Metadata_{column.removeprefix('Metadata_')}" for column in carry}
    clash = [column for column, new in carried.items() if new in set(taken)]
    if clash:
        raise ConfigError(
            f"The column '{clash[0]}' of '{name}' cannot be carried, for attrscore makes a column "
            f"'{carried[clash[0]]}' itself; rename it in the table."
        )
    return carried


def classes_of(values: pd.Series[Any], /) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
    """Index into the sorted classes, -1 where missing; numbers sort as numbers.

    >>> classes_of(pd.Series([10, 9, None]))
    (array([ 1,  0, -1]), ('9', '10'))
    """
    numbers, names = pd.factorize(values, sort=True)
    whole = is_float_dtype(values) and (values.dropna() % 1 == 0).all()
    return numbers, tuple(str(int(name) if whole else name) for name in names)
