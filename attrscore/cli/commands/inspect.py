"""``attrscore inspect``: what is understood of a model and a dataset, before anything runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrscore.cli.hydra_app import composed
from attrscore.cli.outcomes import INCOMPLETE, OK
from attrscore.errors import LayerError, preview

if TYPE_CHECKING:
    from torch import nn

    from attrscore.core.contracts import Batch
    from attrscore.engine.preflight import Finding, LayerSurvey, Survey

_SHOWN = {2: 24, 3: 12}
"""Cells on the contact sheet, by dimensions."""

RESOLVES = 0.9
"""Of the heat: what a map on a layer's grid must be able to put on the cell of median area."""

TRIED = (
    *("hires_cam", "legrad", "integrated_gradients", "input_x_gradient"),
    *("layer_cam", "grad_cam", "saliency", "lrp", "deep_lift"),
)
"""Methods of few passes, in the order in which they are recommended: what is exact about what was
used, by layer before by input. ``attrscore leaderboard`` says how they fare where that is known."""

OF_TOKENS = "attention_rollout"
"""Before all of these, at the middle block, where a model attends over tokens: there it
separated honest from cheating best, in part 10 of the validation."""

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
    findings: tuple[Finding, ...] = ()
    with answering(model):
        try:
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
        except LayerError as error:
            if wanted_layers(settings) != "last_conv":  # which nobody may have asked for
                raise
            output.say(str(error))
    with answering(model):
        advice = _recommended(found, model, batch, settings)
    if as_json:
        shown = {
            "model": asdict(found),
            "findings": list(map(asdict, findings)),
            "recommended": asdict(advice),
            "red_flags": [flag.as_dict() for flag in flags],
        }
        sys.stdout.write(json.dumps(shown, indent=1) + "\n")
    else:
        if findings:
            out.print(output.finding_table(findings))
        for line in advice.lines():
            out.print(line, soft_wrap=True, highlight=False)
    refused = any(finding.verdict == "refused" for finding in findings)
    return INCOMPLETE if output.say_skipped(dataset) or refused else OK


@dataclass(frozen=True)
class Recommendation:
    """What to use on a model, by the layers that it has and the methods that can explain it."""

    method: str | None
    """None: none of those tried can."""
    layer: str | None
    """None: no grid resolves cells of this size."""
    highest: float
    """Of a map on its grid, on the cell of median area."""
    scalar: str | None
    """Of the target; None where it is not one of classes."""
    score: str
    explains: Sequence[str]
    """Every method tried that can explain the model, there or at the input."""
    refused: Mapping[str, str]
    """Method -> why not."""

    def lines(self) -> Iterator[str]:
        """The recommendation and its reasons, as text."""
        if self.method is None:
            yield f"recommended: nothing: none of {preview(list(self.refused))} can explain it."
            return
        chosen = [f"method=[{self.method}]", "scorer=[grad_camo,swap]"]
        chosen += [f"'layers=[{self.layer}]'"] if self.layer else []
        chosen += [f"target.scalar={self.scalar}"] if self.scalar else []
        yield f"recommended: {' '.join(chosen)}, and read {self.score}"
        if self.method == OF_TOKENS:
            yield (
                "  layer: the middle one of its blocks, since the model attends over tokens; its "
                f"grid can put up to {self.highest:.0%} of the heat on the cell of median area"
            )
        elif self.layer:
            yield (
                f"  layer: the deepest whose grid can put {RESOLVES:.0%} of the heat on the cell "
                f"of median area; here up to {self.highest:.0%}"
            )
        else:
            yield "  layer: no grid resolves cells of this size, so a method at the input"
        names = (OF_TOKENS, *TRIED) if self.method == OF_TOKENS else TRIED
        yield f"  method: the first that can, of {preview(names)}; so can {preview(self.explains)}"
        if self.method == OF_TOKENS:
            yield "  it is the same for every class: what the swap says of a class goes before it"
        for name, why in self.refused.items():
            yield f"  not {name}: {why}"
        if self.scalar:
            yield f"  target: the {self.scalar} is free of what all scores of classes share"
        yield "  score: corrected for chance, whatever the area. How they fare: docs/leaderboard.md"


def _recommended(
    found: Survey, model: nn.Module, batch: Batch, settings: Mapping[str, Any]
) -> Recommendation:
    """Try the methods of :data:`TRIED` at the deepest layer that resolves the cells.

    Of a model that attends over tokens: :data:`OF_TOKENS` at the middle one of its blocks.
    """
    from attrscore.core.contracts import INPUT
    from attrscore.core.heat import HeatOptions
    from attrscore.core.registry import TARGETS
    from attrscore.engine.preflight import preflight
    from attrscore.jobs.assembly import plugin_of

    target = plugin_of(TARGETS, settings)
    scalar = "margin" if hasattr(target, "scalar") else None

    def tried(methods: Sequence[str], layer: LayerSurvey | None) -> list[Finding]:
        findings = preflight(
            model,
            batch,
            methods=list(methods),
            layers=[layer.name] if layer else "last_conv",
            target=replace(target, scalar=scalar) if scalar else target,
            output=settings["output"],
            heat=HeatOptions(**settings["heat"]),
            accept=settings["accept"],
        )
        return [each for each in findings if layer or each.layer == INPUT]

    able = [each for each in found.layers if each.highest is not None and each.depth is not None]
    fine = [each for each in able if (each.highest or 0) >= RESOLVES]
    blocks = [each for each in fine if "blocks" in each.note.split(", ")]
    layer = blocks[(len(blocks) - 1) // 2] if blocks else None
    usable = tried([OF_TOKENS], layer) if layer else []
    if not usable or usable[0].verdict not in ("ok", "caution"):
        convolutions = [each for each in able if each.type.startswith("Conv")] or able
        layer = next((each for each in reversed(convolutions) if each in fine), None)
        usable = []
    usable += tried(TRIED, layer)
    explains = [f.method for f in usable if f.verdict in ("ok", "caution")]
    return Recommendation(
        method=next((name for name in (OF_TOKENS, *TRIED) if name in explains), None),
        layer=layer.name if layer else None,
        highest=(layer.highest or 0.0) if layer else 0.0,
        scalar=scalar,
        score="grad_camo.log_odds",
        explains=explains,
        refused={f.method: f.reason for f in usable if f.method not in explains},
    )


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
                    caption=batch.ids[row]
                    if batch.label[row] < 0
                    else f"{batch.ids[row]} {dataset.classes[batch.label[row]]}",
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
