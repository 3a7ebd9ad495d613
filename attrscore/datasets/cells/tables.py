"""What tables say about cells: their class, and the columns carried to the results."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_float_dtype

from attrscore.datasets._options import TableOptions
from attrscore.datasets.cells.options import FieldOptions
from attrscore.datasets.flags import RedFlag
from attrscore.datasets.images.files import stem
from attrscore.errors import ConfigError, DataError, did_you_mean, preview


def read_table(
    path: str | Path, /, *, option: str, text: Iterable[str] = (), numbers: Iterable[str] = ()
) -> pd.DataFrame:
    """A CSV (also ``.csv.gz``, ``.tsv``) or Parquet file.

    In a CSV the columns named ``text`` or ``Metadata_...`` stay as they stand, so that well 01 and
    plate 12E10 are not numbers; ``numbers`` are read as such nevertheless. Parquet says itself what
    is a number. Only an empty field, NA and NaN are missing: the genotype "NULL" and the treatment
    "None" are names.

    :raises DataError: unreadable, without a row, or a text where a number is asked for.
    """
    where = Path(path).expanduser()
    parquet = where.suffix.lower() in (".parquet", ".pq")
    kind = "Parquet" if parquet else "CSV"
    try:
        if parquet:
            table = pd.read_parquet(where)
        else:
            tabs = where.name.lower().endswith((".tsv", ".tsv.gz", ".txt"))
            how: dict[str, Any] = {"sep": "\t" if tabs else ","}
            names = [str(name) for name in pd.read_csv(where, nrows=0, **how)]
            kept = {*text, *(name for name in names if name.startswith("Metadata_"))}
            table = pd.read_csv(
                where,
                **how,
                dtype=dict.fromkeys(kept - {*numbers}, str),
                keep_default_na=False,
                na_values=["", "NA", "NaN", "nan"],
                low_memory=False,  # else one column may hold text and numbers
            )
    except Exception as error:  # whatever a damaged file does to its reader
        raise DataError(
            f"{option}='{path}' cannot be read as a {kind}: {error}; check the path."
        ) from error
    if table.empty:
        raise DataError(f"'{where.name}' has no rows; expected one a cell.")
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise DataError(f"'{where.name}' has two columns '{twice[0]}'; rename one.")
    for name in set(numbers) & set(table.columns):
        found = pd.to_numeric(table[name], errors="coerce")
        wrong = table[name][found.isna() & table[name].notna()]
        if len(wrong):
            raise DataError(
                f"The column '{name}' of '{where.name}' holds {str(wrong.iloc[0])!r}; "
                "dataset.numbers expects numbers there."
            )
        table[name] = found
    return table


def need_columns(table: pd.DataFrame, columns: Sequence[tuple[str, str]], /, *, name: str) -> None:
    """Check that a table has the columns that options name: pairs of option and column.

    :raises ConfigError: the first that it has not, with the nearest.
    """
    for option, column in columns:
        if column not in table.columns:
            raise ConfigError(
                f"{option}='{column}' is not a column of '{name}'. "
                f"{did_you_mean(column, table.columns)}"
            )


def _carried(
    table: pd.DataFrame, carry: Sequence[str], /, *, taken: Collection[str]
) -> pd.DataFrame:
    """The ``Metadata_`` columns and those of ``carry``, under the names that the results have.

    What would have a name that attrscore gives itself ends in ``_given``.
    """
    carried = {str(c): str(c) for c in table.columns if str(c).startswith("Metadata_")}
    carried |= {column: f"Metadata_{column.removeprefix('Metadata_')}" for column in carry}
    named = {old: f"{new}_given" if new in taken else new for old, new in carried.items()}
    return pd.DataFrame({new: table[old] for old, new in named.items()}, index=table.index)


def as_text(values: pd.Series[Any], /) -> pd.Series[Any]:
    """Each value as text, whole numbers without a point; what is missing stays so.

    >>> as_text(pd.Series([10.0, None, 9.0])).tolist()[::2], as_text(pd.Series(["010"])).tolist()
    (['10', '9'], ['010'])
    """
    whole = is_float_dtype(values) and bool((values.dropna() % 1 == 0).all())
    made = [
        None if missing else str(int(value) if whole else value)
        for value, missing in zip(values, values.isna(), strict=True)
    ]
    return pd.Series(made, values.index, dtype=object)


def classes_of(
    values: pd.Series[Any], order: Sequence[str] | None = None, /
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Index into the classes, -1 where missing; sorted as text, unless an order is given.

    Numbers and ordered categories sort as text too, so that the same table gives the same classes
    as CSV and as Parquet.

    >>> classes_of(pd.Series([10, 9, None]))
    (array([ 0,  1, -1]), ('10', '9'))

    :raises ConfigError: a value that is not in the order.
    """
    texts = as_text(values)
    found = sorted(set(texts.dropna()))
    classes = tuple(found if order is None else map(str, order))
    absent = [name for name in found if name not in set(classes)]
    if absent or len(set(classes)) < len(classes):
        raise ConfigError(
            f"class_order={list(classes)} must name each class once; the column has "
            f"{preview(found)}."
        )
    number = {name: index for index, name in enumerate(classes)}
    return np.array([number.get(each, -1) for each in texts], np.int64), classes


