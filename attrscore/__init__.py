"""Does the network look at the cell? Attribution methods and Grad-CAMO scores, 2D and 3D.

Names are imported when they are used, so that ``import attrscore`` and reading results load
neither torch nor captum nor matplotlib.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attrscore.core import INPUT, Batch, InputSpec, Result
    from attrscore.engine import run
    from attrscore.errors import AttrscoreError, AttrscoreWarning
    from attrscore.gather import evaluate
    from attrscore.heat import Heat, HeatOptions
    from attrscore.passes import Pass
    from attrscore.registry import DATASETS, METHODS, MODELS, SCORERS, TARGETS
    from attrscore.store import collect, read_maps, read_scores
    from attrscore.tuning import tune

_HOMES = {
    "AttrscoreError": "errors",
    "AttrscoreWarning": "errors",
    "Batch": "core",
    "DATASETS": "registry",
    "Heat": "heat",
    "HeatOptions": "heat",
    "INPUT": "core",
    "InputSpec": "core",
    "METHODS": "registry",
    "MODELS": "registry",
    "Pass": "passes",
    "Result": "core",
    "SCORERS": "registry",
    "TARGETS": "registry",
    "collect": "store",
    "evaluate": "gather",
    "read_maps": "store",
    "read_scores": "store",
    "run": "engine",
    "tune": "tuning",
}

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
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"attrscore.{_HOMES[name]}"), name)
    # Submodules, so that attrscore.scorers.mask_ratio works after `import attrscore`.
    if name in {
        "datasets",
        "methods",
        "models",
        "plots",
        "pool",
        "preflight",
        "scorers",
        "stats",
    }:
        return importlib.import_module(f"attrscore.{name}")
    raise AttributeError(f"module 'attrscore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
