"""Models of the libraries MONAI, transformers and timm, untrained unless weights are local.

Nothing is downloaded. MONAI's are its own at its defaults, so state dicts trained there fit and
compute the same; only axes so short that MONAI's own model fails on them (the Z of a thin stack)
are treated otherwise: see ``_spare_short_axes`` and ``_pad_short_axes``. A library is imported when
one of its models is built.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from attrscore.core.contracts import InputSpec
from attrscore.core.registry import MODELS
from attrscore.errors import ConfigError, DataError, UnsupportedError, choose, did_you_mean, preview
from attrscore.models.weights import ModelOfClasses, initialise

Head = Literal["classes", "features"]


@MODELS.register("transformers")
@dataclass(frozen=True, kw_only=True)
class Transformers(ModelOfClasses):
    """An image model of the library transformers, 2D: ``architecture`` is vit, swin, resnet, ...

    ``config`` sets fields of its configuration, over those that the dataset fills (channels, image
    size, classes). The model returns logits (N, K); with ``head=features`` the pooled features, or
    where it pools none the mean of its tokens, and then every encoder of images can be built:
    dinov3_vit, clip_vision_model, siglip_vision_model, vit_mae and all others.

    ``weights`` is a folder of ``save_pretrained`` with its own configuration, read as safetensors,
    and then no architecture is needed (of a CLIP or SigLIP, its vision encoder); or a state dict of
    the model, as training here writes it: the names in the file of such a folder are others.
    Weights that a folder lacks are refused, but for a pooling layer, which is then not used.

    :raises ConfigError: an unknown architecture, or none.
    :raises DataError: a folder that is none of save_pretrained, or lacks weights.
    :raises UnsupportedError: transformers is not installed, or 3D.
    """

    architecture: str | None = None
    """vit, swin, resnet, dinov2, dinov3_vit ...; null: as a folder of save_pretrained says."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Fields of its configuration: +model.config.hidden_size=96; channels, image size, classes come
    from the dataset."""
    head: Head = "classes"
    """The pooled features, or the mean of the tokens."""
    weights: str | None = None
    """A folder of save_pretrained, or a .safetensors or .pt/.pth state dict; null: untrained."""

    def __post_init__(self) -> None:
        choose(self.head, ("classes", "features"), option="head")

    def __call__(self, spec: InputSpec, /) -> nn.Module:
        """The model for a dataset, in eval mode."""
        weights = None if self._folder else self.weights
        made = initialise(self._maker(spec), seed=self.seed, weights=weights)
        given = getattr(made, "main_input_name", "pixel_values")
        if given != "pixel_values":
            raise ConfigError(
                f"{type(made).__name__} of transformers is called with {given}, not with an image; "
                "use the vision encoder: model.architecture=clip_vision_model, of clip, say."
            )
        made.register_forward_hook(_logits if self.head == "classes" else _features)
        return made

    def _maker(self, spec: InputSpec) -> Callable[[], nn.Module]:
        try:
            import transformers
        except ModuleNotFoundError as error:
            raise _missing("transformers") from error
        _check_2d(spec, "transformers")
        if self._folder:
            return partial(self._read, transformers, self._folder)
        config = self._configuration(transformers, spec)
        return partial(self._kind(transformers).from_config, config)

    @property
    def _folder(self) -> Path | None:
        folder = Path(self.weights or "").expanduser()
        return folder if self.weights and folder.is_dir() else None

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
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            config = library.AutoConfig.from_pretrained(str(folder), **options)
            if self.head == "features":  # of image and text, what sees the image
                config = getattr(config, "vision_config", config)
            model, loaded = self._kind(library).from_pretrained(
                str(folder),
                config=config,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
        except (OSError, ValueError) as error:
            raise DataError(
                f"{folder} is no folder of save_pretrained with safetensors: "
                f"{str(error).strip().splitlines()[0]}"
            ) from error
        missing = sorted(loaded["missing_keys"])
        pooling = [name for name in missing if name.split(".")[0] == "pooler"]
        if self.head == "features" and pooling and pooling == missing:
            model.pooler = None
        elif missing:
            raise DataError(
                f"{folder} has no weights for {preview(missing)} of {type(model).__name__}, which "
                "would stay random; say model.head=features for a folder of an encoder without "
                "classes."
            )
        made: nn.Module = model
        return made

    def _configuration(self, library: Any, spec: InputSpec) -> Any:
        known, images = _architectures(self.head)
        if self.architecture is None:
            raise ConfigError(
                "Say model.architecture=vit (or another), or give a folder of save_pretrained as "
                "model.weights."
            )
        if self.architecture not in known:
            raise ConfigError(
                f"transformers has no image model {self.architecture!r}. "
                f"{did_you_mean(self.architecture, images)}"
            )
        plain = library.AutoConfig.for_model(self.architecture)
        height, width = spec.size
        filled: dict[str, Any] = {
            "num_channels": spec.channels,
            "image_size": height if height == width else [height, width],
        }
        if isinstance(getattr(plain, "image_size", None), list | tuple):
            filled["image_size"] = [height, width]
        filled = {name: value for name, value in filled.items() if hasattr(plain, name)}
        if self.head == "classes":
            filled["num_labels"] = self._outputs(spec)
        for name in self.config:
            if not hasattr(plain, name):
                fields = [each for each in plain.to_dict() if not each.startswith("_")]
                raise ConfigError(
                    f"The configuration of {self.architecture} has no {name!r}. "
                    f"{did_you_mean(name, fields)}"
                )
        try:
            return library.AutoConfig.for_model(self.architecture, **{**filled, **self.config})
        except Exception as error:  # its own validation
            raise ConfigError(
                f"The configuration of {self.architecture} does not take these fields: "
                f"{' '.join(str(error).split())}"
            ) from error


@MODELS.register("timm")
@dataclass(frozen=True, kw_only=True)
class Timm(ModelOfClasses):
    """A model of the library timm, 2D: ``architecture`` is a name of ``timm.list_models()``.

    ``options`` are keywords of ``timm.create_model``, such as ``img_size``.

    :raises ConfigError: an unknown architecture.
    :raises UnsupportedError: timm, or the torchvision that it needs, cannot be loaded; or 3D.
    """

    architecture: str
    """A name of timm.list_models()."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of timm.create_model: +model.options.img_size=64."""

    def _maker(self, spec: InputSpec) -> Callable[[], nn.Module]:
        try:
            import timm
        except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision of another torch
            raise _missing("timm", f" ({str(error).splitlines()[0]})") from error
        _check_2d(spec, "timm")
        if not timm.is_model(self.architecture):
            raise ConfigError(
                f"timm has no model {self.architecture!r}. "
                f"{did_you_mean(self.architecture, timm.list_models())}"
            )
        return partial(
            timm.create_model,
            self.architecture,
            pretrained=False,
            in_chans=spec.channels,
            num_classes=self._outputs(spec),
            **self.options,
        )


