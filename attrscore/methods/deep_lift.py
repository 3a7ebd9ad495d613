"""DeepLIFT, refused where Captum would give a wrong map in silence."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from captum.attr import DeepLift as CaptumDeepLift
from torch import Tensor, nn

from attrscore.core.contracts import INPUT, Diagnosed, Maps
from attrscore.core.graph import Calls, Severed, beyond_linear, calls, kind_of, listed, out_of_place
from attrscore.core.passes import Pass, generator_of
from attrscore.core.registry import METHODS
from attrscore.errors import UnsupportedError
from attrscore.methods._options import WithBaseline, check_whole
from attrscore.methods.path import completeness

__all__ = ["DeepLift", "DeepLiftShap"]

_RESCALED = (
    *(nn.ReLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus),
    *(nn.MaxPool2d, nn.MaxPool3d),
)
"""What Captum rescales, but Softmax, whose rule there mixes the samples of a batch."""

POOLS = (nn.MaxPool2d, nn.MaxPool3d)

TOLERANCE = 1e-3
"""Largest error of completeness, as a share of everything in the map."""


@METHODS.register("deep_lift")
@dataclass(frozen=True, kw_only=True)
class DeepLift(WithBaseline):
    """DeepLIFT: each pixel's share in F(input) - F(baseline), by the changes of all activations.

    The Rescale rule: an activation passes on the ratio of its change to that of its input. Signed.
    Costs one forward and one backward pass of twice the batch, a forward of the baseline and one of
    a single sample, whose graph is read; with max pooling sample by sample, since Captum's rule for
    it takes gradients of the first sample for all. Columns as ``integrated_gradients``; the
    completeness error is rounding alone.

    Refuses, since Captum would be wrong in silence: activations other than the modules that it
    rescales (ReLU, ELU, LeakyReLU, Sigmoid, Tanh, Softplus, max pooling), activations as functions
    rather than modules, products of features (squeeze and excitation, attention), a module that
    runs twice, max pooling whose windows overlap, targets that are no linear function of the output
    (``logprob``, ``norm``, ``cosine``), and anything else whose map does not add up. Shrikumar et
    al., ICML 2017, computed by Captum's ``DeepLift``.
    """

    explains: ClassVar[str] = INPUT

    def check(self, run: Pass, /) -> None:
        """One forward pass of one sample, whose graph is read.

        :raises UnsupportedError: Captum would give a wrong map, and why.
        """
        inputs = run.batch.inputs[:1].detach().clone().requires_grad_()
        additional = tuple(each[:1] for each in run.additional)
        with run.prepared(), out_of_place(run.model):
            rescaled = (m for m in run.model.modules() if type(m) in _RESCALED)
            with calls(rescaled) as seen, Severed() as severed:
                scalar = run.explained(inputs, *additional)
        problem = _problem(scalar, seen, severed.found)
        if problem:
            raise UnsupportedError(
                f"deep_lift cannot explain {type(run.model).__name__}: {problem}. Captum would "
                "give a wrong map; use integrated_gradients."
            )

    def __call__(self, run: Pass, /) -> Maps:
        """INPUT -> (N, C, *S)."""
        self.check(run)
        return self._against(run, self.reference(run.batch.inputs.detach()).contiguous())

    def _against(self, run: Pass, reference: Tensor) -> Diagnosed:
        """The maps against baselines (N, C, *S), with their completeness."""
        inputs, additional = run.batch.inputs.detach(), run.additional
        pools = any(isinstance(module, POOLS) for module in run.model.modules())
        size = 1 if pools else len(inputs)
        found = []
        with (
            run.prepared(),
            out_of_place(run.model),
            _apart(run.model),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", message="Setting forward, backward hooks")
            for first in range(0, len(inputs), size):
                rows = slice(first, first + size)
                found.append(
                    CaptumDeepLift(run.explained)
                    .attribute(
                        inputs[rows].clone().requires_grad_(),
                        reference[rows],
                        additional_forward_args=tuple(each[rows] for each in additional),
                    )
                    .detach()
                )
                run.step(min(first + size, len(inputs)), len(inputs))
            signed = torch.cat(found)
            numbers = completeness(run, signed, reference)
        self._check_sum(run, signed, numbers["completeness_error"], numbers["output_change"])
        return Diagnosed({INPUT: signed}, numbers)

    def _check_sum(self, run: Pass, signed: Tensor, error: Tensor, change: Tensor) -> None:
        """The last line of defence: what graphs do not show, the sum does."""
        scale = signed.flatten(1).abs().sum(1, dtype=torch.float64) + change.abs()
        wrong = (error.abs() > TOLERANCE * scale).nonzero()[:, 0].tolist()
        if wrong:
            first = wrong[0]
            raise UnsupportedError(
                f"deep_lift does not add up in {type(run.model).__name__}: the map of cell "
                f"{run.batch.ids[first]} misses F(input) - F(baseline) = "
                f"{float(change[first]):.3g} by {float(error[first]):.3g}, so Captum got something "
                "wrong; use integrated_gradients."
            )


@METHODS.register("deep_lift_shap")
@dataclass(frozen=True, kw_only=True)
class DeepLiftShap:
    """DeepLIFT SHAP: the mean of DeepLIFT over other cells as baselines.

    An estimate of each pixel's Shapley value, where hidden pixels are those of another cell. The
    baselines are cells of the pool, never the cell itself by its id. Signed. Costs ``baselines``
    times what ``deep_lift`` does, one batch in memory at a time, and refuses what it refuses.
    Columns as ``integrated_gradients``, F(baseline) the mean over the baselines. Lundberg, Lee,
    NeurIPS 2017; numbers as Captum's ``DeepLiftShap``, which draws no cells of its own.

    :raises UnsupportedError: no pool, or no other cell in it.
    """

    explains: ClassVar[str] = INPUT
    needs_pool: ClassVar[bool] = True
    baselines: int = 8
    """Other cells for each cell; at most one less than the pool has."""
    seed: int = 0
    """Of what is drawn; a cell's draws follow from it and the id alone."""

    def __post_init__(self) -> None:
        check_whole(self, "baselines")
        check_whole(self, "seed", least=0)

    def check(self, run: Pass, /) -> None:
        """What ``deep_lift`` asks; that there are other cells shows where there is a pool."""
        if run.pool is not None:
            self._chosen(run)
        DeepLift().check(run)

    def __call__(self, run: Pass, /) -> Maps:
        """INPUT -> (N, C, *S)."""
        chosen, pool = self._chosen(run), run.need_pool()
        DeepLift().check(run)
        inner = run.on(run.batch.inputs, layers={})
        total, sums = torch.zeros_like(run.batch.inputs, dtype=torch.float64), dict[str, Tensor]()
        for done, rows in enumerate(chosen.T, start=1):
            maps = DeepLift()._against(inner, pool.inputs[rows].to(run.batch.inputs))
            total += maps[INPUT]
            sums = {k: sums.get(k, 0) + v for k, v in maps.diagnostics.items()}
            run.step(done, chosen.shape[1])
        count = chosen.shape[1]
        signed = (total / count).to(run.batch.inputs.dtype)
        return Diagnosed({INPUT: signed}, {name: each / count for name, each in sums.items()})

    def _chosen(self, run: Pass) -> Tensor:
        """Rows of the pool for each cell, (N, baselines)."""
        pool = run.need_pool()
        finite = pool.inputs.flatten(1).isfinite().all(1).cpu()
        found = []
        for cell in run.batch.ids:
            order = torch.randperm(len(pool), generator=generator_of(self.seed, "shap", cell))
            others = torch.tensor([pool.ids[row] != cell for row in order.tolist()])
            found.append(order[others & finite[order]][: self.baselines])
        count = min(self.baselines, max(1, int(finite.sum()) - 1))  # the same for every batch
        if min(map(len, found)) < count:
            raise UnsupportedError(
                "deep_lift_shap needs other cells as baselines, and the pool has none beside the "
                "cell itself; give a larger pool, or use deep_lift."
            )
        return torch.stack([rows[:count] for rows in found]).to(run.batch.inputs.device)


