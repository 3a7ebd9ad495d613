"""TIFF files by pattern, and their axes: stated or read from metadata, never guessed from sizes."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from attrscore.errors import ConfigError, DataError

__all__ = ["check_axes", "find_files", "match_files", "read_image", "read_labels", "stem"]

SUFFIXES = (".tif", ".tiff")
_LABEL_ENDINGS = ("_cp_masks", "_masks", "_mask", "_labels", "_label")
_ORDER = "CZYX"


def check_axes(axes: str, /) -> str:
    """``axes`` in capitals, if it names Y, X and at most Z and C, each once.

    >>> check_axes("cyx")
    'CYX'
    """
    axes = axes.upper()
    if len(set(axes)) != len(axes) or not {"Y", "X"} <= set(axes) <= set(_ORDER):
        raise ConfigError(
            f"axes={axes!r} must name Y and X, with Z and C where the files have them, each once: "
            "YX, CYX, ZYX, CZYX, or another order; null reads them from the files."
        )
    return axes


def find_files(pattern: str, /, *, option: str) -> list[Path]:
    """The files behind a glob, a folder (its TIFF files) or a single path, sorted.

    :raises DataError: there are none.
    """
    where = Path(pattern).expanduser()
    if where.is_file():  # before globbing: a real name may hold brackets
        return [where]
    if where.is_dir():
        found = [path for path in where.iterdir() if path.suffix.lower() in SUFFIXES]
    else:
        found = [Path(name) for name in glob.glob(str(where), recursive=True)]  # noqa: PTH207  # absolute patterns
    files = sorted(path for path in found if path.is_file())
    if not files:
        raise DataError(
            f"No file matches {option}='{pattern}'; check the path, or give a pattern such as "
            "'folder/*.tif'."
        )
    return files


def stem(path: Path | str, /) -> str:
    """The name without folder and without the endings that image files have.

    >>> stem("plate 1/a.b.ome.tif"), stem("a.b")
    ('a.b', 'a.b')
    """
    name = Path(str(path)).name
    for suffix in (*SUFFIXES, ".png", ".jpg", ".jpeg"):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
            break
    return name[:-4] if name.lower().endswith(".ome") else name


def match_files(
    images: Iterable[Path], masks: Iterable[Path], /, *, what: str = "mask"
) -> tuple[dict[str, tuple[Path, Path]], dict[str, str]]:
    """Pairs by stem, and the files without a partner with the reason.

    A mask named like its image wins over one with an ending such as ``_cp_masks``.
    """
    problems: dict[str, str] = {}
    image_by = _by_name(images, problems, "image")
    exact = _by_name(masks, problems, what)
    used: set[str] = set()
    pairs: dict[str, tuple[Path, Path]] = {}
    for name, image in image_by.items():
        keys = [name, *(name + ending for ending in _LABEL_ENDINGS)]
        found = next((key for key in keys if key in exact), None)
        if found is None:
            problems.setdefault(
                image.name,
                f"no {what} is called like the image '{image.name}'; expected '{name}.tif' or "
                f"'{name}{_LABEL_ENDINGS[0]}.tif' among the {what}s.",
            )
        else:
            used.add(found)
            pairs[name] = image, exact[found]
    for name, mask in exact.items():
        if name not in used:
            problems.setdefault(
                mask.name,
                f"no image belongs to the {what} '{mask.name}'; expected an image with the same "
                "name before its ending.",
            )
    return pairs, problems


def read_image(path: Path, /, *, axes: str | None) -> tuple[np.ndarray[Any, Any], str]:
    """The pixels as (C, *S) in their own type, and the spatial axes, ZYX or YX.

    ``axes`` None reads the order from the file: OME or ImageJ metadata, or a plain image of two
    axes.

    :raises DataError: unreadable, axes unknown, or not as many as the file has.
    """
    pixels, written, whole = _pixels(path)
    if axes is None:
        pixels, axes = _named(pixels, written, path)
    elif len(whole) == len(axes):
        pixels = pixels.reshape(whole)
    elif pixels.ndim != len(axes):
        raise DataError(
            f"axes={axes} names {len(axes)} axes but '{path.name}' has the shape {pixels.shape}; "
            "state the axes that the file has."
        )
    space = "".join(axis for axis in _ORDER if axis in axes and axis != "C")
    pixels = pixels.transpose([axes.index(axis) for axis in _ORDER if axis in axes])
    if pixels.dtype.kind not in "buif":
        raise DataError(
            f"'{path.name}' holds {pixels.dtype} pixels; expected integers or real numbers."
        )
    return (pixels if "C" in axes else pixels[None]), space


def read_labels(
    path: Path, /, *, axes: str | None, space: str, shape: tuple[int, ...], what: str = "mask"
) -> np.ndarray[Any, Any]:
    """A label image on the grid *S of its image, int32 (or int64 where numbers are that large).

    Its axes are the spatial ones of ``axes``; where these are None and the file's own metadata do
    not name them either, they are the image's: a label image lies on the grid of its image.

    :raises DataError: unreadable, not integers, empty, or of another shape.
    """
    pixels, written, whole = _pixels(path)
    order = axes.replace("C", "") if axes else space
    if axes is None and set("".join(written)) <= set(_ORDER):
        pixels, order = _named(pixels, written, path)
    elif len(whole) == len(order):
        pixels = pixels.reshape(whole)
    if sorted(order) == sorted(space) and pixels.ndim == len(space):
        pixels = pixels.transpose([order.index(axis) for axis in space])
    if pixels.shape != shape:
        raise DataError(
            f"the {what} '{path.name}' has the shape {pixels.shape} but its image has {shape} "
            f"along {', '.join(space)}; a label image needs one pixel for each of the image."
        )
    if pixels.dtype.kind not in "ui":
        raise DataError(
            f"the {what} '{path.name}' holds {pixels.dtype} pixels; expected integers, 0 for "
            "background and one number a cell."
        )
    low, high = (int(pixels.min()), int(pixels.max())) if pixels.size else (0, 0)
    if low < 0:
        raise DataError(
            f"the {what} '{path.name}' holds negative numbers (down to {low}); expected 0 for "
            "background and one positive number a cell."
        )
    if high == 0:
        raise DataError(
            f"the {what} '{path.name}' is empty: every pixel is 0; leave the field out, or "
            "segment it again."
        )
    return pixels.astype(np.int32 if high < 2**31 else np.int64)


def _by_name(files: Iterable[Path], problems: dict[str, str], what: str, /) -> dict[str, Path]:
    named: dict[str, list[Path]] = {}
    for path in files:
        named.setdefault(stem(path), []).append(path)
    for name, paths in named.items():
        if len(paths) > 1:
            problems[paths[0].name] = (
                f"{len(paths)} {what}s are called '{name}': "
                f"{', '.join(str(path) for path in paths)}; rename them, or read one folder at a "
                "time."
            )
    return {name: paths[0] for name, paths in named.items() if len(paths) == 1}


def _pixels(path: Path) -> tuple[np.ndarray[Any, Any], tuple[str, ...], tuple[int, ...]]:
    """The first series, its axes as written in the file, and its shape with axes of length 1.

    tifffile drops such axes, so one channel that was saved as (1, Y, X) arrives as (Y, X).
    """
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            written = tuple(str(series.axes))
            whole = tuple(int(extent) for extent in series.get_shape(squeeze=False))
            pixels = series.asarray()
    except Exception as error:  # a broken file can break tifffile anywhere
        raise DataError(
            f"'{path.name}' cannot be read as a TIFF: {type(error).__name__}: {error}; the file is "
            "damaged, cut short or of another format."
        ) from error
    return pixels, written, whole


def _named(
    pixels: np.ndarray[Any, Any], written: tuple[str, ...], path: Path
) -> tuple[np.ndarray[Any, Any], str]:
    """Pixels without axes of length 1 that are not ours, and the axes that remain.

    tifffile writes Q, I or S for axes that no metadata name (sequence, images, samples).
    """
    spare = tuple(
        number
        for number, (axis, extent) in enumerate(zip(written, pixels.shape, strict=True))
        if axis not in _ORDER and extent == 1
    )
    axes = "".join(axis for number, axis in enumerate(written) if number not in spare)
    if not {"Y", "X"} <= set(axes) <= set(_ORDER) or len(set(axes)) != len(axes):
        raise DataError(
            f"'{path.name}' of shape {pixels.shape} does not say what its axes are (read: {axes}); "
            "state them with dataset.axes, such as ZYX or CYX."
        )
    return pixels.squeeze(spare), axes
