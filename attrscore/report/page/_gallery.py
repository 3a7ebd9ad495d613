"""The gallery: cells with their outlines and heat, and the card of each for the template.

It draws what a results folder keeps (crops and maps), and needs no torch.
"""

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
from attrscore.core.columns import title_of
from attrscore.errors import StoreError
from attrscore.report._heat import heat_of
from attrscore.report.page import _pictures as pictures
from attrscore.report.page._conditions import Condition, anchor
from attrscore.stats.conditions import of_model
from attrscore.stats.summary import Names, class_name
from attrscore.store.folders import Found, find, without_keep
from attrscore.store.identity import flatten
from attrscore.store.maps import order_of

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
BINS = (
    "0 to 20th percentile",
    "20th to 40th percentile",
    "40th to 60th percentile",
    "60th to 80th percentile",
    "80th to 100th percentile",
    "No score here",
)
NUMBERS = ("", ".chance", ".log_odds", ".lowest", ".highest", ".cell_vs_neighbours", ".auc")
"""Ends of the names of columns in a cell's own table."""
_FACTS = ("Metadata_Plate", "Metadata_Well", "Metadata_Site")


@dataclass(frozen=True, eq=False)
class _Maps:
    """The maps that a job keeps of one method at one layer, and the condition that they are of."""

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
        texts = [picture for heat in self.heats.values() for picture in heat.values()]
        texts += [picture for _, picture in self.channels]
        texts += [str(v) for view in self.views for v in view.values()]
        return sum(map(len, texts))


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


def gallery(results: Sequence[str | Path], conditions: Sequence[Condition], /) -> Gallery:
    """The gallery of results folders; empty where no crops are kept.

    Of the cells with crops those with the smallest hashes of their ids are shown, so no score has a
    say in it. Maps of randomised weights are not.
    """
    jobs = [job for path in results if Path(path).is_dir() for job in find([path])[0]]
    maps = list(_maps_of(jobs, conditions))
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
    chosen = sorted(drawn, key=lambda each: (order_of(each[1]), each[0]))[:CELLS]
    there = {each.condition.key for each in maps}
    shown = [condition for condition in conditions if condition.key in there]
    left_out, shown = len(shown[HEATS:]), shown[:HEATS]
    heats = _Heats([each for each in maps if each.condition in shown], chosen)
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
    """What distinguishes a dataset from another that has cells of the same ids."""
    dataset = folder.job.base.get("dataset")
    return str(dataset.get("fingerprint") if isinstance(dataset, Mapping) else dataset)


def _maps_of(jobs: Iterable[Found], conditions: Sequence[Condition]) -> Iterator[_Maps]:
    of_pair: dict[tuple[str, ...], list[Condition]] = {}
    for each in conditions:
        names = tuple(str(each.about[name]) for name in ("model", "method", "layer"))
        of_pair.setdefault(names, []).append(each)
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
                settings = {**base, **own, "method": method, "layer": layer, "target": target}
                for condition in of_pair.get((folder.model, method, layer), ()):
                    if same_settings(condition.about, settings):
                        several = target if len(targets) > 1 else None
                        yield _Maps(folder, method, layer, several, condition)


def same_settings(about: Mapping[str, Any], settings: Mapping[str, Any], /) -> bool:
    """Whether a job's settings are those of a condition; settings of scorers change no map."""
    return all(
        _text(value) == _text(settings.get(name))
        for name, value in about.items()
        if not name.startswith("scorer.")
    )


def _text(value: Any) -> str:
    if value is None or (not isinstance(value, str) and pd.isna(value)):
        return ""
    return f"{value:g}" if isinstance(value, int | float) else str(value)


