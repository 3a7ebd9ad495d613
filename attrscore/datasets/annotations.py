"""What a CSV says about cells: their class and the columns that are carried to the results."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from attrscore.datasets.files import stem
from attrscore.errors import ConfigError, DataError, did_you_mean, preview

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Annotations", "read_annotations"]


@dataclass(frozen=True, eq=False)
class Annotations:
    """Class and carried columns by (image, object). Empty where no CSV is given."""

    classes: tuple[str, ...] = ()
    rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Indexed by (stem, number): ``label``, then the carried columns."""
    source: str = ""

    def join(self, cells: pd.DataFrame, /) -> pd.DataFrame:
        """``cells`` with ``label`` second and the carried columns last."""
        if self.rows.empty:
            cells.insert(1, "label", np.int64(-1))
            return cells
        keys = pd.MultiIndex.from_frame(cells[["Metadata_image", "Metadata_object"]])
        found = self.rows.reindex(keys).reset_index(drop=True)
        label = found.pop("label").fillna(-1).astype(np.int64)
        joined = pd.concat([cells.reset_index(drop=True), found], axis=1)
        joined.insert(1, "label", label)
        return joined

    def check(self, cells: pd.DataFrame, /) -> None:
        """Whether the keys can be right.

        :raises DataError: no cell is in the CSV at all.
        """
        keys = pd.MultiIndex.from_frame(cells[["Metadata_image", "Metadata_object"]])
        if not self.rows.empty and not keys.isin(self.rows.index).any():
            raise DataError(
                f"No row of '{self.source}' is about a cell of these files: it has "
                f"{preview((f'{image}:{number}' for image, number in self.rows.index), most=3)}; "
                f"the files have {preview(cells['id'], most=3)}. Choose its columns with "
                "dataset.image_key and dataset.object_key."
            )


def read_annotations(
    path: str | None,
    /,
    *,
    image_key: str,
    object_key: str,
    label_column: str | None,
    carry: Sequence[str],
    taken: Sequence[str],
) -> Annotations:
    """The CSV at ``path``; ``taken`` are names that its carried columns may not have.

    :raises ConfigError: a column that is not there, or has a name that is taken.
    :raises DataError: unreadable, no numbers in ``object_key``, or two rows for one cell.
    """
    if path is None:
        return Annotations()
    name = Path(path).name
    try:
        given = pd.read_csv(
            Path(path).expanduser(),
            dtype={image_key: str},  # an image may be called 007
            keep_default_na=False,  # else the genotype "NULL" and the treatment "None" are missing
            na_values=["", "NA", "NaN", "nan"],
        )
    except (OSError, ValueError) as error:
        raise DataError(
            f"labels='{path}' cannot be read as a CSV: {error}; check the path."
        ) from error
    if given.empty:
        raise DataError(f"'{name}' has no rows; expected one a cell.")
    options = {"image_key": image_key, "object_key": object_key, "label_column": label_column}
    for option, column in [*options.items(), *(("carry", column) for column in carry)]:
        if column is not None and column not in given.columns:
            raise ConfigError(
                f"{option}='{column}' is not a column of '{name}'. "
                f"{did_you_mean(column, given.columns)}"
            )
    numbers = pd.to_numeric(given[object_key], errors="coerce")
    if numbers.isna().any() or (numbers % 1 != 0).any():
        wrong = given[object_key][numbers.isna() | (numbers % 1 != 0)].iloc[0]
        raise DataError(
            f"The column '{object_key}' of '{name}' holds {wrong!r}; expected the whole number of "
            "the object in its label image."
        )
    keys = pd.MultiIndex.from_arrays([given[image_key].map(stem), numbers.astype(np.int64)])
    twice = keys[keys.duplicated()]
    if len(twice):
        raise DataError(
            f"'{name}' has more than one row for object {twice[0][1]} of image '{twice[0][0]}'; "
            "expected one row a cell."
        )
    carried = {column: column for column in given.columns if column.startswith("Metadata_")}
    carried |= {column: f"Metadata_{column.removeprefix('Metadata_')}" for column in carry}
    clash = [column for column, new in carried.items() if new in taken]
    if clash:
        raise ConfigError(
            f"The column '{clash[0]}' of '{name}' cannot be carried, for attrscore makes a column "
            f"'{carried[clash[0]]}' itself; rename it in the CSV."
        )
    label, classes = _classes(None if label_column is None else given[label_column])
    rows = pd.DataFrame({"label": label if label is not None else -1}, index=given.index)
    for column, new in carried.items():
        rows[new] = given[column]
    return Annotations(classes, rows.set_index(keys), name)


def _classes(values: pd.Series[Any] | None) -> tuple[np.ndarray[Any, Any] | None, tuple[str, ...]]:
    """Index into the sorted classes, -1 where missing; numbers sort as numbers."""
    if values is None:
        return None, ()
    numbers, names = pd.factorize(values, sort=True)
    whole = pd.api.types.is_float_dtype(values) and (values.dropna() % 1 == 0).all()
    return numbers, tuple(str(int(name) if whole else name) for name in names)
