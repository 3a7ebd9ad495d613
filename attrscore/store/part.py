"""One part: the rows of a job's range of cells, and what is kept beside them, as an HDF5 file."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from attrscore.core.columns import KEY_COLUMNS
from attrscore.core.statuses import reasons_of
from attrscore.errors import AttrscoreError, StoreError, preview
from attrscore.store.columns import (
    CHUNK_BYTES,
    Array,
    check,
    column_of,
    create_group,
    decoded,
    hard_links,
    read_attribute,
    read_column,
    unescape,
    write_attribute,
    write_column,
)
from attrscore.store.commit import unreadable
from attrscore.store.identity import SCHEMA, Job, Range, canonical, newer
from attrscore.store.maps import Crops, MapKey, all_maps, crops_of, map_ids, write_crops, write_maps

ROW = ("id", "method", "layer", "target")
"""What names a row of a part."""

_TEXTS = (*ROW, "status", "reason", "reasons")
_FAILURE = ("method", "layer", "status", "reason", "traceback")
_KINDS = ("key", "option", "score", "metadata")
_DEEPEST = 8

_PART = re.compile(r"^(\d+)-(\d+)\.h5$")


def part_name(start: int, stop: int, /) -> str:
    """The file name of a part.

    >>> part_name(0, 1024)
    '000000000-000001024.h5'
    """
    return f"{start:09d}-{stop:09d}.h5"


def part_ranges(names: Collection[str], /) -> set[Range]:
    """The ranges of all names that are parts."""
    found = (_PART.match(name) for name in names)
    return {(int(match[1]), int(match[2])) for match in found if match}


def kind_of(
    values: pd.Series[Any], /, *, scorers: Collection[str], carried: Collection[str]
) -> str:
    """``key``, ``score`` or ``metadata``: carried by name, called Metadata_..., or text."""
    column = str(values.name)
    if column in KEY_COLUMNS:
        return "key"
    if column.startswith("Metadata_") or column in carried:
        return "metadata"
    numeric = pd.api.types.is_numeric_dtype(values)
    return "score" if numeric or owner(column, scorers) else "metadata"


def owner(column: str, scorers: Collection[str], /) -> str:
    """The scorer key that a column belongs to: the key itself or ``key.companion``; else empty."""
    found = (key for key in scorers if column == key or column.startswith(f"{key}."))
    return max(found, key=len, default="")


@dataclass(frozen=True, eq=False)
class Part:
    """All that a part holds, or that is to become one."""

    table: pd.DataFrame
    """A row a cell, method, layer and target."""
    maps: Mapping[MapKey, Array]
    """Signed maps (n, C, *s), float32."""
    ids: Sequence[str]
    """Of the n cells whose maps are kept."""
    traces: pd.DataFrame | None
    """Where failures were raised: method, layer, status, reason, traceback."""
    carried: tuple[str, ...] = ()
    """Columns that are metadata."""
    crops: Crops | None = None
    """Of some of the cells."""


def encode(
    job: Job,
    part: Part,
    /,
    *,
    rows: Range,
    config: str,
    provenance: Mapping[str, Any] | None = None,
) -> bytes:
    """The bytes of a part: the same work gives the same bytes.

    ``rows`` are its start and stop. It is built in memory because HDF5 swallows errors of a full
    disk and then crashes.
    """
    scorers = job.scorers
    texts = {"config": config, "identity": canonical(job.identity)}
    texts["provenance"] = canonical(dict(provenance or {}))
    buffer = io.BytesIO()
    with created(buffer) as file:
        write_header(file, "part", job=job.id, **texts)
        file.attrs["start"], file.attrs["stop"] = rows
        scores = create_group(file, "scores")
        for name in sorted(part.table.columns):
            kind = kind_of(part.table[name], scorers=scorers, carried=part.carried)
            write_column(scores, name, part.table[name], kind=kind)
        if part.maps:
            write_maps(create_group(file, "maps"), part.maps, part.ids)
        if part.crops is not None:
            write_crops(create_group(file, "crops"), part.crops)
        if part.traces is not None and len(part.traces):
            failures = create_group(file, "failures")
            for name in map(str, part.traces):
                write_column(failures, name, part.traces[name])
    return buffer.getvalue()


@contextmanager
def created(stream: Any, /, *, cache_bytes: int = 2**20) -> Iterator[h5py.File]:
    """A new HDF5 file that is written into a stream, and whole once the block is left.

    ``cache_bytes`` is the most that is held of the chunks of each dataset.
    """
    untimed = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    untimed.set_obj_track_times(False)  # HDF5 1.14 would write the time into the root group
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V114)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    access.set_cache(0, 521, cache_bytes, 0.75)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, stream)
    made = h5py.h5f.create(b"attrscore", h5py.h5f.ACC_TRUNC, fcpl=untimed, fapl=access)
    with h5py.File(made) as file:
        yield file


def write_header(file: h5py.File, content: str, **texts: str) -> None:
    """What every file of ours says of itself."""
    file.attrs["schema"] = SCHEMA
    for name, text in {"format": "attrscore", "content": content, **texts}.items():
        write_attribute(file, name, text)


class PartFile:
    """A part or a merged file of schema 1, open for reading.

    Nothing of it is believed before it was looked at: links, types, sizes, and whether what
    belongs together fits. Each method raises StoreError with a sentence where it does not.
    """

    def __init__(self, file: h5py.File) -> None:
        self.file = file

    def text(self, name: str) -> str:
        """An attribute of the file; empty where there is none."""
        value = read_attribute(self.file, name)
        return "" if value is None else str(value)

    @cached_property
    def columns(self) -> dict[str, h5py.h5d.DatasetID]:
        """The columns of its table, all of one length; those that name a row are text."""
        group = self.file["scores"] if "scores" in hard_links(self.file) else None
        if not isinstance(group, h5py.Group):
            raise StoreError("It holds no group 'scores'.")
        columns = {unescape(link): column_of(group, unescape(link)) for link in hard_links(group)}
        absent = {"id", "method", "layer"} - set(columns)
        if absent:
            raise StoreError(f"It lacks the columns {preview(sorted(absent))}.")
        lengths = {column.shape[0] for column in columns.values()}
        if len(lengths) > 1:
            raise StoreError(f"Its columns have different lengths: {sorted(lengths)}.")
        for name in _TEXTS:
            if name in columns and columns[name].dtype.kind != "S":
                raise StoreError(f"Its column '{name}' holds no text.")
        return columns

    def check_job(self, job: str) -> None:
        """That this is a part of a job, and of this one."""
        content, found = self.text("content"), self.text("job")
        if content != "part":
            raise StoreError(f"It is no part of a job ({content or 'it does not say what it is'}).")
        if found != job:
            sentence = f"It belongs to another job, not to {job}; remove it."
            raise StoreError(sentence, kind="foreign")

    def kinds(self, names: Collection[str]) -> dict[str, str]:
        """Column -> ``key``, ``option``, ``score`` or ``metadata``, as its attribute says."""
        said = {name: read_attribute(h5py.Dataset(self.columns[name]), "kind") for name in names}
        return {name: str(k) if str(k) in _KINDS else "metadata" for name, k in said.items()}

    def table(self, names: Collection[str] | None = None) -> pd.DataFrame:
        """These columns, where they are there, or all of them."""
        wanted = self.columns if names is None else [n for n in names if n in self.columns]
        table = pd.DataFrame({name: read_column(self.columns[name]) for name in wanted})
        unnamed = [name for name in ROW if name in table and bool(table[name].isna().any())]
        if unnamed:
            raise StoreError(f"Some of its rows have no {preview(unnamed)}.")
        check_reasons(table)
        return table

    def failures(self) -> pd.DataFrame | None:
        """Where failures were raised, a row each; None where none was."""
        if "failures" not in hard_links(self.file):
            return None
        group = self.file["failures"]
        if not isinstance(group, h5py.Group):
            raise StoreError("Its failures are no group.")
        names = [unescape(link) for link in hard_links(group)]
        columns = {name: read_column(column_of(group, name)) for name in names}
        if set(_FAILURE) - set(columns) or len({len(each) for each in columns.values()}) > 1:
            raise StoreError("Its failures do not say where they were raised.")
        return pd.DataFrame(columns)

    def jobs(self) -> list[dict[str, str]]:
        """What a merged file says of its jobs, a mapping of texts a job."""
        if "jobs" not in hard_links(self.file):
            return []
        group = self.file["jobs"]
        columns = {
            unescape(link): read_column(column_of(group, unescape(link)))
            for link in hard_links(group)
        }
        rows = zip(*columns.values(), strict=True)
        return [dict(zip(columns, map(str, row), strict=True)) for row in rows]

    def check(self) -> None:
        """That every value can be read, and that what belongs together fits."""
        for group in _groups(self.file):
            for link in hard_links(group):
                found = group[link]
                _read_attributes(found)
                if isinstance(found, h5py.Dataset):
                    _read_pieces(found)
                elif not isinstance(found, h5py.Group):
                    raise StoreError(f"{group.name}/{link} is neither a group nor a dataset.")
        self.table([*ROW, "reasons"])
        self.kinds(self.columns)
        if self.text("content") == "part":
            map_ids(self.file)
            all_maps(self.file, rows=np.arange(0))
            crops_of(self.file)
            self.failures()
            if Job.from_identity(json.loads(self.text("identity"))).id != self.text("job"):
                raise StoreError("Its identity is not that of its job.")
        else:
            self.jobs()


READERS: Mapping[int, type[PartFile]] = {1: PartFile}
"""Schema of a file -> what reads it."""


@contextmanager
def opened(path: Path, /) -> Iterator[PartFile]:
    """A part or merged file, open for reading by the reader of its schema.

    :raises StoreError: whatever is wrong with it, here or in the block, named with the file.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:  # parts never change
            yield READERS[_schema_of(file)](file)
    except FileNotFoundError as error:
        raise StoreError(f"There is no file {path}.") from error
    except AttrscoreError as error:
        kind = getattr(error, "kind", "")
        raise StoreError(f"{path} cannot be used. {error}", kind=kind) from error
    except (
        *(OSError, RuntimeError, LookupError, ValueError, TypeError),
        *(ArithmeticError, AttributeError),
    ) as error:
        raise unreadable(
            path,
            error,
            "is damaged or no HDF5 file",
            "delete it and run the same command again, which computes it anew.",
        ) from error


