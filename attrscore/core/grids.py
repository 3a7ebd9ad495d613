"""The grids of layers, to which regions are pulled down, and from which maps are resized.

Resizing to the input, U, is linear, so the mass of the resized heat in a region M is
sum(M * U a) = sum((U^T M) * a): the region is pulled down once to the layer's grid and every
map on that grid is scored there, without a full-size map. The same pulled-down region gives the
exact interval of scores that the grid allows.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable
from typing import Generic, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from attrscore.core.contracts import Batch
from attrscore.errors import DataError

Value = TypeVar("Value")

Resize = Literal["linear", "nearest"]

RESOLVABLE = 1.01
"""A grid resolves a region where some map on it scores at least this many times chance."""


def area_fraction(region: Tensor, /) -> Tensor:
    """The share f of the crop that a region covers: (N, *S) -> (N,) float64."""
    return region.flatten(1).mean(1, dtype=torch.float64)


def unresolvable(highest: Tensor, area: Tensor, /) -> Tensor:
    """Whether no map on a grid can score more than about chance: (N,), (N,) -> (N,) bool.

    ``highest`` is the attainable score and ``area`` the area fraction of the region. Scores there
    say nothing about the model.
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


@functools.lru_cache(maxsize=256)
def _whole_steps(long: int, short: int, resize: Resize) -> float:
    """The largest sum that a position of one axis of U^T can take, in steps that divide all sums.

    Steps of a power of 2, so that floating-point numbers hold them; infinite where there are none.
    """
    matrix = _axis_matrix(long, short, resize, torch.float64, torch.device("cpu"))
    if matrix is None:
        return 1.0
    for bits in range(12):
        scaled = matrix * 2**bits
        if torch.equal(scaled, scaled.round()):
            return float(scaled.sum(0).max())
    return math.inf


class Known(Generic[Value]):
    """What was computed from a region, once for each.

    The region itself is kept beside it, so that its id() stays its own.
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Tensor, Value]] = {}

    def get(self, region: Tensor, compute: Callable[[Tensor], Value]) -> Value:
        """What ``compute`` made of this region."""
        kept = self._kept.get(id(region))
        if kept is None:
            kept = self._kept[id(region)] = (region, compute(region))
        return kept[1]


class Grid:
    """The linear map U from a layer's grid *s to the input's *S, and its adjoint."""

    def __init__(
        self,
        space: tuple[int, ...],
        native: tuple[int, ...],
        resize: Resize,
        /,
        numbers: Callable[[Tensor], Tensor] = Tensor.double,
    ) -> None:
        """``numbers`` makes floating-point numbers of a region; the grids of a batch share them."""
        if len(space) != len(native):
            raise DataError(
                f"A map on the grid {native} does not fit inputs of {len(space)} axes {space}."
            )
        self.space, self.native, self.resize = space, native, resize
        self._numbers = numbers
        self._pulled: Known[Tensor] = Known()
        self._attainable: Known[tuple[Tensor, Tensor]] = Known()

    def pull(self, region: Tensor, /) -> Tensor:
        """U^T M, (N, *S) -> (N, *s) float64; computed once for each region.

        The region itself where the grid is the input's.
        """
        if self.space == self.native:
            return region
        return self._pulled.get(region, self._adjoint)

    def weights(self, like: Tensor, /) -> Tensor:
        """U^T 1, (1, *s): how many voxels each position of the grid stands for."""
        return _weights(self.space, self.native, self.resize, like.device)

    def attainable(self, region: Tensor, /) -> tuple[Tensor, Tensor]:
        """Lowest and highest score of any non-negative map on this grid, (N,) float64 each.

        They are the extremes of m_k = (U^T M)_k / (U^T 1)_k; a map that is hot at one position
        of the grid reaches them. Computed once for each region.
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
        pulled = self._numbers(region)
        # Sums of whole steps below 2^24 are exact in float32, in any order, at half the price.
        largest = 1.0
        for axis, (long, short) in enumerate(zip(self.space, self.native, strict=True), start=1):
            largest *= _whole_steps(long, short, self.resize)
            if largest > 2**24:
                pulled = pulled.double()
            matrix = _axis_matrix(long, short, self.resize, pulled.dtype, region.device)
            if matrix is not None:
                pulled = _along(axis, matrix.T, pulled)
        return pulled.double()

    def _extremes(self, region: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.weights(region)
        seen = weights > 0  # shrinking by nearest leaves positions that no voxel reads
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


@functools.lru_cache(maxsize=64)
def _weights(
    space: tuple[int, ...], native: tuple[int, ...], resize: Resize, device: torch.device
) -> Tensor:
    found = torch.ones((), dtype=torch.float64, device=device)
    for long, short in zip(space, native, strict=True):
        matrix = _axis_matrix(long, short, resize, torch.float64, device)
        axis = found.new_ones(long) if matrix is None else matrix.sum(0)
        found = found[..., None] * axis
    return found[None]


def _short(region: Tensor) -> Tensor:
    return region.view(torch.uint8).float()  # a quarter of the time that it takes from bool


class Grids:
    """The grids of one batch: regions are pulled down once for each, whatever is scored on it."""

    def __init__(self, space: tuple[int, ...], resize: Resize, /) -> None:
        self.space, self.resize = space, resize
        self._grids: dict[tuple[int, ...], Grid] = {}
        self._areas: Known[Tensor] = Known()
        self._numbers: Known[Tensor] = Known()

    def area(self, region: Tensor, /) -> Tensor:
        """The share of the crop that a region covers, (N,); computed once for each region."""
        return self._areas.get(region, area_fraction)

    def __getitem__(self, native: tuple[int, ...]) -> Grid:
        if native not in self._grids:
            self._grids[native] = Grid(self.space, native, self.resize, self.numbers)
        return self._grids[native]

    def numbers(self, region: Tensor, /) -> Tensor:
        """A region as numbers to be summed: float32 for what is true or false, float64 otherwise.

        Also where torch is allowed to multiply float32 with fewer digits than it has.
        """
        exact = region.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
        short = region.dtype == torch.bool and exact
        return self._numbers.get(region, _short if short else Tensor.double)


_GRIDS: weakref.WeakKeyDictionary[Batch, dict[Resize, Grids]] = weakref.WeakKeyDictionary()


def grids_of(batch: Batch, resize: Resize = "linear", /) -> Grids:
    """The grids of ``batch``: one object as long as it lives, for every model and target."""
    known = _GRIDS.setdefault(batch, {})
    if resize not in known:
        known[resize] = Grids(batch.space, resize)
    return known[resize]
