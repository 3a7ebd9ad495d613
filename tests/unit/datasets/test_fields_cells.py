"""Fields become cells: regions, flags, filters, crops of a size in micrometres, stated numbers."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from scipy.ndimage import distance_transform_edt

from attrscore.datasets import Fields
from attrscore.errors import ConfigError, DataError

DISC = 9.0


def disc(shape, centre, radius):
    grid = np.indices(shape)
    return sum((axis - at) ** 2 for axis, at in zip(grid, centre, strict=True)) <= radius**2


class Plates:
    """Fields of discs, as bright as they are asked to be."""

    def __init__(self, root):
        self.root = root
        for name in ("images", "masks"):
            (root / name).mkdir(parents=True)
        self.rows = []

    def add(self, name, *, bright=1000, labels=None, image=None, **options):
        if labels is None:
            labels = np.zeros((60, 70), np.uint16)
            labels[disc(labels.shape, (20, 25), DISC)] = 1
            labels[disc(labels.shape, (20, 42), 7)] = 2
        if image is None:
            noise = np.random.default_rng(len(name)).integers(0, 50, labels.shape)
            image = (100 + noise + bright * (labels > 0)).astype(np.uint16)
        tifffile.imwrite(self.root / "images" / f"{name}.tif", image, **options)
        tifffile.imwrite(self.root / "masks" / f"{name}.tif", labels)
        return image, labels

    def csv(self, **columns):
        pd.DataFrame(columns).to_csv(self.root / "labels.csv", index=False)
        return str(self.root / "labels.csv")

    def fields(self, **options):
        paths = {name: str(self.root / name / "*.tif") for name in ("images", "masks")}
        return Fields(**{**paths, "crop": [32, 32], "axes": "YX", **options})


@pytest.fixture
def plates(tmp_path):
    return Plates(tmp_path / "two words µ")


# flags and filters


def test_odd_objects_are_flagged(plates):
    labels = np.zeros((60, 70), np.uint16)
    for number in range(1, 6):
        labels[10:21, 12 * number - 8 : 12 * number] = number
    labels[40:44, 10:14] = labels[50:54, 30:34] = 6  # two pieces
    labels[30:32, 30:32], labels[32:34, 32:34] = 7, 7  # they meet at a corner: one piece
    labels[55:57, 68:70] = 8
    plates.add("a", labels=labels)
    table = plates.fields().table.set_index("Metadata_object")
    assert table.index[table["Metadata_split"]].tolist() == [6]
    assert table.index[table["Metadata_tiny"]].tolist() == [7, 8]  # under a tenth of 88 pixels
    assert table.index[table["Metadata_touches_border"]].tolist() == [8]
    assert plates.fields(tiny=0.0).table["Metadata_tiny"].sum() == 0
    kept = plates.fields(where="not tiny and not split and area > 80")
    assert kept.table["Metadata_object"].tolist() == [1, 2, 3, 4, 5]
    assert kept.left_out == 3
    assert kept.read([4]).meta["Metadata_object"] == [5]
    assert kept.fingerprint() != plates.fields().fingerprint()


def test_where_knows_metadata_and_the_name_of_the_class(plates):
    plates.add("a")
    plates.add("b")
    csv = plates.csv(
        image=["a", "a", "b", "b"],
        label=[1, 2, 1, 2],
        state=["x", "y", "y", "x"],
        Metadata_Well=["A01", "A01", None, None],
    )
    common = {"labels": csv, "label_column": "state"}
    for where, ids in {
        "state == 'x'": ["a:1", "b:2"],
        "Well == 'A01' and state != 'x'": ["a:2"],
        "Metadata_Well in ['A01']": ["a:1", "a:2"],
        "image == 'b' and centroid_x > 30": ["b:2"],
    }.items():
        found = plates.fields(where=where, **common)
        assert found.table["id"].tolist() == ids
        assert found.classes == ("x", "y")
    first = plates.fields(where="state == 'x'", limit=1, **common)
    assert first.table["id"].tolist() == ["a:1"]
    with pytest.raises(DataError, match="No cell is left.* where='area > 9999' leaves 4 out"):
        plates.fields(where="area > 9999", **common).table  # noqa: B018
    with pytest.raises(ConfigError, match="no column 'Wel'. Did you mean 'Well'"):
        plates.fields(where="Wel == 'A01'", **common).table  # noqa: B018


# regions


def test_the_boundary_is_a_ring_of_that_many_micrometres(plates):
    _, labels = plates.add("a")
    spacing = (1.0, 0.5)
    cell = labels == 1
    inside = distance_transform_edt(cell, sampling=spacing)
    outside = distance_transform_edt(~cell, sampling=spacing)
    rings = {
        "inside": cell & (inside <= 2),
        "outside": ~cell & (outside <= 2),
    }
    rings["both"] = rings["inside"] | rings["outside"]
    for side, ring in rings.items():
        options = {"boundary": 2.0, "boundary_side": side, "spacing": spacing}
        # the second crop is smaller than the cell: its border is no edge
        for size in ([32, 40], [10, 10]):
            found = plates.fields(crop=size, **options).read([0])
            first = [20 - size[0] // 2, 25 - size[1] // 2]
            window = tuple(slice(a, a + n) for a, n in zip(first, size, strict=True))
            assert np.array_equal(found.regions["boundary"][0].numpy(), ring[window])
    assert set(found.regions) == {"cell", "neighbours", "boundary"}
    with pytest.raises(ConfigError, match="boundary=2.0 micrometres needs to know how large"):
        plates.fields(boundary=2.0).table  # noqa: B018


def test_the_border_of_the_field_is_no_edge_of_a_cell(plates):
    labels = np.zeros((30, 30), np.uint16)
    labels[:8, 10:20] = 1
    plates.add("a", labels=labels)
    ring = plates.fields(crop=[24, 24], boundary=1.0, spacing=[1, 1]).read([0]).regions["boundary"]
    expected = np.zeros((24, 24), bool)  # the crop begins at row -8, column 3
    expected[8:17, 6:18] = True
    expected[8:15, 8:16] = False
    expected[16, [6, 17]] = False
    assert np.array_equal(ring[0].numpy(), expected)


# crops


def test_micrometres_and_isotropic_crops(plates):
    labels = np.zeros((12, 60, 70), np.uint8)
    # a ball of 8 micrometres, in voxels of 2 x 1 x 0.5
    z, y, x = np.indices(labels.shape)
    labels[(2 * (z - 6)) ** 2 + (y - 30) ** 2 + (0.5 * (x - 34)) ** 2 <= 64] = 1
    image = (50 + 900 * labels.astype(int)).astype(np.uint16)
    plates.add("a", labels=labels, image=image)
    options = {"axes": "ZYX", "spacing": [2.0, 1.0, 0.5], "crop_unit": "micrometre"}
    plain = plates.fields(crop=[20, 24.2, 24], **options)
    assert plain.spec.size == (10, 24, 48)
    assert plain.read([0]).spacing == (2.0, 1.0, 0.5)
    even = plates.fields(crop=[20, 24, 24], resample=1, **options)
    batch = even.read([0])
    assert batch.inputs.shape == (1, 1, 20, 24, 24)
    assert batch.spacing == (1.0, 1.0, 1.0)
    cell = batch.regions["cell"][0].numpy()
    extents = [np.ptp(axis) + 1 for axis in np.nonzero(cell)]
    assert max(extents) - min(extents) <= 2  # a ball is round again, as far as z showed it
    assert cell.sum() == pytest.approx(int(labels.sum()), rel=0.05)  # micrometres cubed
    bright = batch.inputs[0, 0].numpy() > 0.5
    assert (bright != cell).mean() < 0.02  # pixels and labels lie on the same grid
    fine = plates.fields(crop=[20, 24, 24], resample="isotropic", **options)
    assert fine.spec.size == (40, 48, 48)
    stated = plates.fields(crop=[40, 48, 48], resample=[0.5, 0.5, 0.5], axes="ZYX",
                           spacing=[2.0, 1.0, 0.5])  # fmt: skip
    assert torch.equal(stated.read([0]).inputs, fine.read([0]).inputs)
    assert len({each.fingerprint() for each in (plain, even, fine)}) == 3
    assert fine.about["crop"] == "40 x 48 x 48 pixels of 0.5 x 0.5 x 0.5 µm"


def test_fields_of_other_pixel_sizes_become_alike_or_are_left_out(plates):
    _, labels = plates.add("a", ome=True, metadata={"axes": "YX", **sized(1.0)})
    twice = labels.repeat(2, 0).repeat(2, 1)
    plates.add("b", labels=twice, ome=True, metadata={"axes": "YX", **sized(0.5)})
    plain = plates.fields(axes=None)
    assert plain.table["Metadata_image"].unique().tolist() == ["a"]
    assert "pixels of 0.5 x 0.5 µm but the files before it of 1 x 1 µm" in plain.skipped["b.tif"]
    even = plates.fields(axes=None, resample=1.0)
    cells = even.read([0, 2]).regions["cell"]
    assert even.skipped == {}
    assert (cells[0] ^ cells[1]).sum() <= 4  # the same disc, drawn finer
    origins = even.origins([0, 2])
    assert origins.extent.tolist() == [[32, 32], [64, 64]]
    assert origins.first[1] == pytest.approx(2 * origins.first[0], abs=2)
    assert "1 x 1 µm (1)" in even.about["voxel"]


def sized(micrometres):
    size = {"PhysicalSizeX": micrometres, "PhysicalSizeY": micrometres}
    return size | {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}


def test_micrometres_need_a_pixel_size(plates):
    plates.add("a")
    for options in ({"crop_unit": "micrometre"}, {"resample": 1.0}):
        with pytest.raises(ConfigError, match=r"state it with dataset\.spacing"):
            plates.fields(**options).table  # noqa: B018


@pytest.mark.parametrize("outside", ["zero", "mean"])
def test_what_is_outside_the_cell_can_be_taken_away(plates, outside):
    labels = np.zeros((40, 40), np.uint16)
    labels[disc(labels.shape, (8, 20), 5)] = 1  # its crop hangs over the border
    plates.add("a", labels=labels)
    kept = plates.fields(normalise="none").read([0])
    taken = plates.fields(normalise="none", outside=outside).read([0])
    cell = kept.regions["cell"][0]
    assert torch.equal(taken.regions["cell"], kept.regions["cell"])
    assert torch.equal(taken.inputs[0, 0][cell], kept.inputs[0, 0][cell])
    beside = ~cell
    beside[:8] = False  # rows beyond the field do not count
    mean = float(kept.inputs[0, 0][beside].double().mean())
    fill = {"zero": 0.0, "mean": mean}[outside]
    assert taken.inputs[0, 0][~cell].numpy() == pytest.approx(fill, rel=1e-6)


# normalisation


def test_stated_ranges(plates):
    image, _ = plates.add("a")
    found = plates.fields(normalise="fixed", ranges=[100, 1100]).read([0]).inputs[0, 0]
    window = image[4:36, 9:41].astype(float)
    assert found.numpy() == pytest.approx(((window - 100) / 1000).clip(0, 1), abs=1e-6)
    with pytest.raises(ConfigError, match="has 2 pairs, and 1 channels are read"):
        plates.fields(normalise="fixed", ranges=[[0, 1], [0, 1]]).table  # noqa: B018


def test_a_plate_is_normalised_by_its_controls(plates):
    images = {
        name: plates.add(name, bright=bright)[0]
        for name, bright in {"a": 500, "b": 2000, "c": 800, "d": 900, "e": 700, "f": 10}.items()
    }
    csv = plates.csv(
        image=list("abcdef"),
        label=[1] * 6,
        Metadata_Plate=["P1", "P1", "P1", "P2", "P2", "P3"],
        Metadata_Treatment=["DMSO", "drug", "DMSO", "drug", "DMSO", "drug"],
    )
    options = {"labels": csv, "controls": "Treatment == 'DMSO'", "normalise": "standard"}
    found = plates.fields(**options)
    assert found.skipped == {
        "f.tif": "the field 'f' cannot be normalised: none that can be used of the plate 'P3' is a "
        "control."
    }
    own = {"a": "ac", "b": "ac", "c": "ac", "d": "e", "e": "e"}
    for name, controls in own.items():
        pixels = np.concatenate([images[each].ravel() for each in controls]).astype(float)
        row = found.table["id"].tolist().index(f"{name}:1")
        window = images[name][4:36, 9:41].astype(float)
        expected = (window - pixels.mean()) / pixels.std()
        assert found.read([row]).inputs[0, 0].numpy() == pytest.approx(expected, abs=1e-5)
    part = found.within(lambda name: name == "b")  # its controls lie in another shard
    assert torch.equal(part.read([0]).inputs, found.read([2]).inputs)
    before = part.fingerprint()
    plates.add("c", bright=801)
    again = plates.fields(**options).within(lambda name: name == "b")
    assert again.fingerprint() != before
    with pytest.raises(ConfigError, match="holds for no row of 'labels.csv'"):
        plates.fields(**{**options, "controls": "Treatment == 'dmso'"}).table  # noqa: B018
    with pytest.raises(ConfigError, match="plate='Batch' is no column that is carried"):
        plates.fields(**options, plate="Batch").table  # noqa: B018


# memory


@pytest.mark.slow
def test_memory_does_not_grow_with_the_folder_beyond_its_bound(plates, monkeypatch):
    monkeypatch.setattr("attrscore.datasets.images.field._MEMORY", 4 * (400 + 800) * 1000)
    labels = np.zeros((400, 500), np.uint16)
    labels[100:120, 100:120], labels[300:330, 400:420] = 1, 2
    for number in range(14):  # 400 kB of pixels and 800 kB of labels each, once decoded
        plates.add(f"f{number:02}", labels=labels, compression="zlib")
    tracemalloc.start()
    try:
        fields = plates.fields(crop=[16, 16])
        for start in range(0, len(fields.table), 4):
            fields.read(range(start, start + 4))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(fields.table) == 28
    assert peak < 8 * (400 + 800) * 1000  # four fields, and what reading one takes; not 14


def test_windows_of_large_fields_are_what_whole_fields_give(plates, monkeypatch):
    plates.add("a", compression="zlib", rowsperstrip=4)
    options = {"boundary": 2.0, "spacing": [1.0, 1.0], "resample": 0.7}
    whole = plates.fields(**options)
    expected, table = whole.read([1, 0]), whole.table
    monkeypatch.setattr("attrscore.datasets.images.readers.LARGE", 0)
    monkeypatch.setattr("attrscore.datasets.images.field._PIECE", 100)
    pieces = plates.fields(**options)
    found = pieces.read([1, 0])
    assert pieces.table.equals(table)
    assert torch.equal(found.inputs, expected.inputs)
    for name, region in expected.regions.items():
        assert torch.equal(found.regions[name], region)
    assert type(pieces._reader.open("a").image.stored.pixels).__name__ == "Opened"
