"""Phantom cells: seeded crops that look like Cell Painting, with labels whose carrier is known.

They are ellipsoids with textures of two kinds, stains and camera noise. Lengths are in half crops:
every axis of *S runs from -1 to 1, so one code serves 2D and 3D.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import scipy.fft
from numpy.typing import NDArray

from attrscore.core.contracts import Batch, InputSpec
from attrscore.core.registry import DATASETS
from attrscore.datasets._options import NothingLeftOut, as_tuple, require
from attrscore.datasets.batches import chosen, to_batch
from attrscore.errors import choose

__all__ = ["Carrier", "Confounder", "Phantom"]

Carrier = Literal["cell", "neighbours", "background", "intensity", "size", "chance", "mixture"]
Confounder = Literal["background", "neighbours", "intensity"]

GENERATOR = 1
"""Raised whenever the same options give other pixels, so that old results are not mistaken."""

STAINS = ("DNA", "ER", "AGP", "RNA", "Mito")

PUNCTA, PATCHES = 0, 1

_AMOUNT = {"ER": (0.6, 1.0), "AGP": (1.0, 0.35), "RNA": (0.6, 1.0), "Mito": (1.0, 0.35)}
"""Of an organelle's stain, in the cell and in its neighbours. They are two types of cell, so that a
small model, which sees no further than a few pixels, can know whose texture it looks at."""

_CANDIDATES = 12
_VISIBLE = 0.06
"""A neighbour's part of the crop that is enough to see its texture."""


