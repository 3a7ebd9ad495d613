"""Heat: what remains of a map when channels are joined and the sign is settled.

Resizing to the input, U, is linear, so the mass of the resized heat in a region M is
sum(M * U a) = sum((U^T M) * a): the region is pulled down once to the layer's grid and every
map on that grid is scored there, without a full-size map. The same pulled-down region gives the
exact interval of scores that the grid allows.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from typing import Any, Generic, Literal, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from attrscore.core import STATUSES, Batch, Method, Status
from attrscore.errors import DataError, choose

__all__ = [
    "Grid",
    "Grids",
    "Heat",
    "HeatOptions",
    "area_fraction",
    "grids_of",
    "join_channels",
    "take_sign",
    "unresolvable",
]

Value = TypeVar("Value")

Channels = Literal["sum", "absolute", "max"]
Sign = Literal["positive", "absolute", "negative"]
Resize = Literal["linear", "nearest"]
MinMax = Literal["never", "each_map"]


RESOLVABLE = 1.01
"""A grid resolves a region where some map on it scores at least this many times chance."""


@dataclass(frozen=True)
class HeatOptions:
    """The steps between a signed map and a score that papers leave open, each with its default.

    ``channels`` joins the channels of a map: ``sum``, ``absolute`` (sum of absolutes) or ``max``.
    ``sign`` keeps the ``positive`` part, the ``negative`` part, or the ``absolute`` value, before
    resizing. ``resize`` is ``linear`` or ``nearest``, corners not aligned. ``minmax="each_map"``
    stretches each map to [0, 1] on its own grid, as tools built on pytorch-grad-cam do; it changes
    scores.
    """

    channels: Channels = "sum"
    sign: Sign = "positive"
    resize: Resize = "linear"
    minmax: MinMax = "never"

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


def area_fraction(region: Tensor, /) -> Tensor:
    """The share f of the crop that a region covers: (N, *S) -> (N,) float64."""
    return region.flatten(1).mean(1, dtype=torch.float64)


def unresolvable(highest: Tensor, area: Tensor, /) -> Tensor:
    """Whether no map on a grid can score more than about chance: (N,), (N,) -> (N,) bool.

    ``highest`` is the attainable score and ``area`` the area fraction of the region. Scores there
    say nothing about the network.
    """
    return highest < RESOLVABLE * area


@functools.lru_cache(maxsize=256)
def _axis_matrix(
    long: int, short: int, resize: Resize, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    """One axis of U, (long, short), or None where it is the identity.

    Taken from torch's own interpolation of the unit vectors, in float64.
    """
    if long == short:
        return None
    units = torch.eye(short, dtype=torch.float64)[None]
    matrix = F.interpolate(units, size=long, mode=resize)[0].T.contiguous()
    return matrix.to(device, dtype)


class _Known(Generic[Value]):
    """What was computed from a region, once for each.

    The region itself is kept beside it, so that its id() stays its own.
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Tensor, Value]] = {}

    def get(self, region: Tensor, compute: Callable[[Tensor], Value]) -> Value:
        kept = self._kept.get(id(region))
        if kept is None:
            kept = self._kept[id(region)] = (region, compute(region))
        return kept[1]


class Grid:
    """The linear map U from a layer's grid *s to the input's *S, and its adjoint."""

    def __init__(self, space: tuple[int, ...], native: tuple[int, ...], resize: Resize, /) -> None:
        if len(space) != len(native):
            raise DataError(
                f"A map on the grid {native} does not fit inputs of {len(space)} axes {space}."
            )
        self.space, self.native, self.resize = space, native, resize
        self._pulled: _Known[Tensor] = _Known()
        self._attainable: _Known[tuple[Tensor, Tensor]] = _Known()

    def pull(self, region: Tensor, /) -> Tensor:
        """U^T M, (N, *S) -> (N, *s) float64; computed once for each region.

        The region itself where the grid is the input's.
        """
        if self.space == self.native:
            return region
        return self._pulled.get(region, self._adjoint)

    def weights(self, like: Tensor, /) -> Tensor:
        """U^T 1, (1, *s): how many voxels each place of the grid stands for."""
        return self.pull(_ones(self.space, like.device))

    def attainable(self, region: Tensor, /) -> tuple[Tensor, Tensor]:
        """Lowest and highest score of any non-negative map on this grid, (N,) float64 each.

        They are the extremes of m_k = (U^T M)_k / (U^T 1)_k; a map that is hot at one place of the
        grid reaches them. Computed once for each region.
        """
        return self._attainable.get(region, self._extremes)

    def push(self, native: Tensor, /) -> Tensor:
        """U a: (N, *s) -> (N, *S), in the type of ``native``; NaN for a map that is not finite."""
        pushed = native
        for axis, (long, short) in enumerate(zip(self.space, self.native, strict=True), start=1):
            matrix = _axis_matrix(long, short, self.resize, native.dtype, native.device)
            if matrix is not None:
                pushed = _along(axis, matrix, pushed)
        return pushed

    def _adjoint(self, region: Tensor) -> Tensor:
        pulled = region.to(torch.float64)
        for axis, (long, short) in enumerate(zip(self.space, self.native, strict=True), start=1):
            matrix = _axis_matrix(long, short, self.resize, torch.float64, region.device)
            if matrix is not None:
                pulled = _along(axis, matrix.T, pulled)
        return pulled

    def _extremes(self, region: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.weights(region)
        seen = weights > 0  # shrinking by nearest leaves places that no voxel reads
        share = self.pull(region) / weights
        low = torch.where(seen, share, torch.inf).flatten(1).amin(1)
        high = torch.where(seen, share, -torch.inf).flatten(1).amax(1)
        return low, high


def _along(axis: int, matrix: Tensor, values: Tensor) -> Tensor:
    """``matrix`` (new, old) applied to one axis of ``values``.

    A product with a small matrix; several times faster than torch's interpolation.
    """
    before, after = values.shape[:axis], values.shape[axis + 1 :]
    # As the left factor it needs no transposed copy of the values.
    moved = matrix @ values.flatten(axis + 1) if after else values @ matrix.T
    return moved.reshape(*before, len(matrix), *after)


@functools.lru_cache(maxsize=16)
def _ones(space: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.ones((1, *space), dtype=torch.float64, device=device)


class Grids:
    """The grids of one batch: regions are pulled down once for each, whatever is scored on it."""

    def __init__(self, space: tuple[int, ...], resize: Resize, /) -> None:
        self.space, self.resize = space, resize
        self._grids: dict[tuple[int, ...], Grid] = {}
        self._areas: _Known[Tensor] = _Known()

    def area(self, region: Tensor, /) -> Tensor:
        """The share of the crop that a region covers, (N,); computed once for each region."""
        return self._areas.get(region, area_fraction)

    def __getitem__(self, native: tuple[int, ...]) -> Grid:
        if native not in self._grids:
            self._grids[native] = Grid(self.space, native, self.resize)
        return self._grids[native]


_GRIDS: weakref.WeakKeyDictionary[Batch, dict[Resize, Grids]] = weakref.WeakKeyDictionary()


def grids_of(batch: Batch, resize: Resize = "linear", /) -> Grids:
    """The grids of ``batch``: one object as long as it lives, for every model and target."""
    known = _GRIDS.setdefault(batch, {})
    if resize not in known:
        known[resize] = Grids(batch.space, resize)
    return known[resize]


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
        method: Method | None = None,
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
        self._undefined: _Known[Tensor] = _Known()
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

        For what several scorers need of one heat; as :meth:`attrscore.passes.Pass.once`.
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
