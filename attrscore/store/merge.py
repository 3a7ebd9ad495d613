"""One file of all results: written a block at a time, by a child process, committed like a part."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from attrscore.errors import StoreError
from attrscore.store.child import GIB, ChildError, Tell, run_in_child
from attrscore.store.columns import (
    CHECKED,
    create_group,
    escape,
    write_attribute,
    write_column,
)
from attrscore.store.commit import aside_of, make_folder, remove_leftovers, sync
from attrscore.store.folders import JobFolder
from attrscore.store.identity import canonical
from attrscore.store.parts import write_header
from attrscore.store.places import Location, find
from attrscore.store.stream import Plan, check_any

__all__ = ["FORMATS", "collect", "merge", "rows_and_bytes"]

FORMATS = (".h5", ".csv", ".parquet")

SPARE = 64 * 2**20


def collect(
    folder: Location, output: Location, /, *, seconds: float = 600.0, memory: int = 4 * GIB
) -> int:
    """Write the table of :func:`read_scores` to ``output`` (.h5, .csv or .parquet); its rows.

    It may be larger than memory: a child process streams it, and it appears whole or not at all.
    Beside Python and the libraries the child may take ``memory`` bytes. It holds a part, some
    blocks of rows and parts for the rows that follow, 150 MiB in all with parts of 1024 cells, less
    where ``memory`` is less; and 20 to 50 kB a job. Only Parquet adds to it by rows, 2 bytes each.

    :raises StoreError: as :func:`read_scores`; another suffix, too little space, or an output that
        cannot be written.
    """
    return rows_and_bytes(folder, output, seconds=seconds, memory=memory)[0]


def rows_and_bytes(
    folder: Location, output: Location, /, *, seconds: float = 600.0, memory: int = 4 * GIB
) -> tuple[int, int]:
    """As :func:`collect`; with the rows, the bytes that they take in memory once read."""
    path = Path(output)
    if path.suffix not in FORMATS:
        raise StoreError(f"{path} must end in one of {', '.join(FORMATS)}.")
    make_folder(path.parent)
    remove_leftovers([path.parent])
    arguments = {"folder": str(folder), "output": str(path), "memory": memory}
    rows, size = 0, 0
    try:
        for told in run_in_child("merge", arguments, seconds=seconds, memory=memory):
            rows, size = int(told["rows"]), int(told["bytes"])
    except ChildError as error:
        remove_leftovers([path.parent])
        free = shutil.disk_usage(path.parent).free // 2**20
        why = f"Either the disk is full ({free} MiB are free), or a part is damaged"
        if error.how == "memory":
            why = f"Give it more than {memory // 2**20} MiB (attrscore.collect(..., memory=...)), "
            why += "or a part is damaged"
        raise StoreError(
            f"{path} was not written: {error}. {why}: attrscore verify {folder}"
        ) from error
    return rows, size


# In the child


def merge(tell: Tell, *, folder: str, output: str, memory: int = 4 * GIB) -> None:
    """Stream a results folder into a file, telling how many rows and bytes are written."""
    path = Path(output)
    jobs, merged = find([folder])
    if merged:
        raise StoreError(f"{folder} is a merged file already; collect a results folder.")
    plan = Plan(jobs, memory=memory)
    check_any(plan, folder)
    _check_space(path, plan)
    writers = {".h5": _hdf5, ".csv": _csv, ".parquet": _parquet}
    rows, size = 0, 0
    with aside_of(path) as aside:
        with writers[path.suffix](aside, plan) as sink:
            for table in _gathered(plan.blocks(), plan.block_rows):
                sink.write(table)
                rows += len(table)
                size += int(table.memory_usage(index=False, deep=True).sum())
                tell({"rows": rows, "bytes": size})
        if path.suffix == ".h5":
            _check_written(aside, plan, rows)
        sync(aside)


class _Sink(Protocol):
    def write(self, table: pd.DataFrame, /) -> None:
        """Append rows."""
        ...


def _gathered(blocks: Iterator[pd.DataFrame], rows: int) -> Iterator[pd.DataFrame]:
    """Tables of exactly so many rows, but for the last."""
    held: list[pd.DataFrame] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += len(block)
        if count < rows:
            continue
        table = pd.concat(held, ignore_index=True)
        whole = count - count % rows
        for start in range(0, whole, rows):
            yield table.iloc[start : start + rows]
        held, count = [table.iloc[whole:]], count - whole
    if count:
        yield pd.concat(held, ignore_index=True)


def _check_space(path: Path, plan: Plan) -> None:
    factor = 8 if path.suffix == ".csv" else 2
    needed = factor * plan.bytes + SPARE
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise StoreError(
            f"{path} may need {needed // 2**20} MiB, and {free // 2**20} MiB are free; "
            "free some space or choose another disk with -o."
        )


@contextmanager
def _csv(path: Path, _plan: Plan) -> Iterator[_Sink]:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:

        class Sink:
            first = True

            def write(self, table: pd.DataFrame, /) -> None:
                table.to_csv(file, index=False, header=self.first)
                self.first = False

        yield Sink()


@contextmanager
def _parquet(path: Path, plan: Plan) -> Iterator[_Sink]:
    empty = pd.DataFrame(
        {name: pd.Series([], dtype=plan.columns[name].dtype) for name in plan.names}
    )
    schema = pa.Schema.from_pandas(empty, preserve_index=False)
    fields = [
        pa.field(each.name, pa.large_string()) if plan.columns[each.name].text else each
        for each in schema
    ]
    kinds = {name: plan.kinds[name] for name in plan.names}
    told = {
        b"attrscore": json.dumps(kinds).encode(),
        b"attrscore.jobs": json.dumps(_jobs(plan)).encode(),
    }
    schema = pa.schema(fields, metadata={**schema.metadata, **told})
    with pq.ParquetWriter(path, schema) as file:

        class Sink:
            def write(self, table: pd.DataFrame, /) -> None:
                columns = pa.Table.from_pandas(table, schema, preserve_index=False, nthreads=1)
                file.write_table(columns)

        yield Sink()


@contextmanager
def _hdf5(path: Path, plan: Plan) -> Iterator[_Sink]:
    # Whole chunks are written: none has to be held, of any of the columns.
    options = {"libver": ("v110", "v114"), "track_order": False, "rdcc_nbytes": 0}
    with h5py.File(path, "w-", **options) as file:
        write_header(file, "merged")
        jobs = create_group(file, "jobs")
        told = pd.DataFrame(_jobs(plan))
        for name in told:
            write_column(jobs, str(name), told[name])
        sink = _HDF5(file, plan)
        yield sink
        sink.finish()


class _HDF5:
    """Columns that grow, each as :func:`attrscore.store.columns.write_column` would write it."""

    def __init__(self, file: h5py.File, plan: Plan) -> None:
        self._plan = plan
        self._rows = 0
        growing = {"shape": (0,), "maxshape": (None,), "chunks": (plan.block_rows,), **CHECKED}
        self._axis = file.create_dataset("row", dtype=np.int64, **growing)
        group = create_group(file, "scores")
        self._datasets: dict[str, h5py.Dataset] = {}
        for order, name in enumerate(plan.names):
            column = plan.columns[name]
            dtype: Any = column.dtype
            if column.text:
                width = max(column.width, len(column.missing or ""))
                dtype = h5py.string_dtype("utf-8", width)
            dataset = group.create_dataset(escape(name), dtype=dtype, **growing)
            attributes = {"kind": column.kind, "order": order}
            if column.missing is not None:
                attributes["missing_value"] = column.missing
            for key, value in attributes.items():
                write_attribute(dataset, key, value)
            self._datasets[name] = dataset

    def write(self, table: pd.DataFrame, /) -> None:
        """Append rows to every column."""
        stop = self._rows + len(table)
        self._axis.resize((stop,))
        self._axis[self._rows : stop] = np.arange(self._rows, stop)
        for name, dataset in self._datasets.items():
            column = self._plan.columns[name]
            values = table[name]
            dataset.resize((stop,))
            if column.text:
                dataset[self._rows : stop] = _bytes(values, column.missing, dataset.dtype)
            else:
                dataset[self._rows : stop] = values.to_numpy()
        self._rows = stop

    def finish(self) -> None:
        """A named axis, so that netCDF readers open it."""
        self._axis.make_scale("row")
        for dataset in self._datasets.values():
            dataset.dims[0].attach_scale(self._axis)


def _bytes(values: pd.Series[Any], missing: str | None, dtype: Any) -> np.ndarray[Any, Any]:
    codes, uniques = pd.factorize(values)
    words = [str(value).encode("utf-8", "backslashreplace") for value in uniques]
    words.append((missing or "").encode())  # code -1 finds it at the end
    held = h5py.string_dtype("utf-8", dtype.itemsize)
    return np.array(words, dtype=bytes)[codes].astype(held)


def _check_written(path: Path, plan: Plan, rows: int) -> None:
    """HDF5 can swallow the errors of a full disk: what was written is read again."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            for name in plan.names:
                dataset = file["scores"][escape(name)]
                if dataset.shape != (rows,):
                    raise StoreError(f"{path.name}: column '{name}' is not whole.")
                for start in range(0, rows, plan.block_rows):
                    dataset[start : start + plan.block_rows]
    except (OSError, RuntimeError, KeyError) as error:
        raise StoreError(
            f"The merged file could not be written whole ({error}); is the disk full?"
        ) from error


def _jobs(plan: Plan) -> list[dict[str, str]]:
    """Where the numbers came from, a row a job."""
    return [_told(found.folder) for found in plan.jobs]


def _told(folder: JobFolder) -> dict[str, str]:
    told: Mapping[str, str] = {
        "job": folder.job.id,
        "model": folder.model,
        "dataset": folder.dataset,
        "identity": canonical(folder.job.identity),
        "config": folder.config,
        "provenance": json.dumps(folder.provenance, sort_keys=True, default=str),
        "runs": json.dumps(list(folder.runs), sort_keys=True, default=str),
        "readings": canonical(folder.readings),
    }
    return dict(told)
