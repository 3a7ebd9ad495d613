"""Scores as tables for other tools: CSV, Parquet, pycytominer's, AnnData; a row a cell.

And existing profile tables, onto which scores are joined by the metadata of both.
"""

from __future__ import annotations

import hashlib
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
from pandas.api.types import is_float_dtype, is_numeric_dtype

from attrscore.core.columns import column_of
from attrscore.errors import (
    AbsentError,
    ConfigError,
    DataError,
    UnsupportedError,
    did_you_mean,
    preview,
)
from attrscore.stats.conditions import is_null
from attrscore.store.commit import new_file
from attrscore.store.scores import without_formulas

__all__ = [
    "PREFIX",
    "Column",
    "Joined",
    "Wide",
    "chosen",
    "for_pycytominer",
    "join",
    "keys_of",
    "read_profiles",
    "said_of",
    "shortened",
    "to_anndata",
    "widened",
    "write_anndata",
    "write_table",
]

LONGEST = 59
"""Characters of a column's name: some databases and file formats cut at 60 or 63."""

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
    whole: str = ""
    """The name before it was shortened to 59 characters."""


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


def chosen(
    results: pd.DataFrame,
    /,
    *,
    methods: Sequence[str] = (),
    layers: Sequence[str] = (),
    twins: bool = False,
) -> pd.DataFrame:
    """The rows of some methods and layers, without those of random weights unless ``twins``.

    Where all rows are of random weights, they stay.

    :raises ConfigError: a method or layer that the results do not have.
    """
    for column, asked in (("method", methods), ("layer", layers)):
        for name in asked:
            known = sorted(set(results[column].astype(str)))
            if name not in known:
                raise ConfigError(
                    f"The results have no {column} {name!r}. {did_you_mean(name, known)}"
                )
        if asked:
            results = results[results[column].astype(str).isin(asked)]
    random = is_null(results)
    return results if twins or random.all() else results[~random]


def widened(
    results: pd.DataFrame, kinds: Mapping[str, str], /, *, scores: Sequence[str] | None = None
) -> Wide:
    """Reshape results (a row a cell, method and layer) to a row a cell.

    ``Metadata_attrscore_<method>_<layer>_<column>``; where the results hold several models, targets
    or values of a setting, these stand before the method. ``<column>`` is ``status`` or a score;
    ``scores`` chooses some. A longer name is cut to 59 characters, with a hash of it where it was
    cut. ``kinds`` says what each column of the results is
    (:func:`attrscore.store.table_and_kinds`).

    :raises ConfigError: a score that does not exist, or two columns of one name.
    """
    known = [name for name, kind in kinds.items() if kind == "score"]
    for name in scores or ():
        if name not in known:
            raise ConfigError(f"The results have no score {name!r}. {did_you_mean(name, known)}")
    known = [name for name in known if name in results and results[name].notna().any()]
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
        whole = PREFIX + "_".join(filter(None, [of, *at, score])).replace("/", "_")
        name = shortened(whole, score)
        if name in table:
            raise ConfigError(
                f"Two columns of the table would be called {name}; export one folder of a job at a "
                "time."
            )
        table[name] = _spread(values, cells[rows.index], len(first))
        method, layer = at or ("", "")
        columns.append(Column(name, score, method, layer, of, whole))

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


def shortened(name: str, end: str, /) -> str:
    """A name of at most 59 characters: cut before its end, with a hash where it was cut.

    >>> shortened("Metadata_attrscore_integrated_gradients_input_grad_camo.auc", "grad_camo.auc")
    'Metadata_attrscore_integrated_gradients_input_grad_camo.auc'
    >>> shortened("Metadata_attrscore_integrated_gradients_input_grad_camo.lift", "grad_camo.lift")
    'Metadata_attrscore_integrated_gradien~e48c7e_grad_camo.lift'
    """
    if len(name) <= LONGEST:
        return name
    mark = f"~{hashlib.blake2b(name.encode(), digest_size=3).hexdigest()}_"
    room = LONGEST - len(mark) - len(PREFIX) - 4  # at least four letters of what it is of
    end = ".".join(end.split(".")[-2:]) if len(end) > room else end
    end = end[-room:]
    return f"{name[: LONGEST - len(mark) - len(end)]}{mark}{end}"


def said_of(wide: Wide, /) -> pd.DataFrame:
    """What each column of scores holds: a row a column of the table.

    ``name``, ``whole``, ``of``, ``method``, ``layer``, ``score``, and in words what the score is.
    """
    rows = [
        {
            **{n: getattr(each, n) for n in ("name", "whole", "of", "method", "layer", "score")},
            "says": column_of(each.score).says,
        }
        for each in wide.columns
    ]
    return pd.DataFrame(rows, columns=["name", "whole", "of", "method", "layer", "score", "says"])


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


