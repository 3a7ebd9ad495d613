"""``attrscore collect``, ``status``, ``verify``, ``reproduce``: what is asked of results."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrscore.cli import slurm
from attrscore.cli.commands import parser_of
from attrscore.cli.hydra_app import changes_among, code_in_kept, kept_settings
from attrscore.cli.outcomes import FAILED, INCOMPLETE, OK, worst
from attrscore.errors import AttrscoreError, ConfigError, StoreError
from attrscore.store import JobFolder
from attrscore.store.folders import JOBS, Found
from attrscore.store.sweep_jobs import SWEEPS, jobs_of_sweeps

if TYPE_CHECKING:
    from attrscore.jobs.rerunning import Comparison

MOST_BYTES = 256 * 2**20
"""Of a table that is read back for a summary and a figure: some million rows."""

RESULTS: Any = {"nargs": "?", "default": Path("results")}
OR_FILE = "a results folder, or a file of one (default: results)"


def collect(arguments: Sequence[str]) -> int:
    """Write one table of all jobs of a results folder, print its means, and draw it."""
    parser = parser_of(
        "collect", collect.__doc__, "example: attrscore collect results/ -o scores.parquet"
    )
    parser.add_argument("results", type=Path, **RESULTS, help="a results folder (default: results)")
    parser.add_argument(
        "-o", "--output", type=Path, help=".h5, .csv or .parquet (default: RESULTS/results.h5)"
    )
    parser.add_argument("--figures", choices=("all", "none"), default="all", help="(default: all)")
    parser.add_argument(
        "--excel", action="store_true", help="CSV in which no text is a formula: '=1+1 for =1+1"
    )
    parser.add_argument("--json", action="store_true", help="what was written, and the means")
    options = parser.parse_args(list(arguments))
    from attrscore import store
    from attrscore.cli import output
    from attrscore.report import figures as plots
    from attrscore.store.folders import no_results
    from attrscore.store.scores import FORMATS, rows_and_bytes

    path = options.output or options.results / "results.h5"
    if path.suffix not in FORMATS:
        raise ConfigError(f"{path} must end in one of {', '.join(FORMATS)}.")
    if options.excel and path.suffix != ".csv":
        raise ConfigError(f"--excel is of CSV, and {path} is none; leave it out, or write a .csv.")
    if not options.results.exists():
        raise no_results(options.results)
    from attrscore.stats.conditions import is_null

    rows, size = rows_and_bytes(options.results, path, excel=options.excel)
    out = output.stderr() if options.json else output.stdout()
    written: dict[str, Any] = {"output": str(path), "rows": rows, "means": []}
    if size <= MOST_BYTES:
        whole = options.results if path.suffix == ".csv" else path
        scores = store.read_scores(whole)
        written["means"] = output.means(scores)
        if not options.json:
            out.print(output.summary(scores, width=out.width))
        if options.figures == "all":
            # Of models beside their randomised twins the figure shows what was learnt.
            hidden = is_null(scores)
            drawn_of = scores if hidden.all() else scores[~hidden]
            drawn = plots.distributions(drawn_of, score=output.headline(scores))
            figure = plots.save(drawn, path.with_name(f"{path.stem}-scores.png"))
            for each in [figure, *sorted((options.results / "figures").glob("cells-*.png"))]:
                out.print(f"figure: {each}", soft_wrap=True)
    else:
        out.print(f"no summary and no figure: the table takes {size // 2**20} MiB of memory")
    out.print(f"table:  {path} ({rows} rows)", soft_wrap=True)
    if options.json:
        sys.stdout.write(json.dumps(written, indent=1) + "\n")
    return OK


def status(arguments: Sequence[str]) -> int:
    """Show what is done, failed, running and missing in a results folder; or how one file was made.

    The jobs that sweeps asked for are listed too where they are not done: absent, queued, running,
    or how they ended.
    """
    parser = parser_of("status", status.__doc__, "example: attrscore status results/")
    parser.add_argument("path", type=Path, **RESULTS, help=OR_FILE)
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    options = parser.parse_args(list(arguments))
    from attrscore.cli import output
    from attrscore.store import status as states

    if options.path.is_file():
        provenance = states.provenance_of(options.path)
        if options.json:
            sys.stdout.write(json.dumps(provenance, indent=1, default=str) + "\n")
        else:
            output.say_provenance(provenance)
        return OK
    queue = slurm.running() if (options.path / SWEEPS).is_dir() else None
    sweeps = jobs_of_sweeps(options.path, queue=queue)
    begun = not sweeps or (options.path / JOBS).is_dir()
    jobs = states.status_of(options.path) if begun else []
    asked = list({job.overrides: job for jobs in sweeps.values() for job in jobs}.values())
    if options.json:
        both = {
            "jobs": [job.as_dict() for job in jobs],
            "asked": [asdict(job) for job in asked],
        }
        sys.stdout.write(json.dumps(both, indent=1) + "\n")
    else:
        output.say_status(jobs)
        output.say_sweep_jobs(asked)
    done = all(job.done == job.conditions and not job.stopped for job in jobs)
    return OK if done and all(job.done for job in asked) else INCOMPLETE


def verify(arguments: Sequence[str]) -> int:
    """Read every file of a results folder and say what is damaged, missing, foreign or double."""
    parser = parser_of("verify", verify.__doc__, "example: attrscore verify results/")
    parser.add_argument("path", type=Path, **RESULTS, help=OR_FILE)
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    parser.add_argument("--seconds", type=float, default=60.0, help="limit for one file")
    parser.add_argument("--memory", type=float, default=2.0, help="limit in GiB")
    options = parser.parse_args(list(arguments))
    from attrscore import store
    from attrscore.cli import output

    report = store.verify(options.path, seconds=options.seconds, memory=int(options.memory * 2**30))
    code = [] if report.problems and options.path.is_file() else _code_behind(options.path)
    if options.json:
        sys.stdout.write(json.dumps({**report.as_dict(), "runs_code": code}, indent=1) + "\n")
    else:
        output.say_report(report)
        output.say_code(code)
    return FAILED if report.problems else OK


def _code_behind(path: Path) -> list[dict[str, str]]:
    """The jobs whose configuration runs code when it is built again, and which code."""
    from attrscore.store.folders import find, job_folders

    found = []
    with suppress(StoreError):
        paths = [path] if path.is_file() else job_folders(path)
        for each in paths:
            with suppress(StoreError):
                folder = find([each])[0][0].folder if each.is_file() else JobFolder.read(each)
                code = code_in_kept(folder.config).items()
                found += [
                    {"job": folder.job.id, "setting": setting, "value": value, "trust": package}
                    for setting, (value, package) in code
                ]
    return found


def reproduce(arguments: Sequence[str]) -> int:
    """Run jobs, or the rows of one of their files, again from their configuration; compare.

    Nothing that exists is changed. Relative paths in the configuration start from the working
    folder.
    """
    parser = parser_of(
        "reproduce",
        reproduce.__doc__,
        "example: attrscore reproduce results/jobs/0123456789abcdef; of moved files: "
        "... dataset.images='moved/*.tif'",
    )
    parser.add_argument("path", type=Path, help="a folder of results or of a job, or a part")
    parser.add_argument("--json", action="store_true", help="for other programs")
    arguments, changes = changes_among(arguments)
    options = parser.parse_args(arguments)
    path = options.path
    from attrscore.cli import output
    from attrscore.store.folders import find

    jobs = [found for found in find([path])[0] if found.parts]
    if not jobs:
        raise StoreError(
            f"{path} holds no part of a job, which is what can be run again; a merged file names "
            "the jobs that it was made of: attrscore status"
        )
    verdicts, listed = [], []
    for found in jobs:
        comparison = _reproduced(found, changes)
        if len(jobs) > 1:
            comparison = replace(
                comparison, sentence=f"{found.folder.job.id}: {comparison.sentence}"
            )
        if not options.json:
            output.say_comparison(comparison)
        listed.append({"job": found.folder.job.id, **asdict(comparison)})
        verdicts.append(comparison.verdict)
    if options.json:
        sys.stdout.write(json.dumps(listed, indent=1, default=str) + "\n")
    return worst(
        {"identical": OK, "differs": INCOMPLETE, "impossible": FAILED}[v] for v in verdicts
    )


def _reproduced(found: Found, changes: Sequence[str]) -> Comparison:
    import pandas as pd
    import torch

    from attrscore.jobs.assembly import build
    from attrscore.jobs.rerunning import compare, moved
    from attrscore.store.part import read_table

    folder = found.folder
    try:
        if folder.runs:  # the number of threads decides how some sums are rounded
            torch.set_num_threads(int(folder.runs[-1].get("threads", torch.get_num_threads())))
        settings = {**kept_settings(folder.config, changes), "figures": "none", "show": []}
        parts = build(settings)
    except AttrscoreError as error:
        return _impossible(str(error))
    changed = moved(folder.job.base, parts.job.base)
    cells = len(parts.dataset.table)
    if cells != folder.job.rows:
        changed["dataset.cells"] = f"{folder.job.rows} then, {cells} now"
    if "dataset.cells" in changed or any("fingerprint" in name for name in changed):
        comparison = _impossible("The model or the data are not those of then:")
        return replace(comparison, differences=changed)
    stored = pd.concat(map(read_table, found.parts.values()), ignore_index=True)
    again = _again(folder, parts, list(found.parts))
    comparison = compare(stored, again)
    return replace(comparison, differences={**comparison.differences, **changed})


def _impossible(why: str) -> Comparison:
    from attrscore.jobs.rerunning import Comparison

    return Comparison("impossible", f"This cannot be run again here. {why}")


def _again(folder: JobFolder, parts: Any, names: Sequence[str]) -> Any:
    """The same rows computed now, written to a temporary folder and read back."""
    from attrscore import store
    from attrscore.jobs.computing import compute
    from attrscore.jobs.run import refused_by_preflight
    from attrscore.store.part import part_ranges

    wanted = {condition.triple for condition in folder.job.conditions}
    refused = refused_by_preflight(parts, {method for method, _, _ in wanted})
    with tempfile.TemporaryDirectory(prefix="attrscore-") as aside:
        writer = store.Writer(aside, folder.job, labels=parts.labels)
        for start, stop in sorted(part_ranges(names)):
            part = compute(parts, range(start, stop), wanted=wanted, refused=refused)
            writer.write_part(start, stop, part)
        import pandas as pd

        paths = sorted(writer.folder.glob("*.h5"))
        return pd.concat([store.read_part(each).table for each in paths], ignore_index=True)
