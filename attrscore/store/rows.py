"""Rows that are one row of the table: of several jobs, joined, or computed again, laid over."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import pandas as pd

from attrscore.core.columns import KEY_COLUMNS
from attrscore.core.statuses import failed, reasons_of, shown, stored, union
from attrscore.errors import StoreError
from attrscore.store.columns import Array, stack
from attrscore.store.folders import JobFolder, without_keep
from attrscore.store.identity import Plugin, canonical, flatten
from attrscore.store.maps import MapKey
from attrscore.store.part import ROW, Part, owner

Key = tuple[str, str, str]
"""Method, layer and target."""

_REASONS = ("reason", "reasons")
_TRACE = ["method", "layer", "status", "reason"]


def by_key(table: pd.DataFrame, /) -> dict[Key, Array]:
    """Which rows each method, layer and target has, in their order."""
    target = table["target"] if "target" in table else pd.Series("", table.index, name="target")
    found = table.groupby([table["method"], table["layer"], target], sort=False, observed=True)
    indices = cast("dict[Any, Array]", found.indices)
    return {(str(m), str(at), str(of)): rows for (m, at, of), rows in indices.items()}


@dataclass(frozen=True, eq=False)
class Source:
    """The rows that one job has of one method at one layer towards one target."""

    folder: JobFolder
    method: Plugin
    layer: str
    target: str
    table: pd.DataFrame
    scorers: Mapping[str, Plugin]
    depth: float = math.nan
    """How far the layer is through the model, where that is known."""


@dataclass(eq=False)
class Group:
    """Rows of one identity: one base, method, layer and target, one plugin for each scorer key."""

    sources: list[Source]
    scorers: Mapping[str, Plugin]
    settings: dict[str, Any] = field(init=False)
    """All in which it differs from others of the same names, flattened."""

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
    def order(self) -> tuple[Any, ...]:
        """What groups are sorted by, whatever order the jobs ran in; layers as the model runs."""
        *first, layer, target = map(_natural, self.shown)
        depth = self.sources[0].depth
        at = (math.isnan(depth), 0.0 if math.isnan(depth) else depth)
        return (*first, at, layer, target, canonical(self.settings))

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
    return sorted(groups, key=lambda group: group.order)


def differing_settings(groups: Sequence[Group], /) -> list[str]:
    """The settings that differ between groups that would be shown under the same names.

    And what guided a model in training, wherever something did: a verdict must know of it.
    """
    alike: dict[tuple[str, ...], list[Group]] = {}
    for group in groups:
        alike.setdefault(group.shown, []).append(group)
    found = {GUIDE for group in groups if GUIDE in group.settings}
    for members in alike.values():
        if len(members) == 1:
            continue
        known = _of_datasets(members)
        for name in {name for settings in known for name in settings}:
            if len({canonical(settings.get(name, "")) for settings in known}) > 1:
                found.add(name)
    return sorted(found)


_OF_A_SHARD = ("dataset.shard", "dataset.fingerprint")
GUIDE = "model.guide"


def _of_datasets(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Settings by which groups may differ; the shards of one dataset do not differ by theirs."""
    alike: dict[str, list[dict[str, Any]]] = {}
    for group in groups:
        known = group.settings
        sharded = "dataset.shard" in known
        kept = {k: v for k, v in known.items() if not (sharded and k in _OF_A_SHARD)}
        alike.setdefault(canonical(kept), []).append(known)
    distinct = []
    for members in alike.values():
        shards = [str(settings.get("dataset.shard", "")) for settings in members]
        totals = {shard.partition("/")[2] for shard in shards}
        if all(shards) and len(totals) == 1 and len(set(shards)) == len(shards):
            distinct.append({k: v for k, v in members[0].items() if k not in _OF_A_SHARD})
        else:  # a cell may be in several of them, and its rows must differ
            distinct += members
    return distinct


def _natural(text: str, /) -> tuple[tuple[int, int, str], ...]:
    """A sort key in which numbers count as numbers.

    >>> sorted(["features.10", "features.3"], key=_natural)
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
        elif name in ("reason", "reasons"):
            continue
        elif name == "status":
            picked = telling
        else:
            picked = choice.among([s for s, table in enumerate(tables) if name in table])
        joined[name] = choice.column(name, picked).array
    return pd.DataFrame(joined | choice.reasons([telling, *by_scorer.values()]))


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
        every = np.ones(1, dtype=bool)
        ok = [t["status"].to_numpy() == "ok" if "status" in t else every for t in tables]
        ok = [np.broadcast_to(o, len(t))[r] for o, t, r in zip(ok, tables, self._rows, strict=True)]
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

    def reasons(self, picks: Sequence[Array], /) -> dict[str, Array]:
        """What the tables picked say, each reason once: as text, and as values where all have them.

        Texts that were written before reasons were kept as values are joined whole.
        """
        everywhere = {name: all(name in table for table in self._tables) for name in _REASONS}
        if everywhere["reasons"]:
            codes, picked = self._combinations("reasons", picks)
            each = [union(*map(reasons_of, texts)) for texts in picked]
            found = {"reason": [shown(of) for of in each], "reasons": [stored(of) for of in each]}
        elif any("reason" in table for table in self._tables):
            codes, picked = self._combinations("reason", picks)
            found = {"reason": [" | ".join(filter(None, dict.fromkeys(of))) for of in picked]}
        else:
            return {}
        return {name: np.array(texts, dtype=object)[codes] for name, texts in found.items()}

    def _combinations(
        self, name: str, picks: Sequence[Array]
    ) -> tuple[Array, Sequence[Sequence[str]]]:
        """The texts of a column that the picks give together: which of them, and each of them."""
        columns = [self.column(name, picked).fillna("").astype(object) for picked in picks]
        codes, found = pd.MultiIndex.from_arrays(columns).factorize()
        return codes, list(found)

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
            if stacked.dtype == bool:
                stacked = stacked.astype(np.float64)  # pandas would make objects of it
            return stacked.reindex(np.where(nowhere, -1, rows))  # no row is called -1
        return stacked.take(rows)


def _at(rows: Array, picked: Array) -> Array:
    """For each cell the value of the table picked; where none is, the first one's."""
    found: Array = np.take_along_axis(rows, np.maximum(picked, 0)[None], 0)[0]
    return found


