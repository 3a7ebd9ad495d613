"""Models that come as a file with their code: TorchScript, and programs of ``torch.export``.

Their layers cannot be watched. Methods on the input that ask for gradients or perturb pixels give
the maps of the model that the file was made from; preflight says which others do not work.
"""

from __future__ import annotations

import pickle
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from attrscore.core.code import environment
from attrscore.core.contracts import InputSpec
from attrscore.core.model import unwrap
from attrscore.core.registry import MODELS
from attrscore.errors import DataError
from attrscore.models.weights import check_file


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
