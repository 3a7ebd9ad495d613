"""What a dataset was understood to be, before any model runs on it. Needs no torch itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from attrscore.core.contracts import Batch, Dataset
from attrscore.datasets.flags import RedFlag
from attrscore.models.record import TrainingRecord

MOST_GROUPS = 48
"""Rows of a table of wells; where there are more, a row a plate."""

_FLAGS = ("touches_border", "tiny", "split", "cut")


@dataclass(frozen=True)
class Contents:
    """Facts in words, and counts."""

    facts: Mapping[str, str]
    groups: pd.DataFrame
    """Cells of each class (columns) by plate and well, or by plate (rows), as far as known."""
    flags: Mapping[str, int]
    """Odd cells: how many of each kind."""


def contents(dataset: Dataset, batch: Batch, /) -> Contents:
    """Look at the table, at one batch, and at what the dataset says about itself (``about``)."""
    table, spec = dataset.table, dataset.spec
    facts = {"cells": str(len(table))}
    if "Metadata_image" in table:
        facts["cells"] += f" in {table['Metadata_image'].nunique()} images"
    if "Metadata_area" in table:
        low, middle, high = table["Metadata_area"].quantile([0.05, 0.5, 0.95])
        facts["area"] = f"{middle:.0f} pixels in the middle, 9 of 10 from {low:.0f} to {high:.0f}"
    facts |= {
        "channels": str(spec.channels)
        + (f" ({', '.join(batch.stains)})" if batch.stains else ", unnamed"),
        "crop": " x ".join(map(str, spec.size)) + " pixels",
        "voxel": "unknown size"
        if batch.spacing is None
        else " x ".join(f"{n:g}" for n in batch.spacing) + " µm",
        **about(dataset).get("data", {}),
        "regions": ", ".join(batch.regions),
        "classes": f"{len(dataset.classes)}: {', '.join(dataset.classes[:8])}"
        + (" ..." if len(dataset.classes) > 8 else "")
        if dataset.classes
        else "none",
    }
    flags = {
        name: int(table[f"Metadata_{name}"].sum()) for name in _FLAGS if f"Metadata_{name}" in table
    }
    return Contents(facts, _groups(table, dataset.classes), flags)


def about(dataset: Dataset, /, flags: Sequence[RedFlag] = ()) -> dict[str, Any]:
    """What the dataset says about itself: ``data``, its ``classes``, and its ``red_flags``."""
    known = dict(getattr(dataset, "about", {}))
    said: dict[str, Any] = {"data": known} if known else {}
    said |= {"classes": [str(each) for each in dataset.classes]} if dataset.classes else {}
    return said | ({"red_flags": [flag.as_dict() for flag in flags]} if flags else {})


def normalised_otherwise(dataset: Dataset, record: TrainingRecord | None, /) -> list[RedFlag]:
    """The flag of cells whose pixels are not what the model was trained on."""
    now = getattr(dataset, "about", {}).get("normalised", "")
    then = "" if record is None else record.normalised
    if not now or not then or now == then:
        return []
    cells = len(dataset.table)
    return [RedFlag("normalised_otherwise", cells, cells, (f"then {then}", f"now {now}"))]


def notify_of_data(
    dataset: Dataset, flags: Sequence[RedFlag], notify: Callable[[str], None], /
) -> None:
    """Say where no person drew or checked the masks, and what seems wrong, a line each."""
    made = getattr(dataset, "about", {}).get("masks")
    if made:
        notify(f"masks: {made}")
    for flag in flags:
        notify(f"red flag: {flag.describe()}")


def _groups(table: pd.DataFrame, classes: tuple[str, ...]) -> pd.DataFrame:
    names = {-1: "no class", **dict(enumerate(classes))}
    classed = table["label"].map(names)
    kept = [name for name in names.values() if (classed == name).any()]
    keys = [name for name in ("Metadata_Plate", "Metadata_Well") if name in table]
    wells = table[keys].drop_duplicates() if keys else pd.DataFrame()
    if "Metadata_Well" in keys and len(wells) > MOST_GROUPS:
        keys.remove("Metadata_Well")
    known = table[keys].astype(object).fillna("not said").astype(str)
    by = [known[key].rename(key.removeprefix("Metadata_").lower()) for key in keys]
    counts = pd.crosstab(by or pd.Series("all", table.index, name=""), classed)[kept]
    counts.insert(0, "cells", counts.sum(axis=1))
    if "Metadata_Well" in table and "Metadata_Well" not in keys:
        of = wells.groupby("Metadata_Plate", dropna=False).size() if keys else [len(wells)]
        counts.insert(0, "wells", list(of))
    counts.columns.name = None
    return counts.reset_index()
