"""The nouns and contracts of attrscore.

Shape legend, used by every docstring of the package:

==== ============================================================================
N    samples (cells) of a batch
C    channels of an input or of a layer
*S   the 2 or 3 spatial axes of the input, (Y, X) or (Z, Y, X)
*s   the spatial axes of a layer's own grid, as many as *S
K    outputs of the model (classes, or dimensions of an embedding), of a dense one at each
     pixel: (N, K, *S)
R    regions
==== ============================================================================

This module needs torch for annotations only, so results can be read where torch is not installed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from attrscore.core.columns import KEY_COLUMNS
from attrscore.errors import DataError, preview

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor, device, nn

    from attrscore.core.heat import Heat
    from attrscore.core.passes import Pass

INPUT = "input"
"""The layer name of maps that live on the input grid."""

Maps = Mapping[str, "Tensor"]
"""Layer name (or INPUT) -> signed map (N, C, *s), raw: nothing normalised, no sign taken.

C is 1, or counts what the heat joins: the layer's channels, or those of the image, at INPUT and at
layers that keep them apart.
"""


class Diagnosed(dict[str, "Tensor"]):
    """Maps with numbers about themselves, (N,) each, that become columns of the results.

    Integrated Gradients returns its completeness error this way.
    """

    def __init__(self, maps: Maps, /, diagnostics: Mapping[str, Tensor]) -> None:
        super().__init__(maps)
        self.diagnostics = dict(diagnostics)


class Partial(dict[str, "Tensor"]):
    """Maps of some layers, and why each of the others has none: layer -> sentence."""

    def __init__(self, maps: Maps, /, refused: Mapping[str, str]) -> None:
        super().__init__(maps)
        self.refused = dict(refused)


class Reasoned(dict[str, "Tensor"]):
    """Columns of a scorer with why a value in them is NaN: sentence -> (N,) bool, which cells.

    The first sentence that holds goes into the ``reason`` of a row that is ``ok`` and has a NaN
    here. None is needed for what the row's status says already, nor for a scorer with an attribute
    ``region`` where that region is empty or fills the crop.
    """

    def __init__(self, columns: Mapping[str, Tensor], /, reasons: Mapping[str, Tensor]) -> None:
        super().__init__(columns)
        self.reasons = dict(reasons)


@dataclass(frozen=True)
class InputSpec:
    """What a model must accept to run on a dataset."""

    channels: int
    size: tuple[int, ...]
    """*S, in pixels."""
    classes: int

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return len(self.size)


@dataclass(frozen=True, eq=False)
class Batch:
    """N crops with what is known of them. Checked when it is made, trusted afterwards.

    ``inputs`` is (N, C, *S) floating point. ``regions`` are (N, *S), bool or within [0, 1]:
    ``cell`` is the object asked about and must be there; ``neighbours`` are other objects and must
    not overlap it; further regions (``nucleus``, ...) are free. ``label`` is int64 (N,), -1 where
    unknown. ``ids`` are unique within a dataset. ``meta`` holds columns of N values that are
    carried to every result row. ``spacing`` is micrometres a voxel along *S. ``others`` are further
    inputs of the model, (N, ...) each, given to it after the image and left as they are.
    ``stains`` are the names of the C channels, where they are known.

    Non-finite pixels are allowed: the rows concerned get the status ``nonfinite``.

    :raises DataError: shapes, types or lengths that do not fit together, named.
    """

    inputs: Tensor
    regions: Mapping[str, Tensor]
    label: Tensor = None  # type: ignore[assignment]  # a tensor of -1 after __post_init__
    ids: Sequence[str] = ()
    meta: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    spacing: tuple[float, ...] | None = None
    others: tuple[Tensor, ...] = ()
    stains: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        import torch  # here, so that reading results needs no torch

        object.__setattr__(self, "inputs", _plain(self.inputs))
        object.__setattr__(self, "regions", {k: _plain(v) for k, v in self.regions.items()})
        object.__setattr__(self, "label", _plain(self.label))
        object.__setattr__(self, "others", tuple(map(_plain, self.others)))
        x = self.inputs
        if not isinstance(x, torch.Tensor) or not x.is_floating_point() or x.ndim not in (4, 5):
            got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__
            raise DataError(
                "inputs must be a floating-point tensor (N, C, Y, X) or (N, C, Z, Y, X); "
                f"given: {got}. Convert with torch.as_tensor(...).float() and add the missing axes."
            )
        n = len(x)
        if "cell" not in self.regions:
            raise DataError(
                "regions must hold 'cell', the mask of the object asked about; "
                f"given: {preview(self.regions) or 'none'}."
            )
        for name, region in self.regions.items():
            _check_region(name, region, n, tuple(x.shape[2:]))
        if "neighbours" in self.regions:
            _check_disjoint(self.regions["cell"], self.regions["neighbours"])

        label: Tensor | None = self.label
        if label is None:
            label = torch.full((n,), -1, dtype=torch.int64, device=x.device)
        if tuple(label.shape) != (n,) or label.is_floating_point():
            raise DataError(
                f"label must be integers ({n},), -1 where unknown; "
                f"given: {label.dtype} {tuple(label.shape)}."
            )
        ids = tuple(str(i) for i in (self.ids if len(self.ids) else range(n)))
        if len(ids) != n or len(set(ids)) != n:
            raise DataError(
                f"ids must be {n} different names, one a sample; "
                f"given: {len(ids)} names, {len(set(ids))} different."
            )
        for name, values in self.meta.items():
            if len(values) != n:
                raise DataError(f"meta['{name}'] must have {n} values; given: {len(values)}.")
            if name in KEY_COLUMNS:
                raise DataError(
                    f"meta['{name}'] would overwrite the results column of that name; "
                    f"call it Metadata_{name}."
                )
        if self.spacing is not None and len(self.spacing) != x.ndim - 2:
            raise DataError(
                f"spacing must have {x.ndim - 2} values, micrometres along "
                f"{'Z, ' if x.ndim == 5 else ''}Y, X; given: {self.spacing}."
            )
        stains = tuple(map(str, self.stains))
        if stains and (len(stains) != x.shape[1] or len(set(stains)) != len(stains)):
            raise DataError(
                f"stains must be {x.shape[1]} different names, one a channel; "
                f"given: {preview(stains)}."
            )
        for number, other in enumerate(self.others):
            if not isinstance(other, torch.Tensor) or not other.ndim or len(other) != n:
                found = getattr(other, "shape", type(other).__name__)
                raise DataError(f"others[{number}] must be a tensor ({n}, ...); given: {found}.")
        object.__setattr__(self, "label", label.long())
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "stains", stains)

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def space(self) -> tuple[int, ...]:
        """*S."""
        return tuple(self.inputs.shape[2:])

    def to(self, where: device | str, /) -> Batch:
        """The same batch on another device."""
        if self.inputs.device == where or str(self.inputs.device) == str(where):
            return self
        return replace(
            self,
            inputs=self.inputs.to(where),
            regions={name: region.to(where) for name, region in self.regions.items()},
            label=self.label.to(where),
            others=tuple(other.to(where) for other in self.others),
        )

    def rows(self, start: int, stop: int, /) -> Batch:
        """Samples ``start`` to ``stop``, as views."""
        return replace(
            self,
            inputs=self.inputs[start:stop],
            regions={name: region[start:stop] for name, region in self.regions.items()},
            label=self.label[start:stop],
            ids=self.ids[start:stop],
            meta={name: values[start:stop] for name, values in self.meta.items()},
            others=tuple(other[start:stop] for other in self.others),
        )


def _plain(value: Any) -> Any:
    """A tensor as torch's own: no subclass (MONAI's MetaTensor), and none of inference mode."""
    import torch  # as above

    if not isinstance(value, torch.Tensor):
        return value
    if type(value) is not torch.Tensor:
        value = value.detach().as_subclass(torch.Tensor)
    return value.clone() if value.is_inference() else value


def _check_region(name: str, region: Tensor, n: int, space: tuple[int, ...]) -> None:
    if tuple(region.shape) != (n, *space):
        raise DataError(
            f"region '{name}' must have the shape {(n, *space)}, as the inputs; "
            f"given: {tuple(region.shape)}."
        )
    if region.dtype.is_complex or str(region.dtype) == "torch.bool":
        return
    low, high = (float(v) for v in region.aminmax()) if region.numel() else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        raise DataError(
            f"region '{name}' must be bool or lie within [0, 1]; given: {low:g} to {high:g}. "
            "A label image becomes a mask with labels == number."
        )


def _check_disjoint(cell: Tensor, neighbours: Tensor) -> None:
    import torch  # as above

    if "bool" in str(cell.dtype) and cell.dtype == neighbours.dtype:
        # as bytes: torch looks through bools an eighth as fast
        both, most = (cell & neighbours).view(torch.uint8), 0.0
    else:
        both, most = cell.double() + neighbours.double(), 1 + 1e-6
    overlap = both.numel() > 0 and float(both.max()) > most
    if overlap:
        raise DataError(
            "regions 'cell' and 'neighbours' overlap, so shares could not sum to 1; "
            "remove the cell from the neighbours: neighbours & ~cell."
        )


@dataclass(frozen=True, eq=False)
class Result:
    """One batch under one method at one layer: N rows of the results table."""

    method: str
    layer: str
    target: str
    columns: Mapping[str, np.ndarray]
    """``id``, ``label``, ``predicted``, ``status``, ``reason``, the scores, carried metadata."""
    maps: np.ndarray | None = None
    """Signed (N, C, *s), where maps are kept."""
    traceback: str = ""
    """Where the code raised, if it did: a line a frame."""
    seconds: float = 0.0
    """Wall time of the scores, and of the method on the first of its results."""
    peaks: Mapping[str, int] = field(default_factory=dict)
    """Memory at most, in MiB, of the method and the scores; only where a gauge was given."""

    def __len__(self) -> int:
        return len(self.columns["id"])


@runtime_checkable
class Target(Protocol):
    """The scalar a sample that is explained.

    One whose outputs are no class scores says so with an attribute ``of_classes = False``; the
    results then hold no predicted class and no confidence. The output of a dense model is
    (N, K, *S); a target that cannot work with it says ``dense = False``. One that stands for
    several scalars has them as an attribute ``each``, a tuple of targets (:func:`single_targets`).
    """

    def prepare(self, output: Tensor, batch: Batch, /) -> Tensor:
        """What is fixed on the clean input (N, ...): the class index, a reference vector."""
        ...

    def __call__(self, output: Tensor, aux: Tensor, /) -> Tensor:
        """(N, K), or (N, K, *S), and aux -> (N,), differentiable."""
        ...


def single_targets(target: Target, /) -> tuple[Target, ...]:
    """The scalars that a target stands for, one target each: mostly itself."""
    return tuple(getattr(target, "each", (target,)))


class ModelFactory(Protocol):
    """Options of a model; it is built for a dataset, in eval mode, weights loaded."""

    def __call__(self, spec: InputSpec, /) -> nn.Module:
        """The model for inputs (N, C, *S) of this kind."""
        ...


class Dataset(Protocol):
    """Cells by number. ``table`` is known before any pixel is needed again."""

    table: pd.DataFrame
    """A row a cell in fixed order: ``id`` (unique), ``label`` (int, -1 unknown), then carried
    columns (``Metadata_...``)."""
    classes: tuple[str, ...]
    """Class names; ``label`` is an index into them."""
    spec: InputSpec
    skipped: Mapping[str, str]
    """What could not be used (a file, a cell) -> why, in one sentence."""
    left_out: int
    """How many cells the settings exclude on purpose: too small, say."""

    def read(self, rows: Sequence[int], /) -> Batch:
        """The cells of these table rows, in this order, on the CPU."""
        ...

    def fingerprint(self) -> str:
        """Hex digest of what ``read`` returns for all rows: content and preprocessing, no paths."""
        ...


@runtime_checkable
class Method(Protocol):
    """An attribution method: one pass in, signed maps out.

    A method whose maps live on the input says so with an attribute ``explains = "input"``; without
    it, the maps must be keyed by the layers of the pass. ``needs_input_gradient = True`` lets the
    shared backward pass go on to the input, ``needs_graph = True`` keeps its forward graph, and
    ``needs_attention = True`` what its attention layers attend to.
    ``needs_gradients = False`` says that it takes none, so that it works where they are blocked.
    ``needs_model = False`` says that it never runs the model itself, nor draws at random, so
    that nothing has to be put back after it. A method ``check(run)``, where there is one, says at
    little cost whether it can explain a model: it raises
    :class:`attrscore.errors.UnsupportedError` with the reason if not.
    """

    def __call__(self, run: Pass, /) -> Maps:
        """Layer (or INPUT) -> signed map (N, C, *s)."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """Heat and pass in, numbers out: (N,) each, NaN where undefined.

    A mapping gives several columns, ``<scorer>.<key>``; the key ``score`` becomes ``<scorer>``, and
    :class:`attrscore.core.contracts.Reasoned` says why a value is NaN. One that takes other cells
    (``run.need_pool()``), as a method may too, says so with an attribute ``needs_pool = True``;
    what does not depend on the map is computed by ``run.once``, and one that looks at no map at all
    says ``of_maps = False``: draws of random weights, which are a null of maps, do without it.
    """

    def __call__(self, heat: Heat, run: Pass, /) -> Tensor | Mapping[str, Tensor]:
        """(N,), or column -> (N,)."""
        ...
