"""The validation: does attrscore find what was planted, and does it stay quiet where nothing was?

    python benchmarks/validation [--quick] [--only planted hand_built ...] [--output validation]

Writes a table and a figure a part, and ``summary.md`` with every claim, what was expected of it
beforehand, and what came out. The exit status is 1 where a promise does not hold. Two parts run
side by side (``--jobs``), a thread each.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from common import QUICK, Check, Scale
from parts import PARTS, run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small: shows that it works")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--output", type=Path, default=Path("validation"))
    parser.add_argument("--jobs", type=int, default=2, help="parts at a time (default: 2)")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    scale = QUICK if options.quick else Scale()
    found: dict[str, list[Check]] = {}
    for done in run(options.only, scale, options.output, jobs=options.jobs):
        found[done.name] = list(done.checks)
        took = f"{done.passed:.0f} s, of a processor {done.computed:.0f} s"
        print(f"{done.name}: {took}", flush=True)
    checks = [check for name in PARTS for check in found.get(name, [])]
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
    return "\n".join(lines) + f"\n\ntorch {torch.__version__}\n"


if __name__ == "__main__":
    sys.exit(main())
