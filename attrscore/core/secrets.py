"""What settings take from the environment: passwords, tokens, home folders. No file shows it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Hidden"]

LEAST = 4
"""Characters of what is hidden; shorter texts, and numbers, would be found everywhere."""


class Hidden:
    """Texts that were made with the environment -> what stands for them.

    >>> hidden = Hidden({"s3cret": "${oc.env:TOKEN}"})
    >>> hidden.text("cannot log in with s3cret")
    'cannot log in with ${oc.env:TOKEN}'
    """

    def __init__(self, environment: Mapping[str, str], /) -> None:
        longest_first = sorted(environment.items(), key=lambda pair: -len(pair[0]))
        self._shown = {made: shown for made, shown in longest_first if _is_telling(made)}

    def text(self, text: str, /) -> str:
        """Without them."""
        for made, shown in self._shown.items():
            text = text.replace(made, shown)
        return text

    def texts(self, value: Any, /) -> Any:
        """As :meth:`text`, for each text in a value."""
        return self._each(value, self.text)

    def identity(self, value: Any, /) -> Any:
        """Each text in a value that is one of them as what stands for it, with a digest of what it
        was: results are named by it.
        """  # noqa: D205  # one sentence
        return self._each(value, self._digested)

    def _digested(self, text: str) -> str:
        if text not in self._shown:
            return text
        return f"{self._shown[text]} {hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"

    def _each(self, value: Any, change: Callable[[str], str]) -> Any:
        if not self._shown:
            return value
        if isinstance(value, str):
            return change(value)
        if isinstance(value, Mapping):
            return {key: self._each(inner, change) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._each(inner, change) for inner in value]
        return value


def _is_telling(text: str) -> bool:
    return len(text) >= LEAST and not text.replace(".", "").replace("-", "").isdigit()
