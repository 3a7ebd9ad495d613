"""An image or a label image on disk, of whatever format: its axes, and windows of its pixels.

========================= ===================================================================
ending                    read
========================= ===================================================================
``.tif`` ``.tiff``        this file's image; axes and voxel size from OME and ImageJ metadata;
                          of a file with several images the one that ``series`` says
``.zarr``                 OME-Zarr 0.4 to 0.6, one resolution ``level``; labels are
                          ``image.zarr/labels/<name>``
``.nii`` ``.nii.gz``      NIfTI: x, y, z become X, Y, Z as they are stored, so the array is
                          turned into Z, Y, X and nothing is flipped or resampled
``.npy``                  memory-mapped; ``_seg.npy`` of Cellpose with ``allow_pickle`` only
``.npz``                  it holds one array
``.png``                  grey levels and palettes as numbers, not as brightness
``.czi`` ``.nd2``         through bioio and its plugin for the format, which are installed apart;
``.lif``                  ``series`` is the number of the scene
========================= ===================================================================

Images of up to 256 MiB are decoded whole. Of larger ones windows are: TIFF through zarr where that
is installed, OME-Zarr, NIfTI without compression, NPY and what bioio opens.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from attrscore.datasets.images.readers import (
    ORDER,
    Choice,
    Stored,
    is_length,
    known,
    long_axes,
    named,
    reader_of,
    shown,
    stated,
)
from attrscore.errors import AttrscoreError, DataError

_OF_THE_SYSTEM = (errno.EACCES, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOENT, errno.EPERM)

T = TypeVar("T")

_ONE = Choice()


@dataclass(frozen=True, eq=False)
class Image:
    """Pixels (C, *S) in the type of their file, and what its metadata say.

    What cannot be read in part is decoded at the first read and kept as long as this object.
    """

    path: Path
    space: str
    """The spatial axes, ZYX or YX."""
    shape: tuple[int, ...]
    """(C, *S)."""
    dtype: np.dtype[Any]
    spacing: tuple[float, ...] | None
    """Micrometres a voxel along *S, where the file says so for each axis."""
    stains: tuple[str, ...]
    """Names of the channels, where the file has them."""
    stored: Stored
    order: str
    """The letter of each axis of ``stored``; ``-`` for one of length 1 that is dropped."""

    def read(
        self,
        window: tuple[slice, ...] | None = None,
        /,
        *,
        channels: Sequence[int] | None = None,
    ) -> NDArray[Any]:
        """A window along *S (None: all) of some channels (None: all), in their order.

        Slices lie within the image and have no step. Only what they touch is decoded where the
        format allows.

        :raises DataError: damaged, or without a channel asked for.
        """
        whole = tuple(slice(0, extent) for extent in self.shape[1:])
        wanted = dict(zip(self.space, whole if window is None else window, strict=True))
        chosen = list(range(self.shape[0]) if channels is None else channels)
        if max(chosen, default=0) >= self.shape[0]:
            raise DataError(
                f"'{shown(self.path)}' has {self.shape[0]} channels but channels={chosen} asks for "
                f"number {max(chosen)}; they count from 0."
            )
        # one slice that holds them all, then their order: no format selects single planes alike
        first, stop = min(chosen, default=0), max(chosen, default=-1) + 1
        wanted |= {"C": slice(first, stop), "-": slice(0, 1)}
        extents = [each.stop - each.start for each in (wanted[axis] for axis in self.space)]
        if not all(extents):  # not every format can give nothing
            return np.empty((len(chosen), *extents), self.dtype.newbyteorder("="))
        pixels = _explained(
            self.path, lambda: np.asarray(self.stored.pixels[tuple(wanted[a] for a in self.order)])
        )
        pixels = pixels.reshape(
            [n for n, axis in zip(pixels.shape, self.order, strict=True) if axis != "-"]
        )
        kept = self.order.replace("-", "")
        pixels = pixels.transpose([kept.index(axis) for axis in ORDER if axis in kept])
        if "C" not in kept:
            pixels = pixels[None]
        if chosen != list(range(first, stop)):
            pixels = pixels[[channel - first for channel in chosen]]
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


@dataclass(frozen=True, eq=False)
class Labels:
    """A label image on the grid *S of its image: whole numbers, 0 for background."""

    image: Image
    what: str = "mask"
    """What it is called in an error."""

    def read(self, window: tuple[slice, ...] | None = None, /) -> NDArray[Any]:
        """A window (None: all), mostly as int32: see :meth:`numbers`.

        :raises DataError: damaged; negative numbers, or ones beyond 2^63; read whole and empty.
        """
        return self.numbers(self.image.read(window)[0], whole=window is None)

    def numbers(self, pixels: NDArray[Any], /, *, whole: bool) -> NDArray[Any]:
        """Pixels *S of its image as int32, or as int64 where numbers are that large.

        A window of unsigned numbers of at most 16 bits stays as it is.
        """
        if not whole and pixels.dtype.kind == "u" and pixels.dtype.itemsize <= 2:
            return pixels
        low, high = (int(pixels.min()), int(pixels.max())) if pixels.size else (0, 0)
        name = f"the {self.what} '{shown(self.image.path)}'"
        if low < 0 or high >= 2**63:
            raise DataError(
                f"{name} holds {'negative numbers' if low < 0 else 'numbers beyond 2^63'} "
                f"({'down to' if low < 0 else 'up to'} {low if low < 0 else high}); expected 0 for "
                "background and one positive number a cell."
            )
        if high == 0 and whole:
            raise DataError(
                f"{name} is empty: every pixel is 0; leave the field out, or segment it again."
            )
        return pixels.astype(np.int32 if high < 2**31 else np.int64)


def open_image(
    path: Path,
    /,
    *,
    axes: str | None = None,
    spacing: tuple[float, ...] | None = None,
    choice: Choice = _ONE,
) -> Image:
    """The image at ``path``; mostly nothing is decoded yet.

    ``axes`` states their order in the file; None reads it from the file: its metadata, or a plain
    image of two axes. ``spacing`` is in place of what the file says.

    :raises DataError: unreadable, axes unknown, or not as many as the file has; no real numbers;
        several images and ``series`` not stated; a voxel size that is no length.
    :raises ConfigError: a format that needs a package that is not installed, or a wrong ``level``.
    """
    stored = _explained(path, lambda: reader_of(path)(path, choice))
    order = named(stored, path) if axes is None else stated(stored, axes, path)
    if stored.pixels.dtype.kind not in "buif":
        raise DataError(
            f"'{shown(path)}' holds {stored.pixels.dtype} pixels; expected integers or real "
            "numbers."
        )
    return _laid_out(path, stored, order, spacing)


def stacked(images: Sequence[Image], /, *, stains: tuple[str, ...] = ()) -> Image:
    """Images of one channel each, as one image whose channels they are; nothing is decoded yet.

    :raises DataError: another shape, or more than one channel in a file.
    """
    first = images[0]
    for image in images:
        if image.shape[0] != 1 or (image.space, image.shape) != (first.space, first.shape):
            raise DataError(
                f"'{shown(image.path)}' has the shape {image.shape} and '{shown(first.path)}' "
                f"{first.shape}; expected one channel a file, and one shape for all of a field."
            )
    order = f"C{first.space}"
    spacing = dict(zip(first.space, first.spacing or (), strict=False))
    return _laid_out(first.path, Stored(_Channels(images), order, spacing, stains), order)


@dataclass(frozen=True, eq=False)
class _Channels:
    """Pixels (C, *S) of which each channel is a file."""

    images: Sequence[Image]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.images), *self.images[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.result_type(*(image.dtype for image in self.images))

    def __getitem__(self, window: tuple[slice, ...], /) -> NDArray[Any]:
        return np.concatenate([image.read(window[1:]) for image in self.images[window[0]]])


def open_labels(
    path: Path,
    /,
    *,
    like: Image,
    axes: str | None = None,
    choice: Choice = _ONE,
    what: str = "mask",
) -> Labels:
    """A label image on the grid of the image ``like``; nothing is decoded yet.

    Its axes are the spatial ones of ``axes``, unless its format defines them. Where ``axes`` is
    None and the file's own metadata do not name them either, they are the image's.

    :raises DataError: unreadable, not integers, of another shape or elsewhere.
    """
    choice = replace(choice, lone=True)
    stored = _explained(path, lambda: reader_of(path)(path, choice))
    name = f"the {what} '{shown(path)}'"
    order = axes.replace("C", "") if axes else like.space
    try:
        if stored.definite or (axes is None and known(stored.axes)):
            layout = named(stored, path)
        else:
            layout = stated(stored, order, path)
    except DataError as error:
        raise DataError(
            f"{name} has the shape {long_axes(stored)} but its image has {like.shape[1:]} along "
            f"{', '.join(like.space)}; a label image needs one pixel for each of the image."
        ) from error
    # its own voxel size is not asked for: the grid is the image's
    image = _laid_out(path, stored, layout, like.spacing or ())
    if (image.space, image.shape[1:], image.shape[0]) != (like.space, like.shape[1:], 1):
        raise DataError(
            f"{name} has the shape {image.shape[image.shape[0] == 1 :]} but its image has "
            f"{like.shape[1:]} along {', '.join(like.space)}; a label image needs one pixel for "
            "each of the image."
        )
    if stored.pixels.dtype.kind not in "ui":
        raise DataError(
            f"{name} holds {stored.pixels.dtype} pixels; expected integers, 0 for background and "
            "one number a cell."
        )
    here, there = stored.placed, like.stored.placed
    if here is not None and there is not None and not np.allclose(here, there, 1e-4, 1e-4):
        raise DataError(
            f"{name} lies elsewhere than its image '{shown(like.path)}': their affines differ; "
            "resample it onto the image's grid."
        )
    return Labels(image, what)


def _explained(path: Path, read: Callable[[], T], /) -> T:
    """What ``read`` gives; what a library raises becomes a sentence with the file's name."""
    try:
        return read()
    except AttrscoreError:
        raise
    except Exception as error:  # a broken file can break a reader anywhere
        hint = "the file is damaged, cut short or of another format"
        if "imagecodecs" in str(error):
            hint = "pip install imagecodecs, or save it without compression"
        if isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM:
            hint = "the system does not give it, which says nothing about the file"
        raise DataError(
            f"'{shown(path)}' cannot be read as a {reader_of(path).kind}: "
            f"{type(error).__name__}: {error}; {hint}."
        ) from error


def _laid_out(
    path: Path, stored: Stored, order: str, spacing: tuple[float, ...] | None = None
) -> Image:
    extents = dict(zip(order, stored.pixels.shape, strict=True))
    space = "".join(axis for axis in "ZYX" if axis in order)
    fit = len(stored.channels) == extents.get("C", 1)
    return Image(
        path=path,
        space=space,
        shape=(extents.get("C", 1), *(extents[axis] for axis in space)),
        dtype=stored.pixels.dtype,
        spacing=_measured(path, stored.spacing, space) if spacing is None else spacing,
        stains=stored.channels if fit else (),
        stored=stored,
        order=order,
    )


def _measured(path: Path, spacing: Mapping[str, float], space: str) -> tuple[float, ...] | None:
    for axis, size in spacing.items():
        if axis in space and not is_length(size):
            raise DataError(
                f"'{shown(path)}' says that a pixel is {size:g} µm long along {axis}, which is no "
                "length; state dataset.spacing."
            )
    if not all(axis in spacing for axis in space):
        return None
    return tuple(float(spacing[axis]) for axis in space)
