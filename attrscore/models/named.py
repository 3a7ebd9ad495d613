"""Networks of the libraries transformers and timm by name, untrained unless weights are local.

Nothing is downloaded: an architecture is built from its configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from attrscore.core.contracts import InputSpec
from attrscore.core.registry import MODELS
from attrscore.errors import ConfigError, DataError, UnsupportedError, choose, did_you_mean
from attrscore.models.weights import initialise, outputs

__all__ = ["Timm", "Transformers"]

Head = Literal["classes", "features"]


@MODELS.register("transformers")
@dataclass(frozen=True, kw_only=True)
class Transformers:
    """An image network of the library transformers, 2D: ``architecture`` is vit, swin, resnet, ...

    ``config`` sets fields of its configuration, over those that the dataset fills (channels, image
    size, classes). ``weights`` is a folder of ``save_pretrained`` with its own configuration, read
    as safetensors, and then no architecture is needed; or a state dict of the network, as training
    here writes it: the names in the file of such a folder are others. The network returns
    logits (N, K); with ``head=features`` the pooled features, or where it pools none the mean of
    its tokens.

    :raises ConfigError: an unknown architecture, or none.
    :raises UnsupportedError: transformers is not installed, or 3D.
    """

    architecture: str | None = None
    """vit, swin, convnext, resnet, dinov2 ...; null: as a folder of save_pretrained says."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Fields of its configuration: +model.config.hidden_size=96; channels, image size, classes come
    from the dataset."""
    head: Head = "classes"
    """The pooled features, or the mean of the tokens."""
    classes: int | None = None
    """Outputs; null: as many as the dataset has classes."""
    seed: int = 0
    """Of the initialisation."""
    weights: str | None = None
    """A folder of save_pretrained, or a .safetensors or .pt/.pth state dict; null: untrained."""

    def __post_init__(self) -> None:
        choose(self.head, ("classes", "features"), option="head")

    def __call__(self, spec: InputSpec, /) -> nn.Module:
        """The network for a dataset, in eval mode."""
        try:
            import transformers
        except ModuleNotFoundError as error:
            raise _missing("transformers") from error
        _check_2d(spec, "transformers")
        folder = Path(self.weights).expanduser() if self.weights else None
        if folder is not None and folder.is_dir():
            made = initialise(
                lambda: self._read(transformers, folder), seed=self.seed, weights=None
            )
        else:
            config = self._configuration(transformers, spec)
            made = initialise(
                lambda: self._kind(transformers).from_config(config),
                seed=self.seed,
                weights=self.weights,
            )
        made.register_forward_hook(_logits if self.head == "classes" else _features)
        return made

    def _kind(self, library: Any) -> Any:
        return (
            library.AutoModelForImageClassification if self.head == "classes" else library.AutoModel
        )

    def _read(self, library: Any, folder: Path) -> nn.Module:
        if self.architecture is not None or self.config:
            raise ConfigError(
                f"The folder {folder} says its own architecture and configuration; leave "
                "model.architecture and model.config out."
            )
        try:
            model: nn.Module = self._kind(library).from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise DataError(
                f"{folder} is no folder of save_pretrained with safetensors: "
                f"{str(error).strip().splitlines()[0]}"
            ) from error
        return model

    def _configuration(self, library: Any, spec: InputSpec) -> Any:
        known = _architectures()
        if self.architecture is None:
            raise ConfigError(
                "Say model.architecture=vit (or another), or give a folder of save_pretrained as "
                "model.weights."
            )
        if self.architecture not in known:
            raise ConfigError(
                f"transformers has no image network {self.architecture!r}. "
                f"{did_you_mean(self.architecture, known)}"
            )
        plain = library.AutoConfig.for_model(self.architecture)
        height, width = spec.size
        filled: dict[str, Any] = {
            "num_channels": spec.channels,
            "image_size": height if height == width else [height, width],
        }
        filled = {name: value for name, value in filled.items() if hasattr(plain, name)}
        if self.head == "classes":
            filled["num_labels"] = outputs(spec, self.classes)
        for name in self.config:
            if not hasattr(plain, name):
                fields = [each for each in plain.to_dict() if not each.startswith("_")]
                raise ConfigError(
                    f"The configuration of {self.architecture} has no {name!r}. "
                    f"{did_you_mean(name, fields)}"
                )
        return library.AutoConfig.for_model(self.architecture, **{**filled, **self.config})


@MODELS.register("timm")
@dataclass(frozen=True, kw_only=True)
class Timm:
    """A network of the library timm, 2D: ``architecture`` is a name of ``timm.list_models()``.

    ``options`` are keywords of ``timm.create_model``, such as ``img_size``.

    :raises ConfigError: an unknown architecture.
    :raises UnsupportedError: timm, or the torchvision that it needs, cannot be loaded; or 3D.
    """

    architecture: str
    """A name of timm.list_models()."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of timm.create_model: +model.options.img_size=64."""
    classes: int | None = None
    """Outputs; null: as many as the dataset has classes."""
    seed: int = 0
    """Of the initialisation."""
    weights: str | None = None
    """Path of a .safetensors or .pt/.pth state dict; null: untrained."""

    def __call__(self, spec: InputSpec, /) -> nn.Module:
        """The network for a dataset, in eval mode."""
        try:
            import timm
        except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision of another torch
            raise _missing("timm", f" ({str(error).splitlines()[0]})") from error
        _check_2d(spec, "timm")
        if not timm.is_model(self.architecture):
            raise ConfigError(
                f"timm has no network {self.architecture!r}. "
                f"{did_you_mean(self.architecture, timm.list_models())}"
            )
        classes = outputs(spec, self.classes)

        def make() -> nn.Module:
            model: nn.Module = timm.create_model(
                self.architecture,
                pretrained=False,
                in_chans=spec.channels,
                num_classes=classes,
                **self.options,
            )
            return model

        return initialise(make, seed=self.seed, weights=self.weights)


def _architectures() -> list[str]:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as NAMES,
    )

    return sorted(NAMES)


def _logits(_network: nn.Module, _inputs: Any, output: Any) -> Tensor:
    logits: Tensor = output.logits
    return logits


def _features(_network: nn.Module, _inputs: Any, output: Any) -> Tensor:
    pooled = getattr(output, "pooler_output", None)
    if pooled is None:
        hidden: Tensor = output.last_hidden_state
        return hidden.mean(1) if hidden.ndim == 3 else hidden.flatten(2).mean(2)
    features: Tensor = pooled.flatten(1)
    return features


def _check_2d(spec: InputSpec, library: str) -> None:
    if spec.dimensions != 2:
        raise UnsupportedError(
            f"The networks of {library} are 2D, and the crops have {spec.dimensions} axes; use a "
            "network of MONAI, or model=factory."
        )


def _missing(package: str, why: str = "") -> UnsupportedError:
    return UnsupportedError(
        f"This model needs {package}, which cannot be loaded{why}: pip install "
        f'"attrscore[{package}]".'
    )