def _schema_of(file: h5py.File) -> int:
    schema = file.attrs.get("schema")
    if schema is None or read_attribute(file, "format") != "attrscore":
        raise StoreError("It was not written by attrscore.")
    if not isinstance(schema, np.integer):
        raise StoreError(f"It is damaged: its schema is {schema}, which is no whole number.")
    if schema > SCHEMA:
        raise StoreError(newer(int(schema)), kind="newer")
    if schema not in READERS:
        raise StoreError(f"It is damaged: there never was a schema {schema}.")
    return int(schema)


def read_part(path: Path, /) -> Part:
    """A part, maps decoded.

    :raises StoreError: damaged, or not to be trusted.
    """
    with opened(path) as part:
        table = part.table()
        kinds = part.kinds(part.columns)
        carried = tuple(name for name, kind in kinds.items() if kind == "metadata")
        return Part(
            table,
            all_maps(part.file),
            map_ids(part.file),
            part.failures(),
            carried,
            crops_of(part.file),
        )


def read_table(path: Path, /, columns: Collection[str] | None = None) -> pd.DataFrame:
    """The rows of one part: these columns, where they are there, or all.

    :raises StoreError: damaged, or not to be trusted.
    """
    with opened(path) as part:
        return part.table(columns)


def read_crops(path: Path, /) -> Crops | None:
    """The crops that a part keeps, or None where it keeps none.

    :raises StoreError: damaged, or not to be trusted.
    """
    with opened(path) as part:
        return crops_of(part.file)


