"""Guides: what keeps a model on the cell while it is trained, by its images or by its loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from attrscore.core.contracts import Batch, Target
from attrscore.core.registry import GUIDES, TARGETS
from attrscore.errors import ConfigError, choose, preview
from attrscore.scorers.intervention import mask_of
from attrscore.training.live import LivePass

__all__ = ["Guide", "MaskedCrops", "Outside", "Rrr", "Swap", "Unguided", "altered", "penalises"]


class Guide(Protocol):
    """Alters the batches that are learnt from, or adds to the loss; either may be absent.

    ``penalty`` gets the forward pass in the autograd graph, with the ``layers`` that the guide
    names (``last_conv`` without), explained towards its ``explained`` (``label`` without). Where
    it says ``needs_input_gradient = True``, the inputs require gradients.
    """

    def alter(self, batch: Batch, generator: torch.Generator, /) -> Batch:
        """The batch to learn from, drawn from ``generator`` alone; labels stay."""
        ...

    def penalty(self, run: LivePass, /) -> Tensor:
        """What is added to the loss of each cell, (N,); NaN where it is undefined."""
        ...


def altered(guide: Any, batch: Batch, generator: torch.Generator, /) -> Batch:
    """The batch as a guide alters it, if it does.

    :raises ConfigError: it made no batch of as many cells.
    """
    alter = getattr(guide, "alter", None)
    if alter is None:
        return batch
    made = alter(batch, generator)
    if not isinstance(made, Batch) or len(made) != len(batch):
        raise ConfigError(
            f"alter of the guide {_name_of(guide)} must return a Batch of the {len(batch)} cells "
            f"that it was given, as dataclasses.replace(batch, inputs=...) does; it returned "
            f"{f'one of {len(made)}' if isinstance(made, Batch) else _name_of(made)}."
        )
    return made


def penalty_of(guide: Any, run: LivePass, /) -> Tensor:
    """What a guide adds to the loss of each cell, (N,).

    :raises ConfigError: it is something else.
    """
    added = guide.penalty(run)
    cells = len(run.output)
    if not isinstance(added, Tensor) or added.shape != (cells,):
        given = f"shape {tuple(added.shape)}" if isinstance(added, Tensor) else _name_of(added)
        raise ConfigError(
            f"penalty of the guide {_name_of(guide)} must return a tensor of one number a cell, "
            f"shape ({cells},); it returned {given}."
        )
    return added


def check_guide(guide: Any, /) -> None:
    """Refuse what would guide nothing.

    :raises ConfigError: a class, or it has neither ``alter`` nor ``penalty`` and is not ``none``.
    """
    if isinstance(guide, type):
        raise ConfigError(f"guide={guide.__name__} is a class; give one of it: {guide.__name__}().")
    if not (isinstance(guide, Unguided) or hasattr(guide, "alter") or hasattr(guide, "penalty")):
        raise ConfigError(
            f"guide={_name_of(guide)} has neither alter(batch, generator) nor penalty(run), so it "
            "would guide nothing; give a name (none, swap, outside ...) or such an object."
        )


def _name_of(thing: Any) -> str:
    return thing.__name__ if isinstance(thing, type) else type(thing).__name__


def penalises(guide: Any, /) -> bool:
    """Whether a guide adds to the loss: its models are trained on attribution."""
    return hasattr(guide, "penalty")


@GUIDES.register("none")
@dataclass(frozen=True)
class Unguided:
    """Nothing: crops as they are, and the loss of the labels alone."""


@GUIDES.register("swap")
@dataclass(frozen=True)
class Swap:
    """Each cell is shown in the surroundings of another, drawn anew in every epoch.

    The outside of the mask is a donor's of the same batch, whose own cell is filled with the mean
    of its surroundings; regions go along. What surrounds a cell then says nothing about its label.
    The recommended guide: it needs no attribution, so that scores stay honest evidence. It shares
    its operation with the scorer ``swap``; accuracy on data where the confounder is reversed is the
    better judge.

    Donors are of ``every_class`` alike, the cell's own among them: with donors of another class
    alone the surroundings would still say something, namely what the cell is not, and of two
    classes they would give the label away again.
    """

    donors: Literal["every_class", "other_class"] = "every_class"
    """Classes that a donor is drawn from, each as often as another."""
    within: str | None = None
    """A column that donor and cell must agree in: Metadata_Plate."""
    feather: int = 1
    """Voxels outside the mask over which a cell fades into its new surroundings."""

    def __post_init__(self) -> None:
        choose(self.donors, ("every_class", "other_class"), option="donors")
        if self.feather < 0:
            raise ConfigError(f"feather={self.feather} must be a number of voxels from 0.")

    def alter(self, batch: Batch, generator: torch.Generator, /) -> Batch:
        """The batch in other surroundings; a cell without a donor or a mask stays as it is."""
        chosen = self._choose(batch, generator).to(batch.inputs.device)
        own = mask_of(batch.regions["cell"])
        theirs = own[chosen]
        space, out = tuple(range(2, batch.inputs.ndim)), ~own
        seen = out.sum(space, keepdim=True).clamp(min=1)
        around = (batch.inputs * out).sum(space, keepdim=True) / seen
        bare = torch.where(theirs, around[chosen], batch.inputs[chosen])
        there = own.flatten(1).any(1) & (chosen != torch.arange(len(batch)).to(chosen))
        stays = ~there.reshape(-1, *[1] * (batch.inputs.ndim - 1))
        share = torch.where(stays | own, 1.0, _blurred(own.to(batch.inputs), self.feather))
        inputs = torch.lerp(bare, batch.inputs, share)
        regions = dict(batch.regions)
        if "neighbours" in regions:
            neighbours = regions["neighbours"]
            covered = (own | theirs)[:, 0]
            regions["neighbours"] = torch.where(
                stays[:, 0], neighbours, neighbours[chosen].masked_fill(covered, 0)
            )
        return replace(batch, inputs=inputs, regions=regions)

    def _choose(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The row of each cell's donor, (N,); its own where there is none."""
        label = batch.label.cpu()
        alike = label[:, None] == label
        allowed = ~torch.eye(len(batch), dtype=torch.bool)
        if self.donors == "other_class":
            allowed &= ~alike
        if self.within is not None:
            if self.within not in batch.meta:
                raise ConfigError(
                    f"guide.within={self.within} is no column of the dataset; it carries "
                    f"{preview(batch.meta) or 'none'}."
                )
            values = list(batch.meta[self.within])
            allowed &= torch.tensor([[one == other for other in values] for one in values])
        # Of each class as often as of another: a cell's chance falls with those of its class.
        of_class = allowed.double() @ alike.double()
        weights = allowed / of_class.clamp(min=1)
        none = ~allowed.any(1)
        weights[none, none.nonzero()[:, 0]] = 1.0
        return torch.multinomial(weights, 1, generator=generator)[:, 0]


