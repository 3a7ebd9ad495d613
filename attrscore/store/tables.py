"""Reading results as one table."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from attrscore.core.contracts import KEY_COLUMNS
from attrscore.core.readings import attach
from attrscore.errors import StoreError, did_you_mean, preview
from attrscore.store.columns import TEXT, Stored, join, read_column, stack
from attrscore.store.folders import JobFolder
from attrscore.store.parts import (
    columns_of,
    job_of,
    kinds_of,
    opened,
    order_of,
    owner,
    read_columns,
)
from attrscore.store.places import Found, Location, find
from attrscore.store.rows import Place, Source, differing_settings, gather, split

__all__ = [
    "Kinds",
    "ordered",
    "pooled",
    "read_part_table",
    "read_scores",
    "repeat",
    "table_and_kinds",
]

SHOWN = ("id", "model", "dataset", "method", "layer", "target")
"""What tells rows apart, together with the settings that differ."""

Kinds = dict[str, str]
"""Column -> ``key``, ``option``, ``score`` or ``metadata``."""


def read_scores(*paths: Location, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """One table of results folders, jobs, parts or merged files, with a row for each
    (id, model, dataset, method, layer, target).

    Columns: these keys, label, predicted, status, reason, explained and confidence; settings that
    differ between rows of the same names (``heat.sign``, ``method.steps``, ``scorer.grad_camo.x``);
    the scores, each scorer's own before its companions; carried metadata. What several jobs
    computed of the same rows is joined, what they computed twice appears once. ``columns`` reads
    only these besides what tells rows apart. How scores are to be read is attached to the table
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
    only = None if columns is None else {*SHOWN, "status", *columns}
    frames = [_read_jobs(jobs, only, paths)] if jobs or not merged else []
    frames += [_read_merged(path, only) for path in merged]
    table, kinds = frames[0] if len(frames) == 1 else _pool(frames)
    if columns is not None:
        for name in columns:
            if name not in table:
                raise StoreError(f"There is no column '{name}'. {_suggest(name, jobs, merged)}")
        table = table[[*dict.fromkeys([*_telling(table, kinds), *columns])]]
    attach(table, _readings(jobs, merged))
    return table, {name: kinds[name] for name in map(str, table)}


def _readings(jobs: Sequence[Found], merged: Sequence[Path]) -> dict[str, Mapping[str, Any]]:
    told = [found.folder.readings for found in jobs]
    for text in [text for path in merged for text in _told_by(path, "readings")]:
        try:
            told.append(dict(json.loads(text)))
        except ValueError as error:
            raise StoreError(f"{preview(merged)}: its readings are damaged ({error}).") from error
    return {scorer: fields for each in told for scorer, fields in each.items()}


def _told_by(path: Path, column: str) -> list[str]:
    """What a merged file tells of its jobs; nothing where an older one lacks the column."""
    if path.suffix == ".parquet":
        metadata = pq.read_schema(path).metadata or {}
        jobs = json.loads(metadata.get(b"attrscore.jobs", b"[]"))
        return [job[column] for job in jobs if column in job]
    with opened(path) as file:
        if "jobs" not in file or column not in file["jobs"]:
            return []
        return [str(text) for text in read_column(file["jobs"], column).series()]


def _read_jobs(
    jobs: Sequence[Found], only: Collection[str] | None, paths: Sequence[Location]
) -> tuple[pd.DataFrame, Kinds]:
    sources: list[Source] = []
    kinds: Kinds = {"model": "key", "dataset": "key"}
    for found in jobs:
        if found.parts:
            table, each = _read_parts(found, only)
            kinds = each | kinds
            sources += _sources(found.folder, split(table))
    if not sources:
        raise StoreError(
            f"{preview(paths)} holds no results yet ({len(jobs)} jobs without a part); "
            "run attrscore first, or look for a failed.json in the folders of the jobs."
        )
    groups = gather(sources)
    tables = [group.table() for group in groups]
    lengths = [len(table) for table in tables]
    columns = dict(pooled(tables).items())
    columns["model"] = repeat([group.sources[0].folder.model for group in groups], lengths)
    columns["dataset"] = repeat([group.sources[0].folder.dataset for group in groups], lengths)
    for name in differing_settings(groups):
        columns[name] = repeat([group.settings.get(name) for group in groups], lengths)
        kinds[name] = "option"
    scorers = {key for group in groups for key in group.scorers}
    return pd.DataFrame({name: columns[name] for name in ordered(kinds, scorers)}), kinds


