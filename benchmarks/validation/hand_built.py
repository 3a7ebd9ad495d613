"""Part 2: models that provably do not read one half of the image. Which methods show it?"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from common import Check, Scale

import attrscore
from attrscore.core.contracts import InputSpec
from attrscore.core.heat import HeatOptions
from attrscore.targets import Index
from attrscore.testing.samples import HalfBlind, halves

LAYER_METHODS = (
    *("hires_cam", "layer_cam", "activation_x_gradient", "grad_cam", "xgrad_cam"),
    *("grad_cam_plus_plus", "eigen_grad_cam", "random_cam"),
)
INPUT_METHODS = ("saliency", "input_x_gradient", "integrated_gradients", "guided_backprop")
EXACT = {"hires_cam", "layer_cam", "activation_x_gradient", *INPUT_METHODS}
"""Methods that multiply by, or are, the gradient at each place: where that is 0, so are they."""


def run(scale: Scale, out: Path) -> list[Check]:
    """The share of heat on the half that cannot matter, by method."""
    rows = []
    for plane in scale.planes:
        space = (16, 16) if plane == "2D" else (8, 16, 16)
        for seed in scale.seeds:
            inputs, read, _ = zip(*halves(space, cells=8, seed=seed), strict=True)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = HalfBlind(InputSpec(channels=3, size=space, classes=2)).eval()
            scores = attrscore.evaluate(
                model.double(),
                attrscore.Batch(
                    inputs=torch.stack(inputs).double(), regions={"cell": ~torch.stack(read)}
                ),
                methods=[*LAYER_METHODS, *INPUT_METHODS],
                layers="features.3",
                target=Index(index=0, scalar="margin"),
                heat=HeatOptions(sign="absolute"),
                progress="none",
            )
            mean = scores.groupby("method", sort=False)["grad_camo"].max()
            rows += [[plane, seed, method, share] for method, share in mean.items()]
    table = pd.DataFrame(rows, columns=["plane", "seed", "method", "share"])
    table.to_csv(out / "hand_built.csv", index=False)
    worst = table.groupby("method", sort=False)["share"].max()
    checks = [
        Check(
            "hand-built models",
            f"{method}: heat on the half that cannot matter",
            "exactly 0",
            f"{share:g}",
            bool(share == 0),
        )
        for method, share in worst.items()
        if method in EXACT
    ]
    broken = ", ".join(f"{m} {share:.2f}" for m, share in worst.items() if m not in EXACT)
    checks.append(
        Check(
            "hand-built models",
            "largest share of heat that the others put there, at an inner layer",
            "above 0: they average over space",
            broken,
            None,
        )
    )
    return checks
