"""The one reader: the rows of jobs as tables, a piece at a time, in the order of the whole table.

:func:`read_scores` joins the pieces; :func:`attrscore.store.merged.collect` writes them to a file,
one after the other, and so needs the memory of some parts, not of the table.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attrscore.core.columns import KEY_COLUMNS
from attrscore.errors import StoreError, preview
from attrscore.store.columns import TEXT, Array, stack
from attrscore.store.folders import Found
from attrscore.store.identity import Plugin, Range
from attrscore.store.part import PartFile, opened, owner, part_ranges
from attrscore.store.rows import Group, Key, Source, by_key, differing_settings, gather

SHOWN = ("id", "model", "dataset", "method", "layer", "target")
"""What names a row, together with the settings that differ."""

Kinds = dict[str, str]
"""Column -> ``key``, ``option``, ``score`` or ``metadata``."""

MISSING = "NA"


class TableReader:
    """The table of some jobs: its columns, and its rows a piece at a time, in their order.

    ``columns`` are read besides what names a row; all of them where None. ``memory`` is what may be
    held at a time, in bytes: parts that pieces to come need are held in an eighth of it, and read
    again for each piece beyond that. Where it is None all parts are held, each read once.

    :raises StoreError: no row at all, a part that is damaged, newer or of another job.
    """

    def __init__(
        self,
        jobs: Sequence[Found],
        /,
        *,
        columns: Collection[str] | None = None,
        memory: int | None = None,
    ) -> None:
        self.jobs = [found for found in jobs if found.parts]
        self.kinds: Kinds = {}
        self.bytes = 0
        """Of the columns in their files."""
        self._only = None if columns is None else {*SHOWN, "status", *columns}
        self._room = None if memory is None else memory // 8
        self._held: dict[Path, _Rows] = {}
        self._parts: dict[str, list[tuple[Range, Path]]] = {}
        """Job -> its parts, in the order of their names."""
        sources = [source for found in self.jobs for source in self._survey(found)]
        if not sources:
            raise StoreError("There are no results yet.", kind="empty")
        self.groups = gather(sources)
        self._due: Counter[Path] = Counter()
        self._shown = self._settings_shown()
        scorers = {key for group in self.groups for key in group.scorers}
        self.names = ordered(self.kinds, scorers)

    def pieces(self) -> Iterator[pd.DataFrame]:
        """The rows, columns as they come: a group at a time, or a part's rows of a group."""
        self._due = Counter(
            path
            for group in self.groups
            for source in group.sources
            for _, path in self._parts[source.folder.job.id]
        )
        for number, group in enumerate(self.groups):
            for parts in self._stretches(group):
                table = self._joined(group, parts)
                if len(table):
                    constants = {
                        name: values.iloc[[number]].repeat(len(table)).array
                        for name, values in self._shown.items()
                    }
                    yield table.assign(**constants)

    def _survey(self, found: Found) -> list[Source]:
        """What a job's parts hold: their columns, and rows of which methods, layers and targets."""
        job = found.folder.job
        parts = self._parts[job.id] = []
        keys: dict[Key, None] = {}
        depths: dict[str, float] = {}
        for path in found.parts.values():
            with opened(path) as part:
                part.check_job(job.id)
                (span,) = part_ranges([path.name]) or [(0, job.rows)]  # a part under another name
                names = self._names(part)
                for name in names:
                    # by its name where that says it, for attributes are slow
                    if name not in self.kinds:
                        known = _kind_by_name(name, job.scorers)
                        self.kinds[name] = known or part.kinds([name])[name]
                    self.bytes += part.columns[name].get_storage_size()
                parts.append((span, path))
                if self._room is None:
                    held = self._held[path] = _Rows(part.table(names))
                    keys |= dict.fromkeys(held.of)
                else:
                    keys |= dict.fromkeys(by_key(part.table(["method", "layer", "target"])))
                if "depth" in part.columns:
                    found_at = part.table(["layer", "depth"]).groupby("layer", observed=True)
                    deepest = found_at["depth"].max().dropna()
                    depths |= {str(layer): float(depth) for layer, depth in deepest.items()}
        scorers: dict[tuple[str, str], dict[str, Plugin]] = {}
        methods = {condition.method.key: condition.method for condition in job.conditions}
        for condition in job.conditions:
            key, layer, scorer = condition.triple
            scorers.setdefault((key, layer), {})[scorer] = condition.scorer
        foreign = [f"{method} at {at}" for method, at, _ in keys if (method, at) not in scorers]
        if foreign:
            raise StoreError(
                f"{found.folder.path} holds rows of {preview(foreign)}, which are not in its job; "
                "delete its parts and run the same command again.",
                kind="foreign",
            )
        return [
            Source(
                found.folder,
                methods[method],
                at,
                target,
                pd.DataFrame(),
                scorers[method, at],
                depths.get(at, math.nan),
            )
            for method, at, target in keys
        ]

    def _names(self, part: PartFile) -> list[str]:
        """The columns of a part that are read."""
        return [n for n in part.columns if self._only is None or n in self._only]

    def _settings_shown(self) -> dict[str, pd.Series[Any]]:
        """Columns that no part holds, a value a group: names, and settings that differ."""
        folders = [group.sources[0].folder for group in self.groups]
        shown = {
            "model": _constants([folder.model for folder in folders]),
            "dataset": _constants([folder.dataset for folder in folders]),
        }
        self.kinds |= dict.fromkeys(shown, "key")
        for name in differing_settings(self.groups):
            shown[name] = _constants([group.settings.get(name) for group in self.groups])
            self.kinds[name] = "option"
        return shown

    def _stretches(self, group: Group) -> Iterator[list[list[Path]]]:
        """The parts of each source that are read together: all of them, or those that overlap."""
        every = [self._parts[source.folder.job.id] for source in group.sources]
        spans = sorted({span for parts in every for span, _ in parts})
        for start, stop in [(0, spans[-1][1])] if self._room is None else _apart(spans):
            yield [
                [path for (first, last), path in parts if start <= first and last <= stop]
                for parts in every
            ]

    def _joined(self, group: Group, parts: Sequence[Sequence[Path]]) -> pd.DataFrame:
        sources = []
        for source, paths in zip(group.sources, parts, strict=True):
            key = source.method.key, source.layer, source.target
            there = [
                rows.table.take(rows.of[key]) for rows in map(self._rows, paths) if key in rows.of
            ]
            if there:
                table = there[0] if len(there) == 1 else pooled(there)
                sources.append(replace(source, table=table))
        return Group(sources, group.scorers).table() if sources else pd.DataFrame()

    def _rows(self, path: Path) -> _Rows:
        """The rows of a part, held while pieces to come need them and there is room.

        The first ones stay: groups go through all parts in turn, so that those read last would
        each be dropped shortly before they are needed.
        """
        self._due[path] -= 1
        rows = self._held.get(path)
        if rows is None:
            with opened(path) as part:
                rows = _Rows(part.table(self._names(part)))
            if self._due[path] and self._room is not None and rows.bytes <= self._room:
                self._held[path] = rows
                self._room -= rows.bytes
        elif not self._due[path]:
            del self._held[path]
            if self._room is not None:
                self._room += rows.bytes
        return rows

    @cached_property
    def columns(self) -> dict[str, Column]:
        """The columns in their order, with all that must be known before the first row is written.

        They have the types that the pieces would have if they were put together. Reads all pieces.
        """
        columns = {name: Column() for name in self.names}
        for table in self.pieces():
            for name, column in columns.items():
                column.add(table.get(name))
        return columns

    def typed(self, table: pd.DataFrame) -> pd.DataFrame:
        """A piece with all columns in their order and of their types."""
        columns: dict[str, Any] = {}
        for name, column in self.columns.items():
            values = table[name] if name in table else pd.Series(np.full(len(table), np.nan))
            if values.dtype != column.dtype:
                values = stack([values, pd.Series([], dtype=column.dtype)], [len(values), 0])
                values = values if values.dtype == column.dtype else values.astype(column.dtype)
            columns[name] = values.array  # series would be aligned, which takes long
        return pd.DataFrame(columns)


