"""What a dry run shows of layers: how their outputs lie, how deep they are, the main path."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from attrscore.core.graph import nodes
from attrscore.core.layouts import (
    Changes,
    Layout,
    LayoutOptions,
    Sight,
    Stated,
    anchor_of,
    apart,
    candidates,
    explained,
    hidden_state,
    is_sharp,
    measure_axes,
    measure_changes,
    random_weights,
    watching,
)
from attrscore.core.model import SealedModel, call, is_out_of_memory


@dataclass(frozen=True)
class LayerInfo:
    """What one named module did on a dry run."""

    name: str
    module: nn.Module
    calls: int
    shape: tuple[int, ...] | None
    """Shape of the output, or None where it is not one tensor."""
    layout: Layout | None = None
    """None where the output has no grid, or where it is unknown."""
    reason: str = ""
    """Why the layout is unknown."""
    depth: float = math.nan
    """Share of the model's convolutions and linear layers on a grid that have run, in (0, 1]."""
    shortcut: bool = False
    """Among the last convolutions: one of single pixels, beside the one that ran before it."""

    @property
    def grid(self) -> tuple[int, ...] | None:
        """*s, or None where the output has none."""
        if self.shape is None or self.layout is None:
            return None
        return self.layout.grid_of(self.shape)

    @property
    def channels(self) -> int | None:
        """C, or None where there is no grid."""
        if self.shape is None or self.layout is None:
            return None
        return self.layout.channels_of(self.shape)

    @property
    def repeats(self) -> bool:
        """Whether it runs several times, and not once for each of the image's channels."""
        return self.calls > 1 and not (self.layout and self.layout.stains)

    @property
    def wide(self) -> bool:
        """Whether the grid has more than one position."""
        return self.grid is not None and math.prod(self.grid) > 1

    @property
    def pads(self) -> bool:
        """Whether this layer does nothing but pad, beyond the image, or nothing at all."""
        leaves = [m for m in self.module.modules() if not list(m.children())]
        return all(
            type(leaf).__module__ == "torch.nn.modules.padding" or type(leaf) is nn.Identity
            for leaf in leaves
        )

    @property
    def is_convolution(self) -> bool:
        """A convolution whose grid has more than one position (squeeze-and-excitation has one)."""
        return isinstance(self.module, _ConvNd) and self.wide

    @property
    def pointwise(self) -> bool:
        """A convolution of single pixels."""
        return isinstance(self.module, _ConvNd) and set(self.module.kernel_size) == {1}


@torch.no_grad()
def trace(
    model: nn.Module, inputs: Tensor, /, *others: Tensor, layout: LayoutOptions | None = None
) -> list[LayerInfo]:
    """Every named module that ran on ``inputs`` (N, C, *S), in the order in which it finished.

    ``others`` are the model's further inputs. One forward pass for convolutional models; where
    outputs are tokens, or have channels first here and last there, some more on one crop, to
    measure which. The caller keeps the model in eval mode.
    """
    seen: dict[Sight, list[tuple[int, ...] | None]] = {}

    def see(name: str, side: Literal["in", "out"], value: Any) -> None:
        hidden = hidden_state(value)
        shape = None if hidden is None else tuple(hidden.shape)
        seen.setdefault(Sight(name, side), []).append(shape)

    sealed = isinstance(model, SealedModel)
    modules = {name: module for name, module in model.named_modules() if name and not sealed}
    with watching(
        modules,
        lambda name, output: see(name, "out", output),
        lambda name, value: see(name, "in", value),
    ):
        call(model, inputs, *others)
    ran = [
        LayerInfo(name, modules[name], len(shapes), shapes[-1])
        for (name, side), shapes in seen.items()
        if side == "out"
    ]
    first = inputs[:1], [other[:1] for other in others]
    ran = _with_layouts(ran, seen, model, len(inputs), *first, layout or LayoutOptions())
    return _with_shortcuts(_with_depth(ran), model, *first)


