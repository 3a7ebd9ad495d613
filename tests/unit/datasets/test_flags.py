"""Mistakes in data that no error stops are named, and good data are not."""

from __future__ import annotations

import re
import shlex

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser

from attrscore.core.contracts import Batch
from attrscore.core.registry import DATASETS
from attrscore.datasets.flags import KINDS, RedFlag, _guessed, red_flags
from attrscore.engine.reading import draw_pool
from attrscore.errors import DataError

PLACES = [(y, x) for y in (20, 60, 100) for x in (20, 60, 100)]


class Study:
    """Four fields of nine cells with nuclei, and a table; tests break one of them."""

    def __init__(self, root):
        self.root = root
        self.rng = np.random.default_rng(0)
        for folder in ("images", "masks", "nuclei"):
            (root / folder).mkdir()
        self.table = []
        for field in range(4):
            cells, nuclei = np.zeros((120, 120), np.uint16), np.zeros((120, 120), np.uint16)
            for number, (y, x) in enumerate(PLACES, start=1):
                cells[y - 10 : y + 10, x - 10 : x + 10] = number
                nuclei[y - 4 : y + 4, x - 4 : x + 4] = number
                self.table.append(
                    {
                        "image": f"f{field}.tif",
                        "label": number,
                        "treatment": "DMSO" if number % 2 else "drug",
                        "Metadata_Plate": f"P{field % 2}",
                        "Metadata_Well": f"W{field}",
                    }
                )
            image = self.rng.integers(0, 200, cells.shape) + 300 * (cells > 0)
            self.write("images", field, image.astype(np.uint16))
            self.write("masks", field, cells)
            self.write("nuclei", field, nuclei)

    def write(self, folder, field, values):
        path = self.root / folder / f"f{field}.tif"
        tifffile.imwrite(path, values, photometric="minisblack")

    def read(self, folder, field):
        return tifffile.imread(self.root / folder / f"f{field}.tif")

    def dataset(self, **options):
        pd.DataFrame(self.table).to_csv(self.root / "labels.csv", index=False)
        own = {
            "images": str(self.root / "images"),
            "masks": str(self.root / "masks"),
            "nuclei": str(self.root / "nuclei"),
            "labels": str(self.root / "labels.csv"),
            "label_column": "treatment",
            "axes": "YX",
            "crop": [40, 40],
        }
        return DATASETS.build("fields", **{**own, **options})

    def flags(self, **options):
        dataset = self.dataset(**options)
        return {flag.kind: flag for flag in red_flags(dataset, draw_pool(dataset))}


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path)


def test_good_data_have_no_flag(study):
    assert study.flags() == {}
    phantom = DATASETS.build("phantom", cells=64)
    assert red_flags(phantom, draw_pool(phantom)) == ()


def test_nuclei_whose_numbers_are_shifted(study):
    for field in range(4):
        nuclei = study.read("nuclei", field)
        study.write("nuclei", field, np.where(nuclei, nuclei + 1, 0).astype(np.uint16))
    found = study.flags()["nucleus_empty"]
    assert (found.count, found.of) == (36, 36)
    assert found.examples == ("f0:1", "f0:2", "f0:3")
    assert found.describe().startswith("the nucleus is empty in 36 of 36 cells (f0:1, f0:2, f0:3):")


def test_images_and_masks_that_are_swapped(study):
    swapped = {"images": str(study.root / "masks"), "masks": str(study.root / "images")}
    found = study.flags(**swapped, nuclei=None, labels=None, label_column=None)
    assert list(found) == ["swapped"]
    assert found["swapped"].count == 4


def test_swapped_images_of_several_channels_are_said_in_the_error(study):
    for field in range(4):
        study.write("images", field, np.stack([study.read("images", field)] * 3))
    swapped = {"images": str(study.root / "masks"), "masks": str(study.root / "images")}
    with pytest.raises(DataError, match="Images and masks seem to be swapped"):
        study.dataset(**swapped, nuclei=None, axes="CYX").table  # noqa: B018
    with pytest.raises(DataError) as error:
        study.dataset(axes="ZYX", nuclei=None, crop=[2, 8, 8]).table  # noqa: B018
    assert "swapped" not in str(error.value)


def test_masks_of_0_and_255(study):
    for field in range(4):
        study.write("masks", field, np.where(study.read("masks", field), 255, 0).astype(np.uint8))
    found = study.flags(nuclei=None, labels=None, label_column=None)
    assert found["one_number"].count == found["one_number"].of == 4
    assert "0/255" in found["one_number"].seen
    assert "skimage.measure.label" in found["one_number"].advice


def test_where_no_row_matches_the_mask_may_be_why(study):
    for field in range(4):
        study.write("masks", field, np.where(study.read("masks", field), 255, 0).astype(np.uint8))
    with pytest.raises(DataError, match="No row of 'labels.csv'.* as a 0/255 mask has"):
        study.flags(nuclei=None)


