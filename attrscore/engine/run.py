"""The only loop: batches x targets x methods x layers x scorers.

``run`` yields results as they are computed. :func:`evaluate` gathers them, and the
command line writes them.
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, cast

import numpy as np
from torch import Tensor, nn

from attrscore.core.contracts import (
    INPUT,
    Batch,
    Dataset,
    Maps,
    Method,
    Result,
    Scorer,
    Target,
    single_targets,
)
from attrscore.core.grids import grids_of
from attrscore.core.heat import Heat, HeatOptions
from attrscore.core.layouts import LayoutOptions
from attrscore.core.model import Precision, device_of, in_precision, is_out_of_memory, unwrap
from attrscore.core.options import from_mapping
from attrscore.core.passes import Pass
from attrscore.core.registry import METHODS, SCORERS
from attrscore.core.statuses import SMALLER_BATCHES, Reason
from attrscore.datasets.batches import Data, Items, batches_from
from attrscore.engine import rows
from attrscore.engine.attribution import (
    Chosen,
    Failure,
    OnError,
    Pair,
    attribute,
    failure_of,
    layers_of,
    new_pass,
)
from attrscore.engine.memory import Gauge, Room, higher
from attrscore.engine.preflight import Unfair, accepted, of_the_model
from attrscore.engine.reading import check_pool
from attrscore.errors import (
    AttrscoreWarning,
    UnsupportedError,
    check_names,
    choose,
    stoppable,
)
from attrscore.targets import target_of

__all__ = ["Keep", "RunOptions", "Triple", "batches_of", "run"]

Triple = tuple[str, str, str]
"""A method, a layer and a scorer: what is computed or skipped as one."""

Keep = Literal["none", "native"]


def batches_of(dataset: Dataset, /, *, batch_size: int = 32) -> Iterator[Batch]:
    """The cells of a dataset, in order, ``batch_size`` at a time."""
    stop = len(dataset.table)
    for first in range(0, stop, batch_size):
        yield dataset.read(range(first, min(first + batch_size, stop)))


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What is computed on each batch, and how.

    ``methods`` and ``scorers`` are registered names, plugin values, sequences of them, or mappings
    from the names they get in the results. ``layers`` are names, globs, rules (``last_conv``,
    ``all_conv``, ``stages``, ``blocks``) or relative depths (``depth=0.25,0.5,1``), see
    :func:`attrscore.core.layers.select_layers`; or those that an earlier run has chosen.
    ``layout`` says where they keep their channels, if a dry run cannot find it: ``channels_last``,
    or ``{"prefix": 5, "grid": (14, 14)}`` for tokens. ``output`` is the item that holds the scores,
    where the model returns a tuple or a dictionary. ``precision`` runs a copy of the model in
    ``float32``, ``bfloat16`` or ``float16``, or the model itself under bfloat16 ``autocast``; None
    leaves it as it is. ``keep="native"`` keeps the signed maps on their own grids. A target that
    stands for several (``embedding`` with several dimensions) gives rows for each, from one forward
    pass.

    ``skip`` names triples (method, layer, scorer) that are known already. ``refused`` are methods
    at layers that are not tried, with the reason (:func:`attrscore.engine.preflight.preflight`
    finds them); their rows have the status ``unsupported``. So have all rows of a model that cannot
    be asked fairly, unless ``accept`` names why (:data:`attrscore.engine.preflight.Unfair`):
    ``random``, ``batch``, ``gradients``. ``pool`` holds other cells, for the
    plugins that take some (:func:`attrscore.engine.reading.draw_pool`). ``on_error="raise"`` stops
    where a method or scorer fails; else that becomes rows, and the rest goes on.
    """

    methods: Any = "grad_cam"
    scorers: Any = "grad_camo"
    layers: str | Sequence[str] | Chosen = "last_conv"
    layout: str | Mapping[str, Any] | LayoutOptions | None = None
    target: str | Target = "predicted"
    output: str | int | None = None
    precision: Precision | None = None
    heat: HeatOptions | Mapping[str, Any] | None = None
    keep: Keep = "none"
    on_error: OnError = "record"
    skip: Collection[Triple] = ()
    refused: Mapping[Pair, str] = field(default_factory=dict)
    accept: str | Collection[Unfair] = ()
    pool: Batch | None = None

    def __post_init__(self) -> None:
        choose(self.keep, ("none", "native"), option="keep")
        choose(self.on_error, ("record", "raise"), option="on_error")
        object.__setattr__(self, "accept", accepted(self.accept))
        object.__setattr__(self, "heat", from_mapping(HeatOptions, self.heat, of="heat"))


