from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

from attrscore.core.contracts import Batch
from attrscore.core.registry import DATASETS
from attrscore.datasets import HDF5, Phantom, write_hdf5
from attrscore.errors import ConfigError, DataError


def batches(phantom, size=4):
    n = len(phantom.table)
    return [phantom.read(range(start, min(start + size, n))) for start in range(0, n, size)]


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "my cells µ.h5")


@pytest.fixture
def small(path):
    """A hand-made file of 3 cells, as another program would write it."""
    with h5py.File(path, "w") as file:
        file["inputs"] = np.arange(3 * 1 * 4 * 5, dtype=np.uint16).reshape(3, 1, 4, 5)
        file["regions/cell"] = np.ones((3, 4, 5), np.uint8)
    return path


def change(path, name, value):
    with h5py.File(path, "a") as file:
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value


@pytest.mark.parametrize("size", [(16, 16), (8, 12, 12)])
def test_what_is_written_is_read(path, size):
    phantom = Phantom(size=size, cells=10)
    write_hdf5(path, batches(phantom), classes=phantom.classes)
    dataset = DATASETS.build("hdf5", path=path)
    assert dataset.table.equals(phantom.table[dataset.table.columns])
    assert set(dataset.table) == set(phantom.table)
    assert dataset.classes == phantom.classes
    assert dataset.spec == phantom.spec
    assert dataset.skipped == {}
    rows = [7, 2, 2 + 1, 0, 9]
    read, made = dataset.read(rows), phantom.read(rows)
    assert torch.equal(read.inputs, made.inputs)
    assert set(read.regions) == set(made.regions)
    for name, region in read.regions.items():
        assert region.dtype == torch.bool
        assert torch.equal(region, made.regions[name])
    assert read.ids == made.ids
    assert read.label.tolist() == made.label.tolist()
    assert read.meta["Metadata_Well"] == made.meta["Metadata_Well"]
    assert read.spacing is None


def test_a_file_needs_inputs_and_the_cell_only(small):
    dataset = HDF5(path=small)
    assert dataset.table.to_dict("list") == {"id": ["0", "1", "2"], "label": [-1, -1, -1]}
    assert dataset.classes == ()
    batch = dataset.read([2, 0])
    assert batch.inputs.dtype == torch.float32
    assert batch.inputs[:, 0, 0, 0].tolist() == [40, 0]
    assert batch.regions["cell"].dtype == torch.bool
    assert dataset.read([]).inputs.shape == (0, 1, 4, 5)


def test_classes_are_counted_where_they_are_not_named(small):
    change(small, "label", np.array([0, 2, -1]))
    assert HDF5(path=small).classes == ("0", "1", "2")


def test_soft_masks_spacing_doubles_and_text_of_fixed_length(small):
    change(small, "regions/cell", np.full((3, 4, 5), 0.25))
    change(small, "inputs", np.zeros((3, 1, 4, 5)))
    change(small, "ids", np.array([b"a", b"b", b"c"]))
    change(small, "meta/Metadata_Dose", np.array([1.5, 2, 3]))
    with h5py.File(small, "a") as file:
        file.attrs["spacing"] = (0.5, 0.25)
    batch = HDF5(path=small).read([1])
    assert batch.inputs.dtype == torch.float64
    assert float(batch.regions["cell"].max()) == 0.25
    assert batch.spacing == (0.5, 0.25)
    assert batch.ids == ("b",)
    assert batch.meta == {"Metadata_Dose": [2.0]}


def test_fingerprint_follows_content_not_compression_or_path(path, tmp_path):
    phantom = Phantom(size=(16, 16), cells=6)
    write_hdf5(path, batches(phantom), classes=phantom.classes)
    other = str(tmp_path / "other.h5")
    write_hdf5(other, batches(phantom, size=6), classes=phantom.classes)
    same = HDF5(path=path).fingerprint()
    assert HDF5(path=other).fingerprint() == same
    with h5py.File(other, "a") as file:
        file["regions/nucleus"][5, 3, 3] ^= True
    assert HDF5(path=other).fingerprint() != same


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("inputs", None, r"has no array 'inputs'\. Known: regions/cell"),
        ("regions/cell", None, "has no array 'regions/cell'"),
        ("inputs", np.zeros((3, 4, 5)), r"'inputs' .* expected \(N, C, Y, X\)"),
        ("inputs", np.zeros((0, 1, 4, 5)), "holds no cell"),
        ("inputs", np.zeros((3, 1, 4, 5), np.complex64), "of the type complex64; expected numb"),
        ("regions/nucleus", np.zeros((3, 4, 4)), r"'regions/nucleus' .* expected \(3, 4, 5\)"),
        ("label", np.zeros(2, int), r"'label' .* has the shape \(2,\); expected \(3,\)"),
        ("label", np.zeros(3), "'label' .* must be whole numbers"),
        ("label", np.array([0, 1, -2]), "'label' .* must be whole numbers, -1 where unknown"),
        ("ids", ["a", "b", "a"], "'ids' .* holds names twice"),
        ("meta/x", np.zeros(4), r"'meta/x' .* has the shape \(4,\)"),
    ],
)
def test_what_does_not_fit_is_named(small, name, value, message):
    change(small, name, value)
    with pytest.raises(DataError, match=message):
        HDF5(path=small).table  # noqa: B018


def test_a_misspelt_dataset_is_suggested(small):
    with h5py.File(small, "a") as file:
        file.move("inputs", "input")
    with pytest.raises(DataError, match="Did you mean 'input'"):
        HDF5(path=small).table  # noqa: B018


