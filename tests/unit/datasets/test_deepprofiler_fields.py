"""Projects as DeepProfiler's handbook lays them out, written by tifffile, Pillow and pandas."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from attrscore.core.registry import DATASETS
from attrscore.datasets import Fields
from attrscore.datasets.deepprofiler_fields import Discs, number_at
from attrscore.datasets.shards import shard_of
from attrscore.errors import ConfigError, DataError

X, Y = "Nuclei_Location_Center_X", "Nuclei_Location_Center_Y"


def labelled():
    labels = np.zeros((40, 50), np.uint16)
    labels[5:14, 5:15], labels[20:31, 22:33], labels[5:12, 30:41] = 3, 900, 41
    return labels


def outlined(labels):
    """Lines of one pixel on the inside of every object, as CellProfiler draws them."""
    inside = np.zeros(labels.shape, bool)
    for number in np.unique(labels[labels > 0]):
        inside |= ndimage.binary_erosion(labels == number, np.ones((3, 3)))
    return ((labels > 0) & ~inside).astype(np.uint8) * 255, inside


class Project:
    def __init__(self, root):
        self.root = root
        self.rows = []

    def add(self, plate, well, site, *, seed=0, places=((9, 9), (27, 25)), labels=None, **columns):
        inputs = self.root / "inputs"
        for folder in ("images/P", "metadata", f"locations/{plate}", "outlines/P"):
            (inputs / folder).mkdir(parents=True, exist_ok=True)
        draw = np.random.default_rng(seed)
        row = {"Metadata_Plate": plate, "Metadata_Well": well, "Metadata_Site": site}
        for channel in ("DNA", "ER"):
            row[channel] = f"P/{well}_{site}_{channel}.tif"
            pixels = draw.integers(0, 4000, (40, 50)).astype(np.uint16)
            tifffile.imwrite(inputs / "images" / row[channel], pixels)
        row["Outlines"] = f"P/{well}_{site}.png"
        Image.fromarray(labelled() if labels is None else labels).save(
            inputs / "outlines" / row["Outlines"]
        )
        pd.DataFrame(places, columns=[X, Y]).to_csv(
            inputs / "locations" / plate / f"{well}-{site}-Nuclei.csv", index=False
        )
        self.rows.append({**row, **columns})
        self.write()

    def write(self):
        folder = self.root / "inputs" / "metadata"
        index = pd.DataFrame(self.rows)
        sites = ["Metadata_Plate", "Metadata_Well", "Metadata_Site"]
        if "Outlines" in index:
            index[[*sites, "Outlines"]].to_csv(folder / "outlines.csv", index=False)
            index = index.drop(columns="Outlines")
        index.to_csv(folder / "index.csv", index=False)

    def cells(self, **options):
        given = {"channels": ["DNA", "ER"], "crop": [16, 16], "outlines": "inputs/outlines"}
        return DATASETS.build("deepprofiler_fields", path=str(self.root), **{**given, **options})


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path / "my project µ")


def test_cells_are_cut_around_their_locations(project):
    project.add("P 1", "A01", "s1", pert="NULL", Metadata_Dose=3)
    project.add("P 1", "B02", "s1", seed=1, pert="taxol", Metadata_Dose=9, places=[(25.4, 30)])
    cells = project.cells(label_column="pert", normalise="none", spacing=[0.5, 0.5])
    table = cells.table
    assert table["id"].tolist() == ["P 1/A01/s1@9x9", "P 1/A01/s1@27x25", "P 1/B02/s1@25.4x30"]
    assert table["Metadata_object"].tolist() == [3, 900, 900]
    assert table["label"].tolist() == [0, 0, 1]
    assert cells.classes == ("NULL", "taxol")
    assert table["Metadata_Dose"].tolist() == ["3", "3", "9"]
    ordered = project.cells(
        label_column="pert", class_order=["taxol", "NULL"], numbers=["Metadata_Dose"]
    )
    assert ordered.table["label"].tolist() == [1, 1, 0]
    assert ordered.table["Metadata_Dose"].tolist() == [3, 3, 9]
    assert table["Metadata_Well"].tolist() == ["A01", "A01", "B02"]
    assert (cells.spec.channels, cells.spec.size, cells.spec.classes) == (2, (16, 16), 2)
    batch = cells.read([2, 0])
    draw = np.random.default_rng(1)
    image = np.stack([draw.integers(0, 4000, (40, 50)).astype(np.float32) for _ in range(2)])
    assert np.array_equal(batch.inputs[0].numpy(), image[:, 22:38, 17:33])
    window = labelled()[22:38, 17:33]
    assert np.array_equal(batch.regions["cell"][0].numpy(), window == 900)
    assert (batch.stains, batch.spacing) == (("DNA", "ER"), (0.5, 0.5))
    assert (batch.regions["neighbours"][1].numpy().sum()) == 0
    assert cells.skipped == {}
    assert cells.origins([2]).first.tolist() == [[22, 17]]
    assert np.array_equal(cells.field("P 1/A01/s1").labels, labelled())
    assert (
        len({project.cells(**o).fingerprint() for o in ({}, {"limit": 2}, {"crop": [8, 8]})}) == 3
    )


def test_the_same_crops_as_from_fields(project, tmp_path):
    """A location at an object's centroid gives what dataset=fields cuts around it."""
    centres = ndimage.center_of_mass(labelled() > 0, labelled(), [3, 900, 41])
    project.add("P", "A01", "1", places=[(x, y) for y, x in centres])
    images = [
        tifffile.imread(project.root / f"inputs/images/P/A01_1_{channel}.tif")
        for channel in ("DNA", "ER")
    ]
    tifffile.imwrite(tmp_path / "a.tif", np.stack(images), photometric="minisblack")
    tifffile.imwrite(tmp_path / "a_masks.tif", labelled())
    fields = Fields(
        images=str(tmp_path / "a.tif"),
        masks=str(tmp_path / "a_masks.tif"),
        axes="CYX",
        crop=(16, 16),
    )
    order = [0, 2, 1]  # fields go by number
    expected, found = fields.read(order), project.cells().read([0, 1, 2])
    assert np.array_equal(found.inputs, expected.inputs)
    for name, region in expected.regions.items():
        assert np.array_equal(found.regions[name], region)


