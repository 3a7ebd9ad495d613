"""What the model says when the cell, or all but the cell, is replaced.

Interventions do not look at a map: a job computes them once a batch, however many methods and
layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from attrscore.core.contracts import Reasoned
from attrscore.core.heat import Heat
from attrscore.core.passes import Pass
from attrscore.core.readings import Declared
from attrscore.core.registry import SCORERS
from attrscore.errors import ConfigError, choose
from attrscore.scorers._response import (
    DONORS,
    NO_DONOR,
    Alter,
    Donors,
    Fill,
    Filling,
    choose_donors,
    clean_response,
    respond,
    why_undefined,
)
from attrscore.targets import margin, scores_of

__all__ = [
    "CELL",
    "INSIDE",
    "NO_SIDES",
    "OUTSIDE",
    "MaskOutside",
    "Swap",
    "exchanged",
    "mask_of",
    "one_sided",
]

OUTSIDE, INSIDE, CELL = 0, 1, 2

NO_SIDES = "the mask is nowhere, or everywhere, above 0.5."


def exchanged(image: Tensor, other: Tensor, mask: Tensor, side: Tensor, /) -> Tensor:
    """The image with one side of the mask from another: ``side`` 1 the inside, 0 all else.

    Image and other (M, C, *S), mask (M, 1, *S) bool, side (M,) -> (M, C, *S).

    >>> image, other = torch.ones(2, 1, 3), torch.zeros(2, 1, 3)
    >>> mask = torch.tensor([[[True, False, False]]]).expand(2, 1, 3)
    >>> exchanged(image, other, mask, torch.tensor([OUTSIDE, INSIDE]))[:, 0]
    tensor([[1., 0., 0.],
            [0., 1., 1.]])
    """
    inside = (side == INSIDE).view(-1, *[1] * (image.ndim - 1))
    return torch.where(mask ^ inside, image, other)


def one_sided(run: Pass, /) -> Tensor:
    """Which cells are nowhere or everywhere, or have pixels that are not finite; (N,) bool."""
    own = mask_of(run.batch.regions["cell"]).flatten(1)
    return ~own.any(1) | own.all(1) | ~run.batch.inputs.flatten(1).isfinite().all(1)


def mask_of(region: Tensor, /) -> Tensor:
    """(N, *S) within [0, 1] -> (N, 1, *S) bool."""
    return (region > 0.5)[:, None]


SIDES = ("outside", "inside", "cell")

NO_CLASS = "without classes, none can flip."
NO_CHANGE = "neither swap changes anything."
NO_MARGIN = "a margin is infinite."
NO_BACKGROUND = "cell and neighbours leave no background."


@SCORERS.register("swap")
@dataclass(frozen=True)
class Swap:
    """How much the explained probability drops when a part of the crop is another cell's.

    ``outside``: all but the cell is a donor's. ``inside``: the cell's pixels are a donor's, within
    its own outline. ``cell``: the whole cell is a donor's, pixels and outline, on top of what it
    meets; where the old cell was and the new one is not stands the mean of each channel over the
    background, which is what neither cell nor ``neighbours`` cover. The columns are the drops
    p(clean) - p(swapped), averaged over ``count`` donors; ``*_margin`` those of the margin, the
    logit of the explained class less the best other, which does not saturate; ``*_flips`` are the
    shares of donors that change the predicted class. ``score`` is inside - outside. For embeddings
    margins and flips are NaN, and a drop is that of the scalar in standard deviations over the
    pool.

    Drops have a sign: of surroundings that agree with the prediction by chance alone, they cancel
    over cells. ``outside_share`` has none: the mean absolute change of the margin (of embeddings:
    the scalar) by ``outside``, over that and the one by ``cell``. 0 is a model that reads the cell
    alone, 1 one that reads anything else; one that reads both alike has 1/2 with donors of ``any``
    class, and less with those of another, for then the cell's class changes every time.

    What a side can see: the recipient's outline stays in ``outside`` and in ``inside``, which
    sees texture and brightness; both are 0 for a model that reads nothing but the area or the shape
    of the cell, and ``cell`` is not, which sees all of them.

    Only like replaces like, so that each side is tested alone. Outside, where the donor's own cell
    would show beside the recipient's, and inside, where the donor's cell is too small to fill the
    mask, ``remainder`` stands: ``mean``, of each channel over the donor's pixels of that side;
    ``recipient``, its own pixels, which leaves some of what should be gone; ``donor``, whatever it
    has there. For ``inside`` and ``cell`` the donor is moved so that the ``centroid`` of its mask
    meets the recipient's (``align="none"``: crop on crop); what leaves the crop is cut off.

    Classes take turns as donors. NaN where the mask is empty or full, a pixel is not finite, or the
    pool has no donor; ``cell*`` and ``outside_share`` also without background. Costs 3 x ``count``
    forwards a cell and batch, ``chunk`` crops in memory at once. The edges of a swap are unlike any
    image: compare models, and read it beside a score of attribution.

    >>> import attrscore
    >>> from attrscore.testing.samples import cells, net, pool
    >>> (result,) = attrscore.run(net(), cells(), scorers=Swap(count=2), layers="high", pool=pool())
    >>> result.columns["swap"].round(5)
    array([ 0.00098, -0.00043, -0.00017,  0.00071])
    """

    readings: ClassVar[Declared] = {
        "score": {"better": "higher", "chance": 0, "says": "drop by swapping inside less outside"},
        "*_flips": {"range": (0, 1), "chance": None},
        "outside_share": {"better": "lower", "range": (0, 1), "chance": None},
        "inside*": {"better": "higher", "chance": None},
        "cell*": {"better": "higher", "chance": None},
        "outside*": {"better": "lower", "chance": None},
    }

    donors: Donors = "other_class"
    """Which cells of the pool may be donors; those of the same class are a weaker test."""
    count: int = 4
    """Donors averaged; 3 forwards each."""
    remainder: Literal["mean", "recipient", "donor"] = "mean"
    """Where the donor has nothing of that side."""
    align: Literal["centroid", "none"] = "centroid"
    """How a donor's cell is laid into the crop."""
    chunk: int = 64
    """Most crops in memory at once."""
    seed: int = 0
    """Of what is drawn; a cell's draws follow from it and the id alone."""
    needs_pool: ClassVar[bool] = True
    of_maps: ClassVar[bool] = False

    def __post_init__(self) -> None:
        choose(self.donors, DONORS, option="donors")
        choose(self.remainder, ("mean", "recipient", "donor"), option="remainder")
        choose(self.align, ("centroid", "none"), option="align")
        if self.count < 1:
            raise ConfigError(f"count={self.count} must be at least 1 donor.")

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:  # noqa: ARG002  # contract
        """Column -> (N,) float64; the same for every map of a batch."""
        return run.once(self, lambda: self._swapped(run))

    def examples(self, run: Pass, /) -> tuple[Mapping[str, Tensor], Tensor]:
        """The crops with each side exchanged for the first donor's, and what the model says to all.

        Side -> (N, C, *S), and scores (N, 4, K): as they are, then a side each. To look at.
        """
        chosen = choose_donors(run, donors=self.donors, count=1, seed=self.seed)
        alter, _ = self._alteration(run, chosen)
        rows = torch.arange(len(run.batch), device=chosen.device)
        images = {
            side: alter(rows, torch.full_like(rows, number)) for number, side in enumerate(SIDES)
        }
        output = [run.output, *(run.outputs([(each, rows)]) for each in images.values())]
        return images, torch.stack([each.detach() for each in output], 1)

    def _alteration(self, run: Pass, chosen: Tensor) -> tuple[Alter, Tensor]:
        """What exchanges a side for that of one of the chosen donors, and which have no room.

        ``chosen`` (N, donors) are rows of the pool; alterations count donors within sides.
        """
        count = chosen.shape[1]
        inputs, regions, pool = run.batch.inputs, run.batch.regions, run.need_pool()
        own, theirs = (mask_of(batch.regions["cell"]) for batch in (run.batch, pool))
        means = torch.stack([_mean(pool.inputs, ~theirs), _mean(pool.inputs, theirs)])
        centres = _centroid(own), _centroid(theirs)
        background = ~(own | mask_of(regions.get("neighbours", regions["cell"])))
        crowded = ~background.flatten(1).any(1)
        bare = torch.where(own, _mean(inputs, background).nan_to_num(), inputs)

        def alter(rows: Tensor, numbers: Tensor) -> Tensor:
            side, donor = numbers // count, chosen[rows, numbers % count].clamp(min=0)
            image, cell = pool.inputs[donor], theirs[donor]
            if self.align == "centroid":
                by = (centres[0][rows] - centres[1][donor]).round().long()
                by = by.masked_fill((side == OUTSIDE)[:, None], 0)
                image, cell = _moved(image, by), _moved(cell, by)
            rest = {
                "mean": means[side.clamp(max=INSIDE), donor],
                "recipient": inputs[rows],
                "donor": image,
            }[self.remainder]
            one_side = exchanged(inputs[rows], exchanged(rest, image, cell, side), own[rows], side)
            whole = (side == CELL).view(-1, *[1] * (image.ndim - 1))
            return torch.where(whole, torch.where(cell, image, bare[rows]), one_side)

        return alter, crowded

    def _swapped(self, run: Pass) -> Reasoned:
        chosen = choose_donors(run, donors=self.donors, count=self.count, seed=self.seed)
        alter, crowded = self._alteration(run, chosen)
        responses, output = respond(run, len(SIDES) * self.count, alter, chunk=self.chunk)
        drops = (clean_response(run)[:, None] - responses) * self._scale(run)[:, None]
        values = {"": drops, "_change": drops.abs(), **self._of_classes(run, output)}
        lost = one_sided(run)
        lacking = (chosen < 0) | lost[:, None]
        columns = {
            f"{side}{name}": each.masked_fill(lacking, torch.nan).nanmean(1)
            for name, every in values.items()
            for side, each in zip(SIDES, torch.split(every, self.count, 1), strict=True)
        }
        for name in values:
            columns[f"cell{name}"] = columns[f"cell{name}"].masked_fill(crowded, torch.nan)
        outside, cell = columns.pop("outside_change"), columns.pop("cell_change")
        del columns["inside_change"]
        columns["outside_share"] = outside / (outside + cell)
        return Reasoned(
            {"score": columns["inside"] - columns["outside"], **columns},
            {
                NO_CHANGE: outside + cell == 0,
                NO_DONOR[self.donors]: (chosen < 0).all(1),
                NO_SIDES: lost,
                NO_BACKGROUND: crowded,
                NO_CLASS: columns["inside_flips"].isnan(),
                NO_MARGIN: columns["inside_margin"].isnan(),
            },
        )

    def _of_classes(self, run: Pass, output: Tensor) -> dict[str, Tensor]:
        """Drops of the margin and flips, (N, alterations) each, of outputs (N, alterations, K)."""
        if not run.of_classes:
            none = output.new_full(output.shape[:2], torch.nan, dtype=torch.float64)
            return {"_margin": none, "_flips": none}
        clean = scores_of(run.target, run.output.double())
        altered = scores_of(run.target, output.double().flatten(0, 1))
        flips = altered.argmax(1).view(output.shape[:2]) != clean.argmax(1)[:, None]
        margins = margin(altered, run.aux.repeat_interleave(output.shape[1]))
        drops = margin(clean, run.aux)[:, None] - margins.view_as(flips)
        drops = drops.masked_fill(~drops.isfinite().all(1, keepdim=True), torch.nan)
        return {"_margin": drops, "_flips": flips.double(), "_change": drops.abs()}

    @staticmethod
    def _scale(run: Pass) -> Tensor:
        """From the units of a response to those of the columns, (N,)."""
        if run.of_classes:
            return torch.ones_like(run.value, dtype=torch.float64)
        pool = run.need_pool()
        values = run.target(run.pool_output, run.target.prepare(run.pool_output, pool)).double()
        return run.value.double().abs() / values[values.isfinite()].std()


