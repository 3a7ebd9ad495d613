"""Rows that are computed again: a part read whole, and new results laid over it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from attrscore.store.columns import escape, hard_links, read_column, unescape
from attrscore.store.crops import Crops, crops_of
from attrscore.store.maps import Array, MapKey, map_ids, map_targets, read_map
from attrscore.store.outcomes import failed
from attrscore.store.parts import columns_of, kinds_of, opened, owner, read_columns

__all__ = ["Part", "overlaid", "read_part", "spread"]

Triple = tuple[str, str, str]

_ROW = ["id", "method", "layer", "target"]


@dataclass(frozen=True, eq=False)
class Part:
    """All that a part holds, or that is to become one."""

    table: pd.DataFrame
    maps: Mapping[MapKey, Array]
    ids: Sequence[str]
    """Of the cells whose maps are kept."""
    traces: pd.DataFrame | None
    carried: tuple[str, ...] = ()
    """Columns that are metadata."""
    crops: Crops | None = None
    """Of some of the cells."""


def read_part(path: Path, /) -> Part:
    """A part, maps decoded.

    :raises StoreError: damaged, or not to be trusted.
    """
    with opened(path) as file:
        names = columns_of(file)
        kinds = kinds_of(file, names)
        table = pd.DataFrame({n: c.series() for n, c in read_columns(file, names).items()})
        ids = map_ids(file) if "maps" in hard_links(file) else []
        maps = _maps(file, np.arange(len(ids))) if ids else {}
        traces = _traces(file)
        crops = crops_of(file)
    carried = tuple(name for name, kind in kinds.items() if kind == "metadata")
    return Part(table, maps, ids, traces, carried, crops)


def overlaid(
    old: Part, new: Part, computed: Collection[Triple], scorers: Collection[str], /, *, only: str
) -> Part:
    """``old`` with what was computed again.

    ``computed`` are the triples (method, layer, scorer) that ``new`` holds. ``only="failed"`` takes
    the rows that had failed; ``only="all"`` takes all, but never a failure for a good row.
    """
    places = {triple[:2] for triple in computed}
    row = [name for name in _ROW if name in old.table and name in new.table]
    there = pd.MultiIndex.from_frame(new.table[row])
    found = there.get_indexer(pd.MultiIndex.from_frame(old.table[row]))
    broken = failed(old.table).to_numpy()
    broken_again = np.zeros(len(old.table), bool)
    broken_again[found >= 0] = failed(new.table).to_numpy()[found[found >= 0]]
    take = (found >= 0) & (broken if only == "failed" else broken | ~broken_again)
    place = list(zip(old.table["method"], old.table["layer"], strict=True))
    columns = {}
    for name in dict.fromkeys([*map(str, old.table), *map(str, new.table)]):
        scorer = owner(name, scorers)
        mine = take
        if scorer:
            asked = {(m, layer) for m, layer, s in computed if s == scorer}
            mine = take & np.array([each in asked for each in place], dtype=bool)
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
        told = pd.MultiIndex.from_frame(table[_TRACE].astype(str))
        kept_traces = every[pd.MultiIndex.from_frame(every[_TRACE].astype(str)).isin(told)]
    maps = _maps_over(old, new, taken, places)
    ids = _ids_over(old, new) if maps else old.ids
    crops = old.crops or new.crops  # of the same cells, whatever was computed again
    return replace(old, table=table, ids=ids, maps=maps, traces=kept_traces, crops=crops)


_TRACE = ["method", "layer", "status", "reason"]


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
    places: Collection[tuple[str, str]],
) -> dict[MapKey, Array]:
    """Maps of the rows taken; NaN for cells that have none."""
    ids = _ids_over(old, new)
    at = {name: row for row, name in enumerate(ids)}
    maps = {place: spread(values, old.ids, at) for place, values in old.maps.items()}
    for place, values in new.maps.items():
        if place[:2] not in places:
            continue
        kept = maps.get(place)
        if kept is None or kept.shape[1:] != values.shape[1:]:
            kept = spread(values[:0], (), at)
        for row, name in enumerate(new.ids):
            if name in taken.get(place, ()):
                kept[at[name]] = values[row]
        maps[place] = kept
    return maps


def spread(values: Array, ids: Sequence[str], at: Mapping[str, int], /) -> Array:
    """Maps of the cells ``ids`` at their new places; NaN elsewhere."""
    placed = np.full((len(at), *values.shape[1:]), np.nan, np.float32)
    placed[[at[name] for name in ids]] = values
    return placed


def _maps(file: h5py.File, rows: Array) -> dict[MapKey, Array]:
    found: dict[MapKey, Array] = {}
    maps = file["maps"]
    for method in hard_links(maps):
        if isinstance(maps[method], h5py.Group):
            for layer in hard_links(maps[method]):
                group, place = maps[method][layer], (unescape(method), unescape(layer))
                for target in map_targets(group):
                    found[(*place, target)] = read_map(group[escape(target)], rows)
                if not map_targets(group):
                    found[place] = read_map(group, rows)
    return found


def _traces(file: h5py.File) -> pd.DataFrame | None:
    if "failures" not in hard_links(file):
        return None
    group = file["failures"]
    names = [unescape(link) for link in hard_links(group)]
    return pd.DataFrame({name: read_column(group, name).series() for name in names})