@contextmanager
def _apart(model: nn.Module) -> Iterator[None]:
    """Inside, no two modules that Captum rescales share a tensor.

    Captum keeps the gradient at the output of a ReLU before the max pooling behind it has rescaled
    it, if both hooks sit on one tensor; the map then misses part of the sum.
    """

    def copied(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(arg.clone() for arg in args)

    rescaled = [module for module in model.modules() if type(module) in _RESCALED]
    handles = [module.register_forward_pre_hook(copied) for module in rescaled]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _problem(scalar: Tensor, seen: Calls, severed: list[str]) -> str:
    """Why Captum's rules do not hold for this graph; empty if they do."""
    if scalar.grad_fn is None:
        return "no gradient flows from the input to the score"
    twice = [module for module, count in seen.times.items() if count > 1]
    if twice:
        return f"{type(twice[0]).__name__} modules run twice in one forward pass"
    for module in seen.outputs.values():
        if isinstance(module, POOLS) and _overlaps(module):
            return (
                f"{type(module).__name__} has windows that overlap (kernel {module.kernel_size}, "
                f"stride {module.stride})"
            )
    beside = [kind_of(node) for node in beyond_linear(scalar.grad_fn, seen.outputs)] or severed
    if beside:
        return f"the way to the score has operations that it cannot rescale: {listed(beside)}"
    return ""


def _overlaps(pool: nn.Module) -> bool:
    kernel, stride = pool.kernel_size, pool.stride
    kernels = kernel if isinstance(kernel, tuple) else (kernel,)
    strides = stride if isinstance(stride, tuple) else (stride,)
    several = max(len(kernels), len(strides))
    pairs = zip(
        kernels * (several // len(kernels)), strides * (several // len(strides)), strict=True
    )
    return any(k > s for k, s in pairs)
