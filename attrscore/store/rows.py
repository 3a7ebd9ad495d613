"""Which rows of which jobs are one row of the results table, and how their columns are joined."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from attrscore.core.contracts import BETWEEN_REASONS, KEY_COLUMNS, SCORER_FAILED
from attrscore.errors import StoreError
from attrscore.store.columns import stack
from attrscore.store.folders import JobFolder, without_keep
from attrscore.store.identity import Plugin, Range, canonical, flatten
from attrscore.store.parts import owner

__all__ = [
    "Group",
    "Place",
    "Source",
    "by_place",
    "differing_settings",
    "gather",
    "natural",
    "split",
]

Array = np.ndarray[Any, Any]

Place = tuple[str, str, str]
"""Method, layer and target."""


def split(table: pd.DataFrame) -> dict[Place, pd.DataFrame]:
    """The rows by method, layer and target, each in the order it had."""
    table, stretches = by_place(table)
    return {place: table.iloc[start:stop] for place, (start, stop) in stretches.items()}


def by_place(table: pd.DataFrame, /) -> tuple[pd.DataFrame, dict[Place, Range]]:
    """The rows sorted by method, layer and target, and from where to where each of them goes."""
    methods, method_names = pd.factorize(table["method"])
    layers, layer_names = pd.factorize(table["layer"])
    told = table["target"] if "target" in table else pd.Series("", index=table.index)
    targets, target_names = pd.factorize(told)
    shape = (len(method_names), len(layer_names), len(target_names))
    codes = np.ravel_multi_index((methods, layers, targets), shape) if len(table) else methods
    if (np.diff(codes) < 0).any():
        order = np.argsort(codes, kind="stable")
        table, codes = table.take(order), codes[order]
    found, starts = np.unique(codes, return_index=True)
    stretches = {}
    for code, start, stop in zip(found, starts, [*starts[1:], len(codes)], strict=True):
        method, layer, target = map(int, np.unravel_index(int(code), shape))
        place = str(method_names[method]), str(layer_names[layer]), str(target_names[target])
        stretches[place] = int(start), int(stop)
    return table, stretches


@dataclass(frozen=True, eq=False)
class Source:
    """The rows that one job has of one method at one layer towards one target."""

    folder: JobFolder
    method: Plugin
    layer: str
    target: str
    table: pd.DataFrame
    scorers: Mapping[str, Plugin]


@dataclass(eq=False)
class Group:
    """Rows of one identity: one base, method, layer and target, one plugin for each scorer key."""

    sources: list[Source]
    scorers: Mapping[str, Plugin]
    settings: dict[str, Any] = field(init=False)
    """All that tells it from others of the same names, flattened."""

    def __post_init__(self) -> None:
        first = self.sources[0]
        settings = flatten(without_keep(first.folder.job.base))
        settings |= {f"method.{name}": value for name, value in first.method.settings.items()}
        for key, scorer in self.scorers.items():
            settings |= {f"scorer.{key}.{name}": v for name, v in scorer.settings.items()}
        self.settings = settings

    @property
    def shown(self) -> tuple[str, str, str, str, str]:
        """What the table shows of the identity: model, dataset, method, layer, target."""
        first = self.sources[0]
        folder = first.folder
        return folder.model, folder.dataset, first.method.key, first.layer, first.target

    @property
    def place(self) -> tuple[Any, ...]:
        """Where the group stands in the table, whatever order the jobs ran in."""
        return (*map(natural, self.shown), canonical(self.settings))

    def table(self) -> pd.DataFrame:
        """The rows of the group, the columns of its sources joined."""
        if len(self.sources) == 1:
            return self.sources[0].table
        return _join(self.sources, self.scorers)


def gather(sources: Iterable[Source], /) -> list[Group]:
    """Sources by identity, in the order of the table.

    Where one scorer key stands for several plugins (another option, another version), each gets
    rows of its own; the scorers that do not differ are repeated in all of them.
    """
    alike: dict[str, list[Source]] = {}
    for source in sorted(sources, key=lambda s: s.folder.job.id):
        base = without_keep(source.folder.job.base)
        about = [base, source.method.identity, source.layer, source.target]
        alike.setdefault(canonical(about), []).append(source)
    groups = []
    for members in alike.values():
        choices: dict[str, list[Plugin]] = {}
        for source in members:
            for key, scorer in source.scorers.items():
                known = choices.setdefault(key, [])
                if scorer not in known:
                    known.append(scorer)
        for known in choices.values():
            known.sort(key=lambda scorer: scorer.text)
        for i in range(max(map(len, choices.values()), default=1)):
            chosen = {key: known[min(i, len(known) - 1)] for key, known in sorted(choices.items())}
            serving = [s for s in members if any(chosen[k] == p for k, p in s.scorers.items())]
            groups.append(Group(serving or members, chosen))
    return sorted(groups, key=lambda group: group.place)


def differing_settings(groups: Sequence[Group], /) -> list[str]:
    """The settings that differ between groups that would be shown under the same names."""
    alike: dict[tuple[str, ...], list[Group]] = {}
    for group in groups:
        alike.setdefault(group.shown, []).append(group)
    found: set[str] = set()
    for members in alike.values():
        if len(members) == 1:
            continue
        told = _of_datasets(members)
        for name in {name for settings in told for name in settings}:
            if len({canonical(settings.get(name, "")) for settings in told}) > 1:
                found.add(name)
    return sorted(found)


_OF_A_SHARD = ("dataset.shard", "dataset.fingerprint")


def _of_datasets(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Settings by which groups may differ; the shards of one dataset do not differ by theirs."""
    alike: dict[str, list[dict[str, Any]]] = {}
    for group in groups:
        known = group.settings
        sharded = "dataset.shard" in known
        kept = {k: v for k, v in known.items() if not (sharded and k in _OF_A_SHARD)}
        alike.setdefault(canonical(kept), []).append(known)
    told = []
    for members in alike.values():
        shards = [str(settings.get("dataset.shard", "")) for settings in members]
        totals = {shard.partition("/")[2] for shard in shards}
        if all(shards) and len(totals) == 1 and len(set(shards)) == len(shards):
            told.append({k: v for k, v in members[0].items() if k not in _OF_A_SHARD})
        else:  # a cell may be in several of them, and its rows must be told apart
            told += members
    return told


