"""One part: the rows of a job's range, and their maps, as the bytes of an HDF5 file."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import pandas as pd

from attrscore.core.contracts import KEY_COLUMNS
from attrscore.errors import AttrscoreError, StoreError
from attrscore.store.columns import (
    Stored,
    create_group,
    escape,
    hard_links,
    read_attribute,
    read_column,
    unescape,
    write_attribute,
    write_column,
)
from attrscore.store.crops import Crops, write_crops
from attrscore.store.identity import SCHEMA, Job, Range, canonical, newer
from attrscore.store.maps import Array, MapKey, write_maps

__all__ = [
    "columns_of",
    "encode",
    "job_of",
    "kind_of",
    "kinds_of",
    "opened",
    "order_of",
    "owner",
    "part_name",
    "part_ranges",
    "read_columns",
    "write_header",
]

_PART = re.compile(r"^(\d+)-(\d+)\.h5$")


def part_name(start: int, stop: int, /) -> str:
    """The file name of a part.

    >>> part_name(0, 1024)
    '000000000-000001024.h5'
    """
    return f"{start:09d}-{stop:09d}.h5"


def part_ranges(names: Collection[str], /) -> set[tuple[int, int]]:
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


def encode(
    job: Job,
    table: pd.DataFrame,
    maps: Mapping[MapKey, Array],
    ids: Sequence[str],
    /,
    *,
    rows: Range,
    config: str,
    provenance: Mapping[str, Any] | None = None,
    carried: Collection[str] = (),
    traces: pd.DataFrame | None = None,
    crops: Crops | None = None,
) -> bytes:
    """The bytes of a part: the same work gives the same bytes.

    ``rows`` are its start and stop. ``traces`` tells where failures were raised, a row each. It is
    built in memory because HDF5 swallows errors of a full disk and then crashes.
    """
    scorers = job.scorers
    texts = {"config": config, "identity": canonical(job.identity)}
    texts["provenance"] = canonical(dict(provenance or {}))
    with _in_memory() as (buffer, file):
        write_header(file, "part", job=job.id, **texts)
        file.attrs["start"], file.attrs["stop"] = rows
        scores = create_group(file, "scores")
        for name in sorted(table.columns):
            kind = kind_of(table[name], scorers=scorers, carried=carried)
            write_column(scores, name, table[name], kind=kind)
        if maps:
            write_maps(create_group(file, "maps"), maps, ids)
        if crops is not None:
            write_crops(create_group(file, "crops"), crops)
        if traces is not None and len(traces):
            failures = create_group(file, "failures")
            for name in map(str, traces):
                write_column(failures, name, traces[name])
    return buffer.getvalue()


@contextmanager
def opened(path: Path, /) -> Iterator[h5py.File]:
    """A part or merged file, open for reading, its header checked.

    :raises StoreError: whatever is wrong with it, here or in the block, named with the file.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:  # parts never change
            schema = file.attrs.get("schema")
            if schema is None or read_attribute(file, "format") != "attrscore":
                raise StoreError("It was not written by attrscore.")
            if int(schema) > SCHEMA:
                raise StoreError(newer(int(schema)))
            yield file
    except FileNotFoundError as error:
        raise StoreError(f"There is no file {path}.") from error
    except AttrscoreError as error:
        raise StoreError(f"{path} cannot be used. {error}") from error
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, UnicodeError) as error:
        raise StoreError(
            f"{path} is damaged or no HDF5 file ({_first_line(error)}); "
            "delete it and run the same command again, which computes it anew."
        ) from error


def job_of(file: h5py.File, /) -> str | None:
    """The id of the job that a part belongs to."""
    job = read_attribute(file, "job")
    return None if job is None else str(job)


def columns_of(file: h5py.File, /) -> list[str]:
    """The names of the score table's columns.

    :raises StoreError: there is no table, or a link leads out of the file.
    """
    scores = file.get("scores", getlink=True)
    if not isinstance(scores, h5py.HardLink) or not isinstance(file["scores"], h5py.Group):
        raise StoreError("It holds no group 'scores'.")
    return [unescape(link) for link in hard_links(file["scores"])]


def read_columns(file: h5py.File, names: Collection[str], /) -> dict[str, Stored]:
    """These columns, where they are there, all of one length.

    :raises StoreError: unequal lengths, or as :func:`attrscore.store.columns.check`.
    """
    group = file["scores"]
    columns = {name: read_column(group, name) for name in names}
    lengths = {len(column.array) for column in columns.values()}
    if len(lengths) > 1:
        raise StoreError(f"Its columns have different lengths: {sorted(lengths)}.")
    return columns


def kinds_of(file: h5py.File, names: Collection[str], /) -> dict[str, str]:
    """The attribute ``kind`` of these columns."""
    group = file["scores"]
    return {name: str(read_attribute(group[escape(name)], "kind") or "metadata") for name in names}


def order_of(file: h5py.File, names: Collection[str], /) -> list[str]:
    """The columns of a merged file in the order of its table."""
    group = file["scores"]
    return sorted(names, key=lambda name: int(group[escape(name)].attrs.get("order", 0)))


@contextmanager
def _in_memory() -> Iterator[tuple[io.BytesIO, h5py.File]]:
    """A new HDF5 file and the bytes it has once the block is left."""
    untimed = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    untimed.set_obj_track_times(False)  # HDF5 1.14 would write the time into the root group
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V114)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    buffer = io.BytesIO()
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, buffer)
    made = h5py.h5f.create(b"part", h5py.h5f.ACC_TRUNC, fcpl=untimed, fapl=access)
    with h5py.File(made) as file:
        yield buffer, file


def write_header(file: h5py.File, kind: str, **texts: str) -> None:
    """What every file of ours says of itself."""
    file.attrs["schema"] = SCHEMA
    for name, text in {"format": "attrscore", "content": kind, **texts}.items():
        write_attribute(file, name, text)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
