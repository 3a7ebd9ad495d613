"""What the score loses when parts of the crop, or channels of a layer, are hidden.

No gradient is needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import comb
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from attrscore.core.contracts import INPUT, Batch, Diagnosed, Maps
from attrscore.core.layers import no_grid
from attrscore.core.layouts import Layout, hidden_state, replace_hidden_state
from attrscore.core.passes import Pass, generator_of
from attrscore.core.registry import METHODS
from attrscore.errors import ConfigError, LayerError, UnsupportedError, choose
from attrscore.methods._copies import blocks, check_chunk, explained_at, hiding, values_at
from attrscore.methods._options import (
    PerAxis,
    WithBaseline,
    check_per_axis,
    check_positive,
    check_whole,
    per_axis,
)
from attrscore.methods.cams import by_stain, weighted

__all__ = [
    "RISE",
    "AblationCAM",
    "FeatureAblation",
    "KernelShap",
    "Occlusion",
    "ScoreCAM",
    "WithFeatures",
    "coalitions",
    "grid_blocks",
    "shapley_values",
]

_FEATURES = ("grid", "slic", "regions", "instances")
_SPREADS = ("share", "value")


@dataclass(frozen=True, kw_only=True)
class WithFeatures:
    """The options of features, the parts of a crop that are hidden as one.

    With ``spread=share`` the map sums to the values; with ``value`` large features weigh more.
    """

    features: Literal["grid", "slic", "regions", "instances"] = "grid"
    """Blocks of a grid, supervoxels of scikit-image, what the regions divide the crop into (cell,
    neighbours, the rest), or these with each connected part of the neighbours apart."""
    size: PerAxis = 16
    """Of the blocks of a grid, in pixels: a number, or [Y, X] or [Z, Y, X]."""
    segments: int = 64
    """About as many supervoxels of slic."""
    compactness: float = 0.1
    """Of the supervoxels: larger is more regular."""
    spread: Literal["share", "value"] = "share"
    """Each pixel gets its share of the value, or all of it, as in Captum."""

    def __post_init__(self) -> None:
        choose(self.features, _FEATURES, option="features")
        choose(self.spread, _SPREADS, option="spread")
        check_per_axis(self, "size")
        check_whole(self, "segments")
        check_positive(self, "compactness")

    def labels(self, batch: Batch, /) -> Tensor:
        """The feature of each pixel: (N, *S) int64, numbered from 0 without gaps in each crop."""
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
        from skimage.segmentation import slic  # slow to import, and for this option only

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


@METHODS.register("occlusion")
@dataclass(frozen=True, kw_only=True)
class Occlusion(WithBaseline):
    """Occlusion: what the score loses when a window is replaced by the baseline.

    The mean of F(x) - F(x with the window hidden), signed: positive where hiding lowers the score.
    A pixel gets the mean over the windows that cover it; all channels are hidden together. Costs a
    forward pass for each position, the product over axes of ceil((S - window) / stride) + 1, and
    one for the clean input. Explains any model, gradients or not. Zeiler, Fergus, ECCV 2014;
    numbers as Captum's ``Occlusion``.

    >>> import attrscore
    >>> from attrscore.testing.samples import cells, net
    >>> (result,) = attrscore.run(net(), cells(), methods=Occlusion(window=4, stride=2))
    >>> result.columns["grad_camo"].round(3)
    array([0.172, 0.164, 0.221, 0.143])
    """

    explains: ClassVar[str] = INPUT
    needs_gradients: ClassVar[bool] = False
    window: PerAxis = 16
    """Size in pixels: a number, or [Y, X] or [Z, Y, X]."""
    stride: PerAxis = 8
    """Pixels by which the window moves, likewise; each position is one forward pass."""
    chunk: int | None = None
    """Most copies of an input in memory at once; null: as many as suit the size of the crops."""

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
        values = values_at(run, rows, hiding(run, rows, reference, hidden), chunk=self.chunk)
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
    """Feature ablation: what the score loses when one part of the crop becomes the baseline.

    F(x) - F(x with the feature hidden), signed: positive where hiding lowers the score. Costs a
    forward pass for each feature, and one for the clean input. Explains any model, gradients or
    not; features that matter only together share nothing, for which see ``kernel_shap``. After
    Zeiler, Fergus, ECCV 2014; numbers as Captum's ``FeatureAblation`` with ``spread=value``.
    """

    explains: ClassVar[str] = INPUT
    needs_gradients: ClassVar[bool] = False
    chunk: int | None = None
    """Most copies of an input in memory at once; null: as many as suit the size of the crops."""

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
        values = values_at(run, rows, hiding(run, rows, reference, hidden), chunk=self.chunk)
        lost = torch.zeros(known.shape, dtype=torch.float64, device=labels.device)
        lost[rows, numbers] = run.value.double()[rows] - values
        return {INPUT: self.painted(lost, labels).to(batch.inputs.dtype)}


def coalitions(features: int, samples: int, generator: torch.Generator, /) -> tuple[Tensor, Tensor]:
    """Which features are shown in each trial, (T, F) bool, and the weight of each trial, (T,).

    All 2^F - 2 with their kernel weights where ``samples`` suffices, and then the result is exact;
    else ``samples`` drawn by those weights, each with its complement, alike in weight. Never none
    or all of the features.
    """
    if features < 2:
        return torch.zeros((0, features), dtype=torch.bool), torch.zeros(0, dtype=torch.float64)
    sizes = torch.arange(1, features, dtype=torch.float64)
    kernel = (features - 1) / (sizes * (features - sizes))  # of all trials of a size together
    if features < 32 and 2**features - 2 <= samples:
        numbers = torch.arange(1, 2**features - 1)
        shown = (numbers[:, None] >> torch.arange(features)) % 2 == 1
        size = shown.sum(1)
        ways = torch.tensor([comb(features, int(each)) for each in range(1, features)])
        return shown, (kernel / ways)[size - 1]
    pairs = -(-samples // 2)
    size = torch.multinomial(kernel, pairs, replacement=True, generator=generator) + 1
    order = torch.rand((pairs, features), generator=generator).argsort(1).argsort(1)
    drawn = order < size[:, None]
    shown = torch.cat([drawn, ~drawn])[:samples]
    return shown, torch.ones(len(shown), dtype=torch.float64)


def shapley_values(shown: Tensor, weights: Tensor, values: Tensor, change: Tensor, /) -> Tensor:
    """Weighted least squares that sum to ``change`` exactly: (F,) float64.

    ``values`` (T,) are the scores of the trials less that of the baseline; ``change`` is that of
    the whole input. With fewer trials than features, the solution of least norm; NaN where a score
    is not finite.

    >>> shown = torch.tensor([[True, False], [False, True]])
    >>> shapley_values(shown, torch.ones(2).double(), torch.tensor([1.0, 2.0]), torch.tensor(5.0))
    tensor([2., 3.], dtype=torch.float64)
    """
    features = shown.shape[1]
    if not (values.isfinite().all() and change.isfinite()):  # LAPACK raises
        return torch.full((features,), torch.nan, dtype=torch.float64)
    equal = change.double() / features
    # What is left sums to 0: it is solved for in a basis of that plane.
    corners = torch.eye(features, dtype=torch.float64)[:, : features - 1] - 1 / features
    plane: Tensor = torch.linalg.qr(corners).Q
    root = weights.double().sqrt()[:, None]
    wanted = values.double() - shown.double().sum(1) * equal
    solved: Tensor = torch.linalg.lstsq(
        root * (shown.double() @ plane), root * wanted[:, None], driver="gelsd"
    ).solution
    return equal + (plane @ solved)[:, 0]


@METHODS.register("kernel_shap")
@dataclass(frozen=True, kw_only=True)
class KernelShap(WithFeatures, WithBaseline):
    """KernelSHAP: Shapley values of parts of the crop, what each adds averaged over all orders.

    Signed; the values of a crop sum to F(input) - F(baseline) exactly, which is the column
    ``output_change``. Hidden features are replaced by the baseline; coalitions are drawn in pairs
    of complements, and exact where all 2^F - 2 of them are no more than ``samples``. Costs
    ``samples`` forward passes, and two. Explains any model, gradients or not.

    Lundberg, Lee, NeurIPS 2017. Captum's ``KernelShap`` takes one crop at a time, draws from the
    global generators and approximates the constraint by a large weight, so it is written here.
    """

    explains: ClassVar[str] = INPUT
    needs_gradients: ClassVar[bool] = False
    samples: int = 256
    """Coalitions a crop: forward passes; exact where there are no more."""
    chunk: int | None = None
    """Most copies of an input in memory at once; null: as many as suit the size of the crops."""
    seed: int = 0
    """Of what is drawn; a cell's draws follow from it and the id alone."""

    def __post_init__(self) -> None:
        WithBaseline.__post_init__(self)
        WithFeatures.__post_init__(self)
        check_whole(self, "samples")
        check_whole(self, "seed", least=0)
        check_chunk(self.chunk)

    def check(self, run: Pass, /) -> None:
        """The clean input and its features."""
        self.labels(run.batch)
        run.value  # noqa: B018  # a property that computes

    def __call__(self, run: Pass, /) -> Maps:
        """INPUT -> (N, 1, *S)."""
        labels = self.labels(run.batch)
        reference = self.reference(run.batch.inputs.detach())
        counts = (labels.flatten(1).amax(1) + 1).tolist()
        trials = [
            coalitions(count, self.samples, generator_of(self.seed, "kernel_shap", cell))
            for count, cell in zip(counts, run.batch.ids, strict=True)
        ]
        total = sum(len(shown) + 1 for shown, _ in trials)
        done = 0
        values = torch.zeros((len(labels), max(counts)), dtype=torch.float64)
        change = torch.zeros(len(labels), dtype=torch.float64)
        for row, (shown, weights) in enumerate(trials):
            # Each coalition, and none.
            hidden = torch.cat([~shown, torch.ones((1, shown.shape[1]), dtype=torch.bool)])
            scores = self._scores(run, row, hidden, labels[row], reference, done, total).cpu()
            done += len(hidden)
            change[row] = run.value[row].double().cpu() - scores[-1]
            values[row, : shown.shape[1]] = shapley_values(
                shown, weights, scores[:-1] - scores[-1], change[row]
            )
        signed = self.painted(values.to(labels.device), labels).to(reference.dtype)
        return Diagnosed({INPUT: signed}, {"output_change": change})

    def _scores(
        self,
        run: Pass,
        row: int,
        hidden: Tensor,
        labels: Tensor,
        reference: Tensor,
        before: int,
        total: int,
    ) -> Tensor:
        """Of one crop (*S labels) with some features hidden: (T, F) bool -> (T,) float64."""
        hidden = hidden.to(labels.device)
        rows = torch.full((len(hidden),), row, device=labels.device)
        return values_at(
            run,
            rows,
            hiding(run, rows, reference, lambda which: hidden[which][:, labels]),
            chunk=self.chunk,
            before=before,
            total=total,
        )


