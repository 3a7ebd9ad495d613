"""The options of plugins: what each is called, its default, its choices, and what it means.

They are read from the plugin itself: the fields of a dataclass and the string below each, or the
keyword-only parameters of a function. The configuration (``attrscore.cli.main.conf``), the help of
``attrscore plugins NAME`` and the registry all ask here.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import math
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from numbers import Integral, Real
from os import PathLike
from typing import Annotated, Any, TypeVar

from attrscore.errors import ConfigError, check_names, did_you_mean

__all__ = [
    "Option",
    "as_written",
    "defaults_of",
    "fits",
    "from_mapping",
    "options_of",
    "plain",
    "summary",
    "types_of",
    "words",
    "wrong_types",
]


T = TypeVar("T")


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
    return {
        name: tuple(map(str, typing.get_args(hint)))
        for name, hint in types_of(plugin).items()
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


def wrong_types(plugin: Callable[..., Any], options: Mapping[str, Any], /) -> Iterator[str]:
    """What is wrong with options that are not of their annotation's type, a sentence each.

    A number passes for text, since YAML makes numbers of digits: ``stains=[405,488]``.

    >>> def share(heat, run, /, *, count: int = 1): ...
    >>> list(wrong_types(share, {"count": 1.5}))
    ['count=1.5 must be a whole number.']
    """
    hints = types_of(plugin)
    for name, value in options.items():
        hint = hints.get(name, Any)
        if fits(value, hint) or fits(_as_text(value), hint):
            continue
        if typing.get_origin(hint) is typing.Literal:
            yield f"{name}={value!r} is not a choice. {did_you_mean(value, typing.get_args(hint))}"
        else:
            yield f"{name}={as_written(value)} must be {words(hint)}."


def from_mapping(kind: type[T], given: object, /, *, of: str) -> T:
    """An options class from a mapping of its options, or as it is; None stands for the defaults.

    :raises ConfigError: neither, or an option that it has not or of another type.
    """
    if isinstance(given, kind):
        return given
    known = defaults_of(kind)
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"{of}={given!r} must be a mapping of {', '.join(known)}.")
    options = dict(given or {})
    check_names(options, known, of=of)
    for wrong in wrong_types(kind, options):
        raise ConfigError(f"{of}.{wrong}")
    return kind(**options)


def types_of(plugin: Callable[..., Any], /) -> dict[str, Any]:
    """Option -> its annotation; none where they cannot be read."""
    plain = inspect.isclass(plugin) and not is_dataclass(plugin)
    try:
        return typing.get_type_hints(plugin.__init__ if plain else plugin)
    except (NameError, TypeError):  # annotations of names that are there for checkers only
        return {}


def _as_text(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_as_text(each) for each in value]
    return str(value) if type(value) in (int, float) else value


def fits(value: Any, hint: Any, /) -> bool:
    """Whether a value is of a type, as far as that can be seen."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        base, least, most = inner
        return fits(value, base) and least <= value <= most
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each) for each in inner)
    if origin is typing.Literal:
        return any(value == each and type(value) is type(each) for each in inner)
    if Mapping in (origin, hint) or dict in (origin, hint):
        return isinstance(value, Mapping)
    if origin in (Sequence, list, tuple):
        listed = isinstance(value, (list, tuple))
        return listed and all(fits(each, inner[0]) for each in value)
    if hint in (None, type(None)):
        return value is None
    if hint is float:
        number = isinstance(value, Real) and not isinstance(value, bool)
        return number and math.isfinite(value)
    if hint is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, (str, PathLike))
    return isinstance(value, bool) if hint is bool else True


def words(hint: Any, /) -> str:
    """What a type admits, for people.

    >>> words(Annotated[int, 1, 2**31] | None)
    'a whole number from 1 or null'
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        base, least, most = inner
        above = "more than 0" if 0 < least < 1 else f"from {least}"
        return f"{words(base)} {above}" + (f" to {most}" if most < 2**31 else "")
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(words, inner)))
    if origin is typing.Literal:
        return " | ".join(map(str, inner))
    if origin in (Sequence, list, tuple):
        return f"a list of {words(inner[0])}: [...]"
    known = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    return known.get(hint, "null" if hint in (None, type(None)) else "a mapping: {...}")


def as_written(value: Any, /) -> str:
    """As it was written."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
