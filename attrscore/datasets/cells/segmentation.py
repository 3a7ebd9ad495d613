"""Label images where none exist: made by a threshold, or by Cellpose. They are estimates."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from attrscore.datasets.images.files import digest_of
from attrscore.errors import ConfigError, DataError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Otsu:
    """Bright objects of one channel, by a threshold and a watershed.

    The channel is smoothed with a Gaussian of ``smooth`` pixels (of the finest axis, so that all
    axes are smoothed alike in micrometres). What lies above the threshold of Otsu (IEEE
    Transactions on Systems, Man, and Cybernetics 1979), holes filled, is divided along the
    watershed of its distance to the background, from maxima that lie at least half a ``diameter``
    (in the same pixels) apart; without a diameter, as far as the median piece is deep. Objects in
    which not even a disc of ``smooth`` pixels fits are dropped.

    No person has looked at what comes out. Dim cells beside bright ones, and cells that touch
    without a waist, are beyond it.
    """

    channels: tuple[int | str, ...] = (0,)
    smooth: float = 1.0
    diameter: float | None = None

    package: ClassVar[str] = "scikit-image"

    def __post_init__(self) -> None:
        if len(self.channels) != 1:
            raise ConfigError(
                f"segment_channels={list(self.channels)}: otsu takes one channel, that in which "
                "the cells are bright, such as [0]."
            )
        _check_positive("segment_diameter", self.diameter)
        if not self.smooth >= 0:
            raise ConfigError(f"segment_smooth={self.smooth} must be a number of pixels, or 0.")
        _imported("skimage", "masks=otsu", "otsu")

    def __call__(
        self, pixels: NDArray[Any], /, *, spacing: tuple[float, ...] | None, name: str
    ) -> NDArray[np.int32]:
        """Labels *S of a field (1, *S) whose channel is ``channels``."""
        from skimage.feature import peak_local_max
        from skimage.filters import threshold_otsu
        from skimage.segmentation import watershed

        image = pixels[0].astype(np.float32)
        steps = np.array(spacing or (1.0,) * image.ndim)
        steps = steps / steps.min()  # of each axis, in pixels of the finest
        image = ndimage.gaussian_filter(image, self.smooth / steps)
        if image.min() == image.max():
            raise DataError(f"'{name}' is the same everywhere, so masks=otsu finds no cell in it.")
        bright = ndimage.binary_fill_holes(image > threshold_otsu(image))
        depth = ndimage.distance_transform_edt(bright, sampling=steps)
        pieces, count = ndimage.label(bright)
        deepest = ndimage.maximum(depth, pieces, np.arange(1, count + 1))
        apart = (self.diameter or 2 * float(np.median(deepest))) / 2
        reach = np.maximum(apart / steps, 1).astype(int)
        peaks = peak_local_max(
            ndimage.gaussian_filter(depth, self.smooth / steps),
            min_distance=int(reach.min()),
            footprint=np.ones(2 * reach + 1, bool),
            threshold_abs=max(self.smooth, 0.5),
            exclude_border=False,
        )
        markers = np.zeros(image.shape, np.int32)
        markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
        labels: NDArray[np.int32] = watershed(-depth, markers, mask=bright).astype(np.int32)
        return labels


@dataclass(frozen=True, kw_only=True)
class Cellpose:
    """Cells as Cellpose finds them (Pachitariu, Rariden and Stringer, bioRxiv 2025): version 4.

    ``channels`` are one to three of the field's, in any order; ``diameter`` is that of a cell in
    pixels, where it is far from 30. ``model`` is the file of one, or a name that Cellpose
    knows, whose weights it then downloads, more than a gigabyte, if they are not there.
    """

    channels: tuple[int | str, ...] = (0,)
    diameter: float | None = None
    model: str = "cpsam_v2"

    package: ClassVar[str] = "cellpose"

    def __post_init__(self) -> None:
        if not 1 <= len(self.channels) <= 3:
            raise ConfigError(
                f"segment_channels={list(self.channels)}: cellpose takes one to three channels."
            )
        _check_positive("segment_diameter", self.diameter)
        models = _imported("cellpose.models", "masks=cellpose", "cellpose")
        known = [*models.MODEL_NAMES, *models.get_user_models()]
        # of an unknown name Cellpose makes its default model, and says so in a log alone
        if self.model not in known and not Path(self.model).expanduser().is_file():
            raise ConfigError(
                f"segment_model='{self.model}' is neither a file nor a model that Cellpose "
                f"knows. {did_you_mean(self.model, known)}"
            )

    def __call__(
        self, pixels: NDArray[Any], /, *, spacing: tuple[float, ...] | None, name: str
    ) -> NDArray[np.int32]:
        """Labels *S of a field (C, *S) whose channels are ``channels``."""
        volume = pixels.ndim == 4
        options: dict[str, Any] = {"channel_axis": -1, "diameter": self.diameter}
        if volume:
            options |= {"z_axis": 0, "do_3D": True}
        if volume and spacing is not None:
            options["anisotropy"] = spacing[0] / spacing[1]
        labels = self._loaded.eval(np.moveaxis(pixels, 0, -1), **options)[0]
        if labels.shape != pixels.shape[1:]:
            raise DataError(
                f"Cellpose returned {labels.shape} for '{name}'; expected {pixels.shape[1:]}."
            )
        return np.asarray(labels, np.int32)

    @cached_property
    def _loaded(self) -> Any:
        import torch

        models = importlib.import_module("cellpose.models")
        file = Path(self.model).expanduser()
        return models.CellposeModel(
            gpu=torch.cuda.is_available(),
            pretrained_model=str(file) if file.is_file() else self.model,
        )

    def __getstate__(self) -> dict[str, Any]:
        return asdict(self)  # a worker process loads it itself, if it needs it


Segmenter = Otsu | Cellpose
SEGMENTERS: dict[str, Callable[..., Segmenter]] = {"otsu": Otsu, "cellpose": Cellpose}


def identity(segmenter: Segmenter, /) -> dict[str, Any]:
    """What labels came from: options, the file of a model by its content, the package's version."""
    found = {"by": type(segmenter).__name__.lower(), **asdict(segmenter)}
    file = Path(found.get("model", "")).expanduser()
    if file.is_file():
        found["model"] = f"{file.name} {digest_of(file).hex()[:16]}"
    try:
        found[segmenter.package] = version(segmenter.package)
    except PackageNotFoundError:
        found[segmenter.package] = "of unknown version"
    return found


def _check_positive(option: str, value: float | None) -> None:
    if value is not None and not value > 0:
        raise ConfigError(f"{option}={value} must be a positive number of pixels, or null.")


def _imported(module: str, what: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{what} needs a package that is not installed ({error}): "
            f"pip install 'attrscore[{extra}]'."
        ) from error