@dataclass
class Column:
    """What all pieces together say of a column."""

    dtypes: set[Any] = field(default_factory=set)
    """Of numbers."""
    text: bool = False
    """Whether it is text: so it is if it is in any piece."""
    width: int = 1
    """Bytes of the longest text."""
    gaps: bool = False
    """Some rows have no value: a piece has no such column, or text is missing."""
    words: set[str] = field(default_factory=set)
    """Texts that a word for missing ones could be taken for."""

    def add(self, values: pd.Series[Any] | None, /) -> None:
        """What one piece says; None where it does not have the column."""
        if values is None:
            self.gaps = True
        elif pd.api.types.is_numeric_dtype(values):
            self.dtypes.add(values.dtype)
            self.width = max(self.width, 32)  # beside text
        else:
            self.text = True
            self.gaps |= bool(values.isna().any())
            for word in map(str, values.dropna().unique()):
                self.width = max(self.width, len(word.encode("utf-8", "backslashreplace")))
                if word.rstrip("_") == MISSING:
                    self.words.add(word)

    @property
    def dtype(self) -> Any:
        """Of the column in the table. Asked once all pieces were."""
        if self.text:
            return TEXT
        flags = {dtype.kind == "b" for dtype in self.dtypes}
        if self.gaps or len(flags) > 1:
            return np.dtype(np.float64)
        return np.result_type(*self.dtypes)

    @property
    def missing(self) -> str | None:
        """The word that stands for missing text."""
        if not (self.text and self.gaps):
            return None
        word = MISSING
        while word in self.words:
            word += "_"
        return word


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of a part."""

    table: pd.DataFrame

    @cached_property
    def of(self) -> dict[Key, Array]:
        return by_key(self.table)

    @cached_property
    def bytes(self) -> int:
        return int(self.table.memory_usage(index=False, deep=True).sum())


def _apart(spans: Sequence[Range]) -> list[Range]:
    """Sorted ranges, those that overlap as one."""
    joined: list[Range] = []
    for start, stop in spans:
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined


def _kind_by_name(name: str, scorers: Collection[str]) -> str:
    """The kind that a column of this name has whatever its attribute says; empty where it may."""
    if name in KEY_COLUMNS:
        return "key"
    if name.startswith("Metadata_"):
        return "metadata"
    return "score" if owner(name, scorers) else ""


def _constants(values: Sequence[Any]) -> pd.Series[Any]:
    """A value a group: numbers or flags where all of them are, else text."""
    present = [value for value in values if value is not None]
    if present and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in present):
        return pd.Series([np.nan if value is None else value for value in values])
    if present == list(values) and all(isinstance(value, bool) for value in values):
        return pd.Series(values)
    return pd.Series([v if v is None else str(v) for v in values], dtype=TEXT)


def pooled(tables: Sequence[pd.DataFrame], /) -> pd.DataFrame:
    """Tables one under the other; what one of them lacks is missing there."""
    if not tables:
        return pd.DataFrame()
    whole = pd.concat(tables, ignore_index=True)
    lengths = [len(table) for table in tables]
    for name in whole:  # of one kind in all tables, as most are, or else put together with care
        dtype = whole[name].dtype
        if dtype != TEXT and dtype.kind not in "iuf":
            whole[name] = stack([table.get(name) for table in tables], lengths)
    return whole


def ordered(kinds: Mapping[str, str], scorers: Collection[str], /) -> list[str]:
    """Columns in the order of the table: keys, settings, scores by scorer, metadata."""
    keys = [name for name in KEY_COLUMNS if name in kinds]
    options = sorted(name for name, kind in kinds.items() if kind == "option")
    scores = [name for name, kind in kinds.items() if kind == "score"]
    # What a method says about itself belongs to no scorer and comes after them.
    scores.sort(key=lambda name: (not owner(name, scorers), owner(name, scorers), name))
    metadata = sorted(name for name, kind in kinds.items() if kind == "metadata")
    return [*keys, *options, *scores, *metadata]
