"""Any model: from a callable that can be imported, or from a file that holds its code.

The layers of the latter, TorchScript and programs of ``torch.export``, cannot be watched. Methods
on the input that ask for gradients or perturb pixels give the maps of the model that the file was
made from; preflight says which others do not work.
"""

from __future__ import annotations

import inspect
import pickle
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from attrscore.core.code import (
    arguments_of,
    environment,
    resolve,
    working_directory_importable,
)
from attrscore.core.contracts import InputSpec
from attrscore.core.model import unwrap
from attrscore.core.registry import MODELS
from attrscore.errors import ConfigError, DataError
from attrscore.models.weights import check_file, initialise


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


@MODELS.register("torchscript")
@dataclass(frozen=True, kw_only=True)
class TorchScript:
    """The model in a file of ``torch.jit.save``; channels and classes are those it was made with.

    Such a file is a program: take it from people whom you trust.

    :raises DataError: no such file, or another kind of file.
    """

    weights: str
    """Path of the file."""

    def __call__(self, _spec: InputSpec, /) -> nn.Module:
        """The model, in eval mode."""
        file = check_file(self.weights)
        try:
            model = torch.jit.load(str(file), map_location="cpu")  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError) as error:
            raise DataError(
                f"{file} is damaged, or is no file of torch.jit.save: {_first(error)}"
            ) from error
        return unwrap(model).eval()


@MODELS.register("exported")
@dataclass(frozen=True, kw_only=True)
class Exported:
    """The model in a file of ``torch.export.save`` (.pt2), in the mode it was exported in.

    Its axis of cells must be dynamic. Pickled objects in it are refused, yet reading such a file
    may run code: take it from people whom you trust.

    :raises DataError: no such file, another kind of file, or one with pickled objects.
    """

    weights: str
    """Path of the file."""

    def __call__(self, _spec: InputSpec, /) -> nn.Module:
        """The model."""
        file = check_file(self.weights)
        try:
            with environment("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the error says more
                program = torch.export.load(file)
        except pickle.UnpicklingError as error:
            raise DataError(
                f"{file} holds pickled objects, which would be run; export the model with plain "
                "tensors as its example inputs."
            ) from error
        except Exception as error:  # a broken file can break torch anywhere
            raise DataError(
                f"{file} is damaged, or is no file of torch.export.save (.pt2) that this torch "
                f"reads: {_first(error)}"
            ) from error
        model: Any = program  # unwrap() takes it out of its program
        return unwrap(model).eval()


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
