"""One method on one pass: which layers it is asked for, its maps, or why there are none."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from attrscore.core.contracts import INPUT, Batch, InputSpec, Maps, Method, Target
from attrscore.core.layers import Layers, listed, select_layers
from attrscore.core.layouts import LayoutOptions
from attrscore.core.model import (
    SealedModel,
    as_found,
    call,
    check_output,
    is_out_of_memory,
    seed_all,
)
from attrscore.core.passes import Pass
from attrscore.core.statuses import Status
from attrscore.errors import (
    AttrscoreError,
    ConfigError,
    DataError,
    LayerError,
    UnsupportedError,
    preview,
)

__all__ = [
    "Chosen",
    "Failure",
    "OnError",
    "Pair",
    "attribute",
    "declared",
    "explains_layers",
    "failure_of",
    "frames_of",
    "is_random",
    "layers_of",
    "new_pass",
    "sentence",
]

Pair = tuple[str, str]
"""A method and a layer."""


class Failure(NamedTuple):
    """Why there is no map: a status, a sentence, and where it was raised, if by surprise."""

    status: Status
    reason: str
    traceback: str = ""


OnError = Literal["record", "raise"]

_NOTHING = (
    "The explained score does not depend on this layer, or on none of its positions (behind the "
    "last attention of a vision transformer only the class token counts), or the layer runs "
    "without gradients (no_grad, a checkpointed part with use_reentrant=True): no map. Choose a "
    "layer before."
)


@dataclass(frozen=True)
class Chosen:
    """The layers asked for, in the order in which they run, and those that have no map."""

    layers: Layers
    refused: Mapping[str, str]
    """Layer -> why it cannot be explained."""
    order: tuple[str, ...] = ()
    """Where some are refused: all modules as the model names them."""

    def layers_for(self, method: Method, /) -> list[str]:
        """Where a method is asked for maps: at every layer, or at the input."""
        if not explains_layers(method):
            return [INPUT]
        every = [*self.layers, *self.refused]
        return sorted(every, key=self.order.index) if self.order else every


def new_pass(
    model: nn.Module,
    batch: Batch,
    target: Target,
    layers: Mapping[str, nn.Module],
    methods: Mapping[str, Method],
    *,
    output: str | int | None = None,
    pool: Batch | None = None,
    autocast: bool = False,
) -> Pass:
    """A pass that goes as deep as the methods need."""

    def needed(what: str) -> bool:
        return any(declared(method, what, default=False) for method in methods.values())

    return Pass(
        model,
        batch,
        target,
        layers,
        to_input=needed("needs_input_gradient"),
        keep_graph=needed("needs_graph"),
        keep_attention=needed("needs_attention"),
        output=output,
        pool=pool,
        autocast=autocast,
    )


def layers_of(
    model: nn.Module,
    batch: Batch,
    methods: Mapping[str, Method],
    layers: str | Sequence[str] | Chosen,
    *,
    layout: LayoutOptions | None = None,
    output: str | int | None = None,
) -> Chosen:
    """The layers that the methods will explain: none where all of them explain the input.

    One dry run of one crop, unless they are chosen already.

    :raises DataError: the model cannot run on these inputs.
    :raises LayerError: a layer that the model does not have.
    """
    if isinstance(layers, Chosen):
        return layers
    wanted = listed(layers)
    if not wanted:
        raise ConfigError("layers=[] names no layer; give names, patterns or a rule: last_conv.")
    first = batch.rows(0, 1)
    refusal = model.refusal if isinstance(model, SealedModel) else ""
    with as_found(model):
        try:
            if not refusal and any(map(explains_layers, methods.values())):
                return _select(model, wanted, first, layout=layout, output=output)
            with torch.no_grad():
                call(model, first.inputs, *first.others)
        except LayerError as error:
            with contextlib.suppress(AttrscoreError, RuntimeError):  # of the output: not asked
                if _draws(model, first, output):
                    error.add_note(f"{is_random(model)} No layout can be found of such a model.")
            raise
        except AttrscoreError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            spec = InputSpec(batch.inputs.shape[1], batch.space, 0)
            raise DataError(
                f"{type(model).__name__} cannot run on these crops ({spec.channels} channels, "
                f"{spec.dimensions}D, {' x '.join(map(str, spec.size))}): "
                f"{str(error).splitlines()[0] if str(error) else type(error).__name__}. It is "
                "called with the image first, then with the batch's others; a network that takes "
                "them otherwise needs a wrapper."
            ) from error
    return Chosen(Layers(), dict.fromkeys(wanted, refusal) if refusal else {})


def is_random(model: nn.Module, /) -> str:
    """What is said of a model that is."""
    return (
        f"{type(model).__name__} gives other scores when the same crop is run again (a dropout or "
        "a masking that stays on in eval mode?), so each map is one draw of many."
    )


def _draws(model: nn.Module, first: Batch, output: str | int | None) -> bool:
    """Whether the model gives other scores with other random numbers."""

    def scores(seed: int) -> torch.Tensor:
        seed_all(seed)
        with torch.no_grad():
            found = call(model, first.inputs, *first.others)
        return check_output(found, len(first), output, first.inputs.ndim)

    return not torch.allclose(scores(0), scores(1), equal_nan=True)


def _select(model: nn.Module, wanted: Sequence[str], first: Batch, **options: Any) -> Chosen:
    def select(entries: str | Sequence[str]) -> Layers:
        return select_layers(model, entries, first.inputs, *first.others, **options)

    refused: dict[str, str] = {}
    try:
        return Chosen(select(wanted), refused)
    except LayerError:
        existing = {name for name, _ in model.named_modules() if name}
        for entry in wanted:
            try:
                select(entry)
            except LayerError as error:
                if entry not in existing:
                    raise
                refused[entry] = sentence(error)
    rest = [entry for entry in wanted if entry not in refused]
    order = tuple(name for name, _ in model.named_modules())
    return Chosen(select(rest) if rest else Layers(), refused, order)


def explains_layers(method: Method, /) -> bool:
    """Whether a method's maps are keyed by layers, rather than living on the input alone."""
    return bool(declared(method, "explains", "layers") != INPUT)


