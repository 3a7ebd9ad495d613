"""One table of results: read into memory, or written to one file, and read from it again."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from attrscore.core.readings import attach
from attrscore.errors import ConfigError, StoreError, did_you_mean, preview
from attrscore.store.columns import (
    CHECKED,
    MOST_INFLATION,
    create_group,
    escape,
    write_attribute,
    write_column,
)
from attrscore.store.commit import make_folder, new_file, unreadable
from attrscore.store.folders import Found, JobFolder, Location, find, readings_from
from attrscore.store.identity import canonical
from attrscore.store.part import check_reasons, created, opened, write_header
from attrscore.store.tables import SHOWN, Kinds, TableReader, ordered, pooled

FORMATS = (".h5", ".csv", ".parquet")
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")

MEMORY = 512 * 2**20
"""What :func:`collect` may hold, beside Python and the libraries."""

_INFLATION = {".h5": 1, ".parquet": 2, ".csv": 6}
"""Bytes of a merged file for each that its rows take in the parts, about."""
_A_COLUMN = 4096
"""Bytes of a column without rows."""

_FOOTER = b"attrscore.footer"
_NO_DIGEST = b"blake2b:" + b"0" * 32


# Reading


def read_scores(*paths: Location, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """One table of results folders, jobs, parts or merged files, with a row for each
    (id, model, dataset, method, layer, target).

    Columns: these keys, label, predicted, status, reason, explained and confidence; settings that
    differ between rows of the same names (``heat.sign``, ``method.steps``, ``scorer.grad_camo.x``);
    the scores, each scorer's own before its companions; carried metadata. What several jobs
    computed of the same rows is joined, what they computed twice appears once. ``columns`` reads
    only these besides what names a row. How scores are to be read is attached to the table
    (:func:`attrscore.core.readings.reading_of`), but for CSV files.

    :raises StoreError: nothing there, not ours, damaged, newer, or a column that does not exist.
    """  # noqa: D205  # the keys must stand in one sentence
    return table_and_kinds(*paths, columns=columns)[0]


def table_and_kinds(
    *paths: Location, columns: Sequence[str] | None = None
) -> tuple[pd.DataFrame, Kinds]:
    """As :func:`read_scores`, and what each column is."""
    if not paths:
        raise StoreError("Name a results folder or file to read: read_scores('results').")
    jobs, merged = find(paths)
    frames = [_of_merged(path, columns) for path in merged]
    if jobs or not merged:
        reader = _reader(jobs, paths, columns=columns)
        frames.insert(0, (pooled(list(reader.pieces()))[reader.names], reader.kinds))
    table, kinds = frames[0] if len(frames) == 1 else _pool(frames)
    if columns is not None:
        for name in columns:
            if name not in table:
                raise StoreError(f"There is no column '{name}'. {_suggest(name, jobs, merged)}")
        table = table[[*dict.fromkeys([*_naming(table, kinds), *columns])]]
    attach(table, _readings(jobs, merged))
    return table, {name: kinds[name] for name in map(str, table)}


def _reader(jobs: Sequence[Found], paths: Sequence[Location], **options: Any) -> TableReader:
    try:
        return TableReader(jobs, **options)
    except StoreError as error:
        if error.kind != "empty":
            raise
        raise StoreError(
            f"{preview(paths)} holds no results yet ({len(jobs)} jobs without a part); "
            "run attrscore first, or look for a failed.json in the folders of the jobs.",
            kind="empty",
        ) from None


def _readings(jobs: Sequence[Found], merged: Sequence[Path]) -> dict[str, Mapping[str, Any]]:
    known: list[Mapping[str, Any]] = [found.folder.readings for found in jobs]
    for path in merged:
        texts = [job.get("readings", "{}") for job in jobs_of_merged(path)]
        try:
            known += [readings_from(json.loads(text)) for text in texts]
        except (ValueError, TypeError, AttributeError, ConfigError) as error:
            raise StoreError(f"{path}: its readings are damaged ({error}).") from error
    return {scorer: fields for each in known for scorer, fields in each.items()}


def _of_merged(path: Path, only: Collection[str] | None) -> tuple[pd.DataFrame, Kinds]:
    if path.suffix == ".parquet":
        with opened_parquet(path) as file:
            kinds = _kinds_of_parquet(file)
            names = [name for name, kind in kinds.items() if _wanted(name, kind, only)]
            table: pd.DataFrame = _whole(file.read(columns=names), file.metadata).to_pandas()
            check_reasons(table)
        return table, {name: kinds[name] for name in names}
    with opened(path) as part:
        kinds = part.kinds(part.columns)
        columns = sorted(part.columns, key=lambda name: _order(part.columns[name]))
        names = [name for name in columns if _wanted(name, kinds[name], only)]
        return part.table(names), {name: kinds[name] for name in names}


def _order(column: h5py.h5d.DatasetID) -> int:
    """Where a column of a merged file stands in its table."""
    return int(h5py.Dataset(column).attrs.get("order", 0))


def _wanted(name: str, kind: str, only: Collection[str] | None) -> bool:
    return only is None or name in (*SHOWN, "status", *only) or kind == "option"


def _pool(frames: Sequence[tuple[pd.DataFrame, Kinds]]) -> tuple[pd.DataFrame, Kinds]:
    """Tables whose identities are no longer known: equal rows once, other repetitions refused."""
    kinds = {name: kind for _, each in reversed(frames) for name, kind in each.items()}
    scorers = {name.partition(".")[0] for name, kind in kinds.items() if kind == "score"}
    table = pooled([table for table, _ in frames])[ordered(kinds, scorers)]
    table = table.drop_duplicates(ignore_index=True)
    if table.duplicated(_naming(table, kinds)).any():
        raise StoreError(
            "These files hold different rows of the same names; read the results folders that "
            "they were collected from, which know the settings that differ."
        )
    return table, kinds


def _naming(table: pd.DataFrame, kinds: Kinds) -> list[str]:
    """The columns that together name a row."""
    return [n for n in map(str, table) if n in SHOWN or kinds[n] == "option"]


def _suggest(name: str, jobs: Sequence[Found], merged: Sequence[Path]) -> str:
    known: set[str] = {"model", "dataset"}
    for path in [*merged, *(part for found in jobs for part in list(found.parts.values())[:1])]:
        if path.suffix == ".parquet":
            with opened_parquet(path) as file:
                known |= set(file.schema_arrow.names)
        else:
            with opened(path) as part:
                known |= set(part.columns)
    return did_you_mean(name, known)


# Writing


def collect(
    folder: Location, output: Location, /, *, memory: int = MEMORY, excel: bool = False
) -> int:
    """Write the table of :func:`read_scores` to ``output`` (.h5, .csv or .parquet); its rows.

    It may be larger than memory: it is read and written a piece at a time, and appears whole or not
    at all. What is held at a time is a part, a block of rows, and parts for the rows to come:
    ``memory`` bytes at most, unless a single part takes more; and 20 to 50 kB a job. Only Parquet
    adds to it by rows, 2 bytes each. ``excel`` writes a CSV as :func:`without_formulas` has it.

    :raises StoreError: as :func:`read_scores`; another suffix, too little space, or an output that
        cannot be written.
    """
    return rows_and_bytes(folder, output, memory=memory, excel=excel)[0]


def rows_and_bytes(
    folder: Location, output: Location, /, *, memory: int = MEMORY, excel: bool = False
) -> tuple[int, int]:
    """As :func:`collect`; with the rows, the bytes that they take in memory once read."""
    path = Path(output or "")
    if path.suffix not in FORMATS:
        raise StoreError(f"{path} must end in one of {', '.join(FORMATS)}.")
    if excel and path.suffix != ".csv":
        raise StoreError(f"excel is of CSV, and {path} is none; leave it out, or write a .csv.")
    jobs, merged = find([folder])
    if merged:
        raise StoreError(f"{folder} is a merged file already; collect a results folder.")
    reader = _reader(jobs, [folder], memory=memory)
    make_folder(path.parent)
    _check_space(path, reader)
    with new_file(path) as aside:
        return _write(aside, path.suffix, reader, memory, excel=excel)


def _write(
    path: Path, suffix: str, reader: TableReader, memory: int, *, excel: bool
) -> tuple[int, int]:
    widths = [each.width if each.text else 0 for each in reader.columns.values()]
    block = max(1, min(8 * 2**20, memory // 32) // sum(8 + width for width in widths))
    rows = size = 0
    with _WRITERS[suffix](path, reader, block) as append:
        for table in _blocks(map(reader.typed, reader.pieces()), block):
            append(without_formulas(table) if excel else table)
            rows += len(table)
            size += int(table.memory_usage(index=False, deep=True).sum())
    return rows, size


def without_formulas(table: pd.DataFrame, /) -> pd.DataFrame:
    """The table in which no text, nor the name of a column, begins as a spreadsheet's formula does.

    >>> without_formulas(pd.DataFrame({"id": ["=1+1", "a"], "score": [-0.5, 1.0]}))["id"].tolist()
    ["'=1+1", 'a']
    """

    def plain(value: Any) -> Any:
        return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value

    numeric = pd.api.types.is_numeric_dtype
    columns = {
        plain(str(name)): each if numeric(each) else each.astype(object).map(plain)
        for name, each in table.items()
    }
    return pd.DataFrame(columns, index=table.index)


Append = Callable[[pd.DataFrame], None]
"""Writes rows behind those that are there."""


def _blocks(pieces: Iterator[pd.DataFrame], rows: int) -> Iterator[pd.DataFrame]:
    """Tables of exactly so many rows, but for the last."""
    held: list[pd.DataFrame] = []
    count = 0
    for piece in pieces:
        held.append(piece)
        count += len(piece)
        if count < rows:
            continue
        table = pd.concat(held, ignore_index=True)
        whole = count - count % rows
        for start in range(0, whole, rows):
            yield table.iloc[start : start + rows]
        held, count = [table.iloc[whole:]], count - whole
    if count:
        yield pd.concat(held, ignore_index=True)


def _check_space(path: Path, reader: TableReader) -> None:
    needed = _INFLATION[path.suffix] * reader.bytes + _A_COLUMN * len(reader.names)
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise StoreError(
            f"{path} may need {needed / 2**20:.2f} MiB, and {free / 2**20:.2f} MiB are free; "
            "free some space or choose another disk with -o."
        )


@contextmanager
def _csv(path: Path, _reader: TableReader, _block: int) -> Iterator[Append]:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        yield lambda table: table.to_csv(file, index=False, header=file.tell() == 0)


@contextmanager
def _parquet(path: Path, reader: TableReader, _block: int) -> Iterator[Append]:
    empty = {name: pd.Series([], dtype=each.dtype) for name, each in reader.columns.items()}
    schema = pa.Schema.from_pandas(pd.DataFrame(empty), preserve_index=False)
    fields = [
        pa.field(each.name, pa.large_string()) if reader.columns[each.name].text else each
        for each in schema
    ]
    own = {
        b"attrscore": json.dumps({name: reader.kinds[name] for name in reader.names}).encode(),
        b"attrscore.jobs": json.dumps(_about(reader)).encode(),
    }
    schema = pa.schema(fields, metadata={**schema.metadata, **own})
    with (
        path.open("wb") as stream,  # pyarrow would not close its own where the disk is full
        pq.ParquetWriter(stream, schema, write_page_checksum=True) as file,
    ):
        yield lambda table: file.write_table(
            pa.Table.from_pandas(table, schema, preserve_index=False, nthreads=1)
        )
        file.add_key_value_metadata({_FOOTER: _NO_DIGEST})
    with path.open("r+b") as written:
        start, footer = _footer(written)
        at, digest = _digest_in(footer)
        written.seek(start + at)
        written.write(digest)


@contextmanager
def _hdf5(path: Path, reader: TableReader, block: int) -> Iterator[Append]:
    with _Disk(path) as disk:
        # Whole chunks are written: none has to be held, of any of the columns.
        with created(cast("io.RawIOBase", disk), cache_bytes=0) as file:
            write_header(file, "merged")
            jobs = create_group(file, "jobs")
            about = pd.DataFrame(_about(reader))
            for name in about:
                write_column(jobs, str(name), about[name])
            columns = _HDF5(file, reader, block, disk)
            yield columns.append
            columns.finish()
        disk.check()


class _Disk(io.FileIO):
    """A file that keeps its first error: HDF5 would go on after it, and crash in the end."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "x+")
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the error there was."""
        if self._error is not None:
            raise self._error

    def write(self, data: Any, /) -> int:
        """All of it, or nothing from the first error on."""
        left = memoryview(data)
        try:
            while left and self._error is None:
                left = left[super().write(left) :]
        except OSError as error:
            self._error = error
        return len(data)

    def truncate(self, size: int | None = None, /) -> int:
        """As any file, but for its errors."""
        try:
            return super().truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0


class _HDF5:
    """Columns that grow, each as :func:`attrscore.store.columns.write_column` would write it."""

    def __init__(self, file: h5py.File, reader: TableReader, block: int, disk: _Disk) -> None:
        self._columns = reader.columns
        self._disk = disk
        self._rows = 0
        growing = {"shape": (0,), "maxshape": (None,), "chunks": (block,), **CHECKED}
        self._axis = file.create_dataset("row", dtype=np.int64, **growing)
        group = create_group(file, "scores")
        self._datasets: dict[str, h5py.Dataset] = {}
        for order, (name, column) in enumerate(self._columns.items()):
            dtype: Any = column.dtype
            if column.text:
                width = max(column.width, len(column.missing or ""))
                dtype = h5py.string_dtype("utf-8", width)
            dataset = group.create_dataset(escape(name), dtype=dtype, **growing)
            attributes: dict[str, Any] = {"kind": reader.kinds[name], "order": order}
            if column.missing is not None:
                attributes["missing_value"] = column.missing
            for key, value in attributes.items():
                write_attribute(dataset, key, value)
            self._datasets[name] = dataset

    def append(self, table: pd.DataFrame, /) -> None:
        """To every column."""
        stop = self._rows + len(table)
        self._axis.resize((stop,))
        self._axis[self._rows : stop] = np.arange(self._rows, stop)
        for name, dataset in self._datasets.items():
            column = self._columns[name]
            values = table[name]
            dataset.resize((stop,))
            if column.text:
                dataset[self._rows : stop] = _as_bytes(values, column.missing, dataset.dtype)
            else:
                dataset[self._rows : stop] = values.to_numpy()
        self._rows = stop
        self._disk.check()

    def finish(self) -> None:
        """A named axis, so that netCDF readers open it."""
        self._axis.make_scale("row")
        for dataset in self._datasets.values():
            dataset.dims[0].attach_scale(self._axis)


_WRITERS = {".h5": _hdf5, ".csv": _csv, ".parquet": _parquet}


def _as_bytes(values: pd.Series[Any], missing: str | None, dtype: Any) -> np.ndarray[Any, Any]:
    codes, uniques = pd.factorize(values)
    words = [str(value).encode("utf-8", "backslashreplace") for value in uniques]
    words.append((missing or "").encode())  # code -1 finds it at the end
    held = h5py.string_dtype("utf-8", dtype.itemsize)
    return np.array(words, dtype=bytes)[codes].astype(held)


# Where the numbers of a merged file came from


def _about(reader: TableReader) -> list[dict[str, str]]:
    """A row a job."""
    return [_about_job(found.folder) for found in reader.jobs]


def _about_job(folder: JobFolder) -> dict[str, str]:
    return {
        "job": folder.job.id,
        "model": folder.model,
        "dataset": folder.dataset,
        "identity": canonical(folder.job.identity),
        "config": folder.config,
        "provenance": json.dumps(folder.provenance, sort_keys=True, default=str),
        "runs": json.dumps(list(folder.runs), sort_keys=True, default=str),
        "readings": canonical(folder.readings),
    }


def jobs_of_merged(path: Path, /) -> list[dict[str, str]]:
    """What a merged file says of its jobs: texts, a mapping a job.

    :raises StoreError: damaged, or not ours.
    """
    if path.suffix == ".parquet":
        with opened_parquet(path) as parquet:
            known = json.loads((parquet.schema_arrow.metadata or {}).get(b"attrscore.jobs", b"[]"))
            if not isinstance(known, list) or not all(isinstance(job, dict) for job in known):
                raise StoreError(f"{path} is damaged: its jobs are no list.", kind="damaged")
            return [{str(k): str(v) for k, v in job.items()} for job in known]
    with opened(path) as part:
        return part.jobs()


# Parquet


@contextmanager
def opened_parquet(path: Path, /) -> Iterator[pq.ParquetFile]:
    """A merged Parquet file, open for reading: its footer checked here, its pages as they are read.

    :raises StoreError: whatever is wrong with it, here or in the block, named with the file.
    """
    try:
        with path.open("rb") as stream:
            _check_footer(stream)
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_ours(file, path)
            yield file
    except FileNotFoundError as error:
        raise StoreError(f"There is no file {path}.") from error
    except StoreError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise unreadable(
            path,
            error,
            "is damaged or no Parquet file",
            "write it anew with attrscore collect.",
        ) from error


def _check_ours(file: pq.ParquetFile, path: Path) -> None:
    if b"attrscore" not in (file.schema_arrow.metadata or {}):
        raise StoreError(f"{path} was not written by attrscore.")
    if file.metadata.num_rows * file.metadata.num_columns > MOST_INFLATION * path.stat().st_size:
        raise StoreError(f"{path} claims more data than it can hold.", kind="damaged")


def check_parquet(path: Path, /) -> None:
    """Read all of a merged Parquet file, as a reader does.

    :raises StoreError: whatever is wrong with it, named with the file.
    """
    with opened_parquet(path) as file:
        _kinds_of_parquet(file)
        for number in range(file.num_row_groups):
            _whole(file.read_row_group(number), file.metadata.row_group(number))
    jobs_of_merged(path)


def _whole(table: pa.Table, metadata: Any) -> pa.Table:
    """The table, all of whose rows are there and all of whose text is UTF-8."""
    table.validate(full=True)
    if len(table) != metadata.num_rows:
        raise ValueError(f"{len(table)} rows instead of {metadata.num_rows}")
    return table


def _kinds_of_parquet(file: pq.ParquetFile) -> Kinds:
    kinds: Kinds = json.loads(file.schema_arrow.metadata[b"attrscore"])
    if list(kinds) != file.schema_arrow.names:
        raise ValueError("its columns are not those that it names")
    return kinds


def _footer(stream: io.BufferedIOBase | io.BufferedRandom | io.BufferedReader) -> tuple[int, bytes]:
    """Where the footer of a Parquet file starts, and the footer."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - 8))
    end = stream.read(8)
    length = int.from_bytes(end[:4], "little")
    stream.seek(0)
    if stream.read(4) != b"PAR1" or end[4:] != b"PAR1" or length + 12 > size:
        raise ValueError("it does not begin and end as one")
    start = size - 8 - length
    stream.seek(start)
    return start, stream.read(length)


def _digest_in(footer: bytes) -> tuple[int, bytes]:
    """Where a footer holds its digest, and what that should be."""
    named = footer.rfind(_FOOTER)
    at = footer.find(_NO_DIGEST[:8], named)
    blank = footer[:at] + _NO_DIGEST + footer[at + len(_NO_DIGEST) :]
    digest = hashlib.blake2b(blank, digest_size=16).hexdigest().encode()
    return at, _NO_DIGEST[:8] + digest


def _check_footer(stream: io.BufferedReader) -> None:
    _, footer = _footer(stream)
    if _FOOTER not in footer:
        return  # written before footers were digested
    at, digest = _digest_in(footer)
    if footer[at : at + len(digest)] != digest:
        raise ValueError("its footer was changed")
