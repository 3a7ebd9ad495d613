"""Options that several datasets share, checked when the dataset is built."""

from __future__ import annotations

from typing import Any

from attrscore.errors import ConfigError

__all__ = ["as_tuples", "check_channels", "check_limit", "check_stains"]


def as_tuples(dataset: object, /, *names: str) -> None:
    """Lists among the options of a frozen dataset become tuples; None stays.

    :raises ConfigError: something that is no list.
    """
    for name in names:
        value: Any = getattr(dataset, name)
        if value is None:
            continue
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            raise ConfigError(f"{name}={value!r} must be a list, such as {name}=[{value}].")
        object.__setattr__(dataset, name, tuple(value))


def check_channels(channels: tuple[int, ...] | None, /) -> None:
    """Different numbers from 0, or None.

    :raises ConfigError: otherwise.
    """
    if channels is None:
        return
    whole = all(isinstance(channel, int) and channel >= 0 for channel in channels)
    if not channels or len(set(channels)) < len(channels) or not whole:
        raise ConfigError(
            f"channels={channels} must be different channel numbers from 0, or null for all."
        )


def check_stains(stains: tuple[str, ...] | None, channels: int | None = None, /) -> None:
    """Different names, as many as channels are read where that is known, or None.

    :raises ConfigError: otherwise.
    """
    if stains is None:
        return
    if not stains or len(set(stains)) < len(stains):
        raise ConfigError(f"stains={stains} must be different names, or null.")
    if channels is not None and len(stains) != channels:
        raise ConfigError(
            f"stains={list(stains)} names {len(stains)} channels, and {channels} are read."
        )


def check_limit(limit: int | None, /) -> None:
    """At least 1, or None.

    :raises ConfigError: otherwise.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit={limit} must be at least 1, or null for all cells.")
