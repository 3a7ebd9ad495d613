"""Every part of a job, built and checked from its settings.

Settings are plain containers, as the command line gets them from Hydra; this module knows nothing
of Hydra.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attrscore import store
from attrscore.core import INPUT, Batch, Dataset, Method, ModelFactory, Result, Scorer, Target
from attrscore.engine import explains_layers, layers_of, run
from attrscore.errors import ConfigError, DataError, did_you_mean
from attrscore.heat import HeatOptions
from attrscore.layers import device_of
from attrscore.models.weights import fingerprint
from attrscore.registry import DATASETS, METHODS, MODELS, SCORERS, TARGETS, Registry, origin_of

__all__ = ["Parts", "build", "build_plugin", "dataset_of", "network"]

PART_ROWS = 1024
PART_BYTES = 64 * 2**20
"""Parts of the results hold at most this much, maps included."""

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

    def results(self, batches: Iterable[Batch], **options: Any) -> Iterator[Result]:
        """What :func:`attrscore.engine.run` yields for these parts."""
        return run(
            self.model,
            batches,
            methods=self.methods,
            scorers=self.scorers,
            layers=list(self.layers),
            target=self.target,
            heat=self.heat,
            output=self.settings["output"],
            **options,
        )


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
    built = registry.construct(plugin, key, fields)
    return built, store.Plugin(key, path, fields, origin_of(plugin))


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
    return factory(dataset.spec).to(_device(settings["device"])).eval()


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=wanted).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device={wanted} cannot be used here: {str(error).splitlines()[0]}"
        ) from error


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
    _check_shown(settings["show"], dataset)
    model = network(settings, dataset)
    first = dataset.read([0]).to(device_of(model))
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
        "target": {
            **_identity(TARGETS, settings),
            # Vectors by their numbers, not by the path of their file.
            **({"options": target.identity} if hasattr(target, "identity") else {}),
        },
        "output": settings["output"],
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


def _check_shown(ids: Sequence[str], dataset: Dataset) -> None:
    known = set(dataset.table["id"])
    for wanted in map(str, ids):
        if wanted not in known:
            raise ConfigError(
                f"show={wanted!r} is no cell of this dataset. "
                f"{did_you_mean(wanted, list(dataset.table['id'])[:1000])}"
            )


def _part_rows(parts: Parts, first: Batch) -> int:
    """Rows of a part: fixed by the configuration and the shapes alone, so a resume finds them."""
    if parts.settings["keep"] == "none":
        return PART_ROWS
    results = parts.results([first], keep="native")
    stored = sum(result.maps.size * 2 for result in results if result.maps is not None)  # float16
    return max(1, min(PART_ROWS, PART_BYTES // max(1, stored)))
