"""Cells from the fields of a DeepProfiler project: its index, its locations, an image a channel."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attrscore.core.contracts import Batch, InputSpec
from attrscore.core.registry import DATASETS
from attrscore.datasets.cutting import cut
from attrscore.datasets.geometry import Geometry
from attrscore.datasets.images import stacked
from attrscore.datasets.images.field import Field, LabelImage, Whole
from attrscore.datasets.images.files import digest_of
from attrscore.datasets.normalising import Levels, Normalise, levels_of
from attrscore.datasets.options import as_tuples, check_limit
from attrscore.datasets.places import Places
from attrscore.datasets.project import Project, Site
from attrscore.datasets.rows import chosen, to_batch
from attrscore.datasets.sites import Discs, Outlined, number_at
from attrscore.errors import ConfigError, DataError, choose

__all__ = ["DeepProfilerFields"]

_OWN = (
    "Metadata_image",
    "Metadata_object",
    "Metadata_centroid_y",
    "Metadata_centroid_x",
)
_IN_MEMORY = 4
"""Fields kept open; rows are read field by field."""


@DATASETS.register("deepprofiler_fields")
@dataclass(frozen=True, kw_only=True)
class DeepProfilerFields:
    """Cells of a DeepProfiler project, cut from its fields around its locations.

    ``path`` is the project; ``index``, ``locations``, ``images`` and ``outlines`` are where its
    parts lie in it. ``channels`` are the columns of the index that name the images, in the order of
    the network's channels; their names become the stains.

    Which pixels are the cell's is said by ``outlines``: label images, or drawn outlines whose
    insides are numbered. Without them, ``radius`` takes a disc of that many pixels around each
    location for the cell; what a network is then said to look at is that disc. Regions: cell;
    neighbours, which are the other objects.

    ``label_column`` of the index becomes the class. Its ``Metadata_`` columns are carried to the
    results, and those named in ``carry``, as ``Metadata_<name>``. ``normalise`` and ``percentiles``
    are those of ``dataset=fields``: each channel of a field.

    A field that cannot be used and a location without an object are left out with their reason in
    ``skipped``, unless ``on_bad_file`` is raise.
    """

    read_together: ClassVar[str] = "Metadata_image"

    path: str
    channels: tuple[str, ...]
    crop: tuple[int, ...]
    index: str = "inputs/metadata/index.csv"
    locations: str = "inputs/locations"
    images: str = "inputs/images"
    outlines: str | None = None
    radius: float | None = None
    label_column: str | None = None
    carry: tuple[str, ...] = ()
    normalise: Normalise = "percentile"
    percentiles: tuple[float, float] = (0.1, 99.9)
    spacing: tuple[float, ...] | None = None
    limit: int | None = None
    on_bad_file: Literal["skip", "raise"] = "skip"
    _open: OrderedDict[str, Field] = field(default_factory=OrderedDict, init=False, repr=False)

    def __post_init__(self) -> None:
        as_tuples(self, "channels", "crop", "carry", "percentiles", "spacing")
        rules = tuple(rule for rule in get_args(Normalise) if rule != "fixed")
        choose(self.normalise, rules, option="normalise")
        choose(self.on_bad_file, ("skip", "raise"), option="on_bad_file")
        check_limit(self.limit)
        if len(self.crop) != 2 or not all(isinstance(n, int) and n > 0 for n in self.crop):
            raise ConfigError(f"crop={list(self.crop)} must be 2 whole numbers of pixels, (Y, X).")
        if not self.channels or len(set(self.channels)) < len(self.channels):
            raise ConfigError(
                f"channels={list(self.channels)} must be different columns of the index, such as "
                "[DNA,RNA,ER,AGP,Mito]."
            )
        if self.spacing is not None and len(self.spacing) != 2:
            raise ConfigError(f"spacing={list(self.spacing)} must be 2 numbers, along Y and X.")
        if (self.outlines is None) == (self.radius is None):
            raise ConfigError(
                "A network can only be asked whether it looks at the cell where the cell's pixels "
                "are known: give dataset.outlines=inputs/outlines, or dataset.radius=20 for a disc "
                "of 20 pixels around each location, and not both."
            )
        if self.radius is not None and self.radius <= 0:
            raise ConfigError(f"radius={self.radius} must be a positive number of pixels.")

    def __getstate__(self) -> dict[str, Any]:
        # a worker process opens its fields itself
        return {**self.__dict__, "_open": OrderedDict()}

    @property
    def table(self) -> pd.DataFrame:
        """A row a location with an object, in the order of the index and its files."""
        return self._scanned[0]

    @property
    def classes(self) -> tuple[str, ...]:
        """The values of ``label_column``, sorted; of the whole index."""
        return self._project.classes

    @property
    def spec(self) -> InputSpec:
        """As the options say; no classes where no label column is given."""
        return InputSpec(len(self.channels), self.crop, len(self.classes))

    @property
    def skipped(self) -> Mapping[str, str]:
        """Field or cell -> why it is left out."""
        return MappingProxyType(self._scanned[1])

    @property
    def left_out(self) -> int:
        """None: no setting excludes a cell."""
        return 0

    def read(self, rows: Sequence[int], /) -> Batch:
        """Crops of these rows."""
        rows = chosen(rows, len(self.table))
        table = self.table.iloc[rows]
        inputs = np.empty((len(rows), len(self.channels), *self.crop), np.float32)
        regions = {name: np.empty((len(rows), *self.crop), bool) for name in ("cell", "neighbours")}
        names, numbers = table["Metadata_image"].tolist(), table["Metadata_object"].tolist()
        first = self._first(table)
        for place in sorted(range(len(rows)), key=lambda place: rows[place]):
            cut(
                self._field(names[place]),
                self._levels(names[place]),
                numbers[place],
                first[place],
                geometry=self._geometry,
                boundary=None,
                outside="keep",
                inputs=inputs[place],
                regions={region: pixels[place] for region, pixels in regions.items()},
            )
        return to_batch(table, inputs, regions, spacing=self.spacing, stains=self.channels)

    def places(self, rows: Sequence[int], /) -> Places:
        """Where the crops of these rows lie in their fields."""
        table = self.table.iloc[chosen(rows, len(self.table))]
        first = self._first(table).astype(np.float64)
        return Places(
            field=tuple(table["Metadata_image"]),
            number=table["Metadata_object"].to_numpy(dtype=np.int64),
            first=first,
            extent=np.broadcast_to(np.array(self.crop, np.float64), first.shape),
        )

    def field(self, name: str, /) -> Whole:
        """The field of this name, normalised, whole.

        :raises DataError: one of its files cannot be used.
        """
        found = self._field(name)
        return Whole(self._levels(name).apply(found.pixels()), found.labels())

    def fingerprint(self) -> str:
        """Digest of the files' bytes, the table and the options."""
        names = ("channels", "crop", "radius", "normalise", "percentiles", "spacing")
        options = {name: getattr(self, name) for name in names} | {"classes": self.classes}
        told = json.dumps(options, sort_keys=True).encode()
        digest = hashlib.blake2b(told, digest_size=16)
        digest.update(self.table.to_csv(index=False).encode())
        for name in self.table["Metadata_image"].unique():
            for path in self._project.sites[name].all:
                digest.update(digest_of(path))
        return digest.hexdigest()

    @property
    def _geometry(self) -> Geometry:
        return Geometry(self.crop, self.spacing, resampled=False, most=(0, 0), seed=0)

    def _first(self, table: pd.DataFrame) -> NDArray[np.int64]:
        centres = table[["Metadata_centroid_y", "Metadata_centroid_x"]].to_numpy(dtype=float)
        return self._geometry.first(table["id"].tolist(), centres, np.ones(2))

    @cached_property
    def _project(self) -> Project:
        return Project(
            root=Path(self.path).expanduser(),
            index=self.index,
            locations=self.locations,
            images=self.images,
            outlines=self.outlines,
            channels=self.channels,
            label_column=self.label_column,
            carry=self.carry,
            taken=_OWN,
        )

    @cached_property
    def _scanned(self) -> tuple[pd.DataFrame, Mapping[str, str]]:
        rows, sites = self._project.rows, self._project.sites
        skipped: dict[str, str] = {}
        parts: list[pd.DataFrame] = []
        cells = 0
        for name in sites:
            if self.limit is not None and cells >= self.limit:
                break
            try:
                self._levels(name)
                part, without = self._cells(name)
            except DataError as error:
                if self.on_bad_file == "raise":
                    raise
                skipped[name] = str(error)
                continue
            if without and self.on_bad_file == "raise":
                raise DataError(next(iter(without.values())))
            skipped |= without
            parts.append(part)
            cells += len(part)
        if not cells:
            raise DataError(
                f"No cell is left of {len(sites)} fields: {' '.join(list(skipped.values())[:3])}"
            )
        table = pd.concat(parts, ignore_index=True).iloc[: self.limit]
        told = rows.loc[table["Metadata_image"]].reset_index(drop=True)
        table.insert(1, "label", told.pop("label").astype(np.int64))
        return pd.concat([table, told], axis=1), skipped

    def _cells(self, name: str) -> tuple[pd.DataFrame, dict[str, str]]:
        """Those of one field with an object, and why others have none."""
        labels = self._field(name).labels()
        places = self._project.places(name)
        ids = [f"{name}@{x:g}x{y:g}" for y, x in places]
        kept, numbers = [], []
        without: dict[str, str] = {}
        for row, (cell, (y, x)) in enumerate(zip(ids, places, strict=True)):
            number = number_at(labels, (y, x))
            if not (0 <= y < labels.shape[0] and 0 <= x < labels.shape[1]):
                without[cell] = f"the location {cell} is outside its field of {labels.shape}."
            elif number == 0:
                without[cell] = f"the location {cell} has no object of the outlines near it."
            elif cell in ids[:row] or (self.radius is not None and number != row + 1):
                without[f"{cell} (row {row})"] = (
                    f"the location {cell} stands twice, with another in the same pixel; the first "
                    "is used."
                )
            else:
                kept.append(row)
                numbers.append(number)
        table = pd.DataFrame(
            {
                "id": [ids[row] for row in kept],
                "Metadata_image": name,
                "Metadata_object": np.array(numbers, np.int64),
                "Metadata_centroid_y": places[kept, 0],
                "Metadata_centroid_x": places[kept, 1],
            }
        )
        return table, without

    def _field(self, name: str) -> Field:
        if name not in self._open:
            self._open[name] = self._opened(self._project.sites[name])
        self._open.move_to_end(name)
        if len(self._open) > _IN_MEMORY:
            self._open.popitem(last=False)
        return self._open[name]

    def _opened(self, site: Site) -> Field:
        images = [self._project.image(path) for path in site.images]
        image = stacked(images, stains=self.channels)
        labels: LabelImage
        if self.radius is not None:
            labels = Discs(self._project.places(site.name), self.radius, image.shape[1:])
        elif site.outlines is None:
            raise DataError(f"'{site.name}' has no outlines in the index or outlines.csv.")
        else:
            outlines = self._project.image(site.outlines)
            if outlines.shape != (1, *image.shape[1:]) or outlines.dtype.kind not in "bui":
                raise DataError(
                    f"the outlines '{site.outlines.name}' of '{site.name}' hold {outlines.dtype} "
                    f"pixels of the shape {outlines.shape[1:]}; expected whole numbers, and "
                    f"{image.shape[1:]} as its images."
                )
            labels = Outlined(outlines)
        every = tuple(range(len(images)))
        return Field(image, every, self.spacing, self.channels, {"cell": labels})

    @cached_property
    def _known_levels(self) -> dict[str, Levels]:
        return {}

    def _levels(self, name: str) -> Levels:
        if name not in self._known_levels:
            self._known_levels[name] = levels_of(
                self._field(name).pieces(),
                self.normalise,
                percentiles=self.percentiles,
                name=name,
            )
        return self._known_levels[name]
