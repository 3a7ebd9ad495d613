"""Regions of a crop by name, those that follow from others, and distances to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from attrscore.core.contracts import Batch
from attrscore.core.passes import Pass
from attrscore.errors import ConfigError, DataError, did_you_mean

Side = Literal["both", "inside", "outside"]

_ROUNDING = 1e-9
"""Three voxels of 0.65 are 1.9500000000000002 away: still within 1.95."""


def names_of(given: Sequence[str] | str | None, /) -> tuple[str, ...] | None:
    """An option that lists regions, as a tuple; None stands for all that the batch has."""
    if given is None:
        return None
    names = (given,) if isinstance(given, str) else tuple(given)
    if not names or len(set(names)) != len(names):
        raise ConfigError(
            f"regions={list(names)} must name different regions; null takes all of the batch."
        )
    return names


def every_region(run: Pass, /) -> tuple[str, ...]:
    """Names that :func:`find_region` knows for a pass: the batch's own, and what follows from them.

    ``cytoplasm`` follows from a nucleus, ``background`` from neighbours (without them, other cells
    would count as background), and ``boundary`` from the cell.
    """
    return _names(run.batch)


def _names(batch: Batch) -> tuple[str, ...]:
    own = batch.regions
    follows = {
        "cytoplasm": "nucleus" in own,
        "boundary": True,
        "background": "neighbours" in own,
    }
    return (*own, *(name for name, known in follows.items() if known and name not in own))


def region_of(batch: Batch, name: str, /, *, ring: float = 1.0) -> Tensor:
    """As :func:`find_region`, of cells that no model has seen.

    :raises DataError: no such region, and nothing that it could follow from.
    """
    if name in batch.regions:
        return batch.regions[name]
    if name not in _names(batch):
        missing = {"cytoplasm": "nucleus", "background": "neighbours"}.get(name)
        needs = f"It could follow from '{missing}', which is not there either. " if missing else ""
        raise DataError(
            f"This dataset has no region {name!r}. {needs}{did_you_mean(name, _names(batch))}"
        )
    if name == "boundary":
        return _boundary(batch, ring)
    return (_cytoplasm if name == "cytoplasm" else _background)(batch)


def find_region(run: Pass, name: str, /, *, ring: float = 1.0) -> Tensor:
    """A region by name, (N, *S) bool or within [0, 1]; the same tensor each time within a pass.

    One that the batch does not have may follow from others: ``cytoplasm`` is the cell without its
    nucleus, ``background`` what no region but a boundary covers, ``boundary`` what is at most
    ``ring`` from the edge of the cell, on either side, in the units of :func:`distance_to`.

    :raises DataError: no such region, and nothing that it could follow from.
    """
    return run.once((find_region, name, ring), lambda: region_of(run.batch, name, ring=ring))


def clear_region(run: Pass, name: str, /) -> Tensor:
    """As :func:`find_region`, with voxels either on it or off it: bool, true above 0.5."""
    region = find_region(run, name)
    if region.dtype == torch.bool:
        return region
    return run.once((clear_region, name), lambda: region > 0.5)


def distance_to(mask: Tensor, /, *, spacing: Sequence[float], reach: float = math.inf) -> Tensor:
    """Signed distance to a mask (N, *S) bool, negative inside: (N, *S) float64.

    From the centre of a voxel to that of the nearest voxel on the other side, so no voxel is at 0.
    In micrometres for a ``spacing`` in micrometres. The crop's border is no edge of the mask.
    Voxels further outside than ``reach`` may be infinitely far; so are all from an empty mask, and
    those of a full one are infinitely deep.

    Exact and Euclidean, by ``scipy.ndimage.distance_transform_edt`` on the CPU, a mask at a time.

    >>> distance_to(torch.tensor([[False, True, True, True, False]]), spacing=[0.5])
    tensor([[ 0.5000, -0.5000, -1.0000, -0.5000,  0.5000]], dtype=torch.float64)
    """
    found = [
        signed_distance(each, spacing=spacing, reach=reach) for each in mask.detach().cpu().numpy()
    ]
    return torch.from_numpy(np.stack(found)).to(mask.device)


def dilated(run: Pass, name: str, by: float, /) -> Tensor:
    """The region with all that is at most ``by`` away from it, (N, *S) bool.

    A negative ``by`` erodes: what is at most that far from the outside is taken away.
    """
    if by == 0:
        return clear_region(run, name)
    reach = max(by, 0.0)
    return run.once(
        (dilated, name, by), lambda: within(region_distance(run, name, reach=reach), by)
    )


def region_distance(run: Pass, name: str, /, *, reach: float = math.inf) -> Tensor:
    """:func:`distance_to` a region by name: micrometres, or voxels where spacing is unknown."""
    mask = clear_region(run, name)
    spacing = run.batch.spacing or (1.0,) * len(run.batch.space)
    return run.once(
        (region_distance, name, reach), lambda: distance_to(mask, spacing=spacing, reach=reach)
    )


def signed_distance(
    mask: NDArray[np.bool_],
    /,
    *,
    spacing: Sequence[float],
    reach: float = math.inf,
    beyond: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """:func:`distance_to` one mask *S, an array; pixels ``beyond`` the field are no other side.

    >>> cell, beyond = np.array([[0, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]], bool)
    >>> signed_distance(cell, spacing=(0.5,), beyond=beyond)[1:]
    array([-1.5, -1. , -0.5,  0.5,  1. ])
    """
    far = np.full(mask.shape, -np.inf if mask.any() else np.inf)
    if not mask.any() or mask.all():
        return far
    axes = range(mask.ndim)
    on = [np.flatnonzero(mask.any(tuple(a for a in axes if a != axis))) for axis in axes]
    # Inside, the nearest voxel off the mask lies in its bounding box or touches it.
    inner = tuple(slice(max(each[0] - 1, 0), each[-1] + 2) for each in on)
    steps = np.minimum(np.ceil(reach / np.asarray(spacing, float)), max(mask.shape)).astype(int)
    outer = tuple(
        slice(max(each[0] - step, 0), each[-1] + step + 1)
        for each, step in zip(on, steps, strict=True)
    )
    distance = np.full(mask.shape, np.inf)
    distance[outer] = distance_transform_edt(~mask[outer], sampling=spacing)
    if beyond is not None:
        inner = tuple(slice(max(each.start - 1, 0), each.stop + 1) for each in outer)
    within_mask = mask[inner] if beyond is None else mask[inner] | beyond[inner]
    if within_mask.all():
        return np.where(mask, far, distance)
    depth = distance_transform_edt(within_mask, sampling=spacing)
    distance[inner] -= np.where(mask[inner], depth, 0)
    return distance


def within(distance: Tensor, by: float, /) -> Tensor:
    """What is at most ``by`` off a mask, by its :func:`distance_to`; all of the mask for 0.

    A negative ``by`` leaves what is deeper than that.
    """
    return distance <= by * (1 + _ROUNDING) if by > 0 else distance < by * (1 + _ROUNDING)


def ring(distance: Any, width: float, /, *, side: Side = "both") -> Any:
    """What is at most ``width`` from the edge of a mask, by its signed distance: bool.

    Both are arrays, or both tensors.

    >>> distance = np.array([-1.0, -0.5, 0.5, 1.0])
    >>> ring(distance, 0.5), ring(distance, 1.0, side="inside")
    (array([False,  True,  True, False]), array([ True,  True, False, False]))
    """
    near: Any = abs(distance) <= width * (1 + _ROUNDING)
    if side == "both":
        return near
    return near & (distance < 0 if side == "inside" else distance > 0)


def _boundary(batch: Batch, width: float) -> Tensor:
    spacing = batch.spacing or (1.0,) * len(batch.space)
    away = distance_to(batch.regions["cell"] > 0.5, spacing=spacing, reach=width)
    near: Tensor = ring(away, width)
    return near


def _cytoplasm(batch: Batch) -> Tensor:
    cell, nucleus = batch.regions["cell"], batch.regions["nucleus"]
    if cell.dtype == nucleus.dtype == torch.bool:
        return cell & ~nucleus
    return (cell.double() - nucleus.double()).clamp(min=0)


def _background(batch: Batch) -> Tensor:
    regions = dict(batch.regions)
    regions.pop("boundary", None)  # lies over the others, and would leave a gap in their sum
    covered = regions.pop("cell").double() + regions.pop("neighbours").double()
    for region in regions.values():
        covered = torch.maximum(covered, region.double())
    return (1 - covered).clamp(min=0)
