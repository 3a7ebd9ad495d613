"""The readers of one page each: NIfTI, NumPy's own files, PNG, and what bioio opens."""

from __future__ import annotations

import math
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attrscore.datasets.images.readers import (
    Choice,
    Decoded,
    Stored,
    by_size,
    check_claim,
    micrometres,
    shown,
)
from attrscore.errors import AttrscoreWarning, ConfigError, DataError, preview

_AXES_OF_NIFTI = "XYZTCUV"
_UNITS_OF_NIFTI = {"meter": "m", "mm": "mm", "micron": "µm"}


def open_nifti(path: Path, _: Choice, /) -> Stored:
    """X, Y, Z, then T and C. The voxel size is known where the header states its unit.

    Nothing is flipped or turned to an anatomical orientation: crops keep the order of the file.

    :raises DataError: cut short, or it claims more than it can hold.
    """
    import nibabel

    image: Any = nibabel.load(path)
    proxy = image.dataobj
    shape = tuple(int(extent) for extent in image.shape)
    held = path.stat().st_size
    plain = path.suffix.lower() == ".nii"
    needed = proxy.offset + math.prod(shape) * image.get_data_dtype().itemsize
    if plain and held < needed:
        raise DataError(
            f"'{path.name}' cannot be read as a NIfTI: it is cut short, with {held} bytes of "
            f"{needed}; copy it again."
        )
    scaled = (proxy.slope, proxy.inter) != (1.0, 0.0)
    dtype = np.dtype(np.float64) if scaled else np.dtype(image.get_data_dtype())
    check_claim(path, shape, dtype, held=held)
    pixels: Any = Decoded(shape, dtype, lambda: np.asarray(proxy))
    if plain and not scaled:
        pixels = by_size(shape, dtype, lambda: (proxy, bool))
    unit = _UNITS_OF_NIFTI.get(image.header.get_xyzt_units()[0], "")
    sizes = zip("XYZ", image.header.get_zooms(), strict=False)
    spacing = {
        axis: length for axis, size in sizes if (length := micrometres(size, unit)) is not None
    }
    axes = _AXES_OF_NIFTI[: len(shape)]
    return Stored(pixels, axes, spacing, definite=True, placed=image.affine)


def open_npy(path: Path, choice: Choice, /) -> Stored:
    """A ``.npy`` memory-mapped; more than two axes have no names.

    Of a ``_seg.npy``, which is a pickle, the masks.

    :raises DataError: a pickle that is not allowed.
    """
    if path.name.lower().endswith("_seg.npy"):
        return _unnamed(_kept(_of_cellpose(path, allow_pickle=choice.allow_pickle)))

    def mapped() -> Any:
        return np.load(path, mmap_mode="r", allow_pickle=False)

    found = mapped()
    pixels = by_size(found.shape, found.dtype, lambda: (mapped(), bool))
    return _unnamed(pixels)


def open_npz(path: Path, _: Choice, /) -> Stored:
    """The one array of a ``.npz``, decoded now; more than two axes have no names.

    :raises DataError: several arrays, or it claims more than it can hold.
    """
    with zipfile.ZipFile(path) as file:
        members = file.infolist()
    if len(members) != 1:
        names = [each.filename.removesuffix(".npy") for each in members]
        raise DataError(
            f"'{path.name}' holds {len(names)} arrays: {preview(names) or 'none'}; expected "
            "one image a file. Crops in one file are read by dataset=npz."
        )
    check_claim(path, (members[0].file_size,), np.dtype(np.uint8), held=path.stat().st_size)
    with np.load(path, allow_pickle=False) as arrays:
        return _unnamed(_kept(np.asarray(arrays[arrays.files[0]])))


def _kept(pixels: NDArray[Any]) -> Decoded:
    return Decoded(pixels.shape, pixels.dtype, lambda: pixels)


def _unnamed(pixels: Any) -> Stored:
    return Stored(pixels, "YX" if len(pixels.shape) == 2 else "Q" * len(pixels.shape))