def natural(text: str, /) -> tuple[tuple[int, int, str], ...]:
    """A sort key in which numbers count as numbers.

    >>> sorted(["features.10", "features.3"], key=natural)
    ['features.3', 'features.10']
    """
    return tuple(
        (0, int(word), "") if word.isdigit() else (1, 0, word)
        for word in re.findall(r"[0-9]+|[^0-9]+", text)
    )


def _join(sources: Sequence[Source], scorers: Mapping[str, Plugin]) -> pd.DataFrame:
    """One row a cell from several jobs.

    A scorer's columns come from the first job that has them with the status ``ok``, else from the
    first that has them. The status is the first that is not ``ok`` among the jobs so chosen, and
    the reason what all of them say.
    """
    tables = [source.table for source in sources]
    choice = _Choice(tables)
    by_scorer = {
        key: choice.among([s for s, each in enumerate(sources) if each.scorers.get(key) == scorer])
        for key, scorer in scorers.items()
    }
    telling = choice.among(range(len(sources)))
    for picked in reversed(by_scorer.values()):
        telling = np.where(choice.failed(picked), picked, telling)
    joined = {}
    for name in dict.fromkeys(str(name) for table in tables for name in table):
        scorer = owner(name, scorers) if name not in KEY_COLUMNS else ""
        if scorer:
            picked = by_scorer[scorer]
        elif name == "reason":
            joined[name] = choice.reasons([telling, *by_scorer.values()])
            continue
        elif name == "status":
            picked = telling
        else:
            picked = choice.among([s for s, table in enumerate(tables) if name in table])
        joined[name] = choice.column(name, picked).array
    return pd.DataFrame(joined)


class _Choice:
    """Which of several tables each cell's values come from; -1 where none has them."""

    def __init__(self, tables: Sequence[pd.DataFrame]) -> None:
        ids = [pd.Index(table["id"]) for table in tables]
        if any(not index.is_unique for index in ids):
            raise StoreError("One job holds a cell twice for one method and layer.")
        union = ids[0]
        for index in ids[1:]:
            union = union if index.equals(union) else union.union(index, sort=False)
        self._tables = tables
        self._aligned = [index.equals(union) for index in ids]
        self._rows = np.stack([index.get_indexer(union) for index in ids])
        self._there = self._rows >= 0
        ok = [_is_ok(table)[rows] for table, rows in zip(tables, self._rows, strict=True)]
        self._ok = np.stack(ok) & self._there

    def among(self, tables: Iterable[int], /) -> Array:
        """For each cell the first of these tables that has it as ``ok``, else that has it."""
        tables = list(tables)
        picked = np.full(self._rows.shape[1], -1)
        for accepted in (self._ok, self._there):
            for t in tables:
                picked = np.where((picked < 0) & accepted[t], t, picked)
        return picked

    def failed(self, picked: Array, /) -> Array:
        """Where the table picked has the cell with another status than ``ok``."""
        return (picked >= 0) & ~_at(self._ok, picked)

    def reasons(self, picks: Sequence[Array], /) -> Array:
        """What the tables picked say, each sentence once, failures first."""
        columns = [self.column("reason", picked).fillna("").astype(object) for picked in picks]
        codes, told = pd.MultiIndex.from_arrays(columns).factorize()
        joined = []
        for each in told:
            text = BETWEEN_REASONS.join(filter(None, each))
            sentences = dict.fromkeys(text.split(BETWEEN_REASONS))
            failed_first = sorted(sentences, key=lambda said: not said.startswith(SCORER_FAILED))
            joined.append(BETWEEN_REASONS.join(failed_first))
        found: Array = np.array(joined, dtype=object)[codes]
        return found

    def column(self, name: str, picked: Array, /) -> pd.Series[Any]:
        """The values of a column, each from the table picked; missing where that lacks it."""
        first = int(picked[0]) if len(picked) else -1
        alone = first >= 0 and self._aligned[first] and bool((picked == first).all())
        if alone and name in self._tables[first]:
            return self._tables[first][name]
        having = [t for t, table in enumerate(self._tables) if name in table]
        lengths = [len(self._tables[t]) for t in having]
        stacked = stack([self._tables[t][name] for t in having], lengths)
        offsets = np.full(len(self._tables), -1)
        offsets[having] = np.cumsum([0, *lengths[:-1]])
        rows = _at(self._rows, picked) + offsets[picked]
        nowhere = (picked < 0) | (offsets[picked] < 0)
        if nowhere.any():
            return stacked.reindex(np.where(nowhere, -1, rows))  # no row is called -1
        return stacked.take(rows)


def _at(rows: Array, picked: Array) -> Array:
    """For each cell the value of the table picked; where none is, the first one's."""
    found: Array = np.take_along_axis(rows, np.maximum(picked, 0)[None], 0)[0]
    return found


def _is_ok(table: pd.DataFrame) -> Array:
    if "status" not in table:
        return np.ones(len(table), dtype=bool)
    ok: Array = (table["status"] == "ok").to_numpy(dtype=bool)
    return ok
