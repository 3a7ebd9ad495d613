"""A class score, which class fixed on the clean input.

``logit`` is the class score as the model gives it. ``logprob`` (its log softmax) and ``margin``
(its distance to the best other logit) do not change when one common function is added to all
logits; ``logit`` does, although the predictions stay the same. ``margin`` is recommended where
models are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor

from attrscore.core.contracts import Batch, Target
from attrscore.core.registry import TARGETS
from attrscore.errors import ConfigError, DataError, choose, preview

Scalar = Literal["logit", "logprob", "margin"]
OneOutput = Literal["logit", "probability"]


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


def class_scores(output: Tensor, one_output: OneOutput = "logit", /) -> Tensor:
    """The logits of every class, (N, K, ...) -> (N, K, ...), or (N, 1, ...) -> (N, 2, ...).

    A model with one output z stands for two classes with the logits 0 and z: z > 0 says class 1,
    and the softmax of the two is the sigmoid of z. A ``probability`` p is put back as its logit.

    >>> class_scores(torch.tensor([[2.0], [-1.0]])).argmax(1)
    tensor([1, 0])
    """
    if output.shape[1] != 1:
        return output
    one = output.logit() if one_output == "probability" else output
    return torch.cat([torch.zeros_like(one), one], 1)


def scores_of(target: Any, output: Tensor, /) -> Tensor:
    """The logits of every class as ``target`` understands the output of the model."""
    return class_scores(output, getattr(target, "one_output", "logit"))


_SCALARS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "logit": logit,
    "logprob": logprob,
    "margin": margin,
}


@dataclass(frozen=True)
class _ClassScore:
    """A class score; which class is the subclasses' affair."""

    name: ClassVar[str]
    dense: ClassVar[bool] = False
    scalar: Scalar = "logit"
    """margin is recommended where models are compared."""
    one_output: OneOutput = "logit"
    """What the output of a model with one is: of class 1 the logit (above 0 says class 1), or the
    probability (above 0.5)."""

    def __post_init__(self) -> None:
        choose(self.scalar, _SCALARS, option="scalar")
        choose(self.one_output, ("logit", "probability"), option="one_output")

    def __str__(self) -> str:
        return f"{self.name}.{self.scalar}"

    def __call__(self, output: Tensor, aux: Tensor, /) -> Tensor:
        """(N, K) and class indices (N,) -> (N,)."""
        scores = scores_of(self, output)
        # Of one output z the classes have the logits -z and z: 0 would leave nothing to explain.
        scalar = (
            margin if output.shape[1] == 1 and self.scalar == "logit" else _SCALARS[self.scalar]
        )
        return scalar(scores, aux)


@TARGETS.register("predicted")
@dataclass(frozen=True)
class Predicted(_ClassScore):
    """The class with the highest score on the clean input."""

    name: ClassVar[str] = "predicted"

    def prepare(self, output: Tensor, batch: Batch, /) -> Tensor:  # noqa: ARG002  # contract
        """Class indices (N,)."""
        return scores_of(self, output).argmax(1)


@TARGETS.register("label")
@dataclass(frozen=True)
class Label(_ClassScore):
    """The class that the dataset states.

    :raises DataError: a sample without a label, or with one the model has no output for.
    """

    name: ClassVar[str] = "label"

    def prepare(self, output: Tensor, batch: Batch, /) -> Tensor:
        """Class indices (N,)."""
        classes = scores_of(self, output).shape[1]
        outside = (batch.label < 0) | (batch.label >= classes)
        if outside.any():
            cells = [batch.ids[i] for i in outside.nonzero()[:, 0].tolist()]
            raise DataError(
                f"target=label needs a label from 0 to {classes - 1} for every cell; "
                f"{len(cells)} of {len(batch)} have another or none (-1): "
                f"{preview(cells, most=3)}. Use target=predicted, or leave them out."
            )
        return batch.label


def numbered(numbers: Sequence[int], output: Tensor, /) -> Tensor:
    """Class indices of outputs that are named by number, (N,).

    :raises ConfigError: no such output.
    """
    if not all(0 <= number < output.shape[1] for number in numbers):
        raise ConfigError(
            f"The target asks for the outputs {preview(sorted(set(numbers)))}; this model has "
            f"{output.shape[1]}: expected numbers from 0 to {output.shape[1] - 1}."
        )
    one = output.shape[1] == 1  # the one there is speaks for class 1
    return torch.tensor([int(one) or number for number in numbers], device=output.device)


@TARGETS.register("index")
@dataclass(frozen=True)
class Index(_ClassScore):
    """One output for every sample, by number; 0 where there is but one.

    :raises ConfigError: no such output.
    """

    name: ClassVar[str] = "index"
    index: int = 0
    """The number of the class, from 0."""

    def __str__(self) -> str:
        return f"index{self.index}.{self.scalar}"

    def prepare(self, output: Tensor, batch: Batch, /) -> Tensor:
        """Class indices (N,)."""
        return numbered([self.index] * len(batch), output)


@dataclass(frozen=True)
class Given(_ClassScore):
    """One class for each sample, by number, in the order of the samples: Captum's ``target``.

    For one batch in Python; what lies in files says its classes as labels (``target=label``).

    :raises DataError: another number of classes than samples.
    :raises ConfigError: no such class.
    """

    name: ClassVar[str] = "given"
    dense: ClassVar[bool] = False
    classes: tuple[int, ...] = ()
    """The number of the class of each sample, from 0."""

    def prepare(self, output: Tensor, batch: Batch, /) -> Tensor:
        """Class indices (N,)."""
        if len(self.classes) != len(batch):
            raise DataError(
                f"target has {len(self.classes)} classes and the batch {len(batch)} samples; give "
                "one class for all, one for each sample of a single batch, or labels and "
                "target='label'."
            )
        return numbered(self.classes, output)


def target_of(given: Any, /) -> Target:
    """A target by its name or itself, or as Captum's users write it: ``3``, ``tensor([3, 1])``.

    :raises ConfigError: several, or something else.
    """
    if isinstance(given, np.ndarray | np.generic | Tensor):
        given = given.tolist()
    if type(given) is int:
        return Index(index=given)
    if isinstance(given, Sequence) and given and all(type(each) is int for each in given):
        return Given(classes=tuple(given))
    found = list(TARGETS.resolve(given).values())
    if len(found) > 1:
        raise ConfigError(
            f"target={given!r} names {len(found)} targets; one is explained at a time."
        )
    if not hasattr(found[0], "prepare"):
        raise ConfigError(
            f"{found[0]!r} is no target: it has no prepare(output, batch). A target of your own is "
            "an object that has: attrscore plugins new target mine."
        )
    return cast("Target", found[0])
