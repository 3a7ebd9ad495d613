"""Which other cells stand in for a cell."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from attrscore.core.passes import Pass

__all__ = ["DONORS", "NO_DONOR", "Donors", "choose_donors", "generator_of"]

Donors = Literal["other_class", "same_class", "any"]
DONORS: tuple[Donors, ...] = ("other_class", "same_class", "any")

NO_DONOR: Mapping[str, str] = {
    "other_class": "no cell of a known other class in the pool can be a donor.",
    "same_class": "no other cell of the same known class in the pool can be a donor.",
    "any": "no other cell of the pool can be a donor.",
}
"""Why a cell has none; enlarge the pool, or choose other donors."""


def generator_of(seed: int, purpose: str, cell: str) -> torch.Generator:
    """What is drawn for a cell: it follows from the seed and the cell's id, whatever the batch."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{cell}".encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


def choose_donors(run: Pass, /, *, donors: Donors, count: int, seed: int) -> Tensor:
    """Rows of the pool for each cell, (N, count), -1 where there are too few.

    The draw follows from ``seed`` and the cell's id. A cell is never its own donor, by its id, and
    cells of the pool that are not finite, or have an empty or full mask, are none. The class is the
    label, or what the network predicts where there is none.

    :raises UnsupportedError: no pool.
    """
    pool = run.need_pool()
    covered = (pool.regions["cell"] > 0.5).flatten(1)
    fit = pool.inputs.flatten(1).isfinite().all(1) & covered.any(1) & ~covered.all(1)
    allowed = fit[None].expand(len(run.batch), -1)
    if donors != "any":
        own, theirs = _classes(run.batch.label, run), _classes(pool.label, run, of_pool=True)
        known = (own >= 0)[:, None] & (theirs >= 0)
        alike = own[:, None] == theirs
        allowed = allowed & known & (alike if donors == "same_class" else ~alike)
    chosen = torch.full((len(run.batch), count), -1)
    for row, (cell, may) in enumerate(zip(run.batch.ids, allowed.tolist(), strict=True)):
        order = torch.randperm(len(pool), generator=generator_of(seed, "donors", cell)).tolist()
        found = [p for p in order if may[p] and pool.ids[p] != cell][:count]
        chosen[row, : len(found)] = torch.tensor(found, dtype=chosen.dtype)
    return chosen.to(run.batch.inputs.device)


def _classes(label: Tensor, run: Pass, *, of_pool: bool = False) -> Tensor:
    """Labels, and predicted classes where there is none; -1 where neither is known."""
    if bool((label >= 0).all()) or not getattr(run.target, "of_classes", True):
        return label
    output = run.pool_output if of_pool else run.output
    if output.shape[1] < 2:
        return label
    return torch.where(label >= 0, label, output.argmax(1))
