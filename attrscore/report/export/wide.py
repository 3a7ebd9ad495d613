"""Scores with a row a cell, under names that profiling tools leave alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from attrscore.errors import ConfigError, did_you_mean

__all__ = ["PREFIX", "Column", "Wide", "widened"]

PREFIX = "Metadata_attrscore_"
"""How every column begins that attrscore adds: feature selection takes ``Metadata_`` for none."""

_OF_A_RUN = ("predicted", "explained", "confidence")
"""What does not depend on method and layer."""

_OF_A_MAP = ("method.", "scorer.", "heat.")
"""How settings begin that change nothing of these."""


@dataclass(frozen=True)
class Column:
    """What a column of a wide table holds."""

    name: str
    score: str
    """The column of the results."""
    method: str = ""
    layer: str = ""
    of: str = ""
    """Model, target and settings, as far as the results hold several."""


@dataclass(frozen=True, eq=False)
class Wide:
    """A row a cell: its id, its metadata as they were carried, and all scores asked for."""

    table: pd.DataFrame
    columns: tuple[Column, ...]
    """Of the scores, in the order of the table."""

    @property
    def own(self) -> list[str]:
        """The columns that attrscore adds."""
        return [name for name in map(str, self.table) if name.startswith(PREFIX)]


def widened(
    results: pd.DataFrame, kinds: Mapping[str, str], /, *, scores: Sequence[str] | None = None
) -> Wide:
    """Results (a row a cell, method and layer) with a row a cell.

    ``Metadata_attrscore_<method>_<layer>_<column>``; where the results hold several models, targets
    or values of a setting, these stand before the method. ``<column>`` is ``status`` or a score;
    ``scores`` chooses some. ``kinds`` says what each column of the results is
    (:func:`attrscore.store.table_and_kinds`).

    :raises ConfigError: a score that does not exist, or two columns of one name.
    """
    known = [name for name, kind in kinds.items() if kind == "score"]
    for name in scores or ():
        if name not in known:
            raise ConfigError(f"The results have no score {name!r}. {did_you_mean(name, known)}")
    wanted = ["status", *(known if scores is None else scores)]
    of_run = [name for name in _OF_A_RUN if name in results]  # files need not have them
    results = results.reset_index(drop=True)
    cells = results.groupby(["dataset", "id"], sort=False, observed=True).ngroup().to_numpy()
    first = results.loc[np.unique(cells, return_index=True)[1]].reset_index(drop=True)
    table: dict[str, Any] = {f"{PREFIX}id": first["id"]}
    if len(first["dataset"].unique()) > 1:
        table[f"{PREFIX}dataset"] = first["dataset"]
    metadata = [name for name, kind in kinds.items() if kind == "metadata"]
    table |= {name: first[name] for name in metadata}
    table[f"{PREFIX}label"] = first["label"]

    settings = [name for name, kind in kinds.items() if kind == "option"]
    telling = [n for n in ("model", "target", *settings) if len(results[n].unique()) > 1]
    of_a_run = [name for name in telling if not name.startswith(_OF_A_MAP)]
    columns: list[Column] = []

    def add(of: str, place: tuple[str, ...], score: str, rows: pd.DataFrame) -> None:
        values = rows[score]
        name = PREFIX + "_".join(filter(None, [of, *place, score])).replace("/", "_")
        if name in table:
            raise ConfigError(
                f"Two columns of the table would be called {name}; export one folder of a job at a "
                "time."
            )
        table[name] = _spread(values, cells[rows.index], len(first))
        method, layer = place or ("", "")
        columns.append(Column(name, score, method, layer, of))

    for of, rows in _groups(results, of_a_run):
        for score in of_run:
            if not _told(rows[score]):  # an embedding predicts no class
                continue
            add(_said(of_a_run, of), (), score, rows.drop_duplicates(["dataset", "id"]))
    known_by = results[["method", *wanted]].groupby("method", observed=True).count() > 0
    for of, rows in _groups(results, [*telling, "method", "layer"]):
        for score in wanted:
            if score == "status" or known_by.loc[of[-2], score]:  # else it is another method's
                add(_said(telling, of[:-2]), of[-2:], score, rows)
    return Wide(pd.DataFrame(table), tuple(columns))


def _groups(results: pd.DataFrame, by: Sequence[str]) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    if not by:
        return [((), results)]
    return list(results.groupby(list(by), sort=False, dropna=False, observed=True))


def _told(values: pd.Series[Any]) -> bool:
    return not (values.isna() | (values == -1)).all()


def _said(names: Sequence[str], values: Sequence[Any]) -> str:
    """Models and targets by their names, settings as name=value."""
    return "_".join(
        str(value) if name in ("model", "target") else f"{name}={value}"
        for name, value in zip(names, values, strict=True)
        if not pd.isna(value)
    )


def _spread(values: pd.Series[Any], cells: np.ndarray[Any, Any], n: int) -> pd.Series[Any]:
    """Values at their cells; missing elsewhere."""
    if len(values) == n:  # whole numbers stay whole
        return pd.Series(values.to_numpy(), index=cells, dtype=values.dtype).sort_index()
    return pd.Series(values.to_numpy(), index=cells).reindex(range(n))
