"""The only loop: batches x methods x layers x scorers.

``run`` yields results as they are computed. :func:`attrscore.gather.evaluate` gathers them, and the
command line writes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from attrscore.core import (
    INPUT,
    Batch,
    Dataset,
    InputSpec,
    Maps,
    Method,
    Result,
    Scorer,
    Status,
    Target,
)
from attrscore.errors import (
    AttrscoreError,
    ConfigError,
    DataError,
    UnsupportedError,
    choose,
    preview,
)
from attrscore.heat import Grids, Heat, HeatOptions
from attrscore.layers import device_of, select_layers, unwrap
from attrscore.passes import Pass, as_found
from attrscore.registry import METHODS, SCORERS, TARGETS

__all__ = ["Triple", "batches_of", "explains_layers", "layers_of", "run"]

Triple = tuple[str, str, str]
"""A method, a layer and a scorer: what is computed or skipped as one."""

Keep = Literal["none", "native"]
OnError = Literal["record", "raise"]


def batches_of(
    dataset: Dataset, /, *, batch_size: int = 32, start: int = 0, stop: int | None = None
) -> Iterator[Batch]:
    """The cells ``start`` to ``stop`` of a dataset, in order, ``batch_size`` at a time."""
    stop = len(dataset.table) if stop is None else stop
    for first in range(start, stop, batch_size):
        yield dataset.read(range(first, min(first + batch_size, stop)))


def explains_layers(method: Method, /) -> bool:
    """Whether a method's maps are keyed by layers, rather than living on the input alone."""
    return bool(_declared(method, "explains", "layers") != INPUT)


def run(
    model: nn.Module,
    batches: Batch | Iterable[Batch],
    *,
    methods: Any = "grad_cam",
    scorers: Any = "grad_camo",
    layers: str | Sequence[str] = "last_conv",
    target: str | Target = "predicted",
    output: str | int | None = None,
    heat: HeatOptions | Mapping[str, Any] | None = None,
    keep: Keep = "none",
    on_error: OnError = "record",
    skip: Iterable[Triple] = (),
) -> Iterator[Result]:
    """Attribute and score, one :class:`Result` a batch, method and layer.

    ``methods`` and ``scorers`` are registered names, plugin values, sequences of them, or mappings
    from the names they get in the results. ``layers`` are names, globs or rules (``last_conv``,
    ``all_conv``, ``stages``). ``output`` is the item that holds the scores, where the network
    returns a tuple or a dictionary. ``keep="native"`` keeps the signed maps on their own grids.
    ``skip`` names triples (method, layer, scorer) that are known already.

    What cannot be computed becomes rows with a status and a reason, and the rest goes on;
    ``on_error="raise"`` stops instead. The network is left as it was found, and works where its
    parameters are.

    :raises ConfigError: unknown names or options.
    :raises LayerError: a layer that does not exist or has no map.
    :raises DataError: inputs on which the network cannot run.
    """
    chosen_methods: dict[str, Method] = METHODS.resolve(methods)
    chosen_scorers: dict[str, Scorer] = SCORERS.resolve(scorers)
    ((_, chosen_target),) = TARGETS.resolve(target).items()
    options = heat if isinstance(heat, HeatOptions) else HeatOptions(**(heat or {}))
    choose(keep, ("none", "native"), option="keep")
    choose(on_error, ("record", "raise"), option="on_error")
    skipped = set(skip)
    model = unwrap(model)
    where = device_of(model)
    modules: dict[str, nn.Module] | None = None

    for batch in [batches] if isinstance(batches, Batch) else batches:
        batch = batch.to(where)
        if modules is None:
            modules = layers_of(model, batch, chosen_methods, layers)
        current = Pass(
            model,
            batch,
            chosen_target,
            modules,
            to_input=any(
                _declared(method, "needs_input_gradient", default=False)
                for method in chosen_methods.values()
            ),
            output=output,
        )
        base = _base_columns(current)
        grids = Grids(batch.space, options.resize)
        blank = _nonfinite(batch.inputs)
        for name, method in chosen_methods.items():
            places = list(modules) if explains_layers(method) else [INPUT]
            wanted = {
                layer: [s for s in chosen_scorers if (name, layer, s) not in skipped]
                for layer in places
            }
            if not any(wanted.values()):
                continue
            maps, status, reason = _attribute(method, current, places, on_error)
            for layer in places:
                if not wanted[layer]:
                    continue
                signed = maps.get(layer)
                columns = dict(base)
                if signed is None:
                    scores = {scorer: np.full(len(batch), np.nan) for scorer in wanted[layer]}
                    columns["status"] = _repeat(status, len(batch))
                    columns["reason"] = _repeat(reason, len(batch))
                else:
                    blanked = signed if blank is None else _blank_rows(signed, blank)
                    made = Heat(blanked, batch.space, options, grids=grids)
                    scores, failure = _score(
                        {s: chosen_scorers[s] for s in wanted[layer]}, made, current, on_error
                    )
                    states = made.status(batch.regions["cell"])
                    if all(np.isnan(values).all() for values in scores.values()) and failure:
                        states = ["error" if state == "ok" else state for state in states]
                    columns["status"] = np.array(states, dtype=object)
                    columns["reason"] = _repeat(failure, len(batch))
                columns |= _diagnostics(maps) | scores
                yield Result(
                    method=name,
                    layer=layer,
                    target=str(chosen_target),
                    columns=columns | _carried(batch),
                    maps=None if keep == "none" or signed is None else _numpy(signed),
                )


