"""Which formats can be read, and what reads each: the one table of them."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attrscore.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which of what a file holds is meant."""

    series: int | None = None
    """The image, of a file that holds several; None: there must be one."""
    lone: bool = False
    """Whether a file with one image has that one, whatever ``series`` says."""
    level: int = 0
    """The resolution of an OME-Zarr, 0 the finest."""
    allow_pickle: bool = False
    """Whether a ``_seg.npy`` of Cellpose may be unpickled, which runs code."""

    def of(self, shapes: Sequence[str], name: str, /) -> int:
        """Which of the images that a file called ``name`` holds; ``shapes`` describe them.

        :raises DataError: none, several and no choice, or another number.
        """
        found = "; ".join(f"{number}: {shape}" for number, shape in enumerate(shapes))
        if len(shapes) == 1 and (self.lone or self.series is None):
            return 0
        if not shapes:
            raise DataError(f"'{name}' holds no image.")
        if self.series is None:
            raise DataError(
                f"'{name}' holds {len(shapes)} images ({found}); choose one with dataset.series=0, "
                "or write each to a file of its own."
            )
        if not 0 <= self.series < len(shapes):
            raise DataError(f"series={self.series} is not in '{name}', which holds {found}.")
        return self.series


@dataclass(frozen=True)
class Reader:
    """What reads a format."""

    kind: str
    """What a file of it is called in a sentence."""
    module: str
    function: str
    """``(path, choice) -> Stored``, in that module of this package."""
    package: str = ""
    """What it needs beside the dependencies of attrscore."""
    extra: str = ""
    """The extra of attrscore that brings this package."""

    def __call__(self, path: Path, choice: Choice, /) -> Stored:
        """Open the file; the format's package is imported now.

        :raises ConfigError: the package is not installed.
        """
        try:
            module = import_module(f"attrscore.datasets.images.{self.module}")
            read: Callable[[Path, Choice], Stored] = getattr(module, self.function)
            return read(path, choice)
        except ModuleNotFoundError as error:
            if not self.package or error.name != self.package:
                raise
            raise ConfigError(
                f"'{path.name}' needs the package {self.package}: pip install "
                f"'attrscore[{self.extra}]'"
            ) from error


_TIFF = Reader("TIFF", "tiff", "open_tiff")
_NIFTI = Reader("NIfTI", "formats", "open_nifti", "nibabel", "nifti")

READERS = {
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".png": Reader("PNG", "formats", "open_png"),
    ".nii": _NIFTI,
    ".nii.gz": _NIFTI,
    ".npy": Reader(".npy", "formats", "open_npy"),
    ".npz": Reader(".npz", "formats", "open_npz"),
    ".zarr": Reader("Zarr", "ngff", "open_ngff", "zarr", "omezarr"),
    ".czi": Reader("CZI", "formats", "open_bioio", "bioio", "bioio"),
    ".nd2": Reader("ND2", "formats", "open_bioio", "bioio", "bioio"),
    ".lif": Reader("LIF", "formats", "open_bioio", "bioio", "bioio"),
}
"""By the ending of the file's name, in letters of any case."""

SUFFIXES = tuple(READERS)


def reader_of(path: Path, /) -> Reader:
    """Of a file, or of a Zarr folder and what lies in it.

    :raises DataError: an ending that is not in the table.
    """
    name = path.name.lower()
    found = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)
    if any(folder.suffix.lower() == ".zarr" for folder in path.parents):
        found = ".zarr"
    if found is None:
        raise DataError(
            f"'{path.name}' has an ending that is not known; expected one of {', '.join(SUFFIXES)}."
        )
    return READERS[found]


ORDER = "CZYX"

LARGE = 2**28
"""Bytes of pixels up to which an image is decoded whole; of a larger one, windows are."""

_MOST_CLAIMED, _MOST_INFLATION = 2**30, 200
"""An image that claims more bytes than this, and so many times those of its file, is refused."""

_MICROMETRES: Mapping[str, float] = {
    **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("Å", "angstrom"), 1e-4),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
}
"""The units of length that files name; the Greek mu is there twice, as written."""


def in_zarr(path: Path, /) -> tuple[Path, tuple[str, ...]] | None:
    """The Zarr folder that ``path`` is or lies in, and the names from there on.

    >>> in_zarr(Path("a/b.ome.zarr/labels/cells"))
    (PosixPath('a/b.ome.zarr'), ('labels', 'cells'))
    """
    for folder in (path, *path.parents):
        if folder.suffix.lower() == ".zarr":
            return folder, path.relative_to(folder).parts
    return None


def shown(path: Path, /) -> str:
    """What a file is called in a sentence: its name, or its path in a Zarr folder.

    Bytes that are not UTF-8 stand there as such: no terminal and no table takes them as they are.

    >>> shown(Path("x/a.tif")), shown(Path("x/b.zarr/labels/cells"))
    ('a.tif', 'b.zarr/labels/cells')
    """
    found = in_zarr(path)
    name = path.name if found is None else "/".join((found[0].name, *found[1]))
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@dataclass(frozen=True, eq=False)
class Stored:
    """What a file holds.

    ``axes`` has a letter for each axis of ``pixels``: C, Z, Y, X, or another (T, S, Q, ...) for
    what the file calls otherwise or not at all.
    """

    pixels: Any
    """Has a ``shape`` and a ``dtype``, and gives a window for one slice an axis, without a step."""
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
    """Pixels that are decoded whole, at the first slice, and then kept."""

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


