"""Options that several methods share: their checks, and what an input is compared with."""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import safetensors.numpy
import torch
from torch import Tensor

from attrscore.core.passes import Pass
from attrscore.errors import ConfigError, DataError, choose

Number = TypeVar("Number", int, float)

PerAxis = int | tuple[int, ...]
"""One number of pixels for every spatial axis, or one an axis: (Y, X) or (Z, Y, X)."""


@dataclass(frozen=True, kw_only=True)
class WithGradients:
    """The option of methods that take the gradients of the shared pass."""

    gradients: Literal["plain", "libra"] = "plain"
    """torch's, or balanced as in LibraGrad, for transformers; libra takes a pass of its own."""

    def __post_init__(self) -> None:
        choose(self.gradients, ("plain", "libra"), option="gradients")

    def differentiated(self, run: Pass, /) -> Pass:
        """The pass with these gradients."""
        return run if self.gradients == "plain" else run.libra()


def check_whole(method: object, /, *options: str, least: int = 1) -> None:
    """Each option must be a whole number, ``least`` or more.

    :raises ConfigError: one is not.
    """
    for option in options:
        given = getattr(method, option)
        if isinstance(given, bool) or not isinstance(given, int) or given < least:
            raise ConfigError(f"{option}={given!r} must be a whole number, {least} or more.")


def check_positive(method: object, /, *options: str) -> None:
    """Each option must be a number above 0.

    :raises ConfigError: one is not.
    """
    for option in options:
        given = getattr(method, option)
        if isinstance(given, bool) or not isinstance(given, int | float) or not given > 0:
            raise ConfigError(f"{option}={given!r} must be a number above 0.")


def check_per_axis(method: object, /, *options: str, kind: type = int) -> None:
    """Each option must be a ``kind`` of number above 0, or 2 or 3 of them; lists become tuples.

    :raises ConfigError: one is not.
    """
    known = (int, float) if kind is float else (int,)
    for option in options:
        given = getattr(method, option)
        values = tuple(given) if isinstance(given, list | tuple) else (given,) * 2
        if len(values) not in (2, 3) or not all(
            isinstance(value, known) and not isinstance(value, bool) and value > 0
            for value in values
        ):
            raise ConfigError(
                f"{option}={given!r} must be a number of pixels above 0, or one for each axis: "
                "[Y, X] or [Z, Y, X]."
            )
        if isinstance(given, list):
            object.__setattr__(method, option, values)


def per_axis(
    given: Number | tuple[Number, ...], axes: int, /, *, option: str
) -> tuple[Number, ...]:
    """The option for each spatial axis.

    :raises ConfigError: its numbers are not as many as the axes.
    """
    if not isinstance(given, tuple):
        return (given,) * axes
    if len(given) != axes:
        raise ConfigError(
            f"{option}={list(given)} has {len(given)} numbers and the crops {axes} axes."
        )
    return given


def check_share(method: object, /, *options: str) -> None:
    """Each option must be a finite number, 0 or more: a fraction of something.

    :raises ConfigError: one is not.
    """
    for option in options:
        given = getattr(method, option)
        if (
            isinstance(given, bool)
            or not isinstance(given, int | float)
            or not 0 <= given < math.inf
        ):
            raise ConfigError(f"{option}={given!r} must be a number, 0 or more.")


_KINDS = ("zero", "mean", "blurred")
_FILES = (".npy", ".safetensors")


