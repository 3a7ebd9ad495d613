"""Every part of a job, built and checked from its settings.

Settings are plain containers, as the command line gets them from Hydra; this module knows nothing
of Hydra.
"""

from __future__ import annotations

import hashlib
import importlib
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attrscore import store
from attrscore.core.contracts import Batch, Dataset, Method, ModelFactory, Scorer, Target
from attrscore.core.heat import HeatOptions
from attrscore.core.layouts import LayoutOptions
from attrscore.core.model import (
    device_of,
    in_memory_format,
    in_precision,
    is_out_of_memory,
    unwrap,
)
from attrscore.core.registry import (
    DATASETS,
    METHODS,
    MODEL_OPTIONS,
    MODELS,
    SCORERS,
    TARGETS,
    Registry,
    origin_of,
)
from attrscore.core.secrets import Hidden
from attrscore.datasets.shards import shard_of
from attrscore.engine.attribution import Chosen, declared, layers_of
from attrscore.engine.reading import Reader, draw_pool, needs_pool, one_readable
from attrscore.engine.run import RunOptions, run
from attrscore.errors import (
    AttrscoreError,
    ConfigError,
    DataError,
    UnsupportedError,
    did_you_mean,
)
from attrscore.models.inputs import InputRule, input_rule
from attrscore.models.randomized import randomized
from attrscore.models.record import TrainingRecord, check_trained_for, read_record
from attrscore.models.weights import fingerprint, load_weights
from attrscore.targets import GroupMean
from attrscore.targets.embeddings import resolved

__all__ = [
    "Parts",
    "answering",
    "build",
    "build_plugin",
    "dataset_of",
    "draws_of",
    "given_channels",
    "model_of",
    "plugin_of",
    "plugins_of",
    "record_of",
    "wanted_layers",
]

PART_ROWS = 1024
PART_BYTES = 64 * 2**20
"""Parts of the results hold at most this much, maps included."""

_NOT_NUMBERS = ("weights", "seed", "prefix", "output", "draws")
"""Options of a model that its fingerprint stands for, or the job's own ``output``; and how many
jobs there are."""


@dataclass(frozen=True)
class Parts:
    """Everything a job consists of, built and checked before anything is written."""

    model: nn.Module
    trained: str
    """Fingerprint of the weights that random ones replace; empty where none are."""
    record: TrainingRecord | None
    """What the weights say of their training."""
    dataset: Dataset
    reader: Reader
    """Reads the dataset, ahead where ``readers`` says so."""
    target: Target
    heat: HeatOptions
    methods: Mapping[str, Method]
    scorers: Mapping[str, Scorer]
    chosen: Chosen
    labels: Mapping[str, str]
    job: store.Job
    settings: Mapping[str, Any]
    hidden: Hidden

    @cached_property
    def pool(self) -> Batch | None:
        """Other cells, where a method or scorer needs some: of all shards, the same for each."""
        if not any(map(needs_pool, [*self.methods.values(), *self.scorers.values()])):
            return None
        whole = self.dataset
        if self.settings["dataset"].get("shard") is not None:
            whole = dataset_of(
                {**self.settings, "dataset": {**self.settings["dataset"], "shard": None}}
            )
        return draw_pool(whole, self.settings["pool"], seed=self.settings["seed"])

    @cached_property
    def options(self) -> RunOptions:
        """How :func:`attrscore.engine.run.run` computes these parts."""
        return RunOptions(
            methods=self.methods,
            scorers=self.scorers,
            layers=self.chosen,
            target=self.target,
            heat=self.heat,
            output=self.settings["output"],
            precision=self.settings["precision"],
            pool=self.pool,
        )


@contextmanager
def answering(model: nn.Module, /) -> Iterator[None]:
    """Asks a model for a few cells, before there are rows that say why it failed.

    :raises UnsupportedError: what the model's own code raised, in a sentence.
    """
    try:
        yield
    except AttrscoreError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise UnsupportedError(
            f"{type(unwrap(model)).__name__} fails on a few cells of this dataset: "
            f"{type(error).__name__}: {error} ({at.filename}, line {at.lineno}). Mend the model, "
            "or give the input that it was made for."
        ) from error


