"""Computing again what a results folder already holds: what failed, or everything."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from attrscore import store
from attrscore.core.statuses import failed
from attrscore.engine.attribution import Pair
from attrscore.jobs.assembly import Parts
from attrscore.jobs.computing import Watch, compute

__all__ = ["Again", "replace_part", "to_do"]

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
    row_of = {name: row for row, name in enumerate(parts.dataset.table["id"].astype(str))}
    asked = set(parts.job.conditions)
    found = []
    for folder in store.serving(jobs, parts.job):
        wanted = {c.triple for c in folder.job.conditions if c in asked}
        for start, stop in sorted(folder.done()) if wanted else ():
            if (folder.job.id, start, stop) in fresh:
                continue
            table = store.read_part(folder.part(start, stop)).table
            chosen = table[failed(table)] if which == "failed" else table
            pairs = set(zip(chosen["method"], chosen["layer"], strict=True))
            triples = frozenset(triple for triple in wanted if triple[:2] in pairs)
            rows = sorted({row_of[str(name)] for name in chosen["id"]}) if triples else []
            if rows:
                found.append(Again(folder, start, stop, tuple(rows), triples))
    return found


def replace_part(
    parts: Parts,
    each: Again,
    which: Which,
    writers: dict[str, store.Writer],
    *,
    refused: Mapping[Pair, str],
    watch: Watch,
) -> None:
    """Compute the rows of a part again and put the new part in its place, in one step.

    A failure loses nothing, and a good row is never replaced by a failure. ``writers`` gains that
    of the job.
    """
    job = each.folder.job
    old = store.read_part(each.folder.part(each.start, each.stop))
    new = compute(
        parts,
        each.rows,
        wanted=each.wanted,
        refused=refused,
        keep="native" if job.base.get("keep") == "native" else "none",
        watch=watch,
    )
    made = store.overlaid(old, new, each.wanted, job.scorers, only=which)
    if job.id not in writers:
        writers[job.id] = store.Writer(
            parts.settings["results"],
            job,
            labels=parts.labels,
            carried=made.carried,
            hidden=parts.hidden,
        )
    writers[job.id].write_part(each.start, each.stop, made, existing="replace")
