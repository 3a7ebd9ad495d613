"""A table of scores as the figures need it: plain names, groups, and one scale for all panels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import seaborn as sns

from attrscore.core.readings import Reading, chance_of, reading_of
from attrscore.errors import ConfigError, DataError, did_you_mean
from attrscore.stats.conditions import is_null

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Colour", "Table", "thinned"]

Colour = tuple[float, float, float]

_NOT_SCORES = {
    *("id", "model", "dataset", "method", "layer", "target", "label", "predicted"),
    *("status", "reason", "explained", "confidence"),
}
_ROW_INCHES = 12.0
_LETTER_INCHES = 0.085


@dataclass(frozen=True, eq=False)
class Table:
    """The rows to draw."""

    frame: pd.DataFrame
    """method, layer, series: text; value: NaN where undefined; chance, lowest, highest."""
    score: str
    reading: Reading
    methods: Sequence[str]
    series: Sequence[str]
    """Models, in the order in which the table names them first."""

    @classmethod
    def of(cls, scores: pd.DataFrame, score: str, /) -> Table:
        """Check the table and give its columns plain names."""
        if score not in scores.columns or not pd.api.types.is_numeric_dtype(scores[score]):
            known = [
                name
                for name in scores.select_dtypes("number").columns
                if name not in _NOT_SCORES and not str(name).startswith("Metadata_")
            ]
            raise ConfigError(
                f"The table has no column of scores '{score}'. {did_you_mean(score, known)}"
            )
        if scores.empty:
            raise DataError(
                "The table of scores is empty: nothing was computed, or a filter left no row."
            )
        reading = reading_of(scores, score)
        absent = pd.Series(np.nan, index=scores.index)
        frame = pd.DataFrame(
            {
                "method": scores["method"].astype(str),
                "layer": scores["layer"].astype(str),
                "series": _series(scores),
                "value": scores[score].astype(float),
                "chance": chance_of(scores, score),
                "lowest": scores.get(f"{score}.lowest", absent),
                "highest": scores.get(f"{score}.highest", absent),
            }
        ).replace([np.inf, -np.inf], np.nan)
        methods, series = (list(frame[name].unique()) for name in ("method", "series"))
        return cls(frame, score, reading, methods, series)

    @property
    def words(self) -> str:
        """What the score is, for an axis."""
        return self.reading.axis or self.score

    @property
    def colours(self) -> Sequence[Colour]:
        """One for each series, told apart by colour-blind readers up to ten."""
        name = "colorblind" if len(self.series) <= 10 else "husl"
        colours: Sequence[Colour] = sns.color_palette(name, len(self.series))
        return colours

    def known(self, column: str, /) -> bool:
        """Whether the table knows ``chance`` or ``highest`` for any row."""
        return bool(self.frame[column].notna().any())

    def layers(self, method: str, /) -> list[str]:
        """The layers of a method, in the order in which the whole table names them first."""
        mine = set(self.frame.loc[self.frame["method"] == method, "layer"])
        return [layer for layer in self.frame["layer"].unique() if layer in mine]

    def inches(self, method: str, /) -> float:
        """Width of a panel in which every group can be told apart."""
        group = 0.42 if len(self.series) < 4 else 0.24
        return max(2.1, len(self.layers(method)) * (len(self.series) * group + 0.16))

    def label_inches(self, method: str, /) -> float:
        """Height to add for the names of layers: 0 where they fit side by side, else slanted."""
        layers = self.layers(method)
        longest = max(map(len, layers)) * _LETTER_INCHES
        return 0.5 * longest if longest > self.inches(method) / len(layers) else 0.0

    def rows(self) -> list[list[str]]:
        """Methods in order, wrapped into rows that fit a page."""
        page = max(_ROW_INCHES, *map(self.inches, self.methods))
        rows: list[list[str]] = [[]]
        for method in self.methods:
            if rows[-1] and sum(map(self.inches, [*rows[-1], method])) > page:
                rows.append([])
            rows[-1].append(method)
        return rows

    def limits(self) -> tuple[float, float]:
        """The range that the score has; else 0 to 1 for what looks like shares, or what the data
        and the chance level need. With a little air.
        """  # noqa: D205  # one sentence
        drawn = self.frame["value"].dropna()
        low, high = self.reading.range
        if low is None or high is None:
            low, high = 0.0, 1.0
            if len(drawn) and not drawn.between(0, 1).all():
                both = pd.concat([drawn, self.frame["chance"].dropna()])
                low, high = float(both.min()), float(both.max())
        air = 0.025 * (high - low) or 0.5
        return low - air, high + air


def thinned(frame: pd.DataFrame, /, *, most: int) -> pd.DataFrame:
    """Rows with a value, at most ``most`` a (layer, series): evenly spaced in rank, ends kept."""
    ordered = frame.dropna(subset=["value"]).sort_values("value", kind="stable")
    groups = ordered.groupby(["layer", "series"])["value"]
    rank = groups.cumcount()
    last = (groups.transform("size") - 1).clip(lower=1)
    slot, slot_before = (r * (most - 1) // last for r in (rank, rank - 1))
    return ordered[slot != slot_before]


def _series(scores: pd.DataFrame) -> pd.Series[str]:
    """The model's name, with the dataset or target where one model has several.

    Randomised weights are a series of their own.
    """
    model = scores["model"].astype(str)
    name = model
    for column in ("dataset", "target"):
        if column in scores:
            seen = pd.DataFrame({"model": model, "other": scores[column].astype(str)})
            if seen.drop_duplicates()["model"].duplicated().any():
                name = name + ", " + seen["other"]
    hidden = is_null(scores)
    return name.where(~hidden, name + ", randomised weights") if hidden.any() else name
