"""What the terminal shows: tables, bars, and what was left out. Needs no torch."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from attrscore.core import KEY_COLUMNS

if TYPE_CHECKING:
    from attrscore.core import Dataset
    from attrscore.registry import Entry
    from attrscore.survey import Survey

__all__ = [
    "headline",
    "layer_table",
    "plugin_table",
    "progress",
    "say_error",
    "say_skipped",
    "say_undefined",
    "scorer_columns",
    "stderr",
    "stdout",
    "summary",
]

_DIAGNOSTICS = ("completeness_error", "output_change")


class Advance(Protocol):
    """Told how much is done, and of how much."""

    def __call__(self, done: int, total: int) -> None:
        """Move the bar."""
        ...


def stdout() -> Console:
    """Standard output; wide where it is piped, so that tables are not folded."""
    return Console(width=None if sys.stdout.isatty() else 200)


def stderr() -> Console:
    """Standard error."""
    return Console(stderr=True)


@contextmanager
def progress(unit: str) -> Iterator[Advance]:
    """A bar on a terminal, nothing elsewhere."""
    console = stderr()
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(unit, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def scorer_columns(scores: pd.DataFrame) -> list[str]:
    """The headline column of each scorer, in order."""
    return [
        str(column)
        for column in scores.columns
        if column not in (*KEY_COLUMNS, *_DIAGNOSTICS)
        and not str(column).startswith("Metadata_")
        and "." not in str(column)
        and scores[column].dtype.kind == "f"
    ]


def headline(scores: pd.DataFrame) -> str:
    """The column that stands for a table: the first scorer's own."""
    return scorer_columns(scores)[0]


def summary(scores: pd.DataFrame) -> Table:
    """Mean of each scorer by model, method and layer, with chance and ceiling beside it."""
    keys = ["model", "dataset", "method", "layer"]
    plain = scorer_columns(scores)
    beside = [
        f"{column}.{more}"
        for column in plain
        for more in ("chance", "highest", "above_chance")
        if f"{column}.{more}" in scores
    ]
    table = Table(title="mean over cells", title_justify="left")
    for column in keys:
        table.add_column(column)
    for column in ("cells", "defined", *plain, *beside):
        table.add_column(column.replace(".", ".\n"), justify="right")
    for names, group in scores.groupby(keys, sort=False, observed=True):
        defined = int(group[plain[0]].notna().sum()) if plain else 0
        means = [f"{group[column].mean():.3f}" for column in (*plain, *beside)]
        table.add_row(*map(str, names), str(len(group)), str(defined), *means)
    return table


def say_skipped(dataset: Dataset) -> bool:
    """Tell which inputs could not be used and why; whether there are any."""
    for name, why in dataset.skipped.items():
        stderr().print(f"skipped: {escape(name)}: {escape(why)}", soft_wrap=True)
    if dataset.skipped:
        stderr().print(f"{len(dataset.skipped)} inputs were skipped; the rest was used.")
    if dataset.left_out:
        stderr().print(f"{dataset.left_out} cells were left out, as the settings say.")
    return bool(dataset.skipped)


def say_undefined(scores: pd.DataFrame) -> bool:
    """Count rows without a score, and tell the reasons; whether anything failed."""
    undefined = scores[scores["status"] != "ok"]
    for status, group in undefined.groupby("status", sort=False, observed=True):
        stderr().print(f"{len(group)} of {len(scores)} rows are {status}.")
    failed = scores[scores["reason"].fillna("") != ""]
    for (method, reason), group in failed.groupby(["method", "reason"], sort=False, observed=True):
        stderr().print(f"{method} ({len(group)} rows): {escape(str(reason))}", soft_wrap=True)
    return bool(len(failed))


def say_error(sentence: str, notes: Iterable[str] = ()) -> None:
    """One sentence for the user, and what was being done."""
    stderr().print(f"[bold red]error:[/] {escape(sentence)}", soft_wrap=True)
    for note in notes:
        stderr().print(f"  {note}", soft_wrap=True, markup=False)


def plugin_table(entries: Mapping[str, list[Entry]]) -> Table:
    """What is registered, a row a plugin."""
    table = Table("kind", "name", "package", "also called")
    for kind, found in entries.items():
        for entry in found:
            if entry.alias_of is None:
                also = [other.name for other in found if other.alias_of == entry.name]
                table.add_row(kind, entry.name, entry.package, ", ".join(also))
    return table


def layer_table(found: Survey) -> Table:
    """The layers of a network, a row each."""
    table = Table(
        caption=f"lowest, highest: the Grad-CAMO that any map on this grid can have, for the cell "
        f"of median area among {found.cells} (chance {found.chance:.3f})",
        caption_justify="left",
    )
    for column in ("layer", "type", "grid", "channels", "lowest", "highest", "note"):
        table.add_column(column, justify="right" if column.endswith("est") else "left")
    for place in found.places:
        reach = [
            f"{value:.3f}" if value is not None else "" for value in (place.lowest, place.highest)
        ]
        grid = " x ".join(map(str, place.grid or ()))
        channels = "" if place.channels is None else str(place.channels)
        table.add_row(place.name, place.type, grid, channels, *reach, place.note)
    return table