def _with_shortcuts(
    ran: list[LayerInfo], model: nn.Module, inputs: Tensor, others: Sequence[Tensor]
) -> list[LayerInfo]:
    """Which of the last convolutions are shortcuts, by what they were computed from.

    One more forward pass of a crop, with its graph, where the last convolution is pointwise. None
    is where that pass fails, or keeps no graph.
    """
    last = [info for info in ran if info.is_convolution and info.calls == 1]
    if len(last) < 2 or not last[-1].pointwise:
        return ran
    made: dict[str, Any] = {}
    with suppress(Exception), torch.enable_grad():  # a model may raise anything
        image = inputs.detach().clone().requires_grad_()
        with watching(
            {info.name: info.module for info in last},
            lambda name, output: made.update({name: getattr(output, "grad_fn", None)}),
        ):
            call(model, image.clone(), *others)
    shortcuts = set()
    for before, info in zip(last[-2::-1], last[:0:-1], strict=True):
        node = made.get(info.name)
        beside = node is not None and made.get(before.name) not in {None, *nodes(node)}
        if not info.pointwise or not beside:
            break
        shortcuts.add(info.name)
    return [replace(info, shortcut=True) if info.name in shortcuts else info for info in ran]


class _Axes(NamedTuple):
    """Where a layer with as many axes as the input has its channels, as far as is known."""

    axes: Literal["channels_first", "channels_last"] | None
    sure: bool
    """Whether that needs no measuring."""
    stated: bool = False


def _axes_of(
    ran: Sequence[LayerInfo],
    model: nn.Module,
    inputs: Tensor,
    others: Sequence[Tensor],
    options: LayoutOptions,
) -> dict[str, _Axes]:
    """Of outputs with as many axes as the input, by what the modules are, or by a larger crop."""
    fitting = {
        info.name: (info.module, info.shape)
        for info in ran
        if info.shape is not None and len(info.shape) == inputs.ndim
    }
    anchors = {name: anchor_of(module, shape) for name, (module, shape) in fitting.items()}
    # Where linear layers work on positions, an output can also be channels last, or an attention.
    mixed = any(
        len(info.shape or ()) > 2 and anchor_of(info.module, info.shape or ()) == "channels_last"
        for info in ran
    )
    unclear = {name: each for name, each in fitting.items() if anchors[name] != "channels_first"}
    grown = measure_axes(model, unclear, inputs, others) if mixed else {}
    stated = options.axes if options.axes in ("channels_first", "channels_last") else None
    found = {}
    for name, anchor in anchors.items():
        if anchor == "channels_first":
            found[name] = _Axes(anchor, sure=True)
        elif name in grown and anchor in (None, grown[name].axes):
            found[name] = _Axes(grown[name].axes, sure=True)  # type: ignore[arg-type]  # no tokens
        elif anchor is not None:
            found[name] = _Axes(anchor, sure=False)
        elif stated is not None:
            found[name] = _Axes(stated, sure=False, stated=True)
        else:
            found[name] = _Axes(None if mixed else "channels_first", sure=not mixed)
    return found


def _with_layouts(
    ran: list[LayerInfo],
    seen: Mapping[Sight, Sequence[tuple[int, ...] | None]],
    model: nn.Module,
    n: int,
    inputs: Tensor,
    others: Sequence[Tensor],
    options: LayoutOptions,
) -> list[LayerInfo]:
    """Layouts of all layers: by what they are, else measured, once for each kind of output."""
    axes = _axes_of(ran, model, inputs, others, options)
    count = inputs.shape[1]
    plain = {
        info.name: Layout(known.axes)
        for info in ran
        if (known := axes.get(info.name))
        and known.axes
        and known.sure
        and _rows(info, n, seen) == 1
    }
    asked: dict[str, _Question] = {}
    for info in ran:
        shape, known = info.shape or (), axes.get(info.name, _Axes(None, sure=False))
        rows = _rows(info, n, seen)
        learned = info.calls == 1 or any(True for _ in info.module.parameters())
        if info.name in plain or not learned or not 1 <= rows <= count:
            continue
        if len(shape) == 3 or known.axes or shape[1:].count(count):
            sights = _sights(info, ran, axes, seen)
            # With as many tokens as rows, positions may be where the channels were before.
            own = Sight(info.name, "out") if len(shape) == 3 and 1 < rows == shape[1] else None
            asked[info.name] = _Question(sights, own, info.calls, rows, shape[:-1], known)
    answers: dict[str, Layout | str] = dict(plain)
    found = _answers(set(asked.values()), model, inputs, others, options)
    answers |= {name: found[question] for name, question in asked.items()}
    return [_answered(info, axes.get(info.name), answers.get(info.name), n) for info in ran]