def pooled(tables: Sequence[pd.DataFrame], /) -> pd.DataFrame:
    """Tables one under the other; what one of them lacks is missing there."""
    lengths = [len(table) for table in tables]
    names = dict.fromkeys(str(name) for table in tables for name in table)
    return pd.DataFrame(
        {name: stack([table.get(name) for table in tables], lengths) for name in names}
    )


def _read_parts(found: Found, only: Collection[str] | None) -> tuple[pd.DataFrame, Kinds]:
    """All rows of a job, in the order of its parts."""
    job = found.folder.job
    pieces: list[dict[str, Stored]] = []
    kinds: Kinds = {}
    for path in found.parts.values():
        with opened(path) as file:
            if job_of(file) != job.id:
                raise StoreError(f"It belongs to another job, not to {job.id}; remove it.")
            names = columns_of(file)
            absent = {"id", "method", "layer"} - set(names)
            if absent:
                raise StoreError(f"It lacks the columns {preview(sorted(absent))}.")
            wanted = [name for name in names if only is None or name in only]
            kinds |= _kinds(file, [name for name in wanted if name not in kinds], job.scorers)
            pieces.append(read_columns(file, wanted))
    lengths = [len(piece["id"].array) for piece in pieces]
    table = {name: join([piece.get(name) for piece in pieces], lengths) for name in kinds}
    return pd.DataFrame(table), kinds


def read_part_table(path: Path, /) -> pd.DataFrame:
    """All rows of one part.

    :raises StoreError: damaged, or not to be trusted.
    """
    with opened(path) as file:
        names = columns_of(file)
        absent = {"id", "method", "layer"} - set(names)
        if absent:
            raise StoreError(f"It lacks the columns {preview(sorted(absent))}.")
        return pd.DataFrame({n: c.series() for n, c in read_columns(file, names).items()})


def _kinds(file: h5py.File, names: Sequence[str], scorers: Collection[str]) -> Kinds:
    """Kinds by name, and by attribute only where the name does not tell: attributes are slow."""
    known = dict.fromkeys((name for name in names if name in KEY_COLUMNS), "key")
    known |= dict.fromkeys((name for name in names if name.startswith("Metadata_")), "metadata")
    scores = [name for name in names if name not in known and owner(name, scorers)]
    known |= dict.fromkeys(scores, "score")
    return known | kinds_of(file, [name for name in names if name not in known])


def _sources(folder: JobFolder, tables: Mapping[Place, pd.DataFrame]) -> list[Source]:
    methods = {condition.method.key: condition.method for condition in folder.job.conditions}
    scorers: dict[tuple[str, str], dict[str, Any]] = {}
    for condition in folder.job.conditions:
        key, layer, scorer = condition.triple
        scorers.setdefault((key, layer), {})[scorer] = condition.scorer
    foreign = [
        f"{method} at {layer}" for method, layer, _ in tables if (method, layer) not in scorers
    ]
    if foreign:
        raise StoreError(
            f"{folder.path} holds rows of {preview(foreign)}, which are not in its job; "
            "delete its parts and run the same command again."
        )
    return [
        Source(folder, methods[key], layer, target, table, scorers[key, layer])
        for (key, layer, target), table in tables.items()
    ]


