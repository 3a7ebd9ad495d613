"""Heat: what remains of a map when channels are joined and the sign is settled.

Its mass in a region is taken on the layer's own grid (see :mod:`attrscore.core.grids`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor

from attrscore.core.grids import Grids, Known, Resize, unresolvable
from attrscore.core.statuses import STATUSES, Status
from attrscore.errors import DataError, choose

Value = TypeVar("Value")

Channels = Literal["sum", "absolute", "max"]
Sign = Literal["positive", "absolute", "negative"]
MinMax = Literal["never", "each_map"]


@dataclass(frozen=True)
class HeatOptions:
    """The steps from a signed map to a score that papers leave open; all are in the results."""

    channels: Channels = "sum"
    """How the channels of a map are joined; absolute is the sum of absolutes."""
    sign: Sign = "positive"
    """Which values count, before resizing."""
    resize: Resize = "linear"
    """Corners are not aligned."""
    minmax: MinMax = "never"
    """Each map to [0, 1] on its own grid, as tools built on pytorch-grad-cam do; changes scores."""

    def __post_init__(self) -> None:
        choose(self.channels, ("sum", "absolute", "max"), option="channels")
        choose(self.sign, ("positive", "absolute", "negative"), option="sign")
        choose(self.resize, ("linear", "nearest"), option="resize")
        choose(self.minmax, ("never", "each_map"), option="minmax")

    def as_dict(self) -> dict[str, str]:
        """For provenance."""
        return asdict(self)


def join_channels(signed: Tensor, /, *, channels: Channels = "sum") -> Tensor:
    """(N, C, *s) -> (N, *s).

    >>> join_channels(torch.tensor([[[1.0, -2.0], [3.0, 1.0]]]), channels="absolute")
    tensor([[4., 3.]])
    """
    if signed.shape[1] == 1 and channels != "absolute":
        return signed[:, 0]
    if channels == "max":
        return signed.amax(1)
    return signed.abs().sum(1) if channels == "absolute" else signed.sum(1)


def take_sign(signed: Tensor, /, *, sign: Sign = "positive") -> Tensor:
    """Non-negative heat: the positive part, the negative part turned over, or the absolutes."""
    if sign == "absolute":
        return signed.abs()
    return (signed if sign == "positive" else -signed).clamp(min=0)


def stretch(native: Tensor, /) -> Tensor:
    """Each map (N, *s) to [0, 1]; a constant map becomes 0."""
    flat = native.flatten(1)
    low = flat.amin(1, keepdim=True)
    span = flat.amax(1, keepdim=True) - low
    return torch.where(span == 0, 0.0, (flat - low) / span).reshape(native.shape)


class Heat:
    """Non-negative heat of one method at one layer.

    ``native`` is (N, *s) on the layer's own grid, ``space`` is *S. ``signed`` is the map it was
    made from; ``method`` and ``layer`` made that, where the engine runs.
    """

    def __init__(
        self,
        signed: Tensor,
        space: tuple[int, ...],
        options: HeatOptions | None = None,
        *,
        grids: Grids | None = None,
        method: Callable[..., Any] | None = None,
        layer: str | None = None,
    ) -> None:
        """From a signed map (N, C, *s); ``grids`` shares the pulled-down regions of a batch."""
        self.options = options or HeatOptions()
        self.signed, self.method, self.layer = signed, method, layer
        self.space = tuple(space)
        if signed.ndim != len(space) + 2:
            raise DataError(
                f"A map must be (N, C, *s) with {len(space)} spatial axes, as the inputs; "
                f"given: {tuple(signed.shape)}."
            )
        if signed.dtype not in (torch.float32, torch.float64):
            signed = signed.float()  # half sums overflow at 65504, whole numbers cannot be resized
        joined = join_channels(signed, channels=self.options.channels)
        native = take_sign(joined, sign=self.options.sign)
        self.native = stretch(native) if self.options.minmax == "each_map" else native
        self.grids = grids or Grids(self.space, self.options.resize)
        self.grid = self.grids[tuple(self.native.shape[1:])]
        self._undefined: Known[Tensor] = Known()
        self._once: dict[Hashable, Any] = {}

    def __len__(self) -> int:
        return len(self.native)

    @functools.cached_property
    def _full(self) -> Tensor:
        return self.grid.push(self.native)

    def full(self) -> Tensor:
        """The heat at the size of the input, (N, *S); resized once."""
        return self._full

    @functools.cached_property
    def _native64(self) -> Tensor:
        return self.native.double()

    def once(self, key: Hashable, compute: Callable[[], Value], /) -> Value:
        """What ``compute`` returns, computed at most once for each ``key``.

        For what several scorers need of one heat; as :meth:`attrscore.core.passes.Pass.once`.
        """
        if key not in self._once:
            self._once[key] = compute()
        return cast("Value", self._once[key])

    @functools.cached_property
    def _total(self) -> Tensor:
        return self._weighted(self.grid.weights(self.native))

    def _weighted(self, weights: Tensor) -> Tensor:
        return (self._native64 * weights).flatten(1).sum(1)

    def mass(self, region: Tensor | None = None) -> Tensor:
        """Sum of the resized heat within a region (N, *S), or everywhere: (N,) float64."""
        return self._total if region is None else self._weighted(self.grid.pull(region))

    def area(self, region: Tensor) -> Tensor:
        """The share of the crop that ``region`` (N, *S) covers: (N,) float64."""
        return self.grids.area(region)

    def attainable(self, region: Tensor) -> tuple[Tensor, Tensor]:
        """Exact lowest and highest share of heat in ``region`` that this grid allows, (N,) each."""
        return self.grid.attainable(region)

    @property
    def finest(self) -> float:
        """The lowest density of heat that this map resolves: 1 / its number of positions.

        Of the layer's grid, or of the crop where that is coarser. A density is a share of the heat
        over a share of the crop, 1 by chance.
        """
        return 1 / min(math.prod(self.native.shape[1:]), math.prod(self.space))

    def status(self, region: Tensor) -> list[Status]:
        """Why the share of heat in ``region`` is a number or is not, one a sample.

        The first that applies of ``nonfinite``, ``empty_region``, ``full_region``,
        ``no_positive_mass``, ``unresolvable`` (the grid cannot score above chance) and ``ok``.
        """
        area = self.area(region)
        _, highest = self.attainable(region)
        codes = torch.full((len(self),), STATUSES.index("ok"), device=self.native.device)
        for status, where in (  # the later overrides the earlier
            ("unresolvable", unresolvable(highest, area)),
            ("no_positive_mass", self.mass() == 0),
            ("full_region", area >= 1),
            ("empty_region", area <= 0),
            ("nonfinite", ~self._finite),
        ):
            codes[where] = STATUSES.index(status)
        return [STATUSES[code] for code in codes.tolist()]

    def undefined(self, region: Tensor | None = None) -> Tensor:
        """Whether a share of this heat is no number, (N,) bool: in ``region``, or in any at all.

        That is, whether :meth:`status` is neither ``ok`` nor ``unresolvable``; without a region,
        whether the heat has no mass or is not finite.
        """
        if region is None:
            return self._void
        return self._undefined.get(
            region, lambda known: self._void | (self.area(known) <= 0) | (self.area(known) >= 1)
        )

    @functools.cached_property
    def _void(self) -> Tensor:
        return (self.mass() == 0) | ~self._finite

    @functools.cached_property
    def _finite(self) -> Tensor:
        return self.native.isfinite().flatten(1).all(1)
