"""What unfinished jobs hold of some rows, so that no other job computes it again.

A job that was stopped may be asked for again among other conditions, or in part. Its folder stays
as it is; the rows of its parts are taken over into the parts of the job that goes on.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from attrscore.core.contracts import BETWEEN_REASONS, SCORER_FAILED, SCORER_UNSUPPORTED
from attrscore.store.again import Part, read_part, spread
from attrscore.store.folders import JobFolder, serving
from attrscore.store.identity import Job, Range
from attrscore.store.maps import Array, MapKey
from attrscore.store.parts import owner
from attrscore.store.rows import Source, gather, split
from attrscore.store.tables import pooled

__all__ = ["Halves", "Piece", "joined"]

Triple = tuple[str, str, str]


@dataclass(frozen=True, eq=False)
class Piece:
    """Rows that a job has, of which some conditions count."""

    folder: JobFolder
    part: Part
    triples: Collection[Triple]

    def sources(self) -> Iterator[Source]:
        """The rows by method, layer and target, without what other scorers say."""
        methods = {c.method.key: c.method for c in self.folder.job.conditions}
        known = self.folder.job.scorers
        for (method, layer, target), table in split(self.part.table).items():
            mine = {s: known[s] for m, place, s in self.triples if (m, place) == (method, layer)}
            others = set(known) - set(mine)
            if not mine:
                continue
            table = table[[name for name in table if owner(str(name), known) not in others]]
            if others and "reason" in table:
                table = table.assign(reason=_without(table["reason"], others))
            yield Source(self.folder, methods[method], layer, target, table, mine)


class Halves:
    """The unfinished jobs of a results folder that hold rows of conditions of ``job``.

    Their parts need not begin and end where those of ``job`` do.
    """

    def __init__(self, folder: str | os.PathLike[str], job: Job, /) -> None:
        self._wanted = frozenset(condition.triple for condition in job.conditions)
        self._keeps = job.base.get("keep", "none") != "none"
        self._found: list[tuple[JobFolder, frozenset[Triple], set[Range]]] = []
        for each in serving(folder, job):
            shared = set(job.conditions).intersection(each.job.conditions)
            done = each.done() if shared and each.job.id != job.id else set()
            if done:
                self._found.append((each, frozenset(c.triple for c in shared), done))

    @property
    def jobs(self) -> list[str]:
        """Their ids."""
        return [each.job.id for each, _, _ in self._found]

    def left(self, start: int, stop: int, /) -> frozenset[Triple]:
        """The conditions of which none of them holds all rows from ``start`` to ``stop``."""
        held = [triples for _, triples, done in self._found if _covering(done, start, stop)]
        return self._wanted.difference(*held)

    def pieces(self, start: int, stop: int, ids: Collection[str], /) -> list[Piece]:
        """What they hold of these rows, whose cells are ``ids``.

        :raises StoreError: a part that is damaged.
        """
        found = []
        for each, triples, done in self._found:
            for span in _covering(done, start, stop):
                part = _some(read_part(each.part(*span)), ids, triples)
                part = part if self._keeps else replace(part, maps={})
                found.append(Piece(each, part, triples))
        return found


def joined(pieces: Iterable[Piece], /) -> Part:
    """Pieces as one part: a row a cell, method, layer and target."""
    pieces = list(pieces)
    groups = gather([source for piece in pieces for source in piece.sources()])
    table = pooled([group.table() for group in groups])
    ids = list(dict.fromkeys(table["id"].astype(str)))
    at = {name: row for row, name in enumerate(ids)}
    maps: dict[MapKey, Array] = {}
    for piece in pieces:
        for place, values in piece.part.maps.items():
            found = spread(values, piece.part.ids, at)
            there = np.isin(ids, piece.part.ids).reshape(-1, *[1] * (found.ndim - 1))
            maps[place] = np.where(there, found, maps.get(place, found))
    traces = [piece.part.traces for piece in pieces if piece.part.traces is not None]
    told = pd.concat(traces).drop_duplicates(ignore_index=True) if traces else None
    carried = dict.fromkeys(name for piece in pieces for name in piece.part.carried)
    return Part(table, maps, ids, told, tuple(carried))


def _covering(done: Collection[Range], start: int, stop: int) -> list[Range]:
    """Ranges that together hold all rows from ``start`` to ``stop``; none if some are absent."""
    found, at = [], start
    for first, last in sorted(done):
        if first <= at < last and at < stop:
            found.append((first, last))
            at = last
    return found if at >= stop else []


def _some(part: Part, ids: Collection[str], triples: Collection[Triple]) -> Part:
    """The rows of these cells, methods and layers."""
    wanted, places = set(ids), {triple[:2] for triple in triples}
    here = pd.MultiIndex.from_frame(part.table[["method", "layer"]]).isin(places)
    table = part.table[here & part.table["id"].isin(wanted)].reset_index(drop=True)
    rows = [row for row, name in enumerate(part.ids) if name in wanted]
    maps = {place: values[rows] for place, values in part.maps.items() if place[:2] in places}
    traces = part.traces
    if traces is not None:
        told = pd.MultiIndex.from_frame(table[_TRACE].astype(str))
        traces = traces[pd.MultiIndex.from_frame(traces[_TRACE].astype(str)).isin(told)]
    return Part(table, maps, [part.ids[row] for row in rows], traces, part.carried)


_TRACE = ["method", "layer", "status", "reason"]


def _without(reasons: pd.Series[str], scorers: Collection[str]) -> pd.Series[str]:
    """Reasons without what these scorers say."""
    signs = (f"{SCORER_FAILED}{{}}'", f"{{}}{SCORER_UNSUPPORTED}", "{}: ")
    begins = tuple(sign.format(name) for sign in signs for name in scorers)
    return reasons.map(
        lambda text: BETWEEN_REASONS.join(
            said for said in text.split(BETWEEN_REASONS) if not said.startswith(begins)
        ),
        na_action="ignore",
    )