def test_more_labels_than_named_classes(small):
    change(small, "label", np.array([0, 1, 2]))
    with h5py.File(small, "a") as file:
        file.attrs["classes"] = ["no", "yes"]
    with pytest.raises(DataError, match="goes up to 2 but only 2 classes are named: no, yes"):
        HDF5(path=small).table  # noqa: B018


@pytest.mark.parametrize("name", ["inputs", "regions", "meta", "regions/other"])
@pytest.mark.parametrize("link", [h5py.ExternalLink("other.h5", "/x"), h5py.SoftLink("/ids")])
def test_links_are_refused(small, name, link):
    change(small, name, link)
    with pytest.raises(DataError, match=f"'/{name}' .* is a link, not data of this file"):
        HDF5(path=small).table  # noqa: B018


def test_data_kept_in_other_files_and_objects_are_refused(small, tmp_path):
    with h5py.File(small, "a") as file:
        file.create_dataset(
            "regions/raw", (3, 4, 5), "u1", external=[(str(tmp_path / "x.raw"), 0, 60)]
        )
    with pytest.raises(DataError, match="'regions/raw' .* keeps its data in other files"):
        HDF5(path=small).table  # noqa: B018
    change(small, "regions/raw", None)
    with h5py.File(small, "a") as file:
        file.create_dataset("meta/lists", (3,), h5py.vlen_dtype(np.int32))
    with pytest.raises(DataError, match="'meta/lists' .* of the type object; expected numbers or"):
        HDF5(path=small).table  # noqa: B018


def test_no_file_no_hdf5_no_path_no_row(small, path, tmp_path):
    with pytest.raises(DataError, match="Row 3 does not exist; rows are 0 to 2"):
        HDF5(path=small).read([3])
    with pytest.raises(DataError, match="is not a file; give the HDF5 file"):
        HDF5(path=str(tmp_path / "nowhere.h5")).table  # noqa: B018
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(DataError, match="cannot be read as HDF5"):
        HDF5(path=str(tmp_path / "text.h5")).table  # noqa: B018
    with pytest.raises(ConfigError, match="dataset 'hdf5' needs the option path"):
        DATASETS.build("hdf5")


# writing


def batch(n=2, size=(4, 5), start=0, **options):
    fields = {
        "inputs": torch.zeros(n, 1, *size),
        "regions": {"cell": torch.ones(n, *size, dtype=torch.bool)},
        "ids": [str(start + i) for i in range(n)],
        **options,
    }
    return Batch(**fields)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "No batch was given"),
        ([batch(), batch(size=(4, 4), start=2)], "need the same shape; 'inputs' has"),
        (
            [
                batch(),
                batch(
                    start=2,
                    regions={
                        n: torch.zeros(2, 4, 5, dtype=torch.bool) for n in ("cell", "nucleus")
                    },
                ),
            ],
            "need the same regions",
        ),
        ([batch(), batch(start=2, meta={"x": [1, 2]})], "need the same meta columns"),
        (
            [batch(), batch(start=2, spacing=(1.0, 1.0))],
            "need the same meta columns, spacing and stains",
        ),
        ([batch(), batch()], "Some ids stand in more than one batch"),
    ],
)
def test_batches_that_do_not_fit_leave_no_file(path, tmp_path, given, message):
    with pytest.raises(DataError, match=message):
        write_hdf5(path, given)
    assert list(tmp_path.iterdir()) == []


def test_writing_keeps_spacing_and_mixed_columns(path):
    write_hdf5(path, [batch(spacing=(0.5, 1.0), meta={"Metadata_Well": ["A01", None]})])
    read = HDF5(path=path).read([0, 1])
    assert read.spacing == (0.5, 1.0)
    assert read.meta == {"Metadata_Well": ["A01", "None"]}


def test_stains_are_kept(tmp_path):
    named = Phantom(size=(16, 16), cells=3, channels=2).read(range(3))
    assert named.stains == ("DNA", "ER")
    path = tmp_path / "named.h5"
    write_hdf5(path, [named])
    data = HDF5(path=str(path))
    assert data.read([1]).stains == ("DNA", "ER")
    with h5py.File(path, "a") as file:
        file.attrs["stains"] = np.array(["DNA", "Mito"], dtype=h5py.string_dtype())
    assert HDF5(path=str(path)).fingerprint() != data.fingerprint()
    with pytest.raises(DataError, match="stains must be 2 different names"):
        replace(named, stains=("DNA", "DNA"))


@pytest.mark.parametrize("name", ["inputs", "ids", "label", "meta/x"])
def test_what_claims_more_than_the_file_can_hold_is_refused(tmp_path, name):
    """A thousand million rows of which nothing was written."""
    rows = 1_000_000_000
    with h5py.File(tmp_path / "a.h5", "w") as file:
        few = {"inputs": (4, 1, 8, 8), "regions/cell": (4, 8, 8), "ids": (4,), "label": (4,)}
        for each, shape in {**few, "meta/x": (4,)}.items():
            grown = (rows, *shape[1:]) if each == name else shape
            dtype = {"ids": "S9", "label": "i8"}.get(each, "f4")
            file.create_dataset(each, grown, dtype, chunks=(4, *shape[1:]))
    with pytest.raises(DataError, match=f"'{name}' of .* claims .* more than the file can hold"):
        HDF5(path=str(tmp_path / "a.h5")).table  # noqa: B018


def test_a_region_that_was_never_written_is_empty(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["inputs"] = np.ones((3, 1, 512, 512), np.float32)
        file["regions/cell"] = np.ones((3, 512, 512), bool)
        file.create_dataset("regions/neighbours", (3, 512, 512), bool, chunks=(1, 512, 512))
    batch = HDF5(path=str(tmp_path / "a.h5")).read([2])
    assert not batch.regions["neighbours"].any()
