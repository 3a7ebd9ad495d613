"""One crop out of its field: pixels as a network takes them, and regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from attrscore.datasets.regions import Boundary, regions_of
from attrscore.datasets.sampling import overlap, resampled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from attrscore.datasets.geometry import Geometry
    from attrscore.datasets.images.field import Field
    from attrscore.datasets.normalising import Levels

__all__ = ["Outside", "cut"]

Outside = Literal["keep", "zero", "mean"]


def cut(
    field: Field,
    levels: Levels,
    number: int,
    first: NDArray[np.int64],
    /,
    *,
    geometry: Geometry,
    boundary: Boundary | None,
    outside: Outside,
    inputs: NDArray[np.float32],
    regions: Mapping[str, NDArray[np.bool_]],
) -> None:
    """Write the crop of the cell ``number`` that begins at the pixel ``first``.

    Into ``inputs`` (C, *S) and ``regions`` *S, where they have to be in the end. Only the window
    that they need is read. Pixels are normalised, then resampled, then those outside the cell
    replaced; zeros beyond the field.
    """
    ratio = geometry.ratio(field.spacing)
    _pixels(field, levels, first, ratio, inputs)
    margin = (0,) * len(geometry.size)
    if boundary is not None and geometry.spacing is not None:
        margin = boundary.reach(geometry.spacing)
    wide = tuple(n + 2 * by for n, by in zip(geometry.size, margin, strict=True))

    def labels(of: str) -> NDArray[Any]:
        return resampled(
            lambda window: field.labels(window, of=of),
            first - np.array(margin),
            wide,
            ratio,
            field.shape,
            nearest=-1,
        )

    cells = labels("cell")
    regions_of(
        cells,
        int(number),  # not one of NumPy's, by which the pixels would be brought to 64 bits
        nuclei=labels("nucleus") if "nucleus" in field.masks else None,
        boundary=boundary,
        spacing=geometry.spacing,
        margin=margin,
        out=regions,
    )
    if outside != "keep":
        inner = tuple(slice(by, by + n) for by, n in zip(margin, geometry.size, strict=True))
        around = ~regions["cell"]
        beside = around & (cells[inner] >= 0)
        fill = np.zeros(len(inputs), np.float32)
        if outside == "mean" and beside.any():
            fill = inputs[:, beside].mean(axis=1, dtype=np.float64).astype(np.float32)
        inputs[:, around] = fill[:, None]


def _pixels(
    field: Field,
    levels: Levels,
    first: NDArray[np.int64],
    ratio: tuple[float, ...],
    out: NDArray[np.float32],
) -> None:
    size = out.shape[1:]
    if any(each != 1 for each in ratio):
        out[...] = resampled(
            lambda window: levels.apply(field.pixels(window)), first, size, ratio, field.shape
        )
        return
    source, target = overlap(first, size, field.shape)
    values = field.pixels(source)
    if values.shape == out.shape:
        levels.apply(values, out=out)
        return
    out[...] = 0
    within: tuple[Any, ...] = (slice(None), *target)
    levels.apply(values, out=out[within])
