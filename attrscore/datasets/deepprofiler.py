"""Single cells as DeepProfiler exports them: a PNG a cell, its channels side by side.

After ``export_single_cells`` and ``unfold_channels`` of cytomining/DeepProfiler: the file
``{Plate}/{Well}/{Site}/{Target}@{X}x{Y}.png`` holds square tiles, one a channel; where outlines
were given the last one is the cell's mask, 255 inside. ``sc-metadata.csv`` has a row a cell.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attrscore.core.contracts import Batch, InputSpec
from attrscore.core.registry import DATASETS
from attrscore.datasets._options import (
    NothingLeftOut,
    TableOptions,
    as_tuples,
    check_channels,
    check_spacing,
    check_stains,
    numbers_of,
)
from attrscore.datasets.batches import chosen, to_batch
from attrscore.datasets.cells.tables import read_described, rows_of
from attrscore.datasets.images import Image, open_image
from attrscore.datasets.images.files import digest_of
from attrscore.errors import AbsentError, ConfigError, DataError

_NAME = re.compile(r"(?P<target>.*)@(?P<x>[-\d.]+)x(?P<y>[-\d.]+)\.png", re.IGNORECASE)
_CENTRE = {"Nuclei_Location_Center_X": "Metadata_x", "Nuclei_Location_Center_Y": "Metadata_y"}


@DATASETS.register("deepprofiler")
@dataclass(frozen=True, kw_only=True)
class DeepProfiler(NothingLeftOut, TableOptions):
    """Cells from a single-cell export of DeepProfiler, made with outlines so that it has masks.

    ``path`` is the folder with ``sc-metadata.csv`` and ``{Plate}/{Well}/{Site}/*.png``; without
    that table the files themselves say plate, well, site, target and centre. ``label_column`` is
    the class, by default DeepProfiler's number ``Target``. The table's ``Metadata_`` columns are
    carried to the results, and those named in ``carry``, as ``Metadata_<name>``; ``class_order``
    and ``numbers`` are those of ``dataset=fields``.

    Pixels are divided by 255, as DeepProfiler does when it reads them. The export has stretched
    each channel of each crop by itself, so brightness is not comparable between cells. Region:
    cell; neighbours are not in the export. DeepProfiler takes as the mask whatever object lies at
    the centre; where that is background, so is the mask.

    A file that cannot be used is left out with its reason in ``skipped``, unless ``on_bad_file`` is
    raise.
    """

    path: str
    """Folder of the export."""
    metadata: str | None = "sc-metadata.csv"
    """In that folder; null: go by the names of the files."""
    label_column: str | None = "Target"
    """Column that is the class; null: none."""
    channels: tuple[int | str, ...] | None = None
    """Numbers from 0, such as [0,2], or names of stains; null: all."""
    stains: tuple[str, ...] | None = None
    """Names of these channels, such as [DNA,RNA,ER,AGP,Mito], or of all where channels are
    named."""
    spacing: tuple[float, ...] | None = None
    """Micrometres a pixel along Y and X."""

    def __post_init__(self) -> None:
        super().__post_init__()
        as_tuples(self, "channels", "stains", "spacing")
        check_channels(self.channels)
        check_stains(self.stains)
        check_spacing(self.spacing)

    @property
    def table(self) -> pd.DataFrame:
        """A row a file that can be used, in the order of the metadata."""
        return self._scanned[0]

    @property
    def classes(self) -> tuple[str, ...]:
        """The values of ``label_column``; none where it is None."""
        return self._named[1]

    @property
    def spec(self) -> InputSpec:
        """Of the first file; a file of another shape is left out."""
        tiles, size = self._scanned[1]
        channels = tiles - 1 if self.channels is None else len(self.channels)
        return InputSpec(channels=channels, size=(size, size), classes=len(self.classes))

    @property
    def skipped(self) -> Mapping[str, str]:
        """File name -> why it is left out."""
        return MappingProxyType(self._scanned[2])

    def read(self, rows: Sequence[int], /) -> Batch:
        """These cells, in this order.

        :raises DataError: a file that is damaged, or whose last tile is no mask.
        """
        rows = chosen(rows, len(self.table))
        table = self.table.iloc[rows]
        _, size = self._scanned[1]
        inputs = np.empty((len(rows), self.spec.channels, size, size), np.float32)
        cell = np.empty((len(rows), size, size), bool)
        for index, name in enumerate(table["id"]):
            tiles = _tiles(self._open(name))
            cell[index] = _mask(tiles[-1], f"{name}.png")
            pixels = tiles[:-1] if self._numbers is None else tiles[list(self._numbers)]
            inputs[index] = pixels / np.float32(255)
        regions = {"cell": cell}
        named = () if self.stains is None else self.stains
        if self._by_name and self._numbers is not None:
            named = tuple(named[number] for number in self._numbers)
        return to_batch(table, inputs, regions, spacing=self.spacing, stains=named)

    def fingerprint(self) -> str:
        """Digest of the files' bytes, the table and the options."""
        options = {"channels": self.channels, "spacing": self.spacing, "stains": self.stains}
        about = json.dumps({**options, "classes": self.classes}, sort_keys=True)
        digest = hashlib.blake2b(about.encode(), digest_size=16)
        digest.update(self.table.to_csv(index=False).encode())
        for name in self.table["id"]:
            digest.update(digest_of(self._folder / f"{name}.png"))
        return digest.hexdigest()

    @property
    def _by_name(self) -> bool:
        return any(isinstance(each, str) for each in self.channels or ())

    @cached_property
    def _numbers(self) -> tuple[int, ...] | None:
        """The tiles that are read; None: all but the mask."""
        if self.channels is None:
            return None
        return numbers_of(self.channels, self.stains or (), name=self.path)

    @property
    def _folder(self) -> Path:
        return Path(self.path).expanduser()

    def _open(self, name: str) -> Image:
        return open_image(self._folder / f"{name}.png")

    @cached_property
    def _named(self) -> tuple[pd.DataFrame, tuple[str, ...]]:
        """Of every file that there should be: its path in the folder, class, columns."""
        if not self._folder.is_dir():
            raise AbsentError(f"path='{self.path}' is no folder; give that of the exported cells.")
        if self.metadata is None:
            return self._listed()
        where = self._folder / self.metadata
        if not where.is_file():
            raise DataError(
                f"'{self.metadata}' is not in '{self.path}'; give the folder of the export, or "
                "dataset.metadata=null to go by the names of the files."
            )
        given = read_described(self, where, option="metadata", keys=["Image_Name"])
        if "Image_Name" not in given.columns:
            raise DataError(
                f"'{where.name}' has no column 'Image_Name', which names the file of each cell; it "
                f"has: {', '.join(map(str, given.columns[:8]))}."
            )
        rows, classes = rows_of(self, given, name=where.name)
        table = pd.DataFrame(
            {"id": given["Image_Name"].fillna("").str.replace(r"(?i)\.png$", "", regex=True)}
        )
        table["label"] = rows.pop("label")
        for old, new in _CENTRE.items():
            if old in given.columns:
                table[new] = given[old]
        for name in rows:
            table[name] = rows[name]
        return _with_sites(table), classes

    def _listed(self) -> tuple[pd.DataFrame, tuple[str, ...]]:
        if self.carry or self.numbers or self.label_column not in (None, "Target"):
            raise ConfigError(
                "label_column, carry and numbers name columns of the metadata; state it with "
                "dataset.metadata=sc-metadata.csv."
            )
        paths = sorted(path for path in self._folder.glob("*/*/*/*@*x*.png"))
        found = [(path, match) for path in paths if (match := _NAME.fullmatch(path.name))]
        if not found:
            raise DataError(
                f"'{self.path}' holds no file such as Plate/Well/Site/Target@XxY.png; give the "
                "folder of a single-cell export of DeepProfiler."
            )
        table = pd.DataFrame(
            {
                "id": [path.relative_to(self._folder).as_posix()[:-4] for path, _ in found],
                "Target": pd.Series([m["target"] for _, m in found]).replace(["", "nan"], None),
                "Metadata_x": [float(match["x"]) for _, match in found],
                "Metadata_y": [float(match["y"]) for _, match in found],
            }
        )
        rows, classes = rows_of(self, table, name=self.path)
        table["Target"] = rows["label"]
        return _with_sites(table.rename(columns={"Target": "label"})), classes

    @cached_property
    def _scanned(self) -> tuple[pd.DataFrame, tuple[int, int], Mapping[str, str]]:
        """The table, tiles and their size, and what is skipped; opens every file's header."""
        named, _ = self._named
        again = named["id"].duplicated().to_numpy()
        skipped: dict[str, str] = {}
        kept: list[int] = []
        shape: tuple[int, int] | None = None
        for row, name in enumerate(named["id"]):
            if self.limit is not None and len(kept) >= self.limit:
                break
            try:
                if again[row]:
                    raise DataError(  # noqa: TRY301  # handled like what the reader raises
                        f"'{name}.png' has more than one row in '{self.metadata}'; the first is "
                        "used."
                    )
                tiles = self._check(name, shape)
                first = _tiles(self._open(name)) if shape is None else None
            except DataError as error:
                if self.on_bad_file == "raise":
                    raise
                key = f"{name}.png"
                skipped[key if key not in skipped else f"{key}, row {row}"] = str(error)
                continue
            if first is not None:
                # at once, not cell by cell: an export without outlines has no mask at all
                _mask(first[-1], f"{name}.png")
            shape = tiles
            kept.append(row)
        if shape is None:
            reasons = " ".join(list(skipped.values())[:3])
            raise DataError(f"No cell is left: {len(skipped)} files cannot be used. {reasons}")
        channels = shape[0] - 1
        numbers = self._numbers
        if numbers is not None and max(numbers) >= channels:
            raise ConfigError(
                f"channels={list(numbers)} asks for number {max(numbers)}, and the "
                f"crops have {channels}, from 0."
            )
        read = channels if numbers is None or self._by_name else len(numbers)
        check_stains(self.stains, read)
        table = named.iloc[kept].reset_index(drop=True)
        return table, shape, skipped

    def _check(self, name: str, expected: tuple[int, int] | None) -> tuple[int, int]:
        """Tiles of a file and their size.

        :raises DataError: it cannot be used.
        """
        if name.startswith("/") or ".." in name.split("/"):
            raise DataError(f"'{name}.png' leads out of the folder of the export.")
        if not (self._folder / f"{name}.png").is_file():
            raise DataError(f"'{name}.png' is named by '{self.metadata}' and is not there.")
        image = self._open(name)
        height, width = image.shape[1:]
        if image.dtype != np.uint8 or width % height or width < 2 * height:
            raise DataError(
                f"'{name}.png' holds {image.dtype} pixels of the shape {(height, width)}; expected "
                "square tiles of 8 bits side by side, the channels and then the mask."
            )
        tiles = width // height, height
        if expected is not None and tiles != expected:
            raise DataError(
                f"'{name}.png' has {tiles[0]} tiles of {tiles[1]} pixels but the files before it "
                f"have {expected[0]} of {expected[1]}."
            )
        return tiles


def _with_sites(table: pd.DataFrame) -> pd.DataFrame:
    """Plate, well and site from the path, where the table does not have them."""
    parts = table["id"].str.split("/")
    for level, column in enumerate(("Metadata_Plate", "Metadata_Well", "Metadata_Site")):
        if column not in table.columns:
            table[column] = parts.map(
                lambda names, level=level: names[level] if len(names) == 4 else None
            )
    return table


def _tiles(image: Image) -> NDArray[np.uint8]:
    """(tiles, Y, X) of pixels (Y, tiles * X)."""
    pixels: NDArray[np.uint8] = image.read()[0]
    height, width = pixels.shape
    return pixels.reshape(height, width // height, height).transpose(1, 0, 2)


def _mask(tile: NDArray[np.uint8], name: str) -> NDArray[np.bool_]:
    if not np.isin(tile, (0, 255)).all():
        raise DataError(
            f"The last tile of '{name}' is no mask: it holds other values than 0 and 255. Export "
            "the cells again with prepare.outlines in DeepProfiler's configuration, or cut them "
            "from fields with label images (dataset=fields)."
        )
    mask: NDArray[np.bool_] = tile == 255
    return mask
