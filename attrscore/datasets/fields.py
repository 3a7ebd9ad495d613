"""Microscope fields with integer label images, given or made: a crop around every cell."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from types import MappingProxyType
from typing import Literal

import numpy as np
import pandas as pd

from attrscore.core.contracts import Batch, InputSpec
from attrscore.core.registry import DATASETS
from attrscore.datasets.cutting import Outside, cut
from attrscore.datasets.field_options import as_tuple, check, pairs
from attrscore.datasets.field_parts import FieldParts
from attrscore.datasets.geometry import CropUnit, Resample
from attrscore.datasets.images.field import Whole
from attrscore.datasets.images.files import digest_of
from attrscore.datasets.images.stored import check_axes
from attrscore.datasets.jitter import JitterUnit
from attrscore.datasets.normalising import Normalise
from attrscore.datasets.places import Places
from attrscore.datasets.regions import Side
from attrscore.datasets.rows import chosen, to_batch
from attrscore.datasets.segmentation import identity
from attrscore.datasets.shards import Shard
from attrscore.errors import EmptyShardError

__all__ = ["Fields"]

_LISTS = ("crop", "channels", "stains", "carry", "percentiles", "spacing", "segment_channels")
_OF_PIXELS = (
    *("axes", "channels", "level", "spacing", "normalise", "percentiles", "ranges"),
    *("outside", "boundary", "boundary_side"),
)
"""Options that change what is read, beside the geometry of crops and what stands in the table."""


@DATASETS.register("fields")
@dataclass(frozen=True, kw_only=True)
class Fields:
    """Every cell of microscope fields with label images, cropped around its centroid.

    ``images``, ``masks`` and ``nuclei`` are globs (or folders) of TIFF, OME-Zarr, NIfTI, NPY, NPZ
    or PNG files (:mod:`attrscore.datasets.images`); ``level`` is the resolution of an OME-Zarr, 0
    the finest, and ``allow_pickle`` lets Cellpose's ``_seg.npy`` be read as masks. Files are
    matched by name, a mask may end in ``_cp_masks``, ``_masks``, ``_mask``, ``_labels``, ``_label``
    or ``_seg``; labels inside an OME-Zarr are ``*.zarr/labels/<name>``. ``axes`` are those of the
    images (a mask has them without C); None reads them from each file, and so does None for
    ``spacing`` (micrometres a pixel) and ``stains`` (the names of the channels read).

    ``masks`` may also be ``otsu`` or ``cellpose``: then cells are segmented in the channels
    ``segment_channels`` of the files, once a field
    (:mod:`attrscore.datasets.segmentation` says how, and what the other ``segment_`` options do).

    **Crops.** ``crop`` is their size, in pixels or, with ``crop_unit``, micrometres. ``resample``
    brings all to pixels of that many micrometres: one number, one an axis, or isotropic, the finest
    axis of the field; linear for pixels, nearest for labels. ``outside`` says what becomes of
    pixels that are not of the cell: zero, or the mean of these pixels in each channel. Beyond the
    field there are zeros. ``jitter`` moves each crop off its cell by up to that much along each
    axis (one number, or one an axis; ``jitter_unit`` is pixel of the crop, or micrometre), drawn
    from ``jitter_seed`` and the cell's id; the columns ``Metadata_jitter_y`` ... say how far.

    **Normalisation**, each channel by itself, before resampling: ``percentile`` takes two
    percentiles of a field to 0 and 1 and cuts off what lies beyond, ``max`` its highest pixel to 1,
    ``standard`` gives it mean 0 and spread 1, ``fixed`` takes stated ``ranges`` to 0 and 1. With
    ``controls``, an expression as of ``where`` on the columns of ``labels``, the numbers are those
    of the control fields on the same ``plate``.

    ``labels`` is a table (CSV or Parquet) with a row a cell, found by the columns ``image_key``
    (file name or stem) and ``object_key`` (number in the label image). CellProfiler's name the
    image in a second one: ``image_table``, with a row an image, which shares the columns
    ``image_key`` (``ImageNumber``, or a list such as ``Metadata_Plate``, ``Metadata_Well``) and has
    its name in ``image_file``. ``label_column`` becomes the class, -1 where missing. ``Metadata_``
    columns are carried to the results, and those named in ``carry``, as ``Metadata_<name>``.

    **Regions**: cell; neighbours, which are the other numbers; with ``nuclei`` (a label image where
    the nucleus has its cell's number) also nucleus, as far as it lies in the cell, and cytoplasm;
    with ``boundary`` also boundary, the pixels at most that many micrometres from the cell's edge,
    on the ``boundary_side`` both, inside or outside.

    **Columns**: area (pixels of the field), touches_border, tiny (below the share ``tiny`` of the
    median area of its field), split (in several pieces), cut (larger than its crop), nucleus_area,
    centroid. ``where`` keeps the cells for which an expression holds, such as ``area > 200 and not
    touches_border`` (:class:`attrscore.datasets.expressions.Expression`). Those for which it does
    not, and objects under ``min_area`` pixels, are counted in ``left_out``.

    A file that cannot be used is left out with its reason in ``skipped``, unless ``on_bad_file`` is
    raise. In memory are at most four fields, of large ones only the windows that crops need.
    """

    images: str
    masks: str
    crop: tuple[float, ...]
    crop_unit: CropUnit = "pixel"
    resample: Resample = None
    outside: Outside = "keep"
    axes: str | None = None
    channels: tuple[int, ...] | None = None
    stains: tuple[str, ...] | None = None
    spacing: tuple[float, ...] | None = None
    nuclei: str | None = None
    boundary: float | None = None
    boundary_side: Side = "both"
    segment_channels: tuple[int, ...] = (0,)
    segment_smooth: float = 1.0
    segment_diameter: float | None = None
    segment_model: str = "cpsam_v2"
    labels: str | None = None
    label_column: str | None = None
    image_key: str | tuple[str, ...] = "image"
    object_key: str = "label"
    image_table: str | None = None
    image_file: str | None = None
    carry: tuple[str, ...] = ()
    where: str | None = None
    min_area: int = 0
    tiny: float = 0.1
    jitter: float | tuple[float, ...] = 0
    jitter_unit: JitterUnit = "pixel"
    jitter_seed: int = 0
    normalise: Normalise = "percentile"
    percentiles: tuple[float, float] = (0.1, 99.9)
    ranges: tuple[tuple[float, float], ...] | None = None
    controls: str | None = None
    plate: str = "Metadata_Plate"
    limit: int | None = None
    level: int = 0
    allow_pickle: bool = False
    on_bad_file: Literal["skip", "raise"] = "skip"

    def __post_init__(self) -> None:
        for name in _LISTS:
            object.__setattr__(self, name, as_tuple(name, getattr(self, name)))
        object.__setattr__(self, "ranges", pairs(self.ranges))
        if hasattr(self.resample, "__iter__") and not isinstance(self.resample, str):
            object.__setattr__(self, "resample", as_tuple("resample", self.resample))
        if not isinstance(self.image_key, str):
            object.__setattr__(self, "image_key", as_tuple("image_key", self.image_key))
        if self.axes is not None:
            object.__setattr__(self, "axes", check_axes(self.axes))
        check(self)
        micrometres = "micrometre" in (self.crop_unit, self.jitter_unit)
        if self.spacing is not None or not (micrometres or self.resample is not None):
            self._parts.geometry(self.spacing)
        self._parts.check()

    @property
    def table(self) -> pd.DataFrame:
        """A row a cell, in the order of file names and object numbers."""
        return self._parts.scanned.table

    @property
    def classes(self) -> tuple[str, ...]:
        """The values of ``label_column``, sorted; all of the CSV, whatever ``limit`` leaves."""
        return self._parts.annotations.classes

    @property
    def spec(self) -> InputSpec:
        """Channels and crop of every file kept; no classes where no label column is given."""
        found = self._parts.scanned
        return InputSpec(found.channels, found.geometry.size, len(self.classes))

    @property
    def skipped(self) -> Mapping[str, str]:
        """File name -> why it is left out."""
        return MappingProxyType(self._parts.scanned.skipped)

    @property
    def left_out(self) -> int:
        """Objects smaller than ``min_area``, and those for which ``where`` does not hold."""
        return self._parts.scanned.small + self._parts.scanned.unwanted

    @property
    def about(self) -> Mapping[str, str]:
        """What the files are like and what is done with them, in words."""
        return MappingProxyType(self._parts.told())

    def read(self, rows: Sequence[int], /) -> Batch:
        """Crops of these rows; of each field only what they need is decoded."""
        found = self._parts.scanned
        rows = chosen(rows, len(found.table))
        table = {name: column[rows] for name, column in self._parts.columns.items()}
        size = found.geometry.size
        inputs = np.empty((len(rows), found.channels, *size), np.float32)
        regions = {name: np.empty((len(rows), *size), bool) for name in self._parts.regions}
        images = table["Metadata_image"]
        in_order = sorted(range(len(rows)), key=rows.__getitem__)
        for name, places in groupby(in_order, key=images.__getitem__):
            field = self._parts.reader.open(name)
            levels = self._parts.normaliser(name, self._parts.reader.open)
            for place in places:
                cut(
                    field,
                    levels,
                    table["Metadata_object"][place],
                    found.first[rows[place]],
                    geometry=found.geometry,
                    boundary=self._parts.boundary,
                    outside=self.outside,
                    inputs=inputs[place],
                    regions={region: pixels[place] for region, pixels in regions.items()},
                )
        return to_batch(table, inputs, regions, spacing=found.geometry.spacing, stains=found.stains)

    def places(self, rows: Sequence[int], /) -> Places:
        """Where the crops of these rows lie in their fields."""
        rows = chosen(rows, len(self.table))
        table = self.table.iloc[rows]
        ratio = self._parts.ratios(table)
        return Places(
            field=tuple(table["Metadata_image"]),
            number=table["Metadata_object"].to_numpy(dtype=np.int64),
            first=self._parts.scanned.first[rows] * ratio,
            extent=np.array(self.spec.size) * ratio,
        )

    def field(self, name: str, /) -> Whole:
        """The field of this name, decoded and normalised, whole.

        :raises DataError: one of its files cannot be used.
        """
        field = self._parts.reader.open(name)
        levels = self._parts.normaliser(name, self._parts.reader.open)
        return Whole(levels.apply(field.pixels()), field.labels())

    def fingerprint(self) -> str:
        """Digest of the files' bytes, the table (with names, without folders) and the options."""
        geometry = self._parts.scanned.geometry
        options = {
            **{name: getattr(self, name) for name in _OF_PIXELS},
            "crop": [geometry.size, geometry.spacing, geometry.resampled],
            "classes": self.classes,
            "stains": self._parts.scanned.stains,
            "masks": None if self._parts.segmenter is None else identity(self._parts.segmenter),
        }
        digest = hashlib.blake2b(json.dumps(options, sort_keys=True).encode(), digest_size=16)
        digest.update(self.table.to_csv(index=False).encode())
        for name in self.table["Metadata_image"].unique():
            for path in self._parts.reader.files[name].all:
                digest.update(digest_of(path))
            if self._parts.segmenter is not None:
                digest.update(self._parts.reader.open(name).labels().tobytes())
            if self.controls is not None:  # other files decide
                levels = self._parts.normaliser(name, self._parts.reader.open)
                digest.update(levels.low.tobytes() + levels.spread.tobytes())
        return digest.hexdigest()

    def within(self, keep: Callable[[str], bool], /) -> Fields | Shard:
        """The cells of the fields whose name passes ``keep``; no other field is opened.

        Only where ``limit`` counts cells over all fields are these looked into first, and where
        ``controls`` normalise, theirs.

        :raises EmptyShardError: no field passes, or none of those has a cell.
        """
        if self.limit is not None:
            rows = np.flatnonzero(self.table["Metadata_image"].map(keep))
            if not len(rows):
                raise EmptyShardError("No cell belongs to this shard.")
            return Shard(self, rows)  # type: ignore[arg-type]  # a Dataset by its attributes
        narrowed = replace(self)
        # the cached property: nothing is looked for again
        vars(narrowed._parts)["reader"] = replace(self._parts.reader, keep=keep)
        if not narrowed._parts.reader.files:
            raise EmptyShardError("No field belongs to this shard.")
        return narrowed

    @cached_property
    def _parts(self) -> FieldParts:
        """What the options stand for."""
        return FieldParts(self)
