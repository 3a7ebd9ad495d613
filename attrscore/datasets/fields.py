"""Microscope fields with integer label images: a crop around every cell."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd

from attrscore.core import Batch, InputSpec
from attrscore.datasets.annotations import Annotations, read_annotations
from attrscore.datasets.axes import check_axes
from attrscore.datasets.crops import Normalise, Objects, crop, measure, starts
from attrscore.datasets.decoding import Field, FieldReader
from attrscore.datasets.files import digest_of, shown
from attrscore.datasets.jitter import JitterUnit, check_jitter, displacements, jitter_columns
from attrscore.datasets.places import Places
from attrscore.datasets.rows import chosen, to_batch
from attrscore.datasets.shards import Shard
from attrscore.errors import ConfigError, DataError, EmptyShardError, choose
from attrscore.registry import DATASETS

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Fields"]

_OWN_COLUMNS = (
    "Metadata_image",
    "Metadata_object",
    "Metadata_area",
    "Metadata_touches_border",
    "Metadata_cut",
    "Metadata_centroid_z",
    "Metadata_centroid_y",
    "Metadata_centroid_x",
    "Metadata_jitter_z",
    "Metadata_jitter_y",
    "Metadata_jitter_x",
)


@DATASETS.register("fields")
@dataclass(frozen=True, kw_only=True)
class Fields:
    """Every cell of fields with label images, cropped around its centroid.

    ``images``, ``masks`` and ``nuclei`` are globs (or folders) of TIFF, OME-Zarr, NIfTI, NPY, NPZ
    or PNG files (:mod:`attrscore.datasets.images`); ``level`` is the resolution of an OME-Zarr, 0
    the finest, and ``allow_pickle`` lets Cellpose's ``_seg.npy`` be read as masks. Files are
    matched by name, a mask may end in ``_cp_masks``, ``_masks``, ``_mask``, ``_labels``, ``_label``
    or ``_seg``; labels inside an OME-Zarr are ``*.zarr/labels/<name>``. ``axes`` are those
    of the images (a mask has them without C); None reads them from each file. A crop that hangs
    over the border is filled with zeros after normalisation. ``stains`` names the channels that are
    read.

    ``jitter`` moves each crop off its cell by up to that much along each axis (one number, or one
    an axis; ``jitter_unit`` is pixel or micrometre), drawn from ``jitter_seed`` and the cell's id;
    the columns ``Metadata_jitter_y`` ... say how far.

    ``labels`` is a CSV with a row a cell, found by the columns ``image_key`` (file name or stem)
    and ``object_key`` (number in the label image). ``label_column`` becomes the class, -1 where
    missing. Its ``Metadata_`` columns are carried to the results, and those named in ``carry``, as
    ``Metadata_<name>``.

    Regions: cell; neighbours, which are the other numbers; with ``nuclei`` (a label image where the
    nucleus has its cell's number) also nucleus, as far as it lies in the cell, and cytoplasm.

    A file that cannot be used is left out with its reason in ``skipped``, unless ``on_bad_file`` is
    raise. Objects under ``min_area`` pixels are left out and counted in ``left_out``.
    """

    images: str
    masks: str
    crop: tuple[int, ...]
    axes: str | None = None
    channels: tuple[int, ...] | None = None
    stains: tuple[str, ...] | None = None
    nuclei: str | None = None
    labels: str | None = None
    label_column: str | None = None
    image_key: str = "image"
    object_key: str = "label"
    carry: tuple[str, ...] = ()
    jitter: float | tuple[float, ...] = 0
    jitter_unit: JitterUnit = "pixel"
    jitter_seed: int = 0
    normalise: Normalise = "percentile"
    percentiles: tuple[float, float] = (0.1, 99.9)
    spacing: tuple[float, ...] | None = None
    min_area: int = 0
    limit: int | None = None
    level: int = 0
    allow_pickle: bool = False
    on_bad_file: Literal["skip", "raise"] = "skip"

    def __post_init__(self) -> None:
        for name in ("crop", "channels", "stains", "carry", "percentiles", "spacing"):
            object.__setattr__(self, name, _sequence(name, getattr(self, name)))
        if self.axes is not None:
            object.__setattr__(self, "axes", check_axes(self.axes))
        choose(self.normalise, get_args(Normalise), option="normalise")
        choose(self.on_bad_file, ("skip", "raise"), option="on_bad_file")
        _require(
            len(self.crop) in (2, 3) and all(isinstance(n, int) and n > 0 for n in self.crop),
            f"crop={list(self.crop)} must be 2 or 3 whole numbers of pixels, (Y, X) or (Z, Y, X)",
        )
        if self.axes is not None:
            space = self.axes.replace("C", "")
            _require(
                len(space) == len(self.crop),
                f"crop={list(self.crop)} has {len(self.crop)} numbers but axes={self.axes} has "
                f"{len(space)} spatial axes; give one for each of {', '.join(_ordered(space))}",
            )
        _require(
            self.spacing is None
            or (len(self.spacing) == len(self.crop) and all(v > 0 for v in self.spacing)),
            f"spacing={self.spacing} must be {len(self.crop)} positive numbers of micrometres, "
            "as many as crop",
        )
        _require(
            self.channels is None
            or (
                len(self.channels) > 0
                and len(set(self.channels)) == len(self.channels)
                and all(isinstance(c, int) and c >= 0 for c in self.channels)
            ),
            f"channels={self.channels} must be different channel numbers from 0, or null for all",
        )
        _require(
            self.stains is None or len(set(self.stains)) == len(self.stains) > 0,
            f"stains={self.stains} must be different names, or null",
        )
        _require(
            len(self.percentiles) == 2 and 0 <= self.percentiles[0] < self.percentiles[1] <= 100,
            f"percentiles={list(self.percentiles)} must be (lower, upper) within 0 and 100",
        )
        _require(self.min_area >= 0, f"min_area={self.min_area} must be at least 0 pixels")
        _require(
            self.limit is None or self.limit > 0,
            f"limit={self.limit} must be at least 1, or null for all cells",
        )
        _require(self.level >= 0, f"level={self.level} must be at least 0, the finest")
        _require(
            self.labels is not None or (self.label_column is None and not self.carry),
            "label_column and carry name columns of a CSV; state it with labels=path.csv",
        )
        _require(
            len({self.images, self.masks, self.nuclei}) == 3,
            f"images='{self.images}', masks='{self.masks}' and nuclei='{self.nuclei}' must be "
            "different patterns",
        )
        check_jitter(self.jitter, self.jitter_unit, size=self.crop, spacing=self.spacing)

    @property
    def table(self) -> pd.DataFrame:
        """A row a cell, in the order of file names and object numbers."""
        return self._scanned[0]

    @property
    def classes(self) -> tuple[str, ...]:
        """The values of ``label_column``, sorted; all of the CSV, whatever ``limit`` leaves."""
        return self._annotations.classes

    @property
    def spec(self) -> InputSpec:
        """Channels and crop of every file kept; no classes where no label column is given."""
        return InputSpec(channels=self._scanned[1], size=self.crop, classes=len(self.classes))

    @property
    def skipped(self) -> Mapping[str, str]:
        """File name -> why it is left out."""
        return self._scanned[2]

    @property
    def left_out(self) -> int:
        """Objects smaller than ``min_area``."""
        return self._scanned[3]

    def read(self, rows: Sequence[int], /) -> Batch:
        """Crops of these rows; each field is decoded at most once a call."""
        rows = chosen(rows, len(self.table))
        table = self.table.iloc[rows]
        inputs = np.empty((len(rows), self.spec.channels, *self.crop), np.float32)
        names = ("cell", "neighbours") + (("nucleus", "cytoplasm") if self.nuclei else ())
        regions = {name: np.empty((len(rows), *self.crop), bool) for name in names}
        images = table["Metadata_image"].tolist()
        numbers = table["Metadata_object"].tolist()
        first = self._first(table)
        for place in sorted(range(len(rows)), key=lambda place: rows[place]):
            field = self._reader.read(images[place])
            inputs[place] = crop(field.pixels, first[place], self.crop)
            labels = crop(field.labels, first[place], self.crop)
            cell = labels == numbers[place]
            regions["cell"][place] = cell
            regions["neighbours"][place] = (labels > 0) & ~cell
            if field.nuclei is not None:
                nucleus = cell & (crop(field.nuclei, first[place], self.crop) == numbers[place])
                regions["nucleus"][place] = nucleus
                regions["cytoplasm"][place] = cell & ~nucleus
        return to_batch(table, inputs, regions, spacing=self.spacing, stains=self.stains or ())

    def places(self, rows: Sequence[int], /) -> Places:
        """Where the crops of these rows lie in their fields."""
        table = self.table.iloc[chosen(rows, len(self.table))]
        first = self._first(table).astype(float)
        return Places(
            field=tuple(table["Metadata_image"]),
            number=table["Metadata_object"].to_numpy(dtype=np.int64),
            first=first,
            extent=np.broadcast_to(np.array(self.crop, float), first.shape),
        )

    def field(self, name: str, /) -> Field:
        """The field of this name, decoded.

        :raises DataError: one of its files cannot be used.
        """
        return self._reader.read(name)

    def fingerprint(self) -> str:
        """Digest of the files' bytes, the table (with names, without folders) and the options."""
        options = {
            "axes": self.axes,
            "crop": self.crop,
            "channels": self.channels,
            "normalise": self.normalise,
            "percentiles": self.percentiles,
            "spacing": self.spacing,
            "classes": self.classes,
            **({"stains": self.stains} if self.stains else {}),
            **({"level": self.level} if self.level else {}),
        }
        digest = hashlib.blake2b(json.dumps(options, sort_keys=True).encode(), digest_size=16)
        digest.update(self.table.to_csv(index=False).encode())
        for name in self.table["Metadata_image"].unique():
            for path in self._reader.files[name].all:
                digest.update(digest_of(path))
        return digest.hexdigest()

    def within(self, keep: Callable[[str], bool], /) -> Fields | Shard:
        """The cells of the fields whose name passes ``keep``; no other field is opened.

        Only where ``limit`` counts cells over all fields are these looked into first.

        :raises EmptyShardError: no field passes, or none of those has a cell.
        """
        if self.limit is not None:
            rows = np.flatnonzero(self.table["Metadata_image"].map(keep))
            if not len(rows):
                raise EmptyShardError("No cell belongs to this shard.")
            return Shard(self, rows)  # type: ignore[arg-type]  # a Dataset by its attributes
        narrowed = replace(self)
        narrowed.__dict__["_reader"] = replace(self._reader, keep=keep)  # the cached property
        if not narrowed._reader.files:
            raise EmptyShardError("No field belongs to this shard.")
        return narrowed

    def _first(self, table: pd.DataFrame) -> NDArray[np.int64]:
        """The first pixel of each crop, (n, axes), outside the field where it hangs over."""
        axes = "zyx"[-len(self.crop) :]
        centroid = table[[f"Metadata_centroid_{axis}" for axis in axes]].to_numpy(dtype=float)
        moved = displacements(table["id"].tolist(), self._most, seed=self.jitter_seed)
        return starts(centroid, self.crop) + moved

    @cached_property
    def _most(self) -> tuple[int, ...]:
        """Pixels along each axis that a crop may be moved off its cell."""
        return check_jitter(self.jitter, self.jitter_unit, size=self.crop, spacing=self.spacing)

    @cached_property
    def _annotations(self) -> Annotations:
        return read_annotations(
            self.labels,
            image_key=self.image_key,
            object_key=self.object_key,
            label_column=self.label_column,
            carry=self.carry,
            taken=_OWN_COLUMNS,
        )

    @cached_property
    def _reader(self) -> FieldReader:
        return FieldReader(
            images=self.images,
            masks=self.masks,
            nuclei=self.nuclei,
            axes=self.axes,
            dimensions=len(self.crop),
            channels=self.channels,
            normalise=self.normalise,
            percentiles=self.percentiles,
            level=self.level,
            allow_pickle=self.allow_pickle,
        )

    @cached_property
    def _scanned(self) -> tuple[pd.DataFrame, int, Mapping[str, str], int]:
        """The table, the channels, files skipped and small objects; reads every field once."""
        annotations = self._annotations  # first: a wrong column is told before pixels are read
        files = self._reader.files
        skipped = dict(self._reader.unmatched)
        if skipped and self.on_bad_file == "raise":
            raise DataError(_sentence(next(iter(skipped.values()))))
        parts: list[pd.DataFrame] = []
        channels = 0
        cells = small = 0
        for name in sorted(files):
            if self.limit is not None and cells >= self.limit:
                break
            image = files[name].image
            try:
                field = self._reader.read(name)
                if channels not in (0, len(field.pixels)):
                    raise DataError(  # noqa: TRY301  # handled like what the reader raises
                        f"'{shown(image)}' has {len(field.pixels)} channels but the files "
                        f"before it have {channels}; choose some that all have with "
                        "dataset.channels."
                    )
            except DataError as error:
                if self.on_bad_file == "raise":
                    raise DataError(_sentence(str(error))) from error
                skipped[shown(image)] = str(error)
                continue
            channels = len(field.pixels)
            found = self._rows(name, measure(field.labels))
            large = found[found["Metadata_area"] >= self.min_area]
            small += len(found) - len(large)
            parts.append(large)
            cells += len(large)
        if not cells:
            reasons = " ".join(list(skipped.values())[:3])
            kind = DataError if self._reader.keep is None else EmptyShardError
            raise kind(
                f"No cell is left: {len(skipped)} files cannot be used, and {small} objects are "
                f"smaller than min_area={self.min_area} pixels. {reasons}"
            )
        if self.stains is not None and len(self.stains) != channels:
            raise ConfigError(
                f"stains={list(self.stains)} names {len(self.stains)} channels, and {channels} are "
                "read."
            )
        table = pd.concat(parts, ignore_index=True).iloc[: self.limit]
        if self._reader.keep is None:  # a shard may hold no annotated field
            annotations.check(table)
        return annotations.join(table), channels, MappingProxyType(skipped), small

    def _rows(self, name: str, found: Objects) -> pd.DataFrame:
        ids = [f"{name}:{number}" for number in found.number]
        moved = displacements(ids, self._most, seed=self.jitter_seed)
        first = starts(found.centroid, self.crop) + moved
        cut = (found.first < first) | (found.stop > first + np.array(self.crop))
        axes = "zyx"[-len(self.crop) :]
        return pd.DataFrame(
            {
                "id": ids,
                "Metadata_image": name,
                "Metadata_object": found.number,
                "Metadata_area": found.area,
                "Metadata_touches_border": found.touches_border,
                "Metadata_cut": cut.any(axis=1),
                **{
                    f"Metadata_centroid_{axis}": found.centroid[:, number]
                    for number, axis in enumerate(axes)
                },
                **(jitter_columns(moved) if any(self._most) else {}),
            }
        )


def _ordered(space: str) -> str:
    return "".join(axis for axis in "ZYX" if axis in space)


def _sentence(reason: str) -> str:
    return reason[0].upper() + reason[1:]


def _sequence(name: str, value: Any) -> tuple[Any, ...] | None:
    if value is None:
        return None
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise ConfigError(f"{name}={value!r} must be a list, such as {name}=[{value}].")
    return tuple(value)


def _require(condition: bool, sentence: str) -> None:  # noqa: FBT001  # it is the condition
    if not condition:
        raise ConfigError(f"{sentence}.")