def build_plugin(
    registry: Registry, key: str, options: Mapping[str, Any] | None, trust: list[str]
) -> tuple[Any, store.Plugin]:
    """The plugin of one configuration node, and what the results know it by.

    The key is the registry name unless a field ``name`` gives another. A ``_target_`` is imported
    only from packages that ``trust`` names.

    :raises ConfigError: as :meth:`Registry.build`; a ``_target_`` not trusted.
    """
    fields = dict(options or {})
    path = fields.pop("_target_", None)
    if path is None:
        name = fields.pop("name", key)
        made = registry.build(name, **fields)
        # Files by their content, not by their path.
        known = fields | dict(getattr(made, "identity", {}))
        return made, store.Plugin(key, name, known, registry.origin(name))
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
    """The dataset that the settings describe, or the shard of it, with at least one cell.

    :raises EmptyShardError: no cell belongs to the shard.
    """
    node = dict(settings["dataset"])
    shard = node.pop("shard", None)
    dataset: Dataset = DATASETS.build(node.pop("name"), **node)
    if shard is not None:
        dataset = shard_of(dataset, shard)
    if not len(dataset.table):
        raise DataError(
            f"The dataset '{settings['dataset']['name']}' has no cell. "
            f"{'; '.join(dataset.skipped.values())}"
        )
    return dataset


def model_of(settings: Mapping[str, Any], dataset: Dataset) -> nn.Module:
    """The model that the settings describe, made for a dataset, on the device asked for."""
    node = dict(settings["model"])
    own = {option: node.pop(option, default) for option, default in MODEL_OPTIONS.items()}
    weights = node.get("weights")
    renamed = own["prefix"] is not None and weights is not None
    if renamed:
        node["weights"] = None  # loaded below, under other names
    factory: ModelFactory = MODELS.build(node.pop("name"), **node)
    rule = _input_rule(own, dataset)
    spec = dataset.spec
    if rule is not None and rule.channels is not None:
        spec = replace(spec, channels=len(rule.channels))
    record = record_of(settings)
    if record is not None:
        check_trained_for(
            str(weights),
            record,
            classes=dataset.classes,
            stains=_stains(rule, dataset) if record.stains else (),
            channels=spec.channels,
        )
    model = factory(spec)
    if renamed:
        load_weights(model, str(weights), prefix=own["prefix"])
    model = randomized(model, own["randomize"], settings["seed"], to=own["randomize_to"])
    model = in_precision(model.to(_device(settings["device"])).eval(), settings["precision"])
    in_memory_format(model, own["memory_format"], spec.dimensions)
    if rule is not None:
        model.register_forward_pre_hook(rule)
    return model


def record_of(settings: Mapping[str, Any], /) -> TrainingRecord | None:
    """What the weights of the settings say of their training, if they say anything."""
    weights = settings["model"].get("weights")
    return None if weights is None else read_record(str(weights))


def given_channels(settings: Mapping[str, Any], dataset: Dataset, /) -> tuple[int, tuple[str, ...]]:
    """How many channels the model gets of a dataset, and their names where they have any."""
    own = {**MODEL_OPTIONS, **settings["model"]}
    rule = _input_rule(own, dataset)
    chosen = None if rule is None else rule.channels
    return len(chosen) if chosen else dataset.spec.channels, _stains(rule, dataset)


def _stains(rule: InputRule | None, dataset: Dataset) -> tuple[str, ...]:
    named = one_readable(dataset).stains
    if not named or rule is None or rule.channels is None:
        return named
    return tuple(named[channel] for channel in rule.channels)


def _input_rule(own: Mapping[str, Any], dataset: Dataset) -> InputRule | None:
    wanted = own["channels"]
    named = wanted is not None and any(isinstance(each, str) for each in wanted)
    return input_rule(
        channels=wanted,
        mean=own["mean"],
        std=own["std"],
        stains=one_readable(dataset).stains if named else (),
        count=dataset.spec.channels,
    )


def _trained(settings: Mapping[str, Any], dataset: Dataset) -> str:
    """Fingerprint of the weights that random ones replace, if they do."""
    if settings["model"].get("randomize", "none") == "none":
        return ""
    plain = {**settings["model"], "randomize": "none", "randomize_to": None}
    return fingerprint(model_of({**settings, "model": plain}, dataset))


