"""Options that several datasets share, checked when the dataset is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from attrscore.errors import ConfigError, DataError, choose


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """The options of every dataset that a table describes."""

    label_column: str | None = None
    """Column of the table that is the class; null: none."""
    class_order: tuple[str, ...] | None = None
    """The classes in their order; null: sorted as text."""
    carry: tuple[str, ...] = ()
    """Columns carried to the results, beside those named Metadata_..."""
    numbers: tuple[str, ...] = ()
    """Columns of a CSV that are read as numbers; classes, keys, Metadata_... and carry are text
    else."""
    limit: int | None = None
    """Most cells, the first ones; null: all."""
    on_bad_file: Literal["skip", "raise"] = "skip"
    """Whether the others are read, or none."""

    def __post_init__(self) -> None:
        as_tuples(self, "class_order", "carry", "numbers")
        choose(self.on_bad_file, ("skip", "raise"), option="on_bad_file")
        require(
            self.limit is None or self.limit >= 1,
            f"limit={self.limit} must be at least 1, or null for all cells",
        )


class NothingLeftOut:
    """A dataset whose settings exclude no cell, and whose files are whole or refused."""

    @property
    def skipped(self) -> Mapping[str, str]:
        """File -> why it is left out."""
        return MappingProxyType({})

    @property
    def left_out(self) -> int:
        """How many cells the settings exclude."""
        return 0


def as_tuple(name: str, value: Any, /) -> Any:
    """A list as a tuple, None as it is.

    :raises ConfigError: something that is no list.
    """
    if value is None:
        return None
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise ConfigError(f"{name}={value!r} must be a list, such as {name}=[{value}].")
    return tuple(value)


def as_tuples(dataset: object, /, *names: str) -> None:
    """Lists among the options of a frozen dataset become tuples; None stays.

    :raises ConfigError: something that is no list.
    """
    for name in names:
        object.__setattr__(dataset, name, as_tuple(name, getattr(dataset, name)))


def require(condition: bool, sentence: str, /) -> None:  # noqa: FBT001  # it is the condition
    """Raise a ConfigError of this sentence, without its full stop, unless the condition holds."""
    if not condition:
        raise ConfigError(f"{sentence}.")


def check_channels(
    channels: tuple[int | str, ...] | None,
    /,
    *,
    option: str = "channels",
    none: str = "null for all",
) -> None:
    """Different numbers from 0 or names of stains, or None.

    :raises ConfigError: otherwise.
    """
    if channels is None:
        return
    whole = all(
        bool(channel) if isinstance(channel, str) else isinstance(channel, int) and channel >= 0
        for channel in channels
    )
    require(
        bool(channels) and len(set(channels)) == len(channels) and whole,
        f"{option}={channels} must be different channel numbers from 0, or names of stains, {none}",
    )


def numbers_of(
    channels: tuple[int | str, ...], known: Sequence[str], /, *, name: str, option: str = "channels"
) -> tuple[int, ...]:
    """The numbers of channels among those ``known``; names match whatever their capitals.

    >>> numbers_of(("RNA", 0), ("DNA", "rna"), name="a.tif")
    (1, 0)

    :raises DataError: the file ``name`` has none, or several, of that name.
    """
    plain = [each.strip().casefold() for each in known]
    found = []
    for each in channels:
        if isinstance(each, str) and plain.count(each.strip().casefold()) != 1:
            there = (
                f"its channels are called {', '.join(known)}"
                if known
                else "its channels have no names; dataset.stains gives those of all of them"
            )
            raise DataError(f"'{name}' has not one channel {each!r} for {option}: {there}.")
        found.append(plain.index(each.strip().casefold()) if isinstance(each, str) else each)
    return tuple(found)


def check_stains(stains: tuple[str, ...] | None, channels: int | None = None, /) -> None:
    """Different names, as many as channels are read where that is known, or None.

    :raises ConfigError: otherwise.
    """
    if stains is None:
        return
    require(
        bool(stains) and len(set(stains)) == len(stains),
        f"stains={stains} must be different names, or null",
    )
    if channels is not None and len(stains) != channels:
        raise ConfigError(
            f"stains={list(stains)} names {len(stains)} channels, and {channels} are read."
        )


def check_spacing(spacing: tuple[float, ...] | None, /) -> None:
    """Two numbers, or None.

    :raises ConfigError: otherwise.
    """
    if spacing is not None and len(spacing) != 2:
        raise ConfigError(f"spacing={list(spacing)} must be 2 numbers, along Y and X.")
