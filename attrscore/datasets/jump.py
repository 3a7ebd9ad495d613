"""Single-cell crops of the JUMP Cell Painting data: the ``objects/*.zarr`` of a plate.

In the Cell Painting Gallery, under ``cpg0016-jump/<source>/workspace/segmentation/<model>/objects/
<batch>/<plate>/``: cells that Cellpose outlined and SPARCSpy cut out. The Zarr of a plate holds a
group for each image, ``source__batch__plate__well__site``, or for each well, whose attribute
``fov_lut`` names its images. A group holds three arrays:

- ``label_image`` (2, Y, X), of a well (images, 2, Y, X): nuclei and cells of the whole image
- ``single_cell_data`` (cells, 7, Y, X): nucleus mask, cell mask, and five stains
- ``single_cell_index`` (cells, 2): a number (of a well, that of the image), and the label of the
  cell in ``label_image``

``channel_mapping.json`` beside the Zarr names what the seven are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attrscore.core.contracts import Batch, InputSpec
from attrscore.core.registry import DATASETS
from attrscore.datasets._options import (
    NothingLeftOut,
    TableOptions,
    as_tuples,
    check_channels,
    check_spacing,
    numbers_of,
)
from attrscore.datasets.batches import chosen, to_batch
from attrscore.datasets.cells.tables import read_described, rows_of
from attrscore.datasets.images.files import digest_of
from attrscore.errors import AbsentError, ConfigError, DataError, UnsupportedError, preview

MASKS = {"nucleus": "NucleusMask", "cell": "CellMask"}
_MAPPING = dict(enumerate((*MASKS.values(), "DNA", "AGP", "ER", "Mito", "RNA")))
_ARRAYS = ("single_cell_data", "single_cell_index", "label_image")
_ORIGIN = ("Source", "Batch", "Plate", "Well", "Site")
_KEYS = ("Metadata_Plate", "Metadata_Well")


@DATASETS.register("jump")
@dataclass(frozen=True, kw_only=True)
class Jump(NothingLeftOut, TableOptions):
    """Cells from the Zarr of a plate in JUMP's ``objects/``, with ``channel_mapping.json`` beside.

    ``path`` is ``<plate>.zarr``, with a group an image or a group a well. ``labels`` is a table
    with a row a well, such as JUMP's ``well.csv.gz``: columns ``Metadata_Plate`` and
    ``Metadata_Well`` (or one of them), the class (``label_column``) and what else to carry.
    Source, batch, plate, well, site, and the number of the cell in its image are carried as
    ``Metadata_...``.

    Regions: cell and nucleus. The pixels were set to 0 outside of the cell, and outside of the
    nucleus in the stain of the DNA, when the crops were made. So no model can read surroundings in
    them, and they have no region neighbours; what a score says is whether a model reads the cell
    or the outline that the zeros give it.

    :raises UnsupportedError: zarr, an extra, is not installed.
    """

    path: str
    """The Zarr of a plate."""
    labels: str | None = None
    """Table with a row a well: CSV or Parquet."""
    wells: tuple[str, ...] | None = None
    """Wells that are read, such as [A01,B02]; null: all."""
    channels: tuple[int | str, ...] | None = None
    """Names of stains, such as [DNA,AGP], or their numbers from 0; null: all."""
    spacing: tuple[float, ...] | None = None
    """Micrometres a pixel along Y and X."""

    def __post_init__(self) -> None:
        super().__post_init__()
        as_tuples(self, "wells", "channels", "spacing")
        check_channels(self.channels)
        check_spacing(self.spacing)

    @property
    def table(self) -> pd.DataFrame:
        """A row a cell, image by image."""
        return self._scanned[0].drop(columns=["group", "row"])

    @property
    def classes(self) -> tuple[str, ...]:
        """The values of ``label_column``; none where it is None."""
        return self._scanned[1]

    @property
    def spec(self) -> InputSpec:
        """Of the first group; all groups of a plate have crops of one size."""
        return InputSpec(
            channels=len(self._stains), size=self._shape[1:], classes=len(self.classes)
        )

    def read(self, rows: Sequence[int], /) -> Batch:
        """These cells, in this order."""
        rows = chosen(rows, len(self._scanned[0]))
        picked = self._scanned[0].iloc[rows]
        pixels = np.empty((len(rows), *self._shape), np.float32)
        for at, (group, row) in enumerate(zip(picked["group"], picked["row"], strict=True)):
            pixels[at] = self._plate[group]["single_cell_data"][int(row)]
        order = {name: number for number, name in self._mapping.items()}
        regions = {region: pixels[:, order[name]] > 0.5 for region, name in MASKS.items()}
        inputs = np.ascontiguousarray(pixels[:, [order[name] for name in self._stains]])
        table = picked.drop(columns=["group", "row"])
        return to_batch(table, inputs, regions, spacing=self.spacing, stains=self._stains)

    def fingerprint(self) -> str:
        """Digest of the files of the groups that are read, the table and the options."""
        about = {"channels": self._stains, "spacing": self.spacing, "classes": self.classes}
        digest = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16)
        digest.update(self.table.to_csv(index=False).encode())
        for group in self._scanned[0]["group"].unique():
            digest.update(digest_of(self._folder / group / "single_cell_data"))
        return digest.hexdigest()

    @property
    def _folder(self) -> Path:
        return Path(self.path).expanduser()

    @cached_property
    def _plate(self) -> Any:
        try:
            import zarr
        except ModuleNotFoundError as error:
            raise UnsupportedError(
                'A Zarr needs a package that is not installed: pip install "attrscore[omezarr]".'
            ) from error
        if not self._folder.is_dir():
            raise AbsentError(f"path='{self.path}' is no folder; give the .zarr of a plate.")
        try:
            return zarr.open_group(str(self._folder), mode="r")
        except (FileNotFoundError, zarr.errors.GroupNotFoundError) as error:
            raise DataError(
                f"'{self.path}' is no Zarr group; give a plate's, such as objects/batch/plate/"
                "plate.zarr."
            ) from error

    @cached_property
    def _mapping(self) -> Mapping[int, str]:
        """What each channel of a crop is; JUMP's own order where nothing says it."""
        beside = self._folder.parent / "channel_mapping.json"
        if not beside.is_file():
            return _MAPPING
        try:
            found = {
                int(number): str(name) for number, name in json.loads(beside.read_text()).items()
            }
        except (ValueError, AttributeError) as error:
            raise DataError(
                f"'{beside.name}' beside '{self.path}' must be JSON such as "
                '{"0": "NucleusMask", "1": "CellMask", "2": "DNA"}.'
            ) from error
        if not set(MASKS.values()) <= set(found.values()):
            raise DataError(
                f"'{beside.name}' beside '{self.path}' names {preview(list(found.values()))}; "
                f"expected {' and '.join(MASKS.values())} among them."
            )
        return found

    @cached_property
    def _stains(self) -> tuple[str, ...]:
        known = [name for _, name in sorted(self._mapping.items()) if name not in MASKS.values()]
        if self.channels is None:
            return tuple(known)
        numbers = numbers_of(self.channels, known, name=self.path)
        if max(numbers) >= len(known):
            raise ConfigError(
                f"channels={list(self.channels)} asks for number {max(numbers)}, and there are "
                f"{len(known)} stains: {', '.join(known)}."
            )
        return tuple(known[number] for number in numbers)

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        """Of a crop with its masks: (channels, Y, X)."""
        first = self._plate[self._scanned[0]["group"].iloc[0]]["single_cell_data"]
        return tuple(first.shape[1:])

    @cached_property
    def _scanned(self) -> tuple[pd.DataFrame, tuple[str, ...]]:
        """A row a cell, with its group and its row there; and the classes."""
        frames = []
        for name in sorted(self._plate.group_keys()):
            parts = name.split("__")
            well = parts[3] if len(parts) == len(_ORIGIN) else name
            if self.wells is None or well in self.wells:
                frames.append(self._cells_of(name))
            if self.limit is not None and sum(map(len, frames)) >= self.limit:
                break
        found = [frame for frame in frames if len(frame)]
        if not found:
            wells = f" in the wells {preview(self.wells)}" if self.wells else ""
            raise DataError(f"'{self.path}' holds no cell{wells}; give the .zarr of a plate.")
        table = pd.concat(found, ignore_index=True)[: self.limit]
        described = self._described(table)
        rows, classes = rows_of(
            self, described, name=self.labels or self.path, taken=list(map(str, table))
        )
        table.insert(1, "label", rows.pop("label").to_numpy())
        for name in rows:
            table[name] = rows[name].to_numpy()
        return table, classes

    def _cells_of(self, name: str) -> pd.DataFrame:
        """The cells of one group."""
        group = self._plate[name]
        missing = [each for each in _ARRAYS if each not in group]
        if missing:
            raise DataError(
                f"The group '{name}' of '{self.path}' has no {preview(missing)}; expected "
                f"{', '.join(_ARRAYS)}, as in JUMP's objects/."
            )
        index = np.asarray(group["single_cell_index"][:])
        cells, channels = group["single_cell_data"].shape[:2]
        if index.shape != (cells, 2) or channels != len(self._mapping):
            raise DataError(
                f"The group '{name}' of '{self.path}' has crops {group['single_cell_data'].shape} "
                f"and an index {index.shape}; expected (cells, {len(self._mapping)}, Y, X) and "
                "(cells, 2)."
            )
        images = list(group.attrs.get("fov_lut", [name]))
        at = index[:, 0].astype(int) if "fov_lut" in group.attrs else np.zeros(cells, int)
        if cells and not 0 <= at.min() <= at.max() < len(images):
            raise DataError(f"The index of the group '{name}' of '{self.path}' leaves its images.")
        image = np.array(images, dtype=object)[at]
        number = index[:, 1].astype(np.int64)
        table = pd.DataFrame({"id": [f"{i}:{n}" for i, n in zip(image, number, strict=True)]})
        parts = [str(each).split("__") for each in image]
        for at_part, column in enumerate(_ORIGIN):
            table[f"Metadata_{column}"] = [
                p[at_part] if len(p) == len(_ORIGIN) else None for p in parts
            ]
        table = table.assign(Metadata_image=image, Metadata_object=number)
        return table.assign(group=name, row=np.arange(cells))

    def _described(self, table: pd.DataFrame) -> pd.DataFrame:
        """What is known of each cell's well, a row a cell."""
        if self.labels is None:
            return table.drop(columns=["id", "group", "row"])
        given = read_described(self, self.labels, option="labels", keys=_KEYS)
        keys = [name for name in _KEYS if name in given]
        if not keys:
            raise DataError(
                f"'{self.labels}' has neither {' nor '.join(_KEYS)}, which name a cell's well; it "
                f"has {preview(list(map(str, given)))}."
            )
        given = given[[*keys, *(n for n in given if n not in table and n not in keys)]]
        if given.duplicated(keys).any():
            raise DataError(
                f"'{self.labels}' has two rows of one {' and '.join(keys)}; expected one a well."
            )
        joined = table[keys].merge(given, on=keys, how="left", validate="many_to_one")
        if joined.drop(columns=keys).isna().all(axis=None):
            raise DataError(
                f"No row of '{self.labels}' is of a well of '{self.path}', such as "
                f"{', '.join(str(table[k].iloc[0]) for k in keys)}."
            )
        return joined
