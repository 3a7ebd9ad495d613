"""An array as its file has it: named axes, voxel size, pixels by slices. Every format gives one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["MICROMETRES", "Decoded", "Pixels", "Stored"]

MICROMETRES: Mapping[str, float] = {
    **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("Å", "angstrom"), 1e-4),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
}
"""Micrometres in the units of length that files name; the Greek mu is there twice, as written."""


class Pixels(Protocol):
    """What can be sliced: a memory map, a Zarr array, a proxy of nibabel's, or one of ours."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Along the axes of the file."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """As a slice of it has."""
        ...

    def __getitem__(self, window: tuple[slice, ...], /) -> Any:
        """One slice an axis, none of them with a step."""
        ...


@dataclass(frozen=True, eq=False)
class Stored:
    """What a file holds.

    ``axes`` has a letter for each axis of ``pixels``: C, Z, Y, X, or another (T, S, Q, ...) for
    what the file calls otherwise or not at all.
    """

    pixels: Pixels
    axes: str
    spacing: Mapping[str, float] = field(default_factory=dict)
    """Axis -> micrometres a voxel, where the file says so."""
    channels: tuple[str, ...] = ()
    """Their names, where the file says so."""
    definite: bool = False
    """Whether the format itself defines the order of Z, Y and X, so that nothing else can hold."""
    placed: NDArray[np.float64] | None = None
    """The affine that takes voxels to the scanner's space, in formats that have one."""


class Decoded:
    """Pixels that can only be had whole: decoded at the first slice, then kept."""

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], load: Callable[[], NDArray[Any]], /
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self._load = load
        self._whole: NDArray[Any] | None = None

    def __getitem__(self, window: tuple[slice, ...], /) -> NDArray[Any]:
        if self._whole is None:
            self._whole = self._load().reshape(self.shape)
        return self._whole[window]
