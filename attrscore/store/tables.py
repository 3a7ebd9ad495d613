"""The one reader: the rows of jobs as tables, a piece at a time, in the order of the whole table.

:func:`read_scores` joins the pieces; :func:`attrscore.store.merged.collect` writes them to a file,
one after the other, and so needs the memory of some parts, not of the table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attrscore.core.columns import KEY_COLUMNS
from attrscore.errors import StoreError, preview
from attrscore.store.columns import TEXT, missing_word, read_stored, stack
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
        self._columns: dict[str, Column] = {}
        self._folders: dict[str, _Survey] = {}
        sources = [source for found in self.jobs for source in self._survey(found)]
        if not sources:
            raise StoreError("There are no results yet.", kind="empty")
        self.groups = gather(sources)
        self._due: Counter[Path] = Counter()
        self._gaps: set[str] = set()
        self._shown = self._settings_shown()
        scorers = {key for group in self.groups for key in group.scorers}
        self.names = ordered(self.kinds, scorers)

    def pieces(self) -> Iterator[pd.DataFrame]:
        """The rows, columns as they come: a group at a time, or a part's rows of a group."""
        self._due = Counter(
            path
            for group in self.groups
            for source in group.sources
            for _, path in self._folders[source.folder.job.id].parts
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
        survey = _Survey()
        keys: dict[Key, None] = {}
        for path in found.parts.values():
            with opened(path) as part:
                part.check_job(job.id)
                (span,) = part_ranges([path.name]) or [(0, job.rows)]  # a part under another name
                names = [n for n in part.columns if self._only is None or n in self._only]
                self._learn(part, names, job.scorers)
                survey.add(span, path, names)
                if self._room is None:
                    held = self._held[path] = _Rows(*by_key(part.table(names)))
                    keys |= dict.fromkeys(held.stretches)
                else:
                    keys |= dict.fromkeys(_keys(part))
        self._folders[job.id] = survey
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
            Source(found.folder, methods[method], at, target, pd.DataFrame(), scorers[method, at])
            for method, at, target in keys
        ]

    def _learn(self, part: PartFile, names: Sequence[str], scorers: Collection[str]) -> None:
        """Types and kinds; the kind by name where that says it, for attributes are slow."""
        for name in names:
            if name not in self._columns:
                self._columns[name] = Column()
                self.kinds[name] = _kind_by_name(name, scorers) or part.kinds([name])[name]
            column, dataset = self._columns[name], part.columns[name]
            self.bytes += dataset.get_storage_size()
            column.add(dataset.dtype.newbyteorder("="), missing_word(dataset) is not None)

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
        every = [self._folders[source.folder.job.id].parts for source in group.sources]
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
            pieces = [self._of(self._rows(path), key) for path in paths]
            there = [piece for piece in pieces if piece is not None]
            if there:
                table = there[0] if len(there) == 1 else pooled(there)
                sources.append(replace(source, table=table))
        return Group(sources, group.scorers).table() if sources else pd.DataFrame()

    def _of(self, rows: _Rows, key: Key) -> pd.DataFrame | None:
        if key not in rows.stretches:
            return None
        start, stop = rows.stretches[key]
        if self._room is None:
            return rows.table.iloc[start:stop]
        return rows.table.take(np.arange(start, stop))  # a view would keep the whole part

    def _rows(self, path: Path) -> _Rows:
        """The rows of a part, held while pieces to come need them and there is room.

        The first ones stay: groups go through all parts in turn, so that those read last would
        each be dropped shortly before they are needed.
        """
        self._due[path] -= 1
        rows = self._held.get(path)
        if rows is None:
            with opened(path) as part:
                names = [n for n in part.columns if self._only is None or n in self._only]
                rows = _Rows(*by_key(part.table(names)))
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

        They have the types that the pieces would have if they were put together.
        """
        columns = {n: replace(self._columns[n]) for n in self.names if n in self._columns}
        for name, values in self._shown.items():
            columns[name] = Column.of(values)
        for name in self._gaps.union(*map(self._incomplete, self.groups)) - self._shown.keys():
            columns[name].gaps = True
        wanted = {name for name, each in columns.items() if each.text and each.gaps}
        for path in [p for job in self.jobs for p in job.parts.values()] if wanted else ():
            with opened(path) as part:
                for name in wanted.intersection(part.columns):
                    stored = read_stored(part.columns[name])
                    if stored.dtype.kind == "S" and stored.size:
                        like = np.char.rstrip(stored, b"_") == MISSING.encode()
                        columns[name].words |= {word.decode() for word in set(stored[like])}
        return {name: columns[name] for name in self.names}

    def typed(self, table: pd.DataFrame) -> pd.DataFrame:
        """A piece with all columns in their order and of their types.

        :raises UnforeseenGapError: a column has no value where the parts promised one; the columns
            know it now, and the pieces can be read anew.
        """
        columns: dict[str, Any] = {}
        for name, column in self.columns.items():
            values = table[name] if name in table else pd.Series(np.full(len(table), np.nan))
            may_lack = values.dtype.kind not in "biu" and column.dtype != np.float64
            if may_lack and not column.gaps and bool(values.isna().any()):
                self._gaps.add(name)
                del self.columns
                raise UnforeseenGapError(name)
            if values.dtype != column.dtype:
                values = stack([values, pd.Series([], dtype=column.dtype)], [len(values), 0])
                values = values if values.dtype == column.dtype else values.astype(column.dtype)
            columns[name] = values.array  # series would be aligned, which takes long
        return pd.DataFrame(columns)

    def _incomplete(self, group: Group) -> set[str]:
        """The columns that some rows of a group do not have."""
        surveys = [self._folders[source.folder.job.id] for source in group.sources]
        if len(surveys) == 1:
            return (self._columns.keys() - surveys[0].names) | surveys[0].partial
        rows = _union(span for each in surveys for span, _ in each.parts)
        found = set()
        for name in self._columns:
            scorer = "" if name in KEY_COLUMNS else owner(name, group.scorers)
            having = [
                survey
                for source, survey in zip(group.sources, surveys, strict=True)
                if name in survey.names
                and (not scorer or source.scorers.get(scorer) == group.scorers[scorer])
            ]
            partial = any(name in each.partial for each in having)
            if partial or _union(span for each in having for span, _ in each.parts) != rows:
                found.add(name)
        return found


class UnforeseenGapError(Exception):
    """A column has no value where its parts promised one."""


@dataclass
class Column:
    """What all parts together say of a column."""

    dtypes: set[np.dtype[Any]] = field(default_factory=set)
    width: int = 1
    """Bytes of the longest text."""
    gaps: bool = False
    """Some rows have no value."""
    words: set[str] = field(default_factory=set)
    """Texts that a word for missing ones could be taken for."""

    @classmethod
    def of(cls, values: pd.Series[Any], /) -> Column:
        """Of values that are known."""
        text = values.dtype == TEXT
        words = {str(value) for value in values if text and value is not None}
        width = max((len(word.encode("utf-8", "backslashreplace")) for word in words), default=1)
        dtype = np.dtype("S1") if text else values.to_numpy().dtype
        return cls({dtype}, width, gaps=bool(values.isna().any()), words=words)

    def add(self, dtype: np.dtype[Any], missing: bool, /) -> None:  # noqa: FBT001  # a fact
        """What one part says."""
        text = dtype.kind == "S"
        self.dtypes.add(np.dtype("S") if text else dtype)
        self.width = max(self.width, dtype.itemsize if text else 32)  # a number, beside text
        self.gaps |= missing

    @cached_property
    def text(self) -> bool:
        """Whether it is text: so it is if it is in any part. Asked once all parts were."""
        return any(dtype.kind == "S" for dtype in self.dtypes)

    @cached_property
    def dtype(self) -> Any:
        """Of the column in the table. Asked once all parts were."""
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


@dataclass
class _Survey:
    """The parts of a job, and their columns."""

    parts: list[tuple[Range, Path]] = field(default_factory=list)
    """In the order of their names."""
    names: set[str] = field(default_factory=set)
    partial: set[str] = field(default_factory=set)
    """Those that some parts lack."""

    def add(self, span: Range, path: Path, names: Collection[str]) -> None:
        here = set(names)
        self.partial |= (self.names ^ here) if self.parts else set()
        self.names |= here
        self.parts.append((span, path))


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of a part, by method, layer and target."""

    table: pd.DataFrame
    stretches: Mapping[Key, Range]

    @cached_property
    def bytes(self) -> int:
        return int(self.table.memory_usage(index=False, deep=True).sum())


