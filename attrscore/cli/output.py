"""What the terminal shows: tables, bars, and what was left out. Needs no torch."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from attrscore.core.columns import column_of
from attrscore.core.readings import reading_of
from attrscore.core.statuses import reason_table
from attrscore.errors import preview, shown

if TYPE_CHECKING:
    from attrscore.core.contracts import Dataset
    from attrscore.core.registry import Entry
    from attrscore.engine.preflight import Finding, Survey
    from attrscore.jobs.planning import Plan
    from attrscore.jobs.provenance import Contents
    from attrscore.jobs.rerunning import Comparison
    from attrscore.store import JobStatus, Report
    from attrscore.store.sweep_jobs import SweepJob
    from attrscore.testing import Outcome

MINUTE = 60.0
MOST_JOBS = 20
MOST_CLASSES = 12
"""Of a table of confusion on the terminal: those with the most cells."""
WIDE = 10_000
"""Characters of a line that is never folded."""


class Advance(Protocol):
    """Called with how much is done, of how much, and what is going on."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Move the bar."""
        ...


class _Console(Console):
    """Shows text as it is: brackets are no markup, nothing in it controls the terminal."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich does: it is called for lines, cells of tables and titles."""
        return super().render_str(shown(text), **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich does."""
        for each in objects:
            if isinstance(each, Text):
                each.plain = shown(each.plain)
        super().print(*objects, **options)


class _Plain(_Console):
    """For files and pipes: nothing folded, no borders, a line a row."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich does; a table without what is drawn around it."""
        for each in objects:
            if not isinstance(each, Table):
                super().print(each, **options)
                continue
            each.box, each.pad_edge, each.padding = None, False, (0, 2, 0, 0)
            for column in each.columns:
                column.header = str(column.header).replace(".\n", ".").replace("\n", " ")
            title, caption = each.title, each.caption
            each.title = each.caption = None  # they would be folded to the width of the table
            for piece in (title, each, caption):
                if piece:
                    super().print(piece, highlight=False, soft_wrap=piece is not each)


def stdout() -> Console:
    """Standard output; plain where it is no terminal and no notebook."""
    console = _Console()
    return console if console.is_terminal or console.is_jupyter else _Plain(width=WIDE)


def stderr() -> Console:
    """Standard error."""
    return _Console(stderr=True)


@contextmanager
def progress(unit: str, *, at_once: int = 1) -> Iterator[Advance]:
    """A bar on a terminal, elsewhere a line a minute; a total of 0 is not known.

    ``at_once``: processes that write here; bars of several would be drawn over each other.
    """
    console = stderr()
    if at_once > 1 or not console.is_terminal:
        with _lines(unit) as advance:
            yield advance
        return
    columns = (
        *(BarColumn(), MofNCompleteColumn(), TextColumn(unit, markup=False), TimeRemainingColumn()),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as drawn:
        task = drawn.add_task(unit, total=None, note="")
        yield lambda done, total, note="": drawn.update(
            task, completed=done, total=total or None, note=shown(note)
        )


@contextmanager
def _lines(unit: str) -> Iterator[Advance]:
    """A line a :data:`MINUTE` with what was heard last, also while nothing is heard."""
    heard: list[tuple[int, int, str]] = []
    began, over = time.monotonic(), threading.Event()

    def say_each_minute() -> None:
        while not over.wait(MINUTE):
            for done, total, note in heard[-1:]:
                passed = time.monotonic() - began
                left = f"about {_duration(passed * (total / done - 1))} left" if done else ""
                count = f"{done} of {total} {unit}" if total else f"{done} {unit}"
                say(", ".join(filter(None, (count, note, left if total else ""))))

    def advance(done: int, total: int, note: str = "") -> None:
        heard[:] = [(done, total, note)]

    thread = threading.Thread(target=say_each_minute, daemon=True)
    thread.start()
    try:
        yield advance
    finally:
        over.set()
        thread.join()


def scorer_columns(scores: pd.DataFrame) -> list[str]:
    """One column that stands for each scorer, in order: its own, else the first with a value."""
    known: dict[str, list[str]] = {}
    for column in map(str, scores.columns):
        owner = column.partition(".")[0]
        if column_of(column).kind == "score" and scores[column].dtype.kind == "f":
            known.setdefault(owner, []).append(column)
    return [
        next((column for column in own if scores[column].notna().any()), own[0])
        for own in (sorted(each, key=lambda c: "." in c) for each in known.values())
    ]


def headline(scores: pd.DataFrame) -> str:
    """The column that stands for a table: Grad-CAMO, or else the first scorer's."""
    columns = scorer_columns(scores)
    return "grad_camo" if "grad_camo" in columns else columns[0]


def means(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """What :func:`summary` shows, a mapping a row; a mean that is undefined is None."""
    keys, first, columns = _shown(scores)
    rows = []
    for names, group in scores.groupby(keys, sort=False, observed=True, dropna=False):
        row: dict[str, Any] = dict(zip(keys, map(str, names), strict=True))
        row |= {"cells": len(group), "defined": int(group[first].notna().sum())}
        for column in columns:
            mean = float(group[column].mean())
            row[column] = None if math.isnan(mean) else mean
        rows.append(row)
    return rows


def _shown(scores: pd.DataFrame) -> tuple[list[str], str, list[str]]:
    """The columns that a summary groups by, the headline, and all that are averaged."""
    randomized = [str(c) for c in scores if str(c).startswith("model.randomize")]
    keys = ["model", *randomized, "dataset", "method", "layer"]
    if "held_out" in scores and len(scores["held_out"].dropna().unique()) > 1:
        keys.append("held_out")
    if len(scores["target"].unique()) > 1:
        keys.append("target")
    first = headline(scores)
    beside = [f"{first}.{more}" for more in ("chance", "highest", "log_odds")]
    columns = [first, *(column for column in beside if column in scores)]
    return keys, first, columns + [c for c in scorer_columns(scores) if c != first]


def summary(scores: pd.DataFrame, *, width: int | None = None) -> Table:
    """Mean of each scorer by model, method and layer, Grad-CAMO's chance and ceiling beside it.

    Columns for which ``width`` characters leave no room are left out, but for the first score.
    """
    keys, _, columns = _shown(scores)
    rows = [
        (
            [str(row[key]) for key in (*keys, "cells", "defined")],
            ["nan" if row[column] is None else f"{row[column]:.3f}" for column in columns],
        )
        for row in means(scores)
    ]
    for count in range(len(columns), 0, -1):
        table = Table(title="mean over cells", title_justify="left", caption_justify="left")
        for key in keys:
            table.add_column(key)
        for column in ("cells", "defined", *columns[:count]):
            table.add_column(column.replace(".", ".\n"), justify="right")
        for names, values in rows:
            table.add_row(*names, *values[:count])
        notes = []
        if "seed" in scores and (seeds := scores["seed"].nunique()) > 1:
            notes.append(f"over {seeds} seeds")
        if lower := [c for c in columns[:count] if reading_of(scores, c).better == "lower"]:
            notes.append(f"lower is better: {', '.join(lower)}")
        if count < len(columns):
            notes.append(f"{len(columns) - count} more columns: attrscore collect")
        table.caption = "\n".join(notes)
        wide = _Console(width=WIDE)  # where nothing is folded
        if width is None or Measurement.get(wide, wide.options, table).maximum <= width:
            break
    return table


def say_skipped(dataset: Dataset) -> bool:
    """Say which inputs could not be used and why; whether there are any."""
    for name, why in dataset.skipped.items():
        stderr().print(f"skipped: {name}: {why}", soft_wrap=True)
    if dataset.skipped:
        stderr().print(f"{len(dataset.skipped)} inputs were skipped; the rest was used.")
    if dataset.left_out:
        stderr().print(f"{dataset.left_out} cells were left out, as the settings say.")
    return bool(dataset.skipped)


def say_undefined(scores: pd.DataFrame) -> bool:
    """Count rows without a score, and say the reasons; whether anything failed."""
    undefined = scores[scores["status"] != "ok"]
    for status, group in undefined.groupby("status", sort=False, observed=True):
        stderr().print(f"{len(group)} of {len(scores)} rows are {status}.")
    found = reason_table(scores)
    kinds = {kind: found[found["kind"] == kind] for kind in ("failure", "unsupported", "gap")}
    for _, row in kinds["failure"].iterrows():
        text = str(row["text"])
        stderr().print(f"{row['method']} ({row['rows']} rows): {text}", soft_wrap=True)
    for sentence, group in kinds["unsupported"].groupby("text", sort=False):
        stderr().print(f"{preview(group['method'])}: {sentence!s}", soft_wrap=True)
    gaps = kinds["gap"].groupby("text", sort=False)["rows"].sum()
    if len(gaps):
        counts = preview(
            [f"{str(sentence).rstrip('.')} ({n} rows)" for sentence, n in gaps.items()]
        )
        stderr().print(f"undefined for single cells: {counts}.", soft_wrap=True)
    return bool(len(kinds["failure"]))


def say(line: str) -> None:
    """A line beside the results, never folded."""
    stderr().print(line, soft_wrap=True, highlight=False)


def say_error(sentence: str, notes: Iterable[str] = ()) -> None:
    """One sentence for the user, and what was being done."""
    stderr().print(Text.assemble(("error: ", "bold red"), shown(sentence)), soft_wrap=True)
    for note in notes:
        stderr().print(f"  {note}", soft_wrap=True)


def say_findings(findings: Sequence[Finding]) -> None:
    """Say what the preflight refuses or cautions against."""
    for (verdict, method, reason), layers in _by_reason(findings).items():
        if verdict != "ok":
            stderr().print(f"{verdict}: {method} at {preview(layers)}: {reason}", soft_wrap=True)


def finding_table(findings: Sequence[Finding]) -> Table:
    """What the preflight found, a row a method and reason."""
    table = Table("method", "layers", "explained", "why not, or what to know")
    for (verdict, method, reason), layers in _by_reason(findings).items():
        answer = {"ok": "yes", "caution": "yes, but", "fails": "fails", "refused": "no"}[verdict]
        table.add_row(method, "\n".join(layers), answer, reason)
    return table


def plan_table(plans: Sequence[Plan]) -> Table:
    """What a sweep would do, a row a job, and all of it in the last."""
    names = ("job", "model", "dataset", "methods", "layers", "scorers", "conditions", "done")
    numbers = ("cells", "forwards", "backwards", "time", "disk")
    table = Table(
        caption="forwards, backwards: a cell. time, disk: of what is left, from a probe of "
        "some crops; jobs one after another on this machine, without start-up.",
        caption_justify="left",
        show_footer=True,
    )
    together: dict[str, str] = {
        "job": f"{len(plans)} jobs",
        "conditions": str(sum(each.conditions for each in plans)),
        "done": str(sum(each.done for each in plans)),
        "cells": str(sum(each.cells for each in plans)),
        "time": _duration(sum(each.seconds for each in plans)),
        "disk": f"{sum(each.megabytes for each in plans):.1f} MB",
    }
    for name in (*names, *numbers):
        side = "right" if name in (*numbers, "job", "conditions", "done") else "left"
        table.add_column(name, together.get(name, ""), justify=side)  # type: ignore[arg-type]
    for number, each in enumerate(plans):
        table.add_row(
            str(number),
            each.model,
            f"{each.dataset} {each.shard}".strip(),
            *(preview(some, most=4) for some in (each.methods, each.layers, each.scorers)),
            str(each.conditions),
            str(each.done),
            str(each.cells),
            *(f"{passes:.3g}" for passes in (each.forwards, each.backwards)),
            _duration(each.seconds),
            f"{each.megabytes:.1f} MB",
        )
    return table


def _duration(seconds: float) -> str:
    """As a person says it.

    >>> [_duration(seconds) for seconds in (0.3, 90, 4e3, 1e6)]
    ['0.3 s', '1.5 min', '1.1 h', '11.6 d']
    """
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def _by_reason(findings: Sequence[Finding]) -> dict[tuple[str, str, str], list[str]]:
    joined: dict[tuple[str, str, str], list[str]] = {}
    for found in findings:
        key = (found.verdict, found.method, found.reason)
        joined.setdefault(key, []).append(found.layer)
    return joined


def plugin_table(entries: Mapping[str, list[Entry]]) -> Table:
    """What is registered, a row a plugin."""
    broken = any(entry.problem for found in entries.values() for entry in found)
    table = Table("kind", "name", "package", "also called", *([""] if broken else []))
    for kind, found in entries.items():
        for entry in found:
            if entry.alias_of is None:
                also = [other.name for other in found if other.alias_of == entry.name]
                state = "left out" if entry.problem else ""
                cells = (kind, entry.name, entry.package, ", ".join(also))
                table.add_row(*cells, *([state] if broken else []))
    return table


def contents_table(found: Contents) -> Table:
    """What a dataset says about itself, and its odd cells."""
    table = Table(show_header=False)
    for name, value in found.facts.items():
        table.add_row(name, value)
    odd = ", ".join(f"{count} {name}" for name, count in found.flags.items())
    if odd:
        table.add_row("odd cells", odd)
    return table


def counts_table(found: Contents) -> Table:
    """How many cells of each class there are, by plate and well."""
    several = len(found.groups) > 1
    table = Table(title="cells by class", title_justify="left", show_footer=several)
    for name, column in found.groups.items():
        number = column.dtype.kind in "iu"
        total = str(column.sum()) if number else ""
        table.add_column(str(name), total, justify="right" if number else "left")
    for _, row in found.groups.iterrows():
        table.add_row(*(str(value) for value in row))
    return table


def confusion_table(counts: npt.NDArray[np.int64], classes: Sequence[str]) -> Table:
    """Held-out cells of each class, a row each, by the class that the model predicts."""
    shown = np.argsort(-counts.sum(1), kind="stable")[:MOST_CLASSES]
    shown.sort()
    left = len(classes) - len(shown)
    table = Table(
        title="held-out cells: class (rows) by prediction",
        caption=f"and {left} more classes" if left else None,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("class")
    for row in shown:
        table.add_column(classes[row], justify="right")
    for row in shown:
        table.add_row(classes[row], *(str(counts[row, column]) for column in shown))
    return table


def say_conformance(kind: str, name: str, outcomes: Sequence[Outcome]) -> None:
    """What holds, what is refused, and what is broken."""
    out = stdout()
    for each in outcomes:
        at = f" in {each.dimensions}D" if each.dimensions else ""
        line = each.message if each.state == "broken" else f"{each.check}{at}"
        line += f": {each.message}" if each.state == "refused" else ""
        out.print(f"{each.state:8} {line}", soft_wrap=True, highlight=False)
    broken = sum(each.state == "broken" for each in outcomes)
    verdict = f"{broken} of {len(outcomes)} checks are broken" if broken else "conforms"
    out.print(f"{kind} {name}: {verdict}.", soft_wrap=True)


def layer_table(found: Survey) -> Table:
    """The layers of a model, a row each."""
    table = Table(
        caption=f"lowest, highest: the Grad-CAMO that any map on this grid can have, for the cell "
        f"of median area among {found.cells} (chance {found.chance:.3f})",
        caption_justify="left",
    )
    numbers = ("depth", "lowest", "highest")
    for column in ("layer", "type", "grid", "channels", *numbers, "note"):
        table.add_column(column, justify="right" if column in numbers else "left")
    for layer in found.layers:
        reach = [
            f"{value:.3f}" if value is not None else "" for value in (layer.lowest, layer.highest)
        ]
        grid = " x ".join(map(str, layer.grid or ()))
        channels = "" if layer.channels is None else str(layer.channels)
        depth = "" if layer.depth is None else f"{layer.depth:.2f}"
        table.add_row(layer.name, layer.type, grid, channels, depth, *reach, layer.note)
    return table


def say_status(jobs: Sequence[JobStatus]) -> None:
    """Jobs that are not done, with reasons, then the total."""
    out = stdout()
    open_ones = [job for job in jobs if job.stopped or job.failures or job.done < job.conditions]
    for job in open_ones[:MOST_JOBS]:
        out.print(
            f"{job.job}  {job.model} on {job.dataset}: {job.done} of "
            f"{job.conditions} conditions done, {job.failed} failed, {job.missing} missing; "
            f"{job.parts_done} of {job.parts} parts",
            soft_wrap=True,
        )
        if job.stopped:
            out.print(f"  {job.stopped}: {job.reason}", soft_wrap=True)
        for each in job.failures[:MOST_JOBS]:
            what = f"{each.method} at {each.layer}"
            out.print(
                f"  {each.status}: {what} ({each.rows} rows): {each.reason}",
                soft_wrap=True,
            )
    if len(open_ones) > MOST_JOBS:
        out.print(f"and {len(open_ones) - MOST_JOBS} more; all of them: --json")
    rows = sum((Counter(job.rows) for job in jobs), Counter[str]())
    counts = ", ".join(f"{count} {status}" for status, count in sorted(rows.items()))
    out.print(
        f"{len(jobs)} jobs, {sum(job.conditions for job in jobs)} conditions: "
        f"{sum(job.done for job in jobs)} done, {sum(job.failed for job in jobs)} failed, "
        f"{sum(job.missing for job in jobs)} missing. Rows: {counts or 'none'}. "
        f"Leftovers: {sum(job.leftovers for job in jobs)}.",
        soft_wrap=True,
    )
    if any(job.missing for job in jobs):
        out.print("The command that made them computes what is missing.")
    if any(job.failed for job in jobs):
        out.print("With rerun=failed it also computes again what failed.")


def say_sweep_jobs(asked: Sequence[SweepJob]) -> None:
    """How many of the jobs that sweeps asked for are in which state; those that are not done."""
    if not asked:
        return
    out = stdout()
    counts = Counter(job.state for job in asked)
    listed = ", ".join(f"{number} {state}" for state, number in counts.most_common())
    out.print(f"Of {len(asked)} jobs that sweeps asked for: {listed}.", soft_wrap=True)
    left = [job for job in asked if not job.done]
    for job in left[:MOST_JOBS]:
        queue = f" ({job.queue})" if job.queue and job.state == "queued" else ""
        out.print(f"  {job.state}{queue}: {shown(' '.join(job.overrides))}", soft_wrap=True)
    if len(left) > MOST_JOBS:
        out.print(f"and {len(left) - MOST_JOBS} more; all of them: --json")
    if any(job.state not in ("queued", "running") for job in left):
        out.print(
            "The command of the sweep runs them; to forget a sweep, delete its file in sweeps/.",
            soft_wrap=True,
        )


def say_provenance(provenance: Mapping[str, Any], indent: str = "") -> None:
    """Names and values, nested ones indented."""
    out = stdout()
    for name, value in provenance.items():
        if isinstance(value, Mapping):
            out.print(f"{indent}{name}:", highlight=False)
            say_provenance(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            out.print(f"{indent}{name}: {len(value)}", highlight=False)
            for each in value[:MOST_JOBS]:
                say_provenance(each, indent + "  ")
        else:
            text = str(value).strip()
            if "\n" in text:
                text = "\n" + "\n".join(f"{indent}  {line}" for line in text.splitlines())
            out.print(f"{indent}{name}: {text}", highlight=False, soft_wrap=True)


def say_report(report: Report) -> None:
    """What was read, and each problem in a sentence."""
    out = stdout()
    for problem in report.problems:
        line = Text.assemble((f"{problem.kind}: ", "bold red"), shown(problem.sentence))
        out.print(line, soft_wrap=True)
    out.print(
        f"read {report.jobs} jobs, {report.parts} parts, {report.cells} cells, "
        f"{report.bytes / 2**20:.1f} MiB: {len(report.problems) or 'no'} problems. "
        f"Leftovers removed: {report.leftovers_removed}.",
        soft_wrap=True,
    )


def say_code(code: Sequence[Mapping[str, str]]) -> None:
    """Which configurations would run code, were they built again."""
    for name, jobs in itertools.groupby(sorted(code, key=_code_of), key=_code_of):
        setting, value, package = name
        stdout().print(
            f"{setting}={value} in {preview(each['job'] for each in jobs)}: code, which view, "
            f"export and reproduce run only where they are given trust=[{package}].",
            soft_wrap=True,
        )


def _code_of(found: Mapping[str, str]) -> tuple[str, str, str]:
    return found["setting"], found["value"], found["trust"]


def say_comparison(found: Comparison) -> None:
    """Whether a job that was run again gave the same rows."""
    stdout().print(found.sentence, soft_wrap=True)
    for name, value in found.differences.items():
        stdout().print(f"  {name}: {value}", soft_wrap=True)