class _Heats:
    """Maps of the chosen cells, read once."""

    def __init__(self, sources: Sequence[_Maps], chosen: Sequence[tuple[str, str]], /) -> None:
        self._sources = sources
        self._maps: list[dict[str, Array]] = []
        for source in sources:
            ids = [name for data, name in chosen if data == source.data]
            found: dict[str, Array] = {}
            with suppress(StoreError):  # not every method keeps maps, nor of every cell
                names, maps = store.read_maps(
                    source.folder.path, source.method, source.layer, ids=ids, target=source.target
                )
                found = dict(zip(names, maps, strict=True))
            self._maps.append(found)

    def of(self, data: str, name: str, /) -> Iterator[tuple[_Maps, Array | None]]:
        """Each condition of a cell with its map, of the first job that keeps it."""
        done = set()
        order = sorted(range(len(self._sources)), key=lambda i: name not in self._maps[i])
        for i in order:
            source = self._sources[i]
            if source.data == data and source.condition.key not in done:
                done.add(source.condition.key)
                yield source, self._maps[i].get(name)


def _cell(
    data: str,
    name: str,
    dataset: str,
    crops: store.Crops,
    row: int,
    heats: Iterable[tuple[_Maps, Array | None]],
) -> Cell:
    full = crops.image[row] / 255
    sides = SIDES[full.ndim - 1]
    image = np.stack([pictures.shrunk(channel, sides) for channel in full])
    regions = {
        each: pictures.shrunk(crops.regions[each][row], sides) >= 0.5
        for each in ("cell", "nucleus", "neighbours")
        if each in crops.regions
    }
    shown = image.shape[1:]
    scale = _scale(full.shape[1:], shown, crops.spacing)
    views = list(_views(shown, middle_of(regions.get("cell", np.zeros(shown))), scale))
    colour = pictures.composite(image)
    grey = np.rint(255 * 0.8 * image.mean(0)).astype(np.uint8)
    stains = crops.stains or [f"channel {i}" for i in range(len(image))]
    front = views[0][1]
    drawn, notes, rows = {}, {}, {}
    for source, signed in heats:
        key = source.condition.key
        if name in source.condition.by_id:
            rows[key] = source.condition.by_id[name]
            share, notes[key] = _share(signed, source, full.shape[1:], shown)
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
    signed: Array | None, source: _Maps, space: Sequence[int], shown: Sequence[int]
) -> tuple[Array | None, str]:
    """A map as its share of its own maximum, at the size that is shown; or why there is none."""
    if signed is None:
        return None, "no map kept"
    if not np.isfinite(signed).all():
        return None, "undefined"
    options = source.folder.job.base.get("heat", {})
    (heat,) = heat_of(signed[None], space, options)
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
    """How large a pixel of the picture is along each axis, relative to the last."""
    sides = spacing or (1.0,) * len(space)
    sizes = [one * size / of for one, size, of in zip(sides, space, shown, strict=True)]
    return tuple(size / sizes[-1] for size in sizes)


