"""Some cells of a dataset computed: one table, the kept maps, and what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch

from attrscore import store
from attrscore.core.contracts import Batch, Result, single_targets
from attrscore.core.model import device_of, in_precision, seed_all, unwrap
from attrscore.core.passes import generator_of
from attrscore.core.statuses import row_failed, stored
from attrscore.engine.attribution import Pair, new_pass
from attrscore.engine.evaluate import rows_of
from attrscore.engine.memory import Gauge, Room
from attrscore.engine.reading import Lost, readable
from attrscore.engine.run import Keep, run
from attrscore.errors import end_if_stopped
from attrscore.jobs.assembly import Parts
from attrscore.scorers.intervention import Swap
from attrscore.store.maps import MapKey
from attrscore.targets import scores_of

Triple = tuple[str, str, str]

CARRIED = ("held_out",)
"""Columns beside those of the dataset that say something of a cell."""

EXAMPLES = 6
"""Cells that are kept with their parts exchanged, where the swap is run and crops are kept."""


@dataclass
class Watch:
    """What is reported while parts are computed, and what is remembered from one to the next."""

    advance: Callable[[int], None] = lambda _cells: None
    """Gets how many cells each batch had."""
    on_step: Callable[[str, int, int], None] | None = None
    """Gets what a slow method is at."""
    gauge: Gauge | None = None
    room: Room = field(default_factory=Room)
    costs: dict[Pair, dict[str, float]] = field(default_factory=dict)
    """Method and layer -> seconds, and the most memory in MiB, the pass of the method included:
    where layers share one, its time counts at the first of them, its memory at each."""

    def add(self, results: Iterable[Result], /) -> None:
        """Add what these results took."""
        for result in results:
            cost = self.costs.setdefault((result.method, result.layer), {"seconds": 0.0})
            cost["seconds"] = round(cost["seconds"] + result.seconds, 6)
            for name, value in result.peaks.items():
                cost[name] = max(cost.get(name, 0), value)


def compute(
    parts: Parts,
    rows: Sequence[int],
    *,
    wanted: Collection[Triple],
    refused: Mapping[Pair, str],
    keep: Keep = "none",
    watch: Watch | None = None,
) -> store.Part:
    """The results of these rows of the dataset, for the triples ``wanted``.

    A cell that cannot be read gets rows with the status ``unreadable``.
    """
    watch = watch or Watch()
    lost: Lost = {}

    def counted() -> Iterator[Batch]:
        for batch in parts.reader.batches(rows, parts.settings["batch_size"], lost):
            # What plugins draw without a generator of their own: the same after a resume.
            seed_all(generator_of(parts.settings["seed"], "batch", batch.ids[0]).initial_seed())
            yield batch
            watch.advance(len(batch))

    skip = {condition.triple for condition in parts.job.conditions} - set(wanted)
    options = replace(parts.options, keep=keep, skip=frozenset(skip), refused=refused)
    results = list(
        run(
            parts.model,
            counted(),
            options,
            room=watch.room,
            gauge=watch.gauge,
            on_step=watch.on_step,
        )
    )
    end_if_stopped()
    watch.add(results)
    part = part_of(parts, rows, results, lost, {triple[:2] for triple in wanted})
    return part if keep == "none" else replace(part, crops=_kept_crops(parts, rows))


def _kept_crops(parts: Parts, rows: Sequence[int], /) -> store.Crops | None:
    """Those of these rows whose crops are kept beside the maps; None where none is, or readable."""
    spec, ids = parts.dataset.spec, parts.dataset.table["id"]
    chosen = store.chosen_cells(list(ids), spec.channels, spec.size)
    mine = sorted(set(chosen) & set(rows))
    read = list(readable(parts.dataset, mine, parts.settings["batch_size"], {}))
    if not read:
        return None
    crops = store.stored_crops(
        [name for batch in read for name in batch.ids],
        np.concatenate([batch.inputs.float().numpy() for batch in read]),
        {
            name: np.concatenate([batch.regions[name].float().numpy() for batch in read])
            for name in read[0].regions
            if all(name in batch.regions for batch in read)
        },
        stains=read[0].stains,
        spacing=read[0].spacing,
        classes=tuple(map(str, parts.dataset.classes)),
    )
    return replace(crops, exchanged=_exchanged(parts, crops, [ids[row] for row in chosen]))


def _exchanged(
    parts: Parts, crops: store.Crops, chosen: Sequence[str], /
) -> store.Exchanged | None:
    """The first of the cells whose crops are kept, with their parts exchanged by the swap."""
    swap = next((each for each in parts.scorers.values() if isinstance(each, Swap)), None)
    first = set(sorted(chosen, key=store.order_of)[:EXAMPLES])
    kept = [number for number, name in enumerate(crops.ids) if name in first]
    if swap is None or not kept:
        return None
    rows = np.flatnonzero(parts.dataset.table["id"].isin([crops.ids[number] for number in kept]))
    options, model = parts.options, in_precision(unwrap(parts.model), parts.settings["precision"])
    where = device_of(model)
    try:
        run = new_pass(
            model,
            parts.dataset.read(rows.tolist()).to(where),
            single_targets(parts.target)[0],
            {},
            {},
            output=options.output,
            pool=None if options.pool is None else options.pool.to(where),
            autocast=options.precision == "autocast",
        )
        images, output = swap.examples(run)
    except Exception:  # noqa: BLE001  # the rows of the swap say why; there is nothing to look at
        return None
    shares = torch.full(output.shape[:2], torch.nan)
    predicted = torch.full(output.shape[:2], -1)
    if run.of_classes:
        scores = scores_of(run.target, output.double().flatten(0, 1)).softmax(1)
        shares, predicted = (each.view(output.shape[:2]).cpu() for each in scores.max(1))
    low, high = crops.low[kept], crops.high[kept]
    order = [run.batch.ids.index(crops.ids[number]) for number in kept]
    return store.Exchanged(
        [crops.ids[number] for number in kept],
        {
            side: store.stretched(image.float().cpu().numpy()[order], low, high)
            for side, image in images.items()
        },
        {side: predicted[order, n].numpy() for n, side in enumerate(store.SIDES)},
        {side: shares[order, n].float().numpy() for n, side in enumerate(store.SIDES)},
    )


def part_of(
    parts: Parts,
    rows: Sequence[int],
    results: Sequence[Result],
    lost: Lost,
    pairs: Collection[Pair],
) -> store.Part:
    """Results as they are stored, with rows for the cells that could not be read."""
    tables, traces = [], [traces_of(results)]
    if results:
        tables.append(rows_of(results))
    if lost:
        table, trace = _of_lost(parts, lost, pairs)
        tables.append(table)
        traces.append(trace)
    table = pd.concat(tables, ignore_index=True)
    if lost:  # cells in their order, as if nothing had happened
        order = {name: n for n, name in enumerate(parts.dataset.table["id"].iloc[list(rows)])}
        table = table.iloc[np.argsort(table["id"].map(order), kind="stable")]
    held_out = None if parts.record is None else parts.record.were_held_out(table["id"].unique())
    if held_out is not None:
        table["held_out"] = table["id"].map(dict(zip(table["id"].unique(), held_out, strict=True)))
    first = next(((r.method, r.layer, r.target) for r in results), None)
    ids = [i for r in results if (r.method, r.layer, r.target) == first for i in r.columns["id"]]
    traced = pd.concat(traces, ignore_index=True)
    return store.Part(
        table.reset_index(drop=True), joined_maps(results), ids, traced, carried=CARRIED
    )


def _of_lost(
    parts: Parts, lost: Lost, pairs: Collection[Pair]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    cells = parts.dataset.table.iloc[sorted(lost)]
    failures = pd.DataFrame([lost[row] for row in sorted(lost)], columns=["reason", "traceback"])
    reasons = [stored(row_failed(why)) for why in failures["reason"]]
    cells = cells.reset_index(drop=True)
    cells = cells.assign(reason=failures["reason"], reasons=reasons, status="unreadable")
    cells = cells.assign(predicted=-1, explained=np.nan, confidence=np.nan)
    tables = [
        cells.assign(method=method, layer=layer, target=str(target))
        for method, layer in sorted(pairs)
        for target in single_targets(parts.target)
    ]
    traces = [
        failures.assign(method=method, layer=layer, status="unreadable")
        for method, layer in sorted(pairs)
    ]
    return pd.concat(tables, ignore_index=True), _distinct(pd.concat(traces, ignore_index=True))


def traces_of(results: Iterable[Result]) -> pd.DataFrame:
    """Where the failures among results were raised, each once."""
    raised = [
        {
            "method": result.method,
            "layer": result.layer,
            "status": str(result.columns["status"][0]),
            "reason": str(result.columns["reason"][0]),
            "traceback": result.traceback,
        }
        for result in results
        if result.traceback
    ]
    return _distinct(pd.DataFrame(raised, columns=_TRACE))


_TRACE = ["method", "layer", "status", "reason", "traceback"]


def _distinct(traces: pd.DataFrame) -> pd.DataFrame:
    return traces[_TRACE].drop_duplicates(_TRACE[:-1], ignore_index=True)


def joined_maps(results: Sequence[Result]) -> dict[MapKey, np.ndarray]:
    """Kept maps over batches; NaN for a batch in which the method failed."""
    by_key: dict[MapKey, list[Result]] = {}
    several = len({result.target for result in results}) > 1
    for result in results:
        key: MapKey = (result.method, result.layer)
        if several:
            key = (result.method, result.layer, result.target)
        by_key.setdefault(key, []).append(result)
    joined: dict[MapKey, np.ndarray] = {}
    for key, some in by_key.items():
        shape = next((result.maps.shape[1:] for result in some if result.maps is not None), None)
        if shape is not None:
            joined[key] = np.concatenate(
                [
                    np.full((len(result), *shape), np.nan, np.float32)
                    if result.maps is None
                    else result.maps
                    for result in some
                ]
            )
    return joined
