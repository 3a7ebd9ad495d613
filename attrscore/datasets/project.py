"""A DeepProfiler project on disk: its index, the files of each field, the places of its cells.

After the DeepProfiler handbook: ``inputs/metadata/index.csv`` has a row a field with a column a
channel, ``inputs/locations/{Plate}/{Well}-{Site}-Nuclei.csv`` the centres of its cells, and
``inputs/metadata/outlines.csv``, where it is, the file of ``inputs/outlines`` that shows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attrscore.datasets.images import Image, open_image
from attrscore.datasets.tables import carried_columns, classes_of, need_columns, read_table
from attrscore.errors import DataError, preview

__all__ = ["Project", "Site"]

_SITE = ("Metadata_Plate", "Metadata_Well", "Metadata_Site")
_PLACE = ("Nuclei_Location_Center_Y", "Nuclei_Location_Center_X")


@dataclass(frozen=True)
class Site:
    """The files of one field."""

    name: str
    """Plate/Well/Site."""
    images: tuple[Path, ...]
    outlines: Path | None
    locations: Path

    @property
    def all(self) -> tuple[Path, ...]:
        """Those that hold pixels."""
        return self.images if self.outlines is None else (*self.images, self.outlines)


@dataclass(frozen=True, eq=False, kw_only=True)
class Project:
    """Where the parts of a project lie, and which columns of its index are meant."""

    root: Path
    index: str
    locations: str
    images: str
    outlines: str | None
    channels: tuple[str, ...]
    label_column: str | None
    carry: tuple[str, ...]
    taken: tuple[str, ...]
    """Names that carried columns may not have."""

    @property
    def rows(self) -> pd.DataFrame:
        """``label`` and the carried columns, by the name of the field."""
        return self._read[0]

    @property
    def sites(self) -> Mapping[str, Site]:
        """By their name, in the order of the index."""
        return self._read[1]

    @property
    def classes(self) -> tuple[str, ...]:
        """The values of ``label_column``, sorted."""
        return self._read[2]

    def places(self, name: str, /) -> NDArray[np.float64]:
        """Of the cells of a field, (n, 2) along Y and X.

        :raises DataError: no such file, without these columns, or no numbers.
        """
        where = self.sites[name].locations
        given = read_table(where, option="locations")
        absent = [column for column in _PLACE if column not in given.columns]
        if absent:
            raise DataError(
                f"'{where.name}' of '{where.parent.name}' has no column '{absent[0]}'; it has: "
                f"{preview(given.columns)}."
            )
        columns = [pd.to_numeric(given[column], errors="coerce") for column in _PLACE]
        numbers: NDArray[np.float64] = np.stack(columns, axis=1).astype(np.float64)
        if not np.isfinite(numbers).all():
            raise DataError(
                f"'{where.name}' of '{where.parent.name}' holds locations that are no numbers; "
                "remove those rows."
            )
        return numbers

    def image(self, path: Path, /) -> Image:
        """One image of one channel.

        :raises DataError: not there, or it cannot be read.
        """
        if not path.is_file():
            raise DataError(f"'{path.name}' is named by '{self.index}' and is not there: {path}.")
        return open_image(path, axes="YX")

    @cached_property
    def _read(self) -> tuple[pd.DataFrame, dict[str, Site], tuple[str, ...]]:
        where = self.root / self.index
        given = read_table(where, option="index", text=_SITE)
        given = self._with_outlines(given)
        wanted = [("channels", column) for column in self.channels]
        wanted += [("carry", column) for column in self.carry]
        wanted += [("label_column", self.label_column)] if self.label_column is not None else []
        absent = [column for column in _SITE if column not in given.columns]
        if absent:
            raise DataError(
                f"'{where.name}' has no column '{absent[0]}'; an index of DeepProfiler has "
                f"{', '.join(_SITE)}, and a column a channel."
            )
        need_columns(given, wanted, name=where.name)
        carried = carried_columns(given, self.carry, taken=self.taken, name=where.name)
        keys = given[list(_SITE)].agg("/".join, axis=1)
        if keys.duplicated().any():
            raise DataError(
                f"'{where.name}' has more than one row for {keys[keys.duplicated()].iloc[0]}; "
                "expected one a field."
            )
        label, classes = (
            (-1, ()) if self.label_column is None else classes_of(given[self.label_column])
        )
        rows = pd.DataFrame({"label": label}, index=given.index)
        for column, new in carried.items():
            rows[new] = given[column]
        records: list[dict[Any, Any]] = given.to_dict("records")
        sites = {key: self._site(key, row) for key, row in zip(keys, records, strict=True)}
        return rows.set_index(keys), sites, classes

    def _with_outlines(self, given: pd.DataFrame) -> pd.DataFrame:
        """A column ``Outlines``, from ``outlines.csv`` beside the index where it has none."""
        if self.outlines is None or "Outlines" in given.columns:
            return given
        where = (self.root / self.index).parent / "outlines.csv"
        table = read_table(where, option="outlines.csv", text=_SITE)
        absent = [column for column in (*_SITE, "Outlines") if column not in table.columns]
        if absent:
            raise DataError(f"'{where.name}' has no column '{absent[0]}'.")
        return given.merge(table[[*_SITE, "Outlines"]], how="left", on=list(_SITE))

    def _site(self, key: str, row: Mapping[str, Any]) -> Site:
        plate, well, number = (row[column] for column in _SITE)
        outlines = row.get("Outlines")
        named = self.outlines is not None and isinstance(outlines, str)
        return Site(
            name=key,
            images=tuple(self.root / self.images / str(row[column]) for column in self.channels),
            outlines=self.root / str(self.outlines) / str(outlines) if named else None,
            locations=self.root / self.locations / plate / f"{well}-{number}-Nuclei.csv",
        )
