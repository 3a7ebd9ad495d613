"""One job: compute what the results folder lacks, write it, show it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from attrscore import store
from attrscore.core.contracts import Dataset, single_targets
from attrscore.core.heat import Heat
from attrscore.core.model import device_of
from attrscore.core.readings import readings_of
from attrscore.datasets.flags import RedFlag, red_flags
from attrscore.engine.attribution import Pair
from attrscore.engine.memory import Gauge
from attrscore.engine.preflight import Finding, preflight, refusals
from attrscore.engine.reading import those_readable
from attrscore.engine.run import run
from attrscore.errors import EmptyShardError, choose, preview, stoppable
from attrscore.jobs.assembly import Parts, answering, build, draws_of
from attrscore.jobs.computing import CARRIED, Watch, compute
from attrscore.jobs.fitting import train_if_asked
from attrscore.jobs.planning import part_rows
from attrscore.jobs.provenance import (
    Clock,
    about,
    facts,
    machine,
    normalised_otherwise,
    notify_of_data,
    of_a_draw,
    of_numbers,
    overrides_of_numbers,
)
from attrscore.jobs.rerunning import Which, replace_part, to_do
from attrscore.jobs.settings import check_results
from attrscore.report import figures as plots
from attrscore.store.commit import heartbeat

__all__ = ["Outcome", "is_finished", "refused_by_preflight", "run_job"]

RERUN = ("missing", "failed", "all")

KEPT = 2**30
"""Bytes of crops that are kept for the next draw of random weights."""

SHOWN = {2: 4, 3: 2}
"""Cells in the figure of a job, by dimensions; in 3D each takes several slices."""


@dataclass(frozen=True)
class Outcome:
    """What a job did."""

    folder: Path
    """Of the results."""
    computed: int
    """Cells computed now; the rest was there."""
    scores: pd.DataFrame
    dataset: Dataset
    job: store.Job
    figures: tuple[Path, ...] = ()


@stoppable()
def run_job(
    settings: Mapping[str, Any],
    *,
    config: str = "",
    overrides: Sequence[str] = (),
    on_progress: Callable[[int, int, str], None] = lambda _done, _total, _note: None,
    on_findings: Callable[[Sequence[Finding]], None] = lambda _findings: None,
    notify: Callable[[str], None] = lambda _line: None,
) -> Outcome:
    """Compute what the results folder lacks of a job, and show it.

    Draws of random weights are a job each, one after another, for which the data are read once.
    ``config`` is the text of the configuration, interpolations unresolved. ``on_progress`` gets how
    many cells are done, of how many, and which draw and what a slow method is at; ``on_findings``
    what the preflight found, before the first; ``notify`` a line where there is something to say.

    :raises AttrscoreError: nothing was written that is not whole; parts already written stay.
    """
    check_results(Path(settings["results"]))
    if settings["threads"]:
        torch.set_num_threads(int(settings["threads"]))
    choose(settings["rerun"], RERUN, option="rerun")
    clock = Clock()
    train_if_asked(settings, notify)
    draws = draws_of(settings)
    if left_out := sorted(settings["scorer"].keys() - draws[0]["scorer"].keys()):
        notify(f"left out of draws of random weights, for it looks at no map: {preview(left_out)}")
    first = build(draws[0])
    first.reader.room = KEPT if len(draws) > 1 else 0
    flags = (
        *red_flags(first.dataset, first.reader.sample),
        *normalised_otherwise(first.dataset, first.record),
    )
    notify_of_data(first.dataset, flags, notify)
    done = rows = 0
    figures: tuple[Path, ...] = ()
    folders: list[Path] = []
    try:
        for number, one in enumerate(draws):
            parts = build(one, like=first) if number else first
            work = _Work(
                parts, clock, config, overrides, flags, on_progress, on_findings, done, rows
            )
            if len(draws) > 1:
                work.of_a_draw(number, len(draws), first=settings["seed"])
            figures += work.fill(settings["rerun"])
            done, rows = done + work.computed, work.rows
            folders += store.folders_of(work.jobs, parts.job)
            clock = Clock()
    finally:
        first.reader.close()
    scores = store.read_scores(*folders)
    return Outcome(Path(settings["results"]), done, scores, first.dataset, first.job, figures)


def is_finished(settings: Mapping[str, Any], /) -> bool:
    """Whether the results folder holds all of a job already; costs building it.

    :raises AttrscoreError: as the job would, before it starts.
    """
    if settings["rerun"] != "missing":
        return False
    first: Parts | None = None
    for one in draws_of(settings):
        try:
            parts = build(one, like=first)
        except EmptyShardError:
            return True
        first = first or parts
        if store.missing_conditions(store.jobs_like(one["results"], parts.job), parts.job):
            return False
    return True


@dataclass
class _Work:
    """One run over the conditions of a job."""

    parts: Parts
    clock: Clock
    config: str
    overrides: Sequence[str]
    flags: Sequence[RedFlag]
    on_progress: Callable[[int, int, str], None]
    on_findings: Callable[[Sequence[Finding]], None]
    before: int = 0
    """Cells computed by earlier draws."""
    rows: int = 0
    """Rows of a part, where they are known of an earlier draw."""
    computed: int = 0
    """Cells computed."""
    total: int = 0
    draws: int = 1
    """This one and those to come."""
    note: str = ""
    """Which draw."""
    refused: Mapping[Pair, str] = field(default_factory=dict)
    """Why some methods have no maps at some layers, where the preflight was asked."""

    def __post_init__(self) -> None:
        self.results = Path(self.parts.settings["results"])
        self.jobs = store.jobs_like(self.results, self.parts.job)
        """Those of the results folder that may serve this one."""
        self.watch = Watch(
            advance=self._advance,
            on_step=lambda method, at, of: self._report(f"{method} {at}/{of}"),
            gauge=Gauge(device_of(self.parts.model)),
        )

    def of_a_draw(self, number: int, draws: int, *, first: int) -> None:
        """Be the draw ``number`` of random weights, of those whose seeds begin at ``first``."""
        self.draws, self.note = draws - number, f"draw {number + 1} of {draws}"
        seed = self.parts.settings["seed"]
        self.config, self.overrides = of_a_draw(self.config, self.overrides, seed=seed, first=first)
        if number:  # they are those of the first
            self.on_findings = lambda _findings: None

    def fill(self, rerun: Literal["missing", "failed", "all"]) -> tuple[Path, ...]:
        """Compute what is missing, and what is asked for again; the figures made."""
        figures: tuple[Path, ...] = ()
        fresh: set[tuple[str, int, int]] = set()
        missing = store.missing_conditions(self.jobs, self.parts.job)
        if missing:
            job = self.fill_missing(missing, fresh)
            if self.parts.settings["figures"] == "all":
                path = self.results / "figures" / f"cells-{job.id}.png"
                figures = _draw(self.parts, path, self.refused)
        if rerun != "missing":
            self.fill_again(rerun, fresh)
        return figures

    def fill_missing(
        self, missing: tuple[store.Condition, ...], fresh: set[tuple[str, int, int]]
    ) -> store.Job:
        """Compute and commit what is not there; ``fresh`` gains the parts made."""
        job = replace(self.parts.job, conditions=missing)
        begun = [each.job for each in self.jobs if each.job.begins_as(job)]
        if begun:  # it keeps its parts, whatever rows a part would have now
            job = begun[0]
        else:
            self.rows = self.rows or part_rows(self.parts, missing)
            job = replace(job, part_rows=self.rows)
        besides = () if self.parts.options.pool is not None else ("pool",)
        writer = store.Writer(
            self.results,
            job,
            labels=self.parts.labels,
            config=of_numbers(self.config, besides),
            provenance={
                **facts(overrides_of_numbers(self.overrides, besides)),
                **about(self.parts.dataset, self.flags),
            },
            carried=CARRIED,
            readings={key: readings_of(each) for key, each in self.parts.scorers.items()},
            hidden=self.parts.hidden,
        )
        others = [each for each in self.jobs if each.job.id != job.id]
        here = store.JobFolder.read(writer.folder)
        self.jobs = sorted([*others, here], key=lambda each: each.path)
        ranges = writer.missing()
        self.total = sum(stop - start for start, stop in ranges)
        wanted = {condition.triple for condition in missing}
        try:
            refused = self._refused({method for method, _, _ in wanted}) if ranges else {}
            self.refused = refused
            for start, stop in ranges:
                with heartbeat(here.part(start, stop)):
                    part = compute(
                        self.parts,
                        range(start, stop),
                        wanted=wanted,
                        refused=refused,
                        keep=self.parts.settings["keep"],
                        watch=self.watch,
                    )
                writer.write_part(start, stop, part)
        except BaseException as error:
            writer.fail(error, self._ran())
            if isinstance(error, KeyboardInterrupt):
                lost = sum(stop - start for start, stop in writer.missing())
                error.add_note(
                    f"{job.rows - lost} of {job.rows} cells of this job are kept in "
                    f"{self.results}; the same command goes on from there."
                )
            raise
        writer.succeed(self._ran())
        fresh |= {(job.id, start, stop) for start, stop in ranges}
        return job

    def fill_again(self, which: Which, fresh: set[tuple[str, int, int]]) -> None:
        """Compute again what is there, but for the parts ``fresh``."""
        todo = to_do(self.jobs, self.parts, which, fresh)
        self.total = self.computed + sum(len(each.rows) for each in todo)
        refused = self._refused({m for each in todo for m, _, _ in each.wanted}) if todo else {}
        writers: dict[str, store.Writer] = {}
        try:
            for each in todo:
                replace_part(self.parts, each, which, writers, refused=refused, watch=self.watch)
        finally:
            for writer in writers.values():
                writer.succeed(self._ran())

    def _advance(self, cells: int) -> None:
        self.computed += cells
        self._report()

    def _report(self, note: str = "") -> None:
        note = ", ".join(filter(None, (self.note, note)))
        self.on_progress(self.before + self.computed, self.before + self.total * self.draws, note)

    def _refused(self, methods: set[str]) -> dict[Pair, str]:
        return refused_by_preflight(self.parts, methods, self.on_findings)

    def _ran(self) -> dict[str, Any]:
        """What to keep of this run."""
        gauge, costs = self.watch.gauge, self.watch.costs
        if gauge is not None:
            gauge.read()
        return {
            **self.clock.read(),
            **(gauge.most if gauge is not None else {}),
            "cells": self.computed,
            "conditions": [{"method": m, "layer": at, **cost} for (m, at), cost in costs.items()],
            **machine(self.parts),
            **facts(self.overrides),
        }


def refused_by_preflight(
    parts: Parts,
    methods: set[str],
    on_findings: Callable[[Sequence[Finding]], None] = lambda _findings: None,
) -> dict[Pair, str]:
    """Try the methods that are still to be computed: method and layer -> why it is refused."""
    with answering(parts.model):
        findings = preflight(
            parts.model,
            parts.reader.sample,
            methods={name: method for name, method in parts.methods.items() if name in methods},
            layers=parts.chosen,
            target=parts.target,
            output=parts.settings["output"],
            precision=parts.settings["precision"],
            heat=parts.heat,
            accept=parts.settings["accept"],
        )
    on_findings(findings)
    return refusals(findings)


def _draw(parts: Parts, path: Path, refused: Mapping[Pair, str]) -> tuple[Path, ...]:
    """Overlays of the cells chosen, or of the first, with every method and layer of the job."""
    ids = parts.dataset.table["id"]
    chosen = [int((ids == wanted).argmax()) for wanted in map(str, parts.settings["show"])]
    first = range(min(SHOWN[parts.dataset.spec.dimensions], len(ids)))
    batch = those_readable(parts.dataset, chosen or first).to(device_of(parts.model))
    headline = next(iter(parts.scorers))
    rows = range(len(batch))
    heats: list[dict[str, np.ndarray]] = [{} for _ in rows]
    scores: list[dict[str, float]] = [{} for _ in rows]
    for result in run(parts.model, batch, replace(parts.options, keep="native", refused=refused)):
        if result.maps is None:
            continue
        full = Heat(torch.from_numpy(result.maps), batch.space, parts.heat).full().numpy()
        key = f"{result.method}\n{result.layer}"
        if len(single_targets(parts.target)) > 1:
            key += f"\n{result.target}"
        for row in rows:
            heats[row][key] = full[row]
            scores[row][key] = float(result.columns.get(headline, np.full(len(rows), np.nan))[row])
    examples = [
        plots.Example(
            id=batch.ids[row],
            image=batch.inputs[row].cpu().numpy(),
            regions={name: region[row].cpu().numpy() for name, region in batch.regions.items()},
            heats=heats[row],
            scores=scores[row],
        )
        for row in rows
    ]
    title = f"{parts.labels['model']}: where it looks, with {headline} above each map"
    return (plots.save(plots.overlays(examples, title=title), path),)
