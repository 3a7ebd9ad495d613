"""Any attribution class of ``captum.attr`` that explains an image model, by name."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import captum.attr
import numpy as np
import torch
from torch import Tensor, nn

from attrscore.core.contracts import INPUT, Maps
from attrscore.core.passes import Pass
from attrscore.core.registry import METHODS
from attrscore.errors import ConfigError, UnsupportedError, did_you_mean
from attrscore.methods.deep_lift import POOLS, DeepLift
from attrscore.methods.guided import check_guidable
from attrscore.methods.lrp import LRP

__all__ = ["FromCaptum"]

# Filled in by attrscore: the model, the layer, the inputs, and the target (kept by the pass).
_OURS = {
    "self", "forward_func", "model", "layer", "device_ids", "inputs", "target",
    "additional_forward_args", "return_convergence_delta", "kwargs",
}  # fmt: skip
_WRONG_KIND = ("Neuron", "LLM", "Remote", "DataLoader", "Perturbation")


def _candidates() -> dict[str, type]:
    """The classes that explain one scalar of one model: no neurons, texts or data loaders."""
    return {
        name: found
        for name, found in vars(captum.attr).items()
        if inspect.isclass(found)
        and issubclass(found, captum.attr.Attribution)
        and not name.startswith(_WRONG_KIND)
        and not name.endswith("Attribution")
        and {"forward_func", "model"} & set(inspect.signature(found).parameters)
    }


@METHODS.register("captum")
@dataclass(frozen=True)
class FromCaptum:
    """Any algorithm of ``captum.attr``, with its own options.

    >>> import attrscore
    >>> from attrscore.testing.samples import cells, net
    >>> method = FromCaptum("Occlusion", {"sliding_window_shapes": [2, 4, 4]})
    >>> (result,) = attrscore.run(net(), cells(), methods=method)
    >>> result.columns["grad_camo"].round(3)
    array([0.167, 0.158, 0.209, 0.134])

    Options of the
    constructor and of ``attribute`` are recognised by name, and lists become tuples. Layer
    algorithms run once a layer; the others give a map on the input. Cost, sign rule and limits are
    the algorithm's own. ``seed`` fixes what is drawn at random, so results can be repeated.

    :raises ConfigError: no such class, or an option that it does not have, with a suggestion.
    """

    algorithm: str
    """A class of captum.attr: Occlusion, LayerConductance, DeepLift, GradientShap ..."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of its constructor and of attribute(); add with +method.captum.options.NAME=VALUE."""
    seed: int = 0
    """Of what it draws at random."""

    def __post_init__(self) -> None:
        known = _candidates()
        if self.algorithm not in known:
            raise ConfigError(
                f"captum.attr has no algorithm {self.algorithm!r} that explains an image model. "
                f"{did_you_mean(self.algorithm, known)}"
            )
        accepted = self._parameters(known[self.algorithm]) | self._parameters(self._attribute)
        for option in self.options:
            if option not in accepted:
                raise ConfigError(
                    f"captum {self.algorithm} has no option {option!r}. "
                    f"{did_you_mean(option, accepted)}"
                )

    @property
    def explains(self) -> str:
        """``layers`` or INPUT."""
        parameters = inspect.signature(_candidates()[self.algorithm]).parameters
        return "layers" if "layer" in parameters else INPUT

    @property
    def needs_gradients(self) -> bool:
        """Whether it is no perturbation."""
        return not issubclass(_candidates()[self.algorithm], captum.attr.PerturbationAttribution)

    def __call__(self, run: Pass, /) -> Maps:
        """Layer, or INPUT -> (N, C, *s)."""
        algorithm = _candidates()[self.algorithm]
        layers: Mapping[str, nn.Module | None] = {INPUT: None}
        if self.explains == "layers":
            layers = run.layers
        if not layers:
            raise UnsupportedError(f"captum {self.algorithm} explains layers; none was chosen.")
        self._refuse(run)
        additional = run.additional  # computed before Captum hooks the model
        with run.prepared():
            torch.manual_seed(self.seed)
            np.random.seed(self.seed)  # noqa: NPY002  # Captum draws from it
            return {
                name: self._attribute_at(algorithm, run, name, layer, additional)
                for name, layer in layers.items()
            }

    def _refuse(self, run: Pass) -> None:
        """The models of which Captum would give a wrong map in silence."""
        if "Guided" in self.algorithm or self.algorithm == "Deconvolution":
            with run.prepared():
                check_guidable(run)
        elif "DeepLift" in self.algorithm:
            DeepLift().check(run)
            if any(isinstance(module, POOLS) for module in run.model.modules()):
                raise UnsupportedError(
                    f"captum {self.algorithm} passes on wrong gradients where max pooling and an "
                    "activation follow each other; use deep_lift, which puts that right."
                )
        elif "LRP" in self.algorithm:
            LRP().check(run)

    def _attribute_at(
        self,
        algorithm: type,
        run: Pass,
        name: str,
        layer: nn.Module | None,
        additional: tuple[Tensor, ...],
    ) -> Tensor:
        options = {name: _plain(value) for name, value in self.options.items()}
        own = {name: options.pop(name) for name in self._parameters(algorithm) & set(options)}
        explainer = algorithm(run.explained, *([] if layer is None else [layer]), **own)
        inputs = run.batch.inputs.detach().clone().requires_grad_()
        if "baselines" in self._parameters(self._attribute):
            # Some algorithms want a tensor, and GradientShap has no default.
            baselines = options.get("baselines", 0.0)
            if isinstance(baselines, int | float):
                options["baselines"] = torch.full_like(inputs, float(baselines)).detach()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Setting (backward|forward)")
            signed = explainer.attribute(inputs, additional_forward_args=additional, **options)
        if isinstance(signed, tuple) and len(signed) == 1:
            signed = signed[0]
        if layer is not None and isinstance(signed, Tensor):
            signed = run.to_grid(name, signed)
        if (
            not isinstance(signed, Tensor)
            or signed.ndim != inputs.ndim
            or len(signed) != len(inputs)
        ):
            got = tuple(signed.shape) if isinstance(signed, Tensor) else type(signed).__name__
            raise UnsupportedError(
                f"captum {self.algorithm} returned {got}; expected one map (N, C, *s) with N = "
                f"{len(inputs)} and {inputs.ndim - 2} spatial axes."
            )
        return signed.detach()

    @property
    def _attribute(self) -> Any:
        return _candidates()[self.algorithm].attribute  # type: ignore[attr-defined]  # Captum's

    @staticmethod
    def _parameters(of: Any) -> set[str]:
        return set(inspect.signature(of).parameters) - _OURS


def _plain(value: Any) -> Any:
    """A list of the configuration as the tuple that Captum wants."""
    return tuple(_plain(item) for item in value) if isinstance(value, list | tuple) else value
