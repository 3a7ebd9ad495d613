"""What the score loses when a part of the crop is hidden. Needs no gradient."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attrscore.core.contracts import INPUT, Maps
from attrscore.core.passes import Pass
from attrscore.core.registry import METHODS
from attrscore.errors import ConfigError
from attrscore.methods.baselines import WithBaseline
from attrscore.methods.copies import check_chunk, values_at
from attrscore.methods.features import WithFeatures
from attrscore.methods.options import PerAxis, check_per_axis, per_axis

__all__ = ["FeatureAblation", "Occlusion"]


@METHODS.register("occlusion")
@dataclass(frozen=True, kw_only=True)
class Occlusion(WithBaseline):
    """What the score loses when a window is replaced by the baseline, averaged over windows.

    Signed: positive where hiding lowers the score. The window of ``window`` pixels, one number or
    one an axis, moves by ``stride`` pixels; a pixel gets the mean over the windows that cover it,
    all channels are hidden together. Costs one forward pass for each position, the product over
    axes of ceil((S - window) / stride) + 1, and one for the clean input; at most ``chunk`` copies
    of an input are in memory at once. Explains any network, gradients or not. Zeiler, Fergus, ECCV
    2014; numbers as Captum's ``Occlusion``.
    """

    explains: ClassVar[str] = INPUT
    window: PerAxis = 16
    stride: PerAxis = 8
    chunk: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_per_axis(self, "window", "stride")
        check_chunk(self.chunk)

    def check(self, run: Pass, /) -> None:
        """The clean input, and whether the windows fit."""
        self._windows(run.batch.space)
        run.value  # noqa: B018  # a property that computes

    def __call__(self, run: Pass, /) -> Maps:
        """INPUT -> (N, 1, *S)."""
        batch = run.batch
        windows = self._windows(batch.space)
        n, device = len(batch), batch.inputs.device
        rows = torch.arange(n, device=device).repeat(len(windows))

        def hidden(which: slice) -> Tensor:
            masks = torch.zeros(
                (which.stop - which.start, *batch.space), dtype=torch.bool, device=device
            )
            for mask, copy in zip(masks, range(which.start, which.stop), strict=True):
                mask[windows[copy // n]] = True
            return masks

        reference = self.reference(batch.inputs.detach())
        values = values_at(run, rows, hidden, reference, chunk=self.chunk)
        lost = run.value.double() - values.view(len(windows), n)
        total = torch.zeros((n, *batch.space), dtype=torch.float64, device=device)
        covered = torch.zeros(batch.space, dtype=torch.float64, device=device)
        for window, each in zip(windows, lost, strict=True):
            total[(slice(None), *window)] += each.view(-1, *[1] * len(batch.space))
            covered[window] += 1
        signed = torch.where(covered > 0, total / covered.clamp(min=1), 0.0)
        return {INPUT: signed[:, None].to(batch.inputs.dtype)}

    def _windows(self, space: tuple[int, ...]) -> list[tuple[slice, ...]]:
        sizes = per_axis(self.window, len(space), option="window")
        strides = per_axis(self.stride, len(space), option="stride")
        if any(size > extent for size, extent in zip(sizes, space, strict=True)):
            raise ConfigError(
                f"window={list(sizes)} is larger than the crops {list(space)}; "
                "choose a smaller one."
            )
        along = [
            [
                slice(start * stride, min(start * stride + size, extent))
                for start in range(-(-(extent - size) // stride) + 1)
            ]
            for size, stride, extent in zip(sizes, strides, space, strict=True)
        ]
        return list(itertools.product(*along))


@METHODS.register("feature_ablation")
@dataclass(frozen=True, kw_only=True)
class FeatureAblation(WithFeatures, WithBaseline):
    """What the score loses when one feature, a part of the crop, is replaced by the baseline.

    Signed: positive where hiding lowers the score. Features, their options and ``spread`` as
    :class:`attrscore.methods.features.WithFeatures`. Costs one forward pass for each feature, and
    one for the clean input; at most ``chunk`` copies of an input are in memory at once. Explains
    any network, gradients or not; features that matter only together share nothing, for which see
    ``kernel_shap``. After Zeiler, Fergus, ECCV 2014; numbers as Captum's ``FeatureAblation`` with
    ``spread=value``.
    """

    explains: ClassVar[str] = INPUT
    chunk: int | None = None

    def __post_init__(self) -> None:
        WithBaseline.__post_init__(self)
        WithFeatures.__post_init__(self)
        check_chunk(self.chunk)

    def check(self, run: Pass, /) -> None:
        """The clean input and its features."""
        self.labels(run.batch)
        run.value  # noqa: B018  # a property that computes

    def __call__(self, run: Pass, /) -> Maps:
        """INPUT -> (N, 1, *S)."""
        batch = run.batch
        labels = self.labels(batch)
        counts = labels.flatten(1).amax(1) + 1
        known = torch.arange(int(counts.max()), device=labels.device) < counts[:, None]
        rows, numbers = known.nonzero(as_tuple=True)

        def hidden(which: slice) -> Tensor:
            return labels[rows[which]] == numbers[which].view(-1, *[1] * len(batch.space))

        reference = self.reference(batch.inputs.detach())
        values = values_at(run, rows, hidden, reference, chunk=self.chunk)
        lost = torch.zeros(known.shape, dtype=torch.float64, device=labels.device)
        lost[rows, numbers] = run.value.double()[rows] - values
        return {INPUT: self.painted(lost, labels).to(batch.inputs.dtype)}
