"""A look at a network before anything is run: its layers, their grids, and what can be scored."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from attrscore.core import Dataset
from attrscore.heat import Grid, area_fraction, unresolvable
from attrscore.layers import LAYER_RULES, device_of, trace, unwrap
from attrscore.passes import as_found

__all__ = ["Place", "Survey", "survey"]

SAMPLE = 64
"""Cells that are looked at for a typical mask."""


@dataclass(frozen=True)
class Place:
    """One layer: its grid *s, and the attainable Grad-CAMO interval of a typical mask there."""

    name: str
    type: str
    grid: tuple[int, ...] | None
    channels: int | None
    lowest: float | None
    highest: float | None
    note: str


@dataclass(frozen=True)
class Survey:
    """The layers of a network in the order in which they run."""

    places: tuple[Place, ...]
    chance: float
    """Area fraction of the typical mask: that of the cell of median area."""
    cells: int


def survey(model: nn.Module, dataset: Dataset, /) -> Survey:
    """Run one crop through the network and see what each layer puts out.

    The typical mask is that of the cell of median area among the first 64.
    """
    model = unwrap(model)
    where = device_of(model)
    batch = dataset.read(range(min(SAMPLE, len(dataset.table))))
    cells = batch.regions["cell"]
    areas = area_fraction(cells)
    middle = int(areas.argsort()[len(areas) // 2])
    mask = cells[middle : middle + 1]
    with as_found(model):
        ran = trace(model, batch.inputs[:1].to(where))
    rules = {name: {info.name for info in rule(ran)} for name, rule in LAYER_RULES.items()}
    places = []
    for info in ran:
        notes = [name for name, chosen in rules.items() if info.name in chosen]
        lowest = highest = None
        if info.calls > 1:
            notes = [f"runs {info.calls} times: cannot be explained"]
        elif info.grid is None:
            notes = ["no grid"]
        else:
            low, high = Grid(batch.space, info.grid, "linear").attainable(mask)
            lowest, highest = float(low), float(high)
            if unresolvable(high, areas[middle]):
                notes.append("unresolvable: every map scores chance")
        shape = info.shape or ()
        places.append(
            Place(
                name=info.name,
                type=type(info.module).__name__,
                grid=info.grid,
                channels=shape[1] if info.grid is not None else None,
                lowest=lowest,
                highest=highest,
                note=", ".join(notes),
            )
        )
    return Survey(tuple(places), float(areas[middle]), len(areas))
