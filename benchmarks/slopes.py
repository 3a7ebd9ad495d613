"""How the cost of a batch grows with cells, layers, methods and scorers: straight lines.

    python benchmarks/slopes.py [--quick]

EfficientNet-b0 in 2D; the lowest layer is always the same, so the pass is as deep for one layer as
for eight.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from cost_of_layers import CAMS, ours
from models import CASES, prepared
from timing import begin, measure, parser, table

import attrscore


def fitted(counts: Sequence[int], taken: Sequence[float]) -> tuple[float, float, float]:
    """Slope, intercept, and the share of the variance that the line explains."""
    slope, intercept = np.polyfit(counts, taken, 1)
    rest = np.asarray(taken) - (slope * np.asarray(counts) + intercept)
    return float(slope), float(intercept), float(1 - rest.var() / np.var(taken))


def main(arguments: Sequence[str] | None = None) -> None:
    given = parser(__doc__).parse_args(arguments)
    begin(given)
    case = CASES["efficientnet-b0-2d"]
    n, *crop = case.crops(quick=given.quick)
    model, inputs, mask = prepared(case, (2 * n, *crop), given.device)

    def run(cells: int = n, layers: int = 8, methods: int = 1, scorers: int = 1) -> Any:
        scorer = attrscore.SCORERS.build("grad_camo")
        return ours(
            model,
            inputs[:cells],
            mask[:cells],
            layers=case.layers[:layers],
            methods=list(CAMS[:methods]),
            scorers={f"grad_camo_{i}": scorer for i in range(scorers)},
        )

    axes = {
        "cells": [n // 2, n, 3 * n // 2, 2 * n],
        "layers": [1, 2, 4, 8],
        "methods": [1, 2, 4, 6],
        "scorers": [1, 2, 4],
    }
    rows = []
    for axis, counts in axes.items():
        measured = measure(
            {str(count): run(**{axis: count}) for count in counts},
            given.repetitions or (1 if given.quick else 3),
            device=given.device,
        )
        taken = [measured[str(count)][0] for count in counts]
        slope, intercept, explained = fitted(counts, taken)
        whole = taken[counts.index(n)] if axis == "cells" else taken[-1]
        pairs = zip(counts, taken, strict=True)
        rows.append(
            (
                axis,
                ", ".join(f"{count}: {each:.3f}" for count, each in pairs),
                f"{slope * 1e3:.1f}",
                f"{intercept * 1e3:.0f}",
                f"{explained:.3f}",
                f"{slope / whole:.1%}",
            )
        )
    print(f"\n{case.name}, {n} cells, 8 layers, 1 method, 1 scorer unless varied")
    header = ("varied", "seconds", "ms for one more", "intercept, ms", "R^2", "one more, of all")
    table(header, rows)


if __name__ == "__main__":
    sys.exit(main())