def check_reasons(table: pd.DataFrame, /) -> None:
    """That the column ``reasons``, where it is there, holds reasons.

    :raises StoreError: it holds something else.
    """
    for text in table["reasons"].dropna().unique() if "reasons" in table else ():
        try:
            fits = all(isinstance(word, str) for reason in reasons_of(text) for word in reason)
        except (ValueError, TypeError, RecursionError):
            fits = False
        if not fits:
            raise StoreError("Its column 'reasons' holds no reasons.")


def _groups(group: h5py.Group, depth: int = 0) -> Iterator[h5py.Group]:
    if depth > _DEEPEST:
        raise StoreError(f"{group.name} lies deeper than any group of ours.")
    yield group
    for link in hard_links(group):
        inside = group[link]
        if isinstance(inside, h5py.Group):
            yield from _groups(inside, depth + 1)


def _read_attributes(found: Any) -> None:
    """By the lower half of h5py, which is several times faster; references are left alone."""
    for index in range(h5py.h5a.get_num_attrs(found.id)):
        attribute = h5py.h5a.open(found.id, index=index)
        if attribute.dtype.kind != "O" and attribute.get_space().get_simple_extent_npoints():
            attribute.read(np.empty(attribute.shape, attribute.dtype))


def _read_pieces(dataset: h5py.Dataset) -> None:
    """Every value of a dataset, in bounded memory."""
    check(dataset.id)
    step = 1
    if dataset.shape:
        row = dataset.dtype.itemsize * int(np.prod(dataset.shape[1:], dtype=np.int64))
        step = max(1, 16 * CHUNK_BYTES // max(1, row))
    for start in range(0, dataset.shape[0] if dataset.shape else 1, step):
        values = dataset[start : start + step] if dataset.shape else dataset[()]
        if dataset.dtype.kind == "S":
            decoded(np.atleast_1d(values).reshape(-1), dataset.name.encode())
