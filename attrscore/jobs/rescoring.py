"""New scorers on kept maps: no pass through the network where none is needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from attrscore import store
from attrscore.core.columns import KEY_COLUMNS
from attrscore.core.contracts import Batch, Result, single_targets
from attrscore.core.grids import grids_of
from attrscore.core.heat import Heat
from attrscore.core.wrappers import device_of
from attrscore.engine.attribution import Place, declared
from attrscore.engine.reading import Lost
from attrscore.engine.rows import score
from attrscore.jobs.assembly import Parts
from attrscore.jobs.computing import Costs, add_costs, part_of

__all__ = ["TOLERANCE", "KeptMaps", "WithoutNetwork", "kept_maps", "rescore"]

TOLERANCE = 2.0**-11
"""Relative error of a value of a kept map (float16, a scale each). A share of heat without channels
that cancel moves by at most half of it; where channels cancel, by as much more as they do."""

_NO_MAP = ("unsupported", "out_of_memory", "error", "unreadable")


class NeedsNetworkError(Exception):
    """A scorer asked a pass for what only the network can tell."""


class WithoutNetwork:
    """What a pass can tell a scorer without its network: the batch, and what was computed once."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.refused = ""
        """What was asked for and needs the network: a scorer may catch the error."""
        self._once: dict[Any, Any] = {}

    def once(self, key: Any, compute: Callable[[], Any], /) -> Any:
        """As :meth:`attrscore.core.passes.Pass.once`."""
        if key not in self._once:
            self._once[key] = compute()
        return self._once[key]

    def __getattr__(self, name: str) -> Any:
        self.refused = name
        raise NeedsNetworkError(name)


@dataclass(frozen=True)
class KeptMaps:
    """Where the maps of each place are kept, in parts of the same ranges."""

    folders: Mapping[Place, store.JobFolder]
    part_rows: int

    def told(self) -> dict[str, Any]:
        """For the provenance."""
        jobs = sorted({folder.job.id for folder in self.folders.values()})
        return {"jobs": jobs, "storage": "float16, one scale a map", "relative_error": TOLERANCE}


def kept_maps(
    jobs: Sequence[store.JobFolder], parts: Parts, missing: Sequence[store.Condition]
) -> KeptMaps | None:
    """The kept maps from which all of these conditions can be scored; None where some cannot.

    A scorer needs the network if it says ``needs_model = True``, or asks the pass for anything but
    the batch when it is tried on a cell. So does a job with several targets.
    """
    if len(single_targets(parts.target)) > 1:
        return None
    names = {condition.scorer.key for condition in missing}
    scorers = {name: parts.scorers[name] for name in sorted(names)}
    if any(declared(each, "needs_model", default=False) for each in scorers.values()):  # type: ignore[arg-type]  # scorers and methods declare alike
        return None
    places = {condition.triple[:2]: condition.method for condition in missing}
    folders: dict[Place, store.JobFolder] = {}
    for folder in jobs:
        if folder.job.base.get("keep", "none") == "none" or folder.done() != set(folder.job.ranges):
            continue
        for condition in folder.job.conditions:
            if places.get(condition.triple[:2]) == condition.method:
                folders.setdefault(condition.triple[:2], folder)
    sizes = {folder.job.part_rows for folder in folders.values()}
    if set(folders) != set(places) or len(sizes) != 1:
        return None
    kept = KeptMaps(folders, sizes.pop())
    try:
        list(rescore(parts, kept, range(1), scorers))
    except (NeedsNetworkError, store.StoreError):
        return None
    return kept


def rescore(
    parts: Parts,
    kept: KeptMaps,
    rows: range,
    scorers: Mapping[str, Any],
    *,
    lost: Lost | None = None,
) -> Iterator[Result]:
    """Results of some rows that lie in one part, from their kept maps."""
    torch.manual_seed(parts.settings["seed"] + rows[0])
    start = rows[0] // kept.part_rows * kept.part_rows
    stop = min(start + kept.part_rows, parts.job.rows)
    stored = {
        folder.job.id: store.read_part(folder.part(start, stop)) for folder in kept.folders.values()
    }
    where = device_of(parts.model)
    unread: Lost = {} if lost is None else lost
    for batch in parts.reader.batches(rows, parts.settings["batch_size"], unread):
        run = WithoutNetwork(batch.to(where))
        for place, folder in kept.folders.items():
            yield _of_place(parts, place, stored[folder.job.id], run, scorers)
            if run.refused:
                raise NeedsNetworkError(run.refused)


def _of_place(
    parts: Parts,
    place: Place,
    stored: store.Part,
    run: WithoutNetwork,
    scorers: Mapping[str, Any],
) -> Result:
    began = time.perf_counter()
    batch = run.batch
    table = stored.table
    table = table[(table["method"] == place[0]) & (table["layer"] == place[1])].set_index("id")
    table = table.loc[list(batch.ids)]
    columns: dict[str, np.ndarray[Any, Any]] = {"id": np.array(batch.ids, dtype=object)}
    for name in KEY_COLUMNS:
        if name in table and name not in ("method", "layer", "target"):
            columns[name] = table[name].to_numpy()
    status = table["status"].to_numpy(dtype=object)
    unmapped = np.isin(status.astype(str), _NO_MAP)
    trace = ""
    told = {"status": status, "reason": np.full(len(batch), "", dtype=object)}
    if place in stored.maps and not unmapped.all():
        at = pd.Index(stored.ids).get_indexer(pd.Index(batch.ids))
        signed = np.where(
            (at >= 0).reshape(-1, *[1] * (batch.inputs.ndim - 1)), stored.maps[place][at], np.nan
        )
        signed[status == "nonfinite"] = np.nan
        maps = torch.from_numpy(signed.astype(np.float32)).to(batch.inputs)
        heat = Heat(
            maps,
            batch.space,
            parts.heat,
            grids=grids_of(batch, parts.heat.resize),
            method=parts.methods[place[0]],
            layer=place[1],
        )
        scores, told, trace = score(scorers, heat, run, "record")  # type: ignore[arg-type]  # as much of a pass as these scorers need
    else:
        scores = {name: np.full(len(batch), np.nan) for name in scorers}
    before = {"status": status, "reason": table["reason"].fillna("").to_numpy(dtype=object)}
    columns |= {name: np.where(unmapped, before[name], told[name]) for name in before}
    carried = {name: np.asarray(values) for name, values in batch.meta.items()}
    return Result(
        method=place[0],
        layer=place[1],
        target=str(parts.target),
        columns=columns | scores | carried,
        traceback=trace,
        seconds=time.perf_counter() - began,
    )


def fill(
    writer: store.Writer,
    parts: Parts,
    kept: KeptMaps,
    advance: Callable[[int], None],
    costs: Costs,
) -> None:
    """Score and commit the parts that are not there, up to one that needs the network after all."""
    scorers = {name: parts.scorers[name] for name in writer.job.scorers}
    for start, stop in writer.missing():
        lost: Lost = {}
        rows = range(start, stop)
        try:
            results = list(rescore(parts, kept, rows, scorers, lost=lost))
        except NeedsNetworkError:
            return
        add_costs(costs, results)
        part = part_of(parts, rows, results, lost, kept.folders.keys())
        writer.write_part(start, stop, part)
        advance(stop - start)
