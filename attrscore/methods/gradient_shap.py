"""Gradients at random places between a baseline and the noisy input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from attrscore.core.contracts import INPUT, Diagnosed, Maps
from attrscore.core.passes import Pass
from attrscore.core.registry import METHODS
from attrscore.methods.baselines import WithBaseline
from attrscore.methods.copies import blocks, check_chunk, generator_of, gradients_at, noisy
from attrscore.methods.integrated_gradients import completeness
from attrscore.methods.options import check_share, check_whole

__all__ = ["GradientShap"]


@METHODS.register("gradient_shap")
@dataclass(frozen=True, kw_only=True)
class GradientShap(WithBaseline):
    """Gradients at random places on the way from a baseline to the noisy input, times the way.

    An estimate of Integrated Gradients, smoothed: each of ``samples`` draws adds Gaussian ``noise``
    (a fraction of each channel's range in the crop) to the input and takes one place on the way.
    Signed. A cell's draws follow from ``seed`` and its id alone, whatever the batch. Costs
    ``samples`` forward and backward passes, and one forward, at most ``chunk`` copies of an input
    in memory at once. Needs gradients down to the input. Columns as ``integrated_gradients``; the
    completeness error falls with the square root of ``samples``. Lundberg, Lee, NeurIPS 2017;
    after Captum's ``GradientShap``, with one baseline a cell rather than a set to draw from.
    """

    explains: ClassVar[str] = INPUT
    samples: int = 20
    noise: float = 0.1
    chunk: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "samples")
        check_whole(self, "seed", least=0)
        check_chunk(self.chunk)
        check_share(self, "noise")

    def check(self, run: Pass, /) -> None:
        """A single sample."""
        replace(self, samples=1)(run)

    def __call__(self, run: Pass, /) -> Maps:
        """INPUT -> (N, C, *S)."""
        inputs = run.batch.inputs.detach()
        reference = self.reference(inputs)
        draws = [generator_of(cell, self.seed, "gradient_shap") for cell in run.batch.ids]
        total = torch.zeros_like(inputs, dtype=torch.float64)
        run.additional  # noqa: B018  # the clean input's own pass comes first
        with run.prepared():
            for rows, steps in blocks(run, self.samples, self.chunk):
                low, high, drawn = reference[rows], inputs[rows], draws[rows]
                ways, points = [], []
                for _ in range(steps.start, steps.stop):  # in order, however they are chunked
                    way = noisy(high, self.noise, drawn) - low
                    place = torch.stack([torch.rand(1, generator=each) for each in drawn]).to(way)
                    ways.append(way)
                    points.append(low + place.view(-1, *[1] * (way.ndim - 1)) * way)
                gradients = gradients_at(run, torch.stack(points), rows)
                for gradient, way in zip(gradients, ways, strict=True):
                    total[rows].add_(gradient * way, alpha=1 / self.samples)
            signed = total.to(inputs.dtype)
            return Diagnosed({INPUT: signed}, completeness(run, signed, reference))
