"""Scores as tables for other tools: CSV, Parquet, pycytominer's, AnnData; a row a cell."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from attrscore.errors import ConfigError, DataError, UnsupportedError, did_you_mean
from attrscore.store.commit import new_file
from attrscore.store.scores import without_formulas

__all__ = [
    "PREFIX",
    "Column",
    "Wide",
    "for_pycytominer",
    "to_anndata",
    "widened",
    "write_anndata",
    "write_table",
]

PREFIX = "Metadata_attrscore_"
"""How every column begins that attrscore adds: feature selection takes ``Metadata_`` for none."""

_OF_A_RUN = ("predicted", "explained", "confidence")
"""What does not depend on method and layer."""

_OF_A_MAP = ("method.", "scorer.", "heat.")
"""How settings begin that change nothing of these."""

_COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zip": "zip"}


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
    """Reshape results (a row a cell, method and layer) to a row a cell.

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
    differing = [n for n in ("model", "target", *settings) if len(results[n].unique()) > 1]
    of_a_run = [name for name in differing if not name.startswith(_OF_A_MAP)]
    columns: list[Column] = []

    def add(of: str, at: tuple[str, ...], score: str, rows: pd.DataFrame) -> None:
        values = rows[score]
        name = PREFIX + "_".join(filter(None, [of, *at, score])).replace("/", "_")
        if name in table:
            raise ConfigError(
                f"Two columns of the table would be called {name}; export one folder of a job at a "
                "time."
            )
        table[name] = _spread(values, cells[rows.index], len(first))
        method, layer = at or ("", "")
        columns.append(Column(name, score, method, layer, of))

    for of, rows in _groups(results, of_a_run):
        for score in of_run:
            if (rows[score].isna() | (rows[score] == -1)).all():  # an embedding predicts no class
                continue
            add(_text_of(of_a_run, of), (), score, rows.drop_duplicates(["dataset", "id"]))
    known_by = results[["method", *wanted]].groupby("method", observed=True).count() > 0
    for of, rows in _groups(results, [*differing, "method", "layer"]):
        for score in wanted:
            if score == "status" or known_by.loc[of[-2], score]:  # else it is another method's
                add(_text_of(differing, of[:-2]), of[-2:], score, rows)
    return Wide(pd.DataFrame(table), tuple(columns))


def _groups(results: pd.DataFrame, by: Sequence[str]) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    if not by:
        return [((), results)]
    return list(results.groupby(list(by), sort=False, dropna=False, observed=True))


def _text_of(names: Sequence[str], values: Sequence[Any]) -> str:
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


def write_table(
    table: pd.DataFrame, path: Path, /, *, provenance: Mapping[str, Any], excel: bool = False
) -> None:
    """Write the table as the suffix says: .parquet, .csv, or .csv.gz and its like.

    ``excel`` is for CSV that is opened in a spreadsheet: text that begins as a formula does
    (``=``, ``+``, ``-``, ``@``, a tab) gets an apostrophe before it, so that it stays text.
    Numbers are written so that they read back as the same. Parquet holds ``provenance`` as JSON in
    its metadata, under ``attrscore.export``.

    :raises ConfigError: another suffix.
    """
    suffix = path.suffix if path.suffix not in _COMPRESSED else Path(path.stem).suffix
    if suffix not in (".csv", ".parquet"):
        raise ConfigError(f"A table is written as .csv, .csv.gz or .parquet; given: {path.name}.")
    with new_file(path) as aside:
        if suffix == ".csv":
            compression: Any = _COMPRESSED.get(path.suffix)
            if compression == "gzip":
                compression = {"method": "gzip", "mtime": 0}  # the same table, the same bytes
            written = without_formulas(table) if excel else table
            written.to_csv(aside, index=False, compression=compression)
        else:
            try:
                arrow = pa.Table.from_pandas(table, preserve_index=False)
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise DataError(
                    f"Parquet needs one type a column: {error.args[-1]}. Write .csv instead."
                ) from error
            origin = json.dumps(provenance, ensure_ascii=False).encode()
            known = arrow.schema.metadata or {}
            pq.write_table(
                arrow.replace_schema_metadata({**known, b"attrscore.export": origin}), aside
            )


