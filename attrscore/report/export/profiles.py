"""An existing profile table, and scores joined onto it by its metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_float_dtype, is_numeric_dtype

from attrscore.errors import AbsentError, ConfigError, DataError, did_you_mean, preview
from attrscore.report.export.tables import Wide

__all__ = ["Joined", "join", "keys_of", "read_profiles"]


_WHOLE = r"^(-?(?:0|[1-9]\d*))\.0+$"


@dataclass(frozen=True, eq=False)
class Joined:
    """A profile table with scores, all its rows in their order, and what found no partner."""

    table: pd.DataFrame
    matched: int
    without_score: int
    """Rows of the profiles."""
    without_profile: int
    """Cells with scores."""


def read_profiles(path: Path, /, *, on: str | None = None) -> pd.DataFrame:
    """A profile table: CSV, plain or compressed, or Parquet.

    In a CSV, ``Metadata_`` columns and those that ``on`` names stay the text that stands there:
    barcode 007, plate 12E10, treatment NULL.

    :raises DataError: no such file, unreadable, or without a row.
    """
    if not path.is_file():
        raise AbsentError(f"There is no profile table {path}.")
    try:
        if path.name.endswith(".parquet"):
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(path, low_memory=False)
            keys = {*_pairs(on).values()}
            text = [str(n) for n in table if str(n).startswith("Metadata_") or n in keys]
            if text:
                missing = ["", "NA", "NaN", "nan"]
                table[text] = pd.read_csv(
                    path, usecols=text, dtype=str, keep_default_na=False, na_values=missing
                )
    except (OSError, ValueError, UnicodeError) as error:
        raise DataError(
            f"{path} cannot be read as a profile table, CSV or Parquet: "
            f"{str(error).splitlines()[0]}"
        ) from error
    if table.empty:
        raise DataError(f"The profile table {path} has no row.")
    return table


def keys_of(asked: str | None, wide: Wide, profiles: pd.DataFrame, /) -> dict[str, str]:
    """The columns to join by, ours -> theirs, from ``Metadata_Plate,Metadata_object=ObjectNumber``.

    :raises ConfigError: none given, or one that is not there.
    """
    ours, theirs = ([str(name) for name in each] for each in (wide.table, profiles))
    if not asked:
        shared = [name for name in ours if name in theirs]
        raise ConfigError(
            "--profiles needs --on, the columns that name a cell in both tables. Both have: "
            f"{preview(shared, most=20) or 'none; say --on OURS=THEIRS'}."
        )
    keys = _pairs(asked)
    for own, their in keys.items():
        if own not in ours:
            raise ConfigError(f"The results have no column {own!r}. {did_you_mean(own, ours)}")
        if their not in theirs:
            raise ConfigError(
                f"The profile table has no column {their!r}. {did_you_mean(their, theirs)}"
            )
    return keys


def _pairs(asked: str | None) -> dict[str, str]:
    pairs = (each.partition("=") for each in (asked or "").split(",") if each)
    return {own: their or own for own, _, their in pairs}


def join(wide: Wide, profiles: pd.DataFrame, keys: dict[str, str], /) -> Joined:
    """The scores beside the profiles whose keys are equal as text.

    The text of a number that is typed so is that of the whole number: 1 and 1.0 equal "1", and
    "1.0" too, but not "01". A missing key equals none.

    :raises DataError: a key that several rows of either side share, or no match at all.
    :raises ConfigError: columns of attrscore's are in the profiles already.
    """
    again = [name for name in wide.own if name in profiles]
    if again:
        raise ConfigError(
            f"The profile table has attrscore's columns already ({preview(again, most=3)}); give "
            "the table from before they were added."
        )
    left = _texts(profiles, list(keys.values()), beside=wide.table[list(keys)])
    right = _texts(wide.table, list(keys), beside=profiles[list(keys.values())])
    _check_unique(right, keys, "cells with scores")
    _check_unique(left, keys.values(), "rows of the profile table")
    found = right.reset_index().merge(
        left.reset_index(), on=list(range(len(keys))), suffixes=("_ours", "_theirs")
    )
    if found.empty:
        raise DataError(
            f"No row of the profiles matches a cell by {preview(keys)}. The first key there is "
            f"{_first(left)}, here {_first(right)}."
        )
    order = np.full(len(profiles), -1)
    order[found["index_theirs"]] = found["index_ours"]
    added = wide.table[wide.own].reset_index(drop=True)
    if (order < 0).any():
        added = added.reindex(np.where(order < 0, len(added), order))  # a row that is not there
    else:
        added = added.iloc[order]
    added.index = profiles.index
    return Joined(
        pd.concat([profiles, added], axis=1),
        len(found),
        len(profiles) - len(found),
        len(wide.table) - len(found),
    )


def _texts(table: pd.DataFrame, columns: Sequence[str], *, beside: pd.DataFrame) -> pd.DataFrame:
    """Keys as text under their indices, rows with a missing one left out.

    ``beside`` has the other table's columns, in the same order.
    """
    keys: dict[int, pd.Series[Any]] = {}
    for index, name in enumerate(columns):
        keys[index] = _text(table[name])
        if is_numeric_dtype(beside.iloc[:, index]) and not is_numeric_dtype(table[name]):
            keys[index] = keys[index].str.replace(_WHOLE, r"\1", regex=True)
    return pd.DataFrame(keys).reset_index(drop=True).dropna()


def _text(values: pd.Series[Any]) -> pd.Series[Any]:
    real = is_float_dtype(values)

    def one(value: Any) -> str | None:
        if pd.isna(value):
            return None
        return str(int(value)) if real and float(value).is_integer() else str(value)

    return values.astype(object).map(one)


def _check_unique(keys: pd.DataFrame, names: Any, what: str) -> None:
    twice = keys.duplicated(keep=False)
    if twice.any():
        shared = keys[twice].iloc[0].tolist()
        several = int((keys == keys[twice].iloc[0]).all(axis=1).sum())
        said = ", ".join(f"{name}={value}" for name, value in zip(names, shared, strict=True))
        raise DataError(
            f"{several} {what} share the key {said}; add a column to --on in which they differ."
        )


def _first(keys: pd.DataFrame) -> str:
    return preview(keys.iloc[0].tolist()) if len(keys) else "missing"
