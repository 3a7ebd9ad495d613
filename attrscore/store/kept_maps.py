"""Kept maps of a results folder, read back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from attrscore.errors import StoreError, did_you_mean, preview
from attrscore.store.columns import Array
from attrscore.store.folders import Found, JobFolder, Location, find
from attrscore.store.identity import Plugin, canonical, flatten
from attrscore.store.maps import map_group, map_ids, map_targets, read_map
from attrscore.store.part import opened


@dataclass(frozen=True, eq=False)
class Kept:
    """The maps that a job keeps of one method at one layer, towards one target."""

    folder: JobFolder
    method: Plugin
    layer: str
    target: str | None
    """None in a job of one target."""
    parts: tuple[Path, ...]
    """Those that keep some."""

    def read(self, ids: Sequence[str], /) -> Array:
        """The maps of these cells, in this order: signed float32 (N, C, *s).

        :raises StoreError: a cell whose map is not here.
        """
        absent = [each for each in ids if each not in self.rows]
        if absent:
            raise StoreError(f"No map of {' at '.join(self._key)} is kept for {preview(absent)}.")
        at: dict[str, int] = {}
        blocks: list[Array] = []
        for part in self.parts:
            here = [each for each in dict.fromkeys(ids) if self.rows[each][0] == part]
            if not here and (ids or blocks):
                continue
            at |= {name: len(at) + number for number, name in enumerate(here)}
            with opened(part) as held:
                group = map_group(held.file, *self._key)
                if group is None:
                    raise StoreError("It was changed while it was read; try again.")
                numbers = np.array([self.rows[each][1] for each in here], dtype=int)
                blocks.append(read_map(group, numbers))
        if len({block.shape[1:] for block in blocks}) > 1:
            raise StoreError(f"Maps of {' at '.join(self._key)} differ in shape from part to part.")
        maps: Array = np.concatenate(blocks)
        return maps[[at[each] for each in ids]]

    @cached_property
    def rows(self) -> Mapping[str, tuple[Path, int]]:
        """Id -> the part that holds its map, and the map's number there."""
        found: dict[str, tuple[Path, int]] = {}
        for part in self.parts:
            with opened(part) as held:
                for row, name in enumerate(map_ids(held.file)):
                    found.setdefault(name, (part, row))
        return found

    @property
    def _key(self) -> tuple[str, ...]:
        return (self.method.key, self.layer, *([] if self.target is None else [self.target]))


def kept(path: Location, /) -> list[Kept]:
    """All maps that the jobs at a path keep, by job, method, layer and target.

    :raises StoreError: nothing there, or nothing of ours.
    """
    return [
        each
        for job in find([path])[0]
        for pair in dict.fromkeys(c.triple[:2] for c in job.folder.job.conditions)
        for each in _kept_by(job, *pair)
    ]


def _kept_by(job: Found, key: str, layer: str) -> Iterator[Kept]:
    """What a job keeps of a method at a layer, a target each."""
    methods = {c.triple[:2]: c.method for c in job.folder.job.conditions}
    if (key, layer) not in methods:
        return
    parts: dict[str | None, list[Path]] = {}
    for part in job.parts.values():
        with opened(part) as held:
            group = map_group(held.file, key, layer)
            if group is not None:
                named: list[str | None] = [*map_targets(group)]
                for target in named or [None]:
                    parts.setdefault(target, []).append(part)
    for target, those in parts.items():
        yield Kept(job.folder, methods[key, layer], layer, target, tuple(those))


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
    several models are kept, and ``target`` the name in the results, for those of a job that
    explained several.

    :raises StoreError: no such maps or cells, or maps of several models or settings.
    """
    of = f"{method} at {layer}"
    jobs = find([path])[0]
    known = {f"{c.method.key} at {c.layer}" for job in jobs for c in job.folder.job.conditions}
    if of not in known:
        raise StoreError(f"{path} has no {of}. {did_you_mean(of, known)}")
    jobs = [job for job in jobs if model in (None, job.folder.model)]
    found = [each for job in jobs for each in _kept_by(job, method, layer)]
    if not found:
        shown = of if model is None else f"{of} of {model}"
        raise StoreError(f"{path} keeps no maps of {shown}; compute them with keep=native.")
    _check_alike(found, f"{path} keeps several maps of {of}")
    targets = {each.target for each in found if each.target is not None}
    if targets and target is None:
        raise StoreError(f"Maps of {of} are kept for {preview(sorted(targets))}; say target=...")
    if target is not None and not targets:
        raise StoreError(f"The maps of {of} are of one target; leave target out.")
    if target is not None and target not in targets:
        raise StoreError(f"No maps of {of} are of {target!r}. {did_you_mean(target, targets)}")
    found = [each for each in found if each.target == target]
    whole = replace(found[0], parts=tuple(part for each in found for part in each.parts))
    wanted = list(whole.rows) if ids is None else list(map(str, ids))
    return wanted, whole.read(wanted)


def _check_alike(found: Sequence[Kept], complaint: str) -> None:
    """Maps depend neither on heat options nor on scorers, nor on what else is kept."""
    settings = [
        {k: v for k, v in each.folder.job.base.items() if k not in ("heat", "keep")}
        | {"method": each.method.identity}
        for each in found
    ]
    if len({canonical(setting) for setting in settings}) == 1:
        return
    models = sorted({each.folder.model for each in found})
    if len(models) > 1:
        raise StoreError(f"{complaint}, of {preview(models)}; choose one with model=...")
    flat = [flatten(setting) for setting in settings]
    names = sorted({name for one in flat for name in one})
    differ = [n for n in names if len({canonical(one.get(n, "")) for one in flat}) > 1]
    folders = [each.folder.path for each in found]
    raise StoreError(
        f"{complaint}, which differ in {preview(differ)}; "
        f"read the folder of one job: {preview(folders)}."
    )
