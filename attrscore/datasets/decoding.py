"""Fields by name: which files belong together, and their pixels and label images, decoded."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from attrscore.datasets.crops import Normalise, normalise
from attrscore.datasets.files import find_files, match_files, shown, stem
from attrscore.datasets.images import open_image, open_labels
from attrscore.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Field", "FieldFiles", "FieldReader"]

_IN_MEMORY = 4
"""Fields kept decoded; rows are read field by field, so more would only cost memory."""


@dataclass(frozen=True)
class FieldFiles:
    """The files of one field."""

    image: Path
    mask: Path
    nuclei: Path | None

    @property
    def all(self) -> tuple[Path, ...]:
        """Image and mask, and nuclei if there are any."""
        return tuple(path for path in (self.image, self.mask, self.nuclei) if path is not None)


@dataclass(frozen=True, eq=False)
class Field:
    """One field decoded: pixels (C, *S) normalised, label images *S."""

    pixels: NDArray[np.float32]
    labels: NDArray[Any]
    nuclei: NDArray[Any] | None


@dataclass(frozen=True, eq=False, kw_only=True)
class FieldReader:
    """Finds the files behind the patterns and decodes a field by its name, a few in memory."""

    images: str
    masks: str
    nuclei: str | None
    axes: str | None
    dimensions: int
    """Spatial axes that an image must have."""
    channels: tuple[int, ...] | None
    normalise: Normalise
    percentiles: tuple[float, float]
    level: int = 0
    allow_pickle: bool = False
    keep: Callable[[str], bool] | None = None
    """Which fields there are, by name; None: all."""
    _kept: OrderedDict[str, Field] = field(default_factory=OrderedDict, init=False)

    @cached_property
    def _found(self) -> tuple[dict[str, FieldFiles], dict[str, str]]:
        masks = find_files(self.masks, option="masks")
        nuclei = find_files(self.nuclei, option="nuclei") if self.nuclei is not None else []
        # one folder may hold them all: images '*.tif' then matches '*_cp_masks.tif' as well
        others = {*masks, *nuclei}
        images = [path for path in find_files(self.images, option="images") if path not in others]
        masks = [path for path in masks if path not in nuclei]
        pairs, problems = match_files(images, masks)
        if self.nuclei is None:
            return {
                n: FieldFiles(image, mask, None) for n, (image, mask) in pairs.items()
            }, problems
        inner, more = match_files(images, nuclei, what="nuclei image")
        files = {
            name: FieldFiles(image, mask, inner[name][1])
            for name, (image, mask) in pairs.items()
            if name in inner
        }
        return files, {**more, **problems}

    @property
    def files(self) -> dict[str, FieldFiles]:
        """By name, for every image that has what it needs.

        :raises DataError: a pattern matches no file.
        """
        return {name: files for name, files in self._found[0].items() if self._keeps(name)}

    @property
    def unmatched(self) -> dict[str, str]:
        """File name -> why it belongs to no field."""
        return {name: why for name, why in self._found[1].items() if self._keeps(stem(name))}

    def _keeps(self, name: str) -> bool:
        return self.keep is None or self.keep(name)

    def read(self, name: str, /) -> Field:
        """The field, from memory if it was read lately.

        :raises DataError: one of its files cannot be used.
        """
        if name not in self._kept:
            self._kept[name] = self._decode(self.files[name])
        self._kept.move_to_end(name)
        if len(self._kept) > _IN_MEMORY:
            self._kept.popitem(last=False)
        return self._kept[name]

    def _decode(self, files: FieldFiles) -> Field:
        how: dict[str, Any] = {
            "axes": self.axes,
            "level": self.level,
            "allow_pickle": self.allow_pickle,
        }
        image = open_image(files.image, **how)
        if len(image.space) != self.dimensions:
            raise DataError(
                f"'{shown(files.image)}' has the spatial axes {', '.join(image.space)} but crop "
                f"has {self.dimensions} numbers; give one for each axis, or state dataset.axes."
            )
        labels = open_labels(files.mask, like=image, **how).read()
        nuclei = (
            open_labels(files.nuclei, like=image, what="nuclei image", **how).read()
            if files.nuclei is not None
            else None
        )
        pixels = image.read(channels=self.channels)
        values = normalise(
            pixels, self.normalise, percentiles=self.percentiles, name=shown(files.image)
        )
        return Field(values, labels, nuclei)
