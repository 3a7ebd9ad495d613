"""Kept maps laid back into the fields of their crops, and written so that viewers overlay them."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import tifffile
import torch
from skimage.transform import downscale_local_mean

from attrscore.core.heat import Heat, HeatOptions
from attrscore.datasets.cells.crops import CutFromFields
from attrscore.errors import ConfigError, DataError, UnsupportedError, choose, preview
from attrscore.report._heat import sampled
from attrscore.report.export import ImageFormat
from attrscore.store.commit import new_file, new_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from attrscore.core.contracts import Dataset
    from attrscore.store import Kept

__all__ = [
    "FieldHeat",
    "Overlap",
    "Scale",
    "Stack",
    "laid_back",
    "paths_of",
    "stacks_of",
    "write_images",
]

Overlap = Literal["own", "max", "mean", "cells"]
Scale = Literal["none", "each"]

_CHUNK = 1024
_SMALLEST = 256
"""Pixels of the longest side of the coarsest level of an OME-Zarr."""


@dataclass(frozen=True, eq=False)
class Stack:
    """The heat of one method at one layer, of all jobs that keep its maps."""

    name: str
    sources: tuple[Kept, ...]
    options: HeatOptions

    @property
    def ids(self) -> set[str]:
        """The cells whose maps are kept."""
        return {each for source in self.sources for each in source.rows}

    def heat(self, ids: Sequence[str], space: tuple[int, ...], /) -> NDArray[np.float32]:
        """Heat at the size of the crop, (N, *S), as it was scored; NaN where no map is kept."""
        heat = np.full((len(ids), *space), np.nan, np.float32)
        for source in self.sources:
            here = [number for number, each in enumerate(ids) if each in source.rows]
            if here:
                signed = torch.from_numpy(source.read([ids[number] for number in here]))
                heat[here] = Heat(signed, space, self.options).full().numpy()
        return heat


@dataclass(frozen=True, eq=False)
class FieldHeat:
    """One field with heat laid over it."""

    name: str
    heat: NDArray[np.float32]
    """(stacks, *S): the grid of the field; 0 where no crop lies."""
    cells: int
    """Laid back."""
    undefined: int
    """Maps that are not finite, and left out."""
    spacing: tuple[float, ...] | None
    """Micrometres a pixel of the field."""


def stacks_of(
    kept: Sequence[Kept], /, *, methods: Sequence[str] = (), layers: Sequence[str] = ()
) -> list[Stack]:
    """Group kept maps by method and layer (by model and target too, where there are several).

    :raises ConfigError: no maps are kept, none of these, or several with other settings under one
        name.
    """
    if not kept:
        raise ConfigError("No maps are kept here; compute them: run the same with keep=native.")
    for asked, known, what in (
        (methods, {each.method.key for each in kept}, "method"),
        (layers, {each.layer for each in kept}, "layer"),
    ):
        absent = sorted(set(asked) - known)
        if absent:
            raise ConfigError(
                f"No maps are kept of the {what} {preview(absent)}; kept: {preview(sorted(known))}."
            )
    chosen = [
        each
        for each in kept
        if (not methods or each.method.key in methods) and (not layers or each.layer in layers)
    ]
    models = {each.folder.model for each in chosen}
    targets = {each.target for each in chosen}
    stacks: dict[str, list[Kept]] = {}
    for each in chosen:
        parts = [each.method.key, each.layer]
        parts += [each.folder.model] if len(models) > 1 else []
        parts += [str(each.target)] if len(targets) > 1 else []
        stacks.setdefault(" ".join(parts), []).append(each)
    made = []
    for name, sources in stacks.items():
        _check_alike(name, sources)
        options = HeatOptions(**sources[0].folder.job.base.get("heat", {}))
        made.append(Stack(name, tuple(sources), options))
    return made


def laid_back(
    stacks: Sequence[Stack],
    dataset: Dataset,
    /,
    *,
    overlap: Overlap = "own",
    scale: Scale = "none",
) -> Iterator[FieldHeat]:
    """Lay the heat of cells into their fields, resized to their crops; a field at a time.

    Where crops overlap, ``own``: a pixel inside a cell shows that cell's map, and any other pixel
    the highest of the maps there; ``max``: the highest everywhere; ``mean``: their mean; ``cells``:
    as own, and 0 outside of cells. ``scale=each`` divides every map by its maximum, to look at.

    :raises ConfigError: a dataset whose cells were not cut from fields.
    :raises DataError: none of the cells is in the dataset.
    """
    choose(overlap, get_args(Overlap), option="overlap")
    choose(scale, get_args(Scale), option="scale")
    if not isinstance(dataset, CutFromFields):
        raise ConfigError(
            f"The cells of a dataset {type(dataset).__name__} are crops without a field to lay "
            "maps back into; dataset=fields knows where its crops lie."
        )
    wanted = set().union(*(stack.ids for stack in stacks))
    ids = dataset.table["id"].astype(str).to_numpy()
    rows = np.flatnonzero([each in wanted for each in ids])
    if not len(rows):
        raise DataError(
            f"None of the {len(wanted)} cells with maps is in the dataset; start where its files "
            "lie as they did."
        )
    origins = dataset.origins(rows.tolist())
    fields = np.array(origins.field)
    for name in dict.fromkeys(origins.field):
        inside = np.flatnonzero(fields == name)
        field = dataset.field(name)
        layers, undefined = [], 0
        for stack in stacks:
            heat = stack.heat(ids[rows[inside]].tolist(), dataset.spec.size)
            if scale == "each":
                heat = _scaled(heat)
            defined = np.isfinite(heat.reshape(len(heat), -1).sum(axis=1))
            undefined += int((~defined).sum())
            crops = [
                _onto(heat[number], origins.first[cell], origins.extent[cell], field.labels.shape)
                for number, cell in enumerate(inside)
                if defined[number]
            ]
            layers.append(_joined(crops, field.labels, origins.number[inside[defined]], overlap))
        spacing = getattr(field, "spacing", None) or getattr(dataset, "spacing", None)
        yield FieldHeat(name, np.stack(layers), len(inside), undefined, spacing)


_Crop = tuple[tuple[slice, ...], "NDArray[np.float32]"]
"""Where in the field, and the heat there."""


def _onto(
    heat: NDArray[np.float32],
    first: NDArray[np.float64],
    extent: NDArray[np.float64],
    shape: tuple[int, ...],
) -> _Crop:
    """Resample a crop's heat at the pixels of the field whose centres lie in the crop."""
    where = []
    for axis, (begin, span, limit) in enumerate(zip(first, extent, shape, strict=True)):
        low, high = (int(np.ceil(edge - 0.5)) for edge in (begin, begin + span))
        pixels = np.arange(max(low, 0), max(min(high, limit), 0))
        at = (pixels + 0.5 - begin) * (heat.shape[axis] / span) - 0.5
        heat = sampled(heat, at, axis)
        where.append(slice(int(pixels[0]), int(pixels[-1]) + 1) if len(pixels) else slice(0, 0))
    return tuple(where), heat.astype(np.float32)


