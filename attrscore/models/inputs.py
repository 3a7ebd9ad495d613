"""What stands between a dataset's pixels and a model: the order of channels, and their scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attrscore.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class InputRule:
    """Channels picked and scaled before a model sees them, as a hook that runs before it.

    A hook, and no module around it: the names of layers stay what they are, and maps on the input
    are those of the dataset's own channels and pixels.
    """

    channels: tuple[int, ...] | None = None
    """Numbers of the dataset's channels in the order that the model expects."""
    mean: tuple[float, ...] | None = None
    """Subtracted, one a channel of the model."""
    std: tuple[float, ...] | None = None
    """Divided by, one a channel of the model."""

    def __call__(self, _model: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inputs (N, C, *S) as the model expects them; its further inputs as they are."""
        inputs, *others = given
        if self.channels is not None:
            inputs = inputs.index_select(1, torch.tensor(self.channels, device=inputs.device))
        if self.mean is not None:
            inputs = inputs - _each(self.mean, inputs)
        if self.std is not None:
            inputs = inputs / _each(self.std, inputs)
        return (inputs, *others)


def input_rule(
    *,
    channels: Sequence[int | str] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    stains: Sequence[str],
    count: int,
) -> InputRule | None:
    """The rule that options ask for, on a dataset of ``count`` channels; None where it is none.

    ``channels`` are numbers, from 0, or names of ``stains``.

    :raises ConfigError: a channel that the dataset does not have, or not one number a channel.
    """
    if channels is None and mean is None and std is None:
        return None
    numbers = None if channels is None else tuple(_number(each, stains, count) for each in channels)
    expected = count if numbers is None else len(numbers)
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) != expected:
            raise ConfigError(
                f"model.{name}={list(values)} has {len(values)} numbers; expected {expected}, one "
                "for each channel that the model gets."
            )
    if std is not None and not all(value > 0 for value in std):
        raise ConfigError(f"model.std={list(std)} must be above 0.")
    return InputRule(
        numbers,
        None if mean is None else tuple(map(float, mean)),
        None if std is None else tuple(map(float, std)),
    )


def _number(channel: int | str, stains: Sequence[str], count: int) -> int:
    if isinstance(channel, str):
        if channel not in stains:
            known = did_you_mean(channel, stains) if stains else "Its channels have no names."
            raise ConfigError(f"The dataset has no channel {channel!r}. {known}")
        return list(stains).index(channel)
    if not 0 <= channel < count:
        raise ConfigError(
            f"model.channels asks for channel {channel}; the dataset has {count}, from 0."
        )
    return channel


def _each(values: tuple[float, ...], like: Tensor) -> Tensor:
    tensor = torch.tensor(values, dtype=like.dtype, device=like.device)
    return tensor.view(1, -1, *[1] * (like.ndim - 2))
