"""Which rows of which jobs are one row of the results table, and how their columns are joined."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from attrscore.core import KEY_COLUMNS
from attrscore.errors import StoreError
from attrscore.store.identity import Plugin, canonical, flatten
from attrscore.store.parts import owner
from attrscore.store.writer import JobFolder, without_keep

__all__ = ["Group", "Source", "differing_settings", "gather", "natural"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Source:
    """The rows that one job has of one method at one layer."""

    folder: JobFolder
    method: Plugin
    layer: str
    table: pd.DataFrame
    scorers: Mapping[str, Plugin]


@dataclass(eq=False)
class Group:
    """Rows of one identity: one base, method and layer, and one plugin for each scorer key."""

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
        target = first.table["target"].iloc[0] if "target" in first.table else ""
        folder = first.folder
        return folder.model, folder.dataset, first.method.key, first.layer, str(target)

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
        about = [without_keep(source.folder.job.base), source.method.identity, source.layer]
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
        for name in {name for group in members for name in group.settings}:
            if len({canonical(group.settings.get(name, "")) for group in members}) > 1:
                found.add(name)
    return sorted(found)


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
    first that has them. The status is the first that is not ``ok`` among the jobs so chosen.
    """
    ids = [pd.Index(source.table["id"]) for source in sources]
    if any(not index.is_unique for index in ids):
        raise StoreError("One job holds a cell twice for one method and layer.")
    union = ids[0]
    for index in ids[1:]:
        union = union if index.equals(union) else union.union(index, sort=False)
    rows = np.stack([index.get_indexer(union) for index in ids])
    fine = np.stack([_is_ok(source.table)[row] for source, row in zip(sources, rows, strict=True)])

    def choose(among: Sequence[int]) -> Array:
        """For each row the source to take, -1 where none has it."""
        picked = np.full(len(union), -1)
        for accepted in (fine & (rows >= 0), rows >= 0):
            for s in among:
                picked = np.where((picked < 0) & accepted[s], s, picked)
        return picked

    def column(name: str, picked: Array) -> pd.Series[Any]:
        having = [s for s, source in enumerate(sources) if name in source.table]
        stacked = pd.concat([sources[s].table[name] for s in having], ignore_index=True)
        offsets = np.full(len(sources), -1)
        offsets[having] = np.cumsum([0, *(len(sources[s].table) for s in having[:-1])])
        at = np.take_along_axis(rows, np.maximum(picked, 0)[None], 0)[0] + offsets[picked]
        nowhere = (picked < 0) | (offsets[picked] < 0)
        if nowhere.any():
            return stacked.reindex(np.where(nowhere, -1, at)).reset_index(drop=True)
        return stacked.take(at).reset_index(drop=True)

    by_scorer = {
        key: choose([s for s, source in enumerate(sources) if source.scorers.get(key) == scorer])
        for key, scorer in scorers.items()
    }
    telling = choose(range(len(sources)))
    for picked in reversed(by_scorer.values()):
        bad = (picked >= 0) & ~np.take_along_axis(fine, np.maximum(picked, 0)[None], 0)[0]
        telling = np.where(bad, picked, telling)

    joined: dict[str, pd.Series[Any]] = {}
    for name in dict.fromkeys(str(name) for source in sources for name in source.table):
        scorer = owner(name, scorers) if name not in KEY_COLUMNS else ""
        if scorer:
            joined[name] = column(name, by_scorer[scorer])
        elif name in ("status", "reason"):
            joined[name] = column(name, telling)
        else:
            joined[name] = column(
                name, choose([s for s, x in enumerate(sources) if name in x.table])
            )
    return pd.DataFrame(joined)


def _is_ok(table: pd.DataFrame) -> Array:
    if "status" not in table:
        return np.ones(len(table), dtype=bool)
    ok: Array = (table["status"] == "ok").to_numpy(dtype=bool)
    return ok
