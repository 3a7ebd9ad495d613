"""What the options of fields stand for: made when they are first needed, then kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from attrscore.datasets.annotations import Annotations, read_annotations
from attrscore.datasets.expressions import Expression
from attrscore.datasets.geometry import Geometry, geometry_of
from attrscore.datasets.images.field import FieldReader
from attrscore.datasets.normalising import Normaliser
from attrscore.datasets.regions import Boundary
from attrscore.datasets.scanning import OWN_COLUMNS, Scan, Wanted, plates_of, scan
from attrscore.datasets.segmentation import SEGMENTERS, Segmenter, identity
from attrscore.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from attrscore.datasets.fields import Fields

__all__ = ["FieldParts"]


@dataclass(frozen=True, eq=False)
class FieldParts:
    """Of one dataset of fields."""

    given: Fields

    def check(self) -> None:
        """Make what reads no file.

        :raises ConfigError: an option that such a part refuses.
        """
        for part in (self.boundary, self.where, self.controls, self.segmenter):
            part  # noqa: B018  # checked when it is made

    def told(self) -> dict[str, str]:
        """What the files are like and what is done with them, in words."""
        found = self.scanned
        rule: str = self.given.normalise
        size = " x ".join(map(str, found.geometry.size))
        told = {**found.facts, "crop": f"{size} pixels"}
        if found.geometry.spacing is not None:
            told["crop"] += f" of {' x '.join(f'{n:g}' for n in found.geometry.spacing)} µm"
        if found.stains:
            told["stains"] = ", ".join(found.stains)
        if self.given.controls is not None:
            rule = f"{rule}, by the fields of each plate where {self.given.controls}"
        told["normalised"] = rule
        if self.segmenter is not None:
            options = ", ".join(f"{k} {_said(v)}" for k, v in identity(self.segmenter).items())
            told["masks"] = f"made, not given: {options}"
        return told

    @property
    def regions(self) -> tuple[str, ...]:
        """Names of the regions that every crop has."""
        inner = ("nucleus", "cytoplasm") if self.given.nuclei is not None else ()
        ring = ("boundary",) if self.given.boundary is not None else ()
        return ("cell", "neighbours", *inner, *ring)

    def geometry(self, spacing: tuple[float, ...] | None) -> Geometry:
        """Of the crops of a field with this spacing."""
        return geometry_of(
            self.given.crop,
            unit=self.given.crop_unit,
            resample=self.given.resample,
            spacing=spacing,
            jitter=self.given.jitter,
            jitter_unit=self.given.jitter_unit,
            jitter_seed=self.given.jitter_seed,
        )

    def ratios(self, table: pd.DataFrame) -> NDArray[np.float64]:
        """Pixels of its field that a pixel of each crop spans, (n, axes)."""
        geometry = self.scanned.geometry
        if not geometry.resampled:
            return np.ones((len(table), len(self.given.crop)))
        known = {
            name: geometry.ratio(self.reader.open(name).spacing)
            for name in table["Metadata_image"].unique()
        }
        return np.array([known[name] for name in table["Metadata_image"]]).reshape(
            len(table), len(self.given.crop)
        )

    @cached_property
    def columns(self) -> dict[str, NDArray[Any]]:
        """Of the table, by which rows are taken much faster than from it."""
        table = self.scanned.table
        return {str(name): table[name].to_numpy() for name in table}

    @cached_property
    def boundary(self) -> Boundary | None:
        """The ring around each cell's edge, where one is asked for."""
        width = self.given.boundary
        return None if width is None else Boundary(width=width, side=self.given.boundary_side)

    @cached_property
    def where(self) -> Expression | None:
        """Which cells."""
        return None if self.given.where is None else Expression(self.given.where)

    @cached_property
    def controls(self) -> Expression | None:
        """Which rows of the CSV are controls."""
        text = self.given.controls
        return None if text is None else Expression(text, "controls")

    @cached_property
    def segmenter(self) -> Segmenter | None:
        """What makes the masks, where they are not given."""
        if self.given.masks not in SEGMENTERS:
            return None
        options: dict[str, Any] = {
            "channels": self.given.segment_channels,
            "diameter": self.given.segment_diameter,
        }
        own = {
            "otsu": ("smooth", self.given.segment_smooth),
            "cellpose": ("model", self.given.segment_model),
        }
        name, value = own[self.given.masks]
        return SEGMENTERS[self.given.masks](**options, **{name: value})

    @cached_property
    def annotations(self) -> Annotations:
        """What a table says about cells."""
        return read_annotations(
            self.given.labels,
            image_key=self.given.image_key,
            object_key=self.given.object_key,
            label_column=self.given.label_column,
            carry=self.given.carry,
            taken=OWN_COLUMNS,
            image_table=self.given.image_table,
            image_file=self.given.image_file,
        )

    @cached_property
    def normaliser(self) -> Normaliser:
        """The levels of every field."""
        plates, controls = plates_of(
            self.annotations, self.controls, self.given.plate, self.given.label_column
        )
        return Normaliser(
            rule=self.given.normalise,
            percentiles=self.given.percentiles,
            ranges=self.given.ranges,
            plates=plates,
            controls=controls,
        )

    @cached_property
    def reader(self) -> FieldReader:
        """Finds and opens fields."""
        return FieldReader(
            images=self.given.images,
            masks=None if self.segmenter is not None else self.given.masks,
            nuclei=self.given.nuclei,
            axes=self.given.axes,
            dimensions=len(self.given.crop),
            channels=self.given.channels,
            spacing=self.given.spacing,
            stains=self.given.stains,
            segmenter=self.segmenter,
            level=self.given.level,
            allow_pickle=self.given.allow_pickle,
        )

    @cached_property
    def scanned(self) -> Scan:
        """Reads every field once; a wrong column is told before."""
        annotations, normaliser = self.annotations, self.normaliser
        found = scan(
            self.reader,
            normaliser,
            annotations,
            Wanted(
                geometry=self.geometry,
                min_area=self.given.min_area,
                tiny=self.given.tiny,
                where=self.where,
                label_column=self.given.label_column,
                limit=self.given.limit,
                raises=self.given.on_bad_file == "raise",
            ),
        )
        if found.stains and len(found.stains) != found.channels:
            raise ConfigError(
                f"stains={list(found.stains)} names {len(found.stains)} channels, and "
                f"{found.channels} are read."
            )
        if self.boundary is not None and found.geometry.spacing is None:
            raise ConfigError(
                f"boundary={self.boundary.width} micrometres needs to know how large a pixel is, "
                "which the files do not say; state it with dataset.spacing."
            )
        return found


def _said(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
