"""Does the model look at the cell? Attribution methods and Grad-CAMO scores, 2D and 3D.

Names are imported when they are used, so that ``import attrscore`` and reading results load
neither torch nor captum nor matplotlib.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from attrscore.core.contracts import INPUT, Batch, InputSpec, Result
    from attrscore.core.heat import Heat, HeatOptions
    from attrscore.core.passes import Pass
    from attrscore.core.registry import DATASETS, METHODS, MODELS, SCORERS, TARGETS
    from attrscore.engine.evaluate import evaluate
    from attrscore.engine.run import run
    from attrscore.errors import AttrscoreError, AttrscoreWarning
    from attrscore.store import collect, read_maps, read_scores

_HOMES = {
    "AttrscoreError": "errors",
    "AttrscoreWarning": "errors",
    "Batch": "core.contracts",
    "DATASETS": "core.registry",
    "Heat": "core.heat",
    "HeatOptions": "core.heat",
    "INPUT": "core.contracts",
    "InputSpec": "core.contracts",
    "METHODS": "core.registry",
    "MODELS": "core.registry",
    "Pass": "core.passes",
    "Result": "core.contracts",
    "SCORERS": "core.registry",
    "TARGETS": "core.registry",
    "collect": "store",
    "evaluate": "engine.evaluate",
    "read_maps": "store",
    "read_scores": "store",
    "run": "engine.run",
}

_ALIASES = {
    "plots": "report.figures",
    "pool": "engine.reading",
    "preflight": "engine.preflight",
    "readings": "core.readings",
    "registry": "core.registry",
}
"""Modules under a second name, by which plugins and notebooks of others import them."""

_ROOMS = ("datasets", "methods", "models", "scorers", "stats", "targets", "training")

__all__ = [
    "DATASETS",
    "INPUT",
    "METHODS",
    "MODELS",
    "SCORERS",
    "TARGETS",
    "AttrscoreError",
    "AttrscoreWarning",
    "Batch",
    "Heat",
    "HeatOptions",
    "InputSpec",
    "Pass",
    "Result",
    "collect",
    "evaluate",
    "read_maps",
    "read_scores",
    "run",
]


class _Alias(ModuleType):
    """A module under a second name, imported when something of it is first used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        home = importlib.import_module(f"attrscore.{_ALIASES[self.__name__.rpartition('.')[2]]}")
        return getattr(home, name)


for _name in _ALIASES:
    sys.modules[f"attrscore.{_name}"] = _Alias(f"attrscore.{_name}")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("attrscore")
    if name in _HOMES:
        return getattr(importlib.import_module(f"attrscore.{_HOMES[name]}"), name)
    if name in _ALIASES or name in _ROOMS:  # so that attrscore.scorers.mask_ratio works
        return importlib.import_module(f"attrscore.{name}")
    raise AttributeError(f"module 'attrscore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