def read_described(
    options: TableOptions, path: str | Path, /, *, option: str, keys: Sequence[str]
) -> pd.DataFrame:
    """:func:`read_table`, with ``keys`` and the columns that the options name as text."""
    label = [] if options.label_column is None else [options.label_column]
    text = [*keys, *options.carry, *label]
    return read_table(path, option=option, text=text, numbers=options.numbers)


def rows_of(
    options: TableOptions, table: pd.DataFrame, /, *, name: str, taken: Collection[str] = ()
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """``label`` and the carried columns of each row, and the classes.

    :raises ConfigError: a column that is not there.
    """
    label = [] if options.label_column is None else [options.label_column]
    wanted = [("label_column", column) for column in label]
    wanted += [("carry", column) for column in options.carry]
    wanted += [("numbers", column) for column in options.numbers]
    need_columns(table, wanted, name=name)
    rows = _carried(table, options.carry, taken=taken)
    classes: tuple[str, ...] = ()
    rows.insert(0, "label", -1)
    for column in label:
        rows["label"], classes = classes_of(table[column], options.class_order)
    return rows, classes


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

    def check(self, cells: pd.DataFrame, flags: Sequence[RedFlag] = (), /) -> None:
        """Check that the keys can be right; ``flags`` say what is wrong with the masks.

        :raises DataError: no cell is in the table at all.
        """
        keys = pd.MultiIndex.from_frame(cells[["Metadata_image", "Metadata_object"]])
        if not self.rows.empty and not keys.isin(self.rows.index).any():
            raise DataError(
                f"No row of '{self.source}' is about a cell of these files: it has "
                f"{preview((f'{image}:{number}' for image, number in self.rows.index), most=3)}; "
                f"the files have {preview(cells['id'], most=3)}. Choose its columns with "
                "dataset.image_key and dataset.object_key; ImageNumber needs dataset.image_table. "
                + " ".join(f"Red flag: {flag.describe()}" for flag in flags)
            )


def read_annotations(options: FieldOptions, /, *, taken: Sequence[str]) -> Annotations:
    """What ``labels`` says; ``taken`` are names that its carried columns do not get.

    ``image_key`` is its column with the image's name. With ``image_table``, a second table with a
    row an image, it is instead what both have in common: ``ImageNumber``, or several columns such
    as ``Metadata_Plate`` and ``Metadata_Well``; then ``image_file`` is the column of the second
    with the image's name, by default its only one called ``FileName_...``. The ``Metadata_``
    columns of the second are carried too.

    :raises ConfigError: a column that is not there.
    :raises DataError: unreadable, no numbers in ``object_key``, or two rows for one cell.
    """
    if options.labels is None:
        return Annotations()
    name = Path(options.labels).name
    key = options.image_key
    keys = [key] if isinstance(key, str) else list(key)
    given = read_described(options, options.labels, option="labels", keys=keys)
    wanted = [*(("image_key", each) for each in keys), ("object_key", options.object_key)]
    need_columns(given, wanted, name=name)
    if options.image_table is None:
        if len(keys) > 1:
            raise ConfigError(
                f"image_key={keys} names several columns, which only a second table can turn into "
                "the name of an image; state it with dataset.image_table."
            )
        images = as_text(given[keys[0]])
    else:
        second = read_described(options, options.image_table, option="image_table", keys=keys)
        given, images = _with_images(
            given, name, keys, second, Path(options.image_table).name, options.image_file
        )
    rows, classes = rows_of(options, given, name=name, taken=taken)
    objects = pd.to_numeric(given[options.object_key], errors="coerce")
    wrong = given[options.object_key][objects.isna() | (objects % 1 != 0)]
    if len(wrong):
        raise DataError(
            f"The column '{options.object_key}' of '{name}' holds {str(wrong.iloc[0])!r}; expected "
            "the whole number of the object in its label image."
        )
    stems = {each: stem(each) for each in images.dropna().unique()}
    of_cells = pd.MultiIndex.from_arrays([images.map(stems), objects.astype(np.int64)])
    twice = of_cells[of_cells.duplicated()]
    if len(twice):
        raise DataError(
            f"'{name}' has more than one row for object {twice[0][1]} of image '{twice[0][0]}'; "
            "expected one row a cell."
        )
    return Annotations(classes, rows.set_index(of_cells), name)


def _with_images(
    given: pd.DataFrame,
    name: str,
    keys: list[str],
    images: pd.DataFrame,
    second: str,
    image_file: str | None,
) -> tuple[pd.DataFrame, pd.Series[Any]]:
    """The rows whose image is in the second table, with its columns, and the image of each."""
    need_columns(images, [("image_key", key) for key in keys], name=second)
    file = image_file or _only_file(images, second)
    need_columns(images, [("image_file", file)], name=second)
    for key in keys:  # one may be a number in Parquet, and the other text
        given[key], images[key] = as_text(given[key]), as_text(images[key])
    twice = images[images.duplicated(keys)]
    if len(twice):
        shown = ", ".join(f"{key} {twice[key].iloc[0]}" for key in keys)
        raise DataError(
            f"'{second}' has more than one row with {shown}; add a column to dataset.image_key "
            "that sets them apart, such as TableNumber or Metadata_Plate."
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
