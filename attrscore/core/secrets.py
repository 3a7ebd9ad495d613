"""What settings take from the environment: passwords, tokens, home folders. No file shows it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

LEAST = 4
"""Characters of what is hidden; shorter texts would be found everywhere."""


class Hidden:
    """Texts that were made with the environment -> what stands for them.

    >>> hidden = Hidden({"s3cret": "${oc.env:TOKEN}", "2024": "${oc.env:PIN}"})
    >>> hidden.text("cannot log in with s3cret, 2024, at 120243")
    'cannot log in with ${oc.env:TOKEN}, ${oc.env:PIN}, at 120243'
    """

    def __init__(self, environment: Mapping[str, str], /) -> None:
        longest_first = sorted(environment.items(), key=lambda pair: -len(pair[0]))
        self._shown = {made: shown for made, shown in longest_first if len(made) >= LEAST}
        forms = {form: shown for made, shown in self._shown.items() for form in _forms(made)}
        self._forms = [(re.compile(_pattern(form)), shown) for form, shown in forms.items()]

    def text(self, text: str, /) -> str:
        """Without them."""
        for form, shown in self._forms:
            text = form.sub(lambda _, shown=shown: shown, text)  # type: ignore[misc]  # a default binds it
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


def _forms(made: str) -> list[str]:
    """A text as it is, and as messages and JSON quote it."""
    return [made, repr(made)[1:-1], json.dumps(made)[1:-1]]


def _pattern(form: str) -> str:
    """Digits alone are no part of a longer number."""
    if re.fullmatch(r"[-.\d]+", form):
        return rf"(?<![\d.]){re.escape(form)}(?![\d.]*\d)"
    return re.escape(form)
