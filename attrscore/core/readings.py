"""How a score is to be read: which way is better, its range, its chance level, its unit.

A scorer says so in an attribute ``readings``, a mapping from its columns to plain mappings; it
needs no import of attrscore, and is kept in result files, so that tables and figures know it where
the scorer is not installed::

    nucleus_share.readings = {"score": {"better": "higher", "range": (0, 1), "says": "share"}}

Columns are named as the scorer returns them, ``score`` for a lone tensor; a pattern such as
``*.area`` stands for several. What is not said is unknown, and nothing is coloured, bounded or
sorted by it; a column ``<column>.chance`` is taken for the chance level.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from attrscore.errors import ConfigError, choose, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

Better = Literal["higher", "lower", "neither"]

Declared = Mapping[str, Mapping[str, Any]]
"""Column or pattern -> fields of a :class:`Reading`: what a scorer says of itself."""


@dataclass(frozen=True)
class Reading:
    """How one column of a scorer is to be read.

    ``chance`` is what a map that knows nothing scores: a number, or a text such as ``.chance``, the
    end of the name of the column beside it that holds it for every cell.
    """

    better: Better = "neither"
    range: tuple[float | None, float | None] = (None, None)
    """Lowest and highest value there is; None where there is no end."""
    chance: float | str | None = ".chance"
    unit: str = ""
    says: str = ""
    """What it is in a few words, for an axis."""

    def __post_init__(self) -> None:
        choose(self.better, Better.__args__, option="better")  # type: ignore[attr-defined]  # no typed accessor
        ends = tuple(self.range) if isinstance(self.range, list | tuple) else ()
        if len(ends) != 2 or not all(each is None or _is_number(each) for each in ends):
            raise ConfigError(f"range={self.range} must be two numbers, or None for no end.")
        if None not in ends and ends[0] >= ends[1]:  # type: ignore[operator]  # numbers, as above
            raise ConfigError(f"range={self.range} must rise.")
        chance = self.chance
        if not (
            chance is None
            or _is_number(chance)
            or (isinstance(chance, str) and chance.startswith("."))
        ):
            raise ConfigError(
                f"chance={chance!r} must be a number, None, or the end of the name of a column, "
                "such as '.chance'."
            )
        object.__setattr__(self, "range", ends)

    @property
    def axis(self) -> str:
        """The words with their unit."""
        return f"{self.says} ({self.unit})" if self.says and self.unit else self.says

    @property
    def sentence(self) -> str:
        """All of it, for a listing.

        >>> Reading("lower", range=(0, None), chance=0.5, unit="µm").sentence
        'lower is better; from 0; in µm; 0.5 by chance'
        """
        way = {"neither": "neither way is better"}.get(self.better, f"{self.better} is better")
        low, high = (None if end is None else f"{end:g}" for end in self.range)
        ends = f"{low} to {high}" if low and high else f"from {low}" if low else ""
        ends = ends or (f"up to {high}" if high else "")
        unit = f"in {self.unit}" if self.unit else ""
        beside = f"chance in {self.chance}" if isinstance(self.chance, str) else ""
        chance = f"{self.chance:g} by chance" if isinstance(self.chance, int | float) else beside
        return "; ".join(part for part in (way, ends, unit, chance) if part)


class Readings(dict[str, dict[str, dict[str, Any]]]):
    """Scorer -> column or pattern -> the fields of a :class:`Reading`, as JSON has them."""

    def __deepcopy__(self, _memo: Any) -> Readings:
        """Itself: pandas copies what is attached to a table with every selection of rows."""
        return self


def readings_of(scorer: Any, /) -> dict[str, dict[str, Any]]:
    """What a scorer says of its columns, checked; empty where it says nothing.

    :raises ConfigError: a field that is unknown or has no such value.
    """
    declared = getattr(getattr(scorer, "function", scorer), "readings", {})
    if not isinstance(declared, Mapping) or not all(
        isinstance(v, Mapping) for v in declared.values()
    ):
        raise ConfigError(
            f"readings must be a mapping from columns to mappings; given: {declared!r}."
        )
    return {str(column): _plain(str(column), fields) for column, fields in declared.items()}


def attach(table: pd.DataFrame, declared: Mapping[str, Mapping[str, Any]], /) -> pd.DataFrame:
    """The table with its readings: they follow selections of its rows, not its joins."""
    table.attrs["readings"] = Readings({key: dict(each) for key, each in declared.items()})
    return table


def readings_in(table: pd.DataFrame, /) -> Mapping[str, Mapping[str, Any]]:
    """What :func:`attach` gave the table."""
    declared: Mapping[str, Mapping[str, Any]] = table.attrs.get("readings", {})
    return declared


def reading_of(table: pd.DataFrame, column: str, /) -> Reading:
    """How a column of a table of results is to be read; all unknown where nobody said it."""
    declared = readings_in(table)
    owners = [key for key in declared if column == key or column.startswith(f"{key}.")]
    if not owners:
        return Reading()
    owner = max(owners, key=len)
    own = "score" if column == owner else column[len(owner) + 1 :]
    fields = declared[owner].get(own)
    if fields is None:
        found = (each for name, each in declared[owner].items() if fnmatchcase(own, name))
        fields = next(found, {})
    return _reading(own, fields)


def chance_of(table: pd.DataFrame, column: str, /) -> pd.Series[float]:
    """What a map that knows nothing would have in this column, for every row; NaN where unknown."""
    import pandas as pd  # here, so that a scorer's declaration costs no pandas

    chance = reading_of(table, column).chance
    if isinstance(chance, str):
        beside = f"{column}{chance}"
        chance = None
        if beside in table:
            return table[beside].astype(float)
    return pd.Series(math.nan if chance is None else chance, index=table.index, dtype=float)


def _plain(column: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON has it."""
    reading = _reading(column, fields)
    return {**{n: v for n, v in asdict(reading).items() if n in fields}} | (
        {"range": list(reading.range)} if "range" in fields else {}
    )


def _reading(column: str, fields: Mapping[str, Any]) -> Reading:
    known = Reading.__dataclass_fields__
    for name in fields:
        if name not in known:
            raise ConfigError(
                f"readings of '{column}' have no field {name!r}. {did_you_mean(name, known)}"
            )
    try:
        return Reading(**fields)
    except ConfigError as error:
        error.add_note(f"in the readings of '{column}'")
        raise


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
