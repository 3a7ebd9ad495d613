"""The rows of a batch under one method at one layer: what is known, the scores, and why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attrscore.core.contracts import INPUT, Batch, Maps, Scorer
from attrscore.core.heat import Heat
from attrscore.core.layers import Layers
from attrscore.core.model import is_out_of_memory
from attrscore.core.passes import Pass
from attrscore.core.regions import every_region, find_region
from attrscore.core.statuses import Reason, Status, row_failed, shown, stored
from attrscore.engine.attribution import OnError, frames_of, sentence
from attrscore.errors import DataError, UnsupportedError, preview
from attrscore.targets import scores_of

__all__ = [
    "Columns",
    "Gaps",
    "blank_rows",
    "carried",
    "diagnostics",
    "gaps_of",
    "known",
    "nonfinite",
    "numpy",
    "reason_columns",
    "relative_depth",
    "score",
    "status_columns",
    "unknown",
    "without_map",
]

Columns = dict[str, np.ndarray]

Gaps = Mapping[Reason, np.ndarray]
"""Reason -> which cells it holds for, (N,) bool."""

_OF_A_REGION: Mapping[str, str] = {
    "empty_region": "is empty",
    "full_region": "fills the crop",
}


def gaps_of(
    name: str,
    scorer: Scorer,
    scored: Tensor | Mapping[str, Tensor],
    columns: Mapping[str, np.ndarray],
    heat: Heat,
    run: Pass,
) -> Gaps:
    """Why ``columns``, which a scorer gave, are NaN: one sentence for each cell with a NaN.

    It is that of the scorer's region, or the first of the scorer's own that holds, or else names
    the columns. What the status of a row says is not asked here.
    """
    lost = {column: np.isnan(values) for column, values in columns.items()}
    open_cells = np.logical_or.reduce(list(lost.values()))
    if not open_cells.any():
        return {}
    known: dict[str, np.ndarray] = {}
    region = getattr(scorer, "region", None)
    if region in every_region(run):
        states = np.array(heat.status(find_region(run, region)))
        for status, words in _OF_A_REGION.items():
            known[f"the region {region!r} {words}."] = states == status
    for why, where in getattr(scored, "reasons", {}).items():
        known[why] = where.cpu().numpy()
    gaps = {}
    for why, where in known.items():
        gaps[why] = where & open_cells
        open_cells = open_cells & ~where
    for row in np.flatnonzero(open_cells):
        missing = [column for column, where in lost.items() if where[row]]
        why = f"{preview(missing, most=3)} undefined."
        gaps.setdefault(why, np.zeros_like(open_cells))[row] = True
    return {Reason("gap", name, why): where for why, where in gaps.items() if where.any()}


def status_columns(
    states: Sequence[Status], failures: Sequence[Reason], notes: Sequence[Reason], gaps: Gaps
) -> Columns:
    """Status and reasons of (N,) rows: failures in every row, all else where it is ``ok``."""
    rows = [list(failures) for _ in states]
    fine = np.array(states) == "ok"
    for reason, where in {**dict.fromkeys(notes, fine), **gaps}.items():
        for row in np.flatnonzero(where & fine):
            rows[row].append(reason)
    return {"status": np.array(states, dtype=object)} | reason_columns(rows)


def reason_columns(rows: Sequence[Sequence[Reason]]) -> Columns:
    """The reasons of each row, as text for people and as values."""
    return {
        "reason": np.array([shown(row) for row in rows], dtype=object),
        "reasons": np.array([stored(row) for row in rows], dtype=object),
    }


def score(
    scorers: Mapping[str, Scorer],
    heat: Heat,
    run: Pass,
    on_error: OnError,
    notes: Sequence[Reason] = (),
) -> tuple[Columns, Columns, str]:
    """Columns of all scorers, the status and reason of each row, and where scorers failed.

    ``notes`` are reasons of rows that are ok.
    """
    columns: Columns = {}
    failures: list[Reason] = []
    traces: list[str] = []
    notes = list(notes)
    gaps: dict[Reason, np.ndarray] = {}
    for name, scorer in scorers.items():
        own: Columns = {}
        try:
            scored = scorer(heat, run)
            entries = scored if isinstance(scored, Mapping) else {"score": scored}
            for key, values in entries.items():
                column = name if key == "score" else f"{name}.{key}"
                own[column] = _one_a_cell(key, values, len(heat))
            if not own:
                raise DataError("it returned no column.")  # noqa: TRY301  # recorded as any other
            gaps |= gaps_of(name, scorer, scored, own, heat, run)
        except Exception as error:
            if on_error == "raise" or (is_out_of_memory(error) and len(heat) > 1):
                error.add_note(f"in scorer '{name}'")
                raise
            own = {name: np.full(len(heat), np.nan)}
            if isinstance(error, UnsupportedError):
                notes.append(Reason("unsupported", name, sentence(error)))
            else:
                traces.append(frames_of(error))
                failures.append(Reason("failure", name, sentence(error)))
        columns |= own
    states = heat.status(run.batch.regions["cell"])
    if bool((lost := run.value.isnan()).any()):  # of a finite output: the target's region is empty
        lost &= run.output.flatten(1).isfinite().all(1)
        states = [
            "empty_region" if none and state == "nonfinite" else state
            for state, none in zip(states, lost.tolist(), strict=True)
        ]
    if failures and all(np.isnan(values).all() for values in columns.values()):
        states = ["error" if state == "ok" else state for state in states]
    return columns, status_columns(states, failures, notes, gaps), "\n".join(traces)


def _one_a_cell(key: str, values: Any, n: int) -> np.ndarray:
    if isinstance(values, Tensor) and tuple(values.shape) == (n,):
        return numpy(values.double())
    got = f"a tensor {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
    raise DataError(f"'{key}' must be a tensor ({n},), one number a cell; given: {got}.")


def known(run: Pass) -> Columns:
    """What the model says of each cell, whatever the method."""
    found = unknown(run.batch) | {"explained": numpy(run.value.double())}
    if run.of_classes:
        scores = scores_of(run.target, run.output.double())
        found["predicted"] = numpy(scores.argmax(1))
        found["confidence"] = numpy(scores.softmax(1).amax(1))
    return found


def unknown(batch: Batch) -> Columns:
    """Of cells on which the model could not be run."""
    nothing = np.full(len(batch), np.nan)
    return {
        "id": np.array(batch.ids, dtype=object),
        "label": numpy(batch.label),
        "predicted": np.full(len(batch), -1),
        "explained": nothing,
        "confidence": nothing,
    }


def relative_depth(layers: Layers, layer: str, n: int) -> np.ndarray:
    """The relative depth of a layer, 0 for the input; NaN where it is not known."""
    return np.full(n, 0.0 if layer == INPUT else layers.depths.get(layer, np.nan))


def diagnostics(maps: Maps) -> Columns:
    """What a method says of its own maps."""
    found = getattr(maps, "diagnostics", {})
    return {name: numpy(values.double()) for name, values in found.items()}


def nonfinite(run: Pass) -> Tensor | None:
    """Which samples have a pixel that is not finite, or overflowed, (N,) bool; None where none has.

    Extremes carry NaN, and take a tenth of the time of asking every pixel.
    """
    flat = run.batch.inputs.flatten(1)
    bad = ~(flat.amin(1).isfinite() & flat.amax(1).isfinite()) | run.overflowed.to(flat.device)
    return bad if bool(bad.any()) else None


def blank_rows(signed: Tensor, blank: Tensor) -> Tensor:
    """NaN maps for non-finite inputs: a ReLU can turn a NaN pixel into a finite map."""
    return torch.where(blank.view(-1, *[1] * (signed.ndim - 1)), torch.nan, signed)


def carried(batch: Batch) -> Columns:
    """The metadata of the cells."""
    return {name: np.asarray(values) for name, values in batch.meta.items()}


def numpy(values: Tensor) -> np.ndarray:
    """On the CPU."""
    return values.detach().cpu().numpy()


def without_map(status: Status, why: str, n: int) -> Columns:
    """Status and reason of n rows for which there is no map."""
    return {"status": np.full(n, status, dtype=object)} | reason_columns([row_failed(why)] * n)
