"""Computing again what a results folder holds: to replace what failed, or to compare all of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from attrscore import store
from attrscore.core.statuses import failed
from attrscore.engine.attribution import Pair
from attrscore.jobs.assembly import Parts
from attrscore.jobs.computing import Watch, compute
from attrscore.store.identity import canonical, flatten
from attrscore.store.part import ROW

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


@dataclass(frozen=True)
class Comparison:
    """What became of a reproduction."""

    verdict: Literal["identical", "differs", "impossible"]
    sentence: str
    differences: Mapping[str, str] = field(default_factory=dict)
    """Column, or setting -> by how much."""


def moved(stored: Mapping[str, Any], now: Mapping[str, Any], /) -> dict[str, str]:
    """The settings that no longer are what they were: weights, data, versions."""
    before, after = flatten(stored), flatten(now)
    return {
        name: f"{before.get(name)} then, {after.get(name)} now"
        for name in sorted(before.keys() | after.keys())
        if canonical(before.get(name)) != canonical(after.get(name))
    }


def compare(stored: pd.DataFrame, now: pd.DataFrame, /) -> Comparison:
    """Two tables of the same rows: texts equal, numbers equal to the last bit, or by how much not.

    Rows are matched by id, method, layer and target; only columns of ``stored`` count.
    """
    row = [name for name in ROW if name in stored and name in now]
    before = stored.set_index(row).sort_index()
    after = now.set_index(row).sort_index()
    rows = f"{len(before)} rows"
    if not before.index.equals(after.index):
        lost = len(before.index.difference(after.index))
        more = len(after.index.difference(before.index))
        return Comparison(
            "differs", f"The rows are not the same: {lost} of {rows} are gone, {more} are new."
        )
    differences = {}
    for name in before:
        if name not in after:
            differences[str(name)] = "is not computed any more"
        elif (how := _apart(before[name], after[name])) is not None:
            differences[str(name)] = how
    if differences:
        sentence = f"Of {rows}, some differ in {len(differences)} of {before.shape[1]} columns:"
        return Comparison("differs", sentence, differences)
    return Comparison("identical", f"Identical: {rows}, every column to the last bit.")


def _apart(before: pd.Series[Any], after: pd.Series[Any]) -> str | None:
    if pd.api.types.is_numeric_dtype(before) and pd.api.types.is_numeric_dtype(after):
        old, new = before.to_numpy(dtype=np.float64), after.to_numpy(dtype=np.float64)
        if np.array_equal(old, new, equal_nan=True):
            return None
        undefined = int((np.isnan(old) != np.isnan(new)).sum())
        both = np.isfinite(old) & np.isfinite(new)
        most = np.abs(old[both] - new[both]).max(initial=0.0)
        only = f", {undefined} rows defined in one only" if undefined else ""
        return f"by {most:.3g} at most{only}"
    unequal = before.astype(object).fillna("") != after.astype(object).fillna("")
    return f"in {int(unequal.sum())} rows" if bool(unequal.any()) else None