def attribute(
    method: Method, run: Pass, layers: Sequence[str], /, on_error: OnError = "record"
) -> tuple[Maps, dict[str, Failure]]:
    """The maps of a method, and the status and reason of each layer for which there is none."""
    try:
        alone = not declared(method, "needs_model", default=True)
        with contextlib.nullcontext() if alone else as_found(run.model):
            maps = method(run)
        _check_maps(maps, layers, run.batch)
    except Exception as error:
        if on_error == "raise" or is_out_of_memory(error):
            raise
        return {}, dict.fromkeys(layers, failure_of(error))
    refused = getattr(maps, "refused", {})
    return maps, {
        layer: Failure("unsupported", refused.get(layer, _NOTHING))
        for layer in layers
        if layer not in maps
    }


def failure_of(error: Exception, /) -> Failure:
    """The status and the sentence of a method's error.

    :raises ConfigError: a mistake in the configuration, which is the same for every batch.
    """
    if isinstance(error, ConfigError):
        raise error
    if isinstance(error, UnsupportedError):
        return Failure("unsupported", sentence(error))
    status: Status = "out_of_memory" if is_out_of_memory(error) else "error"
    return Failure(status, sentence(error), frames_of(error))


def _check_maps(maps: Maps, layers: Sequence[str], batch: Batch) -> None:
    unknown = [layer for layer in maps if layer not in layers]
    if unknown:
        raise UnsupportedError(
            f"The method returned maps for {preview(unknown)}; expected {preview(layers)}. "
            "A method whose maps live on the input declares explains = 'input'."
        )
    for layer, signed in maps.items():
        if signed.ndim != batch.inputs.ndim or len(signed) != len(batch):
            raise UnsupportedError(
                f"The method returned a map {tuple(signed.shape)} for '{layer}'; expected "
                f"(N, C, *s) with N = {len(batch)} and {len(batch.space)} spatial axes."
            )


def declared(method: Method, attribute: str, default: Any) -> Any:
    """What a method, or the function that it configures, says of itself."""
    behind = getattr(method, "function", method)
    return getattr(method, attribute, getattr(behind, attribute, default))


def frames_of(error: BaseException) -> str:
    """Where an error was raised, a line a frame, by modules: paths differ between machines."""
    lines = [
        f"{frame.f_globals.get('__name__', '?')}:{line} in {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    return "\n".join([*lines, sentence(error)])


def sentence(error: BaseException) -> str:
    """The first line of an error, with its type unless it is one of ours."""
    text = str(error).strip().splitlines()
    first = text[0] if text else "no message"
    return first if isinstance(error, AttrscoreError) else f"{type(error).__name__}: {first}"