def layers_of(
    model: nn.Module, batch: Batch, methods: Mapping[str, Method], layers: str | Sequence[str]
) -> dict[str, nn.Module]:
    """The layers that the methods will explain: none where all of them explain the input.

    :raises DataError: the network cannot run on these inputs.
    :raises LayerError: as :func:`attrscore.layers.select_layers`.
    """
    with as_found(model):
        try:
            if any(explains_layers(method) for method in methods.values()):
                return select_layers(model, layers, batch.inputs[:1])
            with torch.no_grad():
                model(batch.inputs[:1])
        except AttrscoreError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            spec = InputSpec(batch.inputs.shape[1], batch.space, 0)
            raise DataError(
                f"{type(model).__name__} cannot run on these crops ({spec.channels} channels, "
                f"{spec.dimensions}D, {' x '.join(map(str, spec.size))}): "
                f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
            ) from error
    return {}


def _attribute(
    method: Method, current: Pass, places: Sequence[str], on_error: OnError
) -> tuple[Maps, Status, str]:
    """Maps, or a status and a reason why there are none."""
    try:
        with as_found(current.model):
            maps = method(current)
        _check_maps(maps, places, current.batch)
    except ConfigError:
        raise  # a mistake in the configuration is the same for every batch
    except (torch.OutOfMemoryError, MemoryError) as error:
        if on_error == "raise":
            raise
        return {}, "out_of_memory", _sentence(error)
    except UnsupportedError as error:
        if on_error == "raise":
            raise
        return {}, "unsupported", _sentence(error)
    except Exception as error:
        if on_error == "raise":
            raise
        return {}, "error", _sentence(error)
    return maps, "unsupported", "The explained score does not depend on this layer: no map."


def _check_maps(maps: Maps, places: Sequence[str], batch: Batch) -> None:
    unknown = [layer for layer in maps if layer not in places]
    if unknown:
        raise UnsupportedError(
            f"The method returned maps for {preview(unknown)}; expected {preview(places)}. "
            "A method whose maps live on the input declares explains = 'input'."
        )
    for layer, signed in maps.items():
        if signed.ndim != batch.inputs.ndim or len(signed) != len(batch):
            raise UnsupportedError(
                f"The method returned a map {tuple(signed.shape)} for '{layer}'; expected "
                f"(N, C, *s) with N = {len(batch)} and {len(batch.space)} spatial axes."
            )


def _score(
    scorers: Mapping[str, Scorer], heat: Heat, current: Pass, on_error: OnError
) -> tuple[dict[str, np.ndarray], str]:
    """Columns of all scorers, and why one of them failed (empty if none did)."""
    columns: dict[str, np.ndarray] = {}
    failures = []
    for name, scorer in scorers.items():
        try:
            scored = scorer(heat, current)
            entries = scored if isinstance(scored, Mapping) else {"score": scored}
            for key, values in entries.items():
                column = name if key == "score" else f"{name}.{key}"
                columns[column] = _one_a_cell(key, values, len(heat))
        except Exception as error:
            if on_error == "raise":
                error.add_note(f"in scorer '{name}'")
                raise
            columns[name] = np.full(len(heat), np.nan)
            failures.append(f"scorer '{name}': {_sentence(error)}")
    return columns, " ".join(failures)


def _one_a_cell(key: str, values: Any, n: int) -> np.ndarray:
    if isinstance(values, Tensor) and tuple(values.shape) == (n,):
        return _numpy(values.double())
    got = f"a tensor {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
    raise DataError(f"'{key}' must be a tensor ({n},), one number a cell; given: {got}.")


def _base_columns(current: Pass) -> dict[str, np.ndarray]:
    output = current.output.double()
    classes = getattr(current.target, "of_classes", True)
    unsure = torch.full((len(output),), torch.nan)
    return {
        "id": np.array(current.batch.ids, dtype=object),
        "label": _numpy(current.batch.label),
        "predicted": _numpy(
            output.argmax(1) if classes else torch.full_like(current.batch.label, -1)
        ),
        "status": _repeat("ok", len(output)),
        "reason": _repeat("", len(output)),
        "explained": _numpy(current.value.double()),
        "confidence": _numpy(
            output.softmax(1).amax(1) if classes and output.shape[1] > 1 else unsure
        ),
    }


def _diagnostics(maps: Maps) -> dict[str, np.ndarray]:
    found = getattr(maps, "diagnostics", {})
    return {name: _numpy(values.double()) for name, values in found.items()}


def _nonfinite(inputs: Tensor) -> Tensor | None:
    """Which samples have a pixel that is not finite, (N,) bool; None where none has.

    Extremes carry NaN, and take a tenth of the time of asking every pixel.
    """
    flat = inputs.flatten(1)
    bad = ~(flat.amin(1).isfinite() & flat.amax(1).isfinite())
    return bad if bool(bad.any()) else None


def _blank_rows(signed: Tensor, blank: Tensor) -> Tensor:
    """NaN maps for non-finite inputs: a ReLU can turn a NaN pixel into a finite map."""
    return torch.where(blank.view(-1, *[1] * (signed.ndim - 1)), torch.nan, signed)


def _carried(batch: Batch) -> dict[str, np.ndarray]:
    return {name: np.asarray(values) for name, values in batch.meta.items()}


def _declared(method: Method, attribute: str, default: Any) -> Any:
    behind = getattr(method, "function", method)
    return getattr(method, attribute, getattr(behind, attribute, default))


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()


def _repeat(value: str, n: int) -> np.ndarray:
    return np.full(n, value, dtype=object)


def _sentence(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    first = text[0] if text else "no message"
    return first if isinstance(error, AttrscoreError) else f"{type(error).__name__}: {first}"
