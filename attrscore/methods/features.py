"""Parts of a crop that are hidden as one: blocks, supervoxels, regions, instances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from attrscore.core.contracts import Batch
from attrscore.errors import ConfigError, choose
from attrscore.methods.options import PerAxis, check_per_axis, check_positive, check_whole, per_axis

__all__ = ["WithFeatures", "grid_blocks"]

_FEATURES = ("grid", "slic", "regions", "instances")
_SPREADS = ("share", "value")


@dataclass(frozen=True, kw_only=True)
class WithFeatures:
    """The options ``features``, ``size``, ``segments``, ``compactness`` and ``spread``.

    ``features`` are ``grid`` (blocks of ``size`` pixels, one number or one an axis), ``slic``
    (about ``segments`` supervoxels of scikit-image, as compact as ``compactness`` says),
    ``regions`` (what the batch's regions divide the crop into: cell, neighbours, the rest) or
    ``instances`` (the cell, each connected part of the neighbours, the rest). With ``spread=share``
    the value of a feature is divided among its pixels, so the map sums to the values; with
    ``value`` every pixel carries it, as Captum's maps do, and large features weigh more.
    """

    features: Literal["grid", "slic", "regions", "instances"] = "grid"
    size: PerAxis = 16
    segments: int = 64
    compactness: float = 0.1
    spread: Literal["share", "value"] = "share"

    def __post_init__(self) -> None:
        choose(self.features, _FEATURES, option="features")
        choose(self.spread, _SPREADS, option="spread")
        check_per_axis(self, "size")
        check_whole(self, "segments")
        check_positive(self, "compactness")

    def labels(self, batch: Batch, /) -> Tensor:
        """The feature of each pixel: (N, *S) int64, numbered from 0 without gaps in each crop.

        :raises ConfigError: ``slic`` without scikit-image.
        """
        if self.features == "grid":
            return (
                grid_blocks(batch.space, per_axis(self.size, len(batch.space), option="size"))
                .to(batch.inputs.device)[None]
                .expand(len(batch), *batch.space)
            )
        made = [self._of_crop(batch.rows(i, i + 1)) for i in range(len(batch))]
        return torch.from_numpy(np.stack(made)).to(batch.inputs.device)

    def _of_crop(self, one: Batch) -> np.ndarray:
        if self.features == "slic":
            parts = self._supervoxels(one.inputs[0])
        else:
            parts = np.zeros(one.space, dtype=np.int64)
            for name, region in one.regions.items():
                inside = (region[0] > 0.5).cpu().numpy()
                if self.features == "instances":
                    if name not in ("cell", "neighbours"):
                        continue
                    inside = inside if name == "cell" else ndimage.label(inside)[0]
                parts = parts * (int(inside.max()) + 1) + inside
        return np.unique(parts, return_inverse=True)[1].reshape(one.space).astype(np.int64)

    def _supervoxels(self, image: Tensor) -> np.ndarray:
        try:
            from skimage.segmentation import slic  # only where it is asked for
        except ImportError as error:
            raise ConfigError(
                "features=slic needs scikit-image: pip install scikit-image. Or use features=grid."
            ) from error
        flat = image.double().flatten(1)
        low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
        scaled = torch.where(high > low, (flat - low) / (high - low), 0.0).view(image.shape)
        parts: np.ndarray = slic(
            scaled.movedim(0, -1).cpu().numpy(),
            n_segments=self.segments,
            compactness=self.compactness,
            channel_axis=-1,
            convert2lab=False,
            start_label=0,
        )
        return parts

    def painted(self, values: Tensor, labels: Tensor, /) -> Tensor:
        """A map from the value of each feature: (N, F) and (N, *S) -> (N, 1, *S)."""
        flat = labels.flatten(1)
        if self.spread == "share":
            sizes = torch.zeros_like(values).scatter_add_(1, flat, torch.ones_like(flat).to(values))
            values = values / sizes.clamp(min=1)
        return values.gather(1, flat).view(len(labels), 1, *labels.shape[1:])


def grid_blocks(space: tuple[int, ...], size: tuple[int, ...], /) -> Tensor:
    """Regular blocks: *S int64, those at the far borders smaller.

    >>> grid_blocks((2, 3), (2, 2))
    tensor([[0, 0, 1],
            [0, 0, 1]])
    """
    numbers = torch.zeros(space, dtype=torch.int64)
    for axis, (extent, length) in enumerate(zip(space, size, strict=True)):
        shape = [1] * len(space)
        shape[axis] = extent
        along = torch.arange(extent) // length
        numbers = numbers * (int(along.max()) + 1) + along.view(shape)
    return numbers
