"""What can be explained, found out on two crops before anything is computed.

No method is believed: each is tried on a crop, and the model is asked the same question twice.
"""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from attrscore.core.contracts import INPUT, Batch, Maps, Method, Target, single_targets
from attrscore.core.dry_run import trace
from attrscore.core.graph import kind_of, nodes
from attrscore.core.grids import Grid, area_fraction, unresolvable
from attrscore.core.heat import HeatOptions
from attrscore.core.layers import LAYER_RULES
from attrscore.core.layouts import LayoutOptions
from attrscore.core.model import (
    Precision,
    as_found,
    call,
    check_output,
    device_of,
    in_precision,
    is_out_of_memory,
    seed_all,
    unwrap,
)
from attrscore.core.passes import Pass
from attrscore.core.registry import METHODS
from attrscore.engine.attribution import (
    Chosen,
    Failure,
    Pair,
    attribute,
    declared,
    explains_layers,
    failure_of,
    is_random,
    layers_of,
    new_pass,
)
from attrscore.errors import UnsupportedError, choose, preview
from attrscore.targets import target_of

__all__ = [
    "SAMPLE",
    "Finding",
    "LayerSurvey",
    "OfTheModel",
    "Survey",
    "Unfair",
    "accepted",
    "of_the_model",
    "preflight",
    "refusals",
    "survey",
]

SAMPLE = 64
"""Cells of a dataset that are looked at before a job."""

Verdict = Literal["ok", "caution", "fails", "refused"]

Unfair = Literal["random", "batch", "gradients"]
"""Why a model cannot be asked fairly: it draws at random in eval mode, scores a cell by the others
of its batch, or its gradients miss most of the pixels on which its scores depend. A user may
accept each by its name."""

TOLERANCE = 1e-3
"""Outputs further apart than this share of their spread are different outputs."""

DRAWS = 16
"""How often a model that draws random numbers is asked the same again."""

MOST = 0.5
"""The share of the pixels that gradients have to reach, unless the others do not count."""


def accepted(given: str | Collection[str], /) -> tuple[Unfair, ...]:
    """The names of what a user accepts of a model, one or several.

    :raises ConfigError: no such name.
    """
    names = (given,) if isinstance(given, str) else tuple(given)
    return tuple(cast("Unfair", choose(name, get_args(Unfair), option="accept")) for name in names)


@dataclass(frozen=True)
class Finding:
    """What is known of one method at one layer before anything is computed.

    ``refused``: there is no map, or none that means anything; a job writes rows ``unsupported``.
    ``fails``: the method raised something unforeseen on the crop; a job tries it all the same.
    ``caution``: it works, and there is something to know. ``ok``: nothing speaks against it.
    """

    method: str
    layer: str
    verdict: Verdict
    reason: str = ""


def preflight(
    model: nn.Module,
    batch: Batch,
    /,
    *,
    methods: Any = "grad_cam",
    layers: str | Sequence[str] | Chosen = "last_conv",
    layout: str | Mapping[str, Any] | LayoutOptions | None = None,
    target: str | Target = "predicted",
    output: str | int | None = None,
    precision: Precision | None = None,
    heat: HeatOptions | None = None,
    accept: Collection[Unfair] = (),
) -> tuple[Finding, ...]:
    """For each method and layer, whether it can be explained, and if not, why.

    ``batch`` holds some cells of the dataset: the masks of all are asked whether a layer's grid can
    resolve them, and the first crop runs through the model. A method with a ``check`` of its own
    is asked that; every other is run on one crop. A model that cannot be asked fairly
    (:data:`Unfair`) is refused, unless ``accept`` names why; then that is a caution. Costs some
    forward passes, and for each method what one crop costs.

    :raises AttrscoreError: what no method could work with: a layer or a class that does not exist,
        crops on which the model cannot run, an output that is not a score for each class.
    """
    model = in_precision(unwrap(model), precision)
    batch = batch.to(device_of(model))
    chosen_methods: dict[str, Method] = METHODS.resolve(methods)
    chosen_target = target_of(target)
    asked = LayoutOptions.of(layout)
    chosen = layers_of(model, batch, chosen_methods, layers, layout=asked, output=output)
    options: dict[str, Any] = {"output": output, "autocast": precision == "autocast"}
    first = batch.rows(0, 1)
    single = single_targets(chosen_target)[0]
    shared = new_pass(model, first, single, chosen.layers, chosen_methods, **options)
    shared.value  # noqa: B018  # an output or a target that fits no cell is an error here
    everywhere = of_the_model(shared, options, accepted(accept))
    findings = []
    for name, method in chosen_methods.items():
        refusal = everywhere.refusal(method)
        findings += [
            Finding(name, layer, "refused", why)
            for layer in chosen.layers_for(method)
            if (why := refusal or chosen.refused.get(layer))
        ]
        if refusal:
            continue
        live = list(chosen.layers) if explains_layers(method) else [INPUT]
        maps, failures = _tried(method, shared, live, options)
        for layer in live:
            status, reason = failures.get(layer, ("ok", ""))[:2]
            if status != "ok":
                verdict: Verdict = "refused" if status == "unsupported" else "fails"
                findings.append(Finding(name, layer, verdict, reason))
                continue
            caution = " ".join(
                filter(None, [everywhere.caution, *_of_the_map(maps.get(layer), batch, heat)])
            )
            findings.append(Finding(name, layer, "caution" if caution else "ok", caution))
    return tuple(findings)


