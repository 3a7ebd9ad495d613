"""Maximum sensitivity, by ``captum.metrics``, which is imported when a score is asked for.

The pure function is Captum's: :func:`captum.metrics.sensitivity_max`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from attrscore.core.contracts import INPUT
from attrscore.core.heat import Heat
from attrscore.core.passes import Pass
from attrscore.core.readings import Declared
from attrscore.core.registry import SCORERS
from attrscore.errors import UnsupportedError
from attrscore.scorers.noise import Noise, check_noise
from attrscore.scorers.response import blank

__all__ = ["SensitivityMax"]


@SCORERS.register("sensitivity_max")
@dataclass(frozen=True)
class SensitivityMax:
    """How far the map moves at most under invisible noise, relative to its length; 0 is best.

    The largest norm of (map of x + noise - map of x) over ``samples`` of uniform noise within
    ``radius``, over the norm of the map; signed maps on their own grid, for the class of the clean
    input. NaN for maps without positive mass. Runs the method ``samples`` + 1 times on each layer.
    Yeh, Hsieh, Suggala, Inouye, Ravikumar, NeurIPS 2019; computed by Captum.
    """

    readings: ClassVar[Declared] = {
        "score": {"better": "lower", "range": (0, None), "chance": None}
    }

    samples: int = 10
    radius: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        check_noise(self.samples, self.radius, "radius")

    def __call__(self, heat: Heat, run: Pass, /) -> Tensor:
        """(N,) float64."""
        from captum.metrics import sensitivity_max  # not where scorers are only listed

        method, layer = heat.method, heat.layer
        if method is None or layer is None:
            raise UnsupportedError(
                "sensitivity_max runs the method again, and this map does not say which made it; "
                "use attrscore.run, or Heat(..., method=..., layer=...)."
            )
        layers: dict[str, nn.Module] = {} if layer == INPUT else {layer: run.layers[layer]}
        draw = Noise(run, self.seed, "sensitivity")

        def perturb(repeated: Tensor | tuple[Tensor, ...]) -> Tensor:
            image = _alone(repeated)
            return image + self.radius * (2 * draw.uniform(image) - 1)

        def explain(inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor]:
            image = _alone(inputs)
            with torch.enable_grad():
                maps = method(run.on(image.detach(), layers=layers))
            if layer not in maps:
                raise UnsupportedError(f"The method gave no map of '{layer}' for noisy inputs.")
            return (maps[layer].detach().contiguous(),)  # bare, Captum takes cells for tensors

        with run.prepared():
            found: Tensor = sensitivity_max(
                explain,
                run.batch.inputs,
                perturb_func=perturb,
                n_perturb_samples=self.samples,
                max_examples_per_batch=len(run.batch),  # so that the ids of a pass stay its own
            )
        return found.double().masked_fill(blank(heat), torch.nan)


def _alone(inputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Captum gives one input bare or as a tuple of one."""
    return inputs[0] if isinstance(inputs, tuple) else inputs
