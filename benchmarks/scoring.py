"""Scoring alone, maps ready: by the adjoint, by torch's upsampling, by Quantus.

    python benchmarks/scoring.py [--quick]

The share of heat on the mask of maps that lie on a layer's grid. Quantus gets maps that are
resized already, which is not in its time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from models import IN_2D, IN_3D, QUICK_2D, QUICK_3D, ellipsoids
from peers import installed
from timing import begin, measure, parser, table
from torch import Tensor

from attrscore.core.grids import Grids
from attrscore.core.heat import Heat

GRIDS = {2: [(64, 64), (16, 16), (4, 4)], 3: [(16, 48, 48), (4, 12, 12), (1, 3, 3)]}
"""As of EfficientNet-b0: its first, fourth and last layer."""


def adjoint(maps: Sequence[Tensor], mask: Tensor, grids: Grids) -> list[Tensor]:
    heats = [Heat(signed, tuple(mask.shape[1:]), grids=grids) for signed in maps]
    return [heat.mass(mask) / heat.mass() for heat in heats]


def upsampled(maps: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
    """In float32, without a check: the least that a user would write."""
    mode = "bilinear" if mask.ndim == 3 else "trilinear"
    axes = tuple(range(1, mask.ndim))
    found = []
    for signed in maps:
        full = F.interpolate(signed.clamp(min=0), size=mask.shape[1:], mode=mode)[:, 0]
        found.append((full * mask).sum(axes) / full.sum(axes))
    return found


def quantus(full: Sequence[Tensor], mask: Tensor, metric: str) -> Callable[[], object]:
    """One sample a call: of several it makes a warning, or scores that depend on each other."""
    import quantus as package

    options = {"abs": False, "normalise": False, "disable_warnings": True}
    if metric == "AttributionLocalisation":
        options["positive_attributions"] = True
    scorer = getattr(package, metric)(**options)
    masks = mask[:, None].numpy()
    x = np.zeros(masks.shape, dtype=np.float32)
    maps = [each[:, None].numpy() for each in full]
    one = np.zeros(1, dtype=int)

    def call(each: np.ndarray, i: int) -> object:
        some = slice(i, i + 1)
        return scorer(
            model=None,
            x_batch=x[some],
            y_batch=one,
            a_batch=each[some],
            s_batch=masks[some],
            channel_first=True,
        )

    return lambda: [call(each, i) for each in maps for i in range(len(masks))]


def compare(shape: tuple[int, ...], repetitions: int) -> None:
    generator = torch.Generator().manual_seed(0)
    space = shape[2:]
    mask = ellipsoids(shape[0], space)
    natives = GRIDS[len(space)]
    maps = [torch.randn((shape[0], 1, *grid), generator=generator) for grid in natives]
    shared = Grids(space, "linear")
    adjoint(maps, mask, shared)
    contestants: dict[str, Callable[[], object]] = {
        "attrscore, regions pulled down before": lambda: adjoint(maps, mask, shared),
        "attrscore, a new batch": lambda: adjoint(maps, mask, Grids(space, "linear")),
        "torch, upsampling then masking": lambda: upsampled(maps, mask),
    }
    slow = set()
    if installed("quantus"):
        full = [Heat(signed, space).full() for signed in maps]
        for metric in ("AttributionLocalisation", "RelevanceMassAccuracy"):
            contestants[f"Quantus {metric}"] = quantus(full, mask, metric)
            slow.add(f"Quantus {metric}")
    measured = measure(contestants, repetitions, slow=slow)
    print(f"\n{shape[0]} maps on each of the grids {natives}, masks {space}")
    goals = {name: ">= 2" if name.startswith("torch") else ">= 100" for name in contestants}
    table(
        ("scoring alone", "ms", "x regions pulled down before", "x a new batch", "to reach"),
        [
            (
                name,
                f"{taken * 1e3:.2f}",
                f"{ratio:.1f}",
                f"{ratio / measured['attrscore, a new batch'][1]:.1f}",
                goals[name] if not name.startswith("attrscore") else None,
            )
            for name, (taken, ratio) in measured.items()
        ],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    given = parser(__doc__).parse_args(arguments)
    begin(given)
    for shape in (QUICK_2D, QUICK_3D) if given.quick else (IN_2D, IN_3D):
        compare(shape, given.repetitions or (1 if given.quick else 15))


if __name__ == "__main__":
    sys.exit(main())