def middle_of(cell: Array, /) -> tuple[int, ...]:
    """The middle of the cell, or of the crop where there is none."""
    inside = np.nonzero(cell)
    if not len(inside[0]):
        return tuple(size // 2 for size in cell.shape)
    return tuple(math.floor(axis.mean() + 0.5) for axis in inside)


def cards_of(shown: Gallery, score: str, /) -> list[dict[str, Any]]:
    """A card a cell."""
    series = list(dict.fromkeys(each.series for each in shown.conditions))
    columns = list(dict.fromkeys(each.method_layer for each in shown.conditions))
    return [_card(cell, shown.conditions, series, columns, score) for cell in shown.cells]


def percentiles_of(shown: Gallery, /) -> dict[str, dict[str, float | None]]:
    """Anchor of a cell -> key of a condition -> its percentile there, None where undefined."""
    return {
        cell.anchor: {
            condition.key: _finite(condition.percentiles[cell.rows[condition.key]])
            for condition in shown.conditions
            if condition.key in cell.rows
        }
        for cell in shown.cells
    }


def _card(
    cell: Cell,
    conditions: Sequence[Condition],
    series: Sequence[str],
    columns: Sequence[str],
    score: str,
) -> dict[str, Any]:
    by_name = {
        (each.series, each.method_layer): each for each in conditions if each.key in cell.rows
    }
    front = cell.views[0]
    facts = _facts(cell, list(by_name.values()), score)
    mine = [each for each in columns if any((one, each) in by_name for one in series)]
    return {
        "id": cell.id,
        "anchor": cell.anchor,
        "volume": len(cell.views) > 1,
        "planes": front["planes"],
        "start": front["start"],
        "style": _style(cell),
        "text": " ".join([cell.id, *(value for _, value in facts)]),
        "facts": facts,
        "spoken": f"cell {cell.id}, channels {', '.join(name for name, _ in cell.channels)}",
        "views": [
            {
                "name": view["name"],
                "colour": _box(view) + f"--under:url({view['colour']});" + _lines(view),
            }
            for view in cell.views
        ],
        "channels": [(name, _box(front) + f"--under:url({uri})") for name, uri in cell.channels],
        "columns": mine,
        "lines": [
            {
                "series": one,
                "tiles": [
                    _tile(cell, by_name[one, each]) if (one, each) in by_name else None
                    for each in mine
                ],
            }
            for one in series
            if any((one, each) in by_name for each in mine)
        ],
        "numbers": [_numbers(cell, each, score) for each in by_name.values()],
    }


def _style(cell: Cell) -> str:
    """What all pictures of a card share, once: grey images, outlines, depth."""
    front = cell.views[0]
    style = f"--z:{front['start']};--deepest:{front['planes']};--end:{max(1, front['planes'] - 1)};"
    if len(cell.views) > 1:
        deep = cell.views[2]["wide"]
        style += f"--wide:{front['wide']:.4g}fr;--deep:{deep:.4g}fr;"
    for view in cell.views:
        style += f"--grey-{view['name']}:url({view['grey']});"
        if view["lines"]:
            style += f"--lines-{view['name']}:url({view['lines']});"
    return style


def _box(view: Mapping[str, Any]) -> str:
    return f"aspect-ratio:{view['wide']:.4g}/{view['high']:.4g};"


def _lines(view: Mapping[str, Any]) -> str:
    return f"--lines:var(--lines-{view['name']},none);"


def _tile(cell: Cell, condition: Condition) -> dict[str, Any]:
    row = cell.rows[condition.key]
    score, percentile = condition.scores[row], condition.percentiles[row]
    heat = cell.heats.get(condition.key) or {}
    spoken = f"heat of {condition.method_layer}, {condition.series}: "
    spoken += f"{score:.2f}, percentile {percentile:.0f}" if np.isfinite(score) else "no score"
    return {
        "score": score,
        "percentile": percentile,
        "note": cell.notes.get(condition.key) or "no map",
        "spoken": spoken,
        "views": [
            {
                "name": view["name"],
                "style": _box(view)
                + f"--heat:url({heat[view['name']]});--under:var(--grey-{view['name']});"
                + _lines(view),
            }
            for view in cell.views
            if view["name"] in heat
        ],
    }


def _facts(cell: Cell, conditions: Sequence[Condition], score: str) -> list[tuple[str, str]]:
    """What a reader wants to know of a cell, from its first row."""
    if not conditions:
        return []
    first = conditions[0]
    row = first.rows.iloc[cell.rows[first.key]]
    facts = []
    label = row.get("label")
    if label is not None and pd.notna(label) and int(label) >= 0:
        facts.append(("label", _class(cell, int(label))))
    predicted = {
        _class(cell, int(value))
        for each in conditions
        if pd.notna(value := each.rows.iloc[cell.rows[each.key]].get("predicted")) and value >= 0
    }
    if predicted:
        facts.append(("predicted", " or ".join(sorted(predicted))))
    area = row.get(f"{score}.chance")
    if area is not None and np.isfinite(area):
        facts.append(("area fraction", f"{area:.2f}"))
    known = [name for name in _FACTS if name in row and pd.notna(row[name])]
    return facts + [(title_of(name), str(row[name])) for name in known]


def _class(cell: Cell, label: int) -> str:
    return cell.classes[label] if label < len(cell.classes) else str(label)


def _numbers(cell: Cell, condition: Condition, score: str) -> dict[str, Any]:
    row = condition.rows.iloc[cell.rows[condition.key]]
    return {
        "series": condition.series,
        "method_layer": condition.method_layer,
        "values": [row.get(f"{score}{end}") for end in NUMBERS],
        "status": " ".join(
            str(row[name]) for name in ("status", "reason") if name in row and pd.notna(row[name])
        ),
    }


def _finite(value: float) -> float | None:
    return round(float(value), 2) if np.isfinite(value) else None


# Cells with a part exchanged for another cell's, and what the model says to each

MOST_SWAPPED = 4
"""Cells of each model."""
TITLES = {
    "clean": "as it is",
    "outside": "surroundings exchanged",
    "inside": "inside exchanged",
    "cell": "whole cell transplanted",
}


def swaps(
    results: Sequence[str | Path], conditions: Sequence[Condition], names: Names, /
) -> list[dict[str, Any]]:
    """A panel a model: a row a cell, with a tile a side. Empty where no job keeps any.

    The cells are those of the smallest hashes of their ids, so no score has a say.
    """
    panels: dict[str, list[dict[str, Any]]] = {}
    jobs = [job for path in results if Path(path).is_dir() for job in find([path])[0]]
    for job in jobs:
        folder = job.folder
        settings = flatten(without_keep(folder.job.base))
        settings |= {"model": folder.model, "dataset": folder.dataset}
        series = next(
            (
                each.series
                for each in conditions
                if same_settings(
                    {name: each.about[name] for name in of_model(list(each.about))}, settings
                )
            ),
            None,
        )
        if series is None or folder.job.base.get("keep", "none") == "none":
            continue
        rows = panels.setdefault(series, [])
        for part in job.parts.values():
            crops = store.read_crops(part)
            if crops is not None and crops.exchanged is not None:
                there = {row["id"] for row in rows}
                for number, name in enumerate(crops.exchanged.ids):
                    if name in crops.ids and name not in there:
                        rows.append(_swapped_row(crops, number, folder.dataset, names))
    return [
        {
            "series": series,
            "rows": sorted(rows, key=lambda row: store.order_of(row["id"]))[:MOST_SWAPPED],
        }
        for series, rows in panels.items()
        if rows
    ]


def _swapped_row(crops: store.Crops, number: int, dataset: str, names: Names) -> dict[str, Any]:
    found = crops.exchanged
    assert found is not None  # noqa: S101  # as the caller knows
    name = found.ids[number]
    at = list(crops.ids).index(name)
    images = {"clean": crops.image[at], **{k: each[number] for k, each in found.images.items()}}
    cell = crops.regions.get("cell", np.zeros((at + 1, *crops.image.shape[2:]), bool))[at]
    clean = int(found.predicted["clean"][number])
    names = {dataset: crops.classes} if crops.classes else names
    tiles = []
    for side, title in TITLES.items():
        image, mask = _middle_plane(images[side], cell)
        predicted, share = int(found.predicted[side][number]), found.probability[side][number]
        said = f"{class_name(names, dataset, predicted)} {share:.0%}" if predicted >= 0 else ""
        lines = "" if side == "cell" else pictures.outline_picture({"cell": mask[None]})
        tiles.append(
            {
                "title": title,
                "said": said,
                "flips": predicted != clean,
                "style": f"aspect-ratio:{image.shape[2]}/{image.shape[1]};"
                f"--under:url({pictures.picture(pictures.composite(image))});"
                + (f"--lines:url({lines});" if lines else ""),
            }
        )
    return {"id": name, "tiles": tiles}


def _middle_plane(image: Array, cell: Array) -> tuple[Array, Array]:
    """(C, *S) uint8 and mask (*S) -> (C, Y, X) in [0, 1] and (Y, X): of a volume, the middle."""
    sides = SIDES[cell.ndim]
    shown = np.stack([pictures.shrunk(channel / 255, sides) for channel in image])
    mask = pictures.shrunk(cell, sides) >= 0.5
    if mask.ndim == 3:
        z = middle_of(mask)[0]
        return shown[:, z], mask[z]
    return shown, mask