def refusals(findings: Sequence[Finding], /) -> dict[Pair, str]:
    """Method and layer -> reason, as :func:`attrscore.engine.run` takes them."""
    return {(f.method, f.layer): f.reason for f in findings if f.verdict == "refused"}


@dataclass(frozen=True)
class OfTheModel:
    """What concerns every method alike, and what only those that take gradients."""

    refused: Mapping[Unfair, str]
    caution: str = ""

    def refusal(self, method: Method, /) -> str:
        """Why this method cannot explain the model; empty if nothing speaks against it."""
        needed = declared(method, "needs_gradients", default=True)
        found = (why for name, why in self.refused.items() if needed or name != "gradients")
        return next(found, "")


def of_the_model(
    first: Pass, options: Mapping[str, Any], accept: Collection[Unfair] = ()
) -> OfTheModel:
    """Whether a cell's scores are its own, and its pixels within reach of gradients.

    The model is asked the same again with other random numbers, and about the first cell alone and
    beside a stranger; and it is looked at what it leaves of its input.
    """
    model, batch = first.model, first.batch.rows(0, 1)
    cell = batch.inputs.nan_to_num(0.0, 0.0, 0.0)
    inputs = torch.cat([cell, _stranger(cell)])
    others = [torch.cat([each, each]) for each in batch.others]

    def scores(start: int = 0, stop: int = 2, x: Tensor = inputs) -> Tensor:
        given = [each[start:stop] for each in (x, *others)]
        output = call(model, *given, autocast=options["autocast"])
        return check_output(output, stop - start, options["output"], axes=x.ndim).double()

    found: dict[Unfair, str] = {}
    with as_found(model):
        with torch.no_grad():
            together, draws = _seeded(scores)
            seeds = range(1, DRAWS if draws else 2)
            if any(_apart(together, _seeded(scores, seed)[0]) for seed in seeds):
                found["random"] = is_random(model)
            elif why := _company(scores, inputs, together):
                found["batch"] = _depends_on_batch(model, why)
        share = None if found else _blocked(scores, inputs, together)
        if share is not None:
            found["gradients"] = (
                f"Gradients of {type(model).__name__} reach {share:.0%} of the pixels of a crop, "
                "and its scores depend on others (a detach() or a rounding inside of it?), which "
                "maps made of gradients cannot show; a perturbation method can: occlusion."
            )
    cautions = [why for name, why in found.items() if name in accept]
    if _changes_its_input(model, batch, options):
        cautions.append(
            f"{type(model).__name__} changes its input in place; it is given copies, so that "
            "scores and your tensors are right."
        )
    custom = _custom_functions(first)
    if custom:
        cautions.append(
            f"Gradients pass through the custom autograd function {preview(custom)}: they "
            "are what its backward says, which need not be a derivative."
        )
    refused = {
        name: f"{why} To go on all the same: accept=[{name}]."
        for name, why in found.items()
        if name not in accept
    }
    return OfTheModel(refused, " ".join(cautions))


def _stranger(cell: Tensor) -> Tensor:
    """A crop like no other, (1, C, *S): bright noise within the range of each channel of the cell.

    Another cell may be the same once more, or have the same mean.
    """
    space = tuple(range(2, cell.ndim))
    low, high = cell.amin(space, keepdim=True), cell.amax(space, keepdim=True)
    span = torch.where(high > low, high - low, 1.0)
    return low + span * torch.rand(cell.shape, generator=_generator()).sqrt().to(cell)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _seeded(scores: Callable[[], Tensor], seed: int = 0) -> tuple[Tensor, bool]:
    """The scores with the random generators in a known state, and whether they draw from them."""
    seed_all(seed)
    before = _random_states()
    found = scores()
    return found, before != _random_states()


