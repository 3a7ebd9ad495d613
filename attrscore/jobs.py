"""One job from its settings: build every part, compute what is missing, write it, show it.

Settings are plain containers, as the command line gets them from Hydra; this module knows nothing
of Hydra.
"""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from attrscore import plots, store
from attrscore.core import INPUT, Batch, Dataset, Method, ModelFactory, Result, Scorer, Target
from attrscore.engine import batches_of, explains_layers, layers_of, run, to_frame
from attrscore.errors import ConfigError, DataError
from attrscore.heat import Heat, HeatOptions
from attrscore.models.weights import fingerprint
from attrscore.registry import DATASETS, METHODS, MODELS, SCORERS, TARGETS, Registry

__all__ = ["Outcome", "Parts", "build", "build_plugin", "network", "run_job"]

PART_ROWS = 1024
PART_BYTES = 64 * 2**20
"""Parts hold at most this much, maps included."""

SHOWN = {2: 4, 3: 2}
"""Cells in the figure of a job, by dimensions; in 3D each takes several slices."""

_NOT_NUMBERS = ("weights", "seed")
"""Options of a model that its fingerprint stands for."""


@dataclass(frozen=True)
class Parts:
    """Everything a job consists of, built and checked before anything is written."""

    model: nn.Module
    dataset: Dataset
    target: Target
    heat: HeatOptions
    methods: Mapping[str, Method]
    scorers: Mapping[str, Scorer]
    layers: Mapping[str, nn.Module]
    labels: Mapping[str, str]
    job: store.Job
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What a job did."""

    folder: Path
    """Of the job, or of the results where nothing was left to compute."""
    computed: int
    """Rows computed now; the rest was there."""
    scores: pd.DataFrame
    dataset: Dataset
    figures: tuple[Path, ...] = ()


def build_plugin(
    registry: Registry, key: str, options: Mapping[str, Any] | None, trust: list[str]
) -> tuple[Any, store.Plugin]:
    """The plugin of one configuration node, and what the results know it by.

    The key is the registry name unless a field ``name`` gives another. A ``_target_`` is imported
    only from packages that ``trust`` names.

    :raises ConfigError: as :meth:`attrscore.registry.Registry.build`; a ``_target_`` not trusted.
    """
    fields = dict(options or {})
    path = fields.pop("_target_", None)
    if path is None:
        name = fields.pop("name", key)
        return registry.build(name, **fields), store.Plugin(
            key, name, fields, registry.origin(name)
        )
    if path.split(".")[0] not in trust:
        raise ConfigError(
            f"{registry.kind}.{key}._target_={path} would run code of {path.split('.')[0]!r}; "
            f"if that is meant, say trust=[{path.split('.')[0]}]."
        )
    module, _, attribute = path.rpartition(".")
    try:
        plugin = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{registry.kind}.{key}._target_={path} cannot be imported: {error}"
        ) from error
    if key in registry:
        raise ConfigError(f"{registry.kind} '{key}' is registered; give this _target_ another key.")
    registry.register(key)(plugin)
    return registry.build(key, **fields), store.Plugin(key, path, fields, registry.origin(key))


def dataset_of(settings: Mapping[str, Any]) -> Dataset:
    """The dataset that the settings describe, with at least one cell."""
    dataset: Dataset = _build_single(DATASETS, settings)
    if not len(dataset.table):
        raise DataError(
            f"The dataset '{settings['dataset']['name']}' has no cell. "
            f"{'; '.join(dataset.skipped.values())}"
        )
    return dataset


def network(settings: Mapping[str, Any], dataset: Dataset) -> nn.Module:
    """The network that the settings describe, made for a dataset, on the device asked for."""
    factory: ModelFactory = _build_single(MODELS, settings)
    wanted = settings["device"]
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return factory(dataset.spec).to(torch.device(wanted)).eval()
    except (RuntimeError, AssertionError) as error:
        if "device" in str(error).lower() or "cuda" in str(error).lower():
            raise ConfigError(
                f"device={wanted} cannot be used here: {str(error).splitlines()[0]}"
            ) from error
        raise


def build(settings: Mapping[str, Any]) -> Parts:
    """Every part of the job, checked against each other.

    :raises AttrscoreError: the first thing that does not fit, in one sentence.
    """
    trust = list(settings["trust"])
    methods = _build_several(METHODS, settings, trust)
    scorers = _build_several(SCORERS, settings, trust)
    target = _build_single(TARGETS, settings)
    heat = HeatOptions(**settings["heat"])
    dataset = dataset_of(settings)
    unlabelled = int((dataset.table["label"] < 0).sum())
    if settings["target"]["name"] == "label" and unlabelled:
        raise DataError(
            f"target=label needs a label for every cell; {unlabelled} of {len(dataset.table)} have "
            "none. Use target=predicted, or leave those cells out."
        )
    model = network(settings, dataset)
    first = dataset.read([0]).to(next(model.parameters()).device)
    plain = {key: plugin for key, (plugin, _) in methods.items()}
    layers = layers_of(model, first, plain, settings["layers"])
    conditions = tuple(
        store.Condition(method, layer, scorer)
        for plugin, method in methods.values()
        for layer in (layers if explains_layers(plugin) else [INPUT])
        for _, scorer in scorers.values()
    )
    base = {
        "model": {
            **_identity(MODELS, settings, leave_out=_NOT_NUMBERS),
            "fingerprint": fingerprint(model),
        },
        "dataset": {
            "name": settings["dataset"]["name"],
            "fingerprint": dataset.fingerprint(),
        },
        "target": _identity(TARGETS, settings),
        "heat": heat.as_dict(),
        "seed": settings["seed"],
        "keep": settings["keep"],
        "attrscore": version("attrscore"),
    }
    parts = Parts(
        model=model,
        dataset=dataset,
        target=target,
        heat=heat,
        methods=plain,
        scorers={key: plugin for key, (plugin, _) in scorers.items()},
        layers=layers,
        labels=_labels(settings),
        job=store.Job(base, conditions, len(dataset.table), PART_ROWS),
        settings=settings,
    )
    return replace(parts, job=replace(parts.job, part_rows=_part_rows(parts, first)))


def run_job(
    settings: Mapping[str, Any],
    *,
    config: str = "",
    overrides: Sequence[str] = (),
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> Outcome:
    """Compute what the results folder lacks of a job, and show it.

    ``config`` is the text of the configuration, interpolations unresolved. ``advance`` is told how
    many cells are done, and of how many.

    :raises AttrscoreError: nothing was written that is not whole; parts already written stay.
    """
    if settings["threads"]:
        torch.set_num_threads(int(settings["threads"]))
    parts = build(settings)
    results = Path(settings["results"])
    job = parts.job
    missing = store.missing_conditions(results, job)
    computed = 0
    figures: tuple[Path, ...] = ()
    if missing:
        writer = store.Writer(
            results,
            replace(job, conditions=missing),
            labels=parts.labels,
            config=config,
            provenance=_provenance(parts, overrides),
        )
        try:
            computed = _fill(writer, parts, missing, advance)
        except BaseException as error:
            writer.fail(error)
            raise
        writer.succeed()
        if settings["figures"] == "all":
            figures = _draw(parts, results / "figures" / f"cells-{writer.job.id}.png")
    scores = store.read_scores(*store.folders_of(results, job))
    return Outcome(results, computed, scores, parts.dataset, figures)


def _fill(
    writer: store.Writer,
    parts: Parts,
    missing: tuple[store.Condition, ...],
    advance: Callable[[int, int], None],
) -> int:
    """Compute and commit the parts that are not there; how many cells that were."""
    asked = {condition.triple for condition in parts.job.conditions}
    skip = asked - {condition.triple for condition in missing}
    ranges = writer.missing()
    total = sum(stop - start for start, stop in ranges)
    done = 0

    def counted(batches: Iterator[Batch]) -> Iterator[Batch]:
        nonlocal done
        for batch in batches:
            yield batch
            done += len(batch)
            advance(done, total)

    for start, stop in ranges:
        torch.manual_seed(parts.settings["seed"] + start)  # the same numbers after a resume
        batches = batches_of(
            parts.dataset, batch_size=parts.settings["batch_size"], start=start, stop=stop
        )
        results = list(_results(parts, counted(batches), keep=parts.settings["keep"], skip=skip))
        table = to_frame(results, **parts.labels).drop(columns=["model", "dataset"])
        writer.write(start, stop, table, _joined_maps(results))
    return total


def _joined_maps(results: Iterable[Result]) -> dict[tuple[str, str], np.ndarray]:
    """Kept maps over batches; NaN for a batch in which the method failed."""
    by_place: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        by_place.setdefault((result.method, result.layer), []).append(result)
    joined = {}
    for place, some in by_place.items():
        shape = next((result.maps.shape[1:] for result in some if result.maps is not None), None)
        if shape is not None:
            joined[place] = np.concatenate(
                [
                    np.full((len(result), *shape), np.nan, np.float32)
                    if result.maps is None
                    else result.maps
                    for result in some
                ]
            )
    return joined


def _results(parts: Parts, batches: Iterable[Batch], **options: Any) -> Iterator[Result]:
    return run(
        parts.model,
        batches,
        methods=parts.methods,
        scorers=parts.scorers,
        layers=list(parts.layers),
        target=parts.target,
        heat=parts.heat,
        **options,
    )


def _draw(parts: Parts, path: Path) -> tuple[Path, ...]:
    """Overlays of the first cells, with every method and layer of the job."""
    rows = range(min(SHOWN[parts.dataset.spec.dimensions], len(parts.dataset.table)))
    batch = parts.dataset.read(rows).to(next(parts.model.parameters()).device)
    headline = next(iter(parts.scorers))
    heats: list[dict[str, np.ndarray]] = [{} for _ in rows]
    scores: list[dict[str, float]] = [{} for _ in rows]
    for result in _results(parts, [batch], keep="native"):
        if result.maps is None:
            continue
        full = Heat(torch.from_numpy(result.maps), batch.space, parts.heat).full().numpy()
        place = f"{result.method}\n{result.layer}"
        for row in rows:
            heats[row][place] = full[row]
            scores[row][place] = float(
                result.columns.get(headline, np.full(len(rows), np.nan))[row]
            )
    examples = [
        plots.Example(
            id=batch.ids[row],
            image=batch.inputs[row].cpu().numpy(),
            regions={name: region[row].cpu().numpy() for name, region in batch.regions.items()},
            heats=heats[row],
            scores=scores[row],
        )
        for row in rows
    ]
    title = f"{parts.labels['model']}: where it looks, with {headline} above each map"
    return (plots.save(plots.overlays(examples, title=title), path),)


def _build_several(
    registry: Registry, settings: Mapping[str, Any], trust: list[str]
) -> dict[str, tuple[Any, store.Plugin]]:
    kind = registry.kind
    nodes = settings.get(kind) or {}
    if not nodes:
        raise ConfigError(f"No {kind} is chosen: {kind}=[...]. See: attrscore plugins")
    return {key: build_plugin(registry, key, node, trust) for key, node in nodes.items()}


def _build_single(registry: Registry, settings: Mapping[str, Any]) -> Any:
    node = dict(settings[registry.kind])
    return registry.build(node.pop("name"), **node)


def _identity(
    registry: Registry, settings: Mapping[str, Any], leave_out: tuple[str, ...] = ()
) -> dict[str, Any]:
    node = dict(settings[registry.kind])
    name = node.pop("name")
    options = {option: value for option, value in node.items() if option not in leave_out}
    return {"name": name, "options": options, "origin": registry.origin(name)}


def _labels(settings: Mapping[str, Any]) -> dict[str, str]:
    """What model and dataset are called in the results; labels are no part of a job's identity."""
    model, dataset = settings["model"], settings["dataset"]
    made = model["target"].rpartition(".")[2] if model["name"] == "factory" else model["name"]
    if model.get("weights"):
        made += f":{Path(model['weights']).stem}"
    return {
        "model": settings["label"]["model"] or made,
        "dataset": settings["label"]["dataset"] or dataset["name"],
    }


def _part_rows(parts: Parts, first: Batch) -> int:
    """Rows of a part: fixed by the configuration and the shapes alone, so a resume finds them."""
    if parts.settings["keep"] == "none":
        return PART_ROWS
    results = _results(parts, [first], keep="native")
    stored = sum(result.maps.size * 2 for result in results if result.maps is not None)  # float16
    return max(1, min(PART_ROWS, PART_BYTES // max(1, stored)))


def _provenance(parts: Parts, overrides: Sequence[str]) -> dict[str, Any]:
    packages = ("attrscore", "captum", "h5py", "numpy", "torch")
    return {
        "overrides": list(overrides),
        "started": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(next(parts.model.parameters()).device),
        "threads": torch.get_num_threads(),
        "packages": {name: version(name) for name in packages},
        "skipped": dict(parts.dataset.skipped),
    }
