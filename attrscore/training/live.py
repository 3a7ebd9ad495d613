"""The score of a forward pass of one's own, in the autograd graph: for losses.

A :class:`attrscore.core.passes.Pass` detaches what it records and freezes the model; here nothing
is detached, so that what is scored can be differentiated in the model's parameters.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from attrscore.core.contracts import Batch, Method, Partial, Target
from attrscore.core.grids import Grids
from attrscore.core.heat import Heat, HeatOptions
from attrscore.core.layers import Layers, listed, no_grid, runs_twice, select_layers
from attrscore.core.layouts import hidden_state, replace_hidden_state
from attrscore.core.model import as_found, call, check_output, unwrap, wide
from attrscore.core.passes import Pass
from attrscore.core.registry import METHODS
from attrscore.errors import AttrscoreWarning, LayerError, UnsupportedError
from attrscore.targets import target_of

__all__ = ["Live", "LivePass", "outside", "watch"]

UNDEFINED = 0.05
"""A warning is due where a larger share of cells has no score."""


def outside(
    model: nn.Module,
    batch: Batch,
    /,
    *,
    method: str | Method = "hires_cam",
    layers: str | Sequence[str] = "last_conv",
    target: str | Target = "predicted",
    heat: HeatOptions | None = None,
) -> Tensor:
    """The share of attribution outside the cells, 1 - Grad-CAMO: a loss for any training loop.

    A scalar, differentiable in the model's parameters: the mean over cells and layers. It equals
    1 - the mean of ``grad_camo`` by :func:`attrscore.evaluate` where the model is in eval mode;
    here its mode is left alone. Costs a forward pass, which :func:`watch` saves. Cells without a
    score (a blank map, an empty or a full mask) are left out, with a warning where they are more
    than 5 % of the batch; a batch without any score gives 0.

    The loss is unsafe alone: a model with a wide receptive field can carry what it reads outside
    into the cell's positions of the layer, and then scores 1 without looking at the cell; and the
    logit of one class, the default target as everywhere, leaves the shortcut to those of the
    others: train with ``target=Label(scalar="margin")`` of :mod:`attrscore.targets`. Judge it by
    swaps and by data on which the confounder is reversed. After the energy loss of Rao, Böhle,
    Parchami-Araghi, Schiele, ICCV 2023.

    :raises UnsupportedError: a method without a derivative, such as ``eigen_grad_cam``.

    >>> from attrscore.testing.samples import cells, net
    >>> model = net()
    >>> loss = outside(model, cells(), layers="low")
    >>> loss.backward()
    >>> bool(next(model.parameters()).grad.isfinite().all())
    True
    """
    with watch(model, layers) as live:
        logits = check_output(call(model, batch.inputs, *batch.others), len(batch))
    return live.of(logits, batch, target=target).outside(method, heat=heat)


@contextmanager
def watch(model: nn.Module, layers: str | Sequence[str] = "last_conv", /) -> Iterator[Live]:
    """Keep what ``layers`` put out in the forward passes inside ``with``, in the graph.

    ``layers`` are names, globs, rules or relative depths, as everywhere; they are found by a
    forward pass of one crop in eval mode, once a model and shape. Then
    ``live.of(logits, batch).outside()`` is the loss of the last pass, free but for one backward
    pass down to the layer; at the last convolution that is next to nothing.

    >>> from attrscore.testing.samples import cells, net
    >>> model, batch = net(), cells()
    >>> with watch(model, "low") as live:
    ...     logits = model(batch.inputs)
    >>> bool(live.of(logits, batch).outside() == outside(model, batch, layers="low"))
    True
    """
    live = Live(unwrap(model), layers)
    try:
        yield live
    finally:
        live.remove()


_CHOSEN: weakref.WeakKeyDictionary[nn.Module, dict[Any, Layers]] = weakref.WeakKeyDictionary()
"""Model -> layers by what was asked for and the shape of a crop."""


class Live:
    """What layers put out in the last forward pass of a model; see :func:`watch`."""

    def __init__(self, model: nn.Module, layers: str | Sequence[str], /) -> None:
        self._model = model
        self._wanted = listed(layers)
        self._found: Layers | None = None
        self._kept: dict[str, Tensor] = {}
        self._first = model.register_forward_pre_hook(self._begin)
        self._hooks: list[Any] = []

    def remove(self) -> None:
        """Watch no longer; what was kept stays."""
        for handle in (self._first, *self._hooks):
            handle.remove()

    def of(
        self, logits: Tensor, batch: Batch, /, *, target: str | Target = "predicted"
    ) -> LivePass:
        """The last forward pass, explained towards ``target``: its logits (N, K) and its batch.

        :raises UnsupportedError: there was none inside ``with``, or none that can be
            differentiated.
        """
        if self._found is None:
            raise UnsupportedError(
                "No forward pass was watched; call the model inside 'with watch(model) as live:', "
                "and live.of(logits, batch) with what it returned."
            )
        never = [name for name in self._found if name not in self._kept]
        if never:
            raise LayerError(f"Layer {never[0]!r} did not run in the last forward pass.")
        if not logits.requires_grad:
            raise UnsupportedError(
                "The logits are not in the autograd graph, so there is nothing to differentiate; "
                "call the model outside of torch.no_grad() and torch.inference_mode()."
            )
        known = dict(self._kept)
        return LivePass(self._model, logits, batch, target_of(target), self._found, known)

    def _begin(self, _model: nn.Module, args: tuple[Any, ...]) -> None:
        self._kept = {}
        if self._found is not None:
            return
        if not args or not all(isinstance(each, Tensor) for each in args):
            raise UnsupportedError(
                "A watched model must be called with tensors by position: model(inputs)."
            )
        key = (self._wanted, tuple(args[0].shape[1:]))
        known = _CHOSEN.setdefault(self._model, {})
        own = dict(self._model.named_modules())
        if key not in known or any(own.get(n) is not each for n, each in known[key].items()):
            self._first.remove()  # or it would see the pass below
            with as_found(self._model), torch.no_grad():
                crop = [each[:1].detach() for each in args]
                known[key] = select_layers(self._model, self._wanted, *crop)
            self._first = self._model.register_forward_pre_hook(self._begin)
        self._found = known[key]
        self._hooks = [
            module.register_forward_hook(self._keep(name)) for name, module in self._found.items()
        ]

    def _keep(self, name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(_module: nn.Module, args: Any, output: Any) -> Any:
            if name in self._kept:
                raise LayerError(runs_twice(name, 2))
            hidden = hidden_state(output)
            if hidden is None:
                raise LayerError(no_grid(name, None, args[0].ndim - 2))
            if torch.is_grad_enabled() and not hidden.requires_grad:  # all below it is frozen
                hidden = hidden.detach().requires_grad_()
            self._kept[name] = hidden
            # A copy, for what comes next may change it in place.
            return replace_hidden_state(output, hidden.clone())

        return hook


class LivePass:
    """One forward pass of a model in training, explained: what a guide's ``penalty`` gets.

    As a :class:`attrscore.core.passes.Pass`, but in the autograd graph: ``output`` (N, K),
    ``activations`` and ``gradients`` (layer -> (N, C, *s)) of the ``layers``, and
    ``input_gradient`` where the inputs of the batch require gradients.
    """

    def __init__(
        self,
        model: nn.Module,
        output: Tensor,
        batch: Batch,
        target: Target,
        layers: Layers,
        recorded: Mapping[str, Tensor],
    ) -> None:
        self.model, self.output, self.batch = model, output, batch
        self.target, self.layers = target, layers
        self._recorded = recorded

    @cached_property
    def aux(self) -> Tensor:
        """What the target fixes, (N, ...)."""
        return self.target.prepare(self.output.detach(), self.batch)

    @cached_property
    def activations(self) -> Mapping[str, Tensor]:
        """Layer -> its output (N, C, *s)."""
        return {name: self._on_grid(name, each) for name, each in self._recorded.items()}

    @cached_property
    def gradients(self) -> Mapping[str, Tensor]:
        """Layer -> gradient of the explained scalar with respect to it, (N, C, *s)."""
        found = self._derived(self.target(self.output, self.aux), list(self._recorded.values()))
        return {
            name: self._on_grid(name, each)
            for name, each in zip(self._recorded, found, strict=True)
        }

    def input_gradient(self, scalar: Tensor, /) -> Tensor:
        """Gradient of a scalar (N,) of the output with respect to the inputs, (N, C, *S)."""
        return self._derived(scalar, [self.batch.inputs])[0]

    def shares_outside(
        self, method: str | Method = "hires_cam", /, *, heat: HeatOptions | None = None
    ) -> Tensor:
        """1 - Grad-CAMO of each cell and layer, (layers, N) float64; NaN where it has no score."""
        chosen = METHODS.build(method) if isinstance(method, str) else method
        maps = self._maps(cast("Method", chosen))
        cell, space = self.batch.regions["cell"], self.batch.space
        options = heat or HeatOptions()
        grids = Grids(space, options.resize)
        rows = []
        for signed in maps.values():
            each = Heat(signed, space, options, grids=grids)
            undefined = each.undefined(cell)
            total = each.mass()
            # 0 / 0 is replaced before the division: behind it, its derivative would be NaN.
            share = each.mass(cell) / torch.where(undefined, 1.0, total)
            rows.append(torch.where(undefined, torch.nan, 1 - share))
        return torch.stack(rows)

    def outside(
        self, method: str | Method = "hires_cam", /, *, heat: HeatOptions | None = None
    ) -> Tensor:
        """The loss of :func:`outside` for this pass: a scalar."""
        shares = self.shares_outside(method, heat=heat)
        undefined = shares.isnan()
        lost, total = int(undefined.sum()), undefined.numel()
        if lost > UNDEFINED * total:
            warnings.warn(
                f"{lost} of {total} cells have no score (a blank map, or an empty or full mask) "
                "and are left out of the loss; a lower weight, or some training without the loss "
                "first, lets maps appear.",
                AttrscoreWarning,
                stacklevel=2,
            )
        return mean_of_defined(shares)

    def _maps(self, method: Method) -> Mapping[str, Tensor]:
        behind = type(method)
        plain = getattr(method, "needs_model", True) is False
        if not plain or not getattr(behind, "differentiable", True):
            raise UnsupportedError(
                f"{METHODS.name_of(method)} cannot be a loss: it has no derivative from "
                "activations and gradients alone. Use hires_cam, grad_cam, layer_cam, xgrad_cam or "
                "grad_cam_plus_plus."
            )
        if not self._recorded:
            raise LayerError("No layer is watched: watch(model, 'last_conv').")
        maps = method(cast("Pass", self))
        for why in maps.refused.values() if isinstance(maps, Partial) else ():
            raise UnsupportedError(why)
        return maps

    def _derived(self, scalar: Tensor, sources: Sequence[Tensor]) -> list[Tensor]:
        with torch.enable_grad():
            found = torch.autograd.grad(scalar.sum(), sources, create_graph=True, allow_unused=True)
        if any(each is None for each in found):
            raise UnsupportedError(
                "The score does not depend on one of the watched layers; choose another."
            )
        return list(found)

    def _on_grid(self, name: str, values: Tensor) -> Tensor:
        layout = self.layers.infos[name].layout
        return wide(values if layout is None else layout.to_grid(values))


def mean_of_defined(values: Tensor, /) -> Tensor:
    """The mean of what is no NaN, and 0 where nothing is; its derivative has no NaN either."""
    known = ~values.isnan()
    return torch.where(known, values, 0.0).sum() / known.sum().clamp(min=1)
