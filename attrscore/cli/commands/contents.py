"""``attrscore inspect dataset=...``: what was understood of a dataset, before anything runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

__all__ = ["about_dataset", "inspect_dataset"]

_SHOWN = {2: 24, 3: 12}
"""Cells on the contact sheet, by dimensions."""

_OF_NETWORKS = ("depth", "heat", "layers", "layout", "method", "model", "output", "precision",
                "target")  # fmt: skip

OK, INCOMPLETE = 0, 3


def about_dataset(overrides: Sequence[str], /) -> bool:
    """Whether settings are about a dataset and no network."""
    groups = [name.partition("=")[0].lstrip("+~").split(".")[0] for name in overrides]
    return "dataset" in groups and not set(groups) & set(_OF_NETWORKS)


def inspect_dataset(settings: Mapping[str, Any], /, *, as_json: bool = False) -> int:
    """Print what a dataset holds, and draw some of its crops with their masks."""
    from attrscore.cli import output as terminal
    from attrscore.engine.pool import draw_pool
    from attrscore.jobs.assembly import dataset_of
    from attrscore.jobs.contents import contents
    from attrscore.report import figures as plots

    dataset = dataset_of(settings)
    batch = draw_pool(dataset, _SHOWN[dataset.spec.dimensions], seed=settings["seed"])
    found = contents(dataset, batch)
    out = terminal.stderr() if as_json else terminal.stdout()
    if as_json:
        told = {**asdict(found), "groups": found.groups.to_dict("records")}
        sys.stdout.write(json.dumps(told, indent=1, default=str) + "\n")
    else:
        out.print(terminal.contents_table(found))
        out.print(terminal.counts_table(found))
    if settings["figures"] == "all":
        name = settings["label"]["dataset"] or settings["dataset"]["name"]
        sheet = plots.contact_sheet(
            [
                plots.Example(
                    id=batch.ids[row],
                    image=batch.inputs[row].numpy(),
                    regions={name: region[row].numpy() for name, region in batch.regions.items()},
                    heats={},
                    scores={},
                    caption=_caption(batch.ids[row], int(batch.label[row]), dataset.classes),
                )
                for row in range(len(batch))
            ],
            spacing=batch.spacing,
            title=f"{name}: {len(batch)} of {len(dataset.table)} cells",
            notes=["Classes take turns. Contrast is stretched crop by crop, for display only."],
        )
        path = plots.save(sheet, Path(settings["results"]) / "figures" / f"dataset-{name}.png")
        out.print(f"crops: {path}", soft_wrap=True)
    return INCOMPLETE if terminal.say_skipped(dataset) else OK


def _caption(cell: str, label: int, classes: Sequence[str]) -> str:
    return cell if label < 0 else f"{cell} {classes[label]}"
