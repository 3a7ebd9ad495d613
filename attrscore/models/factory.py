"""Any network, from a callable that can be imported."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from attrscore.core import InputSpec
from attrscore.errors import ConfigError, did_you_mean, preview
from attrscore.models.weights import initialise
from attrscore.registry import MODELS

__all__ = ["Factory"]


@MODELS.register("factory")
@dataclass(frozen=True, kw_only=True)
class Factory:
    """The network that ``target``, a function or class, returns for ``options``.

    ``mypackage.nets.make`` and ``mypackage.nets:make`` both work, also for a module in the working
    directory. Parameters called ``channels``, ``classes``, ``dimensions``, ``size`` or ``spec``
    (an InputSpec) are filled from the dataset unless ``options`` has them. Importing and calling
    the target runs its code.

    :raises ConfigError: a target that cannot be imported, options that it does not take, or
        something else than a network returned.
    """

    target: str
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    weights: str | None = None

    def __call__(self, spec: InputSpec, /) -> nn.Module:
        """The network for a dataset, in eval mode."""
        with _working_directory_importable():
            target = _resolve(self.target)
            arguments = _arguments(target, self.options, spec, self.target)
            return initialise(
                lambda: self._make(target, arguments), seed=self.seed, weights=self.weights
            )

    def _make(self, target: Callable[..., Any], arguments: Mapping[str, Any]) -> nn.Module:
        try:
            model = target(**arguments)
        except Exception as error:
            error.add_note(
                f"while calling {self.target}({', '.join(arguments)}) for model 'factory'"
            )
            raise
        if not isinstance(model, nn.Module):
            kind = f"the class {model.__name__}" if inspect.isclass(model) else type(model).__name__
            raise ConfigError(
                f"{self.target} returned {kind}; expected a network, an instance of "
                "torch.nn.Module."
            )
        return model


@contextlib.contextmanager
def _working_directory_importable() -> Iterator[None]:
    here = str(Path.cwd())
    if here in sys.path or "" in sys.path:
        yield
        return
    sys.path.append(here)  # last, so that nothing installed is shadowed
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)


def _resolve(target: str) -> Callable[..., Any]:
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
    if isinstance(owner, nn.Module) or not callable(owner):
        raise ConfigError(
            f"target={target!r} is a {type(owner).__name__}; expected a function or a class that "
            "makes a network."
        )
    return owner  # type: ignore[no-any-return]  # callable, checked above


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


def _arguments(
    target: Callable[..., Any], options: Mapping[str, Any], spec: InputSpec, path: str
) -> dict[str, Any]:
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):  # written in C; its own TypeError must do
        return dict(options)
    known = {
        "channels": spec.channels,
        "dimensions": spec.dimensions,
        "size": spec.size,
        "spec": spec,
    }
    if spec.classes:  # else unknown: the target's own default is better than 0
        known["classes"] = spec.classes
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
            f"{path} needs {preview(missing)}: +model.options.{missing[0]}=... on the command "
            f"line, options={{{missing[0]!r}: ...}} in Python."
        )
    return filled
