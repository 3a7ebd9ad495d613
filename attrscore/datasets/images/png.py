"""PNG: masks as Cellpose and others write them, and images of 8 or 16 bits."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from attrscore.datasets.images.stored import Decoded, Stored
from attrscore.errors import DataError

__all__ = ["open_png"]

_END = b"\0\0\0\0IEND\xaeB`\x82"
"""The last bytes of a whole file."""

_KINDS = {
    "1": ("bool", 0),
    "L": ("uint8", 0),
    "P": ("uint8", 0),  # of a palette the numbers, which is how label images are coloured
    "I;16": ("uint16", 0),
    "I": ("int32", 0),
    "LA": ("uint8", 2),
    "RGB": ("uint8", 3),
    "RGBA": ("uint8", 4),
}
"""Pillow's mode -> type of the pixels, samples of each (0: no such axis)."""


def open_png(path: Path, /) -> Stored:
    """Y, X, and S for the samples of a coloured one."""
    with path.open("rb") as file:
        header = file.read(26)
    with Pillow.open(path, formats=("PNG",)) as image:
        width, height = image.size
        if image.mode not in _KINDS:
            raise DataError(
                f"'{path.name}' is a PNG of the kind {image.mode}; expected grey or RGB."
            )
        dtype, samples = _KINDS[image.mode]
    if samples and header[24] == 16:
        # Pillow would give 8 bits without a word
        raise DataError(
            f"'{path.name}' has 16 bits a sample in colour, of which only 8 would be read; save it "
            "as TIFF."
        )
    with path.open("rb") as file:
        file.seek(-len(_END), os.SEEK_END)
        if file.read() != _END:
            _decode(path)  # cut short, most likely: told now, not when a crop is read
    shape = (height, width, *((samples,) if samples else ()))
    pixels = Decoded(shape, np.dtype(dtype), lambda: _decode(path))
    return Stored(pixels, "YXS" if samples else "YX")


def _decode(path: Path) -> NDArray[np.generic]:
    with Pillow.open(path, formats=("PNG",)) as image:
        return np.asarray(image)