def _architectures(head: Head) -> tuple[Collection[str], list[str]]:
    """Names that can be built, and those of them that are listed as models of images."""
    from transformers.models.auto import modeling_auto

    classifiers = set(modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES)
    if head == "classes":
        return classifiers, sorted(classifiers)
    every = modeling_auto.MODEL_MAPPING_NAMES
    encoders = {name for name in every if name.endswith("_vision_model")}
    return every, sorted(encoders | set(modeling_auto.MODEL_FOR_IMAGE_MAPPING_NAMES))


def _logits(_model: nn.Module, _inputs: Any, output: Any) -> Tensor:
    logits: Tensor = output.logits
    return logits


def _features(_model: nn.Module, _inputs: Any, output: Any) -> Tensor:
    pooled = getattr(output, "pooler_output", None)
    if pooled is None:
        hidden: Tensor = output.last_hidden_state
        return hidden.mean(1) if hidden.ndim == 3 else hidden.flatten(2).mean(2)
    features: Tensor = pooled.flatten(1)
    return features


def _check_2d(spec: InputSpec, library: str) -> None:
    if spec.dimensions != 2:
        raise UnsupportedError(
            f"The models of {library} are 2D, and the crops have {spec.dimensions} axes; use a "
            "model of MONAI, or model=factory."
        )


def _missing(package: str, why: str = "") -> UnsupportedError:
    return UnsupportedError(
        f"This model needs {package}, which cannot be loaded{why}: pip install "
        f'"attrscore[{package}]".'
    )


RESNETS = ("10", "18", "34", "50", "101", "152", "200")
DENSENETS = ("121", "169", "201", "264")
EFFICIENTNETS = ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "l2")


