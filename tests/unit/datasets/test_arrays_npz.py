"""Plain NPZ files, written by numpy.savez."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch

from attrscore.core.registry import DATASETS
from attrscore.datasets import HDF5, NPZ, Phantom, write_hdf5
from attrscore.errors import DataError


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "my cells µ.npz")


def arrays(dataset):
    batch = dataset.read(range(len(dataset.table)))
    return {
        "inputs": batch.inputs.numpy(),
        **{f"regions/{name}": region.numpy() for name, region in batch.regions.items()},
        "label": batch.label.numpy(),
        "ids": np.array(batch.ids),
        **{f"meta/{name}": np.array(values) for name, values in batch.meta.items()},
        "classes": np.array(dataset.classes),
        "spacing": np.array([0.5, 0.25]),
        "stains": np.array(["DNA", "ER", "AGP"]),
    }


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_same_names_give_the_same_cells_as_hdf5(path, save):
    phantom = Phantom(size=(16, 16), cells=7)
    given = arrays(phantom)
    save(path, **given)
    dataset = DATASETS.build("npz", path=path)
    write_hdf5(path.replace(".npz", ".h5"), [phantom.read(range(7))], classes=phantom.classes)
    other = HDF5(path=path.replace(".npz", ".h5"))
    assert dataset.table.equals(other.table[dataset.table.columns])
    assert set(dataset.table) == set(other.table)
    assert (dataset.classes, dataset.spec) == (other.classes, other.spec)
    batch, expected = dataset.read([5, 0, 5 - 1]), other.read([5, 0, 4])
    assert torch.equal(batch.inputs, expected.inputs)
    for name, region in expected.regions.items():
        assert torch.equal(batch.regions[name], region)
    assert (batch.spacing, batch.stains) == ((0.5, 0.25), ("DNA", "ER", "AGP"))
    assert dataset.fingerprint() == NPZ(path=path).fingerprint()
    save(path, **{**given, "inputs": given["inputs"] * 2})
    assert dataset.fingerprint() != NPZ(path=path).fingerprint()


def test_jitter_is_that_of_hdf5(path):
    phantom = Phantom(size=(16, 16), cells=3)
    np.savez(path, **arrays(phantom))
    moved = NPZ(path=path, jitter=3)
    assert {"Metadata_jitter_y", "Metadata_jitter_x"} <= set(moved.table)
    assert not torch.equal(moved.read([0]).inputs, NPZ(path=path).read([0]).inputs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": None}, "has no array 'inputs'"),
        ({"regions/cell": None}, "has no array 'regions/cell'. Known: inputs"),
        ({"regions/cell": np.ones((2, 4, 4), bool)}, r"has the shape \(2, 4, 4\); expected \(3, 4"),
        ({"inputs": np.ones((3, 4, 4))}, r"has the shape \(3, 4, 4\); expected \(N, C, Y, X\)"),
        ({"inputs": np.ones((0, 1, 4, 4))}, "holds no cell"),
        ({"inputs": np.full((3, 1, 4, 4), "x")}, "of the type <U1; expected numbers"),
        ({"inputs": np.ones((3, 1, 4, 4), complex)}, "of the type complex128"),
        ({"label": np.array([0.5, 1, 2])}, "'label' .* must be whole numbers"),
        ({"ids": np.array(["a", "a", "b"])}, "holds names twice"),
        ({"meta/x": np.array([{}, {}, {}], object)}, "cannot be read as a NPZ: Object arrays"),
    ],
)
def test_what_does_not_fit_is_named(path, change, message):
    given = {"inputs": np.ones((3, 1, 4, 4)), "regions/cell": np.ones((3, 4, 4), bool), **change}
    np.savez(path, **{name: value for name, value in given.items() if value is not None})
    with pytest.raises(DataError, match=message) as told:
        NPZ(path=path).table  # noqa: B018
    assert "my cells µ.npz" in str(told.value)


def test_damaged_and_missing_files(path, tmp_path):
    np.savez(path, inputs=np.ones((3, 1, 4, 4)))
    whole = (tmp_path / "my cells µ.npz").read_bytes()
    (tmp_path / "my cells µ.npz").write_bytes(whole[:200])
    with pytest.raises(DataError, match="'.*my cells µ.npz' cannot be read as a NPZ"):
        NPZ(path=path).table  # noqa: B018
    with pytest.raises(DataError, match="path='nowhere.npz' is not a file"):
        NPZ(path="nowhere.npz").table  # noqa: B018


@pytest.mark.slow
def test_what_unpacks_to_far_more_than_its_size_is_refused(path):
    """A file of 1 MB with 1.1 GB of zeros: before anything is unpacked."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, shape in (("inputs", (1, 1, 4, 4)), ("regions/cell", (1, 4, 4))):
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, np.ones(shape, np.float32))
        with archive.open("more.npy", "w") as member:
            for _ in range(70):
                member.write(bytes(2**24))
    with pytest.raises(DataError, match=r"unpacks to 11\d+, which would all be in memory"):
        NPZ(path=path).table  # noqa: B018


def test_arrays_that_are_not_asked_for_are_not_unpacked(path):
    given = {"inputs": np.ones((3, 1, 4, 4)), "regions/cell": np.ones((3, 4, 4), bool)}
    np.savez(path, **given, more=np.array([{}], object))
    assert NPZ(path=path).read([1]).ids == ("1",)
