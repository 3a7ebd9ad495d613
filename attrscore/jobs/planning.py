"""What a job would do and cost, found out by two crops and nothing written."""

from __future__ import annotations

import functools
import math
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from attrscore import store
from attrscore.core.contracts import Result
from attrscore.core.heat import Heat
from attrscore.core.model import call, device_of, unwrap
from attrscore.core.passes import Pass
from attrscore.engine.evaluate import rows_of
from attrscore.engine.reading import one_readable, readable
from attrscore.engine.run import RunOptions, run
from attrscore.errors import StoreError, stoppable
from attrscore.jobs.assembly import Parts, build, draws_of
from attrscore.jobs.computing import joined_maps
from attrscore.store.folders import JobFolder
from attrscore.store.part import encode

T = TypeVar("T")

PART_WORK = 2e13
"""Floating-point operations that a part takes: a quarter of an hour on one core, seconds on a GPU.
What is killed or out of time loses no more than that."""

PROBED = 5.0
"""Seconds that a probe of several crops may take."""

_TRIED = 12
"""Crops, about, whose time a job takes before it computes: its preflight, what a pass takes."""


@dataclass(frozen=True)
class Plan:
    """One job. Estimates are for what is left to do."""

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


@stoppable()
def plan(
    settings: Mapping[str, Any],
    /,
    *,
    planned: set[str],
    on_method: Callable[[str], None] = lambda _name: None,
) -> Plan:
    """What a job would do, with all its draws of random weights.

    ``planned`` gets its conditions, and those in it count as done. ``on_method`` gets what is
    being tried. Costs building the job, once a draw, and of what is missing two crops a method;
    more of them as long as they take seconds.

    :raises AttrscoreError: as the job would, before it starts.
    """
    draws = draws_of(settings)
    began = time.perf_counter()
    parts = build(draws[0])
    built = time.perf_counter() - began
    results = Path(settings["results"])
    conditions = done = cells = 0
    probed: _Probe | None = None
    seconds = megabytes = 0.0
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
            probed = _probe(parts, left, on_method)
            seconds += built
        if here and probed is not None:
            seconds += probed.seconds(here, settings["batch_size"])
            megabytes += probed.a_cell * here + probed.a_part * math.ceil(here / job.part_rows)
        cells += here
    probed = probed or _Probe()
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
        forwards=probed.forwards,
        backwards=probed.backwards,
        seconds=seconds,
        megabytes=megabytes,
    )


