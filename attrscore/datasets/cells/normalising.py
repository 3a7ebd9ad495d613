"""From a camera's numbers to a model's: by a rule, from the pixels of a field, or of controls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from attrscore.datasets.images.readers import shown
from attrscore.errors import ConfigError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from attrscore.datasets.images.field import Field

Normalise = Literal["none", "percentile", "max", "standard", "fixed"]

Channels = Iterable[Iterable["NDArray[Any]"]]
"""The pixels of a field, channel by channel, each in pieces."""

_COUNTED = 16
"""Bits up to which whole numbers are counted, not sorted: a table of 65536 at most."""


@dataclass(frozen=True, eq=False)
class Levels:
    """What is subtracted from each of C channels, and what it is divided by, under a rule."""

    rule: Normalise
    low: NDArray[np.float64]
    """(C,)"""
    spread: NDArray[np.float64]
    """(C,), 0 where a channel has no contrast."""
    pixels: int
    """Of each channel, from which these are."""

    def apply(self, values: NDArray[Any], /) -> NDArray[np.float32]:
        """A window (C, *S) of a field, normalised; a channel without contrast becomes 0."""
        if self.rule == "none":
            return values.astype(np.float32)
        # whole steps first: exact in float32 for whole numbers of 16 bits, so that nothing is lost
        # where a bright channel has little contrast
        narrow = values.dtype.itemsize <= 2 or values.dtype == np.float32
        column = (-1, *(1,) * (values.ndim - 1))
        steps, factor, rest = (
            each.reshape(column) for each in (self._narrow if narrow else self._wide)
        )
        moved = np.ascontiguousarray(values).astype(steps.dtype)  # faster than of a window
        moved -= steps
        moved *= factor
        moved += rest
        if self.rule in ("percentile", "fixed"):
            moved.clip(0, 1, out=moved)
        return moved.astype(np.float32, copy=False)

    @cached_property
    def _wide(self) -> tuple[NDArray[Any], ...]:
        """(C,) each: whole steps subtracted, the factor, and what is added then."""
        steps, factor = np.rint(self.low), 1 / np.where(self.spread == 0, 1.0, self.spread)
        return steps, factor, (steps - self.low) * factor

    @cached_property
    def _narrow(self) -> tuple[NDArray[Any], ...]:
        return tuple(each.astype(np.float32) for each in self._wide)


def levels_of(
    channels: Channels,
    rule: Normalise,
    /,
    *,
    percentiles: tuple[float, float],
    name: str,
) -> Levels:
    """Of one field, each channel by itself and given in pieces.

    ``percentile`` takes the lower percentile to 0 and the upper to 1 and cuts off what lies beyond;
    ``max`` takes the highest pixel to 1; ``standard`` gives mean 0 and spread 1. Of whole numbers
    up to 16 bits only their counts are in memory, of others one channel.

    :raises DataError: a pixel is not finite.
    """
    wrong: list[int] = []
    found = [_channel(_counting(pieces, wrong), rule, percentiles) for pieces in channels]
    if sum(wrong):
        raise DataError(
            f"'{name}' holds {sum(wrong)} pixels that are NaN or infinite; expected finite "
            "numbers: fill them, or leave the field out."
        )
    low, spread, pixels = (np.array(column) for column in zip(*found, strict=True))
    return Levels(rule, low.astype(float), spread.astype(float), int(pixels[0]))


def pooled(fields: Sequence[Levels], /) -> Levels:
    """Of several fields together: the levels of a plate from those of its control fields.

    Mean and spread are those of all their pixels and the highest is the highest of all; percentiles
    are the mean of the fields' own.
    """
    rule = fields[0].rule
    weights = np.array([each.pixels for each in fields], float)[:, None] / sum(
        each.pixels for each in fields
    )
    low = np.stack([each.low for each in fields])
    spread = np.stack([each.spread for each in fields])
    pixels = sum(each.pixels for each in fields)
    if rule == "standard":
        mean = (weights * low).sum(axis=0)
        variance = (weights * (spread**2 + (low - mean) ** 2)).sum(axis=0)
        return Levels(rule, mean, np.sqrt(variance), pixels)
    if rule == "max":
        return Levels(rule, low[0], spread.max(axis=0), pixels)
    high = (low + spread).mean(axis=0)
    return Levels(rule, low.mean(axis=0), high - low.mean(axis=0), pixels)


@dataclass(frozen=True, kw_only=True)
class Normaliser:
    """The levels of every field: its own, stated ones, or those of its plate's control fields."""

    rule: Normalise
    percentiles: tuple[float, float]
    ranges: tuple[tuple[float, float], ...] | None
    """Of ``fixed``: lowest and highest of every channel, or one pair for all."""
    plates: Mapping[str, str] | None
    """Field -> plate, where controls decide."""
    controls: Mapping[str, Sequence[str]]
    """Plate -> its control fields."""
    _own: dict[str, Levels] = field(default_factory=dict, init=False)
    _pooled: dict[str, Levels] = field(default_factory=dict, init=False)

    def __call__(self, name: str, open_field: Callable[[str], Field], /) -> Levels:
        """Of one field; ``open_field`` opens any by its name.

        :raises DataError: pixels that are not finite, or a plate without a control.
        """
        own = self._of_itself(name, open_field)
        if self.plates is None:
            return own
        plate = self.plates.get(name)
        if plate is None:
            raise DataError(f"the field '{name}' cannot be normalised: no CSV row says its plate.")
        if plate not in self._pooled:
            found = []
            for control in self.controls.get(plate, ()):
                with suppress(DataError, KeyError):  # raised where that field itself is read
                    found.append(self._of_itself(control, open_field))
            if not found:
                raise DataError(
                    f"the field '{name}' cannot be normalised: none that can be used of the plate "
                    f"'{plate}' is a control."
                )
            self._pooled[plate] = pooled(found)
        return self._pooled[plate]

    def _of_itself(self, name: str, open_field: Callable[[str], Field]) -> Levels:
        if name not in self._own:
            field = open_field(name)
            found = levels_of(
                field.pieces(),
                self.rule,
                percentiles=self.percentiles,
                name=shown(field.image.path),
            )
            if self.rule == "fixed":
                found = self._stated(len(found.low), found.pixels)
            self._own[name] = found
        return self._own[name]

    def _stated(self, channels: int, pixels: int) -> Levels:
        ranges = self.ranges or ()
        if len(ranges) not in (1, channels):
            raise ConfigError(
                f"ranges={[list(pair) for pair in ranges]} has {len(ranges)} pairs, and {channels} "
                "channels are read; give one pair for all, or one a channel."
            )
        low, high = np.broadcast_to(np.array(ranges, float), (channels, 2)).T
        return Levels(self.rule, low.copy(), high - low, pixels)


