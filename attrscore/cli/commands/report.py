"""``attrscore report``: what results say, and how sure that is."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrscore.cli.commands import parser_of
from attrscore.cli.outcomes import OK
from attrscore.errors import ConfigError, StoreError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

    from attrscore import stats
    from attrscore.store.folders import Found

PAGE = "report.html"
MOST_MAPS = 1000
"""Cells of a job whose maps are compared; more would have to fit into memory at once."""


def report(arguments: Sequence[str]) -> int:
    """Show what results say, and how sure that is: intervals over wells, comparisons, verdicts.

    On the terminal; with ``-o`` as one HTML page; with ``--figure`` as one figure.
    """
    options = _options(arguments)
    from rich.table import Table

    from attrscore import stats, store
    from attrscore.cli import output
    from attrscore.report import text
    from attrscore.report.leaderboard import is_leaderboard
    from attrscore.report.provenance import classes_of, jobs_of, red_flags_of

    table = store.read_scores(*options.results)
    if is_leaderboard(table) and len(options.results) == 1:
        return _leaderboard(options, arguments)
    jobs = jobs_of(options.results)
    options.score = options.score or output.headline(table)
    found = stats.report(
        table,
        score=options.score,
        threshold=options.threshold,
        clusters=options.clusters,
        by=options.by,
        null=options.null,
        primary=options.primary,
        rule=_rule(options.rule),
        classes=classes_of(jobs),
        seed=options.seed,
    )
    if options.figure:
        from attrscore.report import figures as plots

        sheet = plots.figure(options.figure, table, found)
        path = plots.save(sheet, options.output or Path(f"{options.figure}.png"))
        output.stdout().print(f"figure: {path}", soft_wrap=True)
        return OK
    found = replace(found, maps=_map_agreement(options.results))
    if options.output:
        path = _write_page(table, found, options, arguments)
        output.stdout().print(f"report: {path}", soft_wrap=True)
        return OK
    out = output.stdout()
    flags = red_flags_of(jobs)
    if options.json:
        shown = {**found.as_dict(), "red_flags": flags}
        out.file.write(json.dumps(shown, ensure_ascii=False, indent=1) + "\n")
    else:
        for flag in flags:
            out.print(f"red flag: {flag}", soft_wrap=True)
        for part in text.parts(found):
            out.print(part, soft_wrap=not isinstance(part, Table))
    if options.figures:
        from attrscore.report import figures as plots

        for name, drawn in plots.figures_of(table, found):
            path = plots.save(drawn, options.figures / f"{name}.png")
            output.stderr().print(f"figure: {path}", soft_wrap=True)
    return OK


def _leaderboard(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """The report of a leaderboard: its table, one of its figures, or its page."""
    from attrscore.cli import output
    from attrscore.report import figures as plots
    from attrscore.report import leaderboard as boards
    from attrscore.report import text
    from attrscore.report.page import leaderboard_page

    (results,) = options.results
    board = boards.leaderboard(results)
    out = output.stdout()
    if options.figure:
        drawn = board.figures()
        if options.figure not in drawn:
            raise ConfigError(
                f"A leaderboard has no figure {options.figure!r}. "
                f"{did_you_mean(options.figure, drawn)}"
            )
        path = plots.save(drawn[options.figure][2], options.output or Path(f"{options.figure}.png"))
        out.print(f"figure: {path}", soft_wrap=True)
    elif options.output:
        command = shlex.join(["attrscore", "report", *arguments])
        page = leaderboard_page(board, results=results, command=command)
        path = _commit_page(options.output, page)
        out.print(f"report: {path}", soft_wrap=True)
    elif options.json:
        out.file.write(board.table.to_json(orient="records", indent=1) + "\n")
    else:
        for part in text.of_leaderboard(board):
            out.print(part, soft_wrap=isinstance(part, str))
    return OK


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    from attrscore.report.figures import FIGURES
    from attrscore.stats import Rule

    parser = parser_of("report", report.__doc__, "example: attrscore report results/ -o report/")
    tables = "results folders, or .h5 and .parquet tables (default: results)"
    parser.add_argument("results", nargs="*", default=["results"], help=tables)
    output = f"folder for one page ({PAGE}), or its file; with --figure: a .png, .svg or .pdf"
    parser.add_argument("-o", "--output", type=Path, metavar="PATH", help=output)
    parser.add_argument("--figure", metavar="KIND", help=f"one figure alone: {', '.join(FIGURES)}")
    parser.add_argument("--score", help="column (default: grad_camo, or the first there is)")
    parser.add_argument("--threshold", type=float, default=0.5, help="of P(S > t) (default: 0.5)")
    parser.add_argument(
        "--clusters", type=_names, help="units, the outermost first: Metadata_Plate,Metadata_Well"
    )
    parser.add_argument("--by", type=_names, default=[], help="groups: Metadata_Treatment")
    parser.add_argument("--null", help="the model of randomised weights, if it has its own name")
    chosen = "the condition that speaks for a model: method=hires_cam,layer=features.6"
    parser.add_argument("--primary", type=_pairs, default={}, metavar="PAIRS", help=chosen)
    asked = f"what a verdict asks for (default: {Rule()})"
    parser.add_argument("--rule", default="", metavar="PAIRS", help=asked)
    parser.add_argument("--seed", type=int, default=0, help="of the resampling (default: 0)")
    parser.add_argument("--json", action="store_true", help="everything, for other programs")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="draw into this folder")
    options = parser.parse_args(list(arguments))
    if options.json and (options.output or options.figure):
        raise ConfigError("--json prints on the terminal: leave out -o and --figure.")
    return options


def _write_page(
    table: pd.DataFrame,
    found: stats.Report,
    options: argparse.Namespace,
    arguments: Sequence[str],
) -> Path:
    """The page in its file, whole or not at all."""
    from attrscore import store
    from attrscore.cli import output
    from attrscore.report.page import page

    runs = {}
    if len(options.results) > 1:
        runs = {name: store.read_scores(name) for name in options.results}
    text = page(
        table,
        found,
        results=options.results,
        runs=runs,
        command=shlex.join(["attrscore", "report", *arguments]),
        null=options.null,
        progress=output.stderr().print,
    )
    return _commit_page(options.output, text)


def _commit_page(output: Path, text: str) -> Path:
    from attrscore.store.commit import commit, make_folder

    path = output if output.suffix == ".html" else output / PAGE
    make_folder(path.parent)
    commit(path, text.encode("utf-8", "backslashreplace"))
    return path


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _pairs(text: str) -> dict[str, str]:
    """Names and values from text such as ``method=hires_cam,layer=features.6``."""
    pairs = (each.partition("=") for each in _names(text))
    return {name: value for name, _, value in pairs}


def _rule(text: str) -> stats.Rule:
    """The rule from text such as ``effect=0.2,cells=50``."""
    from attrscore.stats import Rule

    known, given = asdict(Rule()), {}
    for name, value in _pairs(text).items():
        if name not in known:
            raise ConfigError(f"The rule has no '{name}'. {did_you_mean(name, known)}")
        try:
            given[name] = type(known[name])(value)
        except ValueError:
            raise ConfigError(f"--rule {name}={value} must be a number.") from None
    return Rule(**given)


def _map_agreement(results: Sequence[str]) -> pd.DataFrame:
    """How alike the kept maps of trained models are, by model, layer and grid."""
    import pandas as pd

    from attrscore import stats, store
    from attrscore.store.folders import find
    from attrscore.store.identity import canonical, flatten

    groups: dict[tuple[str, str], dict[tuple[str, tuple[int, ...]], dict[str, Any]]] = {}
    for job in find([path for path in results if Path(path).is_dir()])[0]:
        base = {k: v for k, v in job.folder.job.base.items() if k not in ("heat", "keep")}
        if not job.parts or flatten(base).get("model.randomize") not in (None, "none"):
            continue
        group = groups.setdefault((job.folder.model, canonical(base)), {})
        for method, layer in {(c.method.key, c.layer) for c in job.folder.job.conditions}:
            with suppress(StoreError):  # not every job keeps maps
                ids, maps = store.read_maps(job.folder.path, method, layer, ids=_some(job))
                group.setdefault((layer, maps.shape[2:]), {}).setdefault(method, (ids, maps))
    frames = [
        stats.map_agreement(dict(sorted(maps.items()))).assign(model=model, layer=layer)
        for (model, _), group in groups.items()
        for (layer, _), maps in sorted(group.items())
        if len(maps) > 1
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _some(job: Found) -> list[str] | None:
    """Cells whose maps are compared: all, or those with the smallest hashes of their ids."""
    from attrscore.store.maps import order_of
    from attrscore.store.part import read_table

    if job.folder.job.rows <= MOST_MAPS:
        return None
    ids = {str(each) for part in job.parts.values() for each in read_table(part, ["id"])["id"]}
    return sorted(ids, key=order_of)[:MOST_MAPS]
