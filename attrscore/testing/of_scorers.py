"""The contract of a scorer, checked under given maps, with a model and without."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attrscore.core.contracts import INPUT, Batch
from attrscore.core.heat import Heat
from attrscore.core.readings import attach, reading_of, readings_of
from attrscore.engine.run import run
from attrscore.errors import UnsupportedError
from attrscore.testing.contract import (
    Check,
    NotConforming,
    Subject,
    left_as_found,
    nearly,
    pickles,
    require,
)
from attrscore.testing.of_methods import DEVICES
from attrscore.testing.samples import SPACES, cells, pool

OF_THE_MASK = (".chance", ".area", ".highest", ".lowest")
"""Ends of the names of columns that the region or the crop alone says, whatever the map."""

Columns = dict[str, np.ndarray]


class Bare:
    """A pass without a model."""

    def __init__(self, data: Batch) -> None:
        self.batch = data

    def need_pool(self) -> Batch:
        """Other cells."""
        return pool(len(self.batch.space)).to(self.batch.inputs.device)

    def once(self, _key: object, compute: Any) -> Any:
        """Nothing is kept."""
        return compute()


class Given:
    """A method whose maps are given, by the ids of cells."""

    def __init__(self, signed: Tensor, data: Batch, layer: str) -> None:
        self.explains = INPUT if layer == INPUT else "layers"
        self.layer = layer
        self.of = dict(zip(data.ids, signed, strict=True))

    def __call__(self, current: Any, /) -> dict[str, Tensor]:
        """The maps of the cells of this pass."""
        return {self.layer: torch.stack([self.of[i] for i in current.batch.ids])}


def signed_maps(dimensions: int, layer: str, n: int = 4) -> Tensor:
    """Normal noise, (N, 2, *S) at the input and half as fine at a layer."""
    generator = torch.Generator().manual_seed(3)
    space = SPACES[dimensions]
    grid = space if layer == INPUT else tuple(extent // 2 for extent in space)
    return torch.randn((n, 2, *grid), generator=generator, dtype=torch.float64)


def of_the_map(scorer: Any, /) -> bool:
    """Whether a scorer does with the map, its regions and masks of other cells: no model."""
    heat = Heat(signed_maps(2, INPUT), SPACES[2], layer=INPUT)
    try:
        scorer(heat, Bare(cells(2)))
    except (AttributeError, UnsupportedError):
        return False
    return True


def scored(
    subject: Subject, signed: Tensor, data: Batch, layer: str = INPUT, **options: Any
) -> tuple[Columns, Columns]:
    """The scorer's columns under maps that are given, and the whole rows."""
    options = {"pool": pool(len(data.space)), "on_error": "raise", **options}
    (result,) = run(
        subject.model(subject.dimensions),
        data,
        methods={"given": Given(signed, data, layer)},
        scorers={"s": subject.plugin},
        layers="high",
        **options,
    )
    columns = dict(result.columns)
    own = {name: each for name, each in columns.items() if name == "s" or name.startswith("s.")}
    return own, columns


LAYERS = (INPUT, "high")
"""Maps of the input, and of a layer with a coarser grid."""


def _at_every_layer(subject: Subject, data: Batch, **options: Any) -> dict[str, Columns]:
    """Columns by layer, at those that the scorer does not refuse."""
    found: dict[str, Columns] = {}
    refusal: UnsupportedError | None = None
    for layer in LAYERS:
        signed = signed_maps(subject.dimensions, layer, len(data))
        try:
            found[layer] = scored(subject, signed, data, layer, **options)[0]
        except UnsupportedError as error:
            refusal = error
    if not found and refusal is not None:
        raise refusal
    return found