def test_drawn_outlines_are_filled(project):
    lines, inside = outlined(labelled())
    project.add("P", "A01", "1", labels=lines, places=[(9, 9), (27, 25), (48, 38)])
    cells = project.cells()
    assert len(cells.table) == 2
    assert list(cells.skipped) == ["P/A01/1@48x38"]
    assert "has no object of the outlines near it" in cells.skipped["P/A01/1@48x38"]
    batch = cells.read([1])
    assert np.array_equal(
        batch.regions["cell"][0].numpy(), inside[17:33, 19:35] & (labelled() == 900)[17:33, 19:35]
    )


def test_a_disc_stands_for_a_cell_where_no_outlines_are(project):
    project.add("P", "A01", "1", places=[(9, 9), (14, 9), (9.2, 9.1), (60, 9)])
    cells = project.cells(outlines=None, radius=4)
    assert cells.table["Metadata_object"].tolist() == [1, 2]
    twice, outside = cells.skipped.values()
    assert "P/A01/1@9.2x9.1 stands twice, with another in the same pixel" in twice
    assert "P/A01/1@60x9 is outside its field" in outside
    regions = cells.read([0]).regions
    y, x = np.indices((16, 16)) - 8
    near = (y**2 + x**2 <= 16) & (x <= 2)  # at x = 3 the other is nearer
    assert np.array_equal(regions["cell"][0].numpy(), near)
    assert regions["neighbours"][0].any()


def test_numbers_near_a_place():
    labels = labelled()
    assert number_at(labels, (9, 9)) == 3
    assert number_at(labels, (9, 17)) == 3  # beside it
    assert number_at(labels, (39, 49)) == 0
    assert number_at(labels, (-50, 9)) == 0
    discs = Discs(np.array([[0.0, 0.0]]), 1, (3, 3)).read()
    assert discs.tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0]]


def test_shards_keep_fields_together(project):
    for number in range(6):
        project.add("P", f"A0{number}", "1", seed=number)
    cells = project.cells()
    parts = [shard_of(cells, f"{k}/2").table for k in range(2)]
    assert sorted(pd.concat(parts)["id"]) == sorted(cells.table["id"])
    assert not set(parts[0]["Metadata_image"]) & set(parts[1]["Metadata_image"])


def damage(project, kind):
    """A second field that cannot be used."""
    project.add("P", "bad", "1", seed=1)
    inputs = project.root / "inputs"
    image, where = inputs / "images/P/bad_1_ER.tif", inputs / "locations/P/bad-1-Nuclei.csv"
    outlines = inputs / "outlines/P/bad_1.png"
    if kind == "no image":
        image.unlink()
    elif kind == "truncated":
        image.write_bytes(image.read_bytes()[:900])
    elif kind == "other shape":
        tifffile.imwrite(image, np.zeros((40, 49), np.uint16))
    elif kind == "nan":
        tifffile.imwrite(image, np.full((40, 50), np.nan, np.float32))
    elif kind == "no locations":
        where.unlink()
    elif kind == "empty locations":
        where.write_text(f"{X},{Y}\n")
    elif kind == "other columns":
        where.write_text(f"{X},y\n1,2\n")
    elif kind == "text":
        where.write_text(f"{X},{Y}\n1,two\n")
    elif kind == "no outlines":
        project.rows[-1]["Outlines"] = None
    elif kind == "outlines gone":
        outlines.unlink()
    elif kind == "outlines of another shape":
        Image.fromarray(labelled()[:-1]).save(outlines)
    project.write()


