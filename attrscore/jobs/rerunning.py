"""Computing again what a results folder already holds: what failed, or everything."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from attrscore import store
from attrscore.engine.attribution import Place
from attrscore.jobs.assembly import Parts
from attrscore.jobs.computing import compute

__all__ = ["Again", "compute_again", "to_do"]

Which = Literal["failed", "all"]


@dataclass(frozen=True)
class Again:
    """Cells of one part that are computed again."""

    folder: store.JobFolder
    start: int
    stop: int
    rows: tuple[int, ...]
    """Of the dataset."""
    wanted: frozenset[tuple[str, str, str]]


def to_do(
    jobs: Collection[store.JobFolder],
    parts: Parts,
    which: Which,
    fresh: Collection[tuple[str, int, int]],
) -> list[Again]:
    """What there is to compute again, part by part; ``fresh`` are parts made just now."""
    place = {name: row for row, name in enumerate(parts.dataset.table["id"].astype(str))}
    return list(_to_do(jobs, parts, which, fresh, place))


def _to_do(
    jobs: Collection[store.JobFolder],
    parts: Parts,
    which: Which,
    fresh: Collection[tuple[str, int, int]],
    place: Mapping[str, int],
) -> Iterator[Again]:
    asked = set(parts.job.conditions)
    for folder in store.serving(jobs, parts.job):
        wanted = {c.triple for c in folder.job.conditions if c in asked}
        for start, stop in sorted(folder.done()) if wanted else ():
            if (folder.job.id, start, stop) in fresh:
                continue
            table = store.read_part(folder.part(start, stop)).table
            chosen = table
            if which == "failed":
                chosen = table[store.failed(table)]
            places = set(zip(chosen["method"], chosen["layer"], strict=True))
            triples = frozenset(triple for triple in wanted if triple[:2] in places)
            rows = sorted({place[str(name)] for name in chosen["id"]}) if triples else []
            if rows:
                yield Again(folder, start, stop, tuple(rows), triples)


def compute_again(
    results: Path,
    parts: Parts,
    todo: Collection[Again],
    which: Which,
    *,
    refused: Mapping[Place, str],
    **watched: Any,
) -> Iterator[tuple[store.Writer, Again]]:
    """Compute and replace, one part at a time, each told once it is on the disk.

    A part is replaced when its new rows are there, in one step: a failure loses nothing. A good
    row is never replaced by a failure. ``watched`` is told to :func:`compute`.
    """
    writers: dict[str, store.Writer] = {}
    for each in todo:
        old = store.read_part(each.folder.part(each.start, each.stop))
        new = compute(
            parts,
            each.rows,
            wanted=each.wanted,
            refused=refused,
            keep=str(each.folder.job.base.get("keep", "none")),
            **watched,
        )
        made = store.overlaid(old, new, each.wanted, each.folder.job.scorers, only=which)
        writer = writers.get(each.folder.job.id)
        if writer is None:
            writer = writers[each.folder.job.id] = store.Writer(
                results,
                each.folder.job,
                labels=parts.labels,
                carried=made.carried,
                hidden=parts.hidden,
            )
        writer.write_part(each.start, each.stop, made, existing="replace")
        yield writer, each
