"""Kept maps come back."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from results import BASE, LABELS, fill, job, table

from attrscore.errors import StoreError
from attrscore.store import (
    Writer,
    maps,
    read_maps,
)


@pytest.mark.parametrize("magnitude", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("space", [(6, 5), (3, 6, 5)])
def test_maps_come_back_signed_at_any_magnitude(magnitude, space):
    given = np.random.default_rng(0).normal(size=(4, 2, *space)) * magnitude
    given[1] = 0
    given[2] *= np.geomspace(1e-6, 1, given[2].size).reshape(given[2].shape)
    stored, scale = maps.encode(given)
    assert (stored.dtype, scale.dtype, scale[1]) == (np.float16, np.float32, 1)
    np.testing.assert_allclose(maps.decode(stored, scale), given, rtol=1e-3)


def test_nonfinite_maps_stay_so_and_leave_the_rest_alone():
    given = np.array([[[np.nan, 1e-6, np.inf]], [[-np.inf, 0, 2]]])
    np.testing.assert_allclose(maps.decode(*maps.encode(given)), given, rtol=1e-3)


def test_kept_maps_are_found_by_cell(tmp_path):
    of = job(base={**BASE, "keep": "native"})
    kept = np.random.default_rng(0).normal(size=(5, 3, 4, 4)).astype(np.float32)
    writer = Writer(tmp_path, of, labels=LABELS)
    for start, stop in of.ranges[:2]:
        part = {("grad_cam", "features.3"): kept[start:stop]}
        path = writer.write(start, stop, table(of, start, stop), part)
    last = {("grad_cam", "features.3"): kept[4:4]}
    writer.write(4, 5, table(of, 4, 5), last, ids=[])
    ids, got = read_maps(tmp_path, "grad_cam", "features.3")
    assert ids == ["cell0", "cell1", "cell2", "cell3"]
    np.testing.assert_allclose(got, kept[:4], rtol=1e-3, atol=1e-6)
    ids, some = read_maps(tmp_path, "grad_cam", "features.3", ids=["cell3", "cell0"], model="tiny")
    assert ids == ["cell3", "cell0"]
    assert (some == got[[3, 0]]).all()
    with h5py.File(path) as file:
        group = file["maps/grad_cam/features.3"]
        assert [d.label for d in group["map"].dims] == ["cell", "channel", "y", "x"]
        assert [d.keys() for d in group["map"].dims] == [["cell"], ["channel"], ["y"], ["x"]]
    with pytest.raises(StoreError, match="is kept for cell4"):
        read_maps(tmp_path, "grad_cam", "features.3", ids=["cell0", "cell4"])


def test_maps_that_are_not_there_or_not_one_are_refused(tmp_path):
    fill(tmp_path, job())
    with pytest.raises(StoreError, match="no grad_cam at features.4. Did you mean 'grad_cam at f"):
        read_maps(tmp_path, "grad_cam", "features.4")
    with pytest.raises(StoreError, match="keeps no maps .* compute them with keep=native"):
        read_maps(tmp_path, "grad_cam", "features.3")
    for seed, label in ((0, "tiny"), (1, "tiny"), (0, "other")):
        base = {**BASE, "keep": "native", "seed": seed}
        of = job(base=base if label == "tiny" else {**base, "model": {"name": "other"}})
        writer = Writer(tmp_path, of, labels={**LABELS, "model": label})
        kept = {("grad_cam", "features.3"): np.ones((2, 1, 2, 2))}
        writer.write(0, 2, table(of, 0, 2), kept)
    with pytest.raises(StoreError, match="of other, tiny; choose one with model="):
        read_maps(tmp_path, "grad_cam", "features.3")
    with pytest.raises(StoreError, match="differ in seed; read the folder of one job"):
        read_maps(tmp_path, "grad_cam", "features.3", model="tiny")
    assert len(read_maps(tmp_path, "grad_cam", "features.3", model="other")[0]) == 2