def _fingerprint(model: nn.Module, trained: str) -> str:
    """Also of the weights that random ones replace.

    The draws of two trained models can be equal, and each needs rows of its own as its null.
    """
    own = fingerprint(model)
    if not trained:
        return own
    return hashlib.blake2b((own + trained).encode(), digest_size=16).hexdigest()


def _guide(settings: Mapping[str, Any]) -> dict[str, str]:
    """What kept the model on the cell while it was trained, where its weights say so."""
    record = record_of(settings)
    return {"guide": str(record.guide["name"])} if record is not None and record.guide else {}


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=wanted).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device={wanted} cannot be used here: {str(error).splitlines()[0]}"
        ) from error


def draws_of(settings: Mapping[str, Any], /) -> list[Mapping[str, Any]]:
    """The settings of each job that these stand for: one, or one a draw of random weights.

    A draw is the job that ``model.draws=1`` gives with a ``seed`` of its own, without figures, kept
    maps, and scorers that look at no map, where others do.

    :raises ConfigError: no number of draws.
    """
    model = settings["model"]
    draws = model.get("draws", MODEL_OPTIONS["draws"])
    if type(draws) is not int or draws < 1:
        raise ConfigError(f"model.draws={draws} must be a whole number from 1; 19 is usual.")
    if draws == 1 or model.get("randomize", "none") == "none":
        return [settings]
    built = plugins_of(SCORERS, settings)
    kept = {
        key: settings["scorer"][key]
        for key, (scorer, _) in built.items()
        if declared(scorer, "of_maps", default=True)
    }
    one = {
        **settings,
        "model": {**model, "draws": 1},
        "scorer": kept or settings["scorer"],
        "keep": "none",
        "figures": "none",
    }
    return [{**one, "seed": settings["seed"] + number} for number in range(draws)]


def build(settings: Mapping[str, Any], *, like: Parts | None = None) -> Parts:
    """Every part of the job, checked against each other.

    ``like`` is a job that differs by its ``seed`` alone; what does not depend on it is shared.

    :raises AttrscoreError: the first thing that does not fit, in one sentence.
    """
    hidden = Hidden(settings.get("environment", {}))
    methods = plugins_of(METHODS, settings)
    scorers = plugins_of(SCORERS, settings)
    target = plugin_of(TARGETS, settings)
    heat = HeatOptions(**settings["heat"])
    dataset = dataset_of(settings) if like is None else like.dataset
    reader = Reader(dataset, settings["readers"]) if like is None else like.reader
    unlabelled = int((dataset.table["label"] < 0).sum())
    if settings["target"]["name"] == "label" and unlabelled:
        raise DataError(
            f"target=label needs a label for every cell; {unlabelled} of {len(dataset.table)} have "
            "none. Use target=predicted, or leave those cells out."
        )
    _check_shown(settings["show"], dataset)
    groups = [name for name, each in vars(target).items() if isinstance(each, GroupMean)]
    if groups and settings["dataset"].get("shard") is not None:
        raise ConfigError(
            f"target.{groups[0]} is the mean of a group of cells, and each shard would have its "
            "own; give the file that holds the vector, or leave dataset.shard out."
        )
    model = model_of(settings, dataset)
    trained = _trained(settings, dataset) if like is None else like.trained
    first = one_readable(dataset).to(device_of(model))
    plain = {key: plugin for key, (plugin, _) in methods.items()}
    target = resolved(
        target,
        model,
        dataset,
        output=settings["output"],
        batch_size=settings["batch_size"],
        autocast=settings["precision"] == "autocast",
    )
    with answering(model):
        chosen = layers_of(
            model,
            first,
            plain,
            wanted_layers(settings),
            layout=LayoutOptions.of(settings["layout"]),
            output=settings["output"],
        )
    conditions = tuple(
        store.Condition(method, layer, scorer)
        for plugin, method in methods.values()
        for layer in chosen.layers_for(plugin)
        for _, scorer in scorers.values()
    )
    base = {
        "model": {
            **_identity(MODELS, settings, leave_out=_NOT_NUMBERS),
            "fingerprint": _fingerprint(model, trained),
            **_guide(settings),
        },
        "dataset": {
            "name": settings["dataset"]["name"],
            "fingerprint": dataset.fingerprint(),
            **_shard(settings["dataset"]),
        }
        if like is None
        else like.job.base["dataset"],
        "target": {
            **_identity(TARGETS, settings),
            # Vectors by their numbers, not by the path of their file; groups by their cells.
            **({"options": target.identity} if hasattr(target, "identity") else {}),
        },
        "output": settings["output"],
        "layout": {k: v for k, v in settings["layout"].items() if (k, v) != ("channels", "auto")},
        "precision": settings["precision"],
        **({"accept": sorted(settings["accept"])} if settings["accept"] else {}),
        "heat": heat.as_dict(),
        "seed": settings["seed"],
        "keep": settings["keep"],
        # Other batches and devices run other kernels, which round otherwise.
        "batch_size": settings["batch_size"],
        "device": device_of(model).type,
        "attrscore": version("attrscore"),
    }
    parts = Parts(
        model=model,
        trained=trained,
        record=record_of(settings) if like is None else like.record,
        dataset=dataset,
        reader=reader,
        target=target,
        heat=heat,
        methods=plain,
        scorers={key: plugin for key, (plugin, _) in scorers.items()},
        chosen=chosen,
        labels=_labels(settings),
        job=store.Job(hidden.identity(base), conditions, len(dataset.table), PART_ROWS),
        settings=settings,
        hidden=hidden,
    )
    return replace(parts, job=replace(parts.job, part_rows=_part_rows(parts, first)))