@METHODS.register("rise")
@dataclass(frozen=True, kw_only=True)
class RISE(WithBaseline):
    """RISE: what the score is where a pixel is shown, over randomly masked copies of the crop.

    A mask is a coarse grid of pieces, each shown with the probability ``shown``, brought smoothly
    to the size of the crop and shifted at random. The map is the mean of F(masked) x mask, divided
    by ``shown``: an estimate of the mean score given that the pixel is shown. With ``offset=mean``
    the mean score over all masks is taken off, so that the map is signed, and 0 where a pixel makes
    no difference; ``offset=none`` is the formula of the paper, in which every pixel has that mean.
    Costs ``samples`` forward passes (the paper's 4000 to 8000 have less noise), in memory that does
    not grow with them. Explains any model, gradients or not. Petsiuk et al., BMVC 2018.
    """

    explains: ClassVar[str] = INPUT
    needs_gradients: ClassVar[bool] = False
    samples: int = 1000
    """Masks a crop: forward passes."""
    grid: PerAxis = 8
    """Pieces of a mask along each axis: a number, or [Y, X] or [Z, Y, X]."""
    shown: float = 0.5
    """Probability with which a piece is shown."""
    offset: Literal["mean", "none"] = "mean"
    """Taken off the score: its mean over the masks, or nothing."""
    chunk: int | None = None
    """Most copies of an input in memory at once; null: as many as suit the size of the crops."""
    seed: int = 0
    """Of what is drawn; a cell's draws follow from it and the id alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "samples")
        check_whole(self, "seed", least=0)
        check_per_axis(self, "grid")
        check_chunk(self.chunk)
        choose(self.offset, ("mean", "none"), option="offset")
        check_positive(self, "shown")
        if self.shown >= 1:
            raise ConfigError(f"shown={self.shown} must be below 1: something must be hidden.")

    def check(self, run: Pass, /) -> None:
        """The clean input, and whether the grid fits."""
        per_axis(self.grid, len(run.batch.space), option="grid")
        run.value  # noqa: B018  # a property that computes

    def __call__(self, run: Pass, /) -> Maps:
        """INPUT -> (N, 1, *S)."""
        inputs, space = run.batch.inputs.detach(), run.batch.space
        reference = self.reference(inputs)
        grid = per_axis(self.grid, len(space), option="grid")
        draws = [self._draw(cell, grid, space) for cell in run.batch.ids]
        scored = torch.zeros((len(inputs), *space), dtype=torch.float64, device=inputs.device)
        masked, scores = torch.zeros_like(scored), scored.new_zeros(len(inputs))
        run.additional  # noqa: B018  # the clean input's own pass comes first
        with run.prepared(), torch.no_grad():
            for rows, steps in blocks(run, self.samples, self.chunk):
                drawn = draws[rows]
                masks = torch.stack(
                    [_enlarged(pieces[steps], shifts[steps], space) for pieces, shifts in drawn], 1
                ).to(inputs)
                copies = torch.lerp(reference[rows], inputs[rows], masks[:, :, None])
                found = explained_at(run, copies.flatten(0, 1), rows).view(masks.shape[:2]).double()
                scored[rows] += torch.einsum("kn,kn...->n...", found, masks.double())
                masked[rows] += masks.double().sum(0)
                scores[rows] += found.sum(0)
        if self.offset == "mean":
            scored -= masked * (scores / self.samples).view(-1, *[1] * len(space))
        signed = scored / (self.samples * self.shown)
        return {INPUT: signed[:, None].to(inputs.dtype)}

    def _draw(
        self, cell: str, grid: tuple[int, ...], space: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        """Which pieces each mask shows, (samples, *grid) bool, and its shift in pixels."""
        generator = generator_of(self.seed, "rise", cell)
        pieces = torch.rand((self.samples, *grid), generator=generator) < self.shown
        steps = torch.tensor([-(-size // parts) for size, parts in zip(space, grid, strict=True)])
        shifts = torch.rand((self.samples, len(grid)), generator=generator) * steps
        return pieces, shifts.long()


def _enlarged(pieces: Tensor, shifts: Tensor, space: tuple[int, ...]) -> Tensor:
    """Masks of one crop from their pieces: (k, *grid) bool, (k, axes) -> (k, *S) of 0 to 1.

    Enlarged by one piece more than the crop has, from which each mask is cut at its shift.
    """
    grid = pieces.shape[1:]
    large = [(parts + 1) * -(-size // parts) for size, parts in zip(space, grid, strict=True)]
    mode = "bilinear" if len(space) == 2 else "trilinear"
    masks = nn.functional.interpolate(pieces[:, None].double(), size=large, mode=mode)[:, 0]
    cut = [
        mask[tuple(slice(at, at + size) for at, size in zip(shift, space, strict=True))]
        for mask, shift in zip(masks, shifts.tolist(), strict=True)
    ]
    return torch.stack(cut)


@METHODS.register("score_cam")
@dataclass(frozen=True, kw_only=True)
class ScoreCAM(WithBaseline):
    """Score-CAM: activations weighted by the score of the crop that each of them leaves visible.

    Each channel of a layer, brought to the size of the crop and between its least (hidden) and its
    greatest value (shown), is a mask; the weights of the channels are the softmax of the scores of
    the crops so masked. No gradient is used; what is hidden becomes the baseline. All weights are
    positive. Costs a forward pass for each channel of each layer. Explains any model, gradients or
    not. Wang et al., CVPR workshops 2020; numbers as torchcam's ``ScoreCAM``.
    """

    needs_gradients: ClassVar[bool] = False
    chunk: int | None = None
    """Most copies of an input in memory at once; null: as many as suit the size of the crops."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_chunk(self.chunk)

    def check(self, run: Pass, /) -> None:
        """The clean input."""
        run.activations  # noqa: B018  # a property that computes

    def __call__(self, run: Pass, /) -> Maps:
        """Layer -> (N, 1, *s)."""
        reference = self.reference(run.batch.inputs.detach())
        mode = "bilinear" if len(run.batch.space) == 2 else "trilinear"

        def scores(rows: Tensor, channels: Tensor, layer: str, before: int, total: int) -> Tensor:
            activation = run.activations[layer]

            def hidden(which: slice) -> Tensor:
                seen = activation[rows[which], channels[which]][:, None]
                seen = nn.functional.interpolate(seen, run.batch.space, mode=mode)[:, 0]
                flat = seen.flatten(1)
                low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
                shown = torch.where(high > low, (flat - low) / (high - low), flat - low)
                return (1 - shown).view(seen.shape).to(reference)

            altered = hiding(run, rows, reference, hidden)
            return values_at(run, rows, altered, chunk=self.chunk, before=before, total=total)

        return {
            layer: by_stain(run, layer, weighted, found.softmax(1).to(run.activations[layer]))
            for layer, found in _by_channel(run, scores)
        }