class _Question(NamedTuple):
    """What is to be measured of layers alike, and where."""

    sights: tuple[Sight, ...]
    """The first that shows a change counts: parameters may have the shape of tokens too."""
    own: Sight | None
    """That of the layer, where it must show itself that channels are apart."""
    calls: int
    rows: int
    """Of a cell."""
    shape: tuple[int, ...]
    """But for the last axis."""
    known: _Axes

    @property
    def seen(self) -> tuple[Sight, ...]:
        """All that is to be watched."""
        return (*self.sights, self.own) if self.own else self.sights

    @property
    def folds(self) -> bool:
        """Whether cells share the first axis with something else, maybe channels."""
        return self.rows > 1 and self.calls == 1


def _rows(info: LayerInfo, n: int, seen: Mapping[Sight, Sequence[tuple[int, ...] | None]]) -> int:
    """How many rows a layer puts out for each of ``n`` cells, in all calls; 0 if unclear."""
    shapes = set(seen[Sight(info.name, "out")])
    if len(shapes) > 1 or info.shape is None or len(info.shape) < 3 or 0 in info.shape:
        return 0
    rows, rest = divmod(info.calls * info.shape[0], n)
    return 0 if rest or (info.calls > 1 and info.shape[0] != n) else rows


def _sights(
    info: LayerInfo,
    ran: Sequence[LayerInfo],
    axes: Mapping[str, _Axes],
    seen: Mapping[Sight, Sequence[tuple[int, ...] | None]],
) -> tuple[Sight, ...]:
    """Where such an output is seen first, before attention mixes its positions."""
    shape = info.shape or ()
    if len(shape) == 3:
        alike = (
            sight
            for sight, shapes in seen.items()
            if len(shapes) == info.calls
            and all(each is not None and len(each) == 3 for each in shapes)
            and {(each or ())[:2] for each in shapes} == {shape[:2]}
        )
        return tuple(itertools.islice(alike, 4))
    kind = info.calls, shape[:-1], axes.get(info.name)
    first = next(
        each.name
        for each in ran
        if (each.calls, (each.shape or ())[:-1], axes.get(each.name)) == kind
    )
    return (Sight(first, "out"),)


def _answers(
    asked: Collection[_Question],
    model: nn.Module,
    inputs: Tensor,
    others: Sequence[Tensor],
    options: LayoutOptions,
) -> dict[_Question, Layout | str]:
    """The layout that answers each question, or why it stays unknown."""
    space = tuple(inputs.shape[2:])
    known: dict[_Question, list[Changes]] = {question: [] for question in asked}
    measured: dict[_Question, Layout | None] = dict.fromkeys(asked)
    for weights, own in ((nullcontext(), True), (random_weights(model), False)):
        left = [question for question, answer in measured.items() if answer is None]
        if not left:
            break
        try:
            with weights:
                sights = {sight: each.calls for each in left for sight in each.seen}
                crops = 2 if any(each.folds for each in left) else 1
                found = measure_changes(model, sights, inputs, others, crops=crops)
        except Exception as error:  # a model may raise anything
            if is_out_of_memory(error):
                raise
            continue
        for each in left:
            shown = [found[sight] for sight in each.sights if found[sight].alive]
            if shown:
                known[each].append(shown[0])
                layout = _measured(each, shown[0], space)
                if layout and each.own and apart(layout, found[each.own]) != layout.stains:
                    layout = None
                if layout and own and layout.suffix:  # or else its weights are blind to the end
                    layout = None
                measured[each] = layout
    return {each: _checked(measured[each], each, known[each], space, options) for each in asked}


