"""Phantom cells: seeded crops that look like Cell Painting, with labels whose carrier is known."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd

from attrscore.core.contracts import Batch, InputSpec
from attrscore.core.registry import DATASETS
from attrscore.datasets.painting import STAINS, Cells, Scene, paint, place
from attrscore.datasets.rows import chosen, to_batch
from attrscore.errors import ConfigError, choose

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Carrier", "Confounder", "Phantom"]

Carrier = Literal["cell", "neighbours", "background", "intensity", "mixture"]
Confounder = Literal["background", "neighbours", "intensity"]

GENERATOR = 1
"""Raised whenever the same options give other pixels, so that old results are not mistaken."""


@DATASETS.register("phantom")
@dataclass(frozen=True, kw_only=True)
class Phantom:
    """Synthetic Cell Painting crops, 2D or 3D by ``size``; what carries the label is an option.

    Every crop has four binary attributes, independent and balanced: the organelle texture of the
    cell, that of its neighbours, the texture of the background (puncta or patches, of equal
    mean and spread), and the brightness of the cell. ``carrier`` says which of them is the
    label, so the same seed gives the same images under other labels. With ``mixture`` the label is
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
    cells: int = 256
    channels: int = 3
    carrier: Carrier = "cell"
    confounder: Confounder = "background"
    strength: float = 0.9
    area: tuple[float, float] = (0.08, 0.2)
    neighbours: tuple[int, int] = (0, 3)
    offset: float = 0.05
    noise: float = 0.02
    plates: int = 2
    wells: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("size", "area", "neighbours"):
            object.__setattr__(self, name, _sequence(name, getattr(self, name)))
        choose(self.carrier, get_args(Carrier), option="carrier")
        choose(self.confounder, get_args(Confounder), option="confounder")
        _require(
            len(self.size) in (2, 3) and all(isinstance(n, int) and n >= 8 for n in self.size),
            f"size={list(self.size)} must be 2 or 3 whole numbers of at least 8, "
            "(Y, X) or (Z, Y, X)",
        )
        _require(
            1 <= self.channels <= len(STAINS),
            f"channels={self.channels} must be 1 to {len(STAINS)}: {', '.join(STAINS)}",
        )
        _require(
            len(self.area) == 2 and 0.01 <= self.area[0] <= self.area[1] <= 0.4,
            f"area={list(self.area)} must be (lowest, highest) fraction of the crop "
            "within 0.01 and 0.4",
        )
        _require(
            len(self.neighbours) == 2 and 0 <= self.neighbours[0] <= self.neighbours[1] <= 8,
            f"neighbours={list(self.neighbours)} must be (fewest, most) within 0 and 8",
        )
        _require(
            not self._needs_neighbours or self.neighbours[1] > 0,
            "carrier or confounder 'neighbours' needs neighbours; raise the most in "
            f"neighbours={list(self.neighbours)} to at least 1",
        )
        _require(0 <= self.strength <= 1, f"strength={self.strength} must be within 0 and 1")
        _require(0 <= self.offset <= 0.25, f"offset={self.offset} must be within 0 and 0.25")
        _require(0 <= self.noise <= 0.5, f"noise={self.noise} must be within 0 and 0.5")
        for name, least in (("cells", 1), ("plates", 1), ("wells", 1), ("seed", 0)):
            value = getattr(self, name)
            _require(
                isinstance(value, int) and value >= least,
                f"{name}={value} must be a whole number of at least {least}",
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """What label 0 and label 1 mean."""
        return ("dim", "bright") if self.carrier == "intensity" else ("puncta", "patches")

    @property
    def spec(self) -> InputSpec:
        """Channels, size and the two classes."""
        return InputSpec(channels=self.channels, size=self.size, classes=2)

    @property
    def stains(self) -> tuple[str, ...]:
        """Channel names; a single channel is an organelle stain, for DNA shows no texture."""
        return STAINS[: self.channels] if self.channels > 1 else STAINS[1:2]

    @property
    def skipped(self) -> Mapping[str, str]:
        """Nothing: every phantom can be made."""
        return MappingProxyType({})

    @property
    def left_out(self) -> int:
        """None: no setting excludes a cell."""
        return 0

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
        draw = self._stream(row, 0).random(6)
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
        return {**bits, "count": max(count, 1) if self._needs_neighbours else count}

    def _place(self, row: int, attributes: Mapping[str, int]) -> Cells:
        return place(
            self._stream(row, 1),
            self._stream(row, 2),
            size=self.size,
            area=self.area,
            offset=self.offset,
            neighbours=attributes["count"],
        )

    def _describe(self, row: int) -> dict[str, Any]:
        bits = self._attributes(row)
        well = row % (self.plates * self.wells)
        cell = self._place(row, {**bits, "count": 0}).cell
        carrier = "cell" if self.carrier == "mixture" else self.carrier
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
        }

    def _crop(self, row: int) -> tuple[np.ndarray[Any, Any], dict[str, np.ndarray[Any, Any]]]:
        bits = self._attributes(row)
        cells = self._place(row, bits)
        scene = Scene(
            cell=bits["cell"],
            neighbours=bits["neighbours"],
            background=bits["background"],
            intensity=bits["intensity"],
        )
        image = paint(self._stream(row, 3), cells, scene, stains=self.stains, noise=self.noise)
        return image, {
            "cell": cells.cell,
            "nucleus": cells.nucleus,
            "cytoplasm": cells.cell & ~cells.nucleus,
            "neighbours": cells.neighbours > 0,
        }

    def _stream(self, row: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([self.seed, row, purpose]))


def _well_name(number: int) -> str:
    """Position on a 96-well plate, and on past it."""
    return f"{chr(ord('A') + number // 12 % 26)}{number % 12 + 1 + 12 * (number // 312):02d}"


def _sequence(name: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise ConfigError(f"{name}={value!r} must be a list, such as {name}=[64,64].")
    return tuple(value)


def _require(condition: bool, sentence: str) -> None:  # noqa: FBT001  # it is the condition
    if not condition:
        raise ConfigError(f"{sentence}.")
