"""Fit a network to a dataset's labels, so that there is a trained network to audit.

Adam and cross-entropy, a held-out part that shares no group with the training part, nothing else.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from attrscore.core import Dataset
from attrscore.errors import ConfigError, DataError, UnsupportedError, choose, preview
from attrscore.layers import SealedNetwork
from attrscore.splits import Rows, split

__all__ = ["Epoch", "Trained", "train"]

IN_MEMORY = 2 * 1024**3
"""Bytes of float32 inputs that are read once and kept."""


@dataclass(frozen=True)
class Epoch:
    """Mean loss and accuracy over the cells trained on, while the weights changed."""

    loss: float
    accuracy: float


@dataclass(frozen=True, eq=False)
class Trained:
    """A network in eval mode and how well it knows cells of groups that it never saw.

    ``balanced_accuracy`` is the mean recall over the classes among the held-out cells.
    """

    model: nn.Module
    accuracy: float
    balanced_accuracy: float
    train_accuracy: float
    train_ids: tuple[str, ...]
    held_out_ids: tuple[str, ...]
    unlabelled: int
    """Cells left out for want of a label."""
    history: tuple[Epoch, ...]


def train(
    model: nn.Module,
    dataset: Dataset,
    /,
    *,
    epochs: int = 10,
    batch_size: int = 32,
    learning_rate: float = 3e-3,
    split_by: str | None = "Metadata_Well",
    held_out: float = 0.25,
    augment: Literal["none", "flips"] = "none",
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Trained:
    """Fit ``model`` in place, on its own device, and measure it on held-out groups.

    Cells that share a value of the column ``split_by`` stay on one side (None: every cell by
    itself). ``learning_rate`` falls to zero along a cosine, and batch normalisation takes its
    statistics from the final weights. Only parameters that require gradients learn. ``flips``
    mirrors each cell at random along each axis. ``progress`` receives a line an epoch. The same
    seed gives the same weights on one machine; torch's global random state is as it was before.

    :raises DataError: labels that cannot be learned or split, or pixels that are not finite.
    :raises ConfigError: an option out of its range, a column that is not there, a loss that
        diverges.
    """
    _check_options(epochs, batch_size, learning_rate, augment)
    if isinstance(model, SealedNetwork):
        raise UnsupportedError(
            f"The network is {model.what}, which is not trained here; give the nn.Module that it "
            "was made from."
        )
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ConfigError(
            "No parameter of the network requires gradients, so nothing can be trained; "
            "unfreeze some with parameter.requires_grad_(True)."
        )
    inside, outside = split(dataset, split_by=split_by, held_out=held_out, seed=seed)
    cells = _Cells(dataset, np.concatenate([inside, outside]), like=parameters[0])
    history: list[Epoch] = []
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    steps = epochs * math.ceil(len(inside) / batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    try:
        with _seeded(seed, parameters[0].device), torch.enable_grad():
            for number in range(1, epochs + 1):
                model.train()
                loss, accuracy = 0.0, 0.0
                for rows in _batches(inside, batch_size, generator):
                    inputs, labels = cells.take(rows)
                    if augment == "flips":
                        inputs = _flipped(inputs, generator)
                    logits = _logits(model, inputs, dataset.classes)
                    error = F.cross_entropy(logits, labels)
                    if not math.isfinite(error.item()):
                        raise ConfigError(
                            f"The loss became {error.item()} in epoch {number}; a lower learning "
                            f"rate usually repairs it: learning_rate={learning_rate / 10:g}."
                        )
                    optimizer.zero_grad()
                    error.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                    optimizer.step()
                    schedule.step()
                    loss += error.item() * len(rows) / len(inside)
                    accuracy += int((logits.argmax(1) == labels).sum()) / len(inside)
                history.append(Epoch(loss, accuracy))
                if progress is not None:
                    progress(f"epoch {number}/{epochs}  loss {loss:.3f}  accuracy {accuracy:.3f}")
            # Running statistics trail behind the weights: after a hundred steps a network that is
            # right in training mode may still guess in eval mode. Take them anew.
            batches = _batches(inside, batch_size, generator)
            update_bn((cells.take(rows)[0] for rows in batches), model)
    finally:
        optimizer.zero_grad(set_to_none=True)
        model.eval()

    hits = _hits(model, cells, outside, batch_size, dataset.classes)
    ids = dataset.table["id"].astype(str).to_numpy()
    labels_outside = dataset.table["label"].to_numpy()[outside]
    return Trained(
        model=model,
        accuracy=float(hits.mean()),
        balanced_accuracy=float(
            np.mean([hits[labels_outside == label].mean() for label in np.unique(labels_outside)])
        ),
        train_accuracy=float(_hits(model, cells, inside, batch_size, dataset.classes).mean()),
        train_ids=tuple(ids[inside]),
        held_out_ids=tuple(ids[outside]),
        unlabelled=int((dataset.table["label"] < 0).sum()),
        history=tuple(history),
    )


class _Cells:
    """Inputs and labels by row, read once where they fit into memory."""

    def __init__(self, dataset: Dataset, rows: Rows, *, like: Tensor) -> None:
        self._dataset = dataset
        self._like = like
        self._kept: Tensor | None = None
        self._place = np.full(len(dataset.table), -1)
        self._labels = torch.as_tensor(dataset.table["label"].to_numpy(dtype=np.int64, copy=True))
        spec = dataset.spec
        if 4 * len(rows) * spec.channels * math.prod(spec.size) <= IN_MEMORY:
            self._place[rows] = np.arange(len(rows))
            parts = [self._read(part) for part in np.array_split(rows, math.ceil(len(rows) / 64))]
            self._kept = torch.cat(parts)

    def take(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Inputs (N, C, *S) and labels (N,), where and as the network wants them."""
        if self._kept is not None:
            inputs = self._kept[torch.as_tensor(self._place[rows])]
        else:
            inputs = self._read(rows)
        where = self._like.device
        return inputs.to(where, self._like.dtype), self._labels[torch.as_tensor(rows)].to(where)

    def _read(self, rows: Rows) -> Tensor:
        batch = self._dataset.read(rows.tolist())
        bad = [i for i, x in zip(batch.ids, batch.inputs, strict=True) if not x.isfinite().all()]
        if bad:
            raise DataError(
                f"Pixels of {preview(bad)} are not finite; repair the images, or set the labels of "
                "these cells to -1."
            )
        return batch.inputs.float()


