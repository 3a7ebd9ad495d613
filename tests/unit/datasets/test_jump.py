"""JUMP's objects/*.zarr: crops with their masks, of images or of wells."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import zarr
from jump_objects import image_of, plate

from attrscore.core.registry import DATASETS
from attrscore.errors import AbsentError, ConfigError, DataError


def build(folder, *, by_well=False, **options):
    return DATASETS.build("jump", path=str(plate(folder, by_well=by_well)), **options)


def test_groups_of_images_and_of_wells_are_the_same_cells(tmp_path):
    found = {}
    for by_well in (False, True):
        folder = tmp_path / str(by_well)
        folder.mkdir()
        found[by_well] = build(folder, by_well=by_well)
    images, wells = found[False], found[True]
    pd.testing.assert_frame_equal(images.table, wells.table)
    assert images.table["id"].tolist()[:4] == [
        *(f"source_4__Batch1__P1__A01__1:{number}" for number in (3, 4, 5)),
        "source_4__Batch1__P1__A01__2:3",
    ]
    assert images.table["Metadata_Well"].tolist() == ["A01"] * 5 + ["B02"] * 4
    assert images.table["Metadata_object"].tolist() == [3, 4, 5, 3, 4, 3, 4, 5, 6]
    one, other = (each.read([8, 0, 4]) for each in (images, wells))
    assert one.stains == ("DNA", "AGP", "ER", "Mito", "RNA")
    assert (one.inputs == other.inputs).all()
    _, crops, _ = image_of(2, 4)
    np.testing.assert_array_equal(one.inputs[0], crops[3, 2:].astype(np.float32))
    np.testing.assert_array_equal(one.regions["cell"][0], crops[3, 1] > 0)
    np.testing.assert_array_equal(one.regions["nucleus"][0], crops[3, 0] > 0)
    assert not one.inputs[0][:, ~one.regions["cell"][0]].any()  # as the crops were made
    assert images.spec.size == (12, 12)


def test_the_index_names_the_cell_in_the_label_image(tmp_path):
    """What a cell of the table is called is where it lies in the image."""
    dataset = build(tmp_path)
    root = zarr.open_group(str(tmp_path / "P1.zarr"), mode="r")
    for image, number in dataset.table[["Metadata_image", "Metadata_object"]].values:
        assert (root[image]["label_image"][1] == number).any()


def test_classes_come_from_a_table_of_wells_and_channels_by_their_names(tmp_path):
    wells = pd.DataFrame(
        {
            "Metadata_Plate": ["P1", "P1", "P2"],
            "Metadata_Well": ["B02", "A01", "A01"],
            "Metadata_JCP2022": ["JCP_1", "DMSO", "other"],
        }
    )
    wells.to_csv(tmp_path / "well.csv.gz", index=False)
    options = {"labels": str(tmp_path / "well.csv.gz"), "label_column": "Metadata_JCP2022"}
    dataset = build(tmp_path, channels=["ER", "DNA"], **options)
    assert dataset.classes == ("DMSO", "JCP_1")
    assert dataset.table["label"].tolist() == [0] * 5 + [1] * 4
    assert dataset.table["Metadata_JCP2022"].tolist() == ["DMSO"] * 5 + ["JCP_1"] * 4
    assert dataset.spec.channels == 2
    assert dataset.read([0]).stains == ("ER", "DNA")
    one = build(tmp_path, wells=["B02"], limit=3, **options)
    assert one.table["Metadata_Well"].tolist() == ["B02"] * 3
    assert one.fingerprint() != dataset.fingerprint()
    wells[:2].assign(Metadata_Plate="P9").to_csv(tmp_path / "well.csv.gz", index=False)
    with pytest.raises(DataError, match=r"No row of .* is of a well of .*, such as P1, A01"):
        _ = build(tmp_path, **options).table


def test_what_is_no_plate_is_told(tmp_path):
    with pytest.raises(AbsentError, match="give the .zarr of a plate"):
        _ = DATASETS.build("jump", path=str(tmp_path / "nowhere.zarr")).table
    with pytest.raises(DataError, match="holds no cell in the wells C03"):
        _ = build(tmp_path, wells=["C03"]).table
    with pytest.raises(DataError, match="has not one channel 'DRAQ5'"):
        _ = build(tmp_path, channels=["DRAQ5"]).spec
    with pytest.raises(ConfigError, match="asks for number 5, and there are 5 stains"):
        _ = build(tmp_path, channels=[5]).spec
    (tmp_path / "channel_mapping.json").write_text(json.dumps({"0": "DNA"}))
    with pytest.raises(DataError, match="expected NucleusMask and CellMask among them"):
        _ = DATASETS.build("jump", path=str(tmp_path / "P1.zarr")).table
    plate(tmp_path)
    root = zarr.open_group(str(tmp_path / "P1.zarr"), mode="a")
    del root["source_4__Batch1__P1__B02__1/single_cell_index"]
    with pytest.raises(DataError, match="has no single_cell_index; expected single_cell_data"):
        _ = DATASETS.build("jump", path=str(tmp_path / "P1.zarr")).table


def test_without_a_mapping_the_channels_are_those_of_jump(tmp_path):
    path = plate(tmp_path, mapping=False)
    assert DATASETS.build("jump", path=str(path)).read([0]).stains[0] == "DNA"
