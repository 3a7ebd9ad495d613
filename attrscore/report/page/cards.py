"""Cells of the gallery as the template needs them: styles, numbers, words for who cannot see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from attrscore.report.page.conditions import Condition
from attrscore.report.page.gallery import Cell, Gallery

__all__ = ["BINS", "NUMBERS", "cards_of", "percentiles_of"]

BINS = (
    "0 to 20th percentile",
    "20th to 40th percentile",
    "40th to 60th percentile",
    "60th to 80th percentile",
    "80th to 100th percentile",
    "No score here",
)

NUMBERS = {
    "": "score",
    ".chance": "chance",
    ".above_chance": "above chance",
    ".lowest": "lowest attainable",
    ".highest": "highest attainable",
    ".cell_vs_neighbours": "against neighbours",
    ".auc": "AUC",
}
"""Ends of the names of columns -> heads of a cell's own table."""

_FACTS = ("Metadata_Plate", "Metadata_Well", "Metadata_Site")


def cards_of(shown: Gallery, score: str, /) -> list[dict[str, Any]]:
    """A card a cell."""
    series = list(dict.fromkeys(each.series for each in shown.conditions))
    places = list(dict.fromkeys(each.place for each in shown.conditions))
    return [_card(cell, shown.conditions, series, places, score) for cell in shown.cells]


def percentiles_of(shown: Gallery, /) -> dict[str, dict[str, float | None]]:
    """Anchor of a cell -> key of a condition -> its percentile there, None where undefined."""
    return {
        cell.anchor: {
            condition.key: _finite(condition.percentiles[cell.rows[condition.key]])
            for condition in shown.conditions
            if condition.key in cell.rows
        }
        for cell in shown.cells
    }


def _card(
    cell: Cell,
    conditions: Sequence[Condition],
    series: Sequence[str],
    places: Sequence[str],
    score: str,
) -> dict[str, Any]:
    by_name = {(each.series, each.place): each for each in conditions if each.key in cell.rows}
    front = cell.views[0]
    facts = _facts(cell, list(by_name.values()), score)
    mine = [place for place in places if any((one, place) in by_name for one in series)]
    return {
        "id": cell.id,
        "anchor": cell.anchor,
        "volume": len(cell.views) > 1,
        "planes": front["planes"],
        "start": front["start"],
        "style": _style(cell),
        "text": " ".join([cell.id, *(value for _, value in facts)]),
        "facts": facts,
        "said": f"cell {cell.id}, channels {', '.join(name for name, _ in cell.channels)}",
        "views": [
            {
                "name": view["name"],
                "colour": _box(view) + f"--under:url({view['colour']});" + _lines(view),
            }
            for view in cell.views
        ],
        "channels": [(name, _box(front) + f"--under:url({uri})") for name, uri in cell.channels],
        "places": mine,
        "lines": [
            {
                "series": one,
                "tiles": [
                    _tile(cell, by_name[one, place]) if (one, place) in by_name else None
                    for place in mine
                ],
            }
            for one in series
            if any((one, place) in by_name for place in mine)
        ],
        "numbers": [_numbers(cell, each, score) for each in by_name.values()],
    }


def _style(cell: Cell) -> str:
    """What all pictures of a card share, once: grey images, outlines, depth."""
    front = cell.views[0]
    told = f"--z:{front['start']};--deepest:{front['planes']};--end:{max(1, front['planes'] - 1)};"
    if len(cell.views) > 1:
        deep = cell.views[2]["wide"]
        told += f"--wide:{front['wide']:.4g}fr;--deep:{deep:.4g}fr;"
    for view in cell.views:
        told += f"--grey-{view['name']}:url({view['grey']});"
        if view["lines"]:
            told += f"--lines-{view['name']}:url({view['lines']});"
    return told


def _box(view: Mapping[str, Any]) -> str:
    return f"aspect-ratio:{view['wide']:.4g}/{view['high']:.4g};"


def _lines(view: Mapping[str, Any]) -> str:
    return f"--lines:var(--lines-{view['name']},none);"


def _tile(cell: Cell, condition: Condition) -> dict[str, Any]:
    row = cell.rows[condition.key]
    score, percentile = condition.scores[row], condition.percentiles[row]
    heat = cell.heats.get(condition.key) or {}
    said = f"heat of {condition.place}, {condition.series}: "
    said += f"{score:.2f}, percentile {percentile:.0f}" if np.isfinite(score) else "no score"
    return {
        "score": score,
        "percentile": percentile,
        "note": cell.notes.get(condition.key) or "no map",
        "said": said,
        "views": [
            {
                "name": view["name"],
                "style": _box(view)
                + f"--heat:url({heat[view['name']]});--under:var(--grey-{view['name']});"
                + _lines(view),
            }
            for view in cell.views
            if view["name"] in heat
        ],
    }


def _facts(cell: Cell, conditions: Sequence[Condition], score: str) -> list[tuple[str, str]]:
    """What a reader wants to know of a cell, from the first row that tells it."""
    if not conditions:
        return []
    first = conditions[0]
    row = first.rows.iloc[cell.rows[first.key]]
    told = []
    label = row.get("label")
    if label is not None and pd.notna(label) and int(label) >= 0:
        told.append(("label", _class(cell, int(label))))
    predicted = {
        _class(cell, int(value))
        for each in conditions
        if pd.notna(value := each.rows.iloc[cell.rows[each.key]].get("predicted")) and value >= 0
    }
    if predicted:
        told.append(("predicted", " or ".join(sorted(predicted))))
    area = row.get(f"{score}.chance")
    if area is not None and np.isfinite(area):
        told.append(("area fraction", f"{area:.2f}"))
    places = [name for name in _FACTS if name in row and pd.notna(row[name])]
    return told + [(name.removeprefix("Metadata_").lower(), str(row[name])) for name in places]


def _class(cell: Cell, label: int) -> str:
    return cell.classes[label] if label < len(cell.classes) else str(label)


def _numbers(cell: Cell, condition: Condition, score: str) -> dict[str, Any]:
    row = condition.rows.iloc[cell.rows[condition.key]]
    return {
        "series": condition.series,
        "place": condition.place,
        "values": [row.get(f"{score}{end}") for end in NUMBERS],
        "status": " ".join(
            str(row[name]) for name in ("status", "reason") if name in row and pd.notna(row[name])
        ),
    }


def _finite(value: float) -> float | None:
    return round(float(value), 2) if np.isfinite(value) else None
