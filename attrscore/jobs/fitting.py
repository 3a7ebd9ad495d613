"""Training the model that settings describe, for ``attrscore train`` and before an audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrscore.core.contracts import Dataset
from attrscore.core.registry import GUIDES
from attrscore.datasets.flags import red_flags
from attrscore.engine.reading import draw_pool
from attrscore.errors import ConfigError, choose
from attrscore.jobs.assembly import dataset_of, given_channels, model_of
from attrscore.jobs.provenance import notify_of_data
from attrscore.models.record import TrainingRecord
from attrscore.models.weights import save_weights
from attrscore.training import Trained, train


def fit(
    settings: Mapping[str, Any], *, notify: Callable[[str], None] = lambda _line: None
) -> tuple[Trained, Dataset]:
    """Train the model of the settings on their dataset and save its weights.

    What ``train.dataset`` holds replaces settings of the dataset, so that a model can be trained
    on other cells than it is audited on. ``notify`` receives a line an epoch.
    """
    options = dict(settings["train"])
    output, _ = Path(options.pop("output")), options.pop("when")
    seed = options.pop("seed")
    node = dict(settings["guide"])
    guide = GUIDES.build(node.pop("name"), **node)
    cells = {**settings["dataset"], **(options.pop("dataset") or {})}
    settings = {**settings, "dataset": cells}
    dataset = dataset_of(settings)
    notify_of_data(dataset, red_flags(dataset, draw_pool(dataset)), notify)
    model = model_of(settings, dataset)
    try:
        trained = train(
            model,
            dataset,
            seed=settings["seed"] if seed is None else seed,
            guide=guide,
            progress=notify,
            **options,
        )
    except KeyboardInterrupt as error:
        error.add_note("Nothing was written: weights are, when training ends.")
        raise
    save_weights(trained.model, output, record=_record(settings, trained, dataset))
    return trained, dataset


def _record(settings: Mapping[str, Any], trained: Trained, dataset: Dataset) -> TrainingRecord:
    """What the weights keep of their training."""
    split_by = settings["train"]["split_by"]
    table = dataset.table
    groups: list[str] = []
    if split_by is not None:
        held_out = table["id"].astype(str).isin(set(trained.held_out_ids))
        groups = sorted(set(table.loc[held_out, split_by].astype(str)))
    channels, stains = given_channels(settings, dataset)
    return TrainingRecord.of(
        classes=tuple(map(str, dataset.classes)),
        channels=channels,
        stains=stains,
        normalised=getattr(dataset, "about", {}).get("normalised", ""),
        split_by=split_by,
        groups=groups,
        trained_on=trained.train_ids,
        held_out=trained.held_out_ids,
        accuracy={
            "held_out": trained.accuracy,
            "balanced": trained.balanced_accuracy,
            "trained_on": trained.train_accuracy,
        },
        confusion=trained.confusion.tolist(),
        guide={} if settings["guide"]["name"] == "none" else dict(settings["guide"]),
    )


def train_if_asked(settings: Mapping[str, Any], notify: Callable[[str], None]) -> None:
    """Train first, where ``train.when=missing`` and the weights are not there."""
    when, weights = settings["train"]["when"], settings["model"].get("weights")
    if choose(when, ("never", "missing"), option="train.when") == "never":
        return
    if not weights:
        raise ConfigError("train.when=missing needs model.weights, the file to train into.")
    if not Path(weights).expanduser().exists():
        notify(f"{weights} is not there: training first.")
        # also where this job randomises them, and others then take them as they are
        plain = {"weights": None, "randomize": "none", "randomize_to": None}
        model = {**settings["model"], **plain}
        cells = {**settings["dataset"], "shard": None}  # all: other shards take the same weights
        options = {**settings["train"], "output": weights}
        fit({**settings, "model": model, "dataset": cells, "train": options}, notify=notify)
