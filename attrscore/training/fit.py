"""Fit a model to a dataset's labels, and divide its cells in two with no group on both sides.

Cells of one well, field or embryo resemble each other; a split between cells would test memory.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from attrscore.core.contracts import Batch, Dataset
from attrscore.core.model import SealedModel, copied
from attrscore.core.registry import GUIDES
from attrscore.engine.evaluate import evaluate
from attrscore.errors import (
    AttrscoreError,
    AttrscoreWarning,
    ConfigError,
    DataError,
    UnsupportedError,
    choose,
    did_you_mean,
    preview,
)
from attrscore.models.randomized import randomized
from attrscore.scorers import GradCAMO
from attrscore.scorers.intervention import Swap as SwapScorer
from attrscore.targets import Predicted
from attrscore.training.guides import (
    Guide,
    Unguided,
    altered,
    check_guide,
    penalises,
    penalty_of,
)
from attrscore.training.live import UNDEFINED, mean_of_defined, watch

__all__ = [
    "Epoch",
    "Monitored",
    "Rows",
    "Trained",
    "monitor",
    "random_band",
    "split",
    "train",
]

IN_MEMORY = 2 * 1024**3
"""Bytes of float32 inputs that are read once and kept."""


@dataclass(frozen=True)
class Monitored:
    """Where a model looks, over some cells: means of what is defined."""

    score: float
    """Share of attribution on the cell."""
    chance: float
    log_odds: float
    swap_outside: float
    """Drop of the predicted class's probability when the surroundings are another cell's."""
    swap_inside: float
    undefined: float
    """Share of cells without a score."""

    def __str__(self) -> str:
        return (
            f"on the cell {self.score:.2f} (log odds {self.log_odds:+.1f})  "
            f"swap outside {self.swap_outside:+.2f}"
        )


def monitor(
    model: nn.Module,
    cells: Batch,
    /,
    learnt: Iterable[Tensor] = (),
    *,
    method: str = "hires_cam",
    layers: str | Sequence[str] = "last_conv",
) -> Monitored:
    """Where a model in training looks: scores and swaps of these cells, the model left alone.

    It is asked in eval mode, as a copy whose batch normalisation has taken its statistics anew from
    ``learnt``, inputs as they are trained on: the running ones trail behind the weights, and in
    early epochs a score under them is noise. The margin of the predicted class is explained. The
    donors of swaps are the other cells.
    """
    rows = monitored_rows(model, cells, learnt, method=method, layers=layers)
    means = {name: float(rows[name].mean()) for name in MONITORED}
    return Monitored(**means, undefined=float(rows["score"].isna().mean()))


MONITORED = {
    "score": "grad_camo",
    "chance": "grad_camo.chance",
    "log_odds": "grad_camo.log_odds",
    "swap_outside": "swap.outside",
    "swap_inside": "swap.inside",
}
"""Number of :class:`Monitored` -> the column that it is the mean of."""


def monitored_rows(
    model: nn.Module,
    cells: Batch,
    /,
    learnt: Iterable[Tensor] = (),
    *,
    method: str = "hires_cam",
    layers: str | Sequence[str] = "last_conv",
) -> pd.DataFrame:
    """What :func:`monitor` averages: a row a cell and layer, NaN where undefined."""
    learnt = list(learnt)
    with torch.inference_mode(mode=False), torch.no_grad():
        copy = copied(model)
        with _forked(next(iter(model.parameters())).device):
            if learnt:
                update_bn(learnt, copy)
        rows = evaluate(
            copy.eval(),
            replace(cells, inputs=cells.inputs.clone()),
            methods=method,
            layers=layers,
            scorers={"grad_camo": GradCAMO(auc=False), "swap": SwapScorer(count=1)},
            target=Predicted(scalar="margin"),
            pool=cells,
            progress="none",
        )
    return pd.DataFrame({name: rows[column] for name, column in MONITORED.items()})


def random_band(
    model: nn.Module,
    cells: Batch,
    /,
    learnt: Iterable[Tensor] = (),
    *,
    draws: int = 5,
    **options: Any,
) -> tuple[float, float]:
    """Lowest and highest mean log odds of these cells under random weights of the same model.

    As :func:`monitor`, whose options it takes. NaN where no draw defines any.
    """
    learnt = list(learnt)
    drawn = (randomized(model, "all", seed) for seed in range(draws))
    found = [monitor(each, cells, learnt, **options) for each in drawn]
    known = [each.log_odds for each in found if math.isfinite(each.log_odds)]
    return (min(known), max(known)) if known else (math.nan, math.nan)


@dataclass(frozen=True)
class Epoch:
    """What an epoch was like, over the cells trained on, while the weights changed."""

    loss: float
    """Mean cross-entropy, without what a guide adds."""
    accuracy: float
    penalty: float = math.nan
    """Mean that a guide added to the loss of a cell; NaN where it adds nothing."""
    undefined: float = 0.0
    """Share of cells without a penalty, such as those whose map is blank."""
    monitored: Monitored | None = None
    """What held-out cells showed after the epoch, where that was asked for."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A model in eval mode and how well it knows cells of groups that it never saw.

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
    confusion: npt.NDArray[np.int64]
    """(classes, classes): held-out cells of each class (rows) by the class predicted."""
    history: tuple[Epoch, ...]
    guide: Any = field(default_factory=Unguided)
    """What kept it on the cell while it was trained."""
    band: tuple[float, float] = (math.nan, math.nan)
    """Mean log odds of monitored cells under random weights, from the lowest to the highest."""


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
    balance: bool = False,
    guide: str | Guide = "none",
    watched: int = 0,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Trained:
    """Fit ``model`` in place, on its own device, and measure it on held-out groups.

    Cells that share a value of the column ``split_by`` stay on one side (None: every cell by
    itself). ``learning_rate`` falls to zero along a cosine, and batch normalisation takes its
    statistics from the final weights. Only parameters that require gradients learn. ``flips``
    mirrors each cell at random along each axis. With ``balance`` the cells of an epoch are drawn
    with replacement, each class as often as any other. ``guide`` keeps the model on the cell: a
    name (``none``, ``swap``, ``masked_crops``, ``outside``, ``rrr``) or a
    :class:`attrscore.training.Guide`. After each epoch :func:`monitor` looks at ``watched`` of the
    held-out cells, which changes nothing that is learnt. ``progress`` receives a line an epoch. The
    same seed gives the same weights on one machine; torch's global random state is as it was
    before.

    :raises DataError: labels that cannot be learned or split, or pixels that are not finite.
    :raises ConfigError: an option out of its range, a column that is not there, a loss that
        diverges.
    """
    _check_options(epochs, batch_size, learning_rate, augment)
    guided = GUIDES.build(guide) if isinstance(guide, str) else guide
    check_guide(guided)
    if isinstance(model, SealedModel):
        raise UnsupportedError(
            f"The model is {model.what}, which is not trained here; give the nn.Module that it "
            "was made from."
        )
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ConfigError(
            "No parameter of the model requires gradients, so nothing can be trained; "
            "unfreeze some with parameter.requires_grad_(True)."
        )
    inside, outside = split(dataset, split_by=split_by, held_out=held_out, seed=seed)
    cells = _Cells(
        dataset,
        np.concatenate([inside, outside]),
        like=parameters[0],
        regions=() if isinstance(guided, Unguided) else ("cell", "neighbours"),
    )
    drawn = torch.Generator().manual_seed(seed)  # the guide's own: batches are those of none
    some = [cells.learnt(inside[:ENOUGH], guided, torch.Generator())] if watched else []
    seen, band = _watched(model, dataset, outside[:watched], some, like=parameters[0])
    weights = _of_equal_classes(dataset.table["label"].to_numpy()[inside]) if balance else None
    history: list[Epoch] = []
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    steps = epochs * math.ceil(len(inside) / batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    try:
        with _seeded(seed, parameters[0].device), torch.enable_grad():
            for number in range(1, epochs + 1):
                model.train()
                loss, accuracy, added, undefined = 0.0, 0.0, 0.0, 0
                for rows in _batches(inside, batch_size, generator, weights):
                    if cells.regions:
                        batch = cells.batch(rows)
                        if augment == "flips":
                            batch = _flipped_batch(batch, generator)
                        batch = altered(guided, batch, drawn)
                        inputs, labels = batch.inputs, batch.label
                    else:
                        inputs, labels = cells.take(rows)
                        if augment == "flips":
                            inputs = _flipped(inputs, generator)
                    if not penalises(guided):
                        logits = _logits(model, inputs, dataset.classes)
                        error = whole = F.cross_entropy(logits, labels)
                    else:
                        if getattr(guided, "needs_input_gradient", False):
                            inputs.requires_grad_()
                        with watch(model, getattr(guided, "layers", "last_conv")) as live:
                            logits = _logits(model, inputs, dataset.classes)
                        target = getattr(guided, "explained", "label")
                        of_cells = penalty_of(guided, live.of(logits, batch, target=target))
                        error, more = F.cross_entropy(logits, labels), mean_of_defined(of_cells)
                        whole = error + more
                        added += more.item() * len(rows) / len(inside)
                        undefined += int(of_cells.isnan().sum())
                    if not math.isfinite(whole.item()):
                        raise ConfigError(
                            f"The loss became {whole.item()} in epoch {number}; a lower learning "
                            f"rate usually repairs it: learning_rate={learning_rate / 10:g}."
                        )
                    optimizer.zero_grad()
                    whole.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                    optimizer.step()
                    schedule.step()
                    loss += error.item() * len(rows) / len(inside)
                    accuracy += int((logits.argmax(1) == labels).sum()) / len(inside)
                line = f"epoch {number}/{epochs}  loss {loss:.3f}  accuracy {accuracy:.3f}"
                epoch = Epoch(loss, accuracy)
                if penalises(guided):
                    epoch = replace(epoch, penalty=added, undefined=undefined / len(inside))
                    line += f"  penalty {added:.3f}"
                if seen is not None:
                    epoch = replace(epoch, monitored=monitor(model, seen, some))
                    line += f"  {epoch.monitored}"
                history.append(epoch)
                if progress is not None:
                    progress(line)
            # Running statistics trail behind the weights: after a hundred steps a model that is
            # right in training mode may still guess in eval mode. Take them anew.
            batches = _batches(inside, batch_size, generator, weights)
            update_bn((cells.learnt(rows, guided, drawn) for rows in batches), model)
    finally:
        optimizer.zero_grad(set_to_none=True)
        model.eval()

    if history[-1].undefined > UNDEFINED:
        warnings.warn(
            f"In the last epoch {history[-1].undefined:.0%} of cells had no penalty by {guided}: "
            "their maps were blank, or their masks empty or full.",
            AttrscoreWarning,
            stacklevel=2,
        )
    confusion = _confusion(model, cells, outside, batch_size, dataset.classes)
    among = _confusion(model, cells, inside, batch_size, dataset.classes)
    ids = dataset.table["id"].astype(str).to_numpy()
    tested = confusion.sum(1) > 0
    return Trained(
        model=model,
        accuracy=float(confusion.trace() / confusion.sum()),
        balanced_accuracy=float((confusion.diagonal()[tested] / confusion.sum(1)[tested]).mean()),
        train_accuracy=float(among.trace() / among.sum()),
        train_ids=tuple(ids[inside]),
        held_out_ids=tuple(ids[outside]),
        unlabelled=int((dataset.table["label"] < 0).sum()),
        confusion=confusion,
        history=tuple(history),
        guide=guided,
        band=band,
    )


ENOUGH = 256
"""Cells from which a monitor takes the statistics of batch normalisation."""


def _watched(
    model: nn.Module, dataset: Dataset, rows: Rows, learnt: Sequence[Tensor], *, like: Tensor
) -> tuple[Batch | None, tuple[float, float]]:
    """The cells to look at after each epoch, and their band under random weights.

    A model without such a layer is trained all the same, with a warning.
    """
    if not len(rows):
        return None, (math.nan, math.nan)
    read = dataset.read(rows.tolist())
    batch = replace(read, inputs=read.inputs.to(like.dtype)).to(like.device)
    try:
        return batch, random_band(model, batch, learnt)
    except AttrscoreError as error:
        warnings.warn(f"The training cannot be watched: {error}", AttrscoreWarning, stacklevel=3)
        return None, (math.nan, math.nan)


class _Cells:
    """Inputs and labels by row, read once where they fit into memory; for a guide regions too."""

    def __init__(
        self, dataset: Dataset, rows: Rows, *, like: Tensor, regions: Sequence[str] = ()
    ) -> None:
        self._dataset = dataset
        self._like = like
        self.regions = regions
        self._masks: dict[str, Tensor] = {}
        self._kept: Tensor | None = None
        self._row_of = np.full(len(dataset.table), -1)
        self._labels = torch.as_tensor(dataset.table["label"].to_numpy(dtype=np.int64, copy=True))
        spec = dataset.spec
        if 4 * len(rows) * spec.channels * math.prod(spec.size) <= IN_MEMORY:
            self._row_of[rows] = np.arange(len(rows))
            parts = [self._read(part) for part in np.array_split(rows, math.ceil(len(rows) / 64))]
            self._kept = torch.cat([part.inputs.float() for part in parts])
            self._masks = {
                name: torch.cat([part.regions[name] for part in parts])
                for name in regions
                if name in parts[0].regions
            }

    def take(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Inputs (N, C, *S) and labels (N,), where and as the model wants them."""
        if self._kept is not None:
            inputs = self._kept[torch.as_tensor(self._row_of[rows])]
        else:
            inputs = self._read(rows).inputs
        where = self._like.device
        return inputs.to(where, self._like.dtype), self._labels[torch.as_tensor(rows)].to(where)

    def batch(self, rows: Rows) -> Batch:
        """The same with the regions, and the columns that the dataset carries."""
        if self._kept is not None:
            at = torch.as_tensor(self._row_of[rows])
            inputs, regions = self._kept[at], {n: each[at] for n, each in self._masks.items()}
        else:
            read = self._read(rows)
            inputs = read.inputs
            regions = {name: read.regions[name] for name in self.regions if name in read.regions}
        table = self._dataset.table
        carried = [name for name in map(str, table) if name.startswith("Metadata_")]
        meta = {name: table[name].to_numpy()[rows].tolist() for name in carried}
        label = self._labels[torch.as_tensor(rows)]
        # Without ids: with balance=True a cell may stand twice in a batch.
        batch = Batch(inputs.to(self._like.dtype), regions, label, meta=meta)
        return batch.to(self._like.device)

    def learnt(self, rows: Rows, guide: Any, generator: torch.Generator) -> Tensor:
        """Inputs as the model learns from them."""
        if not self.regions:
            return self.take(rows)[0]
        return altered(guide, self.batch(rows), generator).inputs

    def _read(self, rows: Rows) -> Batch:
        batch = self._dataset.read(rows.tolist())
        bad = [i for i, x in zip(batch.ids, batch.inputs, strict=True) if not x.isfinite().all()]
        if bad:
            raise DataError(
                f"Pixels of {preview(bad)} are not finite; repair the images, or set the labels of "
                "these cells to -1."
            )
        return batch


def _check_options(epochs: int, batch_size: int, learning_rate: float, augment: str) -> None:
    if epochs < 1 or batch_size < 2 or not learning_rate > 0:
        raise ConfigError(
            "Training needs epochs of at least 1, batch_size of at least 2 and a learning_rate "
            f"above 0; given: {epochs}, {batch_size}, {learning_rate}."
        )
    choose(augment, ("none", "flips"), option="augment")


def _of_equal_classes(labels: Rows) -> Tensor:
    """A weight for each of these cells: together, those of each class weigh the same."""
    return torch.from_numpy(1 / np.bincount(labels)[labels])


def _batches(
    rows: Rows, size: int, generator: torch.Generator, weights: Tensor | None = None
) -> Iterator[Rows]:
    """Shuffled rows in batches of nearly ``size``: no single row is left for the last.

    Batch normalisation cannot train on one cell. With ``weights`` as many rows are drawn instead,
    with replacement.
    """
    if weights is None:
        drawn = torch.randperm(len(rows), generator=generator)
    else:
        drawn = torch.multinomial(weights, len(rows), replacement=True, generator=generator)
    order = rows[drawn.numpy()]
    yield from np.array_split(order, math.ceil(len(order) / size))


def _flipped(inputs: Tensor, generator: torch.Generator) -> Tensor:
    for axis in range(2, inputs.ndim):
        mirrored = torch.rand(len(inputs), generator=generator) < 0.5
        mirrored = mirrored.to(inputs.device).reshape(-1, *[1] * (inputs.ndim - 1))
        inputs = torch.where(mirrored, inputs.flip(axis), inputs)
    return inputs


def _flipped_batch(batch: Batch, generator: torch.Generator) -> Batch:
    """The regions go along with the inputs."""
    masks = [region[:, None].to(batch.inputs) for region in batch.regions.values()]
    both = _flipped(torch.cat([batch.inputs, *masks], 1), generator)
    channels = batch.inputs.shape[1]
    regions = {
        name: both[:, channels + number].to(region.dtype)
        for number, (name, region) in enumerate(batch.regions.items())
    }
    return replace(batch, inputs=both[:, :channels].contiguous(), regions=regions)


def _logits(model: nn.Module, inputs: Tensor, classes: tuple[str, ...]) -> Tensor:
    output = model(inputs)
    if not isinstance(output, Tensor):
        raise UnsupportedError(
            f"The model returns a {type(output).__name__}; training needs one tensor of logits "
            "(N, K). Wrap it in a module that returns the logits only."
        )
    if tuple(output.shape) != (len(inputs), len(classes)):
        raise DataError(
            f"The model returns {tuple(output.shape)} for {len(inputs)} cells; expected "
            f"{(len(inputs), len(classes))}, a logit for each class ({preview(classes)})."
        )
    return output


def _confusion(
    model: nn.Module, cells: _Cells, rows: Rows, size: int, classes: tuple[str, ...]
) -> npt.NDArray[np.int64]:
    """How many of these rows of each class are predicted as each, in eval mode."""
    model.eval()
    counts = np.zeros((len(classes), len(classes)), np.int64)
    with torch.no_grad():
        for part in np.array_split(rows, math.ceil(len(rows) / size)):
            inputs, labels = cells.take(part)
            predicted = _logits(model, inputs, classes).argmax(1)
            np.add.at(counts, (labels.cpu().numpy(), predicted.cpu().numpy()), 1)
    return counts


def _forked(where: torch.device) -> contextlib.AbstractContextManager[Any]:
    """What is drawn inside leaves the global random state alone."""
    forked: contextlib.AbstractContextManager[Any] = torch.random.fork_rng(
        devices=[where] if where.type == "cuda" else []
    )
    return forked


@contextlib.contextmanager
def _seeded(seed: int, where: torch.device) -> Iterator[None]:
    """Dropout and the like draw from ``seed``; the global random state returns afterwards."""
    on_gpu = where.type == "cuda"
    with _forked(where):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(where):
                torch.cuda.manual_seed(seed)
        yield


Rows = npt.NDArray[np.int64]
"""Row numbers of a dataset's table."""


def split(
    dataset: Dataset, /, *, split_by: str | None, held_out: float, seed: int = 0
) -> tuple[Rows, Rows]:
    """Rows to train on and rows held out, without a group on both sides.

    Every class is held out as nearly to the share ``held_out`` as whole groups allow, and stands on
    both sides; a class of one group only is trained on, with a warning. Rows without label (-1) are
    on neither side.

    :raises DataError: fewer than two classes, or groups that cannot be divided so.
    :raises ConfigError: no such column, or a share outside (0, 1).
    """
    if not 0 < held_out < 1:
        raise ConfigError(f"held_out must lie between 0 and 1; given: {held_out}.")
    labels = dataset.table["label"].to_numpy()
    rows = np.flatnonzero(labels >= 0)
    present, codes = np.unique(labels[rows], return_inverse=True)
    names = [dataset.classes[label] if label < len(dataset.classes) else "?" for label in present]
    if "?" in names:
        raise DataError(
            f"label {present.max()} has no name: the dataset states {len(dataset.classes)} classes "
            f"({preview(dataset.classes)}), numbered from 0."
        )
    if len(present) < 2:
        found = f"all {len(rows)} are {names[0]!r}" if names else f"none of {len(labels)} has one"
        raise DataError(
            f"Training needs cells with labels of at least two classes; {found}. Join labels to "
            "the images, or load trained weights."
        )
    groups = _groups(dataset.table.iloc[rows], split_by)
    counts = np.zeros((groups.max() + 1, len(present)))
    np.add.at(counts, (groups, codes), 1)

    lone = (counts > 0).sum(0) == 1
    if lone.any():
        unit = f"value of {split_by}" if split_by is not None else "cell"
        where = f"{preview(np.array(names)[lone])}: of one {unit} only"
        if (~lone).sum() < 2:
            raise DataError(
                f"Classes cannot be both trained on and tested ({where}). "
                "Split by another column, or by cells: split_by=null."
            )
        warnings.warn(
            f"Classes are trained on and never tested ({where}).", AttrscoreWarning, stacklevel=3
        )
    outside = _choose_groups(counts, lone, held_out, np.random.default_rng(seed))
    if outside is None:
        raise DataError(
            f"No choice of whole groups of {split_by} puts every class on both sides; "
            "split by another column, or by cells: split_by=null."
        )
    chosen = outside[groups]
    return rows[~chosen], rows[chosen]


def _groups(table: pd.DataFrame, split_by: str | None) -> Rows:
    if split_by is None:
        return np.arange(len(table))
    if split_by not in table.columns:
        raise ConfigError(
            f"split_by={split_by!r} is not a column of the dataset. "
            f"{did_you_mean(split_by, (c for c in table.columns if c not in ('id', 'label')))} "
            "By cells: split_by=null."
        )
    groups, _ = pd.factorize(table[split_by])
    if (groups < 0).any():
        raise DataError(
            f"{(groups < 0).sum()} labelled cells have no {split_by}, so their group is unknown; "
            "fill the column, or set their label to -1."
        )
    return groups.astype(np.int64)


def _choose_groups(
    counts: npt.NDArray[np.float64],
    lone: npt.NDArray[np.bool_],
    held_out: float,
    rng: np.random.Generator,
) -> npt.NDArray[np.bool_] | None:
    """Which groups (rows of ``counts``, group by class) to hold out; None where it cannot be.

    A hill climb from random starts: the one change of side that helps most, until none does.
    """
    shares = counts / counts.sum(0)
    fixed = shares[:, lone].any(1)  # these groups are trained on
    least, most = shares[shares > 0].min() / 2, 1 - shares[shares > 0].min() / 2

    def cost(held: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """(..., classes) -> (...): an empty side outweighs any deviation from the share."""
        held = held[..., ~lone]
        empty = (held < least) | (held > most)
        return np.asarray((np.square(held - held_out) + empty * len(lone)).sum(-1))

    best: npt.NDArray[np.bool_] | None = None
    lowest = float(len(lone))  # what one empty side costs: no solution
    for _ in range(8):
        outside = (rng.random(len(counts)) < held_out) & ~fixed
        now = float(cost(shares[outside].sum(0)))
        while True:
            held = shares[outside].sum(0)
            costs = cost(held + np.where(outside, -1, 1)[:, None] * shares)
            costs[fixed] = np.inf
            step = int(costs.argmin())
            if costs[step] >= now - 1e-6:
                break
            outside[step] = not outside[step]
            now = float(costs[step])
        if now < lowest:
            best, lowest = outside, now
    return best
