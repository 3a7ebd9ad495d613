"""Heat on the grid of a field, written so that napari and Fiji lay it over the image."""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tifffile

from attrscore.errors import UnsupportedError
from attrscore.store.commit import new_file, new_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ImageFormat", "paths_of", "write_images"]

ImageFormat = Literal["tiff", "omezarr", "nifti"]

_CHUNK = 1024


@dataclass(frozen=True, eq=False)
class _Picture:
    heat: NDArray[np.float32]
    """(channels, *S)."""
    names: Sequence[str]
    spacing: tuple[float, ...] | None

    @property
    def axes(self) -> str:
        return "C" + "ZYX"[-(self.heat.ndim - 1) :]


def paths_of(folder: Path, field: str, names: Sequence[str], kind: ImageFormat, /) -> list[Path]:
    """The files that :func:`write_images` writes for a field: one, or for NIfTI one a heat."""
    stem = re.sub(r"[/\\\0]", "_", field)
    if kind == "nifti":
        return [folder / f"{stem}_attrscore_{_plain(name)}.nii.gz" for name in names]
    return [folder / f"{stem}_attrscore{'.ome.tif' if kind == 'tiff' else '.ome.zarr'}"]


def _plain(name: str) -> str:
    return re.sub(r"[^\w.=-]", "_", name)


def write_images(
    paths: Sequence[Path],
    heat: NDArray[np.float32],
    names: Sequence[str],
    kind: ImageFormat,
    /,
    *,
    spacing: tuple[float, ...] | None = None,
) -> None:
    """Heat (channels, *S) of one field into the files of :func:`paths_of`.

    ``tiff`` is OME-TIFF, ``omezarr`` OME-Zarr 0.4 with one resolution level; their channels are
    named. ``nifti`` has its axes in the order X, Y, Z, micrometres. ``spacing`` is micrometres a
    pixel; 1 where it is not known.

    :raises UnsupportedError: the package that a format needs is not installed.
    """
    picture = _Picture(heat, names, spacing)
    if kind == "tiff":
        _write_tiff(paths[0], picture)
    elif kind == "omezarr":
        _write_zarr(paths[0], picture)
    else:
        for number, path in enumerate(paths):
            _write_nifti(path, heat[number], spacing)


def _write_tiff(path: Path, picture: _Picture) -> None:
    metadata: dict[str, Any] = {"axes": picture.axes, "Channel": {"Name": list(picture.names)}}
    for axis, size in zip(picture.axes[1:], picture.spacing or (), strict=bool(picture.spacing)):
        metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"}
    with new_file(path) as aside:
        tifffile.imwrite(
            aside,
            picture.heat,
            ome=True,
            photometric="minisblack",
            compression="zlib",
            metadata=metadata,
        )


def _write_zarr(path: Path, picture: _Picture) -> None:
    try:
        import zarr
    except ModuleNotFoundError as error:
        raise _missing("OME-Zarr", "zarr", "omezarr") from error
    unit = {"unit": "micrometer"} if picture.spacing else {}
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": axis.lower(), "type": "space", **unit} for axis in picture.axes[1:]]
    scale = [1.0, *(picture.spacing or [1.0] * (len(axes) - 1))]
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}]
    with new_folder(path) as aside:
        group = zarr.open_group(str(aside), mode="w", zarr_format=2)
        array = group.create_array(
            "0",
            shape=picture.heat.shape,
            chunks=(1, *(min(extent, _CHUNK) for extent in picture.heat.shape[1:])),
            dtype="float32",
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )
        array[:] = picture.heat
        group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
        group.attrs["omero"] = {"channels": [*map(_shown, picture.names, picture.heat)]}


def _shown(name: str, heat: NDArray[np.float32]) -> dict[str, Any]:
    top = float(heat.max()) or 1.0
    window = {"start": 0.0, "end": top, "min": 0.0, "max": top}
    return {"label": name, "color": "FF8000", "active": True, "window": window}


def _write_nifti(path: Path, heat: NDArray[np.float32], spacing: tuple[float, ...] | None) -> None:
    try:
        import nibabel
    except ModuleNotFoundError as error:
        raise _missing("NIfTI", "nibabel", "nifti") from error
    volume = heat.T if heat.ndim == 3 else heat.T[..., None]
    steps = [*reversed(spacing or [1.0] * heat.ndim), *([1.0] if heat.ndim == 2 else [])]
    image = nibabel.Nifti1Image(volume, np.diag([*steps, 1.0]))
    image.header.set_xyzt_units("micron")
    with new_file(path) as aside:
        aside.write_bytes(gzip.compress(image.to_bytes(), mtime=0))


def _missing(what: str, package: str, extra: str) -> UnsupportedError:
    return UnsupportedError(
        f'{what} needs {package}, which is not installed: pip install "attrscore[{extra}]".'
    )