def _mean(inputs: Tensor, where: Tensor) -> Tensor:
    """Of each channel over a side: (P, C, *S) and (P, 1, *S) -> (P, C, 1 ...)."""
    space = tuple(range(2, inputs.ndim))
    return torch.where(where, inputs, torch.nan).nanmean(space, keepdim=True)


def _centroid(mask: Tensor) -> Tensor:
    """(P, 1, *S) bool -> (P, axes) in voxels; NaN becomes 0 for an empty mask."""
    weights = mask[:, 0].double()
    axes = range(1, weights.ndim)
    centres = []
    for axis in axes:
        along = weights.sum([other for other in axes if other != axis])
        positions = torch.arange(along.shape[1], device=mask.device, dtype=along.dtype)
        centres.append((along * positions).sum(1) / along.sum(1))
    return torch.stack(centres, 1).nan_to_num(0.0)


def _moved(values: Tensor, by: Tensor) -> Tensor:
    """Each sample (m, C, *S) moved by its own voxels (m, axes), 0 where nothing comes to lie."""
    last_first = by.flip(1)
    pads = torch.stack([last_first, -last_first], 2).flatten(1).tolist()
    return torch.stack(
        [nn.functional.pad(each, pad) for each, pad in zip(values, pads, strict=True)]
    )


