"""Divide the cells of a dataset in two, with nothing on one side to recognise the other by.

Cells of one well, field or embryo resemble each other; a split between cells would test memory.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import pandas as pd

from attrscore.core import Dataset
from attrscore.errors import AttrscoreWarning, ConfigError, DataError, did_you_mean, preview

__all__ = ["Rows", "split"]

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
