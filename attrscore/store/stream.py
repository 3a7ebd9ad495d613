"""The rows of a results folder block by block, in the order of the table, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from attrscore.errors import StoreError
from attrscore.store.columns import TEXT, escape, read_column, stack
from attrscore.store.identity import Range
from attrscore.store.parts import columns_of, kinds_of, opened, part_ranges
from attrscore.store.places import Found
from attrscore.store.rows import Group, Place, Source, by_place, differing_settings, gather
from attrscore.store.tables import ordered, read_part_table, repeat

__all__ = ["Column", "Plan"]

HELD_BYTES = 64 * 2**20
"""Parts that are held in memory, for the groups that follow; at most an eighth of the memory."""

BLOCK_BYTES = 8 * 2**20
"""Rows that are written at a time; at most a thirty-second of the memory."""

MISSING = "NA"


@dataclass
class Column:
    """What all parts together tell of a column."""

    dtypes: set[np.dtype[Any]] = field(default_factory=set)
    kind: str = ""
    width: int = 1
    """Bytes of the longest text."""
    gaps: bool = False
    """Some rows have no value."""
    words: set[str] = field(default_factory=set)
    """Texts that a word for missing ones could be taken for."""

    @property
    def text(self) -> bool:
        """Whether it is text: so it is if it is in any part."""
        return any(dtype.kind == "S" for dtype in self.dtypes)

    @property
    def dtype(self) -> Any:
        """Of the column in the table."""
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
class _Part:
    """The rows of a part by method, layer and target."""

    table: pd.DataFrame
    stretches: Mapping[Place, Range]

    @property
    def bytes(self) -> int:
        """Of its table in memory."""
        return int(self.table.memory_usage(index=False, deep=True).sum())

    def rows(self, place: Place) -> pd.DataFrame | None:
        """A copy: a view would keep the whole part in memory."""
        if place not in self.stretches:
            return None
        return self.table.take(np.arange(*self.stretches[place]))


class Plan:
    """What a table of these jobs will hold, known without holding it."""

    def __init__(self, jobs: Sequence[Found], /, *, memory: int) -> None:
        self.jobs = [found for found in jobs if found.parts]
        self.columns: dict[str, Column] = {}
        self.bytes = 0
        self._held: dict[Path, _Part] = {}
        self._room = min(HELD_BYTES, memory // 8)
        self._block_bytes = min(BLOCK_BYTES, memory // 32)
        sources = [source for found in self.jobs for source in self._survey(found)]
        self._parts = {id(found.folder): found.parts for found in self.jobs}
        self.groups = gather(sources)
        members = [source.folder for group in self.groups for source in group.sources]
        self._due = Counter(path for one in members for path in self._parts[id(one)].values())
        self._find_words()
        self._shown()
        scorers = {key for group in self.groups for key in group.scorers}
        self.kinds = {name: column.kind for name, column in self.columns.items()}
        self.names = ordered(self.kinds, scorers)

    @property
    def block_rows(self) -> int:
        """Rows that are written at a time, were each text as long as the longest."""
        widths = [each.width if each.text else 0 for each in self.columns.values()]
        return max(1, self._block_bytes // sum(8 + width for width in widths))

    def blocks(self) -> Iterator[pd.DataFrame]:
        """The table, at most a part's rows at a time, its columns in order and of their types."""
        for place, group in enumerate(self.groups):
            for ranges in _together(self._ranges(source) for source in group.sources):
                table = self._block(group, ranges)
                if len(table):
                    yield self._typed(table, place)

    def _survey(self, found: Found) -> list[Source]:
        """Learn the columns of a job's parts, and what its rows are shown as."""
        job = found.folder.job
        targets: dict[str, None] = {}
        seen: dict[str, int] = {}
        for path in found.parts.values():
            with opened(path) as file:
                names = columns_of(file)
                fresh = [name for name in names if name not in self.columns]
                for name, kind in kinds_of(file, fresh).items():
                    self.columns[name] = Column(kind=kind, gaps=bool(self._seen_parts))
                for name in names:
                    seen[name] = seen.get(name, 0) + 1
                    self._learn(file, name)
                for name in self.columns.keys() - set(names):
                    self.columns[name].gaps = True
                if "target" in names:
                    told = read_column(file["scores"], "target").series()
                    targets |= dict.fromkeys(map(str, told.unique()))
            self._seen_parts += 1
        scorers: dict[tuple[str, str], dict[str, Any]] = {}
        methods = {}
        for condition in job.conditions:
            place = condition.triple[:2]
            methods[place] = condition.method
            scorers.setdefault(place, {})[condition.scorer.key] = condition.scorer
        return [
            Source(found.folder, methods[place], place[1], target, pd.DataFrame(), scorers[place])
            for place in scorers
            for target in targets or {"": None}
        ]

    _seen_parts = 0

    def _learn(self, file: h5py.File, name: str) -> None:
        column = self.columns[name]
        dataset = h5py.h5d.open(file["scores"].id, escape(name).encode())
        dtype = dataset.dtype
        self.bytes += dataset.get_storage_size()
        column.dtypes.add(dtype)
        if dtype.kind != "S":
            column.width = max(column.width, 32)  # a number, should others be text
            return
        column.width = max(column.width, dtype.itemsize)
        if h5py.h5a.exists(dataset, b"missing_value"):
            column.gaps = True

    def _find_words(self) -> None:
        """Texts that the word for missing ones could be, in columns that need that word."""
        wanted = [name for name, column in self.columns.items() if column.text and column.gaps]
        parts = [path for job in self.jobs for path in job.parts.values()] if wanted else []
        for path in parts:
            with opened(path) as file:
                for name in set(wanted).intersection(columns_of(file)):
                    values = read_column(file["scores"], name).array
                    if values.dtype.kind == "S" and values.size:
                        like = np.char.rstrip(values, b"_") == MISSING.encode()
                        self.columns[name].words |= {word.decode() for word in set(values[like])}

    def _shown(self) -> None:
        """Columns that no part holds: names, and settings that differ."""
        self._constants: dict[str, pd.Series[Any]] = {}
        folders = [group.sources[0].folder for group in self.groups]
        given: dict[str, list[Any]] = {
            "model": [folder.model for folder in folders],
            "dataset": [folder.dataset for folder in folders],
        }
        for name in differing_settings(self.groups):
            given[name] = [group.settings.get(name) for group in self.groups]
        for name, values in given.items():
            series = repeat(values, [1] * len(values))
            self._constants[name] = series
            text = series.dtype == TEXT
            words = {str(v) for v in values if text and v is not None}
            width = max((len(w.encode("utf-8", "backslashreplace")) for w in words), default=1)
            self.columns[name] = Column(
                {np.dtype("S1") if text else series.to_numpy().dtype},
                "key" if name in ("model", "dataset") else "option",
                width,
                gaps=bool(series.isna().any()),
                words=words,
            )

    def _ranges(self, source: Source) -> dict[Range, Path]:
        parts = self._parts[id(source.folder)]
        return {next(iter(part_ranges([name]))): path for name, path in parts.items()}

    def _block(self, group: Group, ranges: Sequence[Sequence[Path]]) -> pd.DataFrame:
        sources = []
        for source, paths in zip(group.sources, ranges, strict=True):
            place = source.method.key, source.layer, source.target
            pieces = [self._part(path).rows(place) for path in paths]
            there = [piece for piece in pieces if piece is not None]
            if not there:
                continue
            table = there[0]
            if len(there) > 1:
                lengths = [len(piece) for piece in there]
                names = dict.fromkeys(str(name) for piece in there for name in piece)
                table = pd.DataFrame(
                    {n: stack([piece.get(n) for piece in there], lengths) for n in names}
                )
            sources.append(replace(source, table=table))
        if not sources:
            return pd.DataFrame()
        return Group(sources, group.scorers).table()

    def _part(self, path: Path) -> _Part:
        """A part, held while groups that follow need it and there is room.

        The first ones stay: groups go through all parts in turn, so that those read last would
        each be dropped shortly before they are needed.
        """
        self._due[path] -= 1
        part = self._held.get(path)
        if part is None:
            part = _Part(*by_place(read_part_table(path)))
            if self._due[path] and part.bytes <= self._room:
                self._held[path] = part
                self._room -= part.bytes
        elif not self._due[path]:
            self._room += self._held.pop(path).bytes
        return part

    def _typed(self, table: pd.DataFrame, place: int) -> pd.DataFrame:
        columns: dict[str, Any] = {}
        for name in self.names:
            if name in self._constants:
                value = self._constants[name].iloc[place]
                values = pd.Series([value] * len(table), dtype=self._constants[name].dtype)
            elif name in table:
                values = table[name]
            else:
                values = pd.Series(np.full(len(table), np.nan))
            dtype = self.columns[name].dtype
            if values.dtype != dtype:
                values = stack([values, pd.Series([], dtype=dtype)], [len(values), 0])
                values = values if values.dtype == dtype else values.astype(dtype)
            columns[name] = values.array  # series would be aligned, which takes long
        return pd.DataFrame(columns)


def _together(sources: Iterator[dict[Range, Path]]) -> Iterator[list[list[Path]]]:
    """Parts of several jobs that cover the same rows: a list a job, for each stretch of rows."""
    every = [sorted(ranges.items()) for ranges in sources]
    bounds = _bounds(every)
    for start, stop in bounds:
        yield [
            [path for (first, last), path in ranges if start <= first and last <= stop]
            for ranges in every
        ]


def _bounds(every: Collection[Sequence[tuple[Range, Path]]]) -> list[Range]:
    joined: list[Range] = []
    for start, stop in sorted({span for ranges in every for span, _ in ranges}):
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined


def check_any(plan: Plan, folder: object) -> None:
    """Refuse a folder without a row.

    :raises StoreError: nothing was computed yet.
    """
    if not plan.groups:
        raise StoreError(
            f"{folder} holds no results yet; run attrscore first, or look at: attrscore status"
        )