def _of_cellpose(path: Path, *, allow_pickle: bool) -> NDArray[Any]:
    if not allow_pickle:
        raise DataError(
            f"'{path.name}' is a pickle, which runs code when it is read; save the masks with "
            "cellpose --save_tif, or say dataset.allow_pickle=true if the file is your own."
        )
    warnings.warn(
        f"'{path.name}' is unpickled, as allow_pickle says: a pickle from someone else can run "
        "any code.",
        AttrscoreWarning,
        stacklevel=2,
    )
    held = np.load(path, allow_pickle=True)
    found = held.item() if held.shape == () else None
    if not isinstance(found, dict) or "masks" not in found:
        raise DataError(
            f"'{path.name}' holds no 'masks'; expected the _seg.npy that Cellpose writes."
        )
    return np.asarray(found["masks"])


_END_OF_PNG = b"\0\0\0\0IEND\xaeB`\x82"
"""The last bytes of a whole file."""

_KINDS_OF_PNG = {
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


def open_png(path: Path, _: Choice, /) -> Stored:
    """Y, X, and S for the samples of a coloured one.

    :raises DataError: more bits than Pillow reads, or a kind of PNG that is not known.
    """
    from PIL import Image

    with path.open("rb") as file:
        header = file.read(26)
    with Image.open(path, formats=("PNG",)) as image:
        width, height = image.size
        mode = image.mode
    if mode not in _KINDS_OF_PNG:
        raise DataError(f"'{path.name}' is a PNG of the kind {mode}; expected grey or RGB.")
    kind, samples = _KINDS_OF_PNG[mode]
    bits = header[24]
    if samples and bits == 16:
        # Pillow would give 8 bits without a word
        raise DataError(
            f"'{path.name}' has 16 bits a sample in colour, of which only 8 would be read; save it "
            "as TIFF."
        )
    # Pillow spreads grey levels of 2 and 4 bits over 0 to 255, which makes other labels of labels
    step = 255 // (2**bits - 1) if mode == "L" else 1

    def decode() -> NDArray[Any]:
        with Image.open(path, formats=("PNG",)) as image:
            pixels = np.asarray(image)
        return pixels // np.uint8(step) if step > 1 else pixels

    shape = (height, width, *((samples,) if samples else ()))
    check_claim(path, shape, np.dtype(kind), held=path.stat().st_size)
    with path.open("rb") as file:
        file.seek(-len(_END_OF_PNG), os.SEEK_END)
        if file.read() != _END_OF_PNG:
            decode()  # cut short, most likely: an error now, not when a crop is read
    return Stored(Decoded(shape, np.dtype(kind), decode), "YXS" if samples else "YX")


def open_bioio(path: Path, choice: Choice, /) -> Stored:
    """A scene of what microscopes write, through bioio and its plugin for that format.

    The plugins are no dependencies of ours, some being under the GPL: who needs one installs it.

    :raises ConfigError: no plugin for this format is installed.
    :raises DataError: several scenes and no choice.
    """
    from bioio import BioImage, plugins

    def opened() -> Any:
        image = BioImage(path, use_plugin_cache=True)
        image.set_scene(number)
        return image

    ending = path.suffix.lower()
    if ending not in plugins.get_plugins(use_cache=True):
        raise ConfigError(
            f"'{shown(path)}' needs a plugin of bioio: pip install bioio-{ending[1:]} (see its "
            "licence), or write it as OME-TIFF."
        )
    image = BioImage(path, use_plugin_cache=True)
    scenes = [str(scene) for scene in image.scenes]
    number = choice.of(scenes, shown(path))
    image.set_scene(number)
    axes, shape, dtype = str(image.dims.order), tuple(image.shape), np.dtype(image.dtype)
    check_claim(path, shape, dtype, held=path.stat().st_size)
    size = image.physical_pixel_sizes
    spacing = {
        axis: length
        for axis in "ZYX"
        if (length := micrometres(getattr(size, axis, None), "µm")) is not None
    }

    pixels = by_size(
        shape, dtype, lambda: (opened().dask_data, bool), lambda: np.asarray(opened().data)
    )
    return Stored(pixels, axes, spacing, tuple(map(str, image.channel_names or ())))