def _random_states() -> bytes:
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch
        states += torch.cuda.get_rng_state_all()
    drawn = random.getstate(), np.random.get_state()  # noqa: NPY002  # some draw from it
    return pickle.dumps((*map(Tensor.tolist, states), drawn))


def _company(scores: Callable[..., Tensor], inputs: Tensor, together: Tensor) -> str:
    """What shows that the scores of a cell depend on the other of its batch; empty if nothing.

    The cell is asked before and behind a stranger. The stranger's own scores show nothing: so far
    from all cells, rounding can outgrow the tolerance.
    """
    try:
        alone = scores(0, 1)
    except ValueError as error:  # BatchNorm cannot normalise one value by itself
        return str(error)
    beside = torch.cat([together[:1], scores(x=inputs.flip(0))[1:]])
    return "the same crop alone scores differently" if _apart(beside, alone) else ""


def _blocked(scores: Callable[..., Tensor], inputs: Tensor, together: Tensor) -> float | None:
    """The share of the pixels that gradients of the output reach, where it depends on others too.

    None where they reach most; and where there are no gradients at all, as each layer says.
    """
    reached = torch.zeros(inputs.shape[2:], dtype=torch.bool, device=inputs.device)
    for row in range(2):
        x = inputs.clone().requires_grad_()
        try:
            output = scores(row, row + 1, x)
            weights = torch.randn(output.shape, generator=_generator()).to(output)
            (gradient,) = torch.autograd.grad((output * weights).sum(), x)
        except Exception as error:  # comes back at what asks for gradients
            if is_out_of_memory(error):
                raise
            return None
        reached |= (gradient != 0).flatten(0, 1).any(0)
        share = float(reached.double().mean())
        if share >= MOST:
            return None
    others = torch.where(reached, inputs, inputs.flip(0))
    with torch.no_grad():
        return share if _apart(together, scores(x=others)) else None


def _changes_its_input(model: nn.Module, batch: Batch, options: Mapping[str, Any]) -> bool:
    given: list[tuple[Tensor, Tensor]] = []

    def see(_model: nn.Module, inputs: tuple[Any, ...]) -> None:
        given.extend((each, each.clone()) for each in inputs if isinstance(each, Tensor))

    handle = model.register_forward_pre_hook(see, prepend=True)
    try:
        with as_found(model), torch.no_grad():
            call(model, batch.inputs, *batch.others, autocast=options["autocast"])
    finally:
        handle.remove()
    return any(not torch.allclose(*each, 0, 0, equal_nan=True) for each in given)


def _custom_functions(first: Pass) -> list[str]:
    """Names of the autograd functions that torch did not bring, on the way from the input."""
    with as_found(first.model):
        inputs = first.batch.inputs.detach().clone().requires_grad_()
        scalar = first.explained(inputs, *first.additional)
    own = torch.autograd.function.BackwardCFunction
    return sorted(
        {kind_of(n) for n in nodes(scalar.grad_fn) if isinstance(n, own) and not _of_torch(n)}
    )


def _of_torch(node: Any) -> bool:
    return bool(node._forward_cls.__module__.startswith("torch."))


def _apart(one: Tensor, other: Tensor) -> bool:
    scale = float(one[one.isfinite()].abs().amax()) if one.isfinite().any() else 0.0
    lost = one.isfinite() != other.isfinite()
    return bool(((one - other).abs().gt(TOLERANCE * scale) | lost).any())


def _depends_on_batch(model: nn.Module, seen: str) -> str:
    norms = [
        name
        for name, module in model.named_modules()
        if getattr(module, "running_mean", ...) is None and not _of_each_cell(module)
    ]
    cause = (
        f" ({preview(norms)} keep no running statistics; use BatchNorm with them, in eval mode)"
        if norms
        else " (attention, a mean or a normalisation over the batch inside of it?)"
    )
    return (
        f"{type(model).__name__} scores a cell by the other cells of its batch: {seen}{cause}. A "
        "map would depend on the batch."
    )


def _of_each_cell(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.instancenorm._InstanceNorm)  # no public base


