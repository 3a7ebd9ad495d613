"""What a job would do and cost, found out by two batches and nothing written."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from attrscore import store
from attrscore.core.contracts import Batch, Result
from attrscore.core.model import call, device_of, unwrap
from attrscore.engine.evaluate import rows_of
from attrscore.engine.pool import one_readable
from attrscore.engine.run import batches_of, run
from attrscore.errors import StoreError
from attrscore.jobs.assembly import Parts, build, draws_of
from attrscore.jobs.computing import joined_maps
from attrscore.store.folders import JobFolder
from attrscore.store.part import encode

PART_WORK = 2e13
"""Floating-point operations that a part takes: a quarter of an hour on one core, seconds on a GPU.
What is killed or out of time loses no more than that."""


@dataclass(frozen=True)
class Plan:
    """One job. Estimates are for what is left to do, from its second batch where it has two."""

    model: str
    dataset: str
    shard: str
    methods: tuple[str, ...]
    layers: tuple[str, ...]
    scorers: tuple[str, ...]
    conditions: int
    done: int
    """Conditions in the results folder, or computed by an earlier job of the sweep."""
    cells: int
    """Still to be computed; 0 where no condition is left."""
    forwards: float
    """Of this model, a cell; a method that works on a copy of it is not counted."""
    backwards: float
    seconds: float
    megabytes: float


def plan(settings: Mapping[str, Any], /, *, planned: set[str]) -> Plan:
    """What a job would do, with all its draws of random weights.

    ``planned`` gets its conditions, and those in it count as done. Costs building the job, once a
    draw, and two batches of what is missing.

    :raises AttrscoreError: as the job would, before it starts.
    """
    draws = draws_of(settings)
    parts = build(draws[0])
    results = Path(settings["results"])
    conditions = done = cells = 0
    probed: tuple[float, float, float, float] | None = None
    for number, one in enumerate(draws):
        parts = build(one, like=parts) if number else parts
        job = parts.job
        names = {c: store.identify([job.identity["base"], c.identity]) for c in job.conditions}
        absent = store.missing_conditions(store.jobs_like(results, job), job)
        left = tuple(condition for condition in absent if names[condition] not in planned)
        planned |= {names[condition] for condition in left}
        conditions += len(job.conditions)
        done += len(job.conditions) - len(left)
        here = _cells_left(results, replace(job, conditions=absent)) if left else 0
        if here and probed is None:
            probed = _probe(parts, left)
        cells += here
    forwards, backwards, seconds, megabytes = probed or (0.0, 0.0, 0.0, 0.0)
    return Plan(
        model=parts.labels["model"],
        dataset=parts.labels["dataset"],
        shard=str(settings["dataset"].get("shard") or ""),
        methods=_each(c.method.key for c in job.conditions),
        layers=_each(c.layer for c in job.conditions),
        scorers=_each(c.scorer.key for c in job.conditions),
        conditions=conditions,
        done=done,
        cells=cells,
        forwards=forwards,
        backwards=backwards,
        seconds=seconds * cells,
        megabytes=megabytes * cells,
    )


def _each(names: Iterator[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _cells_left(results: Path, job: store.Job) -> int:
    try:
        done = JobFolder.read(results / "jobs" / job.id).done()
    except StoreError:  # not begun
        done = set()
    return sum(stop - start for start, stop in set(job.ranges) - done)


def _probe(parts: Parts, left: tuple[store.Condition, ...]) -> tuple[float, float, float, float]:
    """Forwards, backwards, seconds and megabytes a cell. The first batch also warms up."""
    skip = {c.triple for c in parts.job.conditions} - {c.triple for c in left}
    size = parts.settings["batch_size"]
    stop = min(2 * size, len(parts.dataset.table))
    last = stop - size if stop > size else stop
    marks: list[tuple[float, Counter[str]]] = []

    def watched() -> Iterator[Batch]:
        for start in range(0, stop, size):
            marks.append((time.perf_counter(), counts.copy()))
            yield from batches_of(
                parts.dataset, batch_size=size, start=start, stop=min(start + size, stop)
            )

    with _counted(parts.model) as counts:
        options = replace(parts.options, keep=parts.settings["keep"], skip=frozenset(skip))
        results = list(run(parts.model, watched(), options))
        ended = time.perf_counter()
    began, before = marks[-1]
    counts.subtract(before)
    job = replace(parts.job, conditions=left)
    newest = [each for each in results if each.columns["id"][-1] == results[-1].columns["id"][-1]]
    size_of_all = _bytes(job, results)
    earlier = [each for each in results if each not in newest]
    growth = size_of_all - _bytes(job, earlier)
    return (
        counts["forwards"] / last,
        counts["backwards"] / last,
        (ended - began) / last,
        growth / last / 2**20,
    )


def part_rows(parts: Parts, left: tuple[store.Condition, ...], /) -> int:
    """Rows of a part of these conditions, in whole batches; at most those of the job as built.

    Fixed by the configuration and the shapes alone, so that a resume finds the same ranges: the
    operations of one forward pass, times the passes that one cell takes. Costs those passes.
    """
    most, size = parts.job.part_rows, parts.settings["batch_size"]
    if parts.job.rows <= size:
        return most
    cell = one_readable(parts.dataset).to(device_of(parts.model))
    skip = {c.triple for c in parts.job.conditions} - {c.triple for c in left}
    with _counted(parts.model) as counts:
        for _ in run(parts.model, [cell], replace(parts.options, skip=frozenset(skip))):
            pass
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(parts.model, cell.inputs, *cell.others)
    # a backward pass is two products of the size of those of a forward pass
    passes = counts["forwards"] + 2 * counts["backwards"]
    batches = PART_WORK / max(1, counter.get_total_flops() * passes) / size
    return most if batches * size >= most else min(most, max(1, int(batches)) * size)


def _bytes(job: store.Job, results: Sequence[Result]) -> int:
    if not results:
        return 0
    table = rows_of(results)
    ids = list(dict.fromkeys(table["id"]))
    part = store.Part(table, joined_maps(results), ids, None)
    return len(encode(job, part, rows=(0, len(ids)), config=""))


@contextmanager
def _counted(model: nn.Module) -> Iterator[Counter[str]]:
    """Cells that pass forward through a model, and gradients that come back from its output."""
    counts: Counter[str] = Counter()

    def back(gradient: Tensor) -> None:
        counts["backwards"] += len(gradient)

    def forth(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        counts["forwards"] += len(inputs[0])
        each = output.values() if isinstance(output, Mapping) else output
        tensors = [output] if isinstance(output, Tensor) else list(each)
        for tensor in tensors:
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.register_hook(back)  # type: ignore[no-untyped-call]  # of torch
                break

    handle = unwrap(model).register_forward_hook(forth)
    try:
        yield counts
    finally:
        handle.remove()
