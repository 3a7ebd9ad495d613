"""A pass: one batch through one model, explained towards one scalar a sample.

Everything a method may ask for is computed at most once, on demand, and the model is left as it
was found.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from attrscore.core.contracts import INPUT, Batch, Target
from attrscore.core.functions import LightGradients, SeenAttention, seeing_attention
from attrscore.core.graph import Severed, kind_of, out_of_place
from attrscore.core.layers import Layers, OverwrittenError, calls_of, capture, with_layouts
from attrscore.core.layouts import Layout, watching
from attrscore.core.model import (
    Explained,
    as_found,
    call,
    check_output,
    dtype_of,
    is_out_of_memory,
    scalar,
    unwrap,
    wide,
)
from attrscore.errors import UnsupportedError, preview


class Graph(NamedTuple):
    """The forward pass of a batch, to be differentiated again by rules of one's own."""

    inputs: Tensor
    scalar: Tensor
    """The explained score, (N,); differentiate it with ``retain_graph=True``."""
    output: Tensor
    """What the model put out, (N, K) or (N, K, *S)."""
    relus: frozenset[Any]
    """The node of each call of an ``nn.ReLU`` module."""
    severed: tuple[str, ...]
    """What the graph does not show: :class:`attrscore.core.graph.Severed`."""


class Recorded(NamedTuple):
    """One forward pass in the autograd graph."""

    sources: dict[str, Tensor]
    """Outputs of the layers as they put them out, and the inputs where their gradient is asked."""
    output: Tensor
    inputs: Tensor
    relus: frozenset[Any]
    severed: tuple[str, ...]
    attention: SeenAttention


def gradients_of(
    scalar: Tensor, sources: Mapping[str, Tensor], *, last: bool = True
) -> Sequence[Tensor | None]:
    """The gradients of a scalar with respect to the sources; None where it depends on none.

    The graph can be used again unless these are the ``last``.
    """
    if not sources or not scalar.requires_grad:
        return [None] * len(sources)
    inputs = list(sources.values())
    return torch.autograd.grad(scalar, inputs, retain_graph=not last, allow_unused=True)


def accumulated(
    scalar: Tensor, sources: Iterable[Tensor], /, *, last: bool = True
) -> list[Tensor | None]:
    """The gradients of a scalar by ``backward()``, which is all that reentrant checkpoints can."""
    sources = list(sources)
    for each in sources:
        if each.requires_grad:
            each.retain_grad()
    if scalar.requires_grad:
        scalar.backward(retain_graph=not last)  # type: ignore[no-untyped-call]  # torch
    return [each.grad for each in sources]


