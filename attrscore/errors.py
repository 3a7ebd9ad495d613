"""What can go wrong, in words that repair it. Imports nothing of attrscore."""

from __future__ import annotations

import difflib
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = [
    "AbsentError",
    "AttrscoreError",
    "AttrscoreWarning",
    "ConfigError",
    "DataError",
    "EmptyShardError",
    "LayerError",
    "NoResultsError",
    "Stopped",
    "StoreError",
    "UnsupportedError",
    "choose",
    "did_you_mean",
    "end_if_stopped",
    "preview",
    "shown",
    "stoppable",
]


class AttrscoreError(Exception):
    """Every error that attrscore raises on purpose; its message is one sentence for the user."""


class ConfigError(AttrscoreError, ValueError):
    """An option, a name or a combination of them that cannot be used."""


class DataError(AttrscoreError, ValueError):
    """Images, masks, labels or weights that cannot be read or do not fit together."""


class EmptyShardError(DataError):
    """A shard to which no cell belongs: there is nothing to do, and nothing is wrong."""


class AbsentError(DataError, ConfigError):
    """Data that are asked for by a name under which there are none: a mistake in the asking."""


class LayerError(AttrscoreError, LookupError):
    """A layer that does not exist, never runs, runs twice or has no spatial output."""


class UnsupportedError(AttrscoreError):
    """A model or situation that a method cannot explain; rows get the status ``unsupported``."""


class StoreError(AttrscoreError, OSError):
    """A results folder or file that cannot be written, read or trusted.

    ``kind`` says what is wrong with a file where that is known: ``damaged``, ``foreign``, ``newer``
    (than this attrscore) or ``unreadable`` (the system does not give its bytes).
    """

    def __init__(self, sentence: str, /, *, kind: str = "") -> None:
        super().__init__(sentence)
        self.kind = kind


class NoResultsError(StoreError, ConfigError):
    """Results are asked for where there are none: a mistake in the asking."""


class AttrscoreWarning(UserWarning):
    """Something was left out or cannot be trusted, and the work went on."""


class Stopped(KeyboardInterrupt):
    """A signal ends the process, as Ctrl-C does: no failure of what it interrupted.

    Nothing that records failures catches it. Its cause is what the signal's handler raised.
    """

    def __init__(self, number: int, why: str = "") -> None:
        self.number = number
        super().__init__(f"{signal.Signals(number).name}{why and ': '}{why}")


STOPS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGXCPU")

_stopped: list[Stopped] = []


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise Stopped inside the block where a signal, or its handler, ends the process.

    Handlers raise in the middle of whatever runs: submitit's an exception that code which records
    failures would take for one. What such a handler raised comes out of the block as it was.
    Without effect inside another such block, and outside the main thread, which gets no signals.
    """
    if _before or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        for number in [getattr(signal, name) for name in STOPS if hasattr(signal, name)]:
            before = signal.getsignal(number)
            if callable(before) or before is signal.SIG_DFL:
                _before[number] = before
                signal.signal(number, _stop)
        yield
        end_if_stopped()
    except Stopped as stopped:
        if stopped.__cause__ is None:
            raise
        raise stopped.__cause__ from None
    finally:
        _stopped.clear()
        for number, before in _before.items():
            signal.signal(number, before)
        _before.clear()


_before: dict[int, Callable[[int, FrameType | None], object] | int] = {}
"""Signal -> its handler outside of the block that is open."""


def _stop(number: int, frame: FrameType | None) -> None:
    before, stopped, cause = _before[number], Stopped(number), None
    if callable(before):
        try:
            before(number, frame)
        except BaseException as error:  # noqa: BLE001  # raised as the cause
            stopped, cause = Stopped(number, str(error)), error
        else:
            return
    _stopped.append(stopped)
    raise stopped from cause


def end_if_stopped() -> None:
    """Raise Stopped again where other people's code caught it: ``except:``, ``__del__``."""
    if _stopped:
        raise _stopped[0]


_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Escape sequences begin with some; others turn the direction of text, or cannot be encoded."""


def shown(text: str, /) -> str:
    r"""Text of whatever origin, as a terminal may be given it: what would control it is spelt out.

    >>> print(shown("cell \x1b[31m\u202e"))
    cell \x1b[31m\u202e
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


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


def check_names(given: Iterable[str], known: Iterable[str], /, *, of: str) -> None:
    """Refuse the first name that is not one of ``known``.

    >>> check_names(["resize"], ("resize", "sign"), of="heat")
    """
    known = tuple(known)
    for name in given:
        if name not in known:
            raise ConfigError(f"{name!r} is no option of {of}. {did_you_mean(name, known)}")


def choose(value: str, known: Iterable[str], /, *, option: str) -> str:
    """``value`` if it is one of ``known``; else a ConfigError that names the option.

    >>> choose("linear", ("linear", "nearest"), option="resize")
    'linear'
    """
    known = tuple(known)
    if value not in known:
        raise ConfigError(f"{option}={value!r} is not a choice. {did_you_mean(value, known)}")
    return value
