"""Infidelity and maximum sensitivity, by ``captum.metrics``.

The pure functions are Captum's: :func:`captum.metrics.infidelity` and
:func:`captum.metrics.sensitivity_max`. Captum is imported when a score is asked for.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from attrscore.core.contracts import INPUT
from attrscore.core.heat import Heat, join_channels
from attrscore.core.passes import Pass, generator_of
from attrscore.core.readings import Declared
from attrscore.core.registry import SCORERS
from attrscore.errors import ConfigError, UnsupportedError, choose
from attrscore.scorers._response import blank

__all__ = ["Infidelity", "Noise", "SensitivityMax", "check_noise"]


class Noise:
    """Noise for repeated inputs, each cell's drawn from its own generator, whatever the batch."""

    def __init__(self, run: Pass, seed: int, purpose: str) -> None:
        self._drawn = [generator_of(seed, purpose, cell) for cell in run.batch.ids]

    def normal(self, repeated: Tensor) -> Tensor:
        """Standard normal, in the shape of the inputs, each repeated as often as the others."""
        return self._stack(repeated, torch.randn)

    def uniform(self, repeated: Tensor) -> Tensor:
        """Within [0, 1), likewise."""
        return self._stack(repeated, torch.rand)

    def _stack(self, repeated: Tensor, draw: object) -> Tensor:
        times = len(repeated) // len(self._drawn)
        shape = repeated.shape[1:]
        each = [
            draw(shape, generator=generator)  # type: ignore[operator]  # torch.rand or randn
            for generator in self._drawn
            for _ in range(times)
        ]
        return torch.stack(each).to(repeated)


def check_noise(samples: int, size: float, option: str, /) -> None:
    """Refuse a number of samples below 1, or noise of no size."""
    if samples < 1:
        raise ConfigError(f"samples={samples} must be at least 1.")
    if not size > 0:
        raise ConfigError(f"{option}={size} must be above 0.")


@SCORERS.register("infidelity")
@dataclass(frozen=True)
class Infidelity:
    """Infidelity: how far the map is from predicting what small noise does to the scalar.

    The mean over ``samples`` of (I . map - (F(x) - F(x - I)))^2 with normal noise I of the standard
    deviation ``noise``, in squared units of the scalar. ``scaling="optimal"`` first multiplies the
    map by what fits best, without which only maps in the units of a gradient can do well. The map
    is the signed one; a layer's map is summed over channels, resized to the crop and given to
    every input channel alike. NaN where the map is not finite. Costs ``samples`` forwards a cell
    and map. Yeh, Hsieh, Suggala, Inouye, Ravikumar, NeurIPS 2019; computed by Captum.

    >>> import attrscore
    >>> from attrscore.testing.samples import cells, net
    >>> (result,) = attrscore.run(net(), cells(), scorers=Infidelity(samples=8), layers="high")
    >>> bool((result.columns["infidelity"] < 1e-5).all())
    True
    """

    readings: ClassVar[Declared] = {
        "score": {"better": "lower", "range": (0, None), "chance": None}
    }

    samples: int = 32
    """Forwards a cell and map."""
    noise: float = 0.1
    """Standard deviation, in units of the inputs."""
    scaling: Literal["optimal", "none"] = "optimal"
    """Of the map, before it is compared."""
    chunk: int = 64
    """Most crops in memory at once; at least one batch."""
    seed: int = 0
    """Of what is drawn; a cell's draws follow from it and the id alone."""

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
    """The method is run so often, and once more."""
    radius: float = 0.02
    """Of uniform noise, in units of the inputs."""
    seed: int = 0
    """Of what is drawn; a cell's draws follow from it and the id alone."""

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
