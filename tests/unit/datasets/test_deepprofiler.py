"""Exports of DeepProfiler, made here tile by tile as its ``export_single_cells`` lays them out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from attrscore.cli.main import main
from attrscore.core.registry import DATASETS
from attrscore.datasets import DeepProfiler
from attrscore.errors import ConfigError, DataError
from attrscore.store import read_scores


def crop(seed, size=12, channels=3):
    """(C, Y, X) of 8 bits, and a mask."""
    draw = np.random.default_rng(seed)
    mask = np.zeros((size, size), np.uint8)
    mask[3:8, 2 + seed % 3 : 9] = 255
    return draw.integers(0, 256, (channels, size, size)).astype(np.uint8), mask


class Export:
    def __init__(self, root):
        self.root = root
        self.rows = []

    def add(self, key, target, x, y, *, seed=0, tiles=None, treatment="DMSO", **columns):
        pixels, mask = crop(seed)
        tiles = [*pixels, mask] if tiles is None else tiles
        name = f"{key}/{target}@{x}x{y}.png"
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(tiles, axis=1)).save(path)
        self.rows.append(
            {
                "index": len(self.rows),
                "Nuclei_Location_Center_X": x,
                "Nuclei_Location_Center_Y": y,
                "Key": key,
                "Target": target,
                "pert_name": treatment,
                "Image_Name": name,
                **columns,
            }
        )
        self.table()
        return path

    def table(self):
        pd.DataFrame(self.rows).to_csv(self.root / "sc-metadata.csv", index=False)

    def cells(self, **options):
        return DATASETS.build("deepprofiler", path=str(self.root), **options)


@pytest.fixture
def export(tmp_path):
    return Export(tmp_path / "single cells µ")


def test_tiles_become_channels_and_the_last_one_the_mask(export):
    export.add("P 1/A01/s1", 0, 219, 34, seed=0, treatment="NULL")
    export.add("P 1/A01/s1", 0, 17.5, 45.0, seed=1, treatment="NULL")
    export.add("P 1/B02/s3", 1, 5, 6, seed=2, treatment="taxol")
    cells = export.cells(stains=["DNA", "RNA", "ER"], spacing=[0.5, 0.5])
    table = cells.table
    assert table["id"].tolist() == [
        "P 1/A01/s1/0@219x34",
        "P 1/A01/s1/0@17.5x45.0",
        "P 1/B02/s3/1@5x6",
    ]
    assert table["label"].tolist() == [0, 0, 1]
    assert table["Metadata_Plate"].tolist() == ["P 1"] * 3
    assert table["Metadata_Well"].tolist() == ["A01", "A01", "B02"]
    assert table["Metadata_Site"].tolist() == ["s1", "s1", "s3"]
    assert table["Metadata_x"].tolist() == [219, 17.5, 5]
    assert cells.classes == ("0", "1")
    assert (cells.spec.channels, cells.spec.size, cells.spec.classes) == (3, (12, 12), 2)
    batch = cells.read([2, 0])
    for place, seed in enumerate((2, 0)):
        pixels, mask = crop(seed)
        assert np.array_equal(batch.inputs[place].numpy(), pixels / np.float32(255))
        assert np.array_equal(batch.regions["cell"][place].numpy(), mask == 255)
    assert set(batch.regions) == {"cell"}
    assert (batch.spacing, batch.stains) == ((0.5, 0.5), ("DNA", "RNA", "ER"))
    assert batch.meta["Metadata_Well"] == ["B02", "A01"]
    assert cells.skipped == {}


def test_classes_columns_channels_and_limit(export):
    for number in range(4):
        export.add(
            "P/A01/1", number % 2, number, 5, seed=number, treatment="ba"[number % 2], dose=3
        )
    cells = export.cells(label_column="pert_name", carry=["dose"], channels=[2, 0], limit=3)
    assert cells.classes == ("a", "b")
    assert cells.table["label"].tolist() == [1, 0, 1]
    assert cells.table["Metadata_dose"].tolist() == ["3", "3", "3"]
    dosed = export.cells(carry=["dose"], numbers=["dose"], class_order=["1", "0"])
    assert dosed.table["Metadata_dose"].tolist() == [3, 3, 3, 3]
    assert dosed.table["label"].tolist() == [1, 0, 1, 0]
    assert np.array_equal(cells.read([1]).inputs[0].numpy(), crop(1)[0][[2, 0]] / np.float32(255))
    assert export.cells(label_column=None).classes == ()
    assert (
        len({export.cells(**o).fingerprint() for o in ({}, {"channels": [0]}, {"limit": 2})}) == 3
    )
    assert export.cells().fingerprint() == export.cells().fingerprint()


def test_without_a_table_the_files_say_what_they_are(export):
    export.add("P/A01/1", 10, 219, 34)
    export.add("P/A02/1", 9, 1.5, 2.25)
    (export.root / "sc-metadata.csv").unlink()
    with pytest.raises(DataError, match=r"'sc-metadata.csv' is not in .*dataset\.metadata=null"):
        export.cells().table  # noqa: B018
    cells = export.cells(metadata=None)
    assert cells.table["id"].tolist() == ["P/A01/1/10@219x34", "P/A02/1/9@1.5x2.25"]
    assert cells.classes == ("10", "9")  # in the order of their text
    assert cells.table["label"].tolist() == [0, 1]
    assert cells.table["Metadata_y"].tolist() == [34, 2.25]
    with pytest.raises(ConfigError, match="name columns of the metadata"):
        export.cells(metadata=None, carry=["x"]).table  # noqa: B018


def test_an_export_without_masks_is_refused_at_once(export):
    pixels, _ = crop(0)
    export.add("P/A01/1", 0, 1, 1, tiles=list(pixels))
    with pytest.raises(DataError, match="last tile of 'P/A01/1/0@1x1.png' is no mask.*outlines"):
        export.cells().table  # noqa: B018


def broken(export, kind):
    pixels, mask = crop(0)
    name = {"again": "P/A01/1/0@1x1.png"}.get(kind, "P/A01/1/0@9x9.png")
    if kind == "again":
        export.rows.append(dict(export.rows[0]))
    elif kind == "missing":
        export.add("P/A01/1", 0, 9, 9).unlink()
    elif kind == "truncated":
        path = export.add("P/A01/1", 0, 9, 9)
        path.write_bytes(path.read_bytes()[:30])
    elif kind == "cut short":
        path = export.add("P/A01/1", 0, 9, 9)
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "no png":
        export.add("P/A01/1", 0, 9, 9).write_text("hello")
    elif kind == "16 bits":
        tiles = [tile.astype(np.uint16) for tile in (*pixels, mask)]
        export.add("P/A01/1", 0, 9, 9, tiles=tiles)
    elif kind == "other size":
        small, outline = crop(0, size=10)
        export.add("P/A01/1", 0, 9, 9, tiles=[*small, outline])
    elif kind == "other channels":
        export.add("P/A01/1", 0, 9, 9, tiles=[*pixels[:2], mask])
    elif kind == "not square":
        export.add("P/A01/1", 0, 9, 9, tiles=[np.concatenate([*pixels, mask], axis=1)[:, :-3]])
    elif kind == "outside":
        export.rows.append({**export.rows[0], "Image_Name": "../secret.png"})
        name = "../secret.png"
    export.table()
    return name


REASONS = {
    "again": "has more than one row in 'sc-metadata.csv'",
    "missing": "is named by 'sc-metadata.csv' and is not there",
    "truncated": "cannot be read as a PNG",
    "cut short": "cannot be read as a PNG: OSError: image file is truncated",
    "no png": "cannot be read as a PNG",
    "16 bits": r"holds uint16 pixels of the shape \(12, 48\); expected square tiles",
    "other size": "has 4 tiles of 10 pixels but the files before it have 4 of 12",
    "other channels": "has 3 tiles of 12 pixels but the files before it have 4 of 12",
    "not square": "expected square tiles of 8 bits",
    "outside": "leads out of the folder",
}


def test_channels_by_the_names_of_stains(export):
    export.add("P/A01/1", 0, 5, 5)
    named = export.cells(channels=["ER", "DNA"], stains=["DNA", "RNA", "ER"])
    batch = named.read([0])
    assert batch.stains == ("ER", "DNA")
    assert torch.equal(batch.inputs, export.cells(channels=[2, 0]).read([0]).inputs)
    with pytest.raises(DataError, match="has not one channel 'AGP'"):
        export.cells(channels=["AGP"], stains=["DNA", "RNA", "ER"]).table  # noqa: B018


@pytest.mark.parametrize("kind", REASONS)
def test_a_bad_file_is_skipped_with_its_reason_or_raised(export, kind):
    export.add("P/A01/1", 0, 1, 1)
    name = broken(export, kind)
    cells = export.cells()
    assert cells.table["id"].tolist() == ["P/A01/1/0@1x1"]
    ((key, why),) = cells.skipped.items()
    assert key == name
    with pytest.raises(DataError, match=REASONS[kind]) as told:
        export.cells(on_bad_file="raise").table  # noqa: B018
    assert str(told.value) == why


@pytest.mark.slow
def test_a_run_goes_on_without_a_cell_that_cannot_be_read(export, tmp_path, monkeypatch, capsys):
    for number in range(4):
        export.add("P/A01/1", number % 2, number, 1, seed=number)
    path = export.root / export.rows[0]["Image_Name"]  # the very first
    whole = path.read_bytes()
    path.write_bytes(whole[:60] + bytes(90) + whole[150:])
    monkeypatch.chdir(tmp_path)
    arguments = ["dataset=deepprofiler", f"dataset.path='{export.root}'"]
    # the check of masks looks at the first file; this one is damaged, so it is skipped there
    assert main(["inspect", *arguments]) == 3
    export.rows[:2] = export.rows[1::-1]  # now it is the second
    export.table()
    assert main(["inspect", *arguments]) == 0
    assert main([*arguments, "scorer=[grad_camo,swap]"]) == 3
    scores = read_scores("results").set_index("id")
    assert scores["status"].to_dict()["P/A01/1/0@0x1"] == "unreadable"
    assert (scores["status"] == "unreadable").sum() == 1
    assert "1 of 4 rows are unreadable" in capsys.readouterr().err


def test_a_file_damaged_in_the_middle_is_told_when_it_is_read(export):
    export.add("P/A01/1", 0, 1, 1)
    path = export.add("P/A01/1", 0, 9, 9, seed=1)
    whole = path.read_bytes()
    path.write_bytes(whole[:60] + bytes(90) + whole[150:])
    cells = export.cells()
    assert len(cells.read([0])) == 1
    with pytest.raises(DataError, match="'0@9x9.png' cannot be read as a PNG"):
        cells.read([1])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"label_column": "pert"}, ConfigError, "Did you mean 'pert_name'"),
        ({"carry": ["dos"]}, ConfigError, "carry='dos' is not a column"),
        ({"channels": [3]}, ConfigError, "asks for number 3, and the crops have 3"),
        ({"stains": ["DNA"]}, ConfigError, "names 1 channels, and 3 are read"),
        ({"path": "nowhere"}, DataError, "path='nowhere' is no folder"),
    ],
)
def test_wrong_options_are_told_in_one_sentence(export, options, error, message):
    export.add("P/A01/1", 0, 1, 1)
    with pytest.raises(error, match=message):
        DATASETS.build("deepprofiler", **{"path": str(export.root), **options}).table  # noqa: B018


@pytest.mark.parametrize("options", [{"limit": 0}, {"channels": [0, 0]}, {"spacing": [1]}])
def test_options_are_checked_when_it_is_built(options):
    with pytest.raises(ConfigError):
        DeepProfiler(path="x", **options)


def test_no_image_name_and_nothing_left(export):
    export.add("P/A01/1", 0, 1, 1).unlink()
    with pytest.raises(DataError, match="No cell is left: 1 files cannot be used. 'P/A01/1/0@1x1"):
        export.cells().table  # noqa: B018
    export.rows = [{"Key": "x"}]
    export.table()
    with pytest.raises(DataError, match="has no column 'Image_Name'"):
        export.cells(label_column=None).table  # noqa: B018
