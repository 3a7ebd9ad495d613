"""Functions and classes by their path, as a user's own code is named on the command line."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attrscore.errors import ConfigError, did_you_mean, preview

__all__ = ["arguments_of", "resolve", "working_directory_importable"]


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
