"""Kept maps as heat at the size of their crops, by the steps of the scores, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from attrscore.errors import choose

Array = np.ndarray[Any, Any]

_OPTIONS = {
    "channels": ("sum", "absolute", "max"),
    "sign": ("positive", "absolute", "negative"),
    "resize": ("linear", "nearest"),
    "minmax": ("never", "each_map"),
}
"""Option of heat -> its values, the default first."""


def heat_of(signed: Array, space: Sequence[int], options: Mapping[str, str], /) -> Array:
    """Turn signed maps (N, C, *s) into heat (N, *S) float64, as :class:`attrscore.Heat` does.

    ``options`` are those of :class:`attrscore.HeatOptions`; what is missing has its default.
    """
    chosen = {name: options.get(name, known[0]) for name, known in _OPTIONS.items()}
    for name, known in _OPTIONS.items():
        choose(chosen[name], known, option=f"heat.{name}")
    values, channels, sign = signed.astype(np.float64), chosen["channels"], chosen["sign"]
    if channels == "max":
        joined = values.max(1)
    else:
        joined = (np.abs(values) if channels == "absolute" else values).sum(1)
    heat: Array
    if sign == "absolute":
        heat = np.abs(joined)
    else:
        heat = np.clip(-joined if sign == "negative" else joined, 0, None)
    if chosen["minmax"] == "each_map":
        axes = tuple(range(1, heat.ndim))
        heat = heat - heat.min(axes, keepdims=True)
        span = heat.max(axes, keepdims=True)
        heat = np.divide(heat, span, out=np.zeros_like(heat), where=span != 0)
    for axis, long in enumerate(space, start=1):
        short = heat.shape[axis]
        if short == long:
            continue
        if chosen["resize"] == "nearest":
            heat = np.take(heat, np.arange(long) * short // long, axis)
        else:
            heat = sampled(heat, (np.arange(long) + 0.5) * short / long - 0.5, axis)
    return heat


def sampled(values: Array, at: Array, axis: int, /) -> Array:
    """Interpolate linearly along an axis at these positions; beyond the ends it is constant.

    >>> sampled(np.array([0.0, 2.0]), np.array([-1.0, 0.5, 1.0]), 0).tolist()
    [0.0, 1.0, 2.0]
    """
    at = np.clip(at, 0, values.shape[axis] - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, values.shape[axis] - 1)
    share = (at - low).reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    mixed: Array = np.take(values, low, axis) * (1 - share) + np.take(values, high, axis) * share
    return mixed
