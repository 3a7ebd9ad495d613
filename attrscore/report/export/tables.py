"""Tables of scores written as CSV or Parquet, plain or as pycytominer reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from attrscore.errors import ConfigError, DataError
from attrscore.store.commit import new_file

__all__ = ["for_pycytominer", "write_table"]

_COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zip": "zip"}


def write_table(table: pd.DataFrame, path: Path, /, *, provenance: Mapping[str, Any]) -> None:
    """The table as the suffix says: .parquet, .csv, or .csv.gz and its like.

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
            table.to_csv(aside, index=False, compression=compression)
        else:
            try:
                arrow = pa.Table.from_pandas(table, preserve_index=False)
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise DataError(
                    f"Parquet needs one type a column: {error.args[-1]}. Write .csv instead."
                ) from error
            told = json.dumps(provenance, ensure_ascii=False).encode()
            known = arrow.schema.metadata or {}
            pq.write_table(
                arrow.replace_schema_metadata({**known, b"attrscore.export": told}), aside
            )


def for_pycytominer(table: pd.DataFrame, /) -> pd.DataFrame:
    """Metadata first, then features, as pycytominer orders its tables."""
    names = [str(name) for name in table]
    metadata = [name for name in names if name.startswith("Metadata_")]
    return table[[*metadata, *(name for name in names if name not in set(metadata))]]
