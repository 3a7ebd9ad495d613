"""Noise that is each cell's own, for the metrics of Captum that draw it."""

from __future__ import annotations

import torch
from torch import Tensor

from attrscore.core.passes import Pass
from attrscore.errors import ConfigError
from attrscore.scorers.donors import generator_of

__all__ = ["Noise", "check_noise"]


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
