"""A look at a network before anything is run: its layers, their grids, and what can be scored."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from attrscore.core.contracts import Batch
from attrscore.core.grids import Grid, area_fraction, unresolvable
from attrscore.core.layers import LAYER_RULES
from attrscore.core.network import as_found
from attrscore.core.tracing import trace
from attrscore.core.wrappers import device_of, unwrap

__all__ = ["LayerSurvey", "Survey", "survey"]


@dataclass(frozen=True)
class LayerSurvey:
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

    layers: tuple[LayerSurvey, ...]
    chance: float
    """Area fraction of the typical mask: that of the cell of median area."""
    cells: int


def survey(model: nn.Module, batch: Batch, /) -> Survey:
    """Run one crop through the network and see what each layer puts out.

    The typical mask is that of the cell of median area in the batch.
    """
    model = unwrap(model)
    cells = batch.regions["cell"]
    areas = area_fraction(cells)
    middle = int(areas.argsort()[len(areas) // 2])
    mask = cells[middle : middle + 1]
    with as_found(model):
        first = batch.rows(0, 1).to(device_of(model))
        ran = trace(model, first.inputs, *first.others)
    rules = {name: {info.name for info in rule(ran)} for name, rule in LAYER_RULES.items()}
    layers = []
    for info in ran:
        notes = [name for name, chosen in rules.items() if info.name in chosen]
        lowest = highest = None
        if info.calls > 1:
            notes = [f"runs {info.calls} times: cannot be explained"]
        elif info.grid is None:
            notes = [info.reason or "no grid"]
        else:
            low, high = Grid(batch.space, info.grid, "linear").attainable(mask)
            lowest, highest = float(low), float(high)
            if info.layout is not None and info.layout.axes != "channels_first":
                notes.append(str(info.layout))
            if unresolvable(high, areas[middle]):
                notes.append("unresolvable: every map scores chance")
        layers.append(
            LayerSurvey(
                name=info.name,
                type=type(info.module).__name__,
                grid=info.grid,
                channels=info.channels,
                lowest=lowest,
                highest=highest,
                note=", ".join(notes),
            )
        )
    return Survey(tuple(layers), float(areas[middle]), len(areas))
