"""The units of replication: which cells belong together, and sums over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from attrscore.errors import ConfigError, did_you_mean

__all__ = ["CLUSTERS", "FEWEST", "Clusters", "totals"]

CLUSTERS = ("Metadata_Plate", "Metadata_Well")
"""Columns that name units of replication, the outermost first."""

FEWEST = 5
"""With fewer units an interval is a t interval and flagged: resamples of so few repeat too much."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Clusters:
    """Cells by the unit that is resampled, and by the innermost unit within it."""

    outer: Array
    """(cells,) number of the unit that is resampled; 0 where there is no unit."""
    inner: Array
    """(cells,) number of the innermost unit, nested in the outer ones."""
    level: str
    """The column whose groups are resampled; "" where nothing tells cells apart."""
    caveat: str = ""
    """What this choice of level leaves open."""

    @classmethod
    def of(cls, table: pd.DataFrame, columns: Sequence[str] | None = None, /) -> Clusters:
        """The units of these rows: the outermost level that has 5 units, else the most numerous.

        ``columns`` are nested, the outermost first; a well is told apart by its plate too. None
        takes those of :data:`CLUSTERS` that the table has. Rows without an entry are one unit.

        >>> wells = pd.DataFrame({"Metadata_Plate": [1, 1, 2], "Metadata_Well": ["A", "B", "A"]})
        >>> Clusters.of(wells).units, Clusters.of(wells).level
        (3, 'Metadata_Well')

        :raises ConfigError: a column that the table does not have.
        """
        names = [name for name in CLUSTERS if name in table] if columns is None else list(columns)
        for name in names:
            if name not in table:
                raise ConfigError(f"There is no column '{name}'. {did_you_mean(name, table)}")
        if not names:
            nothing = np.zeros(len(table), dtype=np.intp)
            return cls(nothing, nothing, "")
        levels = [
            table.groupby(names[: i + 1], sort=True, dropna=False, observed=True).ngroup()
            for i in range(len(names))
        ]
        counts = [level.nunique() for level in levels]
        enough = [i for i, count in enumerate(counts) if count >= FEWEST]
        chosen = enough[0] if enough else int(np.argmax(counts))
        caveat = ""
        if chosen and counts[chosen] > 1:
            above = names[chosen - 1]
            caveat = (
                f"{counts[chosen - 1]} groups of {above}: the interval does not speak of others"
            )
        outer, inner = (levels[i].to_numpy(dtype=np.intp) for i in (chosen, -1))
        return cls(outer, inner, names[chosen], caveat)

    @property
    def units(self) -> int:
        """How many units there are; 0 where nothing tells cells apart."""
        return int(self.outer.max()) + 1 if self.level and len(self.outer) else 0

    @property
    def note(self) -> str:
        """What a reader must know of these units; "" where there is nothing to say."""
        if not self.level:
            return f"no column {' or '.join(CLUSTERS)}: it is not known which cells belong together"
        few = ""
        if self.units < 2:
            few = f"one {self.level} only: no interval"
        elif self.units < FEWEST:
            few = f"only {self.units} units ({self.level}): a t interval, which proves little"
        return "; ".join(filter(None, (few, self.caveat)))

    def among(self, rows: Array, /) -> Clusters:
        """The units of some rows, numbered anew."""
        outer, inner = (
            np.unique(codes[rows], return_inverse=True)[1] for codes in (self.outer, self.inner)
        )
        return Clusters(outer, inner, self.level, self.caveat)


def totals(codes: Array, values: Array, /) -> Array:
    """Sums of (cells, T) by code -> (units, T), in float64."""
    size = int(codes.max()) + 1 if len(codes) else 0
    columns = [np.bincount(codes, weights=column, minlength=size) for column in values.T]
    return np.stack(columns, axis=1) if columns else np.zeros((size, 0))
