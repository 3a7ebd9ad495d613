"""An existing profile table, and scores joined onto it by its metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attrscore.errors import ConfigError, DataError, did_you_mean, preview
from attrscore.report.export.wide import Wide

__all__ = ["Joined", "join", "keys_of", "read_profiles"]


@dataclass(frozen=True, eq=False)
class Joined:
    """A profile table with scores, all its rows in their order, and what found no partner."""

    table: pd.DataFrame
    matched: int
    without_score: int
    """Rows of the profiles."""
    without_profile: int
    """Cells with scores."""


def read_profiles(path: Path, /) -> pd.DataFrame:
    """A profile table: CSV, plain or compressed, or Parquet. Ids such as 007 stay text.

    :raises DataError: no such file, unreadable, or without a row.
    """
    if not path.is_file():
        raise DataError(f"There is no profile table {path}.")
    try:
        if path.name.endswith(".parquet"):
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(path, low_memory=False)
            table = _with_zeros_kept(table, path)
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
    keys: dict[str, str] = {}
    for each in filter(None, asked.split(",")):
        own, _, their = each.partition("=")
        keys[own] = their or own
        if own not in ours:
            raise ConfigError(f"The results have no column {own!r}. {did_you_mean(own, ours)}")
        if keys[own] not in theirs:
            raise ConfigError(
                f"The profile table has no column {keys[own]!r}. {did_you_mean(keys[own], theirs)}"
            )
    return keys


def join(wide: Wide, profiles: pd.DataFrame, keys: dict[str, str], /) -> Joined:
    """The scores beside the profiles whose keys are equal: as numbers where both are, else as text.

    Whole numbers and their text are equal ("1", 1 and 1.0); a missing key equals none.

    :raises DataError: a key that several rows of either side share, or no match at all.
    :raises ConfigError: columns of attrscore's are in the profiles already.
    """
    again = [name for name in wide.own if name in profiles]
    if again:
        raise ConfigError(
            f"The profile table has attrscore's columns already ({preview(again, most=3)}); give "
            "the table from before they were added."
        )
    left = _texts(profiles, list(keys.values()))
    right = _texts(wide.table, list(keys))
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


def _with_zeros_kept(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Whole-number metadata whose text began with 0, read again as text: wells 01, barcodes 007."""
    names = [
        str(name)
        for name in table
        if str(name).startswith("Metadata_") and pd.api.types.is_integer_dtype(table[name])
    ]
    if not names:
        return table
    texts = pd.read_csv(path, usecols=names, dtype=str)
    for name in names:
        if texts[name].str.fullmatch(r"0\d+").any():
            table[name] = texts[name]
    return table


def _texts(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Keys as text under the numbers of their places, rows with a missing one left out."""
    keys = pd.DataFrame({n: _text(table[name]) for n, name in enumerate(columns)})
    return keys.reset_index(drop=True).dropna()


def _text(values: pd.Series[Any]) -> pd.Series[Any]:
    if pd.api.types.is_float_dtype(values):
        whole = values.notna() & (values == values.round())
        return values.astype(object).where(~whole, values[whole].astype("int64")).map(_one)
    return values.astype(object).map(_one)


def _one(value: Any) -> Any:
    return None if pd.isna(value) else str(value)


def _check_unique(keys: pd.DataFrame, names: Any, what: str) -> None:
    twice = keys.duplicated(keep=False)
    if twice.any():
        shared = keys[twice].iloc[0].tolist()
        several = int((keys == keys[twice].iloc[0]).all(axis=1).sum())
        said = ", ".join(f"{name}={value}" for name, value in zip(names, shared, strict=True))
        raise DataError(
            f"{several} {what} share the key {said}; add a column to --on that tells them apart."
        )


def _first(keys: pd.DataFrame) -> str:
    return preview(keys.iloc[0].tolist()) if len(keys) else "missing"
