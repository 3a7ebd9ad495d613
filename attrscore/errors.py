"""What can go wrong, in words that repair it. Imports nothing of attrscore."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "AttrscoreError",
    "AttrscoreWarning",
    "ConfigError",
    "DataError",
    "EmptyShardError",
    "LayerError",
    "StoreError",
    "UnsupportedError",
    "choose",
    "did_you_mean",
    "preview",
]


class AttrscoreError(Exception):
    """Every error that attrscore raises on purpose; its message is one sentence for the user."""


class ConfigError(AttrscoreError, ValueError):
    """An option, a name or a combination of them that cannot be used."""


class DataError(AttrscoreError, ValueError):
    """Images, masks, labels or weights that cannot be read or do not fit together."""


class EmptyShardError(DataError):
    """A shard to which no cell belongs: there is nothing to do, and nothing is wrong."""


class LayerError(AttrscoreError, LookupError):
    """A layer that does not exist, never runs, runs twice or has no spatial output."""


class UnsupportedError(AttrscoreError):
    """A network or situation that a method cannot explain; rows get the status ``unsupported``."""


class StoreError(AttrscoreError, OSError):
    """A results folder or file that cannot be written, read or trusted.

    ``kind`` says what is wrong with a file where that is known: ``damaged``, ``foreign``, ``newer``
    (than this attrscore) or ``unreadable`` (the system does not give its bytes).
    """

    def __init__(self, sentence: str, /, *, kind: str = "") -> None:
        super().__init__(sentence)
        self.kind = kind


class AttrscoreWarning(UserWarning):
    """Something was left out or cannot be trusted, and the work went on."""


def preview(names: Iterable[object], /, *, most: int = 8) -> str:
    """The first few of ``names`` for a message, and how many more there are.

    >>> preview(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    listed = [str(name) for name in names]
    shown = ", ".join(listed[:most])
    return shown if len(listed) <= most else f"{shown} and {len(listed) - most} more"


def did_you_mean(given: object, known: Iterable[object], /) -> str:
    """A sentence that suggests the nearest of ``known``, or lists them.

    >>> did_you_mean("gradcam", ["grad_cam", "saliency"])
    "Did you mean 'grad_cam'? Known: grad_cam, saliency."
    """
    names = sorted(str(name) for name in known)
    near = difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    return f"{hint}Known: {preview(names, most=40) or 'none'}."


def choose(value: str, known: Iterable[str], /, *, option: str) -> str:
    """``value`` if it is one of ``known``; else a ConfigError that names the option.

    >>> choose("linear", ("linear", "nearest"), option="resize")
    'linear'
    """
    known = tuple(known)
    if value not in known:
        raise ConfigError(f"{option}={value!r} is not a choice. {did_you_mean(value, known)}")
    return value