def repeat(values: Sequence[Any], lengths: list[int]) -> pd.Series[Any]:
    """A column of one value a group: numbers or flags where all of them are, else text."""
    present = [value for value in values if value is not None]
    if present and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in present):
        column = pd.Series([np.nan if value is None else value for value in values])
    elif present == list(values) and all(isinstance(value, bool) for value in values):
        column = pd.Series(values)
    else:
        column = pd.Series([v if v is None else str(v) for v in values], dtype=TEXT)
    return column.repeat(lengths).reset_index(drop=True)


def ordered(kinds: Mapping[str, str], scorers: Collection[str], /) -> list[str]:
    """Columns in the order of the table: keys, settings, scores by scorer, metadata."""
    keys = [name for name in KEY_COLUMNS if name in kinds]
    options = sorted(name for name, kind in kinds.items() if kind == "option")
    scores = [name for name, kind in kinds.items() if kind == "score"]
    # What a method says about itself belongs to no scorer and comes after them.
    scores.sort(key=lambda name: (not owner(name, scorers), owner(name, scorers), name))
    metadata = sorted(name for name, kind in kinds.items() if kind == "metadata")
    return [*keys, *options, *scores, *metadata]


def _read_merged(path: Path, only: Collection[str] | None) -> tuple[pd.DataFrame, Kinds]:
    if path.suffix == ".parquet":
        return _from_parquet(path, only)
    with opened(path) as file:
        everything = columns_of(file)
        kinds = kinds_of(file, everything)
        names = order_of(file, [n for n in everything if _wanted(n, kinds[n], only)])
        columns = {name: each.series() for name, each in read_columns(file, names).items()}
    return pd.DataFrame(columns), {name: kinds[name] for name in names}


def _wanted(name: str, kind: str, only: Collection[str] | None) -> bool:
    return only is None or name in only or kind == "option"


def _from_parquet(path: Path, only: Collection[str] | None) -> tuple[pd.DataFrame, Kinds]:
    try:
        metadata = pq.read_schema(path).metadata or {}
        if b"attrscore" not in metadata:
            raise StoreError(f"{path} was not written by attrscore.")
        kinds: Kinds = json.loads(metadata[b"attrscore"])
        names = [name for name, kind in kinds.items() if _wanted(name, kind, only)]
        table: pd.DataFrame = pq.read_table(path, columns=names).to_pandas()
    except (OSError, ValueError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            f"{path} is damaged or no Parquet file; write it anew with attrscore collect."
        ) from error
    return table, {name: kinds[name] for name in names}


def _pool(frames: Sequence[tuple[pd.DataFrame, Kinds]]) -> tuple[pd.DataFrame, Kinds]:
    """Tables whose identities are no longer known: equal rows once, other repetitions refused."""
    kinds = {name: kind for _, each in reversed(frames) for name, kind in each.items()}
    lengths = [len(table) for table, _ in frames]
    scorers = {name.partition(".")[0] for name, kind in kinds.items() if kind == "score"}
    columns = {
        name: stack([table.get(name) for table, _ in frames], lengths)
        for name in ordered(kinds, scorers)
    }
    table = pd.DataFrame(columns).drop_duplicates(ignore_index=True)
    if table.duplicated(_telling(table, kinds)).any():
        raise StoreError(
            "These files hold different rows of the same names; read the results folders that "
            "they were collected from, which know the settings that differ."
        )
    return table, kinds


def _telling(table: pd.DataFrame, kinds: Kinds) -> list[str]:
    """The columns that together tell rows apart."""
    return [n for n in map(str, table) if n in SHOWN or kinds[n] == "option"]


def _suggest(name: str, jobs: Sequence[Found], merged: Sequence[Path]) -> str:
    known: set[str] = {"model", "dataset"}
    for path in [*merged, *(part for found in jobs for part in list(found.parts.values())[:1])]:
        if path.suffix == ".parquet":
            known |= set(pq.read_schema(path).names)
        else:
            with opened(path) as file:
                known |= set(columns_of(file))
    return did_you_mean(name, known)
