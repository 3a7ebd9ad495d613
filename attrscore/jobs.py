"""One job: compute what the results folder lacks, write it, show it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from attrscore import plots, store
from attrscore.assembly import Parts, build
from attrscore.core import Batch, Dataset, Result
from attrscore.engine import batches_of
from attrscore.gather import to_frame
from attrscore.heat import Heat
from attrscore.layers import device_of

__all__ = ["Outcome", "run_job"]

SHOWN = {2: 4, 3: 2}
"""Cells in the figure of a job, by dimensions; in 3D each takes several slices."""


@dataclass(frozen=True)
class Outcome:
    """What a job did."""

    folder: Path
    """Of the results."""
    computed: int
    """Rows computed now; the rest was there."""
    scores: pd.DataFrame
    dataset: Dataset
    figures: tuple[Path, ...] = ()


def run_job(
    settings: Mapping[str, Any],
    *,
    config: str = "",
    overrides: Sequence[str] = (),
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> Outcome:
    """Compute what the results folder lacks of a job, and show it.

    ``config`` is the text of the configuration, interpolations unresolved. ``advance`` is told how
    many cells are done, and of how many.

    :raises AttrscoreError: nothing was written that is not whole; parts already written stay.
    """
    if settings["threads"]:
        torch.set_num_threads(int(settings["threads"]))
    parts = build(settings)
    results = Path(settings["results"])
    job = parts.job
    missing = store.missing_conditions(results, job)
    computed = 0
    figures: tuple[Path, ...] = ()
    if missing:
        writer = store.Writer(
            results,
            replace(job, conditions=missing),
            labels=parts.labels,
            config=config,
            provenance=_provenance(parts, overrides),
        )
        try:
            computed = _fill(writer, parts, missing, advance)
        except BaseException as error:
            writer.fail(error)
            raise
        writer.succeed()
        if settings["figures"] == "all":
            figures = _draw(parts, results / "figures" / f"cells-{writer.job.id}.png")
    scores = store.read_scores(*store.folders_of(results, job))
    return Outcome(results, computed, scores, parts.dataset, figures)


def _fill(
    writer: store.Writer,
    parts: Parts,
    missing: tuple[store.Condition, ...],
    advance: Callable[[int, int], None],
) -> int:
    """Compute and commit the parts that are not there; how many cells that were."""
    asked = {condition.triple for condition in parts.job.conditions}
    skip = asked - {condition.triple for condition in missing}
    ranges = writer.missing()
    total = sum(stop - start for start, stop in ranges)
    done = 0

    def counted(batches: Iterator[Batch]) -> Iterator[Batch]:
        nonlocal done
        for batch in batches:
            yield batch
            done += len(batch)
            advance(done, total)

    for start, stop in ranges:
        torch.manual_seed(parts.settings["seed"] + start)  # the same numbers after a resume
        batches = batches_of(
            parts.dataset, batch_size=parts.settings["batch_size"], start=start, stop=stop
        )
        results = list(parts.results(counted(batches), keep=parts.settings["keep"], skip=skip))
        table = to_frame(results, **parts.labels).drop(columns=["model", "dataset"])
        writer.write(start, stop, table, _joined_maps(results))
    return total


def _joined_maps(results: Iterable[Result]) -> dict[tuple[str, str], np.ndarray]:
    """Kept maps over batches; NaN for a batch in which the method failed."""
    by_place: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        by_place.setdefault((result.method, result.layer), []).append(result)
    joined = {}
    for place, some in by_place.items():
        shape = next((result.maps.shape[1:] for result in some if result.maps is not None), None)
        if shape is not None:
            joined[place] = np.concatenate(
                [
                    np.full((len(result), *shape), np.nan, np.float32)
                    if result.maps is None
                    else result.maps
                    for result in some
                ]
            )
    return joined


def _draw(parts: Parts, path: Path) -> tuple[Path, ...]:
    """Overlays of the cells chosen, or of the first, with every method and layer of the job."""
    ids = parts.dataset.table["id"]
    chosen = [int((ids == wanted).argmax()) for wanted in map(str, parts.settings["show"])]
    first = range(min(SHOWN[parts.dataset.spec.dimensions], len(ids)))
    batch = parts.dataset.read(chosen or first).to(device_of(parts.model))
    headline = next(iter(parts.scorers))
    rows = range(len(batch))
    heats: list[dict[str, np.ndarray]] = [{} for _ in rows]
    scores: list[dict[str, float]] = [{} for _ in rows]
    for result in parts.results([batch], keep="native"):
        if result.maps is None:
            continue
        full = Heat(torch.from_numpy(result.maps), batch.space, parts.heat).full().numpy()
        place = f"{result.method}\n{result.layer}"
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


def _provenance(parts: Parts, overrides: Sequence[str]) -> dict[str, Any]:
    packages = ("attrscore", "captum", "h5py", "numpy", "torch")
    return {
        "overrides": list(overrides),
        "started": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(device_of(parts.model)),
        "threads": torch.get_num_threads(),
        "packages": {name: version(name) for name in packages},
        "skipped": dict(parts.dataset.skipped),
    }
