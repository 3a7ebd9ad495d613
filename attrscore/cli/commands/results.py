"""``attrscore collect``, ``status`` and ``verify``: what is asked of a results folder."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrscore.errors import ConfigError

__all__ = ["collect", "status", "verify"]

MOST_BYTES = 256 * 2**20
"""Of a table that is read back for a summary and a figure: some million rows."""

OK, FAILED, INCOMPLETE = 0, 1, 3

RESULTS: Any = {"nargs": "?", "default": Path("results")}
OR_FILE = "a results folder, or a file of one (default: results)"


def collect(arguments: Sequence[str]) -> int:
    """Write one table of all jobs of a results folder, print its means, and draw it."""
    parser = argparse.ArgumentParser(
        prog="attrscore collect",
        description=collect.__doc__,
        epilog="example: attrscore collect results/ -o scores.parquet",
    )
    parser.add_argument("results", type=Path, **RESULTS, help="a results folder (default: results)")
    parser.add_argument(
        "-o", "--output", type=Path, help=".h5, .csv or .parquet (default: RESULTS/results.h5)"
    )
    parser.add_argument("--figures", choices=("all", "none"), default="all", help="(default: all)")
    parser.add_argument("--json", action="store_true", help="what was written, and the means")
    options = parser.parse_args(list(arguments))
    from attrscore import store
    from attrscore.cli import output as terminal
    from attrscore.report import figures as plots
    from attrscore.store.folders import no_results
    from attrscore.store.merge import FORMATS, rows_and_bytes

    output = options.output or options.results / "results.h5"
    if output.suffix not in FORMATS:
        raise ConfigError(f"{output} must end in one of {', '.join(FORMATS)}.")
    if not options.results.exists():
        raise no_results(options.results)
    from attrscore.stats.conditions import is_null

    rows, size = rows_and_bytes(options.results, output)
    out = terminal.stderr() if options.json else terminal.stdout()
    told: dict[str, Any] = {"output": str(output), "rows": rows, "means": []}
    if size <= MOST_BYTES:
        whole = options.results if output.suffix == ".csv" else output
        scores = store.read_scores(whole)
        told["means"] = terminal.means(scores)
        if not options.json:
            out.print(terminal.summary(scores, width=out.width))
        if options.figures == "all":
            # Of networks beside their randomised twins the figure shows what was learnt.
            hidden = is_null(scores)
            drawn_of = scores if hidden.all() else scores[~hidden]
            drawn = plots.distributions(drawn_of, score=terminal.headline(scores))
            path = plots.save(drawn, output.with_name(f"{output.stem}-scores.png"))
            for figure in [path, *sorted((options.results / "figures").glob("cells-*.png"))]:
                out.print(f"figure: {figure}", soft_wrap=True)
    else:
        out.print(f"no summary and no figure: the table takes {size // 2**20} MiB of memory")
    out.print(f"table:  {output} ({rows} rows)", soft_wrap=True)
    if options.json:
        sys.stdout.write(json.dumps(told, indent=1) + "\n")
    return OK


def status(arguments: Sequence[str]) -> int:
    """Show what is done, failed and missing in a results folder, or how one file was made."""
    parser = argparse.ArgumentParser(
        prog="attrscore status",
        description=status.__doc__,
        epilog="example: attrscore status results/",
    )
    parser.add_argument("path", type=Path, **RESULTS, help=OR_FILE)
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    options = parser.parse_args(list(arguments))
    from attrscore.cli import output as terminal
    from attrscore.store import status as states

    if options.path.is_file():
        told = states.provenance_of(options.path)
        if options.json:
            sys.stdout.write(json.dumps(told, indent=1, default=str) + "\n")
        else:
            terminal.say_provenance(told)
        return OK
    jobs = states.status_of(options.path)
    if options.json:
        sys.stdout.write(json.dumps([job.told() for job in jobs], indent=1) + "\n")
    else:
        terminal.say_status(jobs)
    return OK if all(job.done == job.conditions and not job.stopped for job in jobs) else INCOMPLETE


def verify(arguments: Sequence[str]) -> int:
    """Read every file of a results folder and tell what is damaged, missing, foreign or double."""
    parser = argparse.ArgumentParser(
        prog="attrscore verify",
        description=verify.__doc__,
        epilog="example: attrscore verify results/",
    )
    parser.add_argument("path", type=Path, **RESULTS, help=OR_FILE)
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    parser.add_argument("--seconds", type=float, default=60.0, help="limit for one file")
    parser.add_argument("--memory", type=float, default=2.0, help="limit in GiB")
    options = parser.parse_args(list(arguments))
    from attrscore import store
    from attrscore.cli import output as terminal

    report = store.verify(options.path, seconds=options.seconds, memory=int(options.memory * 2**30))
    if options.json:
        sys.stdout.write(json.dumps(report.told(), indent=1) + "\n")
    else:
        terminal.say_report(report)
    return FAILED if report.problems else OK
