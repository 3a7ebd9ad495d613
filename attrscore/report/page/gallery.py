"""A gallery of cells from what a results folder keeps: crops, outlines, and maps as heat."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attrscore import store
from attrscore.errors import StoreError
from attrscore.report.page import pictures
from attrscore.report.page.conditions import Condition, anchor
from attrscore.store.folders import Found, find, without_keep
from attrscore.store.identity import flatten
from attrscore.store.maps import order_of

__all__ = ["Cell", "Gallery", "gallery"]

Array = np.ndarray[Any, Any]

CELLS = 30
BYTES = 9 * 2**20
"""Of text that the pictures may take; cells that would exceed it are left out, in their order."""
LEAST = 3
"""Cells that are shown whatever they take."""
HEATS = 40
"""Most heats of one cell."""
SIDES = {2: (160, 160), 3: (24, 96, 96)}
"""What a picture is averaged down to, by dimensions."""


@dataclass(frozen=True, eq=False)
class _Place:
    """A method at a layer in a job: which condition it is, and where its maps are."""

    folder: store.JobFolder
    method: str
    layer: str
    target: str | None
    condition: Condition

    @property
    def data(self) -> str:
        return _data_of(self.folder)


@dataclass(frozen=True, eq=False)
class Cell:
    """One cell as the page shows it."""

    id: str
    anchor: str
    dataset: str
    classes: Sequence[str]
    """Names of the labels, in their order."""
    views: Sequence[Mapping[str, Any]]
    """xy and, of a volume, xz and yz: size, planes and pictures of each. Of a region that is not
    known there is no outline."""
    channels: Sequence[tuple[str, str]]
    heats: Mapping[str, Mapping[str, str]]
    """Key of a condition -> view -> picture; empty where the map is blank."""
    notes: Mapping[str, str]
    """Key of a condition -> why there is no heat to see."""
    rows: Mapping[str, int]
    """Key of a condition -> the cell's row in it."""

    @property
    def bytes(self) -> int:
        """What its pictures take."""
        told = [picture for heat in self.heats.values() for picture in heat.values()]
        told += [picture for _, picture in self.channels]
        told += [str(v) for view in self.views for v in view.values()]
        return sum(map(len, told))