def _counting(pieces: Iterable[NDArray[Any]], wrong: list[int]) -> Iterator[NDArray[Any]]:
    """The same pieces; how many pixels of each are not finite is added to ``wrong``."""
    for piece in pieces:
        if piece.dtype.kind == "f":
            wrong.append(int(piece.size - np.isfinite(piece).sum()))
        yield piece


def _channel(
    pieces: Iterator[NDArray[Any]], rule: Normalise, percentiles: tuple[float, float]
) -> tuple[float, float, int]:
    """What is subtracted, what it is divided by, and of how many pixels."""
    counts: NDArray[np.int64] = np.zeros(0, np.int64)
    whole: list[NDArray[Any]] = []
    offset = 0
    for piece in pieces:
        if piece.dtype.kind in "bui" and 8 * piece.dtype.itemsize <= _COUNTED:
            offset = np.iinfo(piece.dtype).min if piece.dtype.kind == "i" else 0
            found = np.bincount(piece.ravel().astype(np.int64) - offset)
            if len(found) < len(counts):
                found, counts = counts, found
            found[: len(counts)] += counts
            counts = found
        else:
            whole.append(piece.ravel())
    if whole:
        return _of_values(np.concatenate(whole), rule, percentiles)
    values = np.arange(len(counts)) + offset
    return _of_counts(values, counts, rule, percentiles)


def _of_values(
    values: NDArray[Any], rule: Normalise, percentiles: tuple[float, float]
) -> tuple[float, float, int]:
    if not np.isfinite(values).all():  # counted and raised once every channel is read
        return 0.0, 0.0, values.size
    if rule == "percentile":
        low, high = (float(v) for v in np.percentile(values, percentiles))
        return low, high - low, values.size
    if rule == "max":
        return 0.0, float(values.max()), values.size
    if rule == "standard":
        mean, spread = values.mean(dtype=np.float64), values.std(dtype=np.float64)
        return float(mean), float(spread), values.size
    return 0.0, 1.0, values.size


def _of_counts(
    values: NDArray[np.int64],
    counts: NDArray[np.int64],
    rule: Normalise,
    percentiles: tuple[float, float],
) -> tuple[float, float, int]:
    """The same numbers as from all the values, in order."""
    total = int(counts.sum())
    if rule == "percentile":
        up_to = counts.cumsum()
        low, high = (_percentile(values, up_to, share) for share in percentiles)
        return low, high - low, total
    if rule == "max":
        return 0.0, float(values[counts > 0][-1]), total
    if rule == "standard":
        mean = float(counts @ values) / total
        return mean, float(np.sqrt(counts @ (values - mean) ** 2 / total)), total
    return 0.0, 1.0, total


def _percentile(values: NDArray[np.int64], up_to: NDArray[np.int64], share: float) -> float:
    """As ``numpy.percentile``, linear between the two nearest."""
    rank = share / 100 * (up_to[-1] - 1)
    below = int(np.floor(rank))
    first, second = values[
        np.searchsorted(up_to, [below, below + 1], side="right").clip(max=len(values) - 1)
    ]
    return float(first + (second - first) * (rank - below))