def to_anndata(
    table: pd.DataFrame,
    wide: Wide,
    /,
    *,
    provenance: Mapping[str, Any],
    classes: Sequence[str] = (),
) -> Any:
    """Make an AnnData with a row for each of ``table``, which may be joined onto profiles.

    ``X`` (cells, columns) float64 holds the scores, and before them the features of the profiles.
    ``var`` says what each column is: ``kind`` (``score`` or ``feature``), ``method``, ``layer``,
    ``score``, ``of`` (model and settings, where there are several) and ``says``; ``var_names`` are
    ``<method>_<layer>_<score>``. ``obs`` is of the cells: what the dataset carried, ``label`` (by
    ``classes``, their names), what the model predicts, and the status of each method and layer.
    ``obsm["spatial"]`` are the centres (x, y) of cells in their fields, where they are known.
    ``uns["attrscore"]`` is ``provenance``. Names of rows are the cells' ids where these are all
    known and different, else numbers.

    SpatialData takes it as a table: the fields are its regions (``obs["region"]``) and the numbers
    of the objects its instances (``obs["instance_id"]``), which ``uns["spatialdata_attrs"]`` says,
    where the cells were cut from fields.

    :raises UnsupportedError: the package anndata is not installed.
    """
    try:
        from anndata import AnnData
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            'AnnData needs a package that is not installed: pip install "attrscore[anndata]".'
        ) from error
    scores = {c.name: c for c in wide.columns if c.method and c.score != "status"}
    features = [
        str(name)
        for name in table
        if not str(name).startswith("Metadata_") and is_numeric_dtype(table[name])
    ]
    names, kept = _names(table), [*features, *scores]
    var = said_of(wide).set_index("name").reindex(kept).fillna("").drop(columns="whole")
    var.insert(0, "kind", ["feature"] * len(features) + ["score"] * len(scores))
    var.index = _index([name.removeprefix(PREFIX) for name in kept])
    obs = {
        str(name).removeprefix(PREFIX): _plain(table[name]) for name in table if name not in kept
    }
    if classes:
        obs |= {
            name: _plain(pd.Series([_class(classes, n) for n in table[f"{PREFIX}{name}"]]))
            for name in ("label", "predicted")
            if f"{PREFIX}{name}" in table
        }
    uns: dict[str, Any] = {"attrscore": dict(provenance)}
    obsm = {}
    place = ["Metadata_image", "Metadata_object"]
    if set(place) <= set(table) and table[place].notna().all(axis=None):
        obs["region"] = _plain(table["Metadata_image"].astype(str))
        obs["instance_id"] = table["Metadata_object"].to_numpy(dtype=np.int64)
        uns["spatialdata_attrs"] = {
            "region": sorted(set(table["Metadata_image"].astype(str))),
            "region_key": "region",
            "instance_key": "instance_id",
        }
    centre = [f"Metadata_centroid_{axis}" for axis in "xy"]
    if set(centre) <= set(table):
        obsm["spatial"] = table[centre].to_numpy(dtype=np.float64)
    with warnings.catch_warnings():
        # anndata 0.13 asks pandas 3 for an option that this deprecates
        warnings.filterwarnings("ignore", message=".*future.infer_string")
        return AnnData(
            X=table[kept].to_numpy(dtype=np.float64),
            obs=pd.DataFrame(obs, index=names),
            var=var.apply(_plain),
            obsm=obsm,
            uns=uns,
        )


def _class(classes: Sequence[str], number: Any) -> str | None:
    known = pd.notna(number) and 0 <= int(number) < len(classes)
    return classes[int(number)] if known else None


def write_anndata(made: Any, path: Path, /) -> None:
    """Write an AnnData as .h5ad.

    :raises ConfigError: another suffix.
    """
    if path.suffix != ".h5ad":
        raise ConfigError(f"AnnData is written as .h5ad; given: {path.name}.")
    with new_file(path) as aside, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*future.infer_string")
        made.write_h5ad(aside)


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
    if is_numeric_dtype(values) and not pd.api.types.is_extension_array_dtype(values):
        return values.to_numpy()
    if pd.api.types.is_bool_dtype(values) and not values.isna().any():
        return values.to_numpy(dtype=bool)
    texts = [None if pd.isna(value) else str(value) for value in values]
    known = sorted({text for text in texts if text is not None})
    return pd.Categorical(texts, categories=_index(known))


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