def _fitting(
    question: _Question, changes: Changes, space: Sequence[int], options: LayoutOptions
) -> list[Layout]:
    """Every layout that explains what changed."""
    both = ("channels_first", "channels_last")
    axes = both if changes.rows == 1 else (question.known.axes,)
    return [
        found
        for layout in candidates(changes, question.calls, space, axes, options)
        if layout.axes is not None and (found := explained(layout, changes))
    ]


def _measured(question: _Question, changes: Changes, space: Sequence[int]) -> Layout | None:
    """The layout that the dry run shows, if it shows one."""
    fitting = _fitting(question, changes, space, LayoutOptions())
    return fitting[0] if len(fitting) == 1 and is_sharp(fitting[0], changes) else None


def _checked(
    measured: Layout | None,
    question: _Question,
    known: Sequence[Changes],
    space: Sequence[int],
    options: LayoutOptions,
) -> Layout | str:
    """What was measured, if it is as was said; what was said, if nothing was measured."""
    shape, axes = question.shape, question.known.axes
    count, said = math.prod(shape[1:]), options.of_tokens
    if measured and measured.axes == "tokens":
        if options.axes not in ("auto", "tokens"):
            return f"layout.axes={options.axes} is asked for, and the dry run shows tokens"
        if options.allow(measured):
            return measured
        return f"its {count} tokens do not fit {said}: the dry run shows {_said_of(measured)}"
    if measured and (measured.stains or not axes or measured.axes == axes):
        return measured if axes or measured.stains else _WHICH
    if len(shape) != 2:
        plain = Layout(axes or "channels_first")
        every = [each for changes in known for each in _fitting(question, changes, space, options)]
        if axes and (plain in every or (question.known.stated and not every)):
            return plain
        if question.known.stated:
            return f"layout.axes={axes} is not what the dry run shows"
        return _WHICH if axes is None else "its axes are not those of the image"
    if question.rows > 1:
        return f"it has {question.rows} rows a cell, which are not those of single channels"
    if options.axes not in ("auto", "tokens"):
        return f"layout.axes={options.axes} is asked for, and it has three axes"
    stated = {
        each
        for changes in known[-1:]
        for each in _fitting(question, changes, space, options)
        if options.allow(each)
    }
    if said and len(stated) == 1:
        return stated.pop()
    if said and not stated:
        return f"its {count} tokens do not fit {said}"
    why = "tokens are mixed before they can be seen" if stated else "they lie on no regular grid"
    return f"where its {count} tokens lie could not be measured ({why}); {_ASK}"


def _said_of(layout: Layout) -> str:
    shown = f"layout.grid={list(layout.grid)}, layout.prefix={layout.prefix}"
    shown += f", {layout.suffix} tokens behind the grid" if layout.suffix else ""
    if layout.channels in ("none", *get_args(Stated)):
        return f"{shown}, layout.channels={layout.channels}"
    return f"{shown}, and {layout}"


_WHICH = (
    "which of its axes are channels cannot be measured, since the model takes no larger crop; "
    "unless it is a matrix of attention, say layout.axes=channels_first or "
    "layout.axes=channels_last"
)
_ASK = (
    "say layout.grid=[...], the number of positions along each axis, layout.prefix=..., the number "
    "of tokens before them (class token, registers), and layout.channels=none, or first or last "
    "where every channel of the image has its own"
)


def _answered(
    info: LayerInfo, known: _Axes | None, answer: Layout | str | None, n: int
) -> LayerInfo:
    if isinstance(answer, Layout):
        return replace(info, layout=answer)
    if known is not None and info.shape is not None and info.shape[0] == n:
        if info.calls > 1 and known.axes:  # it has no map, and yet a grid
            return replace(info, layout=Layout(known.axes))
        answer = answer or ("" if known.axes else _WHICH)
    return replace(info, reason=answer or "")


