"""Checks of options that several methods share."""

from __future__ import annotations

import math
from typing import TypeVar

from attrscore.errors import ConfigError

__all__ = ["PerAxis", "check_per_axis", "check_positive", "check_share", "check_whole", "per_axis"]

Number = TypeVar("Number", int, float)

PerAxis = int | tuple[int, ...]
"""One number of pixels for every spatial axis, or one an axis: (Y, X) or (Z, Y, X)."""


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