def run(
    model: nn.Module,
    batches: Data,
    options: RunOptions | None = None,
    *,
    items: Items = None,
    room: Room | None = None,
    gauge: Gauge | None = None,
    on_step: Callable[[str, int, int], None] | None = None,
    **changes: Any,
) -> Iterator[Result]:
    """Attribute and score, one :class:`Result` a batch, target, method and layer.

    ``batches`` are batches, tuples (inputs, masks, labels), dictionaries, or a torch Dataset, and
    ``items`` says how else they are made: see :func:`attrscore.datasets.batches.batches_from`. All
    that :class:`RunOptions` holds can be given by its name: ``run(model, batches,
    methods=["grad_cam"], layers="stages")``. ``on_step`` gets, of methods of many passes, their
    name and how many steps of the batch are done, of how many. ``gauge`` is read for each result
    (:attr:`attrscore.core.contracts.Result.peaks`).

    Where memory runs out, the batch is halved, then and for what follows, with a warning and the
    reason ``SMALLER_BATCHES``; ``room`` carries what was learnt to later runs. What cannot be
    computed becomes rows with a status and a reason. The model is left as it was found, and works
    where its parameters are.

    :raises ConfigError: unknown names or options.
    :raises LayerError: a layer that does not exist.
    :raises DataError: inputs on which the model cannot run.
    """
    check_names(changes, (each.name for each in fields(RunOptions)), of="run")
    options = replace(options or RunOptions(), **changes)
    methods: dict[str, Method] = METHODS.resolve(options.methods)
    scorers: dict[str, Scorer] = SCORERS.resolve(options.scorers)
    whole = target_of(options.target)
    heat, layout = cast("HeatOptions", options.heat), LayoutOptions.of(options.layout)
    model = in_precision(unwrap(model), options.precision)
    where = device_of(model)
    pool = None if options.pool is None else options.pool.to(where)
    room = room or Room()
    todo = [(target, name) for target in single_targets(whole) for name in methods]
    of_a_pass = {
        "output": options.output,
        "pool": pool,
        "autocast": options.precision == "autocast",
    }
    work: _Work | None = None

    for given in batches_from(batches, items=items):
        batch = given.to(where)
        if pool is not None:
            check_pool(pool, batch)
        if work is None:
            chosen = layers_of(
                model, batch, methods, options.layers, layout=layout, output=options.output
            )
            if not isinstance(options.layers, Chosen):  # else a preflight has asked before
                options = _asked(options, model, batch, todo[0][0], chosen, methods, of_a_pass)
            work = _Work(model, chosen, methods, scorers, heat, options, of_a_pass, on_step, gauge)
        yield from _in_room(work, batch, todo, room, asked=len(batch))


@stoppable()
def _asked(
    options: RunOptions,
    model: nn.Module,
    batch: Batch,
    target: Target,
    chosen: Chosen,
    methods: Mapping[str, Method],
    of_a_pass: Mapping[str, Any],
) -> RunOptions:
    """The options, with the methods refused for which the model cannot be asked fairly.

    Costs some passes of the first sample. What is worth knowing is a warning.
    """
    first = new_pass(model, batch.rows(0, 1), target, chosen.layers, methods, **of_a_pass)
    try:
        found = of_the_model(first, of_a_pass, accepted(options.accept))
    except Exception:  # noqa: BLE001  # comes back where the rows are computed
        return options
    if found.caution:
        warnings.warn(found.caution, AttrscoreWarning, stacklevel=3)
    unfair = {
        (name, layer): why
        for name, method in methods.items()
        if (why := found.refusal(method))
        for layer in chosen.layers_for(method)
    }
    return replace(options, refused={**unfair, **options.refused})


