"""How a phantom is drawn: ellipsoids in a crop, textures of two kinds, stains and camera noise.

Lengths are in half crops: every axis of *S runs from -1 to 1, so one code serves 2D and 3D.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import scipy.fft

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["STAINS", "Cells", "Scene", "paint", "place"]

STAINS = ("DNA", "ER", "AGP", "RNA", "Mito")

PUNCTA, PATCHES = 0, 1

_AMOUNT = {"ER": (0.6, 1.0), "AGP": (1.0, 0.35), "RNA": (0.6, 1.0), "Mito": (1.0, 0.35)}
"""Of an organelle's stain, in the cell and in its neighbours. They are two types of cell, so that a
small network, which sees no further than a few pixels, can tell whose texture it looks at."""

_CANDIDATES = 12
_VISIBLE = 0.06
"""A neighbour's part of the crop that is enough to see its texture."""


@dataclass(frozen=True)
class Cells:
    """Where things are, on the grid *S. Regions never overlap: the cell wins."""

    cell: NDArray[np.bool_]
    nucleus: NDArray[np.bool_]
    neighbours: NDArray[np.int8]
    """0 outside, then a number a neighbour."""
    nuclei: NDArray[np.bool_]
    """Those of the neighbours."""
    depth: NDArray[np.float32]
    """1 at the centre of each cell, 0 at its edge and outside."""


@dataclass(frozen=True)
class Scene:
    """The attributes of one crop: 0 is puncta (or dim), 1 is patches (or bright)."""

    cell: int
    neighbours: int
    background: int
    intensity: int


def place(
    cell_draw: np.random.Generator,
    neighbour_draw: np.random.Generator,
    /,
    *,
    size: tuple[int, ...],
    area: tuple[float, float],
    offset: float,
    neighbours: int,
) -> Cells:
    """One cell near the centre and ``neighbours`` others around it, each visible in the crop."""
    ndim = len(size)
    centre = 2 * offset * cell_draw.uniform(-1, 1, ndim)
    radius = _radius(cell_draw.uniform(*area), ndim)
    level, nuclear = _cell(cell_draw, centre, radius, size)
    cell = level < 1
    nucleus = cell & (nuclear < 1)
    depth = np.where(cell, 1 - level, 0)
    others = np.zeros(size, np.int8)
    nuclei = np.zeros(size, bool)
    turn = neighbour_draw.uniform(0, 2 * math.pi)
    for number in range(1, neighbours + 1):
        # evenly around the cell, so that three of them fit; cells of a culture lie in one layer
        angle = turn + 2 * math.pi * number / neighbours
        free = ~cell & (others == 0)
        best: tuple[int, NDArray[np.float32], NDArray[np.float32]] | None = None
        for _ in range(_CANDIDATES):
            other = _radius(neighbour_draw.uniform(*area), ndim)
            around = angle + neighbour_draw.uniform(-0.5, 0.5)
            where = centre.copy()
            where[:-2] += 0.2 * neighbour_draw.uniform(-1, 1, ndim - 2)
            where[-2:] += (radius + 1.05 * other) * np.array([math.sin(around), math.cos(around)])
            level, nuclear = _cell(neighbour_draw, where.clip(-0.95, 0.95), other, size)
            seen = int((free & (level < 1)).sum())
            if best is None or seen > best[0]:
                best = seen, level, nuclear
            if seen >= _VISIBLE * level.size:
                break
        assert best is not None  # noqa: S101  # for the type checker: _CANDIDATES > 0
        _, level, nuclear = best
        body = free & (level < 1)
        others[body] = number
        nuclei |= body & (nuclear < 1)
        depth = np.where(body, 1 - level, depth)
    return Cells(cell, nucleus, others, nuclei, depth.astype(np.float32))