def _tried(
    method: Method, shared: Pass, layers: list[str], options: Mapping[str, Any]
) -> tuple[Maps, dict[str, Failure]]:
    """Maps and failures on one crop; what fails for all layers at once is tried at each alone."""
    check = declared(method, "check", default=None)
    if check is not None:
        try:
            with as_found(shared.model):
                check(shared)
        except Exception as error:  # noqa: BLE001  # becomes a finding
            return {}, dict.fromkeys(layers, failure_of(error))
        return {}, {}
    try:
        maps, failures = attribute(method, shared, layers)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return {}, dict.fromkeys(layers, failure_of(error))
    if len(layers) == 1 or set(failures) != set(layers):
        return maps, failures
    alone: dict[str, Tensor] = {}
    for layer in layers:
        only = shared.layers.only([layer])
        run = new_pass(shared.model, shared.batch, shared.target, only, {"": method}, **options)
        found, failed = attribute(method, run, [layer])
        alone |= found
        failures = {at: why for at, why in failures.items() if at != layer} | failed
    return alone, failures


def _of_the_map(signed: Tensor | None, batch: Batch, heat: HeatOptions | None) -> list[str]:
    """What a map on one crop already shows: that it is blank, or its grid too coarse."""
    if signed is None:
        return []
    cautions = []
    if not bool(signed.any()):
        cautions.append(
            "The map is 0 everywhere on the crop that was tried. Where it is for all cells, the "
            "score does not depend on this layer (the last block of a transformer that reads its "
            "class token)."
        )
    cells = batch.regions["cell"]
    grid = Grid(batch.space, tuple(signed.shape[2:]), (heat or HeatOptions()).resize)
    _, highest = grid.attainable(cells)
    coarse = int(unresolvable(highest, area_fraction(cells)).sum())
    if coarse:
        cautions.append(
            f"The grid {' x '.join(map(str, grid.native))} cannot resolve the masks of {coarse} of "
            f"{len(batch)} cells: every map scores chance there."
        )
    return cautions


@dataclass(frozen=True)
class LayerSurvey:
    """One layer: its grid *s, and the attainable Grad-CAMO interval of a typical mask there."""

    name: str
    type: str
    grid: tuple[int, ...] | None
    channels: int | None
    depth: float | None
    """Relative, in (0, 1]; None in a model without convolutions."""
    lowest: float | None
    highest: float | None
    note: str


@dataclass(frozen=True)
class Survey:
    """The layers of a model in the order in which they run."""

    layers: tuple[LayerSurvey, ...]
    chance: float
    """Area fraction of the typical mask: that of the cell of median area."""
    cells: int
    output: str
    """What the model puts out, and of what kind that is."""


def survey(model: nn.Module, batch: Batch, /, *, output: str | int | None = None) -> Survey:
    """Run one crop through the model and see what each layer puts out.

    The typical mask is that of the cell of median area in the batch.
    """
    model = unwrap(model)
    cells = batch.regions["cell"]
    areas = area_fraction(cells)
    middle = int(areas.argsort()[len(areas) // 2])
    mask = cells[middle : middle + 1]
    with as_found(model):
        first = batch.rows(0, 1).to(device_of(model))
        ran = trace(model, first.inputs, *first.others)
        with torch.no_grad():
            put_out = _kind_of_output(call(model, first.inputs, *first.others), output, first)
    rules = {name: {info.name for info in rule(ran)} for name, rule in LAYER_RULES.items()}
    layers = []
    for info in ran:
        notes = [name for name, chosen in rules.items() if info.name in chosen]
        lowest = highest = None
        if info.repeats:
            notes = [f"runs {info.calls} times: cannot be explained"]
        elif info.grid is None:
            notes = [info.reason or "no grid"]
        else:
            low, high = Grid(batch.space, info.grid, "linear").attainable(mask)
            lowest, highest = float(low), float(high)
            if info.layout is not None and str(info.layout) != "channels first":
                notes.append(str(info.layout))
            if unresolvable(high, areas[middle]):
                notes.append("unresolvable: every map scores chance")
        layers.append(
            LayerSurvey(
                name=info.name,
                type=type(info.module).__name__,
                grid=info.grid,
                channels=info.channels,
                depth=None if math.isnan(info.depth) else info.depth,
                lowest=lowest,
                highest=highest,
                note=", ".join(notes),
            )
        )
    return Survey(tuple(layers), float(areas[middle]), len(areas), put_out)


def _kind_of_output(found: Any, which: str | int | None, first: Batch) -> str:
    """As people read it."""
    try:
        output = check_output(found, 1, which, first.inputs.ndim)
    except UnsupportedError as error:
        return str(error)
    shape = " x ".join(map(str, ("N", *output.shape[1:])))
    if output.ndim == 2:
        return f"{shape}: scores or an embedding of a cell"
    return f"{shape}: dense, {output.shape[1]} values at each position; target=region explains it"