@METHODS.register("ablation_cam")
@dataclass(frozen=True, kw_only=True)
class AblationCAM:
    """Ablation-CAM: activations weighted by what the score loses when their channel is 0.

    L = sum_k (y - y_k) A_k, y_k the score with channel k of the layer 0 at all of its positions;
    tokens before the grid (class, registers) stay. No gradient is used. Signed; the division of all
    weights by y, as in the paper, is left out: it changes no share of the map, and turns the map
    over where y is below 0. Costs a forward pass for each channel of each layer. Explains any
    model, gradients or not. Desai, Ramaswamy, WACV 2020.
    """

    needs_gradients: ClassVar[bool] = False
    chunk: int | None = None
    """Most copies of an input in memory at once; null: as many as suit the size of the crops."""

    def __post_init__(self) -> None:
        check_chunk(self.chunk)

    def check(self, run: Pass, /) -> None:
        """The clean input."""
        run.activations  # noqa: B018  # a property that computes

    def __call__(self, run: Pass, /) -> Maps:
        """Layer -> (N, 1, *s)."""
        inputs = run.batch.inputs.detach()

        def scores(rows: Tensor, channels: Tensor, layer: str, before: int, total: int) -> Tensor:
            layout = run.layers.infos[layer].layout or Layout()
            off = channels[:0]
            if run.layers.infos[layer].calls > 1:
                raise UnsupportedError(
                    f"Layer '{layer}' runs once for each channel of the image, and ablation_cam "
                    "ablates the output of one call; use a layer behind it, or hires_cam."
                )

            def altered(which: slice) -> Tensor:
                nonlocal off
                off = channels[which]
                return inputs[rows[which]]

            def ablate(_module: nn.Module, _args: Any, output: Any) -> Any:
                hidden = hidden_state(output)
                if hidden is None:
                    raise LayerError(no_grid(layer, None, len(run.batch.space)))
                return replace_hidden_state(output, _without(hidden, off, layout))

            handle = run.layers[layer].register_forward_hook(ablate)
            try:
                return values_at(run, rows, altered, chunk=self.chunk, before=before, total=total)
            finally:
                handle.remove()

        return {
            layer: by_stain(
                run,
                layer,
                weighted,
                (run.value.double()[:, None] - found).to(run.activations[layer]),
            )
            for layer, found in _by_channel(run, scores)
        }


def _without(hidden: Tensor, channels: Tensor, layout: Layout) -> Tensor:
    """A layer's output with one channel of each copy 0, prefix tokens as they are."""
    numbers = torch.arange(hidden.numel(), device=hidden.device).view(hidden.shape)
    copies = torch.arange(len(channels), device=hidden.device)
    ablated = hidden.flatten().clone()
    ablated[layout.to_grid(numbers)[copies, channels].flatten()] = 0
    return ablated.view_as(hidden)


def _by_channel(
    run: Pass, scores: Callable[[Tensor, Tensor, str, int, int], Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Each layer with a score for every cell and channel, (N, C) float64.

    ``scores`` gets the row and the channel of each copy, the layer, and how many copies are done
    and how many there are at all layers.
    """
    n, device = len(run.batch), run.batch.inputs.device
    total = n * sum(each.shape[1] for each in run.activations.values())
    done = 0
    for layer, activation in run.activations.items():
        each = torch.arange(n * activation.shape[1], device=device)
        rows, channels = each // activation.shape[1], each % activation.shape[1]
        yield layer, scores(rows, channels, layer, done, total).view(n, -1)
        done += len(each)
