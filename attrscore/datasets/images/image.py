"""An image or a label image on disk, of whatever format: its axes, and windows of its pixels.

========================= ===================================================================
ending                    read
========================= ===================================================================
``.tif`` ``.tiff``        by strip or tile, or memory-mapped; axes and voxel size from OME and
                          ImageJ metadata
``.zarr``                 OME-Zarr 0.4 and 0.5, by chunk, one resolution ``level``; labels are
                          ``image.zarr/labels/<name>``
``.nii`` ``.nii.gz``      NIfTI: x, y, z become X, Y, Z as they are stored, so the array is
                          turned into Z, Y, X and nothing is flipped or resampled; a file that
                          is not compressed is read by window
``.npy``                  memory-mapped; ``_seg.npy`` of Cellpose with ``allow_pickle`` only
``.npz``                  whole; it holds one array
``.png``                  whole
========================= ===================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from attrscore.datasets.images.axes import ORDER, known, long_axes, named, stated
from attrscore.datasets.images.files import SUFFIXES, in_zarr, shown
from attrscore.datasets.images.stored import Stored
from attrscore.errors import AttrscoreError, ConfigError, DataError

__all__ = ["Image", "Labels", "open_image", "open_labels", "stacked"]

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Image:
    """Pixels (C, *S) in the type of their file, and what its metadata say.

    Formats that cannot be read in part are decoded at the first read and kept as long as this
    object.
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
        pixels = _told(
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

    @property
    def path(self) -> Path:
        """Of its file."""
        return self.image.path

    @property
    def shape(self) -> tuple[int, ...]:
        """*S."""
        return self.image.shape[1:]

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
        name = f"the {self.what} '{shown(self.path)}'"
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
    path: Path, /, *, axes: str | None = None, level: int = 0, allow_pickle: bool = False
) -> Image:
    """The image at ``path``; nothing is decoded yet.

    ``axes`` states their order in the file; None reads it from the file: its metadata, or a plain
    image of two axes. ``level`` is the resolution of an OME-Zarr, 0 the finest.

    :raises DataError: unreadable, axes unknown, or not as many as the file has; no real numbers.
    :raises ConfigError: a format that is not known, or needs a package that is not installed.
    """
    stored = _told(path, lambda: _open(path, level=level, allow_pickle=allow_pickle))
    order = named(stored, path) if axes is None else stated(stored, axes, path)
    if stored.pixels.dtype.kind not in "buif":
        raise DataError(
            f"'{shown(path)}' holds {stored.pixels.dtype} pixels; expected integers or real "
            "numbers."
        )
    return _laid_out(path, stored, order)


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
    spacing = dict(zip(first.space, first.spacing or (), strict=False))
    return _laid_out(
        first.path, Stored(_Channels(images), f"C{first.space}", spacing, stains), f"C{first.space}"
    )


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
    level: int = 0,
    allow_pickle: bool = False,
    what: str = "mask",
) -> Labels:
    """A label image on the grid of the image ``like``; nothing is decoded yet.

    Its axes are the spatial ones of ``axes``, unless its format defines them. Where ``axes`` is
    None and the file's own metadata do not name them either, they are the image's.

    :raises DataError: unreadable, not integers, of another shape or in another place.
    """
    stored = _told(path, lambda: _open(path, level=level, allow_pickle=allow_pickle))
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
    image = _laid_out(path, stored, layout)
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


def _open(path: Path, *, level: int, allow_pickle: bool) -> Stored:
    """By the ending of its name; packages of a format are imported when a file of it is opened."""
    name = path.name.lower()
    if in_zarr(path) is not None:
        return _reader("ngff", "open_ngff", path, "zarr", "omezarr")(path, level=level)  # type: ignore[no-any-return]
    if name.endswith((".tif", ".tiff")):
        return _reader("tiff", "open_tiff")(path)  # type: ignore[no-any-return]
    if name.endswith((".nii", ".nii.gz")):
        return _reader("nifti", "open_nifti", path, "nibabel", "nifti")(path)  # type: ignore[no-any-return]
    if name.endswith((".npy", ".npz")):
        return _reader("arrays", "open_arrays")(path, allow_pickle=allow_pickle)  # type: ignore[no-any-return]
    if name.endswith(".png"):
        return _reader("png", "open_png")(path)  # type: ignore[no-any-return]
    raise DataError(
        f"'{path.name}' has an ending that is not known; expected one of {', '.join(SUFFIXES)}."
    )


def _reader(
    module: str, name: str, path: Path | None = None, package: str = "", extra: str = ""
) -> Callable[..., Any]:
    try:
        return getattr(import_module(f"attrscore.datasets.images.{module}"), name)  # type: ignore[no-any-return]
    except ModuleNotFoundError as error:
        if path is None or error.name != package:
            raise
        raise ConfigError(
            f"'{shown(path)}' needs the package {package}: pip install 'attrscore[{extra}]'"
        ) from error


def _told(path: Path, read: Callable[[], T], /) -> T:
    """What ``read`` gives; whatever breaks in a library's reader is told with the file's name."""
    try:
        return read()
    except AttrscoreError:
        raise
    except Exception as error:  # a broken file can break a reader anywhere
        kinds = {".tif": "TIFF", ".tiff": "TIFF", ".nii": "NIfTI", ".gz": "NIfTI", ".png": "PNG"}
        kind = "Zarr" if in_zarr(path) else kinds.get(path.suffix.lower(), path.suffix.lower())
        hint = "the file is damaged, cut short or of another format"
        if "imagecodecs" in str(error):
            hint = "pip install imagecodecs, or save it without compression"
        raise DataError(
            f"'{shown(path)}' cannot be read as a {kind}: {type(error).__name__}: {error}; {hint}."
        ) from error


def _laid_out(path: Path, stored: Stored, order: str) -> Image:
    extents = dict(zip(order, stored.pixels.shape, strict=True))
    space = "".join(axis for axis in "ZYX" if axis in order)
    fit = len(stored.channels) == extents.get("C", 1)
    measured = all(axis in stored.spacing for axis in space)
    return Image(
        path=path,
        space=space,
        shape=(extents.get("C", 1), *(extents[axis] for axis in space)),
        dtype=stored.pixels.dtype,
        spacing=tuple(float(stored.spacing[axis]) for axis in space) if measured else None,
        stains=stored.channels if fit else (),
        stored=stored,
        order=order,
    )
