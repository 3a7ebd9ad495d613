"""Intervals from resampling wells or plates, not cells.

Cells of one well share its staining, its focus and its batch, so an interval over cells is too
narrow. What is resampled is the outermost unit, with all its cells: Davison, Hinkley (Bootstrap
Methods and their Application, 1997, section 3.8) and Field, Welsh (JRSS B, 2007) show that this
matches the variance of nested data, while resampling within units as well counts it twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from attrscore.errors import ConfigError, choose, did_you_mean

__all__ = [
    "CLUSTERS",
    "FEWEST",
    "MANY",
    "Clusters",
    "Estimate",
    "Resampling",
    "bootstrap",
    "numbers",
    "totals",
]

Array = np.ndarray[Any, Any]

CLUSTERS = ("Metadata_Plate", "Metadata_Well")
"""Columns that name units of replication, the outermost first."""

FEWEST = 5
"""With fewer units an interval is a t interval and flagged: resamples of so few repeat too much."""
FEW = 10
"""Fewer units of unlike sizes are flagged."""
MANY = 2000
"""Above so many units a t interval agrees with a resampled one, which would take minutes."""
ALIKE = 0.1
"""Correlation of a unit's cells that a share's interval allows for where nothing shows it."""
_BLOCK = 2**21


@dataclass(frozen=True, eq=False)
class Clusters:
    """Cells by the unit that is resampled."""

    outer: Array
    """(cells,) number of the unit; 0 where there is none."""
    level: str
    """The column whose groups are resampled; "" where no column names units."""
    caveat: str = ""
    """What this choice of level leaves open."""

    @classmethod
    def of(
        cls, table: pd.DataFrame, columns: Sequence[str] | None = None, /, *, fewest: int = 2
    ) -> Clusters:
        """The units of these rows: the outermost level with ``fewest`` groups, else the innermost.

        Plates have effects of their own, so wells of two plates say nothing of a third. Where there
        are fewer plates than ``fewest``, the wells are the units, and what is said of them holds
        on these plates only.

        ``columns`` are nested, the outermost first; wells of one name on two plates are two units.
        None takes those of :data:`CLUSTERS` that the table has. Rows without an entry are one unit.

        >>> wells = pd.DataFrame({"Metadata_Plate": [1, 1, 2], "Metadata_Well": ["A", "B", "A"]})
        >>> Clusters.of(wells).units, Clusters.of(wells).level
        (2, 'Metadata_Plate')

        :raises ConfigError: a column that the table does not have.
        """
        names = [name for name in CLUSTERS if name in table] if columns is None else list(columns)
        for name in names:
            if name not in table:
                raise ConfigError(f"There is no column '{name}'. {did_you_mean(name, table)}")
        if not names:
            return cls(np.zeros(len(table), dtype=np.intp), "")
        levels = [
            table.groupby(names[: i + 1], sort=True, dropna=False, observed=True).ngroup()
            for i in range(len(names))
        ]
        counts = [level.nunique() for level in levels]
        enough = (i for i, count in enumerate(counts) if count >= fewest)
        chosen = next(enough, len(names) - 1)
        caveat = ""
        if chosen and counts[chosen] > 1:
            groups, above = counts[chosen - 1], names[chosen - 1]
            caveat = f"on {'this' if groups == 1 else f'these {groups} groups of'} {above} only"
        return cls(levels[chosen].to_numpy(dtype=np.intp), names[chosen], caveat)

    @property
    def units(self) -> int:
        """How many units there are; 0 where no column names them."""
        return int(self.outer.max()) + 1 if self.level and len(self.outer) else 0

    @property
    def effective(self) -> float:
        """How many units of equal size would weigh as these do: (sum n)^2 / sum n^2 (Kish, 1965).

        >>> Clusters(np.array([0, 0, 0, 1]), "well").effective
        1.6
        """
        sizes = np.bincount(self.outer).astype(float)
        return float(sizes.sum() ** 2 / (sizes**2).sum()) if len(self.outer) else 0.0

    @property
    def note(self) -> str:
        """What limits an interval over these units; "" where nothing does."""
        if not self.level:
            return f"no column {' or '.join(CLUSTERS)}: it is not known which cells belong together"
        few = ""
        if self.units < 2:
            few = f"one {self.level} only: no interval"
        elif self.units < FEWEST:
            few = f"only {self.units} units ({self.level}): a t interval, which is wide"
        elif self.units < FEW and self.effective < 0.8 * self.units:
            few = f"{self.units} units ({self.level}) that weigh as {self.effective:.1f} alike ones"
        return "; ".join(filter(None, (few, self.caveat)))

    def among(self, rows: Array, /) -> Clusters:
        """The units of some of the rows, numbered from 0."""
        outer = np.unique(self.outer[rows], return_inverse=True)[1]
        return Clusters(outer, self.level, self.caveat)


def totals(codes: Array, values: Array, /) -> Array:
    """Add (cells, T) up within each unit -> (units, T), in float64."""
    size = int(codes.max()) + 1 if len(codes) else 0
    columns = [np.bincount(codes, weights=column, minlength=size) for column in values.T]
    return np.stack(columns, axis=1) if columns else np.zeros((size, 0))


@dataclass(frozen=True)
class Estimate:
    """A number over cells, with its interval over units; NaN where it cannot be had."""

    value: float
    low: float
    high: float
    cells: int
    undefined: int
    units: int
    level: str
    """The column whose groups are the units."""
    interval: str
    """How it was made: studentised, expanded, percentile, t, binomial, none."""
    note: str
    """What limits the interval; "" where nothing does."""

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(
    table: pd.DataFrame,
    value: str,
    /,
    *,
    clusters: Sequence[str] | None = None,
    fewest: int = 2,
    threshold: float | None = None,
    **options: Any,
) -> Estimate:
    """The mean of a column over its defined cells, with an interval over units.

    With ``threshold`` it is P(value > threshold). ``clusters`` are nested columns, the outermost
    first, and with ``fewest`` say what the units are (:meth:`Clusters.of`); further options are
    those of :class:`Resampling`.

    >>> wells = pd.DataFrame({"Metadata_Well": list("AABBCCDDEE"), "x": [0.2, 0.4] * 5})
    >>> found = bootstrap(wells, "x")
    >>> round(found.value, 6), found.units
    (0.3, 5)

    :raises ConfigError: a column that is not there, or an option out of range.
    """
    values = numbers(table, value)
    finite = np.isfinite(values)
    found = Clusters.of(table, clusters, fewest=fewest).among(finite)
    kept = values[finite] if threshold is None else (values[finite] > threshold).astype(float)
    plan = Resampling(**options)
    made = plan.means if threshold is None else plan.shares
    points, lows, highs, interval = made(kept[:, None], found)
    point, low, high = (float(end[0]) for end in (points, lows, highs))
    undefined = int((~finite).sum())
    return Estimate(
        *(point, low, high, len(kept), undefined, found.units, found.level, interval, found.note)
    )


def numbers(table: pd.DataFrame, column: str, /) -> Array:
    """A column as float64, missing values as NaN.

    :raises ConfigError: it is not there, or holds no numbers.
    """
    if column not in table or not pd.api.types.is_numeric_dtype(table[column]):
        known = table.select_dtypes("number").columns
        raise ConfigError(
            f"There is no column of numbers '{column}'. {did_you_mean(column, known)}"
        )
    values: Array = table[column].to_numpy(dtype=np.float64, na_value=np.nan)
    return values


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How an interval is made.

    ``studentised`` divides every resampled deviation by its own cluster-robust error (bootstrap-t),
    which follows skewed units (Cameron, Gelbach, Miller, Review of Economics and Statistics 2008),
    and reaches at least sqrt(n / (n - 1)) times as far as the t interval of n units, which follows
    units of unlike sizes: its error is from leaving out one unit at a time (MacKinnon, Nielsen,
    Webb, Journal of Applied Econometrics 2023), its degrees of freedom are one less than
    :attr:`Clusters.effective`.
    ``expanded`` widens percentiles to where t would end (Hesterberg, American Statistician 2015);
    it replaces ``studentised`` for :func:`attrscore.stats.separation`, which has no such error.
    Fewer than 5 units: the t interval, widened likewise. More than 2000, or ``t``: the t interval
    as it is. Shares have one method, that of :meth:`shares`. One unit: NaN.
    """

    confidence: float = 0.95
    interval: Literal["studentised", "expanded", "percentile", "t"] = "studentised"
    resamples: int = 9999
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise ConfigError(f"confidence={self.confidence} must lie within [0.5, 1).")
        if self.resamples < 99:
            raise ConfigError(f"resamples={self.resamples} must be at least 99.")
        choose(self.interval, ("studentised", "expanded", "percentile", "t"), option="interval")

    @property
    def tail(self) -> float:
        """What each side of the interval leaves out."""
        return (1 - self.confidence) / 2

    def means(self, values: Array, clusters: Clusters, /) -> tuple[Array, Array, Array, str]:
        """Means of finite (cells, T), lower and upper ends, (T,) each, and how they were made.

        Works on sums and counts of units, so it costs the same for any number of cells.
        """
        point, low, high, (t_low, t_high), interval = self._ends(values, clusters)
        low, high = np.where(np.isinf(low), t_low, low), np.where(np.isinf(high), t_high, high)
        return point, low, high, interval

    def shares(self, flags: Array, clusters: Clusters, /) -> tuple[Array, Array, Array, str]:
        """As :meth:`means` for (cells, T) of 0 and 1, by one method for any number of events.

        Percentiles of resampled units, ``expanded`` unless ``percentile`` is asked for, which are
        never narrower than the exact binomial interval of as many cells (Clopper, Pearson,
        Biometrika 1934), and reach at least the share that units of a correlation of :data:`ALIKE`
        would not exclude where there is no event (from 1, where all are events). All three are of
        the cells' counts, with weights that do not depend on them, so another event never lowers an
        end. Below 5 units: exact binomial for as many cells as there are units, as if the cells of
        a unit were one.
        """
        cells, units = len(flags), clusters.units
        nothing = np.full(flags.shape[1], np.nan)
        if not cells or units < 2:
            return flags.mean(0) if cells else nothing, nothing, nothing, "none"
        point, few = flags.mean(0), units < FEWEST
        of = units if few else cells
        low, high = self._binomial(point * of, of)
        if few:
            return point, low, high, "binomial"
        if units > MANY:  # groups of units at random resample alike
            clusters = Clusters(clusters.outer % MANY, clusters.level)
        interval = "percentile" if self.interval == "percentile" else "expanded"
        drawn = self._percentiles(flags, clusters, interval)
        sizes = np.bincount(clusters.outer)
        alone = cells / (1 + ((sizes**2).sum() / cells - 1) * ALIKE)
        unseen = 1 - self.tail ** (1 / alone)
        low = np.minimum(np.minimum(low, drawn[0]), 1 - unseen)
        high = np.maximum(np.maximum(high, drawn[1]), unseen)
        return point, low, high, interval

    def _binomial(self, hits: Array, of: int) -> tuple[Array, Array]:
        """Exact ends of a share, where hits need not be whole."""
        # A beta of parameter 0 is all at its end: there the bound is 0 or 1.
        least = stats.beta.ppf(self.tail, np.maximum(hits, 1e-300), of - hits + 1)
        most = stats.beta.ppf(1 - self.tail, hits + 1, np.maximum(of - hits, 1e-300))
        return np.where(hits > 0, least, 0), np.where(hits < of, most, 1)

    def _percentiles(self, values: Array, clusters: Clusters, interval: str) -> Array:
        """The ends of resampled means of (cells, T): (2, T)."""
        sums, counts = totals(clusters.outer, values), np.bincount(clusters.outer).astype(float)
        draws = [(w @ sums) / (w @ counts)[:, None] for w in self._weights(clusters.units)]
        tails = self._tails(interval, clusters.units)
        ends: Array = np.quantile(np.concatenate(draws), tails, axis=0)
        return ends

    def _ends(
        self, values: Array, clusters: Clusters
    ) -> tuple[Array, Array, Array, tuple[Array, Array], str]:
        """Means, ends (infinite where resamples know none), a t interval, how ends were made."""
        nothing = np.full(values.shape[1], np.nan)
        if not len(values) or clusters.units < 2:
            point = values.mean(0) if len(values) else nothing
            return point, nothing, nothing, (nothing, nothing), "none"
        point = values.mean(0)
        sums, counts = totals(clusters.outer, values), np.bincount(clusters.outer).astype(float)
        left_out = (sums.sum(0) - sums) / (counts.sum() - counts)[:, None]
        low, high = by_t = self._by_t(point, left_out, clusters)
        interval = self._interval(clusters)
        if interval == "studentised":
            low, high = self._studentised(sums, counts, point)
            low, high = np.minimum(low, by_t[0]), np.maximum(high, by_t[1])
        elif interval != "t":
            low, high = self._percentiles(values, clusters, interval)
        return point, low, high, by_t, interval

    def of_units(
        self, statistic: Callable[[Array], Array], clusters: Clusters, /
    ) -> tuple[float, float, float, str]:
        """A statistic of how often each unit counts, (resamples, units) -> (resamples,)."""
        units = clusters.units
        point = float(statistic(np.ones((1, max(units, 1))))[0])
        if units < 2 or np.isnan(point):
            return point, np.nan, np.nan, "none"
        if self._interval(clusters) == "t":
            rest = statistic(1 - np.eye(units))
            low, high = self._by_t(np.array([point]), rest[:, None], clusters)
            return point, float(low[0]), float(high[0]), "t"
        interval = self._interval(clusters).replace("studentised", "expanded")
        draws = np.concatenate([statistic(w) for w in self._weights(units)])
        low, high = np.nanquantile(draws, self._tails(interval, units))
        return point, float(low), float(high), interval

    def _interval(self, clusters: Clusters) -> str:
        if self.interval == "t" or not FEWEST <= clusters.units <= MANY:
            return "t"
        return self.interval

    def _studentised(self, sums: Array, counts: Array, point: Array) -> tuple[Array, Array]:
        """Bootstrap-t with the linearised error of a ratio of sums."""
        centred = sums - point * counts[:, None]  # so that the squares below do not cancel
        squares, products = centred**2, centred * counts[:, None]
        blocks = []
        for w in self._weights(len(counts)):
            size = (w @ counts)[:, None]
            moved = (w @ centred) / size
            most = w @ squares
            error = most - 2 * moved * (w @ products) + moved**2 * (w @ counts**2)[:, None]
            error = np.sqrt(np.where(error > 1e-12 * most, error, 0)) / size
            # A resample of like units has no error: it stands beyond all others, on its side.
            beyond = np.where(moved == 0, 0.0, np.copysign(np.inf, moved))
            blocks.append(np.divide(moved, error, out=beyond, where=error > 0))
        error = np.sqrt(squares.sum(0)) / counts.sum()
        tails = [1 - self.tail, self.tail]
        ends = np.quantile(np.concatenate(blocks), tails, axis=0, method="inverted_cdf")
        finite = np.isfinite(ends)
        low, high = np.where(finite, point - np.where(finite, ends, 0) * error, -ends)
        return low, high

    def _weights(self, units: int) -> Iterator[Array]:
        """Blocks (resamples, units): how often each is drawn."""
        rng = np.random.default_rng(self.seed)
        rows = max(1, _BLOCK // units)
        for start in range(0, self.resamples, rows):
            size = min(rows, self.resamples - start)
            yield rng.multinomial(units, np.full(units, 1 / units), size=size).astype(float)

    def _by_t(self, point: Array, left_out: Array, clusters: Clusters) -> tuple[Array, Array]:
        units = len(left_out)
        error = np.sqrt((units - 1) / units * ((left_out - point) ** 2).sum(0))
        if self.interval != "t" and units <= MANY:
            error = error * np.sqrt(units / (units - 1))  # as percentiles are, for skewed units
        # Below half a degree of freedom the interval is beyond all numbers that a score can have.
        reach = stats.t.ppf(1 - self.tail, max(clusters.effective - 1, 0.5)) * error
        return point - reach, point + reach

    def _tails(self, interval: str, units: int) -> list[float]:
        tail = self.tail
        if interval == "expanded":
            wide = np.sqrt(units / (units - 1)) * stats.t.ppf(1 - tail, units - 1)
            tail = float(stats.norm.cdf(-wide))
        return [tail, 1 - tail]
