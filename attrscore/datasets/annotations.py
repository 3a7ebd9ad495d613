"""What a table says about cells: their class, and the columns carried to the results."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from attrscore.datasets.images.files import stem
from attrscore.datasets.tables import carried_columns, classes_of, need_columns, read_table
from attrscore.errors import ConfigError, DataError, preview

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Annotations", "read_annotations"]


@dataclass(frozen=True, eq=False)
class Annotations:
    """Class and carried columns by (image, object). Empty where no table is given."""

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

        :raises DataError: no cell is in the table at all.
        """
        keys = pd.MultiIndex.from_frame(cells[["Metadata_image", "Metadata_object"]])
        if not self.rows.empty and not keys.isin(self.rows.index).any():
            raise DataError(
                f"No row of '{self.source}' is about a cell of these files: it has "
                f"{preview((f'{image}:{number}' for image, number in self.rows.index), most=3)}; "
                f"the files have {preview(cells['id'], most=3)}. Choose its columns with "
                "dataset.image_key and dataset.object_key; ImageNumber needs dataset.image_table."
            )


def read_annotations(
    path: str | None,
    /,
    *,
    image_key: str | Sequence[str],
    object_key: str,
    label_column: str | None,
    carry: Sequence[str],
    taken: Sequence[str],
    image_table: str | None = None,
    image_file: str | None = None,
) -> Annotations:
    """The table at ``path``; ``taken`` are names that its carried columns may not have.

    ``image_key`` is its column with the image's name. With ``image_table``, a second table with a
    row an image, it is instead what both have in common: ``ImageNumber``, or several columns such
    as ``Metadata_Plate`` and ``Metadata_Well``; then ``image_file`` is the column of the second
    with the image's name, by default its only one called ``FileName_...``. The ``Metadata_``
    columns of the second are carried too.

    :raises ConfigError: a column that is not there, or has a name that is taken.
    :raises DataError: unreadable, no numbers in ``object_key``, or two rows for one cell.
    """
    if path is None:
        return Annotations()
    name = Path(path).name
    keys = [image_key] if isinstance(image_key, str) else list(image_key)
    given = read_table(path, option="labels", text=keys)
    wanted = [("image_key", key) for key in keys] + [("object_key", object_key)]
    wanted += [("label_column", label_column)] if label_column is not None else []
    if image_table is None:
        need_columns(given, [*wanted, *(("carry", column) for column in carry)], name=name)
        if len(keys) > 1:
            raise ConfigError(
                f"image_key={keys} names several columns, which only a second table can turn into "
                "the name of an image; state it with dataset.image_table."
            )
        images = given[keys[0]]
    else:
        need_columns(given, wanted[: len(keys) + 1], name=name)
        given, images = _with_images(given, name, keys, image_table, image_file)
        need_columns(given, [*wanted, *(("carry", column) for column in carry)], name=name)
    numbers = pd.to_numeric(given[object_key], errors="coerce")
    if numbers.isna().any() or (numbers % 1 != 0).any():
        wrong = given[object_key][numbers.isna() | (numbers % 1 != 0)].iloc[0]
        raise DataError(
            f"The column '{object_key}' of '{name}' holds {str(wrong)!r}; expected the whole "
            "number of the object in its label image."
        )
    stems = {each: stem(each) for each in images.dropna().unique()}
    of_cells = pd.MultiIndex.from_arrays([images.map(stems), numbers.astype(np.int64)])
    twice = of_cells[of_cells.duplicated()]
    if len(twice):
        raise DataError(
            f"'{name}' has more than one row for object {twice[0][1]} of image '{twice[0][0]}'; "
            "expected one row a cell."
        )
    carried = carried_columns(given, carry, taken=taken, name=name)
    label, classes = (-1, ()) if label_column is None else classes_of(given[label_column])
    rows = pd.DataFrame({"label": label}, index=given.index)
    for column, new in carried.items():
        rows[new] = given[column]
    return Annotations(classes, rows.set_index(of_cells), name)


def _with_images(
    given: pd.DataFrame, name: str, keys: list[str], image_table: str, image_file: str | None
) -> tuple[pd.DataFrame, pd.Series[Any]]:
    """The rows whose image is in the second table, with its columns, and the image of each."""
    second = Path(image_table).name
    images = read_table(image_table, option="image_table", text=keys)
    need_columns(images, [("image_key", key) for key in keys], name=second)
    file = image_file or _only_file(images, second)
    need_columns(images, [("image_file", file)], name=second)
    twice = images[images.duplicated(keys)]
    if len(twice):
        shown = ", ".join(f"{key} {twice[key].iloc[0]}" for key in keys)
        raise DataError(
            f"'{second}' has more than one row with {shown}; add a column to dataset.image_key "
            "that tells them apart, such as TableNumber or Metadata_Plate."
        )
    # what both tables have stands in the first as it is
    new = [c for c in images.columns if c in (*keys, file) or c not in given.columns]
    extra = images[new].rename(columns={file: "_file"}).dropna(subset="_file")
    joined = given.merge(extra, how="inner", on=keys)
    if joined.empty:
        raise DataError(
            f"No row of '{name}' belongs to an image of '{second}': {', '.join(keys)} is "
            f"{preview(given[keys[0]].unique(), most=3)} there and "
            f"{preview(images[keys[0]].unique(), most=3)} here."
        )
    return joined, joined.pop("_file").astype(str)


def _only_file(images: pd.DataFrame, name: str) -> str:
    found = [
        c for c in map(str, images.columns) if c.removeprefix("Image_").startswith("FileName_")
    ]
    if len(found) != 1:
        raise ConfigError(
            f"'{name}' has {len(found)} columns FileName_...: {preview(found) or 'none'}; choose "
            "the one that names the images with dataset.image_file."
        )
    return found[0]
