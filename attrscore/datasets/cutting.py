"""One crop out of its field: pixels as a network takes them, and regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from attrscore.datasets.regions import Boundary, regions_of
from attrscore.datasets.sampling import resampled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from attrscore.datasets.decoding import Field
    from attrscore.datasets.geometry import Geometry
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
) -> tuple[NDArray[np.float32], dict[str, NDArray[np.bool_]]]:
    """Inputs (C, *S) and regions *S of the cell ``number``, from the pixel ``first`` on.

    Only the window that they need is read. Pixels are normalised, then resampled, then those
    outside the cell replaced; zeros beyond the field.
    """
    ratio = geometry.ratio(field.spacing)
    inputs = resampled(
        lambda window: levels.apply(field.pixels(window)), first, geometry.size, ratio, field.shape
    )
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
    regions = regions_of(
        cells,
        number,
        nuclei=labels("nucleus") if "nucleus" in field.masks else None,
        boundary=boundary,
        spacing=geometry.spacing,
        margin=margin,
    )
    if outside != "keep":
        inner = tuple(slice(by, by + n) for by, n in zip(margin, geometry.size, strict=True))
        around = ~regions["cell"]
        beside = around & (cells[inner] >= 0)
        fill = np.zeros(len(inputs), np.float32)
        if outside == "mean" and beside.any():
            fill = inputs[:, beside].mean(axis=1, dtype=np.float64).astype(np.float32)
        inputs[:, around] = fill[:, None]
    return inputs, regions
