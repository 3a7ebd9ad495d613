"""The validation: does attrscore find what was planted, and does it stay quiet where nothing was?

    python benchmarks/validation [--quick] [--only planted hand_built ...] [--output validation]

Writes a table and a figure a part, and ``summary.md`` with every claim, what was expected of it
beforehand, and what came out. The exit status is 1 where a promise does not hold.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import geometry
import hand_built
import paper
import planted
import real
import sanity
import torch
from common import QUICK, Check, Scale

PARTS: dict[str, Callable[[Scale, Path], list[Check]]] = {
    "planted": planted.run,
    "hand_built": hand_built.run,
    "sanity": sanity.run,
    "geometry": geometry.run,
    "paper": paper.run,
    "real": real.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small: shows that it works")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--output", type=Path, default=Path("validation"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    scale = QUICK if options.quick else Scale()
    checks: list[Check] = []
    for name in options.only:
        started, computed = time.perf_counter(), time.process_time()
        checks += PARTS[name](scale, options.output)
        passed, used = time.perf_counter() - started, time.process_time() - computed
        print(f"{name}: {passed:.0f} s, of the processors {used:.0f} s", flush=True)
    report = summary(checks)
    (options.output / "summary.md").write_text(report, encoding="utf-8")
    print(f"\n{report}\n{options.output / 'summary.md'}")
    return 1 if any(check.holds is False for check in checks) else 0


def summary(checks: list[Check]) -> str:
    """Every check as a table in Markdown."""
    words = {True: "holds", False: "**FAILS**", None: "reported"}
    lines = ["| part | claim | expected | measured | |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {c.part} | {c.claim} | {c.expected} | {c.measured} | {words[c.holds]} |" for c in checks
    ]
    return "\n".join(lines) + f"\n\ntorch {torch.__version__}, {torch.get_num_threads()} threads\n"


if __name__ == "__main__":
    sys.exit(main())