@contextmanager
def relu_nodes(model: nn.Module) -> Iterator[set[Any]]:
    """The graph node of each call of an ``nn.ReLU`` module inside."""
    found: set[Any] = set()

    def remember(_module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and kind_of(output.grad_fn) == "Relu":
            found.add(output.grad_fn)

    relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    handles = [module.register_forward_hook(remember) for module in relus]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


Value = TypeVar("Value")

OnStep = Callable[[int, int], None]
"""Gets how many steps of a method are done, and of how many."""


class Pass:
    """One batch, one model, one target, some layers.

    ``activations`` and ``gradients`` of all layers come from one forward and one backward pass,
    which goes no deeper than the lowest of them. ``input_gradient`` is separate since it goes to
    the bottom of the model; a pass made with ``to_input=True`` gets it from the same backward,
    one made with ``keep_graph=True`` keeps the :attr:`graph` of the forward in memory, and one made
    with ``keep_attention=True`` the :attr:`attention` of every block.
    ``pool`` holds other cells, the same for every batch, or nothing (see :mod:`pool`).
    A model in half precision gets its inputs in its own type, and with ``autocast`` torch
    chooses bfloat16 where that is safe; what comes out is float32.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Batch,
        target: Target,
        layers: Mapping[str, nn.Module],
        *,
        to_input: bool = False,
        keep_graph: bool = False,
        keep_attention: bool = False,
        output: str | int | None = None,
        pool: Batch | None = None,
        autocast: bool = False,
        on_step: OnStep | None = None,
    ) -> None:
        self.model = unwrap(model)
        self.batch = batch
        self.pool = pool
        self.target = target
        if isinstance(layers, Layers):
            self.layers = layers
        else:
            with as_found(self.model), torch.no_grad():
                self.layers = with_layouts(self.model, layers, batch.inputs, *batch.others)
        self.on_step = on_step
        self._to_input = to_input
        self._keep_graph = keep_graph
        self._keep_attention = keep_attention
        self._as_torch = self._libra = False
        self._which = output
        self.autocast = autocast
        self._output: Tensor | None = None
        self._overflowed: Tensor | None = None
        self._aux: Tensor | None = None
        self._activations: dict[str, Tensor] | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._gradients: dict[str, Tensor] | None = None
        self._input_gradient: Tensor | None = None
        self._graph: Graph | None = None
        self._attention: SeenAttention | None = None
        self._once: dict[Any, Any] = {}

    @property
    def output(self) -> Tensor:
        """The model's scores on the clean input, (N, K) or, dense, (N, K, *S); no gradient."""
        if self._output is None and (self.layers or self._to_input):
            try:
                self._backward()  # its forward pass is needed anyway
            except Exception as error:  # comes back at what asks for gradients
                if is_out_of_memory(error):
                    raise
        if self._output is None:
            with as_found(self.model), torch.no_grad():
                self._output = self._forward(self.batch.inputs)
        return self._output

    @property
    def overflowed(self) -> Tensor:
        """Which samples left the range of float16 in some module, (N,); else they hold no number.

        A sigmoid makes 1 of infinity, so that the output alone does not show it. No other type is
        watched.
        """
        self.output  # noqa: B018  # runs the model
        return cast("Tensor", self._overflowed)

    @property
    def aux(self) -> Tensor:
        """What the target fixes on the clean input, (N, ...): a class index, a reference vector."""
        if self._aux is None:
            self._aux = self.target.prepare(self.output, self.batch)
        return self._aux

    @property
    def of_classes(self) -> bool:
        """Whether the outputs are class scores: as the target says, and never of a dense output."""
        return getattr(self.target, "of_classes", True) and self.output.ndim == 2

    @property
    def additional(self) -> tuple[Tensor, ...]:
        """What :attr:`explained` takes after the inputs: ``aux``, and the batch's ``others``."""
        return (self.aux, *self.batch.others)

    def outputs(self, altered: Iterable[tuple[Tensor, Tensor]], /) -> Tensor:
        """The model's scores (M, K) on altered inputs, no gradient, one chunk in memory at once.

        A chunk is (inputs (m, C, *S), rows (m,)); ``rows`` say which cells of the batch they are
        made from, whose ``others`` go with them.
        """
        with as_found(self.model), torch.no_grad():
            found = [
                self._scores(inputs, [other[rows] for other in self.batch.others])
                for inputs, rows in altered
            ]
        return torch.cat(found)

    @functools.cached_property
    def pool_output(self) -> Tensor:
        """The model's scores on the cells of the pool, (P, K), as many at once as a batch has.

        :raises UnsupportedError: there is no pool.
        """
        pool, step = self.need_pool(), len(self.batch)
        parts = [pool.rows(start, start + step) for start in range(0, len(pool), step)]
        with as_found(self.model), torch.no_grad():
            return torch.cat([self._scores(some.inputs, some.others) for some in parts])

    def need_pool(self) -> Batch:
        """The pool of other cells.

        :raises UnsupportedError: there is none.
        """
        if self.pool is None:
            raise UnsupportedError(
                "Other cells are needed, and there is no pool of them. Give evaluate() a dataset, "
                "or a batch of some 64 cells as pool=...; cells of the same batch are not used, "
                "for scores must not depend on it."
            )
        return self.pool

    def once(self, key: Any, compute: Callable[[], Value], /) -> Value:
        """What ``compute`` returns, computed at most once a pass for each hashable ``key``.

        For what several methods or scorers need, or one scorer at every layer: begin the key with
        the class, so that keys cannot collide.
        """
        if key not in self._once:
            self._once[key] = compute()
        return cast("Value", self._once[key])

    def step(self, done: int, total: int, /) -> None:
        """Report how far a method of many passes is, for a progress bar."""
        if self.on_step is not None:
            self.on_step(done, total)

    def on(self, inputs: Tensor, /, *, layers: Mapping[str, nn.Module] | None = None) -> Pass:
        """The same question on other inputs (N, C, *S); ``aux`` stays that of the clean ones.

        Of the same layers, unless others are given.
        """
        other = self._again(
            replace(self.batch, inputs=inputs), self.layers if layers is None else layers
        )
        other._aux = self.aux
        return other

    @functools.cached_property
    def explained(self) -> Explained:
        """The explained scalar as a module, for Captum: give it :attr:`additional` too."""
        return Explained(self.model, self.target, self._which, autocast=self.autocast)

    @functools.cached_property
    def value(self) -> Tensor:
        """The explained scalar on the clean input, (N,), no gradient."""
        with torch.no_grad():
            return scalar(self.target, self.output, self.aux)

    @property
    def activations(self) -> Mapping[str, Tensor]:
        """Layer -> its output (N, C, *s), no gradient."""
        if self._activations is None:
            try:
                self._backward()
            except UnsupportedError:
                if self._activations is None:
                    raise  # else no gradient flows, which comes back at what asks for one
        return cast("dict[str, Tensor]", self._activations)

    @property
    def gradients(self) -> Mapping[str, Tensor]:
        """Layer -> gradient of ``value`` with respect to the layer's output, (N, C, *s).

        A layer on which the value does not depend is left out.
        """
        if self._gradients is None:
            self._backward()
        return cast("dict[str, Tensor]", self._gradients)

    @property
    def input_gradient(self) -> Tensor:
        """Gradient of ``value`` with respect to the inputs, (N, C, *S)."""
        if self._input_gradient is None:
            if self._gradients is None:
                self._to_input = True
                self._backward()
            else:  # the shared pass is over: a second one, for the input alone
                alone = self._again(self.batch, {}, to_input=True)
                self._input_gradient = alone.input_gradient
        return cast("Tensor", self._input_gradient)

    @property
    def graph(self) -> Graph:
        """The forward pass down to the input, for backward passes with rules of their own."""
        if self._graph is None:
            if self._gradients is None:
                self._keep_graph = True
                self._backward()
            else:  # the shared pass is over, and its graph was not kept
                self._graph = self.on(self.batch.inputs, layers={}).graph
        return cast("Graph", self._graph)

    def libra(self) -> Pass:
        """The same question with the gradients of LibraGrad, at one forward and backward pass more.

        See :class:`attrscore.core.functions.LightGradients`.
        """

        def made() -> Pass:
            other = self.on(self.batch.inputs)
            other._libra, other._to_input = True, self._to_input
            return other

        return self if self._libra else self.once((Pass, "libra"), made)

    @property
    def attention(self) -> SeenAttention:
        """Every softmax attention of the forward pass, with its gradient."""
        if self._attention is None:
            if self._gradients is None:
                self._keep_attention = True
                self._backward()
            else:  # the shared pass is over, and nothing was kept of it
                self._attention = self.on(self.batch.inputs).attention
        return cast("SeenAttention", self._attention)

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """For methods with passes of their own: inside, the model is ready for Captum."""
        with as_found(self.model):
            yield

    def to_grid(self, layer: str, values: Tensor, /) -> Tensor:
        """What lies as the output of a layer does, as (N, C, *s): for methods with their own hooks.

        :raises UnsupportedError: values of another shape than that output: tokens or positions were
            taken for channels.
        """
        layout = self.layers.infos[layer].layout
        if layout is None or layout == Layout():
            return wide(values)
        self.activations  # noqa: B018  # runs the model
        expected = self._shapes[layer]
        if tuple(values.shape) != expected or len(self._calls(layer)) > 1:
            raise UnsupportedError(
                f"Layer '{layer}' puts out {expected} ({layout}), and the method made "
                f"{tuple(values.shape)} of it: it takes the second axis for the channels. "
                "Use grad_cam, hires_cam or another method of attrscore's own."
            )
        return wide(layout.to_grid(values))

    def towards(self, targets: Sequence[Target], /) -> Iterator[Pass]:
        """A pass for each target, all from one forward pass, with a backward pass each.

        Sharing the forward, whose graph ends at the lowest layer, saves most of the time. What
        fails comes back at what asks a pass for its gradients.
        """
        try:
            with as_found(self.model):
                recorded = self._record()
        except Exception as error:
            if is_out_of_memory(error):
                raise
            yield from map(self._twin, targets)
            return
        for number, target in enumerate(targets, start=1):
            each = self._twin(target)
            last = number == len(targets) and not self._keep_graph
            try:
                with torch.enable_grad():
                    value = scalar(target, recorded.output, each.aux)
                    gradients = gradients_of(value.sum(), recorded.sources, last=last)
                each._keep(recorded, value, gradients)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
            yield each

    def _twin(self, target: Target) -> Pass:
        """The same pass towards another target; what no target changes is known."""
        twin = copy.copy(self)
        twin.target = target
        twin._aux = twin._gradients = twin._input_gradient = None
        twin._graph = twin._attention = None
        twin._once = {}
        for name in ("explained", "value"):
            vars(twin).pop(name, None)
        return twin

    def _again(
        self, batch: Batch, layers: Mapping[str, nn.Module], *, to_input: bool = False
    ) -> Pass:
        made = Pass(
            self.model,
            batch,
            self.target,
            layers,
            to_input=to_input,
            output=self._which,
            pool=self.pool,
            autocast=self.autocast,
        )
        made._libra = self._libra
        return made

    def _backward(self) -> None:
        """One forward and one backward pass for all layers.

        Where it fails, once more as users of torch do it: without gradients of our own, of which
        checkpointed parts know nothing when they run again, and by ``backward()``.
        """
        try:
            self._differentiate()
        except Exception as error:
            settled = isinstance(error, UnsupportedError) or is_out_of_memory(error)
            if settled or self._as_torch:
                raise
            self._as_torch = True
            self._differentiate()

    def _differentiate(self) -> None:
        with as_found(self.model):
            recorded = self._record()
            value = scalar(self.target, recorded.output, self.aux)
            gradients = self._gradients_of(value.sum(), recorded.sources)
        self._keep(recorded, value, gradients)

    def _gradients_of(self, scalar: Tensor, sources: dict[str, Tensor]) -> Sequence[Tensor | None]:
        last = not self._keep_graph
        if self._as_torch:
            return accumulated(scalar, sources.values(), last=last)
        return gradients_of(scalar, sources, last=last)

    def _record(self) -> Recorded:
        """One forward pass in the autograd graph, as deep as is asked for."""
        while True:
            try:
                return self._recorded()
            except OverwrittenError:
                continue  # once a model: the next capture makes copies

    def _recorded(self) -> Recorded:
        inputs = self.batch.inputs.detach()
        whole = self._to_input or self._keep_graph or self._keep_attention
        if whole:
            inputs = inputs.clone().requires_grad_()
        severed, relus, seen = Severed(), set[Any](), SeenAttention()
        with contextlib.ExitStack() as stack:
            if self._keep_graph:  # alone: all this takes time
                stack.enter_context(out_of_place(self.model))
                relus = stack.enter_context(relu_nodes(self.model))
            sources = stack.enter_context(capture(self.layers, inputs.ndim - 2, gradients=True))
            if self._keep_attention:
                seen = stack.enter_context(seeing_attention(self.layers, self._rows()))
            if self._keep_graph:
                stack.enter_context(severed)
            elif self._libra or not self._as_torch:
                stack.enter_context(LightGradients(libra=self._libra))
            output = self._forward(inputs)
        self._output = output.detach()
        self._activations = {
            name: self._on_grid(name, [sources[key].detach() for key in self._calls(name)])
            for name in self.layers
        }
        self._shapes = {name: tuple(sources[name].shape) for name in self.layers}
        if self._to_input:
            sources[INPUT] = inputs
        for number, each in enumerate(seen.calls):
            if each.source.requires_grad:
                sources[f"attention {number}"] = each.source
        return Recorded(sources, output, inputs, frozenset(relus), tuple(severed.found), seen)

    def _scores(self, inputs: Tensor, others: Iterable[Tensor]) -> Tensor:
        found = call(self.model, inputs, *others, autocast=self.autocast)
        axes = inputs.ndim if getattr(self.target, "dense", True) else 2
        return check_output(found, len(inputs), self._which, axes)

    def _forward(self, inputs: Tensor) -> Tensor:
        """The scores; where they are float16, who overflowed on the way is known afterwards."""
        overflowed = torch.zeros(len(inputs), dtype=torch.bool)

        def see(_name: str, output: Any) -> None:
            nonlocal overflowed
            if isinstance(output, Tensor) and len(output) == len(inputs):
                bad = ~output.detach().isfinite().flatten(1).all(1)
                overflowed = overflowed.to(bad.device) | bad

        half = dtype_of(self.model) is torch.float16
        with watching(dict(self.model.named_modules()) if half else {}, see):
            scores = self._scores(inputs, self.batch.others)
        self._overflowed = overflowed
        return scores

    def _rows(self) -> list[int]:
        """How many rows tokens may have: more than cells where channels are in the batch."""
        layouts = [info.layout for info in self.layers.infos.values()]
        folded = [each for each in layouts if each and each.axes == "tokens"]
        counts = [len(each.stains) for each in folded if each.channels == "folded"]
        return [len(self.batch) * count for count in (*counts, 1)]

    def _calls(self, name: str) -> list[str]:
        return calls_of(self.layers.infos[name])

    def _on_grid(self, name: str, calls: Sequence[Tensor]) -> Tensor:
        layout = self.layers.infos[name].layout
        values = torch.cat(list(calls)) if len(calls) > 1 else calls[0]
        found = wide(values if layout is None else layout.to_grid(values))
        if len(found) != len(self.batch):
            raise UnsupportedError(
                f"Layer '{name}' puts out {len(found)} rows for {len(self.batch)} cells, and a dry "
                "run did not show which are whose; choose it by name: layers='...'."
            )
        return found

    def _keep(self, recorded: Recorded, value: Tensor, gradients: Sequence[Tensor | None]) -> None:
        by_name = dict(zip(recorded.sources, gradients, strict=True))
        graph_alone = self._keep_graph and not recorded.sources and value.requires_grad
        if all(gradient is None for gradient in gradients) and not graph_alone:
            sources = [f"layer '{name}'" for name in self.layers] or ["the input"]
            raise UnsupportedError(
                f"No gradient flows from {preview(sources)} to the output of "
                f"{type(self.model).__name__}: a detach(), no_grad() or argmax inside the model "
                "blocks it, or the layer is beside the way. Explain a layer further up, or use a "
                "perturbation method: captum Occlusion."
            )
        if self._keep_graph:
            self._graph = Graph(
                recorded.inputs, value, recorded.output, recorded.relus, recorded.severed
            )
        if self._keep_attention:
            calls = [
                replace(each, of_source=by_name.get(f"attention {number}"))
                for number, each in enumerate(recorded.attention.calls)
            ]
            self._attention = SeenAttention(calls, recorded.attention.within).joined()
        if self._to_input:
            self._input_gradient = by_name[INPUT]
        found = {}
        for name in self.layers:
            each = [(by_name[key], recorded.sources[key]) for key in self._calls(name)]
            if any(gradient is not None for gradient, _ in each):
                flowing = [torch.zeros_like(of) if some is None else some for some, of in each]
                found[name] = self._on_grid(name, flowing)
        self._gradients = {
            name: each for name, each in found.items() if not self._beside_tokens(name, each)
        }

    def _beside_tokens(self, name: str, gradient: Tensor) -> bool:
        """Whether the score depends on this layer's tokens beside the grid alone.

        So it is behind the last attention of a vision transformer read at its class token.
        """
        layout = self.layers.infos[name].layout
        beside = layout is not None and bool(layout.prefix or layout.suffix)
        return beside and not bool(gradient.any())


def generator_of(seed: int, purpose: str, cell: str, /) -> torch.Generator:
    """What is drawn for a cell follows from these three alone, whatever the batch.

    >>> torch.rand(1, generator=generator_of(0, "noise", "A01-7"))
    tensor([0.6391])
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}/{cell}".encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))
