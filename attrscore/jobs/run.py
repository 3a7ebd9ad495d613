"""One job: compute what the results folder lacks, write it, show it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from attrscore import store
from attrscore.core.contracts import Dataset, single_targets
from attrscore.core.heat import Heat
from attrscore.core.readings import readings_of
from attrscore.core.wrappers import device_of
from attrscore.engine.attribution import Place
from attrscore.engine.memory import Gauge, Room
from attrscore.engine.pool import those_readable
from attrscore.engine.preflight import SAMPLE, Finding, preflight, refusals
from attrscore.engine.reading import readable
from attrscore.errors import choose
from attrscore.jobs import rescoring
from attrscore.jobs.assembly import Parts, build
from attrscore.jobs.computing import Costs, compute
from attrscore.jobs.contents import about, tell_made_masks
from attrscore.jobs.fitting import train_if_asked
from attrscore.jobs.provenance import Clock, facts, machine
from attrscore.jobs.rerunning import Which, compute_again, to_do
from attrscore.jobs.rescoring import kept_maps
from attrscore.report import figures as plots

__all__ = ["Outcome", "refused_by_preflight", "run_job"]

RERUN = ("missing", "failed", "all")

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


def run_job(
    settings: Mapping[str, Any],
    *,
    config: str = "",
    overrides: Sequence[str] = (),
    advance: Callable[[int, int, str], None] = lambda _done, _total, _note: None,
    told: Callable[[Sequence[Finding]], None] = lambda _findings: None,
    progress: Callable[[str], None] = lambda _line: None,
) -> Outcome:
    """Compute what the results folder lacks of a job, and show it.

    ``config`` is the text of the configuration, interpolations unresolved. ``advance`` is told how
    many cells are done, of how many, and what a slow method is at; ``told`` gets what the preflight
    found, before the first. ``progress`` gets a line where there is something to tell.

    :raises AttrscoreError: nothing was written that is not whole; parts already written stay.
    """
    if settings["threads"]:
        torch.set_num_threads(int(settings["threads"]))
    choose(settings["rerun"], RERUN, option="rerun")
    clock = Clock()
    train_if_asked(settings, progress)
    parts = build(settings)
    results = Path(settings["results"])
    tell_made_masks(parts.dataset, progress)
    job = parts.job
    jobs = store.jobs_like(results, job)
    missing = store.missing_conditions(jobs, job)
    work = _Work(parts, results, jobs, config, overrides, clock, advance, told, progress)
    figures: tuple[Path, ...] = ()
    fresh: set[tuple[str, int, int]] = set()
    try:
        if missing:
            writer = work.fill(missing, fresh)
            if settings["figures"] == "all":
                figures = _draw(work.parts, results / "figures" / f"cells-{writer.job.id}.png")
        if settings["rerun"] != "missing":
            work.again(settings["rerun"], fresh)
    finally:
        work.parts.reader.close()
    scores = store.read_scores(*store.folders_of(work.jobs, job))
    return Outcome(results, work.computed, scores, parts.dataset, job, figures)


@dataclass
class _Work:
    """One run over the conditions of a job."""

    parts: Parts
    results: Path
    jobs: list[store.JobFolder]
    """Those of the results folder that may serve this one."""
    config: str
    overrides: Sequence[str]
    clock: Clock
    advance: Callable[[int, int, str], None]
    told: Callable[[Sequence[Finding]], None]
    progress: Callable[[str], None]
    computed: int = 0
    """Cells computed."""
    costs: Costs = field(default_factory=dict)
    total: int = 0
    room: Room = field(default_factory=Room)
    gauge: Gauge = field(init=False)

    def __post_init__(self) -> None:
        self.gauge = Gauge(device_of(self.parts.model))

    def step(self, cells: int) -> None:
        self.computed += cells
        self.advance(self.computed, self.total, "")

    def note(self, method: str, at: int, of: int) -> None:
        self.advance(self.computed, self.total, f"{method} {at}/{of}")

    def fill(
        self, missing: tuple[store.Condition, ...], fresh: set[tuple[str, int, int]]
    ) -> store.Writer:
        """Compute and commit what is not there; ``fresh`` gains the parts made."""
        job = replace(self.parts.job, conditions=missing)
        kept = kept_maps(self.jobs, self.parts, missing)
        origin = {**facts(self.overrides), **about(self.parts.dataset)}
        if kept is not None:
            job = replace(job, part_rows=kept.part_rows)
            origin["scored_from"] = kept.told()
        writer = store.Writer(
            self.results,
            job,
            labels=self.parts.labels,
            config=self.config,
            provenance=origin,
            readings={key: readings_of(each) for key, each in self.parts.scorers.items()},
            hidden=self.parts.hidden,
        )
        others = [each for each in self.jobs if each.job.id != job.id]
        here = store.JobFolder.read(writer.folder)
        self.jobs = sorted([*others, here], key=lambda each: each.path)
        ranges = writer.missing()
        self.total = sum(stop - start for start, stop in ranges)
        try:
            if kept is not None:
                rescoring.fill(writer, self.parts, kept, self.step, self.costs)
            self._fill(writer)
        except BaseException as error:
            writer.fail(error, self._run())
            raise
        writer.succeed(self._run())
        fresh |= {(job.id, start, stop) for start, stop in ranges}
        return writer

    def _fill(self, writer: store.Writer) -> None:
        """Compute and commit the parts that are not there."""
        missing = writer.missing()
        wanted = {condition.triple for condition in writer.job.conditions}
        refused: dict[Place, str] = {}
        if missing:
            refused = self._refused({method for method, _, _ in wanted})
        self.total = self.computed + sum(stop - start for start, stop in missing)
        for start, stop in missing:
            part = compute(
                self.parts,
                range(start, stop),
                wanted=wanted,
                refused=refused,
                keep=self.parts.settings["keep"],
                **self._watched,
            )
            writer.write_part(start, stop, part)

    def again(self, which: Which, fresh: set[tuple[str, int, int]]) -> None:
        """Compute again what is there, but for the parts ``fresh``."""
        todo = to_do(self.jobs, self.parts, which, fresh)
        self.total = self.computed + sum(len(each.rows) for each in todo)
        refused = self._refused({m for each in todo for m, _, _ in each.wanted}) if todo else {}
        writers: dict[str, store.Writer] = {}
        done = compute_again(
            self.results,
            self.parts,
            todo,
            which,
            refused=refused,
            **self._watched,
        )
        try:
            for writer, _ in done:
                writers[writer.job.id] = writer
        finally:
            for writer in writers.values():
                writer.succeed(self._run())

    @property
    def _watched(self) -> dict[str, Any]:
        """What :func:`attrscore.jobs.computing.compute` tells and remembers."""
        return {
            "advance": self.step,
            "on_step": self.note,
            "costs": self.costs,
            "room": self.room,
            "gauge": self.gauge,
        }

    def _refused(self, methods: set[str]) -> dict[Place, str]:
        return refused_by_preflight(self.parts, methods, self.told)

    def _run(self) -> dict[str, Any]:
        self.gauge.read()
        return {
            **self.clock.read(),
            **self.gauge.most,
            "cells": self.computed,
            "conditions": [
                {"method": m, "layer": at, **cost} for (m, at), cost in self.costs.items()
            ],
            **machine(self.parts),
            **facts(self.overrides),
        }


def refused_by_preflight(
    parts: Parts,
    methods: set[str],
    told: Callable[[Sequence[Finding]], None] = lambda _findings: None,
) -> dict[Place, str]:
    """What is found out about the methods that are still to be computed, and what it refuses."""
    findings = preflight(
        parts.model,
        next(readable(parts.dataset, range(parts.job.rows), SAMPLE, {})),
        methods={name: method for name, method in parts.methods.items() if name in methods},
        layers=[*parts.chosen.layers, *parts.chosen.refused],
        layout=parts.settings["layout"],
        target=parts.target,
        output=parts.settings["output"],
        precision=parts.settings["precision"],
        heat=parts.heat,
    )
    told(findings)
    return refusals(findings)


def _draw(parts: Parts, path: Path) -> tuple[Path, ...]:
    """Overlays of the cells chosen, or of the first, with every method and layer of the job."""
    ids = parts.dataset.table["id"]
    chosen = [int((ids == wanted).argmax()) for wanted in map(str, parts.settings["show"])]
    first = range(min(SHOWN[parts.dataset.spec.dimensions], len(ids)))
    batch = those_readable(parts.dataset, chosen or first).to(device_of(parts.model))
    headline = next(iter(parts.scorers))
    rows = range(len(batch))
    heats: list[dict[str, np.ndarray]] = [{} for _ in rows]
    scores: list[dict[str, float]] = [{} for _ in rows]
    for result in parts.results([batch], keep="native"):
        if result.maps is None:
            continue
        full = Heat(torch.from_numpy(result.maps), batch.space, parts.heat).full().numpy()
        place = f"{result.method}\n{result.layer}"
        if len(single_targets(parts.target)) > 1:
            place += f"\n{result.target}"
        for row in rows:
            heats[row][place] = full[row]
            scores[row][place] = float(
                result.columns.get(headline, np.full(len(rows), np.nan))[row]
            )
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
