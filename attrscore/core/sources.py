"""The text of code: of classes and functions, and of what they call that is not a library's."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

__all__ = ["is_plain", "text_of"]

_STANDS_STILL = ("torch", "numpy", "builtins")


def text_of(things: Iterable[Any], /) -> str:
    """The source of these classes and functions, of their bases, and of the functions, classes and
    constants that they name, as far as these are of the same packages or of no installed one.

    What is found by another way than its name (``getattr``, a table of functions) is not seen, nor
    what has no source.
    """  # noqa: D205  # one sentence
    todo = [inner for thing in things for inner in _unwrapped(thing)]
    homes = {_top(thing) for thing in todo}
    texts: dict[str, str] = {}
    while todo:
        thing = todo.pop()
        name = f"{thing.__module__}.{thing.__qualname__}"
        if name in texts or not _is_own(thing, homes):
            continue
        texts[name] = _source(thing)
        for called, value in _named(thing):
            if is_plain(value):
                texts[f"{name}:{called}"] = repr(value)
            else:
                todo += _unwrapped(value)
    return "\n".join(f"{name}\n{text}" for name, text in sorted(texts.items()))


def is_plain(value: Any, /) -> bool:
    """Whether a value is a number, a flag, a word, or a tuple or list of such, and no path."""
    if isinstance(value, (tuple, list)):
        return all(map(is_plain, value))
    if isinstance(value, str):
        return "/" not in value and "\\" not in value
    return value is None or isinstance(value, (bool, int, float))


def _unwrapped(thing: Any) -> list[Any]:
    """The classes and functions behind a value; of a class, its bases too."""
    if isinstance(thing, functools.partial):
        return [part for each in (thing.func, *thing.args) for part in _unwrapped(each)]
    if isinstance(thing, (MethodType, staticmethod, classmethod)):
        return _unwrapped(thing.__func__)
    if isinstance(thing, property):
        return [part for each in (thing.fget, thing.fset) for part in _unwrapped(each)]
    if isinstance(thing, type):
        return [base for base in thing.__mro__ if base is not object]
    if isinstance(thing, FunctionType):
        inner = getattr(thing, "__wrapped__", None)
        return [thing, *(_unwrapped(inner) if inner is not None else ())]
    return []


def _named(thing: Any) -> Iterator[tuple[str, Any]]:
    """What a class or function names, and its value."""
    if isinstance(thing, type):
        for member in vars(thing).values():
            for function in _unwrapped(member):
                if isinstance(function, FunctionType):
                    yield from _named(function)
        return
    names = {name for code in _codes(thing.__code__) for name in code.co_names}
    for name in sorted(names):
        value = thing.__globals__.get(name)
        if isinstance(value, ModuleType):
            yield from ((name, vars(value)[of]) for of in sorted(names & vars(value).keys()))
        elif value is not None:
            yield name, value
    for name, cell in zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # not filled yet
            yield name, cell.cell_contents
    for default in (*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()):
        if not is_plain(default):
            yield "", default


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _codes(inner)


def _top(thing: Any) -> str:
    return str(thing.__module__).partition(".")[0]


def _is_own(thing: Any, homes: set[str]) -> bool:
    top = _top(thing)
    if top in _STANDS_STILL:
        return False
    return top in homes or (top != "attrscore" and _is_loose(top))


@functools.cache
def _is_loose(package: str) -> bool:
    """Whether a package is a folder of the user's rather than installed or Python's own."""
    file = getattr(sys.modules.get(package), "__file__", None)
    if file is None or package in sys.stdlib_module_names:
        return package == "__main__"
    paths = sysconfig.get_paths()
    installed = {Path(paths[name]).resolve() for name in ("stdlib", "purelib", "platlib")}
    folders = set(Path(file).resolve().parents)
    return installed.isdisjoint(folders) and not any(f.name == "site-packages" for f in folders)


def _source(thing: Any) -> str:
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):
        return ""