@dataclass(frozen=True)
class WithBaseline:
    """The options of a baseline: what an input is compared with, or replaced by."""

    baseline: str | float = "zero"
    """zero | mean (of each channel over the crop) | blurred (by a Gaussian) | a number | a .npy or
    .safetensors of one array (C,) or (C, *S)."""
    sigma: float | tuple[float, ...] = 8.0
    """Of the blurred baseline, in pixels: a number, or [Y, X] or [Z, Y, X]."""

    def __post_init__(self) -> None:
        check_per_axis(self, "sigma", kind=float)
        given = self.baseline
        if isinstance(given, str) and given not in _KINDS:
            if not given.endswith(_FILES):
                raise ConfigError(
                    f"baseline={given!r} is not a choice; expected {', '.join(_KINDS)}, a number, "
                    "or a .npy or .safetensors file."
                )
            _read(given)
        elif not isinstance(given, str) and (
            isinstance(given, bool)
            or not isinstance(given, int | float)
            or not math.isfinite(given)
        ):
            raise ConfigError(f"baseline={given!r} must be a finite number.")

    @property
    def identity(self) -> dict[str, str]:
        """The numbers of a file, not where it lies; empty without one."""
        if not isinstance(self.baseline, str) or self.baseline in _KINDS:
            return {}
        values = _read(self.baseline)
        digest = hashlib.blake2b(repr(values.shape).encode(), digest_size=8)
        digest.update(values.tobytes())
        return {"baseline": digest.hexdigest()}

    def reference(self, inputs: Tensor, /) -> Tensor:
        """The baseline of each input, (N, C, *S).

        :raises ConfigError: a file of another shape.
        """
        if self.baseline == "zero":
            return torch.zeros_like(inputs)
        if self.baseline == "mean":
            return inputs.mean(tuple(range(2, inputs.ndim)), keepdim=True).expand_as(inputs)
        if self.baseline == "blurred":
            return blurred(inputs, per_axis(self.sigma, inputs.ndim - 2, option="sigma"))
        if not isinstance(self.baseline, str):
            return torch.full_like(inputs, self.baseline)
        values = torch.from_numpy(_read(self.baseline)).to(inputs)
        if values.ndim == 1:
            values = values.view(-1, *[1] * (inputs.ndim - 2))
        if len(values) != inputs.shape[1] or values.shape[1:] not in (
            inputs.shape[2:],
            (1,) * (inputs.ndim - 2),
        ):
            raise ConfigError(
                f"The baseline {Path(self.baseline).name} has the shape {tuple(values.shape)}; "
                f"expected {tuple(inputs.shape[1:2])} or {tuple(inputs.shape[1:])}, as the crops."
            )
        return values.expand_as(inputs)


def blurred(inputs: Tensor, sigma: tuple[float, ...], /) -> Tensor:
    """Smoothed by a Gaussian along each spatial axis, borders continued by their last value.

    (N, C, *S) -> (N, C, *S). As ``scipy.ndimage.gaussian_filter(mode="nearest")``: the kernel ends
    at 4 sigma.
    """
    for axis, width in enumerate(sigma, start=2):
        size, reach = inputs.shape[axis], int(4 * width + 0.5)
        offsets = torch.arange(-reach, reach + 1)
        kernel = torch.exp(-0.5 * (offsets.double() / width).square())
        kernel /= kernel.sum()
        sources = (torch.arange(size)[:, None] + offsets).clamp(0, size - 1)
        matrix = torch.zeros(size, size, dtype=torch.float64)
        matrix.scatter_add_(1, sources, kernel.expand(size, -1).contiguous())
        inputs = torch.tensordot(inputs, matrix.to(inputs), ([axis], [1])).movedim(-1, axis)
    return inputs


@functools.lru_cache(maxsize=16)
def _read(path: str) -> np.ndarray[Any, Any]:
    try:
        if path.endswith(".npy"):
            values = np.load(path, allow_pickle=False)
        else:
            (values,) = safetensors.numpy.load_file(path).values()
        values = np.ascontiguousarray(values, dtype=float)
    except Exception as error:
        raise DataError(f"The baseline {path} cannot be read as one array: {error}") from error
    if values.ndim not in (1, 3, 4) or not np.isfinite(values).all():
        raise DataError(
            f"The baseline {path} must be finite numbers (C,), (C, Y, X) or (C, Z, Y, X); "
            f"given: an array {values.shape}."
        )
    return values
