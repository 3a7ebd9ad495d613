"""Alter cells and ask the model again: donors, fillings and responses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from attrscore.core.heat import Heat
from attrscore.core.passes import Pass, generator_of
from attrscore.errors import ConfigError, choose
from attrscore.targets import scores_of

Donors = Literal["other_class", "same_class", "any"]
DONORS: tuple[Donors, ...] = ("other_class", "same_class", "any")

NO_DONOR: Mapping[str, str] = {
    "other_class": "no cell of a known other class in the pool can be a donor.",
    "same_class": "no other cell of the same known class in the pool can be a donor.",
    "any": "no other cell of the pool can be a donor.",
}
"""Why a cell has none; enlarge the pool, or choose other donors."""


def choose_donors(run: Pass, /, *, donors: Donors, count: int, seed: int) -> Tensor:
    """Rows of the pool for each cell, (N, count), -1 where there are too few.

    Classes take turns, in an order and with cells drawn from ``seed`` and the cell's id; those of
    unknown class are one. A cell is never its own donor, by its id, and cells of the pool that are
    not finite, or have an empty or full mask, are none. The class is the label, or what the model
    predicts where there is none.

    :raises UnsupportedError: no pool.
    """
    pool = run.need_pool()
    covered = (pool.regions["cell"] > 0.5).flatten(1)
    fit = pool.inputs.flatten(1).isfinite().all(1) & covered.any(1) & ~covered.all(1)
    allowed = fit[None].expand(len(run.batch), -1)
    own, theirs = _classes(run.batch.label, run), _classes(pool.label, run, of_pool=True)
    if donors != "any":
        known = (own >= 0)[:, None] & (theirs >= 0)
        alike = own[:, None] == theirs
        allowed = allowed & known & (alike if donors == "same_class" else ~alike)
    _, kind = torch.unique(theirs.cpu(), return_inverse=True)
    chosen = torch.full((len(run.batch), count), -1)
    for row, (cell, may) in enumerate(zip(run.batch.ids, allowed.cpu(), strict=True)):
        drawn = generator_of(seed, "donors", cell)
        order = torch.randperm(len(pool), generator=drawn)
        order = order[may[order] & torch.tensor([pool.ids[p] != cell for p in order.tolist()])]
        first = torch.randperm(int(kind.max()) + 1, generator=drawn)[kind[order]]
        turn = (kind[order][:, None] == kind[order]).tril(-1).sum(1)
        found = order[(turn * len(pool) + first).argsort()][:count]
        chosen[row, : len(found)] = found
    return chosen.to(run.batch.inputs.device)


def _classes(label: Tensor, run: Pass, *, of_pool: bool = False) -> Tensor:
    """Labels, and predicted classes where there is none; -1 where neither is known."""
    if bool((label >= 0).all()) or not run.of_classes:
        return label
    output = run.pool_output if of_pool else run.output
    return torch.where(label >= 0, label, scores_of(run.target, output).argmax(1))


Fill = Literal["mean", "zero", "blur", "noise", "other_cell"]
FILLS: tuple[Fill, ...] = ("mean", "zero", "blur", "noise", "other_cell")

Alter = Callable[[Tensor, Tensor], Tensor]
"""Rows (m,) of the batch and numbers (m,) of alterations -> altered inputs (m, C, *S)."""


def response(run: Pass, output: Tensor, rows: Tensor, /) -> Tensor:
    """What is explained, in units that cells share: (M, K) and their rows (M,) -> (M,) float64.

    For a class its probability, the softmax of its logit. For a scalar of an embedding, that scalar
    over its absolute value on the clean cell; NaN where this is 0.
    """
    output, aux = output.double(), run.aux[rows]
    if not run.of_classes:
        scalar = run.target(output, aux.double() if aux.is_floating_point() else aux)
        return scalar / run.value.double()[rows].abs()
    return scores_of(run.target, output).softmax(1).gather(1, aux[:, None])[:, 0]


def clean_response(run: Pass, /) -> Tensor:
    """The response to the cells as they are, (N,) float64."""
    rows = torch.arange(len(run.batch), device=run.batch.inputs.device)
    return run.once(clean_response, lambda: response(run, run.output, rows))


def respond(run: Pass, count: int, alter: Alter, /, *, chunk: int) -> tuple[Tensor, Tensor]:
    """Responses to ``count`` alterations of each cell, and the outputs: (N, count), (N, count, K).

    The outputs are those of classes; without classes, K is 0. At most ``chunk`` altered inputs are
    in memory at once. Costs N x count forwards.
    """
    if chunk < 1:
        raise ConfigError(f"chunk={chunk} must be at least 1: altered inputs in memory at once.")
    n, where = len(run.batch), run.batch.inputs.device
    index = torch.arange(n * count, device=where)
    rows, numbers = index // count, index % count

    def answers() -> Iterator[tuple[Tensor, Tensor]]:
        for row, number in zip(torch.split(rows, chunk), torch.split(numbers, chunk), strict=True):
            output = run.outputs([(alter(row, number), row)])
            kept = output if run.of_classes else output.new_empty((len(row), 0))
            yield response(run, output, row), kept  # dense outputs would fill the memory

    found = list(answers())
    responses, outputs = (torch.cat(each) for each in zip(*found, strict=True))
    return responses.view(n, count), outputs.view(n, count, -1)


@dataclass(frozen=True)
class Filling:
    """Options of scorers that take pixels away: what stands in their place.

    :raises ConfigError: they cannot be used.
    """

    fill: Fill = "zero"
    """What stands in place of what is taken away."""
    blur: float = 0.1
    """Standard deviation of blur, as a share of each axis."""
    chunk: int = 64
    """Most crops in memory at once."""
    seed: int = 0
    """Of what is drawn; a cell's draws follow from it and the id alone."""

    def __post_init__(self) -> None:
        choose(self.fill, FILLS, option="fill")
        if not self.blur > 0:
            raise ConfigError(f"blur={self.blur} must be above 0: a share of each axis.")

    @property
    def needs_pool(self) -> bool:
        """Whether other cells fill what is taken away."""
        return self.fill == "other_cell"

    def filled(self, run: Pass, /) -> Tensor:
        """As :func:`filling`."""
        return filling(run, fill=self.fill, blur=self.blur, seed=self.seed)