def _of_a_model(subject: Subject, data: Batch, **options: Any) -> list[Columns]:
    """Columns under real methods, at the layers that the scorer does not refuse."""
    results = run(
        subject.model(subject.dimensions),
        data,
        methods=["grad_cam", "saliency"],
        layers=["low", "high"],
        scorers={"s": subject.plugin},
        pool=pool(subject.dimensions),
        **options,
    )
    found = []
    for result in results:
        reason = "".join(map(str, result.columns["reason"]))
        if "s cannot work here" in reason:
            continue
        require("scorer 's':" not in reason, reason.replace("scorer 's': ", "it raised "))
        own = {n: v for n, v in result.columns.items() if n == "s" or n.startswith("s.")}
        found.append(own)
    return found


def a_number_a_cell(subject: Subject) -> None:
    """One number a cell, finite or NaN, within the range that the scorer declares."""
    import pandas as pd

    data = cells(subject.dimensions)
    heat = Heat(signed_maps(subject.dimensions, INPUT), data.space, layer=INPUT)
    if of_the_map(subject.plugin):
        made = subject.plugin(heat, Bare(data))
        entries = made if isinstance(made, Mapping) else {"score": made}
        require(entries, "it returned no column.")
        for name, values in entries.items():
            given = (
                f"a tensor {tuple(values.shape)}"
                if isinstance(values, Tensor)
                else (type(values).__name__)
            )
            require(
                isinstance(values, Tensor) and tuple(values.shape) == (len(data),),
                f"the column '{name}' is {given}; expected a tensor ({len(data)},), one number a "
                "cell.",
            )
            require(
                values.is_floating_point(),
                f"the column '{name}' is {values.dtype}; expected floating point, so that what is "
                "undefined can be NaN.",
            )
    for layer, columns in _at_every_layer(subject, data).items():
        table = attach(pd.DataFrame(columns), {"s": readings_of(subject.plugin)})
        for name, values in columns.items():
            shown = name.replace("s", subject.name, 1)
            require(not np.isinf(values).any(), f"'{shown}' at '{layer}' is infinite; give NaN.")
            low, high = reading_of(table, name).range
            low, high = (-math.inf if low is None else low), (math.inf if high is None else high)
            outside = values[(values < low - 1e-9) | (values > high + 1e-9)]
            require(
                not len(outside),
                f"'{shown}' is {outside[:1]} and its readings state {low:g} to {high:g}.",
            )
        require(
            not all(np.isnan(values).all() for values in columns.values()),
            f"every column at '{layer}' is NaN for four ordinary cells.",
        )


def a_batch_is_its_samples(subject: Subject) -> None:
    """No cell's score depends on the cells that share its batch, nor on their order."""
    data = cells(subject.dimensions)
    for layer, together in _at_every_layer(subject, data).items():
        signed = signed_maps(subject.dimensions, layer)
        for i in (2, 0, 3, 1):
            alone, _ = scored(subject, signed[i : i + 1], data.rows(i, i + 1), layer)
            _same(
                subject,
                {name: values[:1] for name, values in alone.items()},
                {name: values[i : i + 1] for name, values in together.items()},
                f"of the cell '{data.ids[i]}' at '{layer}', in a batch of four, then alone,",
                "Nothing may be taken over the batch: not a mean, not a maximum, not a rank.",
                within=1e-8,
            )


