"""Cells from the fields of a DeepProfiler project: its index, its locations, an image a channel.

After the DeepProfiler handbook: ``inputs/metadata/index.csv`` has a row a field with a column a
channel, ``inputs/locations/{Plate}/{Well}-{Site}-Nuclei.csv`` the centres of its cells, and
``inputs/metadata/outlines.csv``, where it is, the file of ``inputs/outlines`` that shows them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from attrscore.core.contracts import InputSpec
from attrscore.core.registry import DATASETS
from attrscore.datasets._options import NothingLeftOut, TableOptions, as_tuples, check_spacing
from attrscore.datasets.cells.crops import CellsOfFields
from attrscore.datasets.cells.geometry import Geometry
from attrscore.datasets.cells.normalising import Levels, Normalise, levels_of
from attrscore.datasets.cells.objects import Scan
from attrscore.datasets.cells.tables import (
    as_text,
    need_columns,
    read_described,
    read_table,
    rows_of,
)
from attrscore.datasets.images import Field, Image, Kept, open_image, stacked
from attrscore.datasets.images.field import LabelImage
from attrscore.datasets.images.files import digest_of
from attrscore.errors import ConfigError, DataError, choose, preview

_OWN = (
    "Metadata_image",
    "Metadata_object",
    "Metadata_centroid_y",
    "Metadata_centroid_x",
)
_MEMORY = 2**30
"""Bytes of decoded fields that are kept."""
_SITE = ("Metadata_Plate", "Metadata_Well", "Metadata_Site")
_CENTRE = ("Nuclei_Location_Center_Y", "Nuclei_Location_Center_X")

Window = tuple[slice, ...]

_AROUND = 5
"""Pixels around a point in which its object is looked for, as DeepProfiler does."""


@dataclass(frozen=True)
class Site:
    """The files of one field."""

    name: str
    """Plate/Well/Site."""
    images: tuple[Path, ...]
    outlines: Path | None
    locations: Path

    @property
    def all(self) -> tuple[Path, ...]:
        """Those that hold pixels."""
        return self.images if self.outlines is None else (*self.images, self.outlines)


class _Index(NamedTuple):
    """What the index says."""

    rows: pd.DataFrame
    """``label`` and the carried columns, by the name of the field."""
    sites: Mapping[str, Site]
    """By their name, in its order."""
    classes: tuple[str, ...]


@DATASETS.register("deepprofiler_fields")
@dataclass(frozen=True, kw_only=True)
class DeepProfilerFields(CellsOfFields, NothingLeftOut, TableOptions):
    """Cells of a DeepProfiler project, cut from its fields around its locations.

    ``path`` is the project; ``index``, ``locations``, ``images`` and ``outlines`` are where its
    parts lie in it. ``channels`` are the columns of the index that name the images, in the order of
    the model's channels; their names become the stains.

    Which pixels are the cell's is said by ``outlines``: label images, or drawn outlines whose
    insides are numbered. Without them, ``radius`` takes a disc of that many pixels around each
    location for the cell; what a model is then said to look at is that disc. Regions: cell;
    neighbours, which are the other objects.

    ``label_column`` of the index becomes the class. Its ``Metadata_`` columns are carried to the
    results, and those named in ``carry``, as ``Metadata_<name>``; ``class_order`` and ``numbers``
    are those of ``dataset=fields``, and so are ``normalise`` and ``percentiles``: each channel of a
    field.

    A field that cannot be used and a location without an object are left out with their reason in
    ``skipped``, unless ``on_bad_file`` is raise.
    """

    read_together: ClassVar[str] = "Metadata_image"

    path: str
    """Folder of the project."""
    channels: tuple[str, ...]
    """Columns of the index that name the images, in the order of channels:
    [DNA,RNA,ER,AGP,Mito]."""
    crop: tuple[int, ...]
    """Pixels along Y and X, such as [96,96]."""
    index: str = "inputs/metadata/index.csv"
    """In the project."""
    locations: str = "inputs/locations"
    """Folder in the project: Plate/Well-Site-Nuclei.csv."""
    images: str = "inputs/images"
    """Folder in the project."""
    outlines: str | None = None
    """Folder in the project: inputs/outlines, label images or drawn outlines."""
    radius: float | None = None
    """Without outlines: pixels around each location that are taken for the cell."""
    normalise: Normalise = "percentile"
    """Of each channel of a field."""
    percentiles: tuple[float, float] = (0.1, 99.9)
    """Of percentile: become 0 and 1."""
    spacing: tuple[float, ...] | None = None
    """Micrometres a pixel along Y and X."""
    _kept: Kept = field(default_factory=lambda: Kept(_MEMORY), init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        as_tuples(self, "channels", "crop", "percentiles", "spacing")
        rules = tuple(rule for rule in get_args(Normalise) if rule != "fixed")
        choose(self.normalise, rules, option="normalise")
        if len(self.crop) != 2 or not all(isinstance(n, int) and n > 0 for n in self.crop):
            raise ConfigError(f"crop={list(self.crop)} must be 2 whole numbers of pixels, (Y, X).")
        if not self.channels or len(set(self.channels)) < len(self.channels):
            raise ConfigError(
                f"channels={list(self.channels)} must be different columns of the index, such as "
                "[DNA,RNA,ER,AGP,Mito]."
            )
        check_spacing(self.spacing)
        if (self.outlines is None) == (self.radius is None):
            raise ConfigError(
                "A model can only be asked whether it looks at the cell where the cell's pixels "
                "are known: give dataset.outlines=inputs/outlines, or dataset.radius=20 for a disc "
                "of 20 pixels around each location, and not both."
            )
        if self.radius is not None and self.radius <= 0:
            raise ConfigError(f"radius={self.radius} must be a positive number of pixels.")

    @property
    def classes(self) -> tuple[str, ...]:
        """The values of ``label_column``; of the whole index."""
        return self._index.classes

    @property
    def spec(self) -> InputSpec:
        """As the options say; no classes where no label column is given."""
        return InputSpec(len(self.channels), self.crop, len(self.classes))

    def fingerprint(self) -> str:
        """Digest of the files' bytes, the table and the options."""
        names = ("channels", "crop", "radius", "normalise", "percentiles", "spacing")
        options = {name: getattr(self, name) for name in names} | {"classes": self.classes}
        digest = hashlib.blake2b(json.dumps(options, sort_keys=True).encode(), digest_size=16)
        digest.update(self.table.to_csv(index=False).encode())
        for name in self.table["Metadata_image"].unique():
            for path in self._index.sites[name].all:
                digest.update(digest_of(path))
        return digest.hexdigest()

    @property
    def _root(self) -> Path:
        return Path(self.path).expanduser()

    @cached_property
    def _scan(self) -> Scan:
        rows, sites = self._index.rows, self._index.sites
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
        carried = rows.loc[table["Metadata_image"]].reset_index(drop=True)
        table.insert(1, "label", carried.pop("label").astype(np.int64))
        geometry = Geometry(self.crop, self.spacing, resampled=False, most=(0, 0), seed=0)
        centres = table[["Metadata_centroid_y", "Metadata_centroid_x"]].to_numpy(dtype=float)
        return Scan(
            pd.concat([table, carried], axis=1),
            len(self.channels),
            self.channels,
            geometry,
            geometry.first(table["id"].tolist(), centres, np.ones(2)),
            skipped,
        )

    def _cells(self, name: str) -> tuple[pd.DataFrame, dict[str, str]]:
        """Those of one field with an object, and why others have none."""
        labels = self._open(name).labels()
        centres = self._centres(name)
        ids = [f"{name}@{x:g}x{y:g}" for y, x in centres]
        kept, numbers = [], []
        without: dict[str, str] = {}
        for row, (cell, (y, x)) in enumerate(zip(ids, centres, strict=True)):
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
                "Metadata_centroid_y": centres[kept, 0],
                "Metadata_centroid_x": centres[kept, 1],
            }
        )
        return table, without

    def _open(self, name: str) -> Field:
        return self._kept.get(name, lambda: self._opened(self._index.sites[name]))

    def _opened(self, site: Site) -> Field:
        images = [self._image(path) for path in site.images]
        image = stacked(images, stains=self.channels)
        labels: LabelImage
        if self.radius is not None:
            labels = Discs(self._centres(site.name), self.radius, image.shape[1:])
        elif site.outlines is None:
            raise DataError(f"'{site.name}' has no outlines in the index or outlines.csv.")
        else:
            outlines = self._image(site.outlines)
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
                self._open(name).pieces(),
                self.normalise,
                percentiles=self.percentiles,
                name=name,
            )
        return self._known_levels[name]

    def _centres(self, name: str, /) -> NDArray[np.float64]:
        """Of the cells of a field, (n, 2) along Y and X.

        :raises DataError: no such file, without these columns, or no numbers.
        """
        where = self._index.sites[name].locations
        given = read_table(where, option="locations")
        absent = [column for column in _CENTRE if column not in given.columns]
        if absent:
            raise DataError(
                f"'{where.name}' of '{where.parent.name}' has no column '{absent[0]}'; it has: "
                f"{preview(given.columns)}."
            )
        columns = [pd.to_numeric(given[column], errors="coerce") for column in _CENTRE]
        numbers: NDArray[np.float64] = np.stack(columns, axis=1).astype(np.float64)
        if not np.isfinite(numbers).all():
            raise DataError(
                f"'{where.name}' of '{where.parent.name}' holds locations that are no numbers; "
                "remove those rows."
            )
        return numbers

    def _image(self, path: Path, /) -> Image:
        """One image of one channel.

        :raises DataError: not there, or it cannot be read.
        """
        if not path.is_file():
            raise DataError(f"'{path.name}' is named by '{self.index}' and is not there: {path}.")
        return open_image(path, axes="YX")

    @cached_property
    def _index(self) -> _Index:
        where = self._root / self.index
        keys = [*self.channels, "Outlines"]
        given = read_described(self, where, option="index", keys=keys)
        absent = [column for column in _SITE if column not in given.columns]
        if absent:
            raise DataError(
                f"'{where.name}' has no column '{absent[0]}'; an index of DeepProfiler has "
                f"{', '.join(_SITE)}, and a column a channel."
            )
        for column in _SITE:  # a number in Parquet
            given[column] = as_text(given[column])
        given = self._with_outlines(given)
        need_columns(given, [("channels", column) for column in self.channels], name=where.name)
        rows, classes = rows_of(self, given, name=where.name, taken=_OWN)
        names = given[list(_SITE)].agg("/".join, axis=1)
        if names.duplicated().any():
            raise DataError(
                f"'{where.name}' has more than one row for {names[names.duplicated()].iloc[0]}; "
                "expected one a field."
            )
        records: list[dict[Any, Any]] = given.to_dict("records")
        sites = {name: self._site(name, row) for name, row in zip(names, records, strict=True)}
        return _Index(rows.set_index(names), sites, classes)

    def _with_outlines(self, given: pd.DataFrame) -> pd.DataFrame:
        """A column ``Outlines``, from ``outlines.csv`` beside the index where it has none."""
        if self.outlines is None or "Outlines" in given.columns:
            return given
        where = (self._root / self.index).parent / "outlines.csv"
        table = read_table(where, option="outlines.csv")
        absent = [column for column in (*_SITE, "Outlines") if column not in table.columns]
        if absent:
            raise DataError(f"'{where.name}' has no column '{absent[0]}'.")
        for column in _SITE:
            table[column] = as_text(table[column])
        return given.merge(table[[*_SITE, "Outlines"]], how="left", on=list(_SITE))

    def _site(self, key: str, row: Mapping[str, Any]) -> Site:
        plate, well, number = (row[column] for column in _SITE)
        outlines = row.get("Outlines")
        named = self.outlines is not None and isinstance(outlines, str)
        return Site(
            name=key,
            images=tuple(self._root / self.images / str(row[column]) for column in self.channels),
            outlines=self._root / str(self.outlines) / str(outlines) if named else None,
            locations=self._root / self.locations / plate / f"{well}-{number}-Nuclei.csv",
        )


