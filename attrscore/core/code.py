"""Functions and classes by their path, as a user names them, and the text of code."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import os
import pkgutil
import re
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from attrscore.errors import ConfigError, did_you_mean, preview

_FILES_WITH_CODE = ("torchscript", "exported")
"""Models that come as a program in a file."""


def code_in(settings: Any, /, at: str = "") -> dict[str, tuple[str, str]]:
    """Settings that run code which is neither ours nor an installed plugin's.

    Path of the setting -> what it names, and what ``trust`` must name to let it run: a package, or
    the kind of file.

    >>> code_in({"model": {"name": "factory", "target": "nets.make"}, "trust": ["nets"]})
    {'model.target': ('nets.make', 'nets')}
    """
    found: dict[str, tuple[str, str]] = {}
    if isinstance(settings, (list, tuple)):
        settings = dict(enumerate(settings))
    if not isinstance(settings, Mapping):
        return found
    name = settings.get("name")
    for key, value in settings.items():
        path = f"{at}.{key}".lstrip(".")
        if key == "_target_" or (name == "factory" and key == "target"):
            found[path] = (str(value), re.split("[.:]", str(value))[0])
        elif name in _FILES_WITH_CODE and key == "weights":
            found[path] = (str(value), str(name))
        elif key == "allow_pickle" and value:
            found[path] = (str(value), key)
        else:
            found |= code_in(value, path)
    return found


@contextlib.contextmanager
def working_directory_importable() -> Iterator[None]:
    """Modules of the working directory can be imported; nothing installed is shadowed."""
    here = str(Path.cwd())
    if here in sys.path or "" in sys.path:
        yield
        return
    sys.path.append(here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)


@contextlib.contextmanager
def environment(name: str, value: str | None, /) -> Iterator[None]:
    """Inside, an environment variable has this value; None: there is none of that name."""
    before = os.environ.get(name)
    try:
        _set(name, value)
        yield
    finally:
        _set(name, before)


def _set(name: str, value: str | None) -> None:
    os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value


def resolve(target: str, /, *, makes: str) -> Any:
    """What ``mypackage.nets.make`` or ``mypackage.nets:make`` names, imported.

    :raises ConfigError: it cannot be imported, or is nothing that can be called; ``makes`` says
        what was expected of it.
    """
    module_part, colon, _ = target.partition(":")
    parts = target.replace(":", ".").split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ConfigError(
            f"target={target!r} is not the path of a callable; "
            "expected something like mypackage.nets.make."
        )
    most = len(module_part.split(".")) if colon else len(parts) - 1
    owner: Any = None
    depth = 0
    while depth < most:
        module = _import(".".join(parts[: depth + 1]), target)
        if module is None:
            break
        owner, depth = module, depth + 1
    if owner is None:
        raise ConfigError(
            f"target={target!r}: there is no module {parts[0]!r} in {Path.cwd()} or in this "
            "environment. Install its package, or start where it lies."
        )
    for part in parts[depth:]:
        if not hasattr(owner, part):
            name = getattr(owner, "__name__", repr(owner))
            raise ConfigError(
                f"target={target!r}: {name} has no {part!r}. {did_you_mean(part, _names(owner))}"
            )
        owner = getattr(owner, part)
        if inspect.ismodule(owner) and owner.__name__.split(".")[0] != parts[0]:
            raise ConfigError(
                f"target={target!r} reaches the module {owner.__name__} through {parts[0]}; "
                "give its own path."
            )
    if not callable(owner):
        raise ConfigError(
            f"target={target!r} is a {type(owner).__name__}; expected a function or a class that "
            f"makes a {makes}."
        )
    return owner


def arguments_of(
    target: Callable[..., Any],
    options: Mapping[str, Any],
    /,
    *,
    known: Mapping[str, Any],
    path: str,
    kind: str,
) -> dict[str, Any]:
    """Keywords for a target: the ``options``, and of ``known`` what it has a parameter for.

    :raises ConfigError: an option that it does not take, or a parameter that nothing fills;
        ``kind`` is the configuration group that says how to give one.
    """
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):  # written in C; its own TypeError must do
        return dict(options)
    filled = {name: value for name, value in known.items() if name in parameters} | dict(options)
    named = [p for p in parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [name for name in options if name not in {p.name for p in named}]
    if unknown and not takes_any:
        raise ConfigError(
            f"{path} has no parameter {unknown[0]!r}. "
            f"{did_you_mean(unknown[0], (p.name for p in named))}"
        )
    missing = [p.name for p in named if p.default is p.empty and p.name not in filled]
    if missing:
        raise ConfigError(
            f"{path} needs {preview(missing)}: +{kind}.options.{missing[0]}=... on the command "
            f"line, options={{{missing[0]!r}: ...}} in Python."
        )
    return filled


def _import(path: str, target: str) -> Any:
    """The module, or None where there is none of that name."""
    try:
        return importlib.import_module(path)
    except Exception as error:
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent is not None and f"{path}.".startswith(f"{absent}."):
            return None
        raise ConfigError(
            f"target={target!r}: {path} cannot be imported: {type(error).__name__}: {error}."
        ) from error


def _names(owner: Any) -> list[str]:
    names = {name for name in dir(owner) if not name.startswith("_")}
    if inspect.ismodule(owner):
        names |= {module.name for module in pkgutil.iter_modules(getattr(owner, "__path__", ()))}
    return sorted(names)


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
