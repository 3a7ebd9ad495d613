"""Kept maps laid back into the fields that their crops were cut from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from attrscore.core.contracts import Dataset
from attrscore.core.heat import Heat, HeatOptions
from attrscore.datasets.cells.crops import CutFromFields
from attrscore.errors import ConfigError, DataError, choose, preview
from attrscore.store import Kept

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FieldHeat", "Overlap", "Scale", "Stack", "laid_back", "stacks_of"]

Overlap = Literal["own", "max", "mean", "cells"]
Scale = Literal["none", "each"]


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
    """Kept maps by method and layer (and model and target, where there are several), all or some.

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
    """Each field with the heat of its cells, resized to their crops and laid where these lie.

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
    """A crop's heat on the pixels of the field whose centres lie in the crop."""
    where = []
    for axis, (begin, span, limit) in enumerate(zip(first, extent, shape, strict=True)):
        low, high = (int(np.ceil(edge - 0.5)) for edge in (begin, begin + span))
        pixels = np.arange(max(low, 0), max(min(high, limit), 0))
        at = (pixels + 0.5 - begin) * (heat.shape[axis] / span) - 0.5
        heat = _sampled(heat, at, axis)
        where.append(slice(int(pixels[0]), int(pixels[-1]) + 1) if len(pixels) else slice(0, 0))
    return tuple(where), heat


def _sampled(heat: NDArray[np.float32], at: NDArray[np.float64], axis: int) -> NDArray[np.float32]:
    """Linear interpolation along an axis, constant beyond its ends."""
    at = np.clip(at, 0, heat.shape[axis] - 1)
    low = np.floor(at).astype(int)
    if (low == at).all():
        return np.take(heat, low, axis)
    high = np.minimum(low + 1, heat.shape[axis] - 1)
    share = (
        (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(heat.ndim)])
    )
    mixed: NDArray[np.float32] = (
        np.take(heat, low, axis) * (1 - share) + np.take(heat, high, axis) * share
    )
    return mixed


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
