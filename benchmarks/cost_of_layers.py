"""What attributions at 8 layers, scored, cost beside one forward and one backward pass.

    python benchmarks/cost_of_layers.py [--quick] [--model resnet18-2d ...] [--no-peers]

Multiples of the floor, in one run, contestants taking turns. Asserts nothing; ``README.md`` says
what the rows are.
"""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import peers
import torch
from models import CASES, Case, batch, floor, prepared
from timing import begin, measure, parser, table
from torch import Tensor, nn

import attrscore
from attrscore.core.layers import select_layers
from attrscore.core.model import as_found
from attrscore.core.passes import Pass

CAMS = (
    *("grad_cam", "hires_cam", "grad_cam_plus_plus"),
    *("xgrad_cam", "layer_cam", "activation_x_gradient"),
)

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def ours_pass(model: nn.Module, layers: Sequence[str], inputs: Tensor, mask: Tensor):
    """The shared pass of attrscore, without maps, heat and scores."""
    target = attrscore.TARGETS.build("predicted")
    with as_found(model):
        chosen = select_layers(model, list(layers), inputs[:1])  # once a run, as in a job
    return lambda: Pass(model, batch(inputs, mask), target, chosen).gradients


def ours(
    model: nn.Module, inputs: Tensor, mask: Tensor, **options: Any
) -> Callable[[], list[attrscore.Result]]:
    """attrscore.run, one batch a call: the batch checked, the maps, all columns of grad_camo."""

    def batches() -> Iterator[attrscore.Batch]:
        while True:
            yield batch(inputs, mask)

    results = attrscore.run(model, batches(), on_error="raise", **options)
    count = len(options["layers"]) * len(options["methods"])
    # The first batch also selects the layers (once a run, one crop); it is the warm-up.
    return lambda: list(itertools.islice(results, count))


def compare(case: Case, given: Any) -> None:
    shape = case.crops(quick=given.quick)
    model, inputs, mask = prepared(case, shape, given.device)
    options = {"layers": case.layers, "methods": ["grad_cam"]}
    six = {"layers": case.layers, "methods": list(CAMS)}
    last = copy.deepcopy(model).to(memory_format=FORMATS[inputs.ndim])
    contestants: dict[str, Callable[[], object]] = {
        "floor": floor(model, case.layers[0], inputs),
        "attrscore: pass alone": ours_pass(model, case.layers, inputs, mask),
        "attrscore.run, Grad-CAM": ours(model, inputs, mask, **options),
        "attrscore.run, Grad-CAM, channels last": ours(last, inputs, mask, **options),
        "attrscore.run, six methods": ours(model, inputs, mask, **six),
        "attrscore.run, six methods, without AUC": ours(
            model, inputs, mask, scorers=attrscore.SCORERS.build("grad_camo", auc=False), **six
        ),
    }
    wanted = (None, None, "1.10", None, "1.25", "1.25")
    targets = dict(zip(contestants, wanted, strict=True))
    if case.guided:
        contestants["attrscore.run, Guided Grad-CAM"] = ours(
            model, inputs, mask, layers=case.layers, methods=["guided_grad_cam"]
        )
        targets["attrscore.run, Guided Grad-CAM"] = "2.3"
    slow: set[str] = set()
    if not given.no_peers:
        others, slow = peers.grad_cam_peers(model, case.layers, inputs, mask)
        contestants |= others
        if case.guided:
            name = "Captum, Guided Grad-CAM, layer by layer"
            contestants[name] = peers.captum_guided(model, case.layers, inputs, mask)
            slow.add(name)
    measured = measure(
        contestants,
        given.repetitions or (1 if given.quick else 5),
        device=given.device,
        slow=slow,
    )
    print(f"\n{case.name}  {shape}  {', '.join(case.layers)}")
    table(
        ("8 layers", "seconds", "x floor", "to reach"),
        [
            (name, f"{taken:.3f}", f"{ratio:.2f}", targets.get(name) and f"<= {targets[name]}")
            for name, (taken, ratio) in measured.items()
        ],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--model", nargs="*", choices=list(CASES), default=list(CASES))
    options.add_argument("--no-peers", action="store_true", help="only the floor and attrscore")
    given = options.parse_args(arguments)
    begin(given)
    for name in given.model:
        compare(CASES[name], given)


if __name__ == "__main__":
    sys.exit(main())
