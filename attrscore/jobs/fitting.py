"""Training the model that settings describe, for ``attrscore train`` and before an audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrscore.core.contracts import Dataset
from attrscore.errors import ConfigError, choose
from attrscore.jobs.assembly import dataset_of, model_of
from attrscore.jobs.contents import notify_of_masks
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
    cells = {**settings["dataset"], **(options.pop("dataset") or {})}
    settings = {**settings, "dataset": cells}
    dataset = dataset_of(settings)
    notify_of_masks(dataset, notify)
    trained = train(
        model_of(settings, dataset), dataset, seed=settings["seed"], progress=notify, **options
    )
    save_weights(trained.model, output, classes=dataset.classes)
    return trained, dataset


def train_if_asked(settings: Mapping[str, Any], notify: Callable[[str], None]) -> None:
    """Train first, where ``train.when=missing`` and the weights are not there."""
    when, weights = settings["train"]["when"], settings["model"].get("weights")
    if choose(when, ("never", "missing"), option="train.when") == "never":
        return
    if not weights:
        raise ConfigError("train.when=missing needs model.weights, the file to train into.")
    if not Path(weights).expanduser().exists():
        notify(f"{weights} is not there: training first.")
        model = {**settings["model"], "weights": None}
        cells = {**settings["dataset"], "shard": None}  # all: other shards take the same weights
        options = {**settings["train"], "output": weights}
        fit({**settings, "model": model, "dataset": cells, "train": options}, notify=notify)