@dataclass(frozen=True, eq=False)
class Gallery:
    """Cells in the order in which they were drawn, and how that was."""

    cells: Sequence[Cell] = ()
    kept: int = 0
    """Cells whose crops are kept."""
    conditions: Sequence[Condition] = ()
    """Those of which there are heats."""
    left_out: int = 0
    """Conditions beyond the most that a cell can show."""
    anchors: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Dataset and id -> anchor."""


def gallery(
    results: Sequence[str | Path], conditions: Sequence[Condition], /, *, cells: int = CELLS
) -> Gallery:
    """The gallery of results folders; empty where no crops are kept.

    Of the cells with crops those with the smallest hashes of their ids are shown, so no score has a
    say in it. Maps of randomised weights are not.
    """
    jobs = [job for path in results if Path(path).is_dir() for job in find([path])[0]]
    places = list(_places(jobs, conditions))
    drawn: dict[tuple[str, str], tuple[str, store.Crops, int]] = {}
    seen: set[tuple[str, str]] = set()
    for job in {each.folder.job.id: each for each in jobs}.values():
        data = _data_of(job.folder)
        for part in job.parts.values():
            if (data, part.name) in seen:  # every job over the same cells keeps the same crops
                continue
            crops = store.read_crops(part)
            for row, name in enumerate(crops.ids if crops is not None else ()):
                seen.add((data, part.name))
                drawn.setdefault((data, name), (job.folder.dataset, crops, row))  # type: ignore[arg-type]  # not None, as it has ids
    chosen = sorted(drawn, key=lambda each: (order_of(each[1]), each[0]))[:cells]
    there = {place.condition.key for place in places}
    shown = [condition for condition in conditions if condition.key in there]
    left_out, shown = len(shown[HEATS:]), shown[:HEATS]
    heats = _Heats([place for place in places if place.condition in shown], chosen)
    made: list[Cell] = []
    size = 0
    for data, name in chosen:
        dataset, crops, row = drawn[data, name]
        cell = _cell(data, name, dataset, crops, row, heats.of(data, name))
        size += cell.bytes
        if size > BYTES and len(made) >= LEAST:
            break
        made.append(cell)
    keys = {key for cell in made for key in cell.rows}
    return Gallery(
        made,
        len(drawn),
        [condition for condition in shown if condition.key in keys],
        left_out,
        {(cell.dataset, cell.id): cell.anchor for cell in made},
    )


def _data_of(folder: store.JobFolder) -> str:
    """What tells the cells of one dataset from those of another with the same ids."""
    dataset = folder.job.base.get("dataset")
    told = dataset.get("fingerprint") if isinstance(dataset, Mapping) else dataset
    return str(told)


def _places(jobs: Iterable[Found], conditions: Sequence[Condition]) -> Iterator[_Place]:
    for job in jobs:
        folder = job.folder
        if not job.parts or folder.job.base.get("keep", "none") == "none":
            continue
        table = store.read_table(next(iter(job.parts.values())))
        targets = list(table["target"].astype(str).unique()) if "target" in table else [""]
        base = flatten(without_keep(folder.job.base))
        base |= {"model": folder.model, "dataset": folder.dataset}
        pairs = {(c.method.key, c.layer): c for c in folder.job.conditions}
        for (method, layer), of in pairs.items():
            own = {f"method.{name}": value for name, value in of.method.settings.items()}
            for target in targets:
                told = {**base, **own, "method": method, "layer": layer, "target": target}
                for condition in conditions:
                    if _same(condition.about, told):
                        several = target if len(targets) > 1 else None
                        yield _Place(folder, method, layer, several, condition)


def _same(about: Mapping[str, Any], told: Mapping[str, Any]) -> bool:
    """Whether a job's settings are those of a condition; settings of scorers change no map."""
    return all(
        _text(value) == _text(told.get(name))
        for name, value in about.items()
        if not name.startswith("scorer.")
    )


def _text(value: Any) -> str:
    if value is None or (not isinstance(value, str) and pd.isna(value)):
        return ""
    return f"{value:g}" if isinstance(value, int | float) else str(value)


class _Heats:
    """Maps of the chosen cells, read once a place."""

    def __init__(self, places: Sequence[_Place], chosen: Sequence[tuple[str, str]], /) -> None:
        self._places = places
        self._maps: list[dict[str, Array]] = []
        for place in places:
            ids = [name for data, name in chosen if data == place.data]
            found: dict[str, Array] = {}
            with suppress(StoreError):  # not every method keeps maps, nor of every cell
                names, maps = store.read_maps(
                    place.folder.path, place.method, place.layer, ids=ids, target=place.target
                )
                found = dict(zip(names, maps, strict=True))
            self._maps.append(found)

    def of(self, data: str, name: str, /) -> Iterator[tuple[_Place, Array | None]]:
        """Each place of a cell with its map, the first job that has it."""
        done = set()
        order = sorted(range(len(self._places)), key=lambda i: name not in self._maps[i])
        for i in order:
            place = self._places[i]
            if place.data == data and place.condition.key not in done:
                done.add(place.condition.key)
                yield place, self._maps[i].get(name)


