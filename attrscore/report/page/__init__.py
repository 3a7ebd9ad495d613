"""The report as one page that opens from a disk, shows what results say, and lets one look.

It reads results alone and needs no torch. Whatever comes from users' files is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from attrscore.core.columns import title_of
from attrscore.core.readings import reading_of
from attrscore.report import provenance
from attrscore.report.figures import FIGURES, figures_of
from attrscore.report.leaderboard import ENTRY, HEADLINE, MEASURES, TESTS, Leaderboard
from attrscore.report.page import _conditions as comparing
from attrscore.report.page import _sections as sections
from attrscore.report.page._conditions import conditions_of
from attrscore.report.page._gallery import (
    BINS,
    NUMBERS,
    Gallery,
    cards_of,
    gallery,
    percentiles_of,
    swaps,
)
from attrscore.report.page._pictures import inline
from attrscore.stats.conditions import by_condition, columns_of
from attrscore.stats.verdict import KINDS, model_verdicts

if TYPE_CHECKING:
    from attrscore.stats import Report

__all__ = ["leaderboard_page", "page"]

_JOBS = 40


def page(
    table: pd.DataFrame,
    found: Report,
    /,
    *,
    results: Sequence[str | Path],
    runs: Mapping[str, pd.DataFrame],
    command: str,
    null: str | None = None,
    progress: Callable[[str], None] = lambda _line: None,
) -> str:
    """The whole page as text.

    ``table`` is what ``found`` is a report of; ``results`` are where it was read, ``runs`` the
    tables of each by name where there are several; ``command`` makes this page again.
    """
    conditions = conditions_of(table, found, null=null)
    progress("reading crops and maps")
    shown = gallery(results, conditions)
    progress("drawing figures")
    curves = sections.thresholds(conditions, found)
    reasons, more_reasons = sections.reasons(table)
    jobs = provenance.jobs_of(results)
    classes = provenance.classes_of(jobs)
    cells = sections.cells(conditions, found, shown.anchors, classes)
    rights, confusions = sections.accuracy(found)
    options = {"clusters": found.clusters, "resamples": 1999}
    pairs = comparing.run_differences(runs, found.compared, **options) if len(runs) > 1 else []
    metrics = sections.metrics(conditions, found)
    words = found.reading.axis or found.score
    columns = cells["columns"]
    environment = _environment()
    context = {
        "title": _title(conditions),
        **_shell(),
        "lede": _lede(found, conditions, words),
        "red_flags": provenance.red_flags_of(jobs),
        "notes": [n for n in dict.fromkeys(found.summary["note"]) if n],
        "found": found,
        "words": words,
        "verdicts": model_verdicts(found.verdicts, found.shown),
        "kinds": KINDS.items(),
        "evidence": sections.EVIDENCE,
        "reasons_of": sections.reasons_of,
        "swaps": swaps(results, conditions, classes),
        "rights": rights,
        "confusions": confusions,
        "subsets": sections.subsets(found),
        "curves": curves,
        "groups": [
            {**group, "rows": [_at(row, curves, found.threshold) for row in group["rows"]]}
            for group in sections.groups(conditions, curves)
        ],
        "threshold": found.threshold,
        "steps": len(curves.get("at", ())),
        "start": _nearest(curves.get("at", ()), found.threshold),
        "metrics": metrics,
        "columns": list(dict.fromkeys(each.method_layer for each in conditions)),
        "figures": _figures(table, found),
        "matrices": sections.matrices(found),
        "maps": found.maps.to_dict("records"),
        "compared": reading_of(table, found.compared).axis or found.compared,
        "run_pairs": pairs,
        "ranks": comparing.ranks(conditions, better=found.reading.better),
        "comparisons": sections.comparisons(found),
        "same": sections.same(found),
        "repairs": sections.repairs(found),
        "changed": [
            {**row, "anchor": shown.anchors.get((row["dataset"], row["id"]))}
            for row in comparing.changed_between(runs, found.score) or comparing.changed(conditions)
        ],
        "undefined": sections.undefined(found, null),
        "reasons": reasons,
        "more_reasons": more_reasons,
        **_shown(shown, found.score, jobs),
        "tables_only": not any(Path(path).is_dir() for path in results),
        "cells_note": _cells_note(cells),
        "cell_columns": columns,
        "cell_filters": _filters(columns, cells["rows"]),
        "report_command": command,
        "data": {
            "threshold": curves,
            "metrics": metrics,
            "cells": cells,
            "gallery": percentiles_of(shown),
        },
    }
    context["contents"] = _contents(context)
    progress("writing the page")
    return environment.get_template("page.html.j2").render(context)


def leaderboard_page(board: Leaderboard, /, *, results: str | Path, command: str) -> str:
    """The page of a leaderboard as text; ``command`` makes it again."""
    conditions = _of_leaderboard(board)
    shown = gallery([results], conditions)
    jobs = provenance.jobs_of([results])
    ranked = board.table[board.table["rank"].notna()]
    standings = board.standings
    entries = [
        {
            **{str(name): value for name, value in row.items()},
            "best": row["as_good_as_the_best"],
            "cells": [
                {
                    "value": row[name],
                    "low": row[f"{name}.low"],
                    "high": row[f"{name}.high"],
                    "strength": standings.loc[number, name],
                }
                for name in board.measures
            ],
        }
        for number, row in zip(ranked.index, ranked.to_dict("records"), strict=True)
    ]
    drawings = [
        {"name": name, "title": title, "caption": caption, "svg": inline(sheet, name, title)}
        for name, (title, caption, sheet) in board.figures().items()
    ]
    contents = [("table", "Leaderboard"), *((each["name"], each["title"]) for each in drawings)]
    context = {
        "title": f"{len(ranked)} entries · attrscore leaderboard",
        **_shell(),
        "lede": f"{board.statement} {board.left_out}",
        "entries": entries,
        "heads": [MEASURES[name] for name in board.measures],
        "tests": [(name, TESTS[name]) for name in board.networks],
        "unranked": board.table[board.table["rank"].isna()].to_dict("records"),
        "drawings": drawings,
        "contents": [*contents, ("gallery", "Gallery"), ("making", "How it was made")],
        **_shown(shown, HEADLINE, jobs),
        "tables_only": False,
        "report_command": command,
        "data": {"gallery": percentiles_of(shown)},
    }
    return _environment().get_template("leaderboard.html.j2").render(context)


def _of_leaderboard(board: Leaderboard, /) -> list[comparing.Condition]:
    """The honest network of the first seed under every entry, in 2D and in 3D; the best first."""
    scores = board.scores
    planted = scores[(scores["test"] == "planted") & (scores["model"] == "cell")]
    first = planted.groupby(planted["network"].str.partition("/")[0])["network"].transform("min")
    planted = planted[planted["network"] == first]
    order = {tuple(row): n for n, row in enumerate(board.table[ENTRY].to_numpy().tolist())}
    made = []
    columns = columns_of(planted)
    for about, rows in by_condition(planted, columns):
        entry = (about["method"], about["layer"], str(rows["explains"].iloc[0]))
        if entry in order and rows[HEADLINE].notna().any():
            words = f"{about['method']} {about['layer']}"
            series = f"{rows['network'].iloc[0]}, reads the cell"
            made.append((order[entry], about, series, words, rows))
    made.sort(key=lambda each: each[0])
    return [
        comparing.Condition(f"c{i}", about, series, words, rows, HEADLINE)
        for i, (_, about, series, words, rows) in enumerate(made)
    ]


def _shell() -> dict[str, Any]:
    """What every page has."""
    script = _read("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    own = {"css": _read("page.css"), "js": script, "js_hash": f"sha256-{digest}"}
    return {"version": version("attrscore"), **own}


def _shown(shown: Gallery, score: str, jobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The gallery, and how the results were made."""
    return {
        "cards": cards_of(shown, score),
        "kept": shown.kept,
        "heats_left_out": shown.left_out,
        "gallery_conditions": shown.conditions,
        "bins": BINS,
        "number_names": ["score", *(title_of(end) for end in NUMBERS[1:])],
        "gallery_command": _with_maps(jobs),
        "jobs": jobs[:_JOBS],
        "more_jobs": len(jobs[_JOBS:]),
    }