def filling(run: Pass, /, *, fill: Fill, blur: float, seed: int) -> Tensor:
    """What stands in place of pixels taken away, (N, C, *S): an image for each cell.

    ``mean`` is each channel's mean over the crop, ``noise`` normal with its mean and standard
    deviation, ``blur`` the crop smoothed by a Gaussian whose standard deviation is that share of
    each axis, ``other_cell`` a cell of the pool, of any class, NaN where there is none. Computed
    once a pass.
    """
    return run.once((filling, fill, blur, seed), lambda: _filling(run, fill, blur, seed))


def _filling(run: Pass, fill: Fill, blur: float, seed: int) -> Tensor:
    inputs = run.batch.inputs
    if fill == "zero":
        return torch.zeros_like(inputs)
    if fill == "blur":
        sigma = [0.0, 0.0, *(blur * extent for extent in run.batch.space)]
        smooth: np.ndarray = ndimage.gaussian_filter(inputs.cpu().numpy(), sigma)
        return torch.from_numpy(smooth).to(inputs)
    if fill == "other_cell":
        chosen = _others(run, seed)
        there = (chosen >= 0).view(-1, *[1] * (inputs.ndim - 1))
        return torch.where(there, run.need_pool().inputs[chosen], torch.nan)
    space = tuple(range(2, inputs.ndim))
    mean = inputs.mean(space, keepdim=True)
    if fill == "mean":
        return mean.expand_as(inputs)
    drawn = [
        torch.randn(inputs.shape[1:], generator=generator_of(seed, "fill", cell))
        for cell in run.batch.ids
    ]
    return mean + inputs.std(space, keepdim=True) * torch.stack(drawn).to(inputs)


def _others(run: Pass, seed: int) -> Tensor:
    """The row of the pool that fills each cell, -1 where there is none."""
    return run.once(
        (_others, seed), lambda: choose_donors(run, donors="any", count=1, seed=seed)[:, 0]
    )


def why_undefined(run: Pass, /, *, fill: Fill = "zero", seed: int = 0) -> dict[str, Tensor]:
    """Why a response or a filling is NaN, as ``Reasoned`` takes it."""
    found = {"the response to the cell as it is is 0.": clean_response(run) == 0}
    if not run.of_classes:
        found = {"the explained scalar is 0.": run.value == 0}
    if fill == "other_cell":
        found[NO_DONOR["any"]] = _others(run, seed) < 0
    return found


def blank(heat: Heat, /) -> Tensor:
    """Whether a map says nothing: no positive mass, or not finite; (N,) bool."""
    return ~(heat.mass() > 0) | ~heat.native.flatten(1).isfinite().all(1)