def for_pycytominer(table: pd.DataFrame, /) -> pd.DataFrame:
    """Metadata first, then features, as pycytominer orders its tables."""
    names = [str(name) for name in table]
    metadata = [name for name in names if name.startswith("Metadata_")]
    return table[[*metadata, *(name for name in names if name not in set(metadata))]]


def to_anndata(table: pd.DataFrame, wide: Wide, /, *, provenance: Mapping[str, Any]) -> Any:
    """Make an AnnData with a row for each of ``table``, which may be joined onto profiles.

    ``X`` holds the numeric columns that are no metadata, the features of the profiles; ``obs`` all
    others. Where a method was scored at several layers, ``obsm["attrscore_<method>_<score>"]`` is a
    table (cells, layers) too. ``uns["attrscore"]`` is ``provenance``. Names of rows are the cells'
    ids where these are all known and different, else numbers.

    :raises UnsupportedError: the package anndata is not installed.
    """
    try:
        from anndata import AnnData
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            'AnnData needs a package that is not installed: pip install "attrscore[anndata]".'
        ) from error
    features = [
        str(name)
        for name in table
        if not str(name).startswith("Metadata_") and pd.api.types.is_numeric_dtype(table[name])
    ]
    names = _names(table)
    obs = pd.DataFrame(
        {str(name): _plain(table[name]) for name in table if name not in features}, index=names
    )
    with warnings.catch_warnings():
        # anndata 0.13 asks pandas 3 for an option that this deprecates
        warnings.filterwarnings("ignore", message=".*future.infer_string")
        made = AnnData(
            X=table[features].to_numpy(dtype=np.float64) if features else None,
            obs=obs,
            var=pd.DataFrame(index=_index(features)),
        )
        for name, columns in _across_layers(wide).items():
            values = table[list(columns.values())].to_numpy(dtype=np.float64)
            made.obsm[name] = pd.DataFrame(values, index=names, columns=_index(list(columns)))
    made.uns["attrscore"] = dict(provenance)
    return made


def write_anndata(made: Any, path: Path, /) -> None:
    """Write an AnnData as .h5ad.

    :raises ConfigError: another suffix.
    """
    if path.suffix != ".h5ad":
        raise ConfigError(f"AnnData is written as .h5ad; given: {path.name}.")
    with new_file(path) as aside, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*future.infer_string")
        made.write_h5ad(aside)


def _across_layers(wide: Wide) -> dict[str, dict[str, str]]:
    """Name in obsm -> layer -> column, of each score that a method has at several layers."""
    found: dict[str, dict[str, str]] = {}
    for column in wide.columns:
        if column.layer and column.score != "status":
            name = "_".join(filter(None, ["attrscore", column.of, column.method, column.score]))
            found.setdefault(name.replace("/", "_"), {})[column.layer] = column.name
    return {name: layers for name, layers in found.items() if len(layers) > 1}


def _names(table: pd.DataFrame) -> pd.Index[Any]:
    ids = table[f"{PREFIX}id"]
    if ids.isna().any() or ids.duplicated().any():
        return _index([str(row) for row in range(len(table))])
    return _index([str(each) for each in ids])


def _index(names: list[str]) -> pd.Index[Any]:
    # anndata 0.12 cannot write the text type of pandas 3, and objects are read by every version.
    return pd.Index(names, dtype=object)


def _plain(values: pd.Series[Any]) -> Any:
    """Numbers and truth values as they are, anything else as categories of plain text."""
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_extension_array_dtype(values):
        return values.to_numpy()
    if pd.api.types.is_bool_dtype(values) and not values.isna().any():
        return values.to_numpy(dtype=bool)
    texts = [None if pd.isna(value) else str(value) for value in values]
    known = sorted({text for text in texts if text is not None})
    return pd.Categorical(texts, categories=_index(known))