def _check_options(epochs: int, batch_size: int, learning_rate: float, augment: str) -> None:
    if epochs < 1 or batch_size < 2 or not learning_rate > 0:
        raise ConfigError(
            "Training needs epochs of at least 1, batch_size of at least 2 and a learning_rate "
            f"above 0; given: {epochs}, {batch_size}, {learning_rate}."
        )
    choose(augment, ("none", "flips"), option="augment")


def _batches(rows: Rows, size: int, generator: torch.Generator) -> Iterator[Rows]:
    """Shuffled rows in batches of nearly ``size``: no single row is left for the last.

    Batch normalisation cannot train on one cell.
    """
    order = rows[torch.randperm(len(rows), generator=generator).numpy()]
    yield from np.array_split(order, math.ceil(len(order) / size))


def _flipped(inputs: Tensor, generator: torch.Generator) -> Tensor:
    for axis in range(2, inputs.ndim):
        mirrored = torch.rand(len(inputs), generator=generator) < 0.5
        mirrored = mirrored.to(inputs.device).reshape(-1, *[1] * (inputs.ndim - 1))
        inputs = torch.where(mirrored, inputs.flip(axis), inputs)
    return inputs


def _logits(model: nn.Module, inputs: Tensor, classes: tuple[str, ...]) -> Tensor:
    output = model(inputs)
    if not isinstance(output, Tensor):
        raise UnsupportedError(
            f"The network returns a {type(output).__name__}; training needs one tensor of logits "
            "(N, K). Wrap it in a module that returns the logits only."
        )
    if tuple(output.shape) != (len(inputs), len(classes)):
        raise DataError(
            f"The network returns {tuple(output.shape)} for {len(inputs)} cells; expected "
            f"{(len(inputs), len(classes))}, a logit for each class ({preview(classes)})."
        )
    return output


def _hits(
    model: nn.Module, cells: _Cells, rows: Rows, size: int, classes: tuple[str, ...]
) -> npt.NDArray[np.bool_]:
    """Which of these rows are classified right, in eval mode."""
    model.eval()
    right = []
    with torch.no_grad():
        for part in np.array_split(rows, math.ceil(len(rows) / size)):
            inputs, labels = cells.take(part)
            right.append((_logits(model, inputs, classes).argmax(1) == labels).cpu().numpy())
    return np.concatenate(right)


@contextlib.contextmanager
def _seeded(seed: int, where: torch.device) -> Iterator[None]:
    """Dropout and the like draw from ``seed``; the global random state returns afterwards."""
    on_gpu = where.type == "cuda"
    with torch.random.fork_rng(devices=[where] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(where):
                torch.cuda.manual_seed(seed)
        yield
