"""``attrscore inspect``: what is understood of a model and a dataset, before anything runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attrscore.cli.hydra_app import composed
from attrscore.cli.outcomes import INCOMPLETE, OK

_SHOWN = {2: 24, 3: 12}
"""Cells on the contact sheet, by dimensions."""

_OF_MODELS = ("depth", "heat", "layers", "layout", "method", "model", "output", "precision",
                "target")  # fmt: skip


def inspect(arguments: Sequence[str]) -> int:
    """Show the layers of model=, and whether method= can explain it at layers=, by a dry run.

    Where dataset= is all that is said, show what it holds, and draw crops with their masks.
    """
    example = "model=monai_resnet dataset=phantom_3d 'method=[grad_cam,guided_grad_cam]'"
    as_json, arguments = "--json" in arguments, [a for a in arguments if a != "--json"]
    settings = composed("inspect", arguments, inspect.__doc__, example, "[--json] ")
    if _about_dataset(arguments):
        return _inspect_dataset(settings, as_json=as_json)
    from attrscore.cli import output
    from attrscore.core.heat import HeatOptions
    from attrscore.core.registry import METHODS, TARGETS
    from attrscore.datasets.flags import red_flags
    from attrscore.engine.preflight import SAMPLE, preflight, survey
    from attrscore.engine.run import batches_of
    from attrscore.jobs.assembly import (
        answering,
        dataset_of,
        model_of,
        plugin_of,
        plugins_of,
        wanted_layers,
    )
    from attrscore.jobs.provenance import notify_of_data

    dataset = dataset_of(settings)
    model = model_of(settings, dataset)
    batch = next(batches_of(dataset, batch_size=SAMPLE))
    flags = red_flags(dataset, batch)
    notify_of_data(dataset, flags, output.say)
    with answering(model):
        found = survey(model, batch, output=settings["output"])
    spec = dataset.spec
    out = output.stderr() if as_json else output.stdout()
    out.print(
        f"{settings['model']['name']} on {settings['dataset']['name']}: "
        f"{len(dataset.table)} cells, {spec.channels} channels, {' x '.join(map(str, spec.size))}, "
        f"{len(dataset.classes)} classes",
        soft_wrap=True,
    )
    out.print(f"output: {found.output}", soft_wrap=True, highlight=False)
    if not as_json:
        out.print(output.layer_table(found))
    methods = {key: method for key, (method, _) in plugins_of(METHODS, settings).items()}
    with answering(model):
        findings = preflight(
            model,
            batch,
            methods=methods,
            layers=wanted_layers(settings),
            target=plugin_of(TARGETS, settings),
            output=settings["output"],
            heat=HeatOptions(**settings["heat"]),
            accept=settings["accept"],
        )
    if as_json:
        shown = {
            "model": asdict(found),
            "findings": list(map(asdict, findings)),
            "red_flags": [flag.as_dict() for flag in flags],
        }
        sys.stdout.write(json.dumps(shown, indent=1) + "\n")
    else:
        out.print(output.finding_table(findings))
    refused = any(finding.verdict == "refused" for finding in findings)
    return INCOMPLETE if output.say_skipped(dataset) or refused else OK


def _about_dataset(overrides: Sequence[str], /) -> bool:
    """Whether settings are about a dataset and no model."""
    groups = [name.partition("=")[0].lstrip("+~").split(".")[0] for name in overrides]
    return "dataset" in groups and not set(groups) & set(_OF_MODELS)


def _inspect_dataset(settings: Mapping[str, Any], /, *, as_json: bool = False) -> int:
    """Print what a dataset holds, and draw some of its crops with their masks."""
    from attrscore.cli import output
    from attrscore.datasets.flags import red_flags
    from attrscore.engine.reading import draw_pool
    from attrscore.jobs.assembly import dataset_of
    from attrscore.jobs.provenance import contents, notify_of_data
    from attrscore.report import figures as plots

    dataset = dataset_of(settings)
    batch = draw_pool(dataset, _SHOWN[dataset.spec.dimensions], seed=settings["seed"])
    found = contents(dataset, batch)
    flags = red_flags(dataset, draw_pool(dataset, seed=settings["seed"]))
    out = output.stderr() if as_json else output.stdout()
    if as_json:
        shown = {
            **asdict(found),
            "groups": found.groups.to_dict("records"),
            "red_flags": [flag.as_dict() for flag in flags],
        }
        sys.stdout.write(json.dumps(shown, indent=1, default=str) + "\n")
    else:
        out.print(output.contents_table(found))
        out.print(output.counts_table(found))
    notify_of_data(dataset, flags, output.say)
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
    return INCOMPLETE if output.say_skipped(dataset) else OK


def _caption(cell: str, label: int, classes: Sequence[str]) -> str:
    return cell if label < 0 else f"{cell} {classes[label]}"