class Opened:
    """Windows of pixels through a library that keeps the file open.

    ``open_file`` gives what is sliced, and what closes the file. It is called once a process: after
    a fork two processes would share one position in the file. A slice begins at ``first``.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        open_file: Callable[[], tuple[Any, Callable[[], object]]],
        /,
        first: tuple[int, ...] | None = None,
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self._open_file = open_file
        self._first = first or (0,) * len(shape)
        self._array: Any = None
        self._process = -1

    def __getitem__(self, window: tuple[slice, ...], /) -> NDArray[Any]:
        if self._process != os.getpid():
            self._array, close = self._open_file()
            self._process = os.getpid()
            weakref.finalize(self, close)
        moved = (
            slice(each.start + by, each.stop + by)
            for each, by in zip(window, self._first, strict=True)
        )
        return np.asarray(self._array[tuple(moved)])


def by_size(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    open_file: Callable[[], tuple[Any, Callable[[], object]]],
    /,
    decode: Callable[[], NDArray[Any]] | None = None,
    first: tuple[int, ...] | None = None,
) -> Decoded | Opened:
    """Pixels decoded whole, by ``decode`` where that is given; of a large image by window."""
    opened = Opened(shape, dtype, open_file, first)
    if math.prod(shape) * dtype.itemsize > LARGE:
        return opened
    whole = tuple(slice(0, extent) for extent in shape)
    return Decoded(shape, dtype, decode or (lambda: opened[whole]))


def check_claim(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], /, held: int) -> None:
    """That a file of ``held`` bytes can hold this image, before memory is taken for it.

    :raises DataError: it claims more than 1 GiB, and more than 200 times what it holds.
    """
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > max(_MOST_CLAIMED, _MOST_INFLATION * held):
        raise DataError(
            f"'{shown(path)}' claims {claimed / 2**30:.1f} GiB of pixels, more than "
            f"{_MOST_INFLATION} times the {held / 2**20:.1f} MiB that it holds; it may be damaged "
            "or forged: if not, write it without compression."
        )


def micrometres(size: object, unit: object, /) -> float | None:
    """A length in micrometres; None where it is no number above 0, or the unit is not known.

    >>> micrometres("250", "nm"), micrometres("0,25", "µm"), micrometres("", "µm")
    (0.25, None, None)
    """
    try:
        length = float(str(size))
    except ValueError:  # empty, or with a decimal comma: not for us to guess
        return None
    scale = _MICROMETRES.get(str(unit))
    return length * scale if scale is not None and length > 0 else None


def is_length(size: float, /) -> bool:
    """Whether a voxel can be this many micrometres long: between a picometre and a kilometre."""
    return 1e-6 <= size <= 1e9


def check_axes(axes: str, /) -> str:
    """``axes`` in capitals, if it names Y, X and at most Z and C, each once.

    >>> check_axes("cyx")
    'CYX'
    """
    axes = axes.upper()
    if len(set(axes)) != len(axes) or not {"Y", "X"} <= set(axes) <= set(ORDER):
        raise ConfigError(
            f"axes={axes!r} must name Y and X, with Z and C where the files have them, each once: "
            "YX, CYX, ZYX, CZYX, or another order; null reads them from the files."
        )
    return axes


def known(axes: str, /) -> bool:
    """Whether each is one of ours."""
    return set(axes) <= set(ORDER)


def long_axes(stored: Stored, /) -> tuple[int, ...]:
    """The shape as people think of it: without axes of length 1."""
    return tuple(extent for extent in stored.pixels.shape if extent != 1)


def named(stored: Stored, path: Path, /) -> str:
    """The axes as the file names them; those of length 1 are dropped, except Y and X."""
    shape = stored.pixels.shape
    order = "".join(
        "-" if extent == 1 and axis not in "YX" else axis
        for axis, extent in zip(stored.axes, shape, strict=True)
    )
    axes = order.replace("-", "")
    if not {"Y", "X"} <= set(axes) <= set(ORDER) or len(set(axes)) != len(axes):
        raise DataError(
            f"'{shown(path)}' of shape {long_axes(stored)} does not say what its axes are (read: "
            f"{axes}); state them with dataset.axes, such as ZYX or CYX."
        )
    return order


def stated(stored: Stored, axes: str, path: Path, /) -> str:
    """``axes`` laid over those of the file: all of them, those longer than 1, or those it names."""
    shape = stored.pixels.shape
    long = [extent != 1 for extent in shape]
    spare = [e == 1 and a not in axes for a, e in zip(stored.axes, shape, strict=True)]
    # tifffile gives each pixel an axis of its samples, which is none where there is one sample
    lone = stored.axes.endswith("S") and shape[-1] == 1
    if len(axes) == len(shape) and not (lone and axes[-1] != "C"):
        order = axes
    elif len(axes) == sum(long):
        letters = iter(axes)
        order = "".join(next(letters) if kept else "-" for kept in long)
    elif set(axes) <= set(stored.axes) and len(axes) == len(shape) - sum(spare):
        order = "".join("-" if s else a for a, s in zip(stored.axes, spare, strict=True))
    else:
        raise DataError(
            f"axes={axes} names {len(axes)} axes but '{shown(path)}' has the shape "
            f"{long_axes(stored)}; state the axes that the file has."
        )
    contrary = any(
        laid in "ZYX" and laid != own for laid, own in zip(order, stored.axes, strict=True)
    )
    if stored.definite and contrary:
        raise DataError(
            f"axes={axes} is not how '{shown(path)}' is stored, whose format says "
            f"{stored.axes}; leave dataset.axes out."
        )
    return order