REASONS = {
    "no image": "'bad_1_ER.tif' is named by 'inputs/metadata/index.csv' and is not there",
    "truncated": "'bad_1_ER.tif' cannot be read as a TIFF: it is cut short",
    "other shape": r"'bad_1_ER.tif' has the shape \(1, 40, 49\) and 'bad_1_DNA.tif' \(1, 40, 50\)",
    "nan": "'P/bad/1' holds 2000 pixels that are NaN",
    "no locations": "bad-1-Nuclei.csv' cannot be read as a CSV",
    "empty locations": "'bad-1-Nuclei.csv' has no rows",
    "other columns": f"'bad-1-Nuclei.csv' of 'P' has no column '{Y}'",
    "text": "'bad-1-Nuclei.csv' of 'P' holds locations that are no numbers",
    "no outlines": "'P/bad/1' has no outlines in the index",
    "outlines gone": "'bad_1.png' is named by .* and is not there",
    "outlines of another shape": r"the outlines 'bad_1.png' .* of the shape \(39, 50\)",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", REASONS)
def test_a_bad_field_is_skipped_with_its_reason_or_raised(project, kind):
    project.add("P", "A01", "1")
    damage(project, kind)
    cells = project.cells()
    assert cells.table["Metadata_image"].unique().tolist() == ["P/A01/1"]
    ((name, why),) = cells.skipped.items()
    assert name == "P/bad/1"
    with pytest.raises(DataError, match=REASONS[kind]) as told:
        project.cells(on_bad_file="raise").table  # noqa: B018
    assert str(told.value) == why


def test_an_index_that_does_not_fit(project):
    project.add("P", "A01", "1")
    with pytest.raises(ConfigError, match="channels='RNA' is not a column of 'index.csv'"):
        project.cells(channels=["DNA", "RNA"]).table  # noqa: B018
    with pytest.raises(DataError, match="cannot be read as a CSV"):
        project.cells(index="nowhere.csv").table  # noqa: B018
    project.rows *= 2
    project.rows = [{k: v for k, v in row.items() if k != "Outlines"} for row in project.rows]
    project.write()
    with pytest.raises(DataError, match="'index.csv' has more than one row for P/A01/1"):
        project.cells(outlines=None, radius=3).table  # noqa: B018
    for row in project.rows:
        del row["Metadata_Site"]
    project.write()
    with pytest.raises(DataError, match="'index.csv' has no column 'Metadata_Site'"):
        project.cells(outlines=None, radius=3).table  # noqa: B018


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"outlines": None},
            "asked whether it looks at the cell where the cell's pixels are known",
        ),
        ({"radius": 3}, "and not both"),
        ({"outlines": None, "radius": 0}, "radius=0 must be a positive"),
        ({"crop": [16]}, "crop=.* must be 2 whole numbers"),
        ({"channels": []}, "channels=.* must be different columns"),
        ({"normalise": "fixed"}, "normalise='fixed' is not a choice"),
        ({"spacing": [1]}, "spacing=.* must be 2 numbers"),
    ],
)
def test_wrong_options_are_told_in_one_sentence(project, options, message):
    with pytest.raises(ConfigError, match=message):
        project.cells(**options)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_text_in_tables_stays_text(project, ending):
    """Plate 007, well 01 and site 1, which Parquet may hold as a number."""
    project.add("007", "01", "1", pert="3E2", Metadata_batch="1e3")
    project.add("007", "1", "2", seed=1, pert="300", Metadata_batch="01")
    folder = project.root / "inputs" / "metadata"
    if ending == "parquet":
        index = pd.DataFrame(project.rows).astype({"Metadata_Site": int})
        index.to_parquet(folder / "index.parquet")
    cells = project.cells(index=f"inputs/metadata/index.{ending}", label_column="pert")
    assert cells.classes == ("300", "3E2")
    assert cells.table["id"].tolist()[::2] == ["007/01/1@9x9", "007/1/2@9x9"]
    assert cells.table["label"].tolist() == [1, 1, 0, 0]
    assert cells.table["Metadata_batch"].tolist() == ["1e3", "1e3", "01", "01"]