def _joined(
    crops: Sequence[_Crop], labels: NDArray[Any], numbers: NDArray[np.int64], overlap: Overlap
) -> NDArray[np.float32]:
    joined = np.zeros(labels.shape, np.float32)
    if overlap == "mean":
        count = np.zeros(labels.shape, np.int32)
        for where, heat in crops:
            joined[where] += heat
            count[where] += 1
        return np.divide(joined, count, out=joined, where=count > 0)
    if overlap != "cells":
        for where, heat in crops:
            np.maximum(joined[where], heat, out=joined[where])
    if overlap != "max":
        for (where, heat), number in zip(crops, numbers, strict=True):
            np.copyto(joined[where], heat, where=labels[where] == number)
    return joined


def _scaled(heat: NDArray[np.float32]) -> NDArray[np.float32]:
    top = heat.reshape(len(heat), -1).max(axis=1)
    top[top == 0] = 1
    scaled: NDArray[np.float32] = heat / top.reshape(-1, *[1] * (heat.ndim - 1))
    return scaled


def _check_alike(name: str, sources: Sequence[Kept]) -> None:
    settings = {
        (each.method.text, repr(sorted(each.folder.job.base.get("heat", {}).items())))
        for each in sources
    }
    if len(settings) > 1:
        raise ConfigError(
            f"Maps of {name} are kept with several settings of method or heat; give the folder of "
            f"one job: {preview(sorted(str(each.folder.path) for each in sources))}."
        )


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
    """Write heat (channels, *S) of one field into the files of :func:`paths_of`.

    ``tiff`` is OME-TIFF, ``omezarr`` OME-Zarr 0.5, each further level the mean of 2 x 2 pixels (in
    3D 2 x 2 x 2) of the one before, down to 256; their channels are named. ``nifti`` has its axes
    in the order X, Y, Z, micrometres. ``spacing`` is micrometres a pixel; 1 where it is not known.

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
    steps = np.array([1.0, *(picture.spacing or [1.0] * (len(axes) - 1))])
    datasets = []
    with new_folder(path) as aside:
        group = zarr.open_group(str(aside), mode="w", zarr_format=3)
        for number, (level, factors) in enumerate(_levels(picture.heat)):
            array = group.create_array(
                str(number),
                shape=level.shape,
                chunks=(1, *(min(extent, _CHUNK) for extent in level.shape[1:])),
                dtype="float32",
                dimension_names=[axis["name"] for axis in axes],
            )
            array[:] = level
            scale = {"type": "scale", "scale": (steps * factors).tolist()}
            # The first pixel of a level lies between those that it is the mean of.
            shift = {"type": "translation", "translation": (steps * (factors - 1) / 2).tolist()}
            datasets.append({"path": str(number), "coordinateTransformations": [scale, shift]})
        group.attrs["ome"] = {
            "version": "0.5",
            "multiscales": [
                {"name": path.name, "axes": axes, "datasets": datasets, "type": "mean"}
            ],
            "omero": {"channels": [*map(_shown, picture.names, picture.heat)]},
        }


def _levels(heat: NDArray[np.float32]) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float64]]]:
    """(channels, *S) and its means over 2 x 2 (x 2) pixels, down to 256, with their factors.

    An axis of one pixel stays. Where an extent is odd the last pixel stands for itself.
    """
    factors = np.ones(heat.ndim)
    yield heat, factors
    while max(heat.shape[1:]) > _SMALLEST:
        halve = [1, *(2 if extent > 1 else 1 for extent in heat.shape[1:])]
        odd = [(0, -extent % by) for extent, by in zip(heat.shape, halve, strict=True)]
        heat = downscale_local_mean(np.pad(heat, odd, mode="edge"), tuple(halve)).astype(np.float32)
        factors = factors * halve
        yield heat, factors


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