def paint(
    draw: np.random.Generator,
    cells: Cells,
    scene: Scene,
    /,
    *,
    stains: Sequence[str],
    noise: float,
) -> NDArray[np.float32]:
    """(C, *S) within [0, 1].

    Each texture is drawn over the whole crop and standardised within the place that shows it, so
    the kind of texture changes neither mean nor spread there, and no place tells of another.
    """
    size = cells.cell.shape
    neighbours = cells.neighbours > 0
    nuclei = cells.nucleus | cells.nuclei
    background = ~(cells.cell | neighbours)
    edge = 0.7 + 0.3 * np.minimum(cells.depth / 0.4, 1)
    gain = draw.uniform(0.95, 1.05, size=2)
    own = gain[0] * (1.12 if scene.intensity else 0.88)
    brightness = np.where(cells.cell, own, np.where(neighbours, gain[1], 1))
    image = np.empty((len(stains), *size), np.float32)
    for channel, stain in enumerate(stains):
        fields = _textures(draw, size)
        if stain == "DNA":
            smooth = _within(fields[PATCHES], nuclei)
            value = np.where(nuclei, 0.7 + 0.08 * smooth, np.where(background, 0.06, 0.14))
        else:
            value = 0.16 + 0.08 * _within(fields[scene.background], background)
            for body, texture, amount in zip(
                (cells.cell, neighbours),
                (scene.cell, scene.neighbours),
                _AMOUNT[stain],
                strict=True,
            ):
                cytoplasm = body & ~nuclei
                shown = amount * (0.5 + 0.25 * _within(fields[texture], cytoplasm)) * edge
                value = np.where(cytoplasm, shown, value)
            value = np.where(nuclei, 0.28, value)
        image[channel] = value * brightness
    image += noise * draw.standard_normal(image.shape, dtype=np.float32)
    return image.clip(0, 1, out=image)


def _radius(fraction: float, ndim: int) -> float:
    """Of the ball that fills this fraction of the cube [-1, 1]^ndim."""
    unit = math.pi ** (ndim / 2) / math.gamma(ndim / 2 + 1)
    return float((fraction * 2**ndim / unit) ** (1 / ndim))


def _cell(
    draw: np.random.Generator, centre: NDArray[np.float64], radius: float, size: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Levels of a cell and its nucleus: below 1 inside."""
    ndim = len(size)
    stretch = np.exp(draw.uniform(-0.18, 0.18, ndim))
    radii = radius * stretch / stretch.prod() ** (1 / ndim)
    turned, _ = np.linalg.qr(draw.standard_normal((ndim, ndim)))
    within = (turned / radii).T
    nuclear = within / draw.uniform(0.36, 0.46)
    inner = centre + 0.15 * radius * draw.uniform(-1, 1, ndim)
    grid = _grid(size)
    body, core = (
        np.square(matrix.astype(np.float32) @ (grid - where[:, None].astype(np.float32)))
        .sum(0)
        .reshape(size)
        for matrix, where in ((within, centre), (nuclear, inner))
    )
    return body, core


@lru_cache(maxsize=8)
def _grid(size: tuple[int, ...]) -> NDArray[np.float32]:
    axes = [(np.arange(n, dtype=np.float32) + 0.5) * 2 / n - 1 for n in size]
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")])


@lru_cache(maxsize=8)
def _bands(size: tuple[int, ...]) -> NDArray[np.float32]:
    """Transfer functions of puncta and patches: rings of frequencies, in cycles a crop."""
    axes = [np.fft.fftfreq(n) * n for n in size[:-1]] + [np.fft.rfftfreq(size[-1]) * size[-1]]
    cycles = np.sqrt(sum(np.square(axis) for axis in np.meshgrid(*axes, indexing="ij")))
    fine = min(18.0, max(size) / 3)
    rings = [np.exp(-0.5 * ((cycles / f - 1) / 0.25) ** 2) for f in (fine, 0.2 * fine)]
    return np.stack(rings).astype(np.float32)


def _textures(draw: np.random.Generator, size: tuple[int, ...]) -> NDArray[np.float32]:
    """Puncta, the peaks of a fine random field, and patches, a coarse one."""
    axes = tuple(range(1, len(size) + 1))
    white = draw.standard_normal((2, *size), dtype=np.float32)
    field = scipy.fft.irfftn(scipy.fft.rfftn(white, axes=axes) * _bands(size), s=size, axes=axes)
    field /= field.std(axis=axes, keepdims=True)
    field[PUNCTA] = np.maximum(field[PUNCTA], 0)
    field[PATCHES] = np.tanh(1.5 * field[PATCHES])
    return field  # type: ignore[no-any-return]  # scipy.fft is untyped


def _within(field: NDArray[np.float32], region: NDArray[np.bool_]) -> NDArray[np.float32]:
    """``field`` with mean 0 and spread 1 inside ``region``; 0 where there is too little of it."""
    values = field[region]
    spread = values.std() if values.size > 1 else 0.0
    if not spread > 0:
        return np.zeros_like(field)
    standard: NDArray[np.float32] = (field - values.mean()) / spread
    return standard