def test_masks_of_classes(study):
    for field in range(4):
        cells = study.read("masks", field)
        study.write("masks", field, np.where(cells, 1 + cells % 2, 0).astype(np.uint8))
    assert study.flags(nuclei=None)["scattered"].count == 4


def test_one_huge_object(study):
    cells = study.read("masks", 1)
    study.write("masks", 1, np.where(cells, cells, 99).astype(np.uint16))  # the background
    found = study.flags(nuclei=None)["huge_object"]
    assert (found.count, found.examples) == (1, ("f1:99",))
    assert "huge_object" not in study.flags(nuclei=None, where="area < 1000")


def test_rows_that_match_no_cell_and_cells_without_a_row(study):
    for row in study.table[:5]:
        row["label"] += 100
    study.table[-1]["image"] = "elsewhere.tif"
    found = study.flags()
    assert (found["rows_without_cell"].count, found["rows_without_cell"].of) == (6, 36)
    assert found["rows_without_cell"].examples[0] == "f0:101"
    assert (found["cells_without_row"].count, found["cells_without_row"].of) == (6, 36)


def test_rows_of_fields_that_are_not_read_are_no_mistake(study):
    assert study.flags(limit=9) == {}
    dataset = study.dataset().within(lambda name: name in ("f0", "f1"))
    assert red_flags(dataset, draw_pool(dataset)) == ()


def test_tables_with_paths_of_windows(study):
    for row in study.table:
        row["image"] = "D:\\plate 1\\" + row["image"]
    assert study.flags() == {}
    assert (study.dataset().table["label"] >= 0).all()


def test_each_class_on_its_own_plate(study):
    for row in study.table:
        row["Metadata_Plate"] = {"DMSO": "P1", "drug": "P2"}[row["treatment"]]
    found = study.flags()["class_by_plate"]
    assert (found.count, found.of) == (36, 36)
    assert found.examples == ("DMSO: P1", "drug: P2")
    study.table[0]["Metadata_Plate"] = "P2"  # nearly as bad
    assert study.flags()["class_by_plate"].count == 35


def test_each_class_in_its_own_well(study):
    for row in study.table:
        row["Metadata_Well"] = {"DMSO": "A01", "drug": "B01"}[row["treatment"]]
        row["Metadata_Plate"] = "P0"
    assert "class_in_one_well" not in study.flags(limit=4)  # two cells of each
    found = study.flags()["class_in_one_well"]
    assert (found.count, found.of) == (2, 2)
    assert found.examples == ("DMSO: P0 A01", "drug: P0 B01")


def test_a_class_of_several_wells_is_as_plates_are_laid_out(study):
    for row in study.table:
        row["Metadata_Well"] = f"{row['treatment'][0]}{row['image'][1]}"
    assert study.flags() == {}


def test_without_wells_the_images_are_asked(study):
    for row in study.table:
        del row["Metadata_Plate"], row["Metadata_Well"]
        row["treatment"] = "drug" if row["image"] == "f3.tif" else "DMSO"
    assert study.flags()["class_in_one_well"].examples == ("drug: f3",)


def test_names_of_classes_that_are_one(study):
    for row in study.table[:9]:
        row["treatment"] = {"DMSO": "dmso ", "drug": "drug"}[row["treatment"]]
    found = study.flags()["classes_alike"]
    assert (found.count, found.of) == (2, 3)


def test_a_column_of_measurements_is_no_class(study):
    for number, row in enumerate(study.table):
        row["treatment"] = number / 7
    assert study.flags()["class_a_cell"].count == 36


def test_a_crop_that_is_smaller_than_the_cells(study):
    found = study.flags(crop=[12, 12])
    assert found["cut"].count == 36
    assert found["cell_everywhere"].count > 0


class OfCrops:
    """Crops as any dataset gives them."""

    def __init__(self, **regions):
        self.batch = Batch(torch.rand(4, 1, 8, 8), regions)
        self.table = pd.DataFrame({"id": list(self.batch.ids), "label": -1})
        self.classes = ()


def test_crops_of_any_dataset_are_looked_at():
    cell = torch.zeros(4, 8, 8, dtype=torch.bool)
    cell[:2, 2:6, 2:6] = True
    cell[2] = True
    empty = OfCrops(cell=cell, nucleus=torch.zeros(4, 8, 8, dtype=torch.bool))
    found = {flag.kind: flag.count for flag in red_flags(empty, empty.batch)}
    assert found == {"cell_empty": 1, "cell_everywhere": 1, "nucleus_empty": 4}


def test_a_unit_of_one_cell_tells_nothing():
    assert not _guessed(np.eye(6, dtype=np.int64)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_line_with_what_to_do(kind):
    flag = RedFlag(kind, 3, 7, ("a", "b", "c"))
    assert "3" in flag.seen
    assert "7" in flag.seen
    assert "\n" not in flag.describe()
    assert flag.as_dict()["advice"] == flag.advice
    for setting in re.findall(r"'dataset[^']*'", flag.advice):  # as one would paste it
        assert OverridesParser.create().parse_overrides(shlex.split(setting))
