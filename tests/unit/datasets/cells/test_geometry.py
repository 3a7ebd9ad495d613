"""Crops moved off their cells: by how much, the same for a cell whatever the order."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch

from attrscore.core.contracts import Batch
from attrscore.datasets import HDF5, Fields, Phantom, write_hdf5
from attrscore.datasets.cells.geometry import check_jitter, displacements
from attrscore.errors import ConfigError

JITTER = ["Metadata_jitter_y", "Metadata_jitter_x"]


def test_displacements_follow_from_the_id_and_fill_the_range():
    ids = [f"cell {i}" for i in range(2000)]
    moved = displacements(ids, (0, 2, 3), seed=0)
    assert moved.min(0).tolist() == [0, -2, -3]
    assert moved.max(0).tolist() == [0, 2, 3]
    assert np.abs(moved.mean(0)).max() < 0.2
    np.testing.assert_array_equal(displacements(ids[::-1], (0, 2, 3), seed=0), moved[::-1])
    assert (displacements(ids, (0, 2, 3), seed=1) != moved).any()
    assert not displacements(ids, (0, 0), seed=0).any()


@pytest.mark.parametrize(
    ("jitter", "unit", "spacing", "sentence"),
    [
        (-1, "pixel", None, "number of at least 0"),
        ([1, 2, 3], "pixel", None, "2 of them"),
        ([1, "a"], "pixel", None, "2 of them"),
        (8, "pixel", None, "off the middle of its cell"),
        (2, "micrometre", None, "needs the spacing"),
        (2, "metre", None, "jitter_unit='metre' is not a choice"),
    ],
)
def test_wrong_jitters(jitter, unit, spacing, sentence):
    with pytest.raises(ConfigError, match=sentence):
        check_jitter(jitter, unit, size=(16, 16), spacing=spacing)
    if not (unit == "micrometre" and spacing is None):
        with pytest.raises(ConfigError, match=sentence):
            Fields(images="a", masks="b", crop=(16, 16), jitter=jitter, jitter_unit=unit)


@pytest.fixture
def fields(tmp_path):
    """A field whose pixels say where they are, with four cells of one pixel."""
    labels = np.zeros((40, 50), np.uint16)
    for number, place in enumerate([(10, 10), (10, 35), (30, 12), (1, 48)], start=1):
        labels[place] = number
    pixels = np.arange(1, 2001, dtype=np.float32).reshape(40, 50)
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    tifffile.imwrite(tmp_path / "a_mask.tif", labels)
    paths = {"images": str(tmp_path / "a.tif"), "masks": str(tmp_path / "a_mask.tif")}

    def make(**options) -> Fields:
        return Fields(**paths, axes="YX", crop=(8, 8), normalise="none", **options)

    return make


def test_fields_are_cropped_beside_the_cell(fields):
    plain, moved = fields(), fields(jitter=[1, 3])
    assert not set(JITTER) & set(plain.table)
    by = moved.table[JITTER].to_numpy()
    assert (np.abs(by) <= [1, 3]).all()
    assert by.any()
    one, two = plain.read(range(4)), moved.read(range(4))
    for row in range(4):
        (was,), (now,) = (b.regions["cell"][row].nonzero().tolist() for b in (one, two))
        assert (np.array(was) - now == by[row]).all()
        # The pixel of the cell is the same, wherever it lies, and so is all that both crops show.
        assert one.inputs[row, 0][tuple(was)] == two.inputs[row, 0][tuple(now)]
    assert (two.inputs[3] == 0).any()  # over the border, as before
    back = moved.read([2, 0])
    assert torch.equal(back.inputs, two.inputs[[2, 0]])
    assert moved.fingerprint() != plain.fingerprint()
    assert fields(jitter=[1, 3], jitter_seed=1).fingerprint() != moved.fingerprint()
    assert fields(jitter=0).fingerprint() == plain.fingerprint()


def test_micrometres_become_pixels(fields):
    moved = fields(jitter=1.0, jitter_unit="micrometre", spacing=(1.0, 0.5))
    assert moved.table[JITTER].abs().max().le([1, 2]).all()
    assert moved.geometry((1.0, 0.5)).most == (1, 2)


def test_crops_of_a_file_are_moved_and_zeros_move_in(tmp_path):
    phantom = Phantom(size=(8, 12, 10), cells=3, channels=2)
    write_hdf5(tmp_path / "cells.h5", [phantom.read(range(3))], classes=phantom.classes)
    plain = HDF5(path=str(tmp_path / "cells.h5"))
    moved = HDF5(path=str(tmp_path / "cells.h5"), jitter=[0, 2, 3])
    by = moved.table[["Metadata_jitter_z", *JITTER]].to_numpy()
    assert (np.abs(by) <= [0, 2, 3]).all()
    one, two = plain.read([2, 1]), moved.read([2, 1])
    for row, cell in enumerate([2, 1]):
        values = [(one.inputs[row], two.inputs[row])]
        values += [(one.regions[name][row], two.regions[name][row]) for name in one.regions]
        for was, now in values:
            expected = np.zeros(was.shape, was.numpy().dtype)
            for place in np.ndindex(*one.space):
                source = tuple(np.array(place) + by[cell])
                if all(0 <= s < extent for s, extent in zip(source, one.space, strict=True)):
                    expected[(..., *place)] = was.numpy()[(..., *source)]
            np.testing.assert_array_equal(now.numpy(), expected)
    assert moved.fingerprint() != plain.fingerprint()
    with pytest.raises(ConfigError, match="needs the spacing"):
        HDF5(path=str(tmp_path / "cells.h5"), jitter=1, jitter_unit="micrometre").read([0])


def test_a_file_with_a_spacing_takes_micrometres(tmp_path):
    inputs = torch.rand(2, 1, 8, 8)
    data = Batch(inputs, {"cell": inputs[:, 0] > 0.5}, spacing=(0.5, 1.0))
    write_hdf5(tmp_path / "cells.h5", [data])
    options = {"jitter": 1, "jitter_unit": "micrometre"}
    assert HDF5(path=str(tmp_path / "cells.h5"), **options)._most == (2, 1)


def test_the_offset_of_phantoms_moves_the_same_cells():
    still, moved = (Phantom(cells=6, offset=offset) for offset in (0.0, 0.2))
    same = [c for c in still.table if c != "Metadata_area_fraction"]
    assert still.table[same].equals(moved.table[same])
    areas = [each.read(range(6)).regions["cell"].flatten(1).sum(1) for each in (still, moved)]
    np.testing.assert_allclose(*areas, rtol=0.03)
