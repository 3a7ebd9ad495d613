"""NIfTI through nibabel. The stored axes i, j, k are called X, Y, Z and kept as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from attrscore.datasets.images.stored import MICROMETRES, Decoded, Stored
from attrscore.errors import DataError

__all__ = ["open_nifti"]

_AXES = "XYZTCUV"
_UNITS = {"meter": "m", "mm": "mm", "micron": "µm"}


def open_nifti(path: Path, /) -> Stored:
    """X, Y, Z, then T and C. The voxel size is known where the header states its unit.

    Nothing is flipped or turned to an anatomical orientation: crops keep the order of the file.
    """
    image: Any = nibabel.load(path)
    proxy = image.dataobj
    shape = tuple(int(extent) for extent in image.shape)
    scaled = (proxy.slope, proxy.inter) != (1.0, 0.0)
    dtype = np.dtype(np.float64) if scaled else np.dtype(image.get_data_dtype())
    if path.suffix.lower() == ".nii":
        needed = proxy.offset + int(np.prod(shape)) * image.get_data_dtype().itemsize
        if path.stat().st_size < needed:
            raise DataError(
                f"'{path.name}' cannot be read as a NIfTI: it is cut short, with "
                f"{path.stat().st_size} bytes of {needed}; copy it again."
            )
    pixels = (
        proxy
        if path.suffix.lower() == ".nii" and not scaled
        else Decoded(shape, dtype, lambda: np.asarray(proxy))
    )
    scale = MICROMETRES.get(_UNITS.get(image.header.get_xyzt_units()[0], ""))
    zooms = image.header.get_zooms()
    spacing = {
        axis: float(size) * scale
        for axis, size in zip("XYZ", zooms, strict=False)
        if scale is not None and size > 0
    }
    return Stored(pixels, _AXES[: len(shape)], spacing, definite=True, placed=image.affine)
