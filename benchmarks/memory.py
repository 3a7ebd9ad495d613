"""Peak memory of Grad-CAM at 8 layers, beside Captum at the lowest of them alone.

    python benchmarks/memory.py [--quick] [--model resnet18-2d ...]

Each contestant is a process of its own, which imports, builds the model and the batch, and runs
once on one crop before the baseline is taken. On a CPU the peak is that of the resident set, less
the resident set at the baseline; on an accelerator, torch's peak.
"""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from models import CASES, batch, prepared
from timing import begin, parser, table
from torch import Tensor, nn

import attrscore

MIB = 2**20
CONTESTANTS = (
    "Captum, the lowest layer alone",
    "attrscore.run, 8 layers scored",
    "torchcam, 8 layers",
)


def resident() -> int:
    """Bytes now; where there is no /proc, the peak so far."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return peak()
    return int(status.read_text().split()[1]) * resource.getpagesize()


def peak() -> int:
    """Bytes at most so far: of this program, not of the one that started it as ``ru_maxrss`` is."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def contestant(
    name: str, model: nn.Module, layers: Sequence[str], inputs: Tensor, mask: Tensor
) -> Callable[[int], object]:
    """What runs on the first so many crops."""
    if name.startswith("Captum"):
        from captum.attr import LayerGradCam

        explainer = LayerGradCam(model, model.get_submodule(layers[0]))
        return lambda n: explainer.attribute(inputs[:n], target=0).detach()
    if name.startswith("torchcam"):
        import peers

        return lambda n: peers.torchcam(model, layers, inputs[:n], mask[:n])()
    options = {"layers": layers, "methods": "grad_cam", "on_error": "raise"}
    return lambda n: list(attrscore.run(model, batch(inputs[:n], mask[:n]), **options))


def child(given: Any) -> None:
    """Print the peak in bytes, above the baseline, of one contestant."""
    torch.set_num_threads(given.threads)
    case = CASES[given.model[0]]
    model, inputs, mask = prepared(case, case.crops(quick=given.quick), given.device)
    once = contestant(given.contestant, model, case.layers, inputs, mask)
    once(1)
    gc.collect()
    if given.device != "cpu":
        before = torch.cuda.memory_allocated(given.device)
        torch.cuda.reset_peak_memory_stats(given.device)
        once(len(inputs))
        print(torch.cuda.max_memory_allocated(given.device) - before)
        return
    before = resident()
    once(len(inputs))
    print(peak() - before)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--model", nargs="*", choices=list(CASES), default=list(CASES))
    options.add_argument("--contestant", help="one of them, in this process")
    given = options.parse_args(arguments)
    if given.contestant:
        child(given)
        return
    begin(given)
    for model in given.model:
        same = [*("--model", model, "--device", given.device), "--threads", str(given.threads)]
        found = {}
        for name in CONTESTANTS:
            command = [sys.executable, __file__, *same, "--contestant", name]
            done = subprocess.run(
                command + ["--quick"] * given.quick, capture_output=True, text=True
            )
            if done.returncode:
                print(f"left out: {name} ({done.stderr.strip().splitlines()[-1]})")
            else:
                found[name] = int(done.stdout.split()[-1])
        print(f"\n{model}  {CASES[model].crops(quick=given.quick)}")
        first = next(iter(found.values()))
        table(
            ("peak memory", "MiB", "x Captum, one layer", "to reach"),
            [
                (
                    name,
                    f"{used / MIB:.0f}",
                    f"{used / first:.2f}",
                    "<= 0.75" if name.startswith("attrscore") else None,
                )
                for name, used in found.items()
            ],
        )


if __name__ == "__main__":
    sys.exit(main())
