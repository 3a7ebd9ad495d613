"""A class score, which class fixed on the clean input.

``logit`` is the class score as the network gives it. ``logprob`` (its log softmax) and ``margin``
(its distance to the best other logit) do not change when one common function is added to all
logits; ``logit`` does, although the predictions stay the same. ``margin`` is recommended where
networks are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attrscore.core.contracts import Batch
from attrscore.core.registry import TARGETS
from attrscore.errors import ConfigError, DataError, UnsupportedError, choose, preview

__all__ = [
    "Index",
    "Label",
    "Predicted",
    "logit",
    "logprob",
    "margin",
]

Scalar = Literal["logit", "logprob", "margin"]


def logit(output: Tensor, index: Tensor, /) -> Tensor:
    """The output at ``index``: (N, K), (N,) -> (N,)."""
    return output.gather(1, index[:, None])[:, 0]


def logprob(output: Tensor, index: Tensor, /) -> Tensor:
    """Log softmax at ``index``: (N, K), (N,) -> (N,)."""
    return logit(output.log_softmax(1), index)


def margin(output: Tensor, index: Tensor, /) -> Tensor:
    """The output at ``index`` less the largest of the others: (N, K), (N,) -> (N,).

    >>> margin(torch.tensor([[1.0, 4.0, 2.0]]), torch.tensor([2]))
    tensor([-2.])
    """
    others = output.scatter(1, index[:, None], -torch.inf)
    return logit(output, index) - others.amax(1)


_SCALARS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "logit": logit,
    "logprob": logprob,
    "margin": margin,
}


@dataclass(frozen=True)
class _ClassScore:
    """A class score; which class is the subclasses' affair."""

    name: ClassVar[str]
    scalar: Scalar = "logit"
    """margin is recommended where models are compared."""

    def __post_init__(self) -> None:
        choose(self.scalar, _SCALARS, option="scalar")

    def __str__(self) -> str:
        return f"{self.name}.{self.scalar}"

    def __call__(self, output: Tensor, aux: Tensor, /) -> Tensor:
        """(N, K) and class indices (N,) -> (N,)."""
        if self.scalar != "logit" and output.shape[1] < 2:
            raise UnsupportedError(
                f"target.scalar={self.scalar} compares classes, and this network has one output; "
                "use target.scalar=logit."
            )
        return _SCALARS[self.scalar](output, aux)


@TARGETS.register("predicted")
@dataclass(frozen=True)
class Predicted(_ClassScore):
    """The class with the highest score on the clean input."""

    name: ClassVar[str] = "predicted"

    def prepare(self, output: Tensor, batch: Batch, /) -> Tensor:  # noqa: ARG002  # contract
        """Class indices (N,)."""
        return output.argmax(1)


@TARGETS.register("label")
@dataclass(frozen=True)
class Label(_ClassScore):
    """The class that the dataset states.

    :raises DataError: a sample without a label, or with one the network has no output for.
    """

    name: ClassVar[str] = "label"

    def prepare(self, output: Tensor, batch: Batch, /) -> Tensor:
        """Class indices (N,)."""
        outside = (batch.label < 0) | (batch.label >= output.shape[1])
        if outside.any():
            cells = [batch.ids[i] for i in outside.nonzero()[:, 0].tolist()]
            raise DataError(
                f"target=label needs a label from 0 to {output.shape[1] - 1} for every cell; "
                f"{len(cells)} of {len(batch)} have another or none (-1): "
                f"{preview(cells, most=3)}. Use target=predicted, or leave them out."
            )
        return batch.label


@TARGETS.register("index")
@dataclass(frozen=True)
class Index(_ClassScore):
    """One class for every sample, by number.

    :raises ConfigError: no such output.
    """

    name: ClassVar[str] = "index"
    index: int = 0
    """The number of the class, from 0."""

    def __str__(self) -> str:
        return f"index{self.index}.{self.scalar}"

    def prepare(self, output: Tensor, batch: Batch, /) -> Tensor:
        """Class indices (N,)."""
        if not 0 <= self.index < output.shape[1]:
            raise ConfigError(
                f"target.index={self.index} is not an output of this network; "
                f"expected 0 to {output.shape[1] - 1}."
            )
        return torch.full((len(batch),), self.index, device=output.device)