def _each(names: Iterator[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _cells_left(results: Path, job: store.Job) -> int:
    try:
        done = JobFolder.read(results / "jobs" / job.id).done()
    except StoreError:  # not begun
        done = set()
    return sum(stop - start for start, stop in set(job.ranges) - done)


@dataclass(frozen=True)
class _Probe:
    """What a few crops took."""

    forwards: float = 0.0
    """A cell, and so are ``backwards``."""
    backwards: float = 0.0
    a_part: float = 0.0
    """MiB of a part, whatever it holds."""
    a_cell: float = 0.0
    """MiB more for each cell."""
    took: Mapping[int, float] = field(default_factory=dict)
    """Crops at once -> seconds; increasing."""

    def seconds(self, cells: int, batch_size: int, /) -> float:
        """Of so many cells, in batches, and of the crops that are tried before the first."""
        tried = list(self.took.items())
        most, last = tried[-1]
        each = last / most
        if len(tried) > 1:  # what a batch costs whatever its size is paid once a batch
            fewer, before = tried[-2]
            each = max((last - before) / (most - fewer), each / 4)
        batch = last + (batch_size - most) * each
        return cells / batch_size * batch + _TRIED * tried[0][1] / tried[0][0]


def _probe(
    parts: Parts, left: tuple[store.Condition, ...], on_method: Callable[[str], None]
) -> _Probe:
    """Run a crop to warm up, two that count, and more at once as long as that is quick."""
    skip = {c.triple for c in parts.job.conditions} - {c.triple for c in left}
    options = replace(parts.options, keep=parts.settings["keep"], skip=frozenset(skip))
    rows = len(parts.dataset.table)
    size = min(parts.settings["batch_size"], rows)
    took: dict[int, float] = {}
    results: list[list[Result]] = []
    start = 0
    with _counted(parts.model) as counts:
        for number in [1, *(n for n in (2, 8, 32, 128) if n < size), size]:
            if len(results) > 1 and number * list(took.values())[-1] / max(took) > PROBED:
                break
            start = start if start + number <= rows else 0
            some = range(start, start + number)
            start += number
            counts.clear()
            began = time.perf_counter()
            here: list[Result] = []
            for result in run(parts.model, readable(parts.dataset, some, number, {}), options):
                here.append(result)
                on_method(result.method)
            if not here:
                break
            if results:  # not the first, which also loads code
                took[number] = time.perf_counter() - began
            results.append(here)
            passes = counts["forwards"] / number, counts["backwards"] / number
    if not results:
        return _Probe(took={1: 0.0})
    if not took:
        took[1] = time.perf_counter() - began
    job = replace(parts.job, conditions=left)
    return _Probe(*passes, *_disk(job, results), took)


def _disk(job: store.Job, results: Sequence[Sequence[Result]]) -> tuple[float, float]:
    """MiB of a part without cells, and by how much it grows with each."""
    last, before = results[-1], results[-2] if len(results) > 1 else []
    cells, earlier = ({name for r in each for name in r.columns["id"]} for each in (last, before))
    if cells & earlier:
        before = []
    whole, less = _bytes(job, [*before, *last]), _bytes(job, before)
    grows = max(0, whole - less) / len(cells)
    return max(0.0, less - grows * len(earlier)) / 2**20, grows / 2**20


def costs(parts: Parts, /, *, cells: int = 8) -> pd.DataFrame:
    """What each method takes alone, as ratios to one forward and one backward pass to the input.

    A row a method and layer: ``seconds`` of the processors, and ``memory``, the most bytes of
    tensors at once, over some cells. A method that cannot explain the model has no row.
    """
    batch = next(readable(parts.dataset, range(cells), cells, {})).to(device_of(parts.model))

    def floor() -> None:
        inputs = batch.inputs.clone().requires_grad_()
        output = call(parts.model, inputs, *batch.others)
        scalar = parts.target(output, parts.target.prepare(output.detach(), batch))
        torch.autograd.grad(scalar.sum(), inputs)

    def explained(options: RunOptions) -> list[Result]:
        return list(run(parts.model, [batch], options))

    seconds, memory, _ = _taken(floor)
    rows = []
    for name, method in parts.methods.items():
        for layer in parts.chosen.layers_for(method):
            chosen = replace(parts.chosen, layers=parts.chosen.layers.only([layer]))
            alone = replace(
                parts.options, methods={name: method}, layers=chosen, scorers={"mass": _mass}
            )
            took, most, found = _taken(functools.partial(explained, alone))
            if all(result.columns["status"][0] != "unsupported" for result in found):
                rows.append([name, layer, took / seconds, most / memory])
    return pd.DataFrame(rows, columns=["method", "layer", "seconds", "memory"])


def _mass(heat: Heat, _run: Pass, /) -> Tensor:
    return heat.mass()


def _taken(work: Callable[[], T]) -> tuple[float, int, T]:
    """Seconds of the processors, the fewer of two runs; the most bytes of tensors at once, counted
    in a run before them, which also loads code; and what the work gave.
    """  # noqa: D205  # a list of three things
    with _Alive() as alive:
        found = work()
    seconds = []
    for _ in range(2):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return min(seconds), alive.most, found


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of torch
    """Counts the bytes of the tensors that are made inside, and how many are there at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self._known: dict[int, weakref.ref[Any]] = {}
        self._now = 0
        self.most = 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, Tensor):
                self._count(each.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        known = self._known.get(id(storage))
        if known is None or known() is not storage:
            size = storage.nbytes()
            self._now += size
            self.most = max(self.most, self._now)

            def gone(_of: Any) -> None:
                self._now -= size

            self._known[id(storage)] = weakref.ref(storage, gone)


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
    with torch.no_grad(), _Operations() as operations:
        call(parts.model, cell.inputs, *cell.others)
    # a backward pass is two products of the size of those of a forward pass
    passes = counts["forwards"] + 2 * counts["backwards"]
    batches = PART_WORK / max(1, operations.total * passes) / size
    return most if batches * size >= most else min(most, max(1, int(batches)) * size)


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of torch
    """Counts floating-point operations as torch's FlopCounterMode does.

    That one imports torch's compiler and SymPy, which takes two seconds of every job.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # of torch: else it imports its compiler to keep it out
        return False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=made)
        return made


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
