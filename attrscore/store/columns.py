"""Columns of a table as HDF5 datasets, and back without loss.

Text is stored as fixed-length UTF-8, because HDF5 cannot checksum text of variable length. Missing
text is stored as a word that occurs nowhere else in the column, named by the attribute
``missing_value``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from attrscore.errors import StoreError

Array = np.ndarray[Any, Any]

CHECKED = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}
"""Filters that every HDF5 has; with the checksum a flipped bit is an error, not another number."""

MOST_INFLATION = 1100
"""Deflate makes data at most 1032 times smaller; a dataset that claims more is forged."""

CHUNK_BYTES = 1 << 20

TEXT = pd.Series([""]).dtype
"""What pandas makes of text: str from pandas 3 on, object before."""


def escape(name: str, /) -> str:
    """A name as an HDF5 link, which may be neither empty nor ``.`` nor hold a slash.

    >>> escape("cell/area"), unescape("cell%2Farea")
    ('cell%2Farea', 'cell/area')
    """
    if name in ("", "."):
        return "%" if not name else "%2E"
    return name.replace("%", "%25").replace("/", "%2F").replace("\0", "%00")


def unescape(link: str, /) -> str:
    """The name behind a link of :func:`escape`."""
    if link == "%":
        return ""
    name = link.replace("%2F", "/").replace("%2E", ".").replace("%00", "\0")
    return name.replace("%25", "%")


def write_column(
    group: h5py.Group, name: str, values: pd.Series[Any], /, **attributes: Any
) -> None:
    """One column as a checked 1-D dataset: text, bool, integers or floats; anything else as text.

    :raises StoreError: text with a NUL character, which HDF5 would cut.
    """
    array, missing = _to_array(values)
    if array.dtype.kind == "S":
        array = array.astype(h5py.string_dtype("utf-8", array.dtype.itemsize))
    dataset = write_array(group, escape(name), array)
    if missing is not None:
        attributes["missing_value"] = missing
    for key, value in attributes.items():
        write_attribute(dataset, key, value)


def column_of(group: h5py.Group, name: str, /) -> h5py.h5d.DatasetID:
    """The dataset of a column. The lower half of h5py reads it 4 times faster.

    :raises StoreError: no column, or as :func:`check`.
    """
    dataset = h5py.h5o.open(group.id, escape(name).encode())
    if not isinstance(dataset, h5py.h5d.DatasetID):
        raise StoreError(f"It is damaged: '{name}' is not a column.")
    check(dataset)
    if len(dataset.shape) != 1:
        raise StoreError(f"'{name}' is not a column ({len(dataset.shape)} axes).")
    return dataset


def read_column(column: h5py.h5d.DatasetID, /) -> pd.Series[Any]:
    """The column that :func:`write_column` wrote; missing text is missing again.

    :raises StoreError: text that is no UTF-8.
    """
    array = read_stored(column)
    if array.dtype.kind != "S":
        return pd.Series(array)
    text = decoded(array, h5py.h5i.get_name(column))
    missing = missing_word(column)
    if missing is not None:
        nothing = pa.scalar(None, pa.string())
        text = pc.if_else(pc.equal(text, missing), nothing, text)
    series: pd.Series[Any] = text.to_pandas()
    return series


def decoded(array: Array, name: bytes, /) -> Any:
    """Bytes of a dataset of this name as an Arrow array of text.

    :raises StoreError: text that is no UTF-8.
    """
    try:
        return pa.array(array).cast(pa.string())
    except pa.ArrowInvalid as error:
        shown = name.decode("utf-8", "replace")
        raise StoreError(f"{shown} holds text that is not UTF-8.") from error


def read_stored(column: h5py.h5d.DatasetID, /) -> Array:
    """A column as its dataset holds it, text as bytes."""
    array = np.empty(column.shape, column.dtype)
    if array.size:
        column.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
    # Other programs may write big-endian numbers, which pandas cannot compute with.
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def missing_word(column: h5py.h5d.DatasetID, /) -> str | None:
    """The text that stands for a missing one; None where nothing does, or in numbers."""
    if column.dtype.kind != "S" or not h5py.h5a.exists(column, b"missing_value"):
        return None
    return str(read_attribute(h5py.Dataset(column), "missing_value"))


def stack(pieces: Sequence[pd.Series[Any] | None], lengths: Sequence[int], /) -> pd.Series[Any]:
    """One column of several; None is a piece of missing values. Text wins over numbers."""
    present = [piece for piece in pieces if piece is not None]
    numeric = [pd.api.types.is_numeric_dtype(piece) for piece in present]
    dtypes = {str(piece.dtype) for piece in present}
    dtype: Any = None
    if not all(numeric):
        dtype = TEXT
    elif len(present) < len(pieces) or ("bool" in dtypes and len(dtypes) > 1):
        dtype = np.float64
    filled = [
        pd.Series(np.full(length, np.nan)) if piece is None else piece
        for piece, length in zip(pieces, lengths, strict=True)
    ]
    if dtype is not None:
        filled = [_cast(piece, dtype) for piece in filled]
    return pd.concat(filled, ignore_index=True)


def check(dataset: h5py.h5d.DatasetID, /) -> None:
    """Refuse what a results file never holds: it could read other files or fill the memory.

    :raises StoreError: outside storage, virtual, of objects, without a shape, or of a forged size.
    """
    name = h5py.h5i.get_name(dataset).decode("utf-8", "replace")
    plan = dataset.get_create_plist()
    if plan.get_external_count() or plan.get_layout() == h5py.h5d.VIRTUAL:
        raise StoreError(f"{name} takes its data from other files, which is refused.")
    dtype = dataset.dtype
    if dtype.kind not in "biufS" or (dtype.kind != "S" and dtype.itemsize > 8):
        raise StoreError(f"{name} holds {dtype}; only numbers and text are read.")
    if dataset.shape is None:
        raise StoreError(f"{name} has no shape; it holds nothing.")
    claimed = math.prod(dataset.shape) * dtype.itemsize
    if claimed > MOST_INFLATION * dataset.get_storage_size() + CHUNK_BYTES:
        raise StoreError(f"{name} claims more data than the file can hold.")


def read_array(group: h5py.Group, link: str, kinds: str, axes: Collection[int], /) -> h5py.Dataset:
    """A dataset that holds numbers of one of these kinds of NumPy and has so many axes.

    :raises StoreError: there is none, or as :func:`check`.
    """
    found = group[link] if link in hard_links(group) else None
    if not isinstance(found, h5py.Dataset):
        raise StoreError(f"{group.name} holds no dataset '{link}'.")
    check(found.id)
    if found.dtype.kind not in kinds or found.ndim not in axes:
        raise StoreError(f"{found.name} holds {found.dtype} on {found.ndim} axes.")
    return found


def hard_links(group: h5py.Group, /) -> list[str]:
    """The names in a group.

    :raises StoreError: a name that stands for something elsewhere, in this file or another.
    """
    links = group.id.links
    for name in group.id:
        if links.get_info(name).type != h5py.h5l.TYPE_HARD:
            shown = name.decode("utf-8", "replace")
            raise StoreError(f"{group.name}/{shown} is a link to elsewhere, which is refused.")
    try:
        return [name.decode() for name in group.id]
    except UnicodeDecodeError as error:
        raise StoreError(f"{group.name} holds a name that is not UTF-8.") from error


def create_group(parent: h5py.Group, name: str, /) -> h5py.Group:
    """A group of this name, without the time that HDF5 1.14 would write into it."""
    untimed = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
    untimed.set_obj_track_times(False)
    return h5py.Group(h5py.h5g.create(parent.id, escape(name).encode(), gcpl=untimed))


def write_array(group: h5py.Group, link: str, array: Array, /) -> h5py.Dataset:
    """An array as a checked dataset in chunks of about one mebibyte."""
    if array.size == 0:
        return group.create_dataset(link, data=array)
    row = array.nbytes // len(array)
    rows = max(1, min(len(array), CHUNK_BYTES // max(row, 1)))
    return group.create_dataset(link, data=array, chunks=(rows, *array.shape[1:]), **CHECKED)


def write_attribute(target: h5py.HLObject, name: str, value: Any, /) -> None:
    """An attribute; text has a fixed length, so that equal attributes are equal bytes."""
    if isinstance(value, str):
        data = value.encode("utf-8", "backslashreplace") or b"\0"
        target.attrs.create(name, data, dtype=h5py.string_dtype("utf-8", len(data)))
    else:
        target.attrs[name] = value


def read_attribute(target: h5py.HLObject, name: str, /) -> Any:
    """The attribute, text as str; None where there is none."""
    value = target.attrs.get(name)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _to_array(values: pd.Series[Any], /) -> tuple[Array, str | None]:
    """A column as an array of bool, integers, floats or bytes, and the word for missing text."""
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return _to_array(values.astype(dtype.categories.dtype))
    if isinstance(dtype, np.dtype) and dtype.kind in "biuf" and dtype.itemsize <= 8:
        return values.to_numpy(), None
    kind = pd.api.types.infer_dtype(values, skipna=True)
    gaps = bool(values.isna().any())
    try:
        if kind == "boolean" and not gaps:
            return values.to_numpy(dtype=bool), None
        if kind == "integer" and not gaps:
            return values.to_numpy(dtype=np.int64), None
        if kind in ("integer", "floating", "mixed-integer-float"):
            return values.to_numpy(dtype=np.float64, na_value=np.nan), None
    except (OverflowError, TypeError, ValueError):
        pass  # numbers that fit no machine type become text
    return _to_bytes(values)


def _to_bytes(values: pd.Series[Any]) -> tuple[Array, str | None]:
    if pd.api.types.infer_dtype(values, skipna=True) not in ("string", "empty"):
        values = values.astype(object).map(str, na_action="ignore")
    codes, uniques = pd.factorize(values)
    # Names of files that are no UTF-8 hold lone surrogates: they are shown escaped.
    words = [value.encode("utf-8", "backslashreplace") for value in uniques]
    if any(b"\0" in word for word in words):
        raise StoreError(f"Column '{values.name}' holds text with a NUL character; remove it.")
    missing = None
    if (codes < 0).any():
        missing = "NA"
        while missing.encode() in words:
            missing += "_"
        words.append(missing.encode())  # code -1 finds it at the end
    return np.array(words or [b""], dtype=bytes)[codes], missing


def _cast(piece: pd.Series[Any], dtype: Any) -> pd.Series[Any]:
    if dtype is np.float64 or not pd.api.types.is_numeric_dtype(piece):
        return piece.astype(dtype)
    text = piece.astype(object).map(str, na_action="ignore")
    return text.astype(object).where(text.notna(), None).astype(dtype)