@dataclass(frozen=True, eq=False)
class Discs:
    """A disc around each of n points (Y, X), numbered from 1; where two meet, the nearer has it."""

    centres: NDArray[np.float64]
    radius: float
    shape: tuple[int, ...]

    def read(self, window: Window | None = None, /) -> NDArray[np.int32]:
        """A window, or all."""
        return self._whole if window is None else self._whole[window]

    @cached_property
    def _whole(self) -> NDArray[np.int32]:
        numbers = np.zeros(self.shape, np.int32)
        pixels = np.floor(self.centres + 0.5).astype(int).clip(0, np.array(self.shape) - 1)
        # backwards: of points in one pixel the first has it, and the others no pixel at all
        numbers[tuple(pixels[::-1].T)] = np.arange(len(pixels))[::-1] + 1
        away, nearest = ndimage.distance_transform_edt(numbers == 0, return_indices=True)
        discs: NDArray[np.int32] = np.where(away <= self.radius, numbers[tuple(nearest)], 0)
        return discs


@dataclass(frozen=True, eq=False)
class Outlined:
    """A label image, or one of drawn outlines, whose closed insides are numbered.

    It is taken for outlines where it holds one value beside 0. The largest piece without a line is
    what lies around the cells.
    """

    image: Image

    def read(self, window: Window | None = None, /) -> NDArray[Any]:
        """A window, or all.

        :raises DataError: damaged.
        """
        return self._whole if window is None else self._whole[window]

    @cached_property
    def _whole(self) -> NDArray[Any]:
        drawn: NDArray[Any] = self.image.read()[0]
        values = np.unique(drawn)
        if len(values) > 2 or values[0] != 0:
            return drawn.astype(np.int64)
        numbers, count = ndimage.label(drawn == 0)  # not across corners: a thin line would leak
        if not count:
            return np.zeros(drawn.shape, np.int32)
        numbers[numbers == np.bincount(numbers.ravel())[1:].argmax() + 1] = 0
        found: NDArray[np.int32] = numbers
        return found


def number_at(labels: NDArray[Any], point: tuple[float, float], /) -> int:
    """The object at a point (Y, X), or the most frequent one close by; 0 where there is none.

    DeepProfiler takes the median of these pixels, which between objects 3 and 9 is 6.
    """
    y, x = (int(np.floor(each + 0.5)) for each in point)
    if not (0 <= y < labels.shape[0] and 0 <= x < labels.shape[1]):
        return 0
    if labels[y, x]:
        return int(labels[y, x])
    near = labels[max(y - _AROUND, 0) : y + _AROUND, max(x - _AROUND, 0) : x + _AROUND]
    numbers, counts = np.unique(near[near > 0], return_counts=True)
    return int(numbers[counts.argmax()]) if len(numbers) else 0