def _keys(part: PartFile) -> Collection[Key]:
    return by_key(part.table(["method", "layer", "target"]))[1].keys()


def _apart(spans: Sequence[Range]) -> list[Range]:
    """Sorted ranges, those that overlap as one."""
    joined: list[Range] = []
    for start, stop in spans:
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined


def _union(spans: Iterable[Range]) -> list[Range]:
    """The rows of all these ranges, in as few ranges as can be."""
    joined: list[Range] = []
    for start, stop in sorted(spans):
        if joined and start <= joined[-1][1]:
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
    lengths = [len(table) for table in tables]
    names = dict.fromkeys(str(name) for table in tables for name in table)
    return pd.DataFrame(
        {name: stack([table.get(name) for table in tables], lengths) for name in names}
    )


def ordered(kinds: Mapping[str, str], scorers: Collection[str], /) -> list[str]:
    """Columns in the order of the table: keys, settings, scores by scorer, metadata."""
    keys = [name for name in KEY_COLUMNS if name in kinds]
    options = sorted(name for name, kind in kinds.items() if kind == "option")
    scores = [name for name, kind in kinds.items() if kind == "score"]
    # What a method says about itself belongs to no scorer and comes after them.
    scores.sort(key=lambda name: (not owner(name, scorers), owner(name, scorers), name))
    metadata = sorted(name for name, kind in kinds.items() if kind == "metadata")
    return [*keys, *options, *scores, *metadata]
