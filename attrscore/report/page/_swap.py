"""Cells with a part exchanged for another cell's, and what the model says to each: to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attrscore import store
from attrscore.report.page import _pictures as pictures
from attrscore.report.page._conditions import Condition
from attrscore.report.page._gallery import SIDES, middle_of, same_settings
from attrscore.stats.conditions import of_model
from attrscore.stats.summary import Names, class_name
from attrscore.store.folders import find, without_keep
from attrscore.store.identity import flatten

__all__ = ["swaps"]

Array = np.ndarray[Any, Any]

MOST = 4
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
                        rows.append(_row(crops, number, folder.dataset, names))
    return [
        {"series": series, "rows": sorted(rows, key=lambda row: store.order_of(row["id"]))[:MOST]}
        for series, rows in panels.items()
        if rows
    ]


def _row(crops: store.Crops, number: int, dataset: str, names: Names) -> dict[str, Any]:
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
        image, mask = _plane(images[side], cell)
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


def _plane(image: Array, cell: Array) -> tuple[Array, Array]:
    """(C, *S) uint8 and mask (*S) -> (C, Y, X) in [0, 1] and (Y, X): of a volume, the middle."""
    sides = SIDES[cell.ndim]
    shown = np.stack([pictures.shrunk(channel / 255, sides) for channel in image])
    mask = pictures.shrunk(cell, sides) >= 0.5
    if mask.ndim == 3:
        z = middle_of(mask)[0]
        return shown[:, z], mask[z]
    return shown, mask
