"""Does the network look at the cell? What attribution and intervention say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from attrscore.errors import DataError, preview
from attrscore.stats.bootstrap import bootstrap, numbers
from attrscore.stats.clusters import FEWEST, Clusters
from attrscore.stats.conditions import RANDOMIZE, by_condition, columns_of, is_null, label
from attrscore.stats.paired import paired
from attrscore.stats.summary import resolvable

__all__ = ["Evidence", "Kind", "Verdict", "verdict", "verdicts"]

Kind = Literal["cell-focused", "looks elsewhere", "inconclusive", "unresolvable"]
Answer = Literal["yes", "no", "unclear", "missing", "not asked"]

RESOLVABLE = 0.5
"""The least share of cells whose grid must be able to tell a score from chance."""


@dataclass(frozen=True)
class Evidence:
    """One condition of a verdict: whether it holds, and its number."""

    name: Literal["evidence", "resolvable", "null", "neighbours", "swap"]
    answer: Answer
    told: str
    """What was found, in words and numbers; what to do where it is missing."""
    value: float = np.nan
    low: float = np.nan
    high: float = np.nan


@dataclass(frozen=True)
class Verdict:
    """What can be said of one model under one method at one layer."""

    kind: Kind
    sentence: str
    conditions: tuple[Evidence, ...]
    about: dict[str, Any]
    """The columns that name the condition, and their values."""

    def __getitem__(self, name: str) -> Evidence:
        return next(found for found in self.conditions if found.name == name)


def verdict(table: pd.DataFrame, /, **options: Any) -> Verdict:
    """The verdict of a table that holds one condition, beside its null and its swap.

    Rules and options as :func:`verdicts`.

    :raises DataError: the table holds no or several conditions.
    """
    found = verdicts(table, **options)
    if len(found) != 1:
        names = [label(each.about, list(each.about)) for each in found]
        raise DataError(
            f"verdict() judges one condition; the table holds {preview(names, most=3) or 'none'}. "
            "Choose one, or use verdicts()."
        )
    return found[0]


def verdicts(
    table: pd.DataFrame,
    /,
    *,
    score: str = "grad_camo",
    corrected: str = "above_chance",
    null: str | None = None,
    clusters: Sequence[str] | None = None,
    least_cells: int = 30,
    **options: Any,
) -> list[Verdict]:
    """A verdict for each model, method and layer of a table; rows of randomised weights get none.

    Five conditions are looked at. Their intervals are over units (options of ``Resampling``), and
    an answer is ``yes`` where the interval lies above 0, ``no`` where below, else ``unclear``.

    1. evidence: at least ``least_cells`` cells have a score, and at least 5 units.
    2. resolvable: at least half of them lie on a grid that can tell their score from chance.
    3. null: ``<score>.<corrected>`` minus that of the same cells under randomised weights: rows
       with ``model.randomize=all``, or of the model called ``null``; of several draws (other seeds)
       the one with the highest mean. Adebayo et al., NeurIPS 2018.
    4. neighbours: ``<score>.cell_vs_neighbours``; not asked where no cell has neighbours.
    5. swap: ``swap.inside`` minus ``swap.outside``, from any row of the cell under this model.

    The verdict is the first that applies:

    - ``inconclusive`` where no cell has a score; ``unresolvable`` where 2 fails
    - ``inconclusive`` where 1 fails, or where 3 or 5 is missing
    - ``cell-focused`` where 3 and 5 are yes, and 4 is yes or not asked
    - ``looks elsewhere`` where 5 is no, and attribution does not speak for the cell (3 is not yes,
      or 4 is no)
    - ``inconclusive`` else: they disagree, or an interval holds 0

    No mask score sees a confounder inside the cell: ``cell-focused`` does not say that what is read
    there is biology.
    """
    hidden = is_null(table, null=null)
    tested, nulls = table[~hidden], table[hidden]
    return [
        _judge(
            condition,
            rows,
            _null_of(condition, table, nulls, null, f"{score}.{corrected}"),
            _swap_of(condition, table, tested),
            score,
            corrected,
            least_cells,
            {"clusters": clusters, **options},
        )
        for condition, rows in by_condition(tested, columns_of(table))
        if len(rows)
    ]


def _judge(
    about: dict[str, Any],
    rows: pd.DataFrame,
    null: pd.DataFrame,
    swap: pd.DataFrame,
    score: str,
    corrected: str,
    least_cells: int,
    options: dict[str, Any],
) -> Verdict:
    conditions = (
        _evidence(rows, score, least_cells, options["clusters"]),
        _resolvable(rows, score),
        _above_null(rows, null, f"{score}.{corrected}", options),
        _beside_neighbours(rows, f"{score}.cell_vs_neighbours", options),
        _swapped(swap, options),
    )
    enough, resolved, above, beside, swapped = conditions
    kind: Kind = "inconclusive"
    lacking = [enough] * (enough.answer == "no")
    lacking += [c for c in (above, swapped) if c.answer == "missing"]
    if resolved.answer == "missing":
        why = "no cell has a score"
    elif resolved.answer == "no":
        kind, why = "unresolvable", resolved.told
    elif lacking:
        why = "; ".join(c.told for c in lacking)
    elif above.answer == swapped.answer == "yes" and beside.answer in ("yes", "not asked"):
        kind, why = "cell-focused", f"{above.told}; {swapped.told}"
    elif swapped.answer == "no" and (above.answer != "yes" or beside.answer == "no"):
        kind = "looks elsewhere"
        why = f"{swapped.told}; {beside.told if beside.answer == 'no' else above.told}"
    else:
        open_ = [c for c in (above, beside, swapped) if c.answer in ("no", "unclear")]
        disagree = {"yes", "no"} <= {c.answer for c in (above, beside, swapped)}
        why = ("they disagree: " if disagree else "not decided: ") + "; ".join(
            c.told for c in open_
        )
    return Verdict(kind, f"{kind}: {why}", conditions, about)


def _evidence(
    rows: pd.DataFrame, score: str, least: int, clusters: Sequence[str] | None
) -> Evidence:
    finite = np.isfinite(numbers(rows, score))
    found = Clusters.of(rows, clusters).among(finite)
    cells = int(finite.sum())
    lacks = []
    if cells < least:
        lacks.append(f"{cells} cells with a score, fewer than {least}: score more cells")
    if not found.level:
        lacks.append(f"{found.note}; let the dataset carry Metadata_Well")
    elif found.units < FEWEST:
        lacks.append(f"{found.units} units of {found.level}, fewer than {FEWEST}: score more wells")
    told = "; ".join(lacks) or f"{cells} cells in {found.units} units of {found.level}"
    return Evidence("evidence", "no" if lacks else "yes", told, float(cells))


def _resolvable(rows: pd.DataFrame, score: str) -> Evidence:
    share = resolvable(rows, score=score)
    if np.isnan(share):
        return Evidence("resolvable", "missing", "no cell has a score")
    told = f"{share:.0%} of cells lie on a grid that can tell their score from chance"
    return Evidence("resolvable", "yes" if share >= RESOLVABLE else "no", told, share)


def _above_null(
    rows: pd.DataFrame, null: pd.DataFrame, column: str, options: dict[str, Any]
) -> Evidence:
    if column not in rows:
        return Evidence("null", "missing", f"no column {column}: add the scorer to scorer=[...]")
    if null.empty:
        return Evidence(
            "null", "missing", "no randomised weights: run it again with model.randomize=all"
        )
    found = paired(rows, null, column, **options)
    if not found["cells"]:
        return Evidence(
            "null", "missing", "no cell has a score under both trained and randomised weights"
        )
    ends = found["difference"], found["low"], found["high"]
    return _answered("null", f"{column} less that of randomised weights", *ends)


def _beside_neighbours(rows: pd.DataFrame, column: str, options: dict[str, Any]) -> Evidence:
    if column not in rows or not np.isfinite(numbers(rows, column)).any():
        return Evidence("neighbours", "not asked", "no cell has neighbours that are known")
    found = bootstrap(rows, column, **options)
    told = f"density of heat on the cell against neighbours ({column})"
    return _answered("neighbours", told, found.value, found.low, found.high)


def _swapped(rows: pd.DataFrame, options: dict[str, Any]) -> Evidence:
    if rows.empty:
        return Evidence("swap", "missing", "no swap: run it again with 'scorer=[grad_camo,swap]'")
    found = bootstrap(rows, "difference", **options)
    inside, outside = rows["inside"].mean(), rows["outside"].mean()
    told = f"change by swapping inside ({inside:.3f}) less outside ({outside:.3f})"
    return _answered("swap", told, found.value, found.low, found.high)


def _answered(name: Any, what: str, value: float, low: float, high: float) -> Evidence:
    answer: Answer = "yes" if low > 0 else "no" if high < 0 else "unclear"
    return Evidence(
        name, answer, f"{what}: {value:+.3f} [{low:+.3f}, {high:+.3f}]", value, low, high
    )


def _null_of(
    condition: dict[str, Any],
    table: pd.DataFrame,
    nulls: pd.DataFrame,
    null: str | None,
    column: str,
) -> pd.DataFrame:
    """The draw of randomised weights with the highest mean, for one condition."""
    held = [name for name in columns_of(table, without=["model", "seed"]) if name != "attrscore"]
    rows: pd.DataFrame = nulls[_alike(nulls, condition, held)]
    named = rows["model"].astype(str) == null
    of_it = rows["model"].astype(str) == str(condition["model"])
    if RANDOMIZE in rows:
        of_it &= rows[RANDOMIZE].astype(str) == "all"
    rows = rows[named | of_it]
    if column not in rows or rows.empty:
        return rows
    draws = [draw for _, draw in by_condition(rows, columns_of(table))]
    return max(draws, key=lambda draw: _mean(numbers(draw, column)))


def _mean(values: np.ndarray[Any, Any]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else -np.inf


def _swap_of(condition: dict[str, Any], table: pd.DataFrame, tested: pd.DataFrame) -> pd.DataFrame:
    """A row a cell: inside, outside and their difference. The swap knows no method and no layer."""
    if "swap.inside" not in tested or "swap.outside" not in tested:
        return pd.DataFrame()
    held = columns_of(table, without=["method", "layer", "heat", "scorer"])
    rows: pd.DataFrame = tested[_alike(tested, condition, held)]
    inside, outside = (numbers(rows, f"swap.{side}") for side in ("inside", "outside"))
    rows = rows.assign(inside=inside, outside=outside, difference=inside - outside)
    rows = rows[np.isfinite(rows["difference"])]
    means = rows.groupby("id")[["inside", "outside", "difference"]].transform("mean")
    return rows.assign(**{str(name): means[name] for name in means}).drop_duplicates("id")


def _alike(rows: pd.DataFrame, condition: dict[str, Any], names: Sequence[str]) -> Any:
    """Which rows have the condition's values in these columns; missing equals missing."""
    same = np.ones(len(rows), dtype=bool)
    for name in names:
        wanted = condition[name]
        column = rows[name]
        same &= (column.isna() if pd.isna(wanted) else column == wanted).to_numpy(dtype=bool)
    return same