def _environment() -> Environment:
    """Everything that comes from results is escaped; a name that is not there is an error."""
    made = Environment(
        loader=PackageLoader("attrscore.report.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.tests["defined_number"] = _is_number
    made.filters |= {
        "num": _num,
        "signed": lambda x: _formatted(x, "+.2f"),
        "share": lambda x: f"{100 * x:.0f} %" if _is_number(x) else "–",
        "upper_first": lambda text: f"{text[0].upper()}{text[1:]}".replace("-0.", "−0."),
        "p": _p,
        "plain": lambda x: f"{x:.6g}" if _is_number(x) else "",
        "strength": lambda x: f"{min(1.0, abs(float(x))):.3f}" if _is_number(x) else "0",
        "breakable": _breakable,
    }
    return made


def _num(value: Any, digits: int = 2) -> str:
    return _formatted(value, f".{digits}f")


def _p(value: Any) -> str:
    return "< 0.001" if _is_number(value) and float(value) < 0.001 else _formatted(value, ".3f")


def _formatted(value: Any, spec: str) -> str:
    return f"{value:{spec}}".replace("-", "−") if _is_number(value) else "–"


def _breakable(name: str) -> Markup:
    """A long name, escaped, that may be broken behind its signs."""
    return Markup(re.sub(r"([_:/])(?=\w)", r"\1<wbr>", str(escape(name))))  # noqa: S704  # escaped


def _is_number(value: Any) -> bool:
    try:
        return value is not None and math.isfinite(value)
    except TypeError:
        return False


def _read(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text("utf-8")


def _title(conditions: Sequence[Any]) -> str:
    names = list(dict.fromkeys(each.series for each in conditions))
    return f"{', '.join(names[:3])}{' …' if len(names) > 3 else ''} · attrscore report"


def _lede(found: Report, conditions: Sequence[Any], words: str) -> str:
    def count(n: int, one: str, more: str) -> str:
        return f"{n} {one if n == 1 else more}"

    series = len({each.series for each in conditions})
    views = len({each.method_layer for each in conditions})
    units = sorted(
        {
            (int(n), str(at))
            for n, at in zip(found.summary["units"], found.summary["level"], strict=True)
            if at
        },
        reverse=True,
    )
    over = f"over {units[0][0]} units of {units[0][1]}, not over cells" if units else ""
    if not units or units[0][0] < 2:
        over = "need wells or plates, which are not known here"
    score = found.score if words == found.score else f"{found.score}, {words}"
    return (
        f"{count(found.cells, 'cell', 'cells')}, {count(series, 'model', 'models')}, "
        f"{count(views, 'method and layer', 'methods and layers')}. Score: {score}. "
        f"{100 * found.confidence:g} % intervals {over}."
    )


def _nearest(at: Sequence[float], wanted: float) -> int:
    return min(range(len(at)), key=lambda i: abs(at[i] - wanted), default=0)


def _at(row: Mapping[str, Any], curves: Mapping[str, Any], threshold: float) -> dict[str, Any]:
    """A row of the table of shares as it stands before anything moves."""
    i = _nearest(curves["at"], threshold)
    curve = curves["rows"][row["key"]]
    return {**row, "above": curve["above"][i], "attainable": curve["attainable"][i]}


def _figures(table: pd.DataFrame, found: Report) -> dict[str, list[dict[str, str]]]:
    """Drawings by name; one without anything to show, or with too much for one, has none."""
    made: dict[str, list[dict[str, str]]] = {n: [] for n, each in FIGURES.items() if each.on_page}
    for name, sheet in figures_of(table, found, made):
        title, caption = FIGURES[name].title, FIGURES[name].caption
        made[name] = [{"title": title, "caption": caption, "svg": inline(sheet, name, title)}]
    return made


def _with_maps(jobs: Sequence[Mapping[str, Any]]) -> str:
    command = next(
        (job["command"] for job in jobs if job["command"] != "attrscore"), "attrscore ..."
    )
    return f"{command} keep=native"


def _cells_note(cells: Mapping[str, Any]) -> str:
    rows, total = len(cells["rows"]), cells["total"]
    if rows == total:
        return "Every cell under every model, method and layer."
    return (
        f"{rows} of {total} rows: the cells with the smallest hashes of their ids, so no score had "
        "a say. attrscore collect writes all of them."
    )


def _filters(columns: Sequence[Mapping[str, str]], rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Columns of text with 2 to 60 values, but for the ids."""
    made = []
    for i, column in enumerate(columns):
        choices = sorted({str(row[i]) for row in rows if row[i] is not None})
        if i and column["kind"] == "text" and 2 <= len(choices) <= 60:
            made.append({"name": column["name"], "column": i, "choices": choices})
    return made


def _contents(context: Mapping[str, Any]) -> list[tuple[str, str]]:
    figures = context["figures"]
    there = {
        "verdict": ("Verdict", True),
        "swap": ("Swap", bool(context["swaps"])),
        "accuracy": ("Accuracy", bool(context["rights"])),
        "subsets": ("By class", bool(context["subsets"])),
        "share": ("Above a threshold", bool(context["curves"])),
        "scores": ("Scores", True),
        "regions": ("Regions", bool(figures["regions"])),
        "area": ("Area", bool(figures["area"])),
        "plates": ("Wells", bool(figures["plates"])),
        "agreement": ("Agreement", bool(context["matrices"] or context["maps"])),
        "comparison": (
            "Comparison",
            any(context[n] for n in ("run_pairs", "comparisons", "ranks", "changed")),
        ),
        "undefined": ("Undefined", True),
        "gallery": ("Gallery", True),
        "cells": ("Cells", True),
        "making": ("How it was made", True),
    }
    return [(name, title) for name, (title, shown) in there.items() if shown]