def overlaid(
    old: Part,
    new: Part,
    computed: Collection[tuple[str, str, str]],
    scorers: Collection[str],
    /,
    *,
    only: str,
) -> Part:
    """``old`` with what was computed again.

    ``computed`` are the triples (method, layer, scorer) that ``new`` holds. ``only="failed"`` takes
    the rows that had failed; ``only="all"`` takes all, but never a failure for a good row.
    """
    pairs = {triple[:2] for triple in computed}
    row = [name for name in ROW if name in old.table and name in new.table]
    there = pd.MultiIndex.from_frame(new.table[row])
    found = there.get_indexer(pd.MultiIndex.from_frame(old.table[row]))
    broken = failed(old.table).to_numpy()
    broken_again = np.zeros(len(old.table), bool)
    broken_again[found >= 0] = failed(new.table).to_numpy()[found[found >= 0]]
    take = (found >= 0) & (broken if only == "failed" else broken | ~broken_again)
    pair = list(zip(old.table["method"], old.table["layer"], strict=True))
    columns = {}
    for name in dict.fromkeys([*map(str, old.table), *map(str, new.table)]):
        scorer = owner(name, scorers)
        mine = take
        if scorer:
            asked = {(m, layer) for m, layer, s in computed if s == scorer}
            mine = take & np.array([each in asked for each in pair], dtype=bool)
        columns[name] = _column(old.table, new.table, name, mine, found)
    table = pd.DataFrame(columns)
    taken: dict[tuple[str, ...], set[str]] = {}
    for keys in (row[1:3], row[1:]):
        for names, rows in old.table[take].groupby(keys, observed=True):
            taken[tuple(map(str, names))] = set(rows["id"])
    traces = [each for each in (old.traces, new.traces) if each is not None and len(each)]
    kept_traces = None
    if traces:
        every = pd.concat(traces, ignore_index=True).drop_duplicates(_TRACE, ignore_index=True)
        said = pd.MultiIndex.from_frame(table[_TRACE].astype(str))
        kept_traces = every[pd.MultiIndex.from_frame(every[_TRACE].astype(str)).isin(said)]
    maps = _maps_over(old, new, taken, pairs)
    ids = _ids_over(old, new) if maps else old.ids
    crops = old.crops or new.crops  # of the same cells, whatever was computed again
    return replace(old, table=table, ids=ids, maps=maps, traces=kept_traces, crops=crops)


def _column(
    old: pd.DataFrame, new: pd.DataFrame, name: str, take: Array, found: Array
) -> pd.Series[Any]:
    if name not in new:
        return old[name]
    if name not in old:
        return new[name].reindex(np.where(take, found, -1)).reset_index(drop=True)
    values = old[name].copy()
    given = new[name].iloc[found[take]]
    if values.dtype != given.dtype:
        values = values.astype(object)
    values[take] = given.to_numpy()
    return values


def _ids_over(old: Part, new: Part) -> list[str]:
    """The cells whose maps are kept: as before, or all where new ones came."""
    if set(new.ids) <= set(old.ids):
        return list(old.ids)
    return list(dict.fromkeys(old.table["id"].astype(str)))


def _maps_over(
    old: Part,
    new: Part,
    taken: Mapping[tuple[str, ...], Collection[str]],
    pairs: Collection[tuple[str, str]],
) -> dict[MapKey, Array]:
    """Maps of the rows taken; NaN for cells that have none."""
    ids = _ids_over(old, new)
    at = {name: row for row, name in enumerate(ids)}
    maps = {key: _spread(values, old.ids, at) for key, values in old.maps.items()}
    for key, values in new.maps.items():
        if key[:2] not in pairs:
            continue
        kept = maps.get(key)
        if kept is None or kept.shape[1:] != values.shape[1:]:
            kept = _spread(values[:0], (), at)
        for row, name in enumerate(new.ids):
            if name in taken.get(key, ()):
                kept[at[name]] = values[row]
        maps[key] = kept
    return maps


def _spread(values: Array, ids: Sequence[str], at: Mapping[str, int]) -> Array:
    """Maps of the cells ``ids`` in their new order; NaN elsewhere."""
    placed = np.full((len(at), *values.shape[1:]), np.nan, np.float32)
    placed[[at[name] for name in ids]] = values
    return placed
