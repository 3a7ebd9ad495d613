"""The settings of cells in fields: checked, and what follows from them before any file is read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

from attrscore.core.regions import Side
from attrscore.datasets._options import (
    TableOptions,
    as_tuple,
    as_tuples,
    check_channels,
    check_stains,
    require,
)
from attrscore.datasets.cells.conditions import Condition
from attrscore.datasets.cells.crops import Boundary, Outside
from attrscore.datasets.cells.geometry import (
    Centre,
    CropUnit,
    Geometry,
    JitterUnit,
    Resample,
    check_jitter,
    spacing_of,
)
from attrscore.datasets.cells.normalising import Normalise
from attrscore.datasets.cells.segmentation import SEGMENTERS, Segmenter
from attrscore.datasets.images.readers import check_axes, is_length
from attrscore.errors import ConfigError, choose

_LISTS = (*("crop", "channels", "stains", "percentiles", "spacing", "segment_channels"),)


@dataclass(frozen=True, kw_only=True)
class FieldOptions(TableOptions):
    """What :class:`attrscore.datasets.fields.Fields` is asked for, where each option is explained.

    :raises ConfigError: an option that cannot be right, whatever the files hold.
    """

    images: str
    """Pattern such as 'folder/*.tif', or a folder."""
    masks: str
    """Label images, matched by name (also <name>_cp_masks, _masks, _mask, _labels, _label, _seg);
    or otsu or cellpose, which make them."""
    crop: tuple[float, ...]
    """Size along the axes of the masks: [64,64] or [16,64,64]."""
    crop_unit: CropUnit = "pixel"
    """The unit of crop."""
    resample: Resample = None
    """Micrometres a pixel that crops are brought to: one number, one an axis, or isotropic; null:
    as the files."""
    outside: Outside = "keep"
    """What becomes of pixels that are not of the cell; mean is theirs in each channel."""
    axes: str | None = None
    """YX | CYX | ZYX | CZYX | another order; null: from the files' metadata."""
    channels: tuple[int | str, ...] | None = None
    """Numbers from 0, or names of stains whatever their order in a file: [DNA,AGP]; null: all."""
    stains: tuple[str, ...] | None = None
    """Names of these channels, such as [DNA,AGP], or of all in the files where channels are named;
    null: from the files' metadata."""
    spacing: tuple[float, ...] | None = None
    """Micrometres a pixel of the files, along the crop's axes; null: from their metadata."""
    nuclei: str | None = None
    """Label images where a nucleus has its cell's number."""
    centre: Centre = "cell"
    """What crops are centred on: the centroid of the cell, or of its nucleus, where it has one."""
    boundary: float | None = None
    """Micrometres from the cell's edge that the region boundary reaches; null: no such region."""
    boundary_side: Side = "both"
    """Where the boundary lies."""
    segment_channels: tuple[int | str, ...] = (0,)
    """Of otsu and cellpose: the channels of the files that show the cells, numbers or names."""
    segment_smooth: float = 1.0
    """Of otsu: standard deviation of a Gaussian, pixels of the finest axis."""
    segment_diameter: float | None = None
    """Of a cell in pixels; null: as the method thinks."""
    segment_model: str = "cpsam_v2"
    """Of cellpose: a model that it knows, or the file of one."""
    labels: str | None = None
    """Table with a row a cell: CSV or Parquet."""
    image_key: str | tuple[str, ...] = "image"
    """Column of the table with the image's name; with image_table: what both share, such as
    ImageNumber."""
    object_key: str = "label"
    """Column of the table with the number in the label image."""
    image_table: str | None = None
    """Table with a row an image, where the first does not name it: CellProfiler's Image.csv."""
    image_file: str | None = None
    """Column of image_table with the image's name; null: its only FileName_..."""
    where: str | None = None
    """Which cells: "area > 200 and not touches_border"; names of columns, with or without
    Metadata_."""
    min_area: int = 0
    """Smaller objects are left out; pixels."""
    tiny: float = 0.1
    """Share of the median area of a field below which an object is called tiny."""
    jitter: float | tuple[float, ...] = 0
    """Most that a crop is moved off its cell: a number, or one an axis."""
    jitter_unit: JitterUnit = "pixel"
    """The unit of jitter; pixels are those of the crop."""
    jitter_seed: int = 0
    """Of jitter; how far a cell moves follows from it and the id alone."""
    normalise: Normalise = "percentile"
    """Of each channel of a field."""
    percentiles: tuple[float, float] = (0.1, 99.9)
    """Of percentile: become 0 and 1."""
    ranges: tuple[tuple[float, float], ...] | None = None
    """Of fixed: [lowest, highest] become 0 and 1; or one such pair a channel."""
    controls: str | None = None
    """Normalise by the fields of each plate for which this holds: "Metadata_Treatment ==
    'DMSO'"."""
    plate: str = "Metadata_Plate"
    """Column that says the plate, for controls."""
    series: int | None = None
    """Of files that hold several images: which one, from 0."""
    level: int = 0
    """Resolution level of an OME-Zarr, 0 the finest."""
    allow_pickle: bool = False
    """Read Cellpose's _seg.npy as masks; a pickle from someone else can run any code."""

    def __post_init__(self) -> None:
        super().__post_init__()
        as_tuples(self, *_LISTS)
        object.__setattr__(self, "ranges", _pairs(self.ranges))
        if hasattr(self.resample, "__iter__") and not isinstance(self.resample, str):
            as_tuples(self, "resample")
        if not isinstance(self.image_key, str):
            as_tuples(self, "image_key")
        if self.axes is not None:
            object.__setattr__(self, "axes", check_axes(self.axes))
        self._check_images()
        self._check_normalising()
        self._check_table()
        micrometres = "micrometre" in (self.crop_unit, self.jitter_unit)
        if self.spacing is not None or not (micrometres or self.resample is not None):
            self.geometry(self.spacing)
        for made in (self.ring, self.condition, self.control_condition, self.segmenter):
            made  # noqa: B018  # each is checked when it is made

    @property
    def regions(self) -> tuple[str, ...]:
        """Names of the regions that every crop has."""
        inner = ("nucleus", "cytoplasm") if self.nuclei is not None else ()
        edge = ("boundary",) if self.boundary is not None else ()
        return ("cell", "neighbours", *inner, *edge)

    def geometry(self, spacing: tuple[float, ...] | None, /) -> Geometry:
        """Of the crops of a field with this spacing.

        :raises ConfigError: micrometres are asked for and the spacing is not known.
        """
        target = spacing_of(self.resample, spacing, len(self.crop))
        if self.crop_unit == "pixel":
            size = tuple(int(n) for n in self.crop)
        elif target is None:
            raise ConfigError(
                "crop_unit=micrometre needs to know how large a pixel is, which the files do not "
                "say; state it with dataset.spacing."
            )
        else:
            size = tuple(max(1, round(n / e)) for n, e in zip(self.crop, target, strict=True))
        most = check_jitter(self.jitter, self.jitter_unit, size=size, spacing=target)
        return Geometry(size, target, self.resample is not None, most, self.jitter_seed)

    @cached_property
    def ring(self) -> Boundary | None:
        """The ring around each cell's edge, where one is asked for."""
        return (
            None
            if self.boundary is None
            else Boundary(width=self.boundary, side=self.boundary_side)
        )

    @cached_property
    def condition(self) -> Condition | None:
        """``where``: which cells."""
        return None if self.where is None else Condition(self.where)

    @cached_property
    def control_condition(self) -> Condition | None:
        """``controls``: which rows of the table."""
        return None if self.controls is None else Condition(self.controls, "controls")

    @cached_property
    def segmenter(self) -> Segmenter | None:
        """What makes the masks, where they are not given."""
        if self.masks not in SEGMENTERS:
            return None
        own: dict[str, dict[str, Any]] = {
            "otsu": {"smooth": self.segment_smooth},
            "cellpose": {"model": self.segment_model},
        }
        return SEGMENTERS[self.masks](
            channels=self.segment_channels, diameter=self.segment_diameter, **own[self.masks]
        )

    def _check_images(self) -> None:
        choose(self.outside, get_args(Outside), option="outside")
        choose(self.centre, get_args(Centre), option="centre")
        require(
            self.centre == "cell" or self.nuclei is not None,
            "centre=nucleus needs to know where nuclei are; state their label images with nuclei",
        )
        choose(self.crop_unit, get_args(CropUnit), option="crop_unit")
        whole = self.crop_unit == "pixel"
        require(
            len(self.crop) in (2, 3)
            and all(isinstance(n, int if whole else int | float) and n > 0 for n in self.crop),
            f"crop={list(self.crop)} must be 2 or 3 {'whole ' if whole else ''}numbers of "
            f"{self.crop_unit}s, (Y, X) or (Z, Y, X)",
        )
        if self.axes is not None:
            space = self.axes.replace("C", "")
            ordered = ", ".join(axis for axis in "ZYX" if axis in space)
            require(
                len(space) == len(self.crop),
                f"crop={list(self.crop)} has {len(self.crop)} numbers but axes={self.axes} has "
                f"{len(space)} spatial axes; give one for each of {ordered}",
            )
        require(
            self.spacing is None
            or (len(self.spacing) == len(self.crop) and all(is_length(v) for v in self.spacing)),
            f"spacing={self.spacing} must be {len(self.crop)} positive numbers of micrometres, "
            "as many as crop",
        )
        check_channels(self.channels)
        check_stains(self.stains)
        require(
            self.series is None or self.series >= 0,
            f"series={self.series} must be the number of an image, from 0, or null",
        )
        require(self.level >= 0, f"level={self.level} must be at least 0, the finest")
        require(
            len({self.images, self.masks, self.nuclei}) == 3,
            f"images='{self.images}', masks='{self.masks}' and nuclei='{self.nuclei}' must be "
            "different patterns",
        )
        check_channels(self.segment_channels, option="segment_channels", none="of the files")

    def _check_normalising(self) -> None:
        choose(self.normalise, get_args(Normalise), option="normalise")
        require(
            len(self.percentiles) == 2 and 0 <= self.percentiles[0] < self.percentiles[1] <= 100,
            f"percentiles={list(self.percentiles)} must be (lower, upper) within 0 and 100",
        )
        require(
            (self.ranges is None) == (self.normalise != "fixed"),
            f"normalise={self.normalise} and ranges={self.ranges} do not go together: fixed needs "
            "the ranges that become 0 and 1, and the other rules have none",
        )
        require(
            self.ranges is None
            or all(len(pair) == 2 and pair[0] < pair[1] for pair in self.ranges),
            f"ranges={self.ranges} must be [lowest, highest], or one such pair a channel",
        )
        require(
            self.controls is None or self.normalise not in ("none", "fixed"),
            f"controls='{self.controls}' has no say under normalise={self.normalise}; choose "
            "percentile, max or standard",
        )
        require(
            self.controls is None or self.labels is not None,
            f"controls='{self.controls}' is about the columns of a table; state it with "
            "labels=path.csv",
        )

    def _check_table(self) -> None:
        require(self.min_area >= 0, f"min_area={self.min_area} must be at least 0 pixels")
        require(
            0 <= self.tiny < 1,
            f"tiny={self.tiny} must be a share of the median area, within 0 and 1",
        )
        require(
            self.labels is not None
            or (self.label_column is None and not self.carry and not self.numbers),
            "label_column, carry and numbers name columns of a table; state it with "
            "labels=path.csv",
        )
        require(
            self.image_table is not None or self.image_file is None,
            f"image_file='{self.image_file}' is a column of image_table; state that too",
        )
        require(
            self.labels is not None or self.image_table is None,
            "image_table says which image a row of labels is about; state labels=path.csv",
        )
        require(
            self.class_order is None or self.label_column is not None,
            "class_order orders the values of a column; state it with label_column",
        )


def _pairs(value: Any) -> tuple[tuple[float, ...], ...] | None:
    """One pair of numbers, or a list of pairs, as a list of pairs."""
    given = as_tuple("ranges", value)
    if given and all(isinstance(each, int | float) for each in given):
        return (given,)
    return given and tuple(as_tuple("ranges", each) or () for each in given)