def undefined_is_nan(subject: Subject) -> None:
    """Cells without a score: empty and full masks, NaN, blank and negative maps."""
    data = cells(subject.dimensions, n=6)
    signed = signed_maps(subject.dimensions, INPUT, n=6)
    regions = {key: region.clone() for key, region in data.regions.items()}
    for region in regions.values():
        region[1] = False
    regions["cell"][2], regions["neighbours"][2] = True, False
    signed[3, 0, ..., 0] = torch.nan
    signed[4], signed[5] = 0, -1
    alone, _ = scored(subject, signed[:1], data.rows(0, 1))
    columns, row = scored(subject, signed, replace(data, regions=regions))
    _same(
        subject,
        {name: values[:1] for name, values in columns.items()},
        alone,
        "of a good cell, alone, then beside undefined ones,",
        "A cell without a score may not spoil others.",
        within=1e-8,
    )
    named: Any = getattr(subject.plugin, "region", None)
    named = named if named in regions else None
    for name, values in columns.items():
        shown = name.replace("s", subject.name, 1)
        require(
            not np.isinf(values).any(),
            f"'{shown}' is infinite for an undefined cell ({list(row['status'])}); give NaN.",
        )
        if not of_the_map(subject.plugin) or name.endswith(OF_THE_MASK):
            continue
        lacking = [i for i in (3, 4, 5) if not np.isnan(values[i])]
        if named:
            area = regions[named].flatten(1).double().mean(1)
            lacking += [i for i in range(3) if area[i] in (0, 1) and not np.isnan(values[i])]
        for i in lacking:
            raise _not_nan(shown, values[i], str(row["status"][i]))


def _not_nan(name: str, value: float, status: str) -> NotConforming:
    how = {
        "no_positive_mass": "heat.mass() is 0 there: divide by it without adding an epsilon",
        "nonfinite": "keep NaN: no nan_to_num, no nansum",
    }.get(status, "see heat.undefined(region), which says where a region has no score")
    return NotConforming(
        f"'{name}' is {value:g} for a cell with the status '{status}'; what is undefined is NaN, "
        f"never a number ({how})."
    )


def _same(
    subject: Subject, found: Columns, expected: Columns, when: str, otherwise: str, **options: Any
) -> None:
    require(
        list(found) == list(expected),
        f"its columns {when} are {list(expected)} and then {list(found)}. {otherwise}",
    )
    for name, values in found.items():
        shown = name.replace("s", subject.name, 1)
        nearly(values, expected[name], f"'{shown}' {when}", otherwise, **options)


def what_is_missing_is_named(subject: Subject, missing: str) -> None:
    """A dataset without spacing, neighbours or nucleus: defined all the same, or named."""
    data = cells(subject.dimensions)
    if missing == "spacing":
        data = replace(data, spacing=None)
    else:
        rest = {key: region for key, region in data.regions.items() if key != missing}
        data = replace(data, regions=rest)
    _, row = scored(subject, signed_maps(subject.dimensions, INPUT), data, on_error="record")
    raised = [reason for reason in map(str, row["reason"]) if "scorer 's': " in reason]
    require(
        not raised or missing in raised[0],
        f"on a dataset without {missing} it raised {raised[:1]}, which does not name it.",
    )


def precision_does_not_matter(subject: Subject) -> None:
    """Scores of one map in float64, float32 and bfloat16 are the same."""
    data = cells(subject.dimensions)
    eighths = (8 * signed_maps(subject.dimensions, INPUT)).round() / 8
    expected, _ = scored(subject, eighths, data)
    for dtype in (torch.float32, torch.bfloat16):
        found, _ = scored(subject, eighths.to(dtype), data)
        when = f"of one map in float64, then in {str(dtype).rpartition('.')[2]},"
        _same(subject, found, expected, when, "Sum in float64: heat.mass() does.")


def scores_lie_where_the_heat_does(subject: Subject, where: str) -> None:
    """Scores of maps on a device are on it, and the same."""
    if not of_the_map(subject.plugin):
        return
    signed, data = signed_maps(subject.dimensions, INPUT), cells(subject.dimensions)
    here = subject.plugin(Heat(signed, data.space, layer=INPUT), Bare(data))
    there = subject.plugin(Heat(signed.to(where), data.space, layer=INPUT), Bare(data.to(where)))
    if isinstance(here, Tensor):
        here, there = {"score": here}, {"score": there}
    for key, values in there.items():
        require(
            values.device.type == where,
            f"'{key}' lies on {values.device} for a map on {where}; make new tensors with "
            "device=heat.native.device.",
        )
        nearly(values.cpu(), here[key], f"'{key}' on the CPU, then on {where},", "", within=1e-9)