@GUIDES.register("masked_crops")
@dataclass(frozen=True)
class MaskedCrops:
    """All but the cell is blotted out while training, as many laboratories do.

    The model is then asked about whole crops, which it never saw: accuracy falls to chance where
    the surroundings speak for another class. For comparison.
    """

    fill: Literal["zero", "mean"] = "zero"
    """What stands outside of the mask: 0, or the mean of each channel over the crop."""

    def __post_init__(self) -> None:
        choose(self.fill, ("zero", "mean"), option="fill")

    def alter(self, batch: Batch, generator: torch.Generator, /) -> Batch:  # noqa: ARG002  # contract
        """The cells alone; one without a mask stays as it is."""
        own = mask_of(batch.regions["cell"])
        own = own | ~own.flatten(1).any(1).reshape(-1, *[1] * (own.ndim - 1))
        space = tuple(range(2, batch.inputs.ndim))
        mean = batch.inputs.mean(space, keepdim=True)
        filling = mean if self.fill == "mean" else torch.zeros_like(mean)
        regions = dict(batch.regions)
        if "neighbours" in regions:
            regions["neighbours"] = torch.zeros_like(regions["neighbours"])
        return replace(batch, inputs=torch.where(own, batch.inputs, filling), regions=regions)


@GUIDES.register("outside", aliases=("energy",))
@dataclass(frozen=True)
class Outside:
    """The share of attribution outside the cell, 1 - Grad-CAMO, is added to the loss.

    The energy loss of Rao, Böhle, Parchami-Araghi, Schiele, ICCV 2023 (``energy``). Unsafe alone: a
    wide receptive field can carry what is read outside into the cell's positions of the layer, and
    the score is then 1 of a model that never looks at the cell. So can the logits: the score of one
    class alone leaves the shortcut to the other classes, hence the margin. Its models are never
    called cell-focused on the strength of attribution; swaps and reversed data judge them.
    """

    weight: float = 1.0
    """Times the share; 0.3 to 3 work alike, 10 can stop learning."""
    method: str = "hires_cam"
    """A method of activations and gradients: hires_cam, grad_cam, layer_cam ..."""
    layers: str | Sequence[str] = "last_conv"
    """Layers whose shares are averaged."""
    target: Literal["label", "predicted"] = "label"
    """The class that is explained."""
    scalar: Literal["margin", "logit"] = "margin"
    """Of that class; a logit alone can leave the shortcut to the logits of the others."""

    def __post_init__(self) -> None:
        _check_weight(self.weight)
        choose(self.target, ("label", "predicted"), option="target")
        choose(self.scalar, ("margin", "logit"), option="scalar")

    @property
    def explained(self) -> Target:
        """What the watched pass is explained towards."""
        made: Target = TARGETS.build(self.target, scalar=self.scalar)
        return made

    def penalty(self, run: LivePass, /) -> Tensor:
        """The weighted mean over the layers, (N,); NaN where no layer defines it."""
        return self.weight * run.shares_outside(self.method).nanmean(0)


@GUIDES.register("rrr")
@dataclass(frozen=True)
class Rrr:
    """Squared input gradients outside the cell are added to the loss; for comparison only.

    Right for the right reasons: the gradient of the summed log probabilities. In our trials it
    did not repair what a swap repairs, and a step takes two to four times as long. Ross, Hughes,
    Doshi-Velez, IJCAI 2017.
    """

    weight: float = 1.0
    """Times the sum of squares over channels and voxels."""
    layers: ClassVar[Sequence[str]] = ()
    needs_input_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_weight(self.weight)

    def penalty(self, run: LivePass, /) -> Tensor:
        """The weighted sum of squares, (N,)."""
        gradient = run.input_gradient(run.output.log_softmax(1).sum(1))
        outside = torch.where(mask_of(run.batch.regions["cell"]), 0.0, gradient)
        return self.weight * outside.square().flatten(1).sum(1)


def _check_weight(weight: float) -> None:
    if not weight > 0:
        raise ConfigError(f"guide.weight={weight} must be above 0; guide=none adds nothing.")


def _blurred(mask: Tensor, voxels: int) -> Tensor:
    """A mask (N, 1, *S) averaged over this many voxels on every side."""
    convolve = F.conv2d if mask.ndim == 4 else F.conv3d
    kernel = mask.new_ones(1, 1, *[2 * voxels + 1] * (mask.ndim - 2))
    return convolve(mask, kernel / kernel.numel(), padding=voxels)
