"""Microscope fields with integer label images, given or made: a crop around every cell.

Options say which files; each file is opened and its objects measured once
(:mod:`attrscore.datasets.cells.objects`); crops are cut when their rows are read
(:mod:`attrscore.datasets.cells.crops`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

import numpy as np

from attrscore.core.contracts import InputSpec
from attrscore.core.registry import DATASETS
from attrscore.datasets.cells.crops import CellsOfFields
from attrscore.datasets.cells.normalising import Levels, Normaliser
from attrscore.datasets.cells.objects import OWN_COLUMNS, Scan, plates_of, scan
from attrscore.datasets.cells.options import FieldOptions
from attrscore.datasets.cells.segmentation import identity
from attrscore.datasets.cells.tables import Annotations, read_annotations
from attrscore.datasets.images import Field, FieldReader
from attrscore.datasets.images.files import digest_of
from attrscore.datasets.images.readers import Choice
from attrscore.datasets.shards import Shard
from attrscore.errors import EmptyShardError

_OF_PIXELS = (
    *("axes", "channels", "level", "spacing", "normalise", "percentiles", "ranges"),
    *("outside", "boundary", "boundary_side"),
)
"""Options that change what is read, beside the geometry of crops and what stands in the table."""


@DATASETS.register("fields")
@dataclass(frozen=True, kw_only=True)
class Fields(FieldOptions, CellsOfFields):
    """Every cell of microscope fields with label images, cropped around it or its nucleus.

    ``images``, ``masks`` and ``nuclei`` are globs (or folders) of TIFF, OME-Zarr, NIfTI, NPY, NPZ
    or PNG files, and of CZI, ND2 and LIF through bioio (:mod:`attrscore.datasets.images.image`).
    They are matched by name; labels inside an OME-Zarr are ``*.zarr/labels/<name>``. ``axes`` are
    those of the images; a mask has them without C.

    ``masks`` may also be ``otsu`` or ``cellpose``: then cells are segmented in the channels
    ``segment_channels`` of the files, once a field; :mod:`attrscore.datasets.cells.segmentation`
    says how, and what the other ``segment_`` options do.

    **Crops.** ``crop`` is their size, in pixels or, with ``crop_unit``, micrometres. Its middle is
    the centroid of the cell, or with ``centre=nucleus`` that of its nucleus. ``resample``
    brings all to pixels of that many micrometres: one number, one an axis, or isotropic, the finest
    axis of the field; linear for pixels, nearest for labels. Beyond the field there are zeros. The
    columns ``Metadata_jitter_y`` ... say how far ``jitter`` moved a crop off its cell.

    **Normalisation**, each channel by itself, before resampling: ``percentile`` takes two
    percentiles of a field to 0 and 1 and cuts off what lies beyond, ``max`` its highest pixel to 1,
    ``standard`` gives it mean 0 and spread 1, ``fixed`` takes stated ``ranges`` to 0 and 1. With
    ``controls``, an expression as of ``where`` on the columns of ``labels``, the numbers are those
    of the control fields on the same ``plate``.

    ``labels`` is a table (CSV or Parquet) with a row a cell, found by the columns ``image_key``
    (file name or stem) and ``object_key`` (number in the label image). CellProfiler's name the
    image in a second one: ``image_table``, with a row an image, which shares the columns
    ``image_key`` (``ImageNumber``, or a list such as ``Metadata_Plate``, ``Metadata_Well``) and has
    its name in ``image_file``. ``label_column`` becomes the class, -1 where missing. Columns that
    ``carry`` names are called ``Metadata_<name>`` in the results (``Metadata_<name>_given`` where
    attrscore measures something of that name). In a CSV all these are text as it stands there, so
    that well 01 stays 01; those named in ``numbers`` are numbers.

    **Regions**: cell; neighbours, which are the other numbers; with ``nuclei`` (a label image where
    the nucleus has its cell's number) also nucleus, as far as it lies in the cell, and cytoplasm;
    with ``boundary`` also boundary, the pixels at most that many micrometres from the cell's edge,
    on the ``boundary_side`` both, inside or outside.

    **Columns**: area (pixels of the field), touches_border, tiny (below the share ``tiny`` of the
    median area of its field), split (in several pieces), cut (larger than its crop), nucleus_area,
    centroid. ``where`` keeps the cells for which an expression holds, such as ``area > 200 and not
    touches_border`` (:class:`attrscore.datasets.cells.conditions.Condition`). Those for which it
    does not, and objects under ``min_area`` pixels, are counted in ``left_out``.

    A file that cannot be used is left out with its reason in ``skipped``, unless ``on_bad_file`` is
    raise. Fields are decoded once and kept, up to 1 GiB together; what is beyond is decoded once
    for its cells and once for its crops, and of fields beyond 256 MiB only the windows that crops
    need.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """The values of ``label_column``; all of the table, whatever ``limit`` leaves."""
        return self._annotations.classes

    @property
    def spec(self) -> InputSpec:
        """Channels and crop of every file kept; no classes where no label column is given."""
        return InputSpec(self._scan.channels, self._scan.geometry.size, len(self.classes))

    @property
    def left_out(self) -> int:
        """Objects smaller than ``min_area``, and those for which ``where`` does not hold."""
        return self._scan.small + self._scan.unwanted

    @property
    def about(self) -> Mapping[str, str]:
        """What the files are like and what is done with them, in words."""
        found = self._scan
        size = " x ".join(map(str, found.geometry.size))
        lines = {**found.facts, "crop": f"{size} pixels"}
        if found.geometry.spacing is not None:
            lines["crop"] += f" of {' x '.join(f'{n:g}' for n in found.geometry.spacing)} µm"
        if found.stains:
            lines["stains"] = ", ".join(found.stains)
        lines["normalised"] = self.normalise
        if self.controls is not None:
            lines["normalised"] += f", by the fields of each plate where {self.controls}"
        if self.segmenter is not None:
            options = ", ".join(
                f"{name} {','.join(map(str, value)) if isinstance(value, tuple) else value}"
                for name, value in identity(self.segmenter).items()
            )
            lines["masks"] = f"made, not given: {options}"
        return MappingProxyType(lines)

    def fingerprint(self) -> str:
        """Digest of the files' bytes, the table (with names, without folders) and the options."""
        geometry = self._scan.geometry
        options = {
            **{name: getattr(self, name) for name in _OF_PIXELS},
            **({} if self.series is None else {"series": self.series}),
            **({} if self.centre == "cell" else {"centre": self.centre}),
            "crop": [geometry.size, geometry.spacing, geometry.resampled],
            "classes": self.classes,
            "stains": self._scan.stains,
            "masks": None if self.segmenter is None else identity(self.segmenter),
        }
        digest = hashlib.blake2b(json.dumps(options, sort_keys=True).encode(), digest_size=16)
        digest.update(self.table.to_csv(index=False).encode())
        for name in self.table["Metadata_image"].unique():
            for path in self._reader.files[name].all:
                digest.update(digest_of(path))
            if self.segmenter is not None:
                digest.update(self._open(name).labels().tobytes())
            if self.controls is not None:  # other files decide
                levels = self._levels(name)
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
        vars(narrowed)["_reader"] = replace(self._reader, keep=keep)
        if not narrowed._reader.files:
            raise EmptyShardError("No field belongs to this shard.")
        return narrowed

    def _open(self, name: str) -> Field:
        return self._reader.open(name)

    def _levels(self, name: str) -> Levels:
        return self._normaliser(name, self._open)

    @cached_property
    def _annotations(self) -> Annotations:
        return read_annotations(self, taken=OWN_COLUMNS)

    @cached_property
    def _normaliser(self) -> Normaliser:
        plates, controls = plates_of(self, self._annotations)
        return Normaliser(
            rule=self.normalise,
            percentiles=self.percentiles,
            ranges=self.ranges,
            plates=plates,
            controls=controls,
        )

    @cached_property
    def _reader(self) -> FieldReader:
        return FieldReader(
            images=self.images,
            masks=None if self.segmenter is not None else self.masks,
            nuclei=self.nuclei,
            axes=self.axes,
            dimensions=len(self.crop),
            channels=self.channels,
            spacing=self.spacing,
            stains=self.stains,
            segmenter=self.segmenter,
            choice=Choice(series=self.series, level=self.level, allow_pickle=self.allow_pickle),
        )

    @cached_property
    def _scan(self) -> Scan:
        # the table first: a wrong column costs no look at any file
        annotations, normaliser = self._annotations, self._normaliser
        return scan(self, self._reader, annotations, normaliser)