def _with_depth(ran: Sequence[LayerInfo]) -> list[LayerInfo]:
    steps = [info.wide and isinstance(info.module, _ConvNd | nn.Linear) for info in ran]
    if not any(steps):
        return list(ran)
    done = zip(ran, itertools.accumulate(steps), strict=True)
    return [replace(info, depth=so_far / sum(steps)) for info, so_far in done]


def main_path(
    model: nn.Module,
    ran: Sequence[LayerInfo],
    inputs: Tensor,
    /,
    *others: Tensor,
    output: str | int | None = None,
) -> set[str]:
    """Names of the layers that every way from the image to the output goes through.

    No layer of a branch or inside a residual block is among them, and none whose grid the output
    does not depend on, as the patches of a vision transformer behind its last attention, where only
    the class token counts. ``output`` is the item that holds the scores. One forward and one
    backward pass of noise. Empty where no gradient reaches the image, or
    where the backward pass fails.
    """
    grids = {info.name: info for info in ran if info.wide and not info.repeats}
    kept: dict[str, list[tuple[Tensor, Any]]] = {}

    def see(name: str, found: Any) -> None:
        hidden = hidden_state(found)
        if hidden is not None and hidden.requires_grad:
            # the node as it is before any in-place change
            kept.setdefault(name, []).append((hidden, hidden.grad_fn))

    generator = torch.Generator().manual_seed(0)
    with torch.enable_grad():
        drawn = torch.randn(inputs.shape, generator=generator, dtype=torch.float64)
        image = drawn.to(inputs).requires_grad_()  # a black crop would pass no ReLU
        modules = {name: info.module for name, info in grids.items()}
        with watching(modules, see):
            found = call(model, image, *others)
        scores = [each.flatten(1) for each in _tensors(found, output) if each.requires_grad]
        if not scores:
            return set()
        # A sum would be blind to the output of a normalisation, which always sums to the same.
        root = (scores[0] * torch.randn(scores[0].shape, generator=generator).to(scores[0])).sum()
        layers = [hidden for calls in kept.values() for hidden, _ in calls]
        try:
            gradients = torch.autograd.grad(root, layers, allow_unused=True, retain_graph=True)
        except Exception:  # noqa: BLE001  # of a backward or a hook of the user's
            return set()
    if not _leads(root, image, ()):
        return set()
    flowing = dict(zip(map(id, layers), gradients, strict=True))
    return {
        name
        for name, calls in kept.items()
        if _reaches(grids[name], [(hidden, flowing[id(hidden)]) for hidden, _ in calls])
        and not _leads(root, image, [node for _, node in calls])
    }


def _leads(root: Tensor, image: Tensor, without: Collection[Any]) -> bool:
    """Whether a way leads from ``root`` to the image, and through none of these nodes."""
    behind = nodes(root.grad_fn, stop=without)
    return any(getattr(node, "variable", None) is image for node in behind)


def _reaches(info: LayerInfo, calls: Sequence[tuple[Tensor, Tensor | None]]) -> bool:
    """Whether the output depends on more of the layer than the tokens beside its grid."""
    if all(gradient is None for _, gradient in calls):
        return False
    if info.layout is None or not (info.layout.prefix or info.layout.suffix):
        return True
    flowing = [torch.zeros_like(hidden) if each is None else each for hidden, each in calls]
    return bool(info.layout.to_grid(torch.cat(flowing)).any())


def _tensors(found: Any, output: str | int | None) -> list[Tensor]:
    """What is explained, or, where that is not said, the first tensor of what a model returns."""
    if output is not None and not isinstance(found, Tensor):
        found = found[output]
    if isinstance(found, Mapping):
        found = list(found.values())
    items = found if isinstance(found, list | tuple) else [found]
    return [item for item in items if isinstance(item, Tensor) and item.ndim][:1]