def _cell(
    data: str,
    name: str,
    dataset: str,
    crops: store.Crops,
    row: int,
    heats: Iterable[tuple[_Place, Array | None]],
) -> Cell:
    full = crops.image[row] / 255
    sides = SIDES[full.ndim - 1]
    image = np.stack([pictures.shrunk(channel, sides) for channel in full])
    regions = {
        each: pictures.shrunk(crops.regions[each][row], sides) >= 0.5
        for each in ("cell", "neighbours")
        if each in crops.regions
    }
    shown = image.shape[1:]
    scale = _scale(full.shape[1:], shown, crops.spacing)
    views = list(_views(shown, _middle(regions.get("cell", np.zeros(shown))), scale))
    colour = pictures.composite(image)
    grey = np.rint(255 * 0.8 * image.mean(0)).astype(np.uint8)
    stains = crops.stains or [f"channel {i}" for i in range(len(image))]
    front = views[0][1]
    drawn, notes, rows = {}, {}, {}
    for place, signed in heats:
        key = place.condition.key
        if name in place.condition.by_id:
            rows[key] = place.condition.by_id[name]
            share, notes[key] = _share(signed, place, full.shape[1:], shown)
            drawn[key] = {
                view["name"]: pictures.heat_picture(pictures.strip(cut(share)))
                for view, cut in (views if share is not None else ())
            }
    return Cell(
        id=name,
        anchor=anchor(data, name),
        dataset=dataset,
        classes=crops.classes,
        views=[
            {
                **view,
                "colour": pictures.picture(pictures.strip(cut(colour))),
                "grey": pictures.picture(pictures.strip(cut(grey))),
                "lines": pictures.outline_picture({k: cut(v) for k, v in regions.items()}),
            }
            for view, cut in views
        ],
        channels=[
            (stain, pictures.picture(pictures.strip(front(np.rint(255 * each).astype(np.uint8)))))
            for stain, each in zip(stains, image, strict=True)
        ],
        heats=drawn,
        notes=notes,
        rows=rows,
    )


def _share(
    signed: Array | None, place: _Place, space: Sequence[int], shown: Sequence[int]
) -> tuple[Array | None, str]:
    """A map as its share of its own maximum, at the size that is shown; or why there is none."""
    if signed is None:
        return None, "no map kept"
    if not np.isfinite(signed).all():
        return None, "undefined"
    options = place.folder.job.base.get("heat", {})
    native = pictures.heat_of(signed.astype(np.float64), options)
    heat = pictures.resized(native, space, options.get("resize", "linear"))
    heat = pictures.shrunk(heat, shown)
    top = float(heat.max())
    return (heat / top, "") if top > 0 else (None, "blank: no attribution")


def _views(
    space: Sequence[int], middle: Sequence[int], scale: Sequence[float]
) -> Iterator[tuple[dict[str, Any], Any]]:
    """Ways to see an array (*S, ...) as planes (P, Y, X, ...), each with its size on the page."""
    *_, high, wide = (size * each for size, each in zip(space, scale, strict=True))
    if len(space) == 2:
        yield _view("xy", 1, 0, high, wide), lambda array: array[None]
        return
    deep = space[0] * scale[0]
    z, y, x = middle
    yield _view("xy", space[0], z, high, wide), lambda array: array
    yield _view("xz", 1, 0, deep, wide), lambda array: array[:, y][None]
    yield _view("yz", 1, 0, high, deep), lambda array: array[:, :, x].swapaxes(0, 1)[None]


def _view(name: str, planes: int, start: int, high: float, wide: float) -> dict[str, Any]:
    return {"name": name, "planes": planes, "start": start, "high": high, "wide": wide}


def _scale(
    space: Sequence[int], shown: Sequence[int], spacing: Sequence[float] | None
) -> tuple[float, ...]:
    """How large a place of the picture is along each axis, relative to the last."""
    sides = spacing or (1.0,) * len(space)
    sizes = [one * size / of for one, size, of in zip(sides, space, shown, strict=True)]
    return tuple(size / sizes[-1] for size in sizes)


def _middle(cell: Array) -> tuple[int, ...]:
    """The middle of the cell, or of the crop where there is none."""
    places = np.nonzero(cell)
    if not len(places[0]):
        return tuple(size // 2 for size in cell.shape)
    return tuple(math.floor(axis.mean() + 0.5) for axis in places)
