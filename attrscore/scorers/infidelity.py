"""Infidelity, by ``captum.metrics``, which is imported when a score is asked for.

The pure function is Captum's: :func:`captum.metrics.infidelity`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attrscore.core.heat import Heat, join_channels
from attrscore.core.passes import Pass
from attrscore.core.readings import Declared
from attrscore.core.registry import SCORERS
from attrscore.errors import choose
from attrscore.scorers.noise import Noise, check_noise

__all__ = ["Infidelity"]


@SCORERS.register("infidelity")
@dataclass(frozen=True)
class Infidelity:
    """How far the map is from predicting what small noise does to the explained scalar; 0 is best.

    The mean over ``samples`` of (I . map - (F(x) - F(x - I)))^2 with normal noise I of the standard
    deviation ``noise``, in squared units of the scalar. ``scaling="optimal"`` first multiplies the
    map by what fits best, without which only maps in the units of a gradient can do well. The map
    is the signed one; a layer's map is summed over channels, resized to the crop and given to
    every input channel alike. NaN where the map is not finite. Costs ``samples`` forwards a cell
    and map. Yeh, Hsieh, Suggala, Inouye, Ravikumar, NeurIPS 2019; computed by Captum.
    """

    readings: ClassVar[Declared] = {
        "score": {"better": "lower", "range": (0, None), "chance": None}
    }

    samples: int = 32
    noise: float = 0.1
    scaling: Literal["optimal", "none"] = "optimal"
    chunk: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        check_noise(self.samples, self.noise, "noise")
        choose(self.scaling, ("optimal", "none"), option="scaling")

    def __call__(self, heat: Heat, run: Pass, /) -> Tensor:
        """(N,) float64."""
        from captum.metrics import infidelity  # not where scorers are only listed

        inputs = run.batch.inputs
        signed = heat.signed.to(inputs)
        if signed.shape != inputs.shape:
            full = heat.grid.push(join_channels(signed))
            signed = full[:, None].expand_as(inputs)
        draw = Noise(run, self.seed, "infidelity")

        def perturb(repeated: Tensor) -> tuple[Tensor, Tensor]:
            step = self.noise * draw.normal(repeated)
            return step, repeated - step

        with run.prepared(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`max_examples_per_batch` must be")
            found: Tensor = infidelity(
                run.explained,
                perturb,
                inputs,
                signed.contiguous(),
                additional_forward_args=run.additional,
                n_perturb_samples=self.samples,
                max_examples_per_batch=self.chunk,
                normalize=self.scaling == "optimal",
            )
        finite = signed.flatten(1).isfinite().all(1)
        return found.double().masked_fill(~finite, torch.nan)