@DATASETS.register("phantom")
@dataclass(frozen=True, kw_only=True)
class Phantom(NothingLeftOut):
    """Synthetic Cell Painting crops, 2D or 3D by ``size``; what carries the label is an option.

    Every crop has four binary attributes, independent and balanced: the organelle texture of the
    cell, that of its neighbours, the texture of the background (puncta or patches, of equal
    mean and spread), and the brightness of the cell. ``carrier`` says which of them is the
    label, so the same seed gives the same images under other labels; ``size`` alone gives others,
    whose cells are small or large, and nothing else shows the label. Of ``chance`` nothing does, as
    if labels had been permuted: what learns it, learns by heart. With ``mixture`` the label is
    the cell's texture and the attribute named by ``confounder`` agrees with it with probability
    ``strength``: 0.5 is independence, 1 a perfect confounder.

    Where neighbours carry the label or confound it, a crop that drew none gets one; all else of
    the crop stays as it was. Sizes are fractions of the crop, so a crop of 128 shows the same cells
    at twice the resolution; in 3D the axes are scaled alike, as with thick optical sections.

    ``offset`` is what ``jitter`` is to other datasets: the cell and those around it lie up to that
    far off the middle along each axis, and the crop is painted, not cut, so nothing is padded. The
    same seed gives the same cells at every offset.

    Regions: cell, nucleus, cytoplasm, neighbours. ``Metadata_neighbours_texture`` is -1 in crops
    without neighbours. Values lie within [0, 1].
    """

    size: tuple[int, ...] = (64, 64)
    """Pixels: [Y, X] or [Z, Y, X]."""
    cells: int = 256
    """How many."""
    channels: int = 3
    """1 to 5 of DNA, ER, AGP, RNA, Mito; one alone is ER."""
    carrier: Carrier = "cell"
    """What the label depends on."""
    confounder: Confounder = "background"
    """Of a mixture."""
    strength: float = 0.9
    """Of a mixture: how often the confounder agrees; 0.5: independent, 1: always."""
    area: tuple[float, float] = (0.08, 0.2)
    """Of a cell, as a fraction of the crop: lowest, highest."""
    neighbours: tuple[int, int] = (0, 3)
    """Fewest, most."""
    offset: float = 0.05
    """Most that the cell is off the centre, as a fraction of the crop."""
    noise: float = 0.02
    """Standard deviation of the camera's noise; pixels are within 0 and 1."""
    plates: int = 2
    """How many."""
    wells: int = 8
    """On each plate."""
    plate_effect: float = 0.0
    """Standard deviation, between plates, of the logarithm of each stain's brightness."""
    well_effect: float = 0.0
    """The same between the wells of a plate."""
    seed: int = 0
    """Of all that is drawn."""

    def __post_init__(self) -> None:
        for name in ("size", "area", "neighbours"):
            object.__setattr__(self, name, as_tuple(name, getattr(self, name)))
        choose(self.carrier, get_args(Carrier), option="carrier")
        choose(self.confounder, get_args(Confounder), option="confounder")
        require(
            len(self.size) in (2, 3) and all(isinstance(n, int) and n >= 8 for n in self.size),
            f"size={list(self.size)} must be 2 or 3 whole numbers of at least 8, "
            "(Y, X) or (Z, Y, X)",
        )
        require(
            1 <= self.channels <= len(STAINS),
            f"channels={self.channels} must be 1 to {len(STAINS)}: {', '.join(STAINS)}",
        )
        require(
            len(self.area) == 2 and 0.01 <= self.area[0] <= self.area[1] <= 0.4,
            f"area={list(self.area)} must be (lowest, highest) fraction of the crop "
            "within 0.01 and 0.4",
        )
        require(
            len(self.neighbours) == 2 and 0 <= self.neighbours[0] <= self.neighbours[1] <= 8,
            f"neighbours={list(self.neighbours)} must be (fewest, most) within 0 and 8",
        )
        require(
            not self._needs_neighbours or self.neighbours[1] > 0,
            "carrier or confounder 'neighbours' needs neighbours; raise the most in "
            f"neighbours={list(self.neighbours)} to at least 1",
        )
        require(0 <= self.strength <= 1, f"strength={self.strength} must be within 0 and 1")
        require(0 <= self.offset <= 0.25, f"offset={self.offset} must be within 0 and 0.25")
        require(0 <= self.noise <= 0.5, f"noise={self.noise} must be within 0 and 0.5")
        for name in ("plate_effect", "well_effect"):
            effect = getattr(self, name)
            require(0 <= effect <= 1, f"{name}={effect} must be within 0 and 1")
        for name, least in (("cells", 1), ("plates", 1), ("wells", 1), ("seed", 0)):
            value = getattr(self, name)
            require(
                isinstance(value, int) and value >= least,
                f"{name}={value} must be a whole number of at least {least}",
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """Label 0 (puncta, dim, small) and label 1 (patches, bright, large), whatever the carrier.

        So that a model trained under one carrier may be audited on crops of another.
        """
        return ("A", "B")

    @property
    def spec(self) -> InputSpec:
        """Channels, size and the two classes."""
        return InputSpec(channels=self.channels, size=self.size, classes=2)

    @property
    def stains(self) -> tuple[str, ...]:
        """Channel names; a single channel is an organelle stain, for DNA shows no texture."""
        return STAINS[: self.channels] if self.channels > 1 else STAINS[1:2]

    def fingerprint_of(self, rows: Sequence[int], /) -> str:
        """As :meth:`fingerprint`, of these rows alone: they follow from the options too."""
        named = f"{self.fingerprint()} {list(rows)}"
        return hashlib.blake2b(named.encode(), digest_size=16).hexdigest()

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row a cell; made without painting, from the masks of the cells alone."""
        return pd.DataFrame([self._describe(row) for row in range(self.cells)])

    def read(self, rows: Sequence[int], /) -> Batch:
        """The crops of these rows; each depends on the seed and its row number only."""
        rows = chosen(rows, self.cells)
        images = np.empty((len(rows), self.channels, *self.size), np.float32)
        names = ("cell", "nucleus", "cytoplasm", "neighbours")
        masks = {name: np.empty((len(rows), *self.size), bool) for name in names}
        for position, row in enumerate(rows):
            images[position], regions = self._crop(row)
            for name, region in regions.items():
                masks[name][position] = region
        return to_batch(self.table.iloc[rows], images, masks, stains=self.stains)

    def fingerprint(self) -> str:
        """Digest of the options and of the generator's version, which together fix every pixel."""
        canonical = json.dumps({"generator": GENERATOR, **asdict(self)}, sort_keys=True)
        return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()

    @property
    def _needs_neighbours(self) -> bool:
        return "neighbours" in (self.confounder if self.carrier == "mixture" else self.carrier,)

    def _attributes(self, row: int) -> dict[str, int]:
        # one stream a purpose: more neighbours, say, must not shift the texture's random numbers
        draw = self._stream(row, 0).random(7)
        bits = {
            name: int(value < 0.5)
            for name, value in zip(
                ("cell", "neighbours", "background", "intensity"), draw[:4], strict=True
            )
        }
        # The confounder is overruled just often enough, so that strength 0.5 leaves every image as
        # it is under the other carriers.
        if self.carrier == "mixture" and draw[4] < abs(2 * self.strength - 1):
            agree = self.strength > 0.5
            bits[self.confounder] = bits["cell"] if agree else 1 - bits["cell"]
        fewest, most = self.neighbours
        count = fewest + int(draw[5] * (most - fewest + 1))
        bits["size"] = int(draw[6] < 0.5)
        bits["chance"] = int(self._stream(row, 6).random() < 0.5)
        return {**bits, "count": max(count, 1) if self._needs_neighbours else count}

    def _arranged(self, row: int, attributes: Mapping[str, int]) -> _Cells:
        low, high = self.area
        third = (high - low) / 3
        own = (high - third, high) if attributes["size"] else (low, low + third)
        return _arrange(
            self._stream(row, 1),
            self._stream(row, 2),
            size=self.size,
            own=own if self.carrier == "size" else self.area,
            area=self.area,
            offset=self.offset,
            neighbours=attributes["count"],
        )

    def _describe(self, row: int) -> dict[str, Any]:
        bits = self._attributes(row)
        well = row % (self.plates * self.wells)
        cell = self._arranged(row, {**bits, "count": 0}).cell
        carrier = "cell" if self.carrier == "mixture" else self.carrier
        mixed = {"Metadata_conflicting": int(bits[self.confounder] != bits["cell"])}
        return {
            "id": f"phantom-{self.seed}-{row:06d}",
            "label": bits[carrier],
            "Metadata_Plate": f"P{well // self.wells + 1}",
            "Metadata_Well": _well_name(well % self.wells),
            "Metadata_cell_texture": bits["cell"],
            "Metadata_neighbours_texture": bits["neighbours"] if bits["count"] else -1,
            "Metadata_background_texture": bits["background"],
            "Metadata_cell_intensity": bits["intensity"],
            "Metadata_neighbours": bits["count"],
            "Metadata_area_fraction": float(cell.mean()),
            **(mixed if self.carrier == "mixture" else {}),
        }

    def _crop(self, row: int) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
        bits = self._attributes(row)
        cells = self._arranged(row, bits)
        scene = _Scene(
            cell=bits["cell"],
            neighbours=bits["neighbours"],
            background=bits["background"],
            intensity=bits["intensity"],
        )
        image = _paint(self._stream(row, 3), cells, scene, stains=self.stains, noise=self.noise)
        if self.plate_effect or self.well_effect:
            image = np.clip(image * self._stained(row), 0, 1)
        return image, {
            "cell": cells.cell,
            "nucleus": cells.nucleus,
            "cytoplasm": cells.cell & ~cells.nucleus,
            "neighbours": cells.neighbours > 0,
        }

    def _stained(self, row: int) -> NDArray[np.float32]:
        """How bright each stain is on the plate and in the well of a crop: (C, 1 ...)."""
        well = row % (self.plates * self.wells)
        effects = ((4, well // self.wells, self.plate_effect), (5, well, self.well_effect))
        shift = sum(
            spread * self._stream(unit, purpose).normal(size=self.channels)
            for purpose, unit, spread in effects
        )
        return np.exp(shift).astype(np.float32).reshape(-1, *[1] * len(self.size))

    def _stream(self, row: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([self.seed, row, purpose]))


def _well_name(number: int) -> str:
    """Position on a 96-well plate, and on past it."""
    return f"{chr(ord('A') + number // 12 % 26)}{number % 12 + 1 + 12 * (number // 312):02d}"


@dataclass(frozen=True)
class _Cells:
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
class _Scene:
    """The attributes of one crop: 0 (class A) is puncta or dim, 1 (class B) patches or bright."""

    cell: int
    neighbours: int
    background: int
    intensity: int


def _arrange(
    cell_draw: np.random.Generator,
    neighbour_draw: np.random.Generator,
    /,
    *,
    size: tuple[int, ...],
    own: tuple[float, float],
    area: tuple[float, float],
    offset: float,
    neighbours: int,
) -> _Cells:
    """One cell near the centre and ``neighbours`` others around it, each visible in the crop.

    ``own`` is the lowest and highest area of the cell, ``area`` that of the others.
    """
    ndim = len(size)
    centre = 2 * offset * cell_draw.uniform(-1, 1, ndim)
    radius = _radius(cell_draw.uniform(*own), ndim)
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
    return _Cells(cell, nucleus, others, nuclei, depth.astype(np.float32))


def _paint(
    draw: np.random.Generator,
    cells: _Cells,
    scene: _Scene,
    /,
    *,
    stains: Sequence[str],
    noise: float,
) -> NDArray[np.float32]:
    """(C, *S) within [0, 1].

    Each texture is drawn over the whole crop and standardised within the region that shows it, so
    the kind of texture changes neither mean nor spread there, and no region gives another away.
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
