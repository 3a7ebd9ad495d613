"""NumPy's own files, and Cellpose's ``_seg.npy``, which is a pickle."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attrscore.datasets.images.stored import Decoded, Stored
from attrscore.errors import AttrscoreWarning, DataError, preview

__all__ = ["open_arrays"]


def open_arrays(path: Path, /, *, allow_pickle: bool = False) -> Stored:
    """A ``.npy`` memory-mapped, or the one array of a ``.npz``; more than two axes have no names.

    ``allow_pickle`` is for ``_seg.npy`` alone, of which it reads the masks.

    :raises DataError: a pickle that is not allowed, or several arrays.
    """
    if path.suffix.lower() == ".npz":
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            names = list(file)
        if len(names) != 1:
            raise DataError(
                f"'{path.name}' holds {len(names)} arrays: {preview(names) or 'none'}; expected "
                "one image a file. Crops in one file are read by dataset=npz."
            )
        pixels = _of_npz(path, names[0])
        return _unnamed(Decoded(pixels.shape, pixels.dtype, lambda: pixels))
    if path.name.lower().endswith("_seg.npy"):
        masks = _of_cellpose(path, allow_pickle=allow_pickle)
        return _unnamed(Decoded(masks.shape, masks.dtype, lambda: masks))
    return _unnamed(np.load(path, mmap_mode="r", allow_pickle=False))


def _unnamed(pixels: Any) -> Stored:
    axes = "YX" if len(pixels.shape) == 2 else "Q" * len(pixels.shape)
    return Stored(pixels, axes)


def _of_npz(path: Path, name: str) -> NDArray[Any]:
    with np.load(path, allow_pickle=False) as file:
        return np.asarray(file[name])


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
