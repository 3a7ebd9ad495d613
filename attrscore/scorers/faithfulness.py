"""Whether the model needs what the map says it needs: pixels change in the order of heat.

Responses are probabilities of the explained class; for a scalar of an embedding, the scalar over
its absolute value on the clean cell. NaN for maps without positive mass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from attrscore.core.contracts import Reasoned
from attrscore.core.heat import Heat
from attrscore.core.passes import Pass, generator_of
from attrscore.core.readings import Declared
from attrscore.core.registry import SCORERS
from attrscore.errors import ConfigError
from attrscore.scorers._response import (
    Fill,
    Filling,
    blank,
    clean_response,
    respond,
    why_undefined,
)

__all__ = [
    "ROAD",
    "AverageDrop",
    "Curve",
    "Deletion",
    "Insertion",
    "area_under",
    "impute",
    "ranks",
    "relative_drop",
]


def ranks(heat: Tensor, /, *, ids: tuple[str, ...], seed: int) -> Tensor:
    """The rank of every voxel in the order of heat, hottest 0: (N, *S) -> (N, V) int64.

    Ties, such as all that is cold, stand in an order drawn from ``seed`` and the cell's id: an
    order by position would favour a side of the crop.

    >>> ranks(torch.tensor([[0.1, 3.0, 2.0]]), ids=("a",), seed=0)
    tensor([[2, 0, 1]])
    """
    flat = heat.flatten(1)
    voxels = flat.shape[1]
    shuffled = torch.stack(
        [torch.randperm(voxels, generator=generator_of(seed, "ties", cell)) for cell in ids]
    ).to(flat.device)
    order = flat.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
    order = shuffled.gather(1, order)
    return torch.empty_like(order).scatter_(
        1, order, torch.arange(voxels, device=flat.device).expand_as(order)
    )


def area_under(curve: Tensor, /) -> Tensor:
    """Area under responses at equal steps from 0 to 1, by the trapezoid rule: (N, T + 1) -> (N,).

    >>> area_under(torch.tensor([[1.0, 0.5, 0.0], [1.0, 0.0, 0.0]]))
    tensor([0.5000, 0.2500])
    """
    return torch.trapezoid(curve, dx=1 / (curve.shape[1] - 1), dim=1)


@dataclass(frozen=True)
class Curve(Filling):
    """The area under the response while voxels change in the order of heat, hottest first."""

    fill: Fill = "blur"
    """What stands in place of what is taken away."""
    steps: int = 20
    """Forwards a cell and map, and one more."""
    takes_away: ClassVar[bool]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ConfigError(f"steps={self.steps} must be at least 1.")

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """``score``, (N,) float64."""
        inputs = run.batch.inputs
        filled = self.filled(run)
        rank = ranks(heat.full(), ids=tuple(run.batch.ids), seed=self.seed)
        voxels = rank.shape[1]

        def alter(rows: Tensor, numbers: Tensor) -> Tensor:
            changed = (numbers * voxels / self.steps).round().long()
            first = (rank[rows] < changed[:, None]).view(-1, 1, *run.batch.space)
            return torch.where(first ^ (not self.takes_away), filled[rows], inputs[rows])

        curve, _ = respond(run, self.steps + 1, alter, chunk=self.chunk)
        area = area_under(curve)
        return Reasoned(
            {"score": area.masked_fill(blank(heat), torch.nan)},
            why_undefined(run, fill=self.fill, seed=self.seed),
        )


@SCORERS.register("deletion")
@dataclass(frozen=True)
class Deletion(Curve):
    """Deletion: area under the response, hottest voxels taken away first; low is faithful.

    From 0 to all voxels in ``steps`` equal steps, by the trapezoid rule; what is taken away is
    filled as ``fill`` says. Costs ``steps`` + 1 forwards a cell and map. Petsiuk, Das, Saenko, BMVC
    2018 (there filled with one constant, a step at least a row).

    >>> import attrscore
    >>> from attrscore.testing.samples import cells, net
    >>> (result,) = attrscore.run(net(), cells(), scorers=Deletion(steps=5), layers="high")
    >>> result.columns["deletion"].round(3)
    array([0.417, 0.418, 0.418, 0.417])
    """

    readings: ClassVar[Declared] = {"score": {"better": "lower", "chance": None}}

    takes_away = True


@SCORERS.register("insertion")
@dataclass(frozen=True)
class Insertion(Curve):
    """Insertion: area under the response, hottest voxels shown first; high is faithful.

    Begins with an image that is all ``fill`` and ends with the cell, in ``steps`` equal steps, by
    the trapezoid rule. Costs ``steps`` + 1 forwards a cell and map. Petsiuk, Das, Saenko, BMVC 2018
    (there from a blurred image).
    """

    readings: ClassVar[Declared] = {"score": {"better": "higher", "chance": None}}

    takes_away = False


def relative_drop(clean: Tensor, shown: Tensor, /) -> Tensor:
    """What is lost of a response, max(0, clean - shown) / |clean|: (N,), NaN where clean is 0.

    >>> relative_drop(torch.tensor([0.8, 0.8, 0.0]), torch.tensor([0.6, 0.9, 0.0]))
    tensor([0.2500, 0.0000,    nan])
    """
    return (clean - shown).clamp(min=0) / clean.abs()


@SCORERS.register("average_drop")
@dataclass(frozen=True)
class AverageDrop(Filling):
    """How much of the response is lost when only what is hot is shown; low is faithful.

    The cell is multiplied by the resized map over its maximum, and the ``fill`` by the rest.
    ``score`` is max(0, clean - shown) / clean within [0, 1], the term of the paper's mean in
    percent; ``increase`` is 1 where the response rises, else 0. Costs a forward a cell and map.
    Chattopadhay, Sarkar, Howlader, Balasubramanian, WACV 2018.
    """

    readings: ClassVar[Declared] = {
        "score": {"better": "lower", "range": (0, 1), "chance": None},
        "increase": {"better": "higher", "range": (0, 1), "chance": None},
    }

    fill: Fill = "zero"
    """What stands in place of what is taken away."""

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """Column -> (N,) float64."""
        inputs = run.batch.inputs
        filled = self.filled(run)
        full = heat.full()[:, None]
        shown = (full / full.amax(tuple(range(1, full.ndim)), keepdim=True)).to(inputs)

        def alter(rows: Tensor, numbers: Tensor) -> Tensor:  # noqa: ARG001  # one alteration
            return shown[rows] * inputs[rows] + (1 - shown[rows]) * filled[rows]

        responses, _ = respond(run, 1, alter, chunk=self.chunk)
        clean, masked = clean_response(run), responses[:, 0]
        columns = {
            "score": relative_drop(clean, masked),
            "increase": (masked > clean).double(),
        }
        return Reasoned(
            {name: each.masked_fill(blank(heat), torch.nan) for name, each in columns.items()},
            why_undefined(run, fill=self.fill, seed=self.seed),
        )


TOLERANCE = 1e-5
"""Relative residual of the linear system, far below the noise that is added."""

Array = NDArray[np.float64]


def impute(image: Array, removed: NDArray[np.bool_], /) -> Array:
    """Removed voxels from the linear system in which each is the mean of its neighbours.

    (C, *S) and (*S) bool -> (C, *S). Neighbours are the 8 or 26 around a voxel, with half the
    weight for each further axis along which they lie off (1/6 and 1/12 in 2D, as in the paper); at
    the border those that exist. An image of which nothing is left becomes its mean.

    >>> impute(np.array([[[0.0, 9.0, 2.0]]]), np.array([[False, True, False]]))
    array([[[0., 1., 2.]]])
    """
    if not removed.any():
        return image
    if removed.all():
        mean: Array = image.mean(tuple(range(1, image.ndim)), keepdims=True)
        return np.broadcast_to(mean, image.shape).copy()
    total = _neighbours(np.ones((1, *removed.shape)))[0, removed]
    known = np.where(removed, 0.0, image)
    grid = np.zeros_like(known)

    def system(values: Array) -> Array:
        grid[:, removed] = values.reshape(len(image), -1)
        rows: Array = total * grid[:, removed] - _neighbours(grid)[:, removed]
        return rows.ravel()

    count = len(image) * len(total)
    # Symmetric and positive definite, since every hole has an edge; so conjugate gradients, which
    # need no matrix of 26 entries a voxel.
    solved, _ = cg(
        LinearOperator((count, count), matvec=system, dtype=np.float64),
        _neighbours(known)[:, removed].ravel(),
        x0=np.repeat(image[:, ~removed].mean(1), len(total)),
        rtol=TOLERANCE,
    )
    known[:, removed] = solved.reshape(len(image), -1)
    return known


def _neighbours(values: Array) -> Array:
    """The weighted sum over the neighbours of every voxel, (C, *S), nothing beyond the border."""
    around: Any = values
    for axis in range(1, values.ndim):
        around = ndimage.convolve1d(around, [0.5, 1.0, 0.5], axis=axis, mode="constant")
    return around - values  # type: ignore[no-any-return]  # scipy is untyped


@SCORERS.register("road")
@dataclass(frozen=True)
class ROAD:
    """ROAD: how much more is kept without the coldest voxels than without the hottest.

    ``most``, ``least``: the probability of the explained class, averaged
    over ``fractions`` of the voxels taken away, hottest or coldest first; ``score`` is (least -
    most) / 2, above 0 where the order says something, high is faithful. What is taken away becomes
    the mean of its neighbours (:func:`impute`) with normal noise of the standard deviation
    ``noise``, in the units of the inputs, so that the shape of the hole says little to the model.
    NaN for maps without positive mass, and inputs that are not finite.

    Costs 2 x fractions forwards a cell and map, and as many linear systems of the size of the crop,
    solved on the CPU. Rong, Leemann, Borisov, Kasneci, Kasneci, ICML 2022; the combination of both
    orders as in pytorch-grad-cam.
    """

    readings: ClassVar[Declared] = {
        "score": {"better": "higher", "chance": 0},
        "most": {"better": "lower", "chance": None},
        "least": {"better": "higher", "chance": None},
    }

    fractions: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    """Of the voxels taken away; 2 forwards each."""
    noise: float = 0.01
    """Standard deviation, in units of the inputs."""
    chunk: int = 64
    """Most crops in memory at once."""
    seed: int = 0
    """Of what is drawn; a cell's draws follow from it and the id alone."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "fractions", tuple(self.fractions))
        if not self.fractions or not all(0 < each < 1 for each in self.fractions):
            raise ConfigError(f"fractions={list(self.fractions)} must lie between 0 and 1.")
        if self.noise < 0:
            raise ConfigError(f"noise={self.noise} must be at least 0.")

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """Column -> (N,) float64."""
        undefined = blank(heat) | ~run.batch.inputs.flatten(1).isfinite().all(1)
        rank = ranks(heat.full(), ids=tuple(run.batch.ids), seed=self.seed)
        voxels, count = rank.shape[1], len(self.fractions)

        def one(row: int, number: int) -> Tensor:
            image = run.batch.inputs[row]
            if undefined[row]:
                return image
            amount = round(self.fractions[number % count] * voxels)
            removed = rank[row] < amount if number < count else rank[row] >= voxels - amount
            removed = removed.view(run.batch.space)
            filled = torch.from_numpy(
                impute(image.double().cpu().numpy(), removed.cpu().numpy())
            ).to(image)
            drawn = generator_of(self.seed, f"road/{number}", run.batch.ids[row])
            noise = self.noise * torch.randn(image.shape, generator=drawn).to(image)
            return torch.where(removed, filled + noise, image)

        def alter(rows: Tensor, numbers: Tensor) -> Tensor:
            pairs = zip(rows.tolist(), numbers.tolist(), strict=True)
            return torch.stack([one(row, number) for row, number in pairs])

        responses, _ = respond(run, 2 * count, alter, chunk=self.chunk)
        most, least = (each.mean(1) for each in torch.split(responses, count, 1))
        columns = {"score": (least - most) / 2, "most": most, "least": least}
        return Reasoned(
            {name: each.masked_fill(undefined, torch.nan) for name, each in columns.items()},
            why_undefined(run),
        )