@dataclass(frozen=True)
class _Work:
    """What is computed on every batch of a run."""

    model: nn.Module
    chosen: Chosen
    methods: Mapping[str, Method]
    scorers: Mapping[str, Scorer]
    heat: HeatOptions
    options: RunOptions
    of_a_pass: Mapping[str, Any]
    on_step: Callable[[str, int, int], None] | None
    gauge: Gauge | None

    def peaks(self) -> dict[str, int]:
        """Of memory, since it was last asked."""
        return {} if self.gauge is None else self.gauge.read()

    def passes(self, batch: Batch, targets: Sequence[Target]) -> Iterator[Pass]:
        """A pass towards each target."""
        shared = new_pass(
            self.model, batch, targets[0], self.chosen.layers, self.methods, **self.of_a_pass
        )
        return iter([shared]) if len(targets) == 1 else shared.towards(targets)

    def wanted(self, name: str) -> dict[str, list[str]]:
        """Layer, or INPUT -> the scorers that are asked for there."""
        return {
            layer: [s for s in self.scorers if (name, layer, s) not in self.options.skip]
            for layer in self.chosen.layers_for(self.methods[name])
        }

    def maps(self, name: str, run: Pass, asked: Sequence[str]) -> tuple[Maps, dict[str, Failure]]:
        """The maps of a method, and why there is none where there is none."""
        failures: dict[str, Failure] = {
            layer: Failure("unsupported", why)
            for layer in asked
            if (why := self.options.refused.get((name, layer)) or self.chosen.refused.get(layer))
        }
        if failures and self.options.on_error == "raise":
            raise UnsupportedError(next(iter(failures.values()))[1])
        live = [layer for layer in asked if layer not in failures]
        if not live:
            return {}, failures
        method, layers = self.methods[name], self.chosen.layers
        if live != [INPUT] and set(live) != set(layers):
            run = new_pass(
                self.model,
                run.batch,
                run.target,
                layers.only(live),
                {name: method},
                **self.of_a_pass,
            )
        if self.on_step is not None:
            run.on_step = functools.partial(self.on_step, name)
        maps, more = attribute(method, run, live, self.options.on_error)
        if len(live) > 1 and set(more) == set(live):
            maps, more = self._one_by_one(method, run)
        return maps, failures | more

    def _one_by_one(self, method: Method, failed: Pass) -> tuple[Maps, dict[str, Failure]]:
        """Maps at each layer alone, where a method failed at all together.

        So a layer at which it raises what no preflight foresaw costs no other layer its rows.
        """
        maps: dict[str, Tensor] = {}
        failures: dict[str, Failure] = {}
        for layer in failed.layers:
            alone = new_pass(
                self.model,
                failed.batch,
                failed.target,
                self.chosen.layers.only([layer]),
                {"": method},
                **self.of_a_pass,
            )
            found, why = attribute(method, alone, [layer])
            maps |= found
            failures |= why
        return maps, failures


def _in_room(
    work: _Work, batch: Batch, todo: Sequence[tuple[Target, str]], room: Room, *, asked: int
) -> Iterator[Result]:
    """Results of these methods towards these targets.

    Of one for which memory runs out, and of the rest, in pieces.
    """
    if len(batch) > room.cells:
        for piece in room.pieces(batch):
            yield from _in_room(work, piece, todo, room, asked=asked)
        return
    notes = [SMALLER_BATCHES] if len(batch) < asked else []
    targets = list(dict.fromkeys(target for target, _ in todo))
    done = 0
    try:
        for run, target in zip(work.passes(batch, targets), targets, strict=True):
            for name in [name for of, name in todo if of is target]:
                results = _of_method(work, run, name, notes)
                done += 1
                yield from results
    except Exception as error:
        if not is_out_of_memory(error) or len(batch) == 1:
            raise
    else:
        return
    run = None  # type: ignore[assignment]  # with all that it holds; the error is gone by now
    room.halve(len(batch))
    yield from _in_room(work, batch, todo[done:], room, asked=asked)


@stoppable()
def _of_method(work: _Work, run: Pass, name: str, notes: Sequence[Reason]) -> list[Result]:
    """A result for each layer."""
    batch, wanted = run.batch, work.wanted(name)
    if not any(wanted.values()):
        return []
    began = time.perf_counter()
    work.peaks()
    base = rows.unknown(batch)
    maps: Maps = {}
    blank = None
    try:
        base = rows.known(run)
        blank = run.once(rows.nonfinite, lambda: rows.nonfinite(run))
        maps, failures = work.maps(name, run, list(wanted))
    except Exception as error:
        if not is_out_of_memory(error) or len(batch) > 1 or work.options.on_error == "raise":
            raise
        failures = dict.fromkeys(wanted, failure_of(error))
    results = []
    shared = work.peaks()
    for layer, asked in wanted.items():
        if not asked:
            continue
        signed = maps.get(layer)
        columns = base | {"depth": rows.relative_depth(work.chosen.layers, layer, len(batch))}
        if signed is None:
            scores = {scorer: np.full(len(batch), np.nan) for scorer in asked}
            status, why, trace = failures[layer]
            columns |= rows.without_map(status, why, len(batch))
        else:
            made = Heat(
                signed if blank is None else rows.blank_rows(signed, blank),
                batch.space,
                work.heat,
                grids=grids_of(batch, work.heat.resize),
                method=work.methods[name],
                layer=layer,
            )
            scorers = {scorer: work.scorers[scorer] for scorer in asked}
            scores, states, trace = rows.score(scorers, made, run, work.options.on_error, notes)
            columns |= states
        results.append(
            Result(
                method=name,
                layer=layer,
                target=str(run.target),
                columns=columns | rows.diagnostics(maps) | scores | rows.carried(batch),
                maps=None if work.options.keep == "none" or signed is None else rows.numpy(signed),
                traceback=trace,
                seconds=time.perf_counter() - began,
                peaks=higher(shared, work.peaks()),
            )
        )
        began = time.perf_counter()
    return results