@SCORERS.register("mask_outside")
@dataclass(frozen=True)
class MaskOutside(Filling):
    """How much the explained probability drops when a part of the crop is taken away.

    ``outside``: all but the cell is replaced by the ``fill`` (see
    ``fill``); ``inside``: the cell is. ``score`` is inside -
    outside, above 0 where the cell matters more than all the rest. Simpler than ``swap``, weaker
    cell by cell: further from any real image, and a class that the model also predicts of an
    empty crop loses nothing. NaN where the mask is empty or full or a pixel is not finite. Costs
    2 forwards a cell and batch, whatever the number of methods and layers.
    """

    readings: ClassVar[Declared] = {
        "score": {"better": "higher", "chance": 0},
        "inside": {"better": "higher", "chance": None},
        "outside": {"better": "lower", "chance": None},
    }

    fill: Fill = "mean"
    """What stands in place of what is taken away."""
    of_maps: ClassVar[bool] = False

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:  # noqa: ARG002  # contract
        """Column -> (N,) float64; the same for every map of a batch."""
        return run.once(self, lambda: self._masked(run))

    def _masked(self, run: Pass) -> Reasoned:
        filled = self.filled(run)
        own, inputs = mask_of(run.batch.regions["cell"]), run.batch.inputs
        lost = one_sided(run)

        def alter(rows: Tensor, numbers: Tensor) -> Tensor:
            return exchanged(inputs[rows], filled[rows], own[rows], numbers)

        responses, _ = respond(run, 2, alter, chunk=self.chunk)
        drops = clean_response(run)[:, None] - responses
        outside, inside = drops.masked_fill(lost[:, None], torch.nan).unbind(1)
        return Reasoned(
            {"score": inside - outside, "outside": outside, "inside": inside},
            {**why_undefined(run, fill=self.fill, seed=self.seed), NO_SIDES: lost},
        )
