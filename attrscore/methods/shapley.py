"""Shapley values of parts of the crop, by the kernel regression of Lundberg and Lee."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import ClassVar

import torch
from torch import Tensor

from attrscore.core.contracts import INPUT, Diagnosed, Maps
from attrscore.core.passes import Pass
from attrscore.core.registry import METHODS
from attrscore.methods.baselines import WithBaseline
from attrscore.methods.copies import check_chunk, generator_of, values_at
from attrscore.methods.features import WithFeatures
from attrscore.methods.options import check_whole

__all__ = ["KernelShap", "coalitions", "shapley_values"]


def coalitions(features: int, samples: int, generator: torch.Generator, /) -> tuple[Tensor, Tensor]:
    """Which features are shown in each trial, (T, F) bool, and the weight of each trial, (T,).

    All 2^F - 2 with their kernel weights where ``samples`` suffices, and then the result is exact;
    else ``samples`` drawn by those weights, each with its complement, alike in weight. Never none
    or all of the features.
    """
    if features < 2:
        return torch.zeros((0, features), dtype=torch.bool), torch.zeros(0, dtype=torch.float64)
    sizes = torch.arange(1, features, dtype=torch.float64)
    kernel = (features - 1) / (sizes * (features - sizes))  # of all trials of a size together
    if features < 32 and 2**features - 2 <= samples:
        numbers = torch.arange(1, 2**features - 1)
        shown = (numbers[:, None] >> torch.arange(features)) % 2 == 1
        size = shown.sum(1)
        ways = torch.tensor([comb(features, int(each)) for each in range(1, features)])
        return shown, (kernel / ways)[size - 1]
    pairs = -(-samples // 2)
    size = torch.multinomial(kernel, pairs, replacement=True, generator=generator) + 1
    order = torch.rand((pairs, features), generator=generator).argsort(1).argsort(1)
    drawn = order < size[:, None]
    shown = torch.cat([drawn, ~drawn])[:samples]
    return shown, torch.ones(len(shown), dtype=torch.float64)


def shapley_values(shown: Tensor, weights: Tensor, values: Tensor, change: Tensor, /) -> Tensor:
    """Weighted least squares that sum to ``change`` exactly: (F,) float64.

    ``values`` (T,) are the scores of the trials less that of the baseline; ``change`` is that of
    the whole input. With fewer trials than features, the solution of least norm; NaN where a score
    is not finite.

    >>> shown = torch.tensor([[True, False], [False, True]])
    >>> shapley_values(shown, torch.ones(2).double(), torch.tensor([1.0, 2.0]), torch.tensor(5.0))
    tensor([2., 3.], dtype=torch.float64)
    """
    features = shown.shape[1]
    if not (values.isfinite().all() and change.isfinite()):  # LAPACK raises
        return torch.full((features,), torch.nan, dtype=torch.float64)
    equal = change.double() / features
    # What is left sums to 0: it is solved for in a basis of that plane.
    corners = torch.eye(features, dtype=torch.float64)[:, : features - 1] - 1 / features
    plane: Tensor = torch.linalg.qr(corners).Q
    root = weights.double().sqrt()[:, None]
    wanted = values.double() - shown.double().sum(1) * equal
    solved: Tensor = torch.linalg.lstsq(
        root * (shown.double() @ plane), root * wanted[:, None], driver="gelsd"
    ).solution
    return equal + (plane @ solved)[:, 0]


@METHODS.register("kernel_shap")
@dataclass(frozen=True, kw_only=True)
class KernelShap(WithFeatures, WithBaseline):
    """Shapley values of features, parts of the crop: what each adds, averaged over all orders.

    Signed; the values of a crop sum to F(input) - F(baseline) exactly. Features, their options and
    ``spread`` as :class:`attrscore.methods.features.WithFeatures`; hidden ones are replaced by the
    baseline. ``samples`` coalitions a crop, drawn in pairs of complements; exact where all 2^F - 2
    of them are no more than that. A cell's draws follow from ``seed`` and its id alone. Costs
    ``samples`` forward passes, and two; at most ``chunk`` copies of an input are in memory at once.
    Explains any network, gradients or not. The column ``output_change`` is F(input) - F(baseline).

    Lundberg, Lee, NeurIPS 2017. Captum's ``KernelShap`` takes one crop at a time, draws from the
    global generators and approximates the constraint by a large weight, so it is written here.
    """

    explains: ClassVar[str] = INPUT
    samples: int = 256
    chunk: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        WithBaseline.__post_init__(self)
        WithFeatures.__post_init__(self)
        check_whole(self, "samples")
        check_whole(self, "seed", least=0)
        check_chunk(self.chunk)

    def check(self, run: Pass, /) -> None:
        """The clean input and its features."""
        self.labels(run.batch)
        run.value  # noqa: B018  # a property that computes

    def __call__(self, run: Pass, /) -> Maps:
        """INPUT -> (N, 1, *S)."""
        labels = self.labels(run.batch)
        reference = self.reference(run.batch.inputs.detach())
        counts = (labels.flatten(1).amax(1) + 1).tolist()
        trials = [
            coalitions(count, self.samples, generator_of(cell, self.seed, "kernel_shap"))
            for count, cell in zip(counts, run.batch.ids, strict=True)
        ]
        total = sum(len(shown) + 1 for shown, _ in trials)
        done = 0
        values = torch.zeros((len(labels), max(counts)), dtype=torch.float64)
        change = torch.zeros(len(labels), dtype=torch.float64)
        for row, (shown, weights) in enumerate(trials):
            # Each coalition, and none.
            hidden = torch.cat([~shown, torch.ones((1, shown.shape[1]), dtype=torch.bool)])
            scores = self._scores(run, row, hidden, labels[row], reference, done, total).cpu()
            done += len(hidden)
            change[row] = run.value[row].double().cpu() - scores[-1]
            values[row, : shown.shape[1]] = shapley_values(
                shown, weights, scores[:-1] - scores[-1], change[row]
            )
        signed = self.painted(values.to(labels.device), labels).to(reference.dtype)
        return Diagnosed({INPUT: signed}, {"output_change": change})

    def _scores(
        self,
        run: Pass,
        row: int,
        hidden: Tensor,
        labels: Tensor,
        reference: Tensor,
        before: int,
        total: int,
    ) -> Tensor:
        """Of one crop (*S labels) with some features hidden: (T, F) bool -> (T,) float64."""
        hidden = hidden.to(labels.device)
        rows = torch.full((len(hidden),), row, device=labels.device)
        return values_at(
            run,
            rows,
            lambda which: hidden[which][:, labels],
            reference,
            chunk=self.chunk,
            before=before,
            total=total,
        )