@MODELS.register("monai_resnet")
@dataclass(frozen=True, kw_only=True)
class MonaiResNet(ModelOfClasses):
    """ResNet (He et al., CVPR 2016), activations ``nn.ReLU``, last grid 1/16 of the input.

    ``stem_stride`` 2 is the original stem and halves every grid.
    """

    depth: int = 18
    """10 | 18 | 34 | 50 | 101 | 152 | 200."""
    stem_kernel: int = 7
    """Of the first convolution."""
    stem_stride: int = 1
    """Of the first convolution; 2 halves every grid."""

    def __post_init__(self) -> None:
        choose(str(self.depth), RESNETS, option="depth")

    def _maker(self, spec: InputSpec) -> Callable[[], nn.Module]:
        return partial(
            getattr(_nets(), f"resnet{self.depth}"),
            pretrained=False,
            spatial_dims=spec.dimensions,
            n_input_channels=spec.channels,
            num_classes=self._outputs(spec),
            conv1_t_size=self.stem_kernel,
            conv1_t_stride=self.stem_stride,
        )


@MODELS.register("monai_densenet")
@dataclass(frozen=True, kw_only=True)
class MonaiDenseNet(ModelOfClasses):
    """DenseNet (Huang et al., CVPR 2017), activations ``nn.ReLU``, last grid 1/32 of the input."""

    depth: int = 121
    """121 | 169 | 201 | 264."""

    def __post_init__(self) -> None:
        choose(str(self.depth), DENSENETS, option="depth")

    def _maker(self, spec: InputSpec) -> Callable[[], nn.Module]:
        made = partial(
            getattr(_nets(), f"DenseNet{self.depth}"),
            spatial_dims=spec.dimensions,
            in_channels=spec.channels,
            out_channels=self._outputs(spec),
            pretrained=False,
        )
        return lambda: _spare_short_axes(made(), spec.size)


@MODELS.register("monai_efficientnet")
@dataclass(frozen=True, kw_only=True)
class MonaiEfficientNet(ModelOfClasses):
    """EfficientNet (Tan and Le, ICML 2019), activations SiLU, last grid 1/32 of the input.

    Guided methods refuse it, for want of ``nn.ReLU``.
    """

    variant: str = "b0"
    """b0 to b8, l2."""

    def __post_init__(self) -> None:
        choose(self.variant, EFFICIENTNETS, option="variant")

    def _maker(self, spec: InputSpec) -> Callable[[], nn.Module]:
        made = partial(
            _nets().EfficientNetBN,
            f"efficientnet-{self.variant}",
            pretrained=False,
            spatial_dims=spec.dimensions,
            in_channels=spec.channels,
            num_classes=self._outputs(spec),
        )
        return lambda: _pad_short_axes(made(), spec.size)


def _nets() -> Any:
    try:
        from monai.networks import nets
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "monai":
            raise
        raise UnsupportedError(
            'This model needs MONAI, which is not installed: pip install "attrscore[monai]".'
        ) from error
    return nets


def _spare_short_axes(model: Any, size: tuple[int, ...]) -> nn.Module:
    """Leave an axis that has shrunk to one pixel out of the pooling between dense blocks."""
    extents = tuple(-(-extent // 4) for extent in size)  # the stem halves twice, rounding up
    for name, module in model.features.named_children():
        if name.startswith("transition"):
            window = tuple(min(2, extent) for extent in extents)
            if min(window) == 1:
                module.pool.kernel_size = module.pool.stride = window
            extents = tuple(extent // w for extent, w in zip(extents, window, strict=True))
    made: nn.Module = model
    return made


def _pad_short_axes(model: Any, size: tuple[int, ...]) -> nn.Module:
    """Pad an axis that has become shorter than a kernel up to the kernel.

    MONAI fixes its "same" padding when it builds, for crops of 224 pixels or more, and fails on
    axes of 16 pixels or less.
    """
    blocks = [block for stack in model._blocks for block in stack]
    convolutions = [(model._conv_stem, model._conv_stem_padding)]
    convolutions += [(block._depthwise_conv, block._depthwise_conv_padding) for block in blocks]
    extents = list(size)
    for conv, padder in convolutions:
        padding = list(padder.padding)  # (before, after) an axis, the last axis first
        for axis, (kernel, stride) in enumerate(zip(conv.kernel_size, conv.stride, strict=True)):
            before = 2 * (len(size) - 1 - axis)
            padded = extents[axis] + sum(padding[before : before + 2])
            padding[before] += max(0, kernel - padded)
            extents[axis] = (max(padded, kernel) - kernel) // stride + 1
        padder.padding = tuple(padding)
    made: nn.Module = model
    return made