def scale_is_as_declared(subject: Subject) -> None:
    """A map times a positive number scores the same, unless ``scale_free = False`` is declared."""
    behind = getattr(subject.plugin, "function", subject.plugin)
    free = getattr(subject.plugin, "scale_free", getattr(behind, "scale_free", True))
    if not (free and of_the_map(subject.plugin)):
        return
    data = cells(subject.dimensions)
    for layer, expected in _at_every_layer(subject, data).items():
        for dtype in (torch.float32, torch.float64):
            signed = signed_maps(subject.dimensions, layer).to(dtype)
            for scale in (1e-30, 1e-3, 1e30):
                found, _ = scored(subject, signed * scale, data, layer)
                _same(
                    subject,
                    found,
                    expected,
                    f"of a map at '{layer}', then of {scale:g} times the map,",
                    "Divide by heat.mass() without an epsilon; a score that depends on the scale "
                    "declares scale_free = False.",
                )


def left_as_it_was(subject: Subject) -> None:
    """The model and the random states are those of before, and the scores the same again."""
    data = cells(subject.dimensions)
    model = subject.model(subject.dimensions)
    fixed = replace(subject, model=lambda _: model)
    model.train()
    model.get_submodule("act1").eval()
    head = model.get_parameter("head.weight")
    head.grad = torch.ones_like(head)
    with left_as_found(model):
        first = _of_a_model(fixed, data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20)
        second = _of_a_model(fixed, data)
    for one, two in zip(first, second, strict=True):
        _same(
            subject,
            two,
            one,
            "once, then once more,",
            "A second run must give the same: draw from a generator of a fixed seed.",
            within=0,
        )


def bad_pixels_spoil_no_other(subject: Subject) -> None:
    """A cell with NaN pixels has no score, and the others theirs."""
    data = cells(subject.dimensions)
    spoilt = data.inputs.clone()
    spoilt[1, ..., 0] = torch.nan
    others = [0, 2, 3]
    clean = _of_a_model(subject, data)
    dirty = _of_a_model(subject, replace(data, inputs=spoilt))
    for one, two in zip(clean, dirty, strict=True):
        for name, values in two.items():
            shown = name.replace("s", subject.name, 1)
            require(
                name.endswith(OF_THE_MASK) or np.isnan(values[1]),
                f"'{shown}' is {values[1]:g} for a cell with NaN pixels; give NaN.",
            )
            what = f"'{shown}' of good cells, alone, then beside one with NaN pixels,"
            nearly(values[others], one[name][others], what, "", within=1e-8)


def embeddings_have_scores(subject: Subject) -> None:
    """Also where the model has no classes."""
    for columns in _of_a_model(subject, cells(subject.dimensions), target="norm"):
        require(
            any(np.isfinite(values).any() for values in columns.values()),
            "every column is NaN where an embedding is explained (target=norm).",
        )


CHECKS = (
    Check("scorer", "a number a cell", a_number_a_cell),
    Check("scorer", "a batch is its samples", a_batch_is_its_samples),
    Check("scorer", "undefined is NaN", undefined_is_nan),
    *(
        Check("scorer", f"without {what}", partial(what_is_missing_is_named, missing=what))
        for what in ("spacing", "neighbours", "nucleus")
    ),
    Check("scorer", "precision of the map", precision_does_not_matter),
    *(
        Check("scorer", f"on {where}", partial(scores_lie_where_the_heat_does, where=where))
        for where in DEVICES
    ),
    Check("scorer", "scale of the map", scale_is_as_declared),
    Check("scorer", "model left as found, the same again", left_as_it_was),
    Check("scorer", "bad pixels spoil no other", bad_pixels_spoil_no_other),
    Check("scorer", "embeddings", embeddings_have_scores),
    Check("scorer", "pickles", pickles, once=True),
)
