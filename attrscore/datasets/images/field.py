"""Fields by name: which files belong together, and their pixels and label images, decoded once."""

from __future__ import annotations

import math
import zlib
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from attrscore.datasets._options import numbers_of
from attrscore.datasets.images.files import find_files, match_files, stem
from attrscore.datasets.images.image import Image, open_image, open_labels
from attrscore.datasets.images.readers import Choice, shown
from attrscore.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from attrscore.datasets.cells.segmentation import Segmenter

Window = tuple[slice, ...]

_MEMORY = 2**30
"""Bytes of decoded fields that a dataset keeps; of one sent to another process, an eighth."""

_PIECE = 2**22
"""Pixels of a channel in memory at once where all of a large field is looked at."""


@dataclass(frozen=True)
class FieldFiles:
    """The files of one field."""

    image: Path
    mask: Path | None
    nuclei: Path | None

    @property
    def all(self) -> tuple[Path, ...]:
        """Image, and mask and nuclei where there are any."""
        return tuple(path for path in (self.image, self.mask, self.nuclei) if path is not None)


class LabelImage(Protocol):
    """One number a cell, *S."""

    def read(self, window: Window | None = None, /) -> NDArray[Any]:
        """A window of it, or all."""
        ...


@dataclass(frozen=True, eq=False)
class _Made:
    """A label image that a segmenter makes, once; it is kept compressed."""

    image: Image
    channels: tuple[int, ...]
    segmenter: Segmenter
    kept: dict[Path, bytes]

    def read(self, window: Window | None = None, /) -> NDArray[Any]:
        return self._whole if window is None else self._whole[window]

    @cached_property
    def _whole(self) -> NDArray[np.int32]:
        path = self.image.path
        if path not in self.kept:
            pixels = self.image.read(channels=self.channels)
            labels = self.segmenter(pixels, spacing=self.image.spacing, name=shown(path))
            if not labels.any():
                raise DataError(f"segmentation found no cell in '{shown(path)}'.")
            self.kept[path] = zlib.compress(labels.tobytes(), 1)
        flat = np.frombuffer(zlib.decompress(self.kept[path]), np.int32)
        return flat.reshape(self.image.shape[1:])


