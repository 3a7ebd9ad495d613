"""Any model, from a callable that can be imported."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from attrscore.core.code import arguments_of, resolve, working_directory_importable
from attrscore.core.contracts import InputSpec
from attrscore.core.registry import MODELS
from attrscore.errors import ConfigError
from attrscore.models.weights import initialise


@MODELS.register("factory")
@dataclass(frozen=True, kw_only=True)
class Factory:
    """The model that ``target``, a function or class, returns for ``options``.

    ``mypackage.nets.make`` and ``mypackage.nets:make`` both work, also for a module in the working
    directory. Parameters called ``channels``, ``classes``, ``dimensions``, ``size`` or ``spec``
    (an InputSpec) are filled from the dataset unless ``options`` has them. Importing and calling
    the target runs its code.

    :raises ConfigError: a target that cannot be imported, options that it does not take, or
        something else than a model returned.
    """

    target: str
    """An importable function or class, such as mypackage.nets.make."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Its keywords; channels, classes, dimensions, size, spec come from the dataset."""
    seed: int = 0
    """Of the initialisation."""
    weights: str | None = None
    """Path of a .safetensors or .pt/.pth state dict; null: as the target returns it."""

    def __call__(self, spec: InputSpec, /) -> nn.Module:
        """The model for a dataset, in eval mode."""
        with working_directory_importable():
            target = _resolve(self.target)
            arguments = arguments_of(
                target, self.options, known=_known(spec), path=self.target, kind="model"
            )
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
                f"{self.target} returned {kind}; expected a model, an instance of torch.nn.Module."
            )
        return model


def _resolve(target: str) -> Callable[..., Any]:
    found: Callable[..., Any] = resolve(target, makes="model")
    if isinstance(found, nn.Module):
        raise ConfigError(
            f"target={target!r} is a {type(found).__name__}; expected a function or a class that "
            "makes a model."
        )
    return found


def _known(spec: InputSpec) -> dict[str, Any]:
    """What a target may ask for."""
    known = {
        "channels": spec.channels,
        "dimensions": spec.dimensions,
        "size": spec.size,
        "spec": spec,
    }
    # else unknown: the target's own default is better than 0
    return known | ({"classes": spec.classes} if spec.classes else {})
