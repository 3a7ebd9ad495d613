"""The options of plugins: what each is called, its default, its choices, and what it means.

They are read from the plugin itself: the fields of a dataclass and the string below each, or the
keyword-only parameters of a function. The configuration (``attrscore.cli.main.conf``), the help of
``attrscore plugins NAME`` and the registry all ask here.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

__all__ = ["Option", "defaults_of", "options_of", "plain", "summary"]


@dataclass(frozen=True)
class Option:
    """One option of a plugin."""

    name: str
    default: Any
    """``inspect.Parameter.empty`` where the option is required."""
    choices: tuple[str, ...] = ()
    """All values that it can have, where its annotation lists them."""
    text: str = ""
    """What it means, without a full stop."""

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is inspect.Parameter.empty

    @property
    def help(self) -> str:
        """Its choices and what it means, in one line."""
        known, text = " | ".join(self.choices), self.text
        if not (known and text):
            return known or text
        return f"{known}: {text[0].lower() if text[1].islower() else text[0]}{text[1:]}"


def options_of(plugin: Callable[..., Any], /) -> dict[str, Option]:
    """The options of a class or function by name, in the order of its signature.

    >>> def share(heat, run, /, *, region: str = "cell"): ...
    >>> options_of(share)
    {'region': Option(name='region', default='cell', choices=(), text='')}
    """
    choices, texts = _choices(plugin), _texts(plugin)
    return {
        name: Option(name, default, choices.get(name, ()), texts.get(name, ""))
        for name, default in defaults_of(plugin).items()
    }


def defaults_of(plugin: Callable[..., Any], /) -> dict[str, Any]:
    """Option -> its default, ``inspect.Parameter.empty`` where it is required."""
    parameters = inspect.signature(plugin).parameters.values()
    if inspect.isclass(plugin):
        known = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    else:
        known = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    made = {  # the signature shows a sentinel for these
        each.name: each.default_factory()
        for each in (fields(plugin) if is_dataclass(plugin) else ())
        if each.default_factory is not MISSING
    }
    return {p.name: made.get(p.name, p.default) for p in known}


def summary(plugin: Callable[..., Any], /) -> str:
    """The first sentence of what a plugin says of itself, without a full stop."""
    first = (inspect.getdoc(plugin) or "").partition("\n\n")[0]
    return _line(first)


def plain(text: str, /) -> str:
    """A docstring for people at a terminal, without the markup of roles, code and errors.

    >>> plain("See :func:`attrscore.scorers.mask_ratio` and ``auc``.")
    'See mask_ratio and auc.'
    """
    text = re.sub(r"(?m)^:raises (\w+):", r"Raises \1:", text)
    text = re.sub(r":mod:`([\w.]+)`", r"\1", text)
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", text)
    return re.sub(r"``(.+?)``", r"\1", text, flags=re.DOTALL)


def _line(text: str) -> str:
    """In one line, without a full stop."""
    text = plain(" ".join(text.split()))
    return text if text.endswith("..") else text.removesuffix(".")


def _choices(plugin: Callable[..., Any]) -> dict[str, tuple[str, ...]]:
    try:
        hints = typing.get_type_hints(plugin)
    except (NameError, TypeError):  # annotations of names that are there for checkers only
        return {}
    return {
        name: tuple(map(str, typing.get_args(hint)))
        for name, hint in hints.items()
        if typing.get_origin(hint) is typing.Literal
    }


def _texts(plugin: Callable[..., Any]) -> Mapping[str, str]:
    """Field -> the string below it, of a class and its bases."""
    found: dict[str, str] = {}
    for each in reversed(plugin.__mro__) if inspect.isclass(plugin) else ():
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(each)))
        except (OSError, TypeError, SyntaxError):  # built in, or written at a prompt
            continue
        (made,) = tree.body
        body = getattr(made, "body", [])
        for line, below in itertools.pairwise(body):
            if (
                isinstance(line, ast.AnnAssign)
                and isinstance(line.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                found[line.target.id] = _line(below.value.value)
    return found
