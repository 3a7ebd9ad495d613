"""Tables about cells, as pandas, CellProfiler and cytotable write them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tifffile

from attrscore.datasets import Fields
from attrscore.errors import ConfigError, DataError


@pytest.fixture
def root(tmp_path):
    """Two fields with objects 3 and 900, of one image set each."""
    folder = tmp_path / "my plate µ"
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    labels = np.zeros((40, 50), np.uint16)
    labels[5:12, 5:12], labels[20:30, 22:30] = 3, 900
    for number, name in enumerate(("A01_s1", "B02_s1")):
        pixels = np.random.default_rng(number).integers(1, 4000, (40, 50)).astype(np.uint16)
        tifffile.imwrite(folder / "images" / f"{name}.tif", pixels)
        tifffile.imwrite(folder / "masks" / f"{name}.tif", labels)
    return folder


CELLS = {
    "ImageNumber": [1, 1, 2, 2],
    "ObjectNumber": [3, 900, 3, 900],
    "AreaShape_Area": [49, 80, 49, 80],
    "Metadata_Kind": ["a", "b", "b", "a"],
}
IMAGES = {
    "ImageNumber": [1, 2, 3],
    "FileName_DNA": ["A01_s1.tif", "B02_s1.tif", "C03_s1.tif"],
    "Metadata_Plate": ["P1", "P1", "P1"],
    "Metadata_Well": ["A01", "B02", "C03"],
    "Metadata_Site": [1, 1, 1],
}


def write(root, name, columns):
    path = root / name
    table = pd.DataFrame(columns)
    table.to_parquet(path) if path.suffix == ".parquet" else table.to_csv(path, index=False)
    return str(path)


def fields(root, **options):
    return Fields(
        images=str(root / "images" / "*.tif"),
        masks=str(root / "masks" / "*.tif"),
        crop=(16, 16),
        **options,
    )


CELLPROFILER = {"image_key": "ImageNumber", "object_key": "ObjectNumber"}


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_cellprofiler_says_the_image_in_a_second_table(root, ending):
    found = fields(
        root,
        labels=write(root, f"Cells.{ending}", CELLS),
        image_table=write(root, f"Image.{ending}", IMAGES),
        label_column="Metadata_Kind",
        carry=["AreaShape_Area"],
        numbers=["AreaShape_Area"],
        **CELLPROFILER,
    )
    table = found.table
    assert table["id"].tolist() == ["A01_s1:3", "A01_s1:900", "B02_s1:3", "B02_s1:900"]
    assert found.classes == ("a", "b")
    assert table["label"].tolist() == [0, 1, 1, 0]
    assert table["Metadata_Well"].tolist() == ["A01", "A01", "B02", "B02"]
    assert table["Metadata_Plate"].tolist() == ["P1"] * 4
    assert table["Metadata_AreaShape_Area"].tolist() == [49, 80, 49, 80]


def test_several_columns_may_say_the_image(root):
    keys = ["Metadata_Plate", "Metadata_Well", "Metadata_Site"]
    cells = {
        "Metadata_Plate": ["P1"] * 3,
        "Metadata_Well": ["A01", "B02", "Z09"],
        "Metadata_Site": [1, 1, 1],
        "Metadata_ObjectNumber": [900, 3, 3],
        "treatment": ["x", "NULL", "y"],
    }
    found = fields(
        root,
        labels=write(root, "single_cells.parquet", cells),
        image_table=write(root, "load_data.csv", {**IMAGES, "FileName_ER": ["x", "y", "z"]}),
        image_file="FileName_DNA",
        image_key=keys,
        object_key="Metadata_ObjectNumber",
        label_column="treatment",
    )
    assert found.table["label"].tolist() == [-1, 1, 0, -1]  # Z09 has no image
    assert found.classes == ("NULL", "x")
    assert found.table["Metadata_Site"].dropna().tolist() == ["1", "1"]


def test_cytotable_has_all_in_one_parquet(root):
    cells = {
        "Metadata_ImageNumber": [1, 1, 2],
        "Image_FileName_DNA": ["A01_s1.tif", "A01_s1.tif", "B02_s1.tif"],
        "Metadata_Cells_Number_Object_Number": [3, 900, 3],
        "Cells_AreaShape_Area": [1.0, 2.0, 3.0],
    }
    found = fields(
        root,
        labels=write(root, "cells.parquet", cells),
        image_key="Image_FileName_DNA",
        object_key="Metadata_Cells_Number_Object_Number",
    )
    assert found.table["Metadata_ImageNumber"].tolist()[:3] == [1, 1, 2]


@pytest.mark.parametrize(
    ("cells", "images", "options", "error", "message"),
    [
        ({"ImageNumber": [1, 1, 1, 1]}, {}, {}, DataError, "more than one row for object 3 of"),
        ({}, {"ImageNumber": [1, 1, 3]}, {}, DataError, "'Image.csv' has more than one row wi"),
        ({}, {"ImageNumber": [7, 8, 9]}, {}, DataError, "No row of 'Cells.csv' belongs to an"),
        ({}, {"FileName_ER": ["a", "b", "c"]}, {}, ConfigError, "has 2 columns FileName_"),
        ({}, {}, {"image_file": "FileName_ER"}, ConfigError, "image_file='FileName_ER' is not a"),
        ({}, {}, {"image_key": "ImageNo"}, ConfigError, "'ImageNo' is not a column of"),
        ({}, {}, {"label_column": "Well"}, ConfigError, "label_column='Well' is not a"),
        ({"ObjectNumber": [3, None, 3, 900]}, {}, {}, DataError, "holds 'nan'; expected the whole"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(root, cells, images, options, error, message):
    given = {
        "labels": write(root, "Cells.csv", {**CELLS, **cells}),
        "image_table": write(root, "Image.csv", {**IMAGES, **images}),
        **CELLPROFILER,
        **options,
    }
    with pytest.raises(error, match=message):
        fields(root, **given).table  # noqa: B018


def test_without_the_second_table_it_is_asked_for(root):
    cells = write(root, "Cells.csv", CELLS)
    with pytest.raises(DataError, match="ImageNumber needs dataset.image_table"):
        fields(root, labels=cells, **CELLPROFILER).table  # noqa: B018
    several = {"image_key": ["ImageNumber", "Metadata_Kind"], "object_key": "ObjectNumber"}
    with pytest.raises(ConfigError, match="names several columns, which only a second table"):
        fields(root, labels=cells, **several).table  # noqa: B018
    with pytest.raises(ConfigError, match="image_file='x' is a column of image_table"):
        fields(root, labels=cells, image_file="x")
    with pytest.raises(ConfigError, match="image_table says which image"):
        fields(root, image_table="x")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_damaged_tables(root, ending):
    path = root / f"cells.{ending}"
    kind = "Parquet" if ending == "parquet" else "CSV"
    path.write_bytes(b"PAR1\xff\xfe\x00" * 9 if ending == "parquet" else b'a,b\n"1')
    with pytest.raises(DataError, match=f"cannot be read as a {kind}: .*check the path"):
        fields(root, labels=str(path)).table  # noqa: B018
    write(root, path.name, {"image": [], "label": []})
    with pytest.raises(DataError, match=f"'{path.name}' has no rows"):
        fields(root, labels=str(path)).table  # noqa: B018


@pytest.mark.slow
def test_a_million_rows_are_joined(root):
    numbers = np.arange(1_000_000)
    cells = {"image": "A01_s1", "label": numbers, "Metadata_n": numbers}
    table = fields(root, labels=write(root, "many.parquet", cells)).table
    assert table["Metadata_n"].tolist()[:2] == [3, 900]


AS_TEXT = {
    "image": ["A01_s1", "A01_s1", "B02_s1", "B02_s1"],
    "label": [3, 900, 3, 900],
    "class": ["001", "01", "3E2", "300"],
    "Metadata_Plate": ["12E10", "12E10", "007", "1e2"],
    "Metadata_Well": ["01", "1", "02", "NULL"],
    "dose": ["0.50", "5e-1", "10", "2.0"],
    "batch": ["1", "2", "02", None],
}


def test_text_in_tables_stays_text(root):
    """Class 001 is not 01, 3E2 not 300; plate 12E10 and well 01 are names."""
    path = write(root, "cells.csv", AS_TEXT)
    found = fields(root, labels=path, label_column="class", carry=["dose", "batch"])
    assert found.classes == ("001", "01", "300", "3E2")
    assert found.table["label"].tolist() == [0, 1, 3, 2]
    for column, carried in (
        ("Metadata_Plate", "Metadata_Plate"),
        ("Metadata_Well", "Metadata_Well"),
        ("dose", "Metadata_dose"),
    ):
        assert found.table[carried].tolist() == AS_TEXT[column]
    assert found.table["Metadata_batch"].tolist()[:3] == ["1", "2", "02"]
    assert found.read([0]).meta["Metadata_Well"] == ["01"]
    asked = fields(root, labels=path, carry=["dose"], numbers=["dose"])
    assert asked.table["Metadata_dose"].tolist() == [0.5, 0.5, 10, 2]
    bad = write(root, "bad.csv", {**AS_TEXT, "Metadata_Plate": ["12E10x"] * 4})
    with pytest.raises(DataError, match="'Metadata_Plate' .* holds '12E10x'"):
        fields(root, labels=bad, numbers=["Metadata_Plate"]).table  # noqa: B018
    with pytest.raises(ConfigError, match="numbers='doses' is not a column of"):
        fields(root, labels=path, numbers=["doses"]).table  # noqa: B018


@pytest.mark.parametrize(
    ("where", "numbers"),
    [("Well == '01'", [900, 3]), ("dose < 1", [3, 900]), ("dose in [10, 2]", [3, 900])],
)
def test_a_condition_beside_a_number_asks_for_numbers(root, where, numbers):
    path = write(root, "cells.csv", {**AS_TEXT, "Metadata_Well": ["1", "01", "01", "2"]})
    found = fields(root, labels=path, carry=["dose"], where=where)
    assert found.table["Metadata_object"].tolist() == numbers


def test_keys_of_two_tables_are_compared_as_text(root):
    """Image 01 of a CSV is not image 1; a number of a Parquet is its text."""
    images = {"ImageNumber": ["01", "1", "2"], "FileName_DNA": ["A01_s1", "B02_s1", "C"]}
    cells = {**CELLS, "ImageNumber": ["01", "01", "1", "1"]}
    table = fields(
        root,
        labels=write(root, "Cells.csv", cells),
        image_table=write(root, "Image.csv", images),
        label_column="Metadata_Kind",
        **CELLPROFILER,
    ).table
    assert table["label"].tolist() == [0, 1, 1, 0]
    typed = fields(
        root,
        labels=write(root, "Cells.parquet", {**CELLS, "ImageNumber": [1.0, 1.0, 2.0, 2.0]}),
        image_table=write(root, "Image.csv", IMAGES),
        label_column="Metadata_Kind",
        **CELLPROFILER,
    )
    assert typed.table["label"].tolist() == [0, 1, 1, 0]


KINDS = ["dmso", "Taxol", "aphidicolin", "dmso"]


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (pd.Categorical(KINDS, ["dmso", "aphidicolin", "Taxol"], ordered=True), None),
        (pd.Categorical(KINDS), None),
        ([10, 9, 100, 10], ("10", "100", "9")),
        ([10.0, 9.0, 100.0, 10.0], ("10", "100", "9")),
        ([True, False, True, True], ("False", "True")),
    ],
)
def test_class_order_is_that_of_text(root, values, classes):
    """As CSV, as Parquet, and as an ordered categorical: the same classes and labels."""
    cells = {"image": AS_TEXT["image"], "label": AS_TEXT["label"], "kind": values}
    found = fields(root, labels=write(root, "cells.parquet", cells), label_column="kind")
    classes = classes or ("Taxol", "aphidicolin", "dmso")
    assert found.classes == classes
    names = [str(int(v)) if isinstance(v, float) else str(v) for v in values]
    assert [classes[label] for label in found.table["label"]] == names
    as_csv = write(root, "cells.csv", {**cells, "kind": names})
    again = fields(root, labels=as_csv, label_column="kind")
    assert again.classes == classes
    assert again.table["label"].tolist() == found.table["label"].tolist()


def test_an_order_of_classes_is_an_option(root):
    cells = {"image": AS_TEXT["image"], "label": AS_TEXT["label"], "kind": KINDS}
    options = {"labels": write(root, "cells.csv", cells), "label_column": "kind"}
    order = ("dmso", "Taxol", "aphidicolin", "unseen")
    found = fields(root, **options, class_order=order)
    assert found.classes == order
    assert found.table["label"].tolist() == [0, 1, 2, 0]
    assert "class_order=('dmso'" in repr(found)
    assert found.fingerprint() != fields(root, **options).fingerprint()
    for wrong in (["dmso", "Taxol"], [*order, "dmso"]):
        with pytest.raises(ConfigError, match="must name each class once; the column has"):
            fields(root, **options, class_order=wrong).table  # noqa: B018
    with pytest.raises(ConfigError, match="class_order orders the values of a column"):
        fields(root, class_order=order)
