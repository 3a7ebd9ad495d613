"""Scores as AnnData: ``obs``, ``obsm`` across layers, and where they come from in ``uns``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attrscore.errors import ConfigError, UnsupportedError
from attrscore.report.export.wide import PREFIX, Wide
from attrscore.store.commit import new_file

__all__ = ["to_anndata", "write_anndata"]


def to_anndata(table: pd.DataFrame, wide: Wide, /, *, provenance: Mapping[str, Any]) -> Any:
    """An AnnData with a row for each of ``table``, the wide table alone or joined onto profiles.

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
    """An AnnData as .h5ad.

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