def plugins_of(
    registry: Registry, settings: Mapping[str, Any], /
) -> dict[str, tuple[Any, store.Plugin]]:
    """The methods or the scorers that the settings choose, and what the results know them by."""
    kind, trust = registry.kind, list(settings["trust"])
    nodes = settings.get(kind) or {}
    if not nodes:
        raise ConfigError(f"No {kind} is chosen: {kind}=[...]. See: attrscore plugins")
    hidden = Hidden(settings.get("environment", {}))
    built = {}
    for key, node in nodes.items():
        plugin, record = build_plugin(registry, key, node, trust)
        pool = {"pool": settings["pool"]} if needs_pool(plugin) else {}  # no other depends on it
        options = hidden.identity({**record.options, **pool})
        built[key] = plugin, replace(record, options=options)
    return built


def plugin_of(registry: Registry, settings: Mapping[str, Any], /) -> Any:
    """The target, the model or the dataset that the settings choose."""
    node = dict(settings[registry.kind])
    return registry.build(node.pop("name"), **node)


def _identity(
    registry: Registry, settings: Mapping[str, Any], leave_out: tuple[str, ...] = ()
) -> dict[str, Any]:
    node = dict(settings[registry.kind])
    name = node.pop("name")
    if registry is MODELS:
        node = {**MODEL_OPTIONS, **node}
    options = {option: value for option, value in node.items() if option not in leave_out}
    return {"name": name, "options": options, "origin": registry.origin(name)}


def wanted_layers(settings: Mapping[str, Any], /) -> str | list[str]:
    """The layers asked for; relative depths instead of them."""
    depths = settings["depth"]
    if depths is None:
        layers = settings["layers"]
        if isinstance(layers, list):  # those of a Sequential are called 0, 1, ...
            return [str(layer) for layer in layers]
        return str(layers)
    listed = depths if isinstance(depths, Sequence) and not isinstance(depths, str) else [depths]
    return [f"depth={each}" for each in listed]


def _shard(node: Mapping[str, Any]) -> dict[str, str]:
    """Options, without folders, by which the shards of one dataset differ from another's."""
    if node.get("shard") is None:
        return {}
    options = {
        name: value.rpartition("/")[2] if isinstance(value, str) else value
        for name, value in node.items()
        if name != "shard"
    }
    return {"shard": str(node["shard"]), "of": store.identify(options)}


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
    results = run(parts.model, [first], replace(parts.options, keep="native"))
    stored = sum(result.maps.size * 2 for result in results if result.maps is not None)  # float16
    return max(1, min(PART_ROWS, PART_BYTES // max(1, stored)))
