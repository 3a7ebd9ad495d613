from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch

from attrscore.core.registry import DATASETS
from attrscore.datasets import Fields
from attrscore.datasets.cells.crops import CutFromFields, crop
from attrscore.datasets.cells.geometry import starts
from attrscore.datasets.cells.objects import measure
from attrscore.datasets.images.files import stem
from attrscore.datasets.images.readers import check_axes
from attrscore.errors import ConfigError, DataError


def labelled(shape=(40, 50)):
    """Object 3 in the middle, 7 beside it, 900 in the corner."""
    labels = np.zeros(shape, np.uint16)
    middle = tuple(slice(n // 2 - 3, n // 2 + 4) for n in shape)
    labels[middle] = 3
    labels[(*middle[:-1], slice(shape[-1] // 2 + 6, shape[-1] // 2 + 12))] = 7
    labels[tuple(slice(0, 4) for _ in shape)] = 900
    return labels


def pixels(shape, seed=0):
    return np.random.default_rng(seed).integers(1, 4000, shape).astype(np.uint16)


class Folder:
    def __init__(self, root):
        self.root = root
        for name in ("images", "masks", "nuclei"):
            (root / name).mkdir(parents=True)

    def add(self, name, image, mask=None, *, ending="", nuclei=None, **options):
        options = {"photometric": "minisblack", **options}
        tifffile.imwrite(self.root / "images" / f"{name}.tif", image, **options)
        if mask is not None:
            tifffile.imwrite(self.root / "masks" / f"{name}{ending}.tif", mask)
        if nuclei is not None:
            tifffile.imwrite(self.root / "nuclei" / f"{name}.tif", nuclei)

    def csv(self, rows):
        pd.DataFrame(rows).to_csv(self.root / "labels.csv", index=False)
        return str(self.root / "labels.csv")

    def fields(self, **options):
        return DATASETS.build(
            "fields",
            **{
                "images": str(self.root / "images" / "*.tif"),
                "masks": str(self.root / "masks" / "*.tif"),
                "crop": [16, 16],
                **options,
            },
        )


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "my fields µ")  # spaces and letters beyond ASCII, always


def test_crops_regions_and_table(folder):
    image = pixels((40, 50))
    folder.add("a", image, labelled())
    fields = folder.fields(normalise="none", spacing=[0.5, 0.5])
    table = fields.table
    assert table["id"].tolist() == ["a:3", "a:7", "a:900"]
    assert table["label"].tolist() == [-1, -1, -1]
    assert table["Metadata_image"].tolist() == ["a"] * 3
    assert table["Metadata_object"].tolist() == [3, 7, 900]
    assert table["Metadata_area"].tolist() == [49, 42, 16]
    assert table["Metadata_touches_border"].tolist() == [False, False, True]
    for flag in ("tiny", "split", "cut"):
        assert table[f"Metadata_{flag}"].tolist() == [False] * 3
    # object 3 covers rows 17 to 23 and columns 22 to 28; 900 covers 0 to 3, which rounds 1.5 up
    assert table["Metadata_centroid_y"].tolist() == [20, 20, 1.5]
    batch = fields.read([0, 2])
    assert batch.spacing == (0.5, 0.5)
    expected = image[20 - 8 : 20 + 8, 25 - 8 : 25 + 8].astype(np.float32)
    assert np.array_equal(batch.inputs[0, 0].numpy(), expected)
    window = labelled()[12:28, 17:33]
    assert np.array_equal(batch.regions["cell"][0].numpy(), window == 3)
    assert np.array_equal(batch.regions["neighbours"][0].numpy(), window == 7)
    corner = np.zeros((16, 16), np.float32)
    corner[6:, 6:] = image[:10, :10]
    assert np.array_equal(batch.inputs[1, 0].numpy(), corner)
    assert batch.meta["Metadata_object"] == [3, 900]
    assert fields.classes == ()
    assert (fields.spec.channels, fields.spec.size, fields.spec.classes) == (1, (16, 16), 0)
    assert fields.skipped == {}


def test_rows_come_in_the_order_asked_for_across_fields(folder):
    for number in range(6):  # more than are kept in memory
        folder.add(f"f{number}", pixels((40, 50), number), labelled())
    fields = folder.fields()
    everything = fields.read(range(18))
    rows = [17, 0, 9, 4, 9 + 3, 1]
    some = fields.read(rows)
    assert torch.equal(some.inputs, everything.inputs[rows])
    assert torch.equal(some.regions["cell"], everything.regions["cell"][rows])
    assert list(some.ids) == [everything.ids[row] for row in rows]
    with pytest.raises(DataError, match="Row 18 does not exist; rows are 0 to 17"):
        fields.read([18])


def test_origins_say_where_each_crop_lies_in_its_field(folder):
    folder.add("a", pixels((40, 50)), labelled())
    fields = folder.fields(normalise="none", jitter=3, jitter_seed=2)
    origins = fields.origins([0, 2])
    field = fields.field("a")
    assert isinstance(fields, CutFromFields)
    assert origins.field == ("a", "a")
    assert origins.number.tolist() == [3, 900]
    assert origins.extent.tolist() == [[16, 16]] * 2
    batch = fields.read([0, 2])
    for cell, (first, number) in enumerate(zip(origins.first, origins.number, strict=True)):
        there = crop(field.pixels, first.astype(int), (16, 16))
        assert np.array_equal(batch.inputs[cell], there)
        there = crop(field.labels, first.astype(int), (16, 16))
        assert np.array_equal(batch.regions["cell"][cell], there == number)


def test_an_object_larger_than_its_crop_is_flagged_as_cut(folder):
    folder.add("a", pixels((40, 50)), labelled())
    assert folder.fields(crop=[6, 16]).table["Metadata_cut"].tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("axes", "shape", "crop", "channels"),
    [
        ("YX", (40, 50), (16, 16), 1),
        ("CYX", (3, 40, 50), (16, 16), 3),
        ("YXC", (40, 50, 3), (16, 16), 3),
        ("CYX", (1, 40, 50), (16, 16), 1),
        ("ZYX", (12, 40, 50), (8, 16, 16), 1),
        ("CZYX", (2, 12, 40, 50), (8, 16, 16), 2),
        ("ZCYX", (12, 2, 40, 50), (8, 16, 16), 2),
    ],
)
def test_stated_axes(folder, axes, shape, crop, channels):
    image = pixels(shape)
    space = tuple(n for n, axis in zip(shape, axes, strict=True) if axis != "C")
    folder.add("a", image, labelled(space))
    fields = folder.fields(axes=axes.lower(), crop=list(crop), normalise="none")
    batch = fields.read([0])
    assert batch.inputs.shape == (1, channels, *crop)
    moved = np.moveaxis(image, axes.index("C"), 0) if "C" in axes else image[None]
    window = tuple(
        slice(n // 2 - c // 2, n // 2 + c // 2) for n, c in zip(space, crop, strict=True)
    )
    assert np.array_equal(batch.inputs[0].numpy(), moved[(slice(None), *window)].astype("f4"))
    assert int(batch.regions["cell"].sum()) == int(fields.table["Metadata_area"][0])


@pytest.mark.parametrize(
    ("kind", "axes", "shape", "crop"),
    [
        ("ome", "CYX", (3, 40, 50), (16, 16)),
        ("ome", "ZYX", (12, 40, 50), (8, 16, 16)),
        ("ome", "CZYX", (2, 12, 40, 50), (8, 16, 16)),
        ("imagej", "CYX", (3, 40, 50), (16, 16)),
        ("imagej", "ZYX", (12, 40, 50), (8, 16, 16)),
        ("imagej", "ZCYX", (12, 2, 40, 50), (8, 16, 16)),
    ],
)
def test_axes_from_metadata_are_those_stated(folder, kind, axes, shape, crop):
    space = tuple(n for n, axis in zip(shape, axes, strict=True) if axis != "C")
    name = "a.ome" if kind == "ome" else "a"
    folder.add(name, pixels(shape), **{kind: True, "metadata": {"axes": axes}})
    tifffile.imwrite(folder.root / "masks" / "a_cp_masks.tif", labelled(space))
    read = folder.fields(crop=list(crop)).read([0, 1, 2])
    stated = folder.fields(crop=list(crop), axes=axes).read([0, 1, 2])
    assert torch.equal(read.inputs, stated.inputs)
    assert torch.equal(read.regions["cell"], stated.regions["cell"])
    assert read.ids[0] == "a:3"


def test_axes_are_never_guessed_from_sizes(folder):
    folder.add("a", pixels((3, 40, 50)), labelled())
    with pytest.raises(DataError, match=r"does not say what its axes are .*dataset\.axes"):
        folder.fields().table  # noqa: B018


def test_samples_of_an_rgb_file_are_channels_only_when_stated(folder):
    image = pixels((40, 50, 3)).astype(np.uint8)
    folder.add("a", image, labelled(), photometric="rgb")
    batch = folder.fields(axes="YXC", normalise="none").read([0])
    assert np.array_equal(batch.inputs[0].numpy(), np.moveaxis(image, 2, 0)[:, 12:28, 17:33])
    with pytest.raises(DataError, match="does not say what its axes are .read: YXS"):
        folder.fields().table  # noqa: B018


def test_time_series_are_refused(folder):
    folder.add("a", pixels((4, 40, 50)), labelled(), ome=True, metadata={"axes": "TYX"})
    with pytest.raises(DataError, match="does not say what its axes are .read: TYX"):
        folder.fields().table  # noqa: B018


@pytest.mark.parametrize("ending", ["", "_cp_masks", "_masks", "_mask", "_label", "_labels"])
def test_masks_are_found_by_common_endings(folder, ending):
    folder.add("a", pixels((40, 50)), labelled(), ending=ending)
    assert len(folder.fields().table) == 3


def test_images_and_masks_in_one_folder(folder):
    tifffile.imwrite(folder.root / "images" / "a.tif", pixels((40, 50)))
    tifffile.imwrite(folder.root / "images" / "a_cp_masks.tif", labelled())
    fields = folder.fields(masks=str(folder.root / "images" / "*_cp_masks.tif"))
    assert len(fields.table) == 3
    assert fields.skipped == {}


def test_folders_and_names_with_brackets(folder):
    folder.add("a[1]", pixels((40, 50)), labelled())
    by_folder = folder.fields(images=str(folder.root / "images"), masks=str(folder.root / "masks"))
    by_name = folder.fields(
        images=str(folder.root / "images" / "a[1].tif"),
        masks=str(folder.root / "masks" / "a[1].tif"),
    )
    assert by_folder.table.equals(by_name.table)
    assert by_folder.table["id"][0] == "a[1]:3"


def test_channels_are_selected_in_order(folder):
    image = pixels((3, 40, 50))
    folder.add("a", image, labelled())
    both = folder.fields(axes="CYX", normalise="none").read([0]).inputs
    some = folder.fields(axes="CYX", normalise="none", channels=[2, 0]).read([0]).inputs
    assert torch.equal(some, both[:, [2, 0]])
    named = folder.fields(axes="CYX", channels=[2, 0], stains=["Mito", "DNA"])
    assert named.read([0]).stains == ("Mito", "DNA")
    assert named.fingerprint() != folder.fields(axes="CYX", channels=[2, 0]).fingerprint()
    with pytest.raises(ConfigError, match="names 2 channels, and 3 are read"):
        folder.fields(axes="CYX", stains=["Mito", "DNA"]).table  # noqa: B018
    with pytest.raises(DataError, match=r"has 3 channels but channels=\[3\] asks for number 3"):
        folder.fields(axes="CYX", channels=[3]).table  # noqa: B018


def test_nuclei_give_nucleus_and_cytoplasm(folder):
    cells = labelled()
    nuclei = np.zeros_like(cells)
    nuclei[19:22, 24:27] = 3
    nuclei[19:22, 29:33] = 7  # pokes out of its cell by two columns
    folder.add("a", pixels((40, 50)), cells, nuclei=nuclei)
    fields = folder.fields(nuclei=str(folder.root / "nuclei" / "*.tif"))
    regions = fields.read([0, 1, 2]).regions
    assert regions["nucleus"].flatten(1).sum(1).tolist() == [9, 6, 0]
    assert torch.equal(regions["nucleus"] | regions["cytoplasm"], regions["cell"])
    (folder.root / "nuclei" / "a.tif").rename(folder.root / "nuclei" / "b.tif")
    with pytest.raises(DataError, match="no nuclei image is called like the image 'a.tif'"):
        folder.fields(nuclei=str(folder.root / "nuclei" / "*.tif")).table  # noqa: B018


# labels


def test_csv_gives_classes_and_columns(folder):
    folder.add("a", pixels((40, 50)), labelled())
    folder.add("b", pixels((40, 50), 1), labelled())
    csv = folder.csv(
        {
            "image": ["images/a.tif", "a", "b.tif", "b"],
            "label": [7, 3, 3, 900],
            "dose": [10, 9, 9, None],
            "state": ["treated", "NULL", "treated", None],
            "Metadata_Well": ["A01", "A01", "B02", "B02"],
            "ignored": [1, 2, 3, 4],
        }
    )
    fields = folder.fields(labels=csv, label_column="state", carry=["dose"], numbers=["dose"])
    assert fields.classes == ("NULL", "treated")  # a genotype called NULL is no missing value
    assert fields.table["label"].tolist() == [0, 1, -1, 1, -1, -1]
    assert fields.spec.classes == 2
    assert fields.table["Metadata_Well"].tolist()[:2] == ["A01", "A01"]
    assert fields.table["Metadata_dose"].tolist()[:2] == [9, 10]
    assert "Metadata_ignored" not in fields.table
    assert fields.read([3]).meta["Metadata_Well"] == ["B02"]
    assert fields.read([3]).label.tolist() == [1]
    by_text = folder.fields(labels=csv, label_column="dose")
    assert by_text.classes == ("10.0", "9.0")
    by_number = folder.fields(labels=csv, label_column="dose", numbers=["dose"])
    assert by_number.classes == ("10", "9")
    assert by_number.table["label"].tolist() == [1, 0, -1, 1, -1, -1]
    ordered = folder.fields(labels=csv, label_column="state", class_order=["treated", "NULL"])
    assert ordered.table["label"].tolist() == [1, 0, -1, 0, -1, -1]
    with pytest.raises(ConfigError, match=r"class_order=\['treated'\] must name each class once"):
        folder.fields(labels=csv, label_column="state", class_order=["treated"]).table  # noqa: B018
    assert folder.fields(labels=csv).table["label"].tolist() == [-1] * 6


def test_channels_are_found_by_name_whatever_their_order(folder):
    image = pixels((3, 40, 50))
    for name, order in {"a": [0, 1, 2], "b": [2, 0, 1]}.items():
        stains = [["DNA", "AGP", "rna "][n] for n in order]
        described = {"axes": "CYX", "Channel": {"Name": stains}}
        folder.add(name, image[order], labelled(), ome=True, metadata=described)
    fields = folder.fields(channels=["RNA", "DNA"], normalise="none")
    batch = fields.read([0, 3])
    assert batch.stains == ("RNA", "DNA")
    assert torch.equal(batch.inputs[0], batch.inputs[1])
    expected = image[[2, 0]][:, 12:28, 17:33].astype(np.float32)
    assert np.array_equal(batch.inputs[0].numpy(), expected)
    with pytest.raises(DataError, match=r"'a.tif' has not one channel 'ER' .* DNA, AGP, rna"):
        folder.fields(channels=["ER"]).table  # noqa: B018
    made = folder.fields(masks="otsu", segment_channels=["DNA"], channels=["AGP"])
    assert made.read([0]).stains == ("AGP",)


def test_stains_name_the_channels_of_files_that_do_not(folder):
    folder.add("a", pixels((2, 40, 50)), labelled())
    with pytest.raises(DataError, match="its channels have no names; dataset.stains gives"):
        folder.fields(axes="CYX", channels=["AGP"]).table  # noqa: B018
    fields = folder.fields(axes="CYX", channels=["AGP"], stains=["DNA", "AGP"], normalise="none")
    assert fields.read([0]).stains == ("AGP",)
    second = folder.fields(axes="CYX", channels=[1], normalise="none")
    assert torch.equal(fields.read([0]).inputs, second.read([0]).inputs)
    with pytest.raises(DataError, match="has 2 channels but stains=.*names 1"):
        folder.fields(axes="CYX", channels=["AGP"], stains=["AGP"]).table  # noqa: B018


def test_crops_are_centred_on_the_nucleus(folder):
    nuclei = np.zeros((40, 50), np.uint16)
    nuclei[18:21, 26:29] = 3  # in a corner of object 3; 7 and 900 have none
    image = pixels((40, 50))
    folder.add("a", image, labelled(), nuclei=nuclei)
    options = {"nuclei": str(folder.root / "nuclei"), "normalise": "none"}
    fields = folder.fields(**options, centre="nucleus")
    around = fields.read([0, 1]).inputs.numpy()
    assert np.array_equal(around[0, 0], image[19 - 8 : 19 + 8, 27 - 8 : 27 + 8])
    plain = folder.fields(**options)
    assert np.array_equal(around[1], plain.read([1]).inputs[0])  # without nucleus: the cell's
    assert fields.table["Metadata_centroid_y"].tolist() == [20, 20, 1.5]
    assert fields.fingerprint() != plain.fingerprint()
    with pytest.raises(ConfigError, match="centre=nucleus needs to know where nuclei are"):
        folder.fields(centre="nucleus")


@pytest.mark.parametrize(
    ("options", "rows", "error", "message"),
    [
        ({"label_column": "stat"}, {"state": ["x"]}, ConfigError, "Did you mean 'state'"),
        ({"carry": ["x"]}, {}, ConfigError, "carry='x' is not a column of 'labels.csv'. Known: "),
        ({"image_key": "field"}, {}, ConfigError, "image_key='field' is not a column"),
        ({"object_key": "n"}, {}, ConfigError, "object_key='n' is not a column"),
        ({}, {"label": ["x"]}, DataError, "holds 'x'; expected the whole number"),
        ({}, {"label": [1.5]}, DataError, "holds .*1.5.*; expected the whole number"),
        ({}, {"image": ["z"]}, DataError, "No row of 'labels.csv' .* has z:3; the files have a:3"),
    ],
)
def test_wrong_csv(folder, options, rows, error, message):
    folder.add("a", pixels((40, 50)), labelled())
    csv = folder.csv({"image": ["a"], "label": [3], **rows})
    with pytest.raises(error, match=message):
        folder.fields(labels=csv, **options).table  # noqa: B018


def test_any_column_is_carried_also_one_that_is_called_as_ours(folder):
    folder.add("a", pixels((40, 50)), labelled())
    rows = {"image": ["a"], "label": [3], "area": [1], "Metadata_cut": ["x"], "well": ["A01"]}
    table = folder.fields(labels=folder.csv(rows), carry=["area", "well"]).table
    assert table["Metadata_area"].tolist() == [49, 42, 16]
    assert table["Metadata_area_given"].fillna("").tolist() == ["1", "", ""]
    assert table["Metadata_cut_given"].fillna("").tolist() == ["x", "", ""]
    assert table["Metadata_well"].fillna("").tolist() == ["A01", "", ""]


def test_two_rows_for_one_cell_no_rows_and_no_file(folder):
    folder.add("a", pixels((40, 50)), labelled())
    csv = folder.csv({"image": ["a", "a.tif"], "label": [3, 3]})
    with pytest.raises(DataError, match="more than one row for object 3 of image 'a'"):
        folder.fields(labels=csv).table  # noqa: B018
    csv = folder.csv({"image": [], "label": []})
    with pytest.raises(DataError, match="'labels.csv' has no rows"):
        folder.fields(labels=csv).table  # noqa: B018
    with pytest.raises(DataError, match="cannot be read as a CSV.*check the path"):
        folder.fields(labels="nowhere.csv").table  # noqa: B018


# bad files: left out with a reason, or raised


def damaged(folder, kind):
    good, mask = pixels((40, 50)), labelled()
    if kind == "no mask":
        folder.add("bad", good)
    elif kind == "no image":
        tifffile.imwrite(folder.root / "masks" / "bad.tif", mask)
    elif kind == "empty":
        folder.add("bad", good, np.zeros_like(mask))
    elif kind == "shape":
        folder.add("bad", good, mask[:-1])
    elif kind == "nan":
        image = good.astype(np.float32)
        image[0, 0], image[1, 1] = np.nan, np.inf
        folder.add("bad", image, mask)
    elif kind == "truncated":
        folder.add("bad", good, mask)
        path = folder.root / "images" / "bad.tif"
        path.write_bytes(path.read_bytes()[:1500])
    elif kind == "no tiff":
        folder.add("bad", good, mask)
        (folder.root / "images" / "bad.tif").write_text("hello")
    elif kind == "float":
        folder.add("bad", good, mask.astype(np.float32))
    elif kind == "negative":
        folder.add("bad", good, mask.astype(np.int32) - 1)
    elif kind == "complex":
        folder.add("bad", good.astype(np.complex64), mask)
    elif kind == "channels":
        folder.add("bad", pixels((2, 40, 50)), mask, ome=True, metadata={"axes": "CYX"})
    elif kind == "dimensions":
        folder.add("bad", pixels((5, 40, 50)), mask, ome=True, metadata={"axes": "ZYX"})
    elif kind == "twice":
        folder.add("bad", good, mask)
        tifffile.imwrite(folder.root / "images" / "bad.ome.tif", good)


REASONS = {
    "no mask": "no mask is called like the image 'bad.tif'",
    "no image": "no image belongs to the mask 'bad.tif'",
    "empty": "the mask 'bad.tif' is empty: every pixel is 0",
    "shape": r"the mask 'bad.tif' has the shape \(39, 50\) but its image has \(40, 50\) along Y, X",
    "nan": "'bad.tif' holds 2 pixels that are NaN or infinite",
    "truncated": "'bad.tif' cannot be read as a TIFF",
    "no tiff": "'bad.tif' cannot be read as a TIFF",
    "float": "the mask 'bad.tif' holds float32 pixels; expected integers",
    "negative": "the mask 'bad.tif' holds negative numbers",
    "complex": "'bad.tif' holds complex64 pixels; expected integers or real numbers",
    "channels": "'bad.tif' has 2 channels but the files before it have 1",
    "dimensions": "'bad.tif' has the spatial axes Z, Y, X but crop has 2 numbers",
    "twice": "2 images are called 'bad'",
}


@pytest.mark.parametrize("kind", REASONS)
def test_a_bad_file_is_skipped_with_its_reason_or_raised(folder, kind):
    folder.add("a", pixels((40, 50)), labelled())
    damaged(folder, kind)
    fields = folder.fields()
    assert fields.table["Metadata_image"].unique().tolist() == ["a"]
    (name,) = {key.replace(".ome", "") for key in fields.skipped}
    assert name == "bad.tif"
    with pytest.raises(DataError, match=f"(?i){REASONS[kind]}") as raised:
        folder.fields(on_bad_file="raise").table  # noqa: B018
    assert any(why.lower() == str(raised.value).lower() for why in fields.skipped.values())


def test_nothing_left_lists_the_reasons(folder):
    damaged(folder, "empty")
    with pytest.raises(DataError, match="No cell is left: 1 files cannot.* 'bad.tif' is empty"):
        folder.fields().table  # noqa: B018


def test_no_file_matches(folder):
    with pytest.raises(DataError, match=r"No file matches masks='.*\*.tif'; check the path"):
        folder.fields().table  # noqa: B018
    folder.add("a", pixels((40, 50)), labelled())
    with pytest.raises(DataError, match="No file matches images="):
        folder.fields(images="nowhere/*.tif").table  # noqa: B018


def test_stated_axes_that_the_file_does_not_have(folder):
    folder.add("a", pixels((40, 50)), labelled())
    with pytest.raises(DataError, match=r"axes=CYX names 3 axes but 'a.tif' has the shape \(40, 5"):
        folder.fields(axes="CYX").table  # noqa: B018


# options


def test_small_objects_are_left_out_and_counted(folder):
    folder.add("a", pixels((40, 50)), labelled())
    fields = folder.fields(min_area=20)
    assert fields.table["Metadata_object"].tolist() == [3, 7]
    assert fields.left_out == 1
    assert fields.skipped == {}


def test_limit_takes_the_first_cells_and_reads_no_further(folder):
    folder.add("a", pixels((40, 50)), labelled())
    folder.add("b", pixels((40, 50)), labelled())
    damaged(folder, "empty")
    fields = folder.fields(limit=2)
    assert fields.table["id"].tolist() == ["a:3", "a:7"]
    assert fields.skipped == {}


def test_fingerprint_follows_content_and_options_not_paths(tmp_path):
    first, second = Folder(tmp_path / "1"), Folder(tmp_path / "2")
    for folder in (first, second):
        folder.add("a", pixels((40, 50)), labelled())
    same = first.fields().fingerprint()
    assert second.fields().fingerprint() == same
    prints = {
        same,
        first.fields(crop=[8, 8]).fingerprint(),
        first.fields(normalise="max").fingerprint(),
        first.fields(min_area=20).fingerprint(),
    }
    second.add("a", pixels((40, 50), 1), labelled())
    assert len(prints | {second.fields().fingerprint()}) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axes": "CY"}, "axes='CY' must name Y and X"),
        ({"axes": "YXX"}, "each once"),
        ({"axes": "TYX"}, "axes='TYX' must name Y and X"),
        ({"axes": "ZYX"}, r"crop=\[16, 16\] has 2 numbers but axes=ZYX has 3 .* Z, Y, X"),
        ({"crop": [16]}, "crop=.* must be 2 or 3 whole numbers"),
        ({"crop": 64}, r"crop=64 must be a list"),
        ({"crop": [0, 16]}, "crop=.* must be"),
        ({"normalise": "minmax"}, "normalise='minmax' is not a choice"),
        ({"on_bad_file": "ignore"}, "on_bad_file='ignore' is not a choice"),
        ({"percentiles": [99, 1]}, "percentiles=.* must be"),
        ({"spacing": [1, 1, 1]}, "spacing=.* must be 2 positive numbers"),
        ({"channels": [0, 0]}, "channels=.* must be different"),
        ({"min_area": -1}, "min_area=-1"),
        ({"tiny": 1}, "tiny=1 must be a share"),
        ({"crop": [8.5, 8]}, "whole numbers of pixels"),
        ({"crop_unit": "inch"}, "crop_unit='inch' is not a choice"),
        ({"outside": "black"}, "outside='black' is not a choice"),
        ({"resample": -1, "spacing": [1, 1]}, "resample=-1 must be isotropic, or micrometres"),
        ({"resample": [1, 1, 1], "spacing": [1, 1]}, "or 2 of them, one an axis"),
        ({"boundary": 0}, "boundary=0 must be a positive number"),
        ({"boundary": 1, "boundary_side": "left"}, "boundary_side='left' is not a choice"),
        ({"normalise": "fixed"}, "fixed needs the ranges"),
        ({"ranges": [0, 1]}, "the other rules have none"),
        ({"normalise": "fixed", "ranges": [1, 0]}, r"must be \[lowest, highest\]"),
        ({"controls": "Well == 'A01'"}, "state it with labels=path.csv"),
        ({"where": "area >"}, "is no expression"),
        ({"masks": "otsu", "segment_channels": [0, 1]}, "otsu takes one channel"),
        ({"masks": "otsu", "segment_diameter": 0}, "must be a positive number of pixels"),
        ({"limit": 0}, "limit=0 must be at least 1"),
        ({"label_column": "x"}, "state it with labels=path.csv"),
        ({"images": "x", "masks": "x"}, "must be different patterns"),
    ],
)
def test_wrong_options_are_told_in_one_sentence(folder, options, message):
    with pytest.raises(ConfigError, match=message):
        folder.fields(**options)


# the pieces


def test_measure_is_right_for_many_and_sparse_numbers():
    labels = np.random.default_rng(0).integers(0, 40, (30, 31)).astype(np.int64) * 100_003
    found = measure(labels)
    assert np.array_equal(found.number, np.unique(labels[labels > 0]))
    for row, number in enumerate(found.number):
        places = np.argwhere(labels == number)
        assert found.area[row] == len(places)
        assert found.centroid[row] == pytest.approx(places.mean(0))
        assert np.array_equal(found.first[row], places.min(0))
        assert np.array_equal(found.stop[row], places.max(0) + 1)


def test_a_crop_beside_the_field_is_zeros():
    assert not crop(np.ones((5, 5)), np.array([7, -9]), (3, 3)).any()


def test_equal_cells_have_equal_crops_wherever_they_are():
    assert starts(np.array([[1.5], [2.5], [3.5]]), (4,)).ravel().tolist() == [0, 1, 2]


def test_stems_and_axes():
    assert stem("a.ome.tiff") == "a"
    assert stem("x/a.b.TIF") == "a.b"
    assert check_axes("zyx") == "ZYX"


def test_options_arrive_as_lists_and_are_kept_as_tuples():
    fields = Fields(images="i", masks="m", crop=[4, 4], carry=[], percentiles=[1, 99])
    assert (fields.crop, fields.carry, fields.percentiles) == ((4, 4), (), (1, 99))
