"""Integrated gradients: time beside a step at a time, and peak memory over the number of steps.

    python benchmarks/integrated_gradients.py [--quick]

EfficientNet-b0 in 2D (2 crops) and 3D (1 crop). The peaks are taken as in ``memory.py``.
"""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from memory import MIB, peak, resident
from models import CASES, batch, prepared
from peers import installed
from timing import begin, measure, parser, table
from torch import Tensor, nn

import attrscore

CROPS = {"efficientnet-b0-2d": 2, "efficientnet-b0-3d": 1}
CAPTUM_AT_ONCE = 16
"""Steps of Captum's peak: at 50 it takes several times as much."""


def a_step_at_a_time(model: nn.Module, inputs: Tensor, steps: int) -> Callable[[], Tensor]:
    """The plain loop, parameters frozen; it is told the class."""
    model = copy.deepcopy(model).requires_grad_(False)  # noqa: FBT003
    with torch.no_grad():
        predicted = model(inputs).argmax(1, keepdim=True)

    def once() -> Tensor:
        total = torch.zeros_like(inputs)
        for step in range(steps):
            point = (inputs * ((step + 0.5) / steps)).requires_grad_()
            scalar = model(point).gather(1, predicted).sum()
            total += torch.autograd.grad(scalar, point)[0]
        return total * inputs / steps

    return once


def ours(model: nn.Module, inputs: Tensor, mask: Tensor, steps: int) -> Callable[[], object]:
    method = attrscore.METHODS.build("integrated_gradients", steps=steps)
    made = batch(inputs, mask)
    return lambda: list(attrscore.run(model, made, methods=method, on_error="raise"))


def captum(model: nn.Module, inputs: Tensor, steps: int) -> Callable[[], Tensor]:
    from captum.attr import IntegratedGradients

    with torch.no_grad():
        predicted = model(inputs).argmax(1)
    return lambda: IntegratedGradients(model).attribute(inputs, target=predicted, n_steps=steps)


def contestants(
    model: str, given: Any, steps: int
) -> tuple[dict[str, Callable[[], object]], tuple[int, ...]]:
    case = CASES[model]
    shape = (CROPS[model], *case.crops(quick=given.quick)[1:])
    model, inputs, mask = prepared(case, shape, given.device)
    made: dict[str, Callable[[], object]] = {
        "a step at a time": a_step_at_a_time(model, inputs, steps),
        "attrscore": ours(model, inputs, mask, steps),
    }
    if installed("captum"):
        made["Captum, all at once"] = captum(model, inputs, steps)
    return made, shape


def child(given: Any) -> None:
    torch.set_num_threads(given.threads)
    name, steps = given.contestant.split(":")
    made, _ = contestants(given.model, given, int(steps))
    few, _ = contestants(given.model, given, 2)
    few[name]()
    gc.collect()
    before = resident()
    made[name]()
    print(max(0, peak() - before))


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--model", choices=list(CROPS))
    options.add_argument("--contestant", help="name:steps, in this process, for its peak memory")
    given = options.parse_args(arguments)
    if given.contestant:
        child(given)
        return
    begin(given)
    steps = 4 if given.quick else 50
    for model in [given.model] if given.model else CROPS:
        made, shape = contestants(model, given, steps)
        measured = measure(
            made,
            given.repetitions or (1 if given.quick else 2),
            device=given.device,
            slow={"Captum, all at once"},
        )
        print(f"\n{model}  {shape}, {steps} steps")
        table(
            ("integrated gradients", "seconds", "x a step at a time", "to reach"),
            [
                (
                    name,
                    f"{taken:.2f}",
                    f"{ratio:.2f}",
                    "<= 0.80" if name.startswith("attrscore") else None,
                )
                for name, (taken, ratio) in measured.items()
            ],
        )
        if given.device == "cpu":
            table(("peak memory", "steps", "MiB"), _peaks(model, given, steps))


def _peaks(model: str, given: Any, steps: int) -> list[tuple[str, int, str]]:
    asked = [("attrscore", steps), ("attrscore", 2 * steps)]
    if installed("captum"):
        asked.append(("Captum, all at once", min(steps, CAPTUM_AT_ONCE)))
    rows = []
    for name, count in asked:
        command = [sys.executable, __file__, "--model", model, "--threads", str(given.threads)]
        command += ["--contestant", f"{name}:{count}"] + ["--quick"] * given.quick
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append((name, count, f"{int(done.stdout.split()[-1]) / MIB:.0f}"))
    return rows


if __name__ == "__main__":
    sys.exit(main())