@dataclass(frozen=True, eq=False)
class Field:
    """One field, opened: its images say what is decoded whole and kept, and what by window."""

    image: Image
    channels: tuple[int, ...]
    """Those of the image that are read, in their order."""
    spacing: tuple[float, ...] | None
    """Micrometres a voxel along *S."""
    stains: tuple[str, ...]
    """Names of these channels, where they are known."""
    masks: Mapping[str, LabelImage]
    """``cell``, and ``nucleus`` where there is one: the number of its cell."""

    @property
    def shape(self) -> tuple[int, ...]:
        """*S."""
        return self.image.shape[1:]

    @property
    def size(self) -> int:
        """Bytes that it takes when it is decoded, label images counted with 4 a pixel."""
        whole = math.prod(self.image.shape) * self.image.dtype.itemsize
        return whole + 4 * math.prod(self.shape) * len(self.masks)

    def pixels(self, window: Window | None = None, /) -> NDArray[Any]:
        """(C, *S) as they are in the file; without a window, all of it."""
        return self.image.read(window, channels=self.channels)

    def labels(self, window: Window | None = None, /, *, of: str = "cell") -> NDArray[Any]:
        """One number a cell, *S; without a window, all of it."""
        return self.masks[of].read(window)

    def pieces(self) -> Iterator[Iterator[NDArray[Any]]]:
        """Every channel, each in pieces along the first axis."""
        rest = tuple(slice(0, extent) for extent in self.shape[1:])
        thick = max(1, _PIECE // max(1, math.prod(self.shape[1:])))
        ends = [(n, min(n + thick, self.shape[0])) for n in range(0, self.shape[0], thick)]
        for channel in self.channels:
            yield (self.image.read((slice(*e), *rest), channels=(channel,)) for e in ends)


class Kept:
    """Fields in memory by name, as many as ``most`` bytes hold, and the one asked for last.

    Fields are looked through in order for their cells and then read in the same order for the
    crops. So it is the last one before that makes room: those that come first again stay.
    """

    def __init__(self, most: int, /) -> None:
        self.most = most
        self._fields: OrderedDict[str, Field] = OrderedDict()
        self._used = 0

    def get(self, name: str, open_field: Callable[[], Field], /) -> Field:
        """The field of this name, opened if it is not there."""
        field = self._fields.pop(name, None)
        if field is None:
            field = open_field()
            self._used += field.size
        while self._fields and self._used > self.most:
            self._used -= self._fields.popitem()[1].size
        self._fields[name] = field
        return field

    def clear(self) -> None:
        """Forget all."""
        self._fields.clear()
        self._used = 0

    def __reduce__(self) -> tuple[Any, ...]:
        # another process opens its fields itself, and there may be several
        return Kept, (_MEMORY // 8,)


@dataclass(frozen=True, eq=False, kw_only=True)
class FieldReader:
    """Finds the files behind the patterns and opens a field by its name."""

    images: str
    masks: str | None
    """None: made by the segmenter."""
    nuclei: str | None
    axes: str | None
    dimensions: int
    """Spatial axes that an image must have."""
    channels: tuple[int | str, ...] | None
    """Numbers, or names of stains."""
    spacing: tuple[float, ...] | None
    """None: as the files say."""
    stains: tuple[str, ...] | None
    """Names of these channels, or of all where a channel is named; None: as the files say."""
    segmenter: Segmenter | None
    choice: Choice
    """Of what a file holds."""
    keep: Callable[[str], bool] | None = None
    """Which fields there are, by name; None: all."""
    _kept: Kept = field(default_factory=lambda: Kept(_MEMORY), init=False)
    _made: dict[Path, bytes] = field(default_factory=dict, init=False)
    """Labels of the segmenter, compressed: of every field, so that none is segmented twice."""

    @cached_property
    def _found(self) -> tuple[dict[str, FieldFiles], dict[str, str]]:
        masks = find_files(self.masks, option="masks") if self.masks is not None else []
        nuclei = find_files(self.nuclei, option="nuclei") if self.nuclei is not None else []
        # one folder may hold them all: images '*.tif' then matches '*_cp_masks.tif' as well
        others = {*masks, *nuclei}
        images = [path for path in find_files(self.images, option="images") if path not in others]
        masks = [path for path in masks if path not in nuclei]
        files, problems = _matched(images, masks if self.masks is not None else None)
        if self.nuclei is None:
            return files, problems
        inner, more = match_files(images, nuclei, what="nuclei image")
        whole = {
            name: FieldFiles(found.image, found.mask, inner[name][1])
            for name, found in files.items()
            if name in inner
        }
        return whole, {**more, **problems}

    @property
    def every(self) -> dict[str, FieldFiles]:
        """By name, for every image that has what it needs, also those that are not kept.

        :raises DataError: a pattern matches no file.
        """
        return self._found[0]

    @property
    def files(self) -> dict[str, FieldFiles]:
        """Of ``every``, those kept."""
        return {name: files for name, files in self._found[0].items() if self._keeps(name)}

    @property
    def unmatched(self) -> dict[str, str]:
        """File name -> why it belongs to no field."""
        return {name: why for name, why in self._found[1].items() if self._keeps(stem(name))}

    def _keeps(self, name: str) -> bool:
        return self.keep is None or self.keep(name)

    def open(self, name: str, /) -> Field:
        """The field, from memory if it is still there.

        :raises DataError: one of its files cannot be used.
        """
        return self._kept.get(name, lambda: self._open(self.every[name]))

    def swapped(self) -> bool:
        """Whether an image can be read as the mask of what is given as its mask."""
        for files in list(self.files.values())[:1]:
            if files.mask is not None:
                with suppress(DataError):
                    image = open_image(files.mask, axes=self.axes, choice=self.choice)
                    mask = open_labels(files.image, like=image, axes=self.axes, choice=self.choice)
                    return bool(mask.read().any())
        return False

    def _open(self, files: FieldFiles) -> Field:
        how: dict[str, Any] = {"axes": self.axes, "choice": self.choice}
        image = open_image(files.image, spacing=self.spacing, **how)
        if len(image.space) != self.dimensions:
            raise DataError(
                f"'{shown(files.image)}' has the spatial axes {', '.join(image.space)} but crop "
                f"has {self.dimensions} numbers; give one for each axis, or state dataset.axes."
            )
        masks: dict[str, LabelImage] = {}
        if files.mask is not None:
            masks["cell"] = open_labels(files.mask, like=image, **how)
        elif self.segmenter is not None:
            shows = self.segmenter.channels
            numbers = self._numbers(shows, image, "segment_channels")
            masks["cell"] = _Made(image, numbers, self.segmenter, self._made)
        if files.nuclei is not None:
            masks["nucleus"] = open_labels(files.nuclei, like=image, what="nuclei image", **how)
        wanted = tuple(range(image.shape[0]))
        if self.channels is not None:
            wanted = self._numbers(self.channels, image, "channels")
        if wanted and max(wanted) >= image.shape[0]:
            raise DataError(
                f"'{shown(files.image)}' has {image.shape[0]} channels but channels="
                f"{list(wanted)} asks for number {max(wanted)}; they count from 0."
            )
        named = image.stains and tuple(image.stains[c] for c in wanted)
        if self._by_name:  # as they are asked for, however this file spells them
            known = self._names(image)
            asked = zip(self.channels or (), wanted, strict=True)
            named = tuple(each if isinstance(each, str) else known[c] for each, c in asked)
        elif self.stains:
            named = self.stains
        return Field(image, wanted, image.spacing, named, masks)

    @property
    def _by_name(self) -> bool:
        return any(isinstance(each, str) for each in self.channels or ())

    def _names(self, image: Image) -> tuple[str, ...]:
        """What all channels of a file are called, where that is known."""
        if not self.stains or not self._by_name:
            return image.stains
        if len(self.stains) != image.shape[0]:
            raise DataError(
                f"'{shown(image.path)}' has {image.shape[0]} channels but stains="
                f"{list(self.stains)} names {len(self.stains)}; where dataset.channels are names, "
                "it names all channels of the files."
            )
        return self.stains

    def _numbers(
        self, channels: tuple[int | str, ...], image: Image, option: str
    ) -> tuple[int, ...]:
        known = self._names(image)
        return numbers_of(channels, known, name=shown(image.path), option=option)


def _matched(
    images: list[Path], masks: list[Path] | None
) -> tuple[dict[str, FieldFiles], dict[str, str]]:
    if masks is not None:
        pairs, problems = match_files(images, masks)
        return {n: FieldFiles(image, mask, None) for n, (image, mask) in pairs.items()}, problems
    # each image as its own partner: names that stand twice are found there
    pairs, problems = match_files(images, images)
    return {n: FieldFiles(image, None, None) for n, (image, _) in pairs.items()}, problems
