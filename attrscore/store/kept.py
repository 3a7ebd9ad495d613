"""Kept maps and crops of a results folder, read back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from attrscore.errors import StoreError, did_you_mean, preview
from attrscore.store.crops import Crops, crops_of
from attrscore.store.folders import JobFolder
from attrscore.store.identity import Plugin, canonical, flatten
from attrscore.store.maps import map_group, map_ids, map_targets, read_map
from attrscore.store.parts import opened
from attrscore.store.places import Found, Location, find

__all__ = ["Kept", "kept", "read_crops", "read_maps"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Kept:
    """The maps that a job keeps of one method at one layer, towards one target."""

    folder: JobFolder
    method: Plugin
    layer: str
    target: str | None
    """None in a job of one target."""
    parts: tuple[Path, ...]

    def read(self, ids: Sequence[str], /) -> Array:
        """The maps of these cells, in this order: signed float32 (N, C, *s).

        :raises StoreError: a cell whose map is not here.
        """
        absent = [each for each in ids if each not in self.rows]
        if absent:
            raise StoreError(f"No map of {' at '.join(self._place)} is kept for {preview(absent)}.")
        maps: dict[str, Array] = {}
        for part in dict.fromkeys(self.rows[each][0] for each in ids):
            here = [each for each in ids if self.rows[each][0] == part]
            with opened(part) as file:
                group = map_group(file, *self._place)
                if group is None:
                    raise StoreError(f"{part} was changed while it was read; try again.")
                numbers = np.array([self.rows[each][1] for each in here], dtype=int)
                maps |= dict(zip(here, read_map(group, numbers), strict=True))
        return np.stack([maps[each] for each in ids])

    @cached_property
    def rows(self) -> Mapping[str, tuple[Path, int]]:
        """Id -> the part that holds its map, and the map's number there."""
        found: dict[str, tuple[Path, int]] = {}
        for part in self.parts:
            with opened(part) as file:
                if map_group(file, *self._place) is not None:
                    for row, name in enumerate(map_ids(file)):
                        found.setdefault(name, (part, row))
        return found

    @property
    def _place(self) -> tuple[str, ...]:
        return (self.method.key, self.layer, *([] if self.target is None else [self.target]))


def kept(path: Location, /) -> list[Kept]:
    """All maps that the jobs at a place keep, by job, method, layer and target.

    :raises StoreError: nothing there, or nothing of ours.
    """
    listed: list[Kept] = []
    for each in find([path])[0]:
        parts = tuple(each.parts.values())
        pairs = {(c.method.key, c.layer): c.method for c in each.folder.job.conditions}
        for (key, layer), method in pairs.items():
            targets: dict[str | None, None] = {}
            for part in parts:
                with opened(part) as file:
                    group = map_group(file, key, layer)
                    if group is not None:
                        named: list[str | None] = [*map_targets(group)]
                        targets |= dict.fromkeys(named or [None])
            listed += [Kept(each.folder, method, layer, target, parts) for target in targets]
    return listed


def read_maps(
    path: Location,
    method: str,
    layer: str,
    *,
    ids: Sequence[str] | None = None,
    model: str | None = None,
    target: str | None = None,
) -> tuple[list[str], Array]:
    """Kept maps of a method at a layer: their ids, and signed float32 (N, C, *s).

    ``ids`` picks cells, in this order; ``model`` is the displayed name, needed where maps of
    several networks are kept, and ``target`` the name in the results, for those of a job that
    explained several.

    :raises StoreError: no such maps or cells, or maps of several networks or settings.
    """
    place = f"{method} at {layer}"
    found, known = [], set()
    for each in find([path])[0]:
        pairs = {(c.method.key, c.layer): c.method for c in each.folder.job.conditions}
        known |= {" at ".join(pair) for pair in pairs}
        shown = model is None or each.folder.model == model
        if (method, layer) in pairs and shown and _keeps(each, method, layer):
            found.append((each, pairs[method, layer]))
    if place not in known:
        raise StoreError(f"{path} has no {place}. {did_you_mean(place, known)}")
    if not found:
        of = "" if model is None else f" of {model}"
        raise StoreError(f"{path} keeps no maps of {place}{of}; compute them with keep=native.")
    _check_alike(found, f"{path} keeps several maps of {place}")
    parts = [part for each, _ in found for part in each.parts.values()]
    return _read(parts, (method, layer, *_target(parts, method, layer, target)), ids)


def read_crops(part: Path, /) -> Crops | None:
    """The crops that a part keeps, or None where it keeps none.

    :raises StoreError: damaged, or not to be trusted.
    """
    with opened(part) as file:
        return crops_of(file)


def _target(parts: Sequence[Path], method: str, layer: str, wanted: str | None) -> tuple[str, ...]:
    """The target as the last link to the maps; nothing where a job has one only."""
    known: set[str] = set()
    for part in parts:
        with opened(part) as file:
            group = map_group(file, method, layer)
            known |= set(map_targets(group)) if group is not None else set()
    place = f"{method} at {layer}"
    if not known:
        if wanted is not None:
            raise StoreError(f"The maps of {place} are of one target; leave target out.")
        return ()
    if wanted is None:
        raise StoreError(f"Maps of {place} are kept for {preview(sorted(known))}; say target=...")
    if wanted not in known:
        raise StoreError(f"No maps of {place} are of {wanted!r}. {did_you_mean(wanted, known)}")
    return (wanted,)


def _check_alike(found: Sequence[tuple[Found, Plugin]], complaint: str) -> None:
    """Maps depend neither on heat options nor on scorers, nor on what else is kept."""
    settings = [
        {k: v for k, v in each.folder.job.base.items() if k not in ("heat", "keep")}
        | {"method": plugin.identity}
        for each, plugin in found
    ]
    if len({canonical(setting) for setting in settings}) == 1:
        return
    models = sorted({each.folder.model for each, _ in found})
    if len(models) > 1:
        raise StoreError(f"{complaint}, of {preview(models)}; choose one with model=...")
    flat = [flatten(setting) for setting in settings]
    names = sorted({name for one in flat for name in one})
    differ = [n for n in names if len({canonical(one.get(n, "")) for one in flat}) > 1]
    folders = [each.folder.path for each, _ in found]
    raise StoreError(
        f"{complaint}, which differ in {preview(differ)}; "
        f"read the folder of one job: {preview(folders)}."
    )


def _read(
    parts: Iterable[Path], place: tuple[str, ...], ids: Sequence[str] | None
) -> tuple[list[str], Array]:
    wanted = None if ids is None else {str(i) for i in ids}
    at: dict[str, int] = {}
    blocks: list[Array] = []
    for part in parts:
        with opened(part) as file:
            group = map_group(file, *place)
            if group is None:
                continue
            rows = [
                (row, name)
                for row, name in enumerate(map_ids(file))
                if name not in at and (wanted is None or name in wanted)
            ]
            blocks.append(read_map(group, np.array([row for row, _ in rows], dtype=int)))
            at |= {name: len(at) + i for i, (_, name) in enumerate(rows)}
    maps = np.concatenate(blocks)
    if ids is None:
        return list(at), maps
    absent = [str(i) for i in ids if str(i) not in at]
    if absent:
        raise StoreError(f"No map of {' at '.join(place)} is kept for {preview(absent)}.")
    return [str(i) for i in ids], maps[[at[str(i)] for i in ids]]


def _keeps(found: Found, method: str, layer: str) -> bool:
    for part in found.parts.values():
        with opened(part) as file:
            if map_group(file, method, layer) is not None:
                return True
    return False
