"""The contracts of methods and scorers, which see a pass; the others are in ``contracts``.

Shapes are those of the legend in :mod:`attrscore.core.contracts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from attrscore.core.contracts import Maps
    from attrscore.core.heat import Heat
    from attrscore.core.passes import Pass

__all__ = ["Method", "Scorer"]


@runtime_checkable
class Method(Protocol):
    """An attribution method: one pass in, signed maps out.

    A method whose maps live on the input says so with an attribute ``explains = "input"``; without
    it, the maps must be keyed by the layers of the pass. ``needs_input_gradient = True`` lets the
    shared backward pass go on to the input, and ``needs_graph = True`` keeps its forward graph.
    ``needs_model = False`` says that it never runs the model itself, nor draws at random, so
    that nothing has to be put back after it. A method ``check(run)``, where there is one, says at
    little cost whether it can explain a model: it raises
    :class:`attrscore.errors.UnsupportedError` with the reason if not.
    """

    def __call__(self, run: Pass, /) -> Maps:
        """Layer (or INPUT) -> signed map (N, C, *s)."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """Heat and pass in, numbers out: (N,) each, NaN where undefined.

    A mapping gives several columns, ``<scorer>.<key>``; the key ``score`` becomes ``<scorer>``, and
    :class:`attrscore.core.contracts.Reasoned` says why a value is NaN. One that takes other cells
    (``run.need_pool()``), as a method may too, says so with an attribute ``needs_pool = True``;
    what does not depend on the map is computed by ``run.once``.
    """

    def __call__(self, heat: Heat, run: Pass, /) -> Tensor | Mapping[str, Tensor]:
        """(N,), or column -> (N,)."""
        ...
