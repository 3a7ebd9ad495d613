"""Monitors for other people's training loops: a torchmetrics Metric and a Lightning callback.

They need extras: ``pip install 'attrscore[lightning]'``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from attrscore.core.contracts import Batch
from attrscore.datasets.batches import Items, as_batch
from attrscore.training.fit import MONITORED, monitored_rows, random_band

__all__ = ["LooksAtTheCell", "WhereItLooks"]


class LooksAtTheCell(Metric):
    """Grad-CAMO and swaps as a metric: ``update(model, batch)``, then ``compute()``.

    A dictionary of means, each over all cells that define it: ``score``, ``chance``, ``log_odds``,
    ``swap_outside``, ``swap_inside``, and ``undefined``, the share of cells without a score. States
    are sums and counts, so that processes are reduced exactly. Options as for
    :func:`attrscore.training.monitor`; it works under ``torch.inference_mode``.

    >>> from attrscore.testing.samples import cells, net
    >>> metric = LooksAtTheCell(layers="low")
    >>> metric.update(net(), cells())
    >>> round(float(metric.compute()["score"]), 3)
    0.202
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    cells: Tensor
    score_cells: Tensor

    def __init__(
        self,
        *,
        method: str = "hires_cam",
        layers: str | Sequence[str] = "last_conv",
        **options: Any,
    ) -> None:
        """The further options are those of every Metric."""
        super().__init__(**options)
        self.method, self.layers = method, layers
        for name in ("cells", *MONITORED, *(f"{name}_cells" for name in MONITORED)):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, model: nn.Module, batch: Batch, learnt: Sequence[Tensor] = ()) -> None:
        """Add a batch, of several cells: each is the donor of another."""
        rows = monitored_rows(model, batch, learnt, method=self.method, layers=self.layers)
        self.cells += len(rows)
        for name in MONITORED:
            known = rows[name].dropna()
            setattr(self, name, getattr(self, name) + known.sum())
            setattr(self, f"{name}_cells", getattr(self, f"{name}_cells") + len(known))

    def compute(self) -> dict[str, Tensor]:
        """The means over the cells so far."""
        means = {name: getattr(self, name) / getattr(self, f"{name}_cells") for name in MONITORED}
        return {**means, "undefined": 1 - self.score_cells / self.cells}


class WhereItLooks(lightning.Callback):
    """Logs after each validation where the model looks, on its first validation batches.

    ``attrscore/score``, ``chance``, ``log_odds``, ``swap_outside``, ``swap_inside``, ``undefined``,
    and the band of random weights, ``random_lowest`` and ``random_highest``, which is measured
    once. Batch normalisation is asked with statistics taken anew from ``learnt`` batches of the
    training data, on a copy: the running ones make early epochs noise.

    ``batches`` of the validation loader are looked at; ``items`` says what the items of a batch are
    (:func:`attrscore.datasets.batches.as_batch`), by default (inputs, masks of the cells, labels).
    ``model`` names the module of the LightningModule that takes the inputs, itself by default.
    """

    def __init__(
        self,
        *,
        batches: int = 1,
        learnt: int = 4,
        items: Items = None,
        model: Callable[[Any], nn.Module] = lambda module: module,
        method: str = "hires_cam",
        layers: str | Sequence[str] = "last_conv",
    ) -> None:
        self._batches, self._learnt, self._items, self._model = batches, learnt, items, model
        self._options: dict[str, Any] = {"method": method, "layers": layers}
        self._metric = LooksAtTheCell(**self._options)
        self._band: tuple[float, float] | None = None
        self.history: list[dict[str, float]] = []

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,  # noqa: ARG002  # Lightning's signature, as in what follows
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at one of the first batches; not while Lightning checks that validation works."""
        if batch_idx >= self._batches or dataloader_idx or trainer.sanity_checking:
            return
        cells = self._as_batch(batch, batch_idx)
        model = self._model(pl_module)
        learnt = self._statistics(trainer, cells)
        if self._band is None:
            self._band = random_band(model, cells, learnt, **self._options)
        self._metric.to(cells.inputs.device).update(model, cells, learnt)

    def on_validation_epoch_end(
        self,
        trainer: lightning.Trainer,  # noqa: ARG002
        pl_module: lightning.LightningModule,
    ) -> None:
        """Log the means."""
        if not self._metric.update_called:
            return
        found = {name: float(value) for name, value in self._metric.compute().items()}
        self._metric.reset()
        if self._band is not None:
            found |= {"random_lowest": self._band[0], "random_highest": self._band[1]}
        self.history.append(found)
        pl_module.log_dict({f"attrscore/{name}": value for name, value in found.items()})

    def _statistics(self, trainer: lightning.Trainer, like: Batch) -> list[Tensor]:
        """Inputs of some batches of the training data."""
        loader = trainer.train_dataloader
        if loader is None:
            return []
        with torch.random.fork_rng(devices=[]):  # samplers draw, and training must not feel it
            items = list(itertools.islice(iter(loader), self._learnt))
        return [self._as_batch(item, 0).inputs.to(like.inputs) for item in items]

    def _as_batch(self, item: Any, number: int) -> Batch:
        if isinstance(item, Batch):
            return item
        with torch.inference_mode(mode=False):
            return as_batch(item, items=self._items, first=number * 1_000_000)
