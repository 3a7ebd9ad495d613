"""Crops that lie beside kept maps."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest
from results import BASE, fill, job, table

from attrscore import store
from attrscore.errors import StoreError
from attrscore.store import (
    SIDES,
    Exchanged,
    Writer,
    chosen_cells,
    overlaid,
    read_crops,
    read_part,
    stored_crops,
)

TRIPLES = [("grad_cam", "features.3", "grad_camo")]


def crops_of(space, ids=("cell0", "cell1")):
    rng = np.random.default_rng(0)
    image = rng.normal(5, 2, (len(ids), 3, *space)).astype(np.float32)
    cell = np.zeros((len(ids), *space), bool)
    cell[:, 2:4] = True
    known = {"stains": ("DNA", "ER", "AGP"), "spacing": (1.0,) * len(space), "classes": ("a", "b")}
    return image, stored_crops(ids, image, {"cell": cell, "x/y": ~cell}, **known)


@pytest.mark.slow
@pytest.mark.parametrize("space", [(8, 9), (5, 8, 9)])
def test_crops_come_back_as_they_were_written(tmp_path, space):
    image, crops = crops_of(space)
    of = job(base={**BASE, "keep": "native"})
    writer = Writer(tmp_path, of, labels={})
    path = writer.write(0, 2, table(of, 0, 2), crops=crops)
    writer.write(2, 4, table(of, 2, 4))
    found = read_crops(path)
    assert found.ids == ["cell0", "cell1"]
    assert found.stains == ("DNA", "ER", "AGP")
    assert found.spacing == (1.0,) * len(space)
    assert found.classes == ("a", "b")
    assert set(found.regions) == {"cell", "x/y"}
    assert np.array_equal(found.regions["cell"], crops.regions["cell"])
    each = (slice(None), slice(None), *[None] * len(space))
    values = found.low[each] + found.image / 255 * (found.high - found.low)[each]
    inside = (image >= found.low[each]) & (image <= found.high[each])
    assert np.abs(values - image)[inside].max() < (found.high - found.low).max() / 500
    assert 0.95 < inside.mean() < 1
    assert read_crops(path.with_name("000000002-000000004.h5")) is None
    assert {problem.kind for problem in store.verify(tmp_path).problems} == {"missing"}  # 4-5


def test_pixels_that_are_not_finite_and_flat_channels_are_dark():
    image = np.ones((1, 3, 4, 4), np.float32)
    image[0, 0, 0, 0] = np.nan
    image[0, 1] = np.nan
    image[0, 2] = np.arange(16).reshape(4, 4)
    crops = stored_crops(["a"], image, {})
    assert crops.image[0, :2].max() == 0
    assert crops.image[0, 2].max() == 255
    assert np.isfinite(crops.low).all()


def test_the_choice_of_cells_knows_ids_alone():
    ids = [f"cell{i}" for i in range(500)]
    chosen = chosen_cells(ids, 3, (64, 64))
    assert len(chosen) == 60
    assert chosen == sorted(set(chosen))
    again = chosen_cells(ids[::-1], 3, (64, 64))
    assert {ids[i] for i in chosen} == {ids[::-1][i] for i in again}
    assert len(chosen_cells(ids, 5, (64, 128, 128))) == 6
    assert chosen_cells(["one"], 3, (64, 64)) == [0]


def test_crops_outlive_rows_that_are_computed_again(tmp_path):
    _, crops = crops_of((8, 9))
    of = job(rows=2)
    path = Writer(tmp_path, of, labels={}).write(0, 2, table(of, 0, 2), crops=crops)
    old = read_part(path)
    new = store.Part(table(of, 0, 1, offset=1.0), {}, [], None)
    made = overlaid(old, new, TRIPLES, ["grad_camo"], only="all")
    assert made.crops is old.crops
    fill(tmp_path / "bare", of)
    bare = read_part(next((tmp_path / "bare").glob("jobs/*/*.h5")))
    late = store.Part(table(of, 0, 1), {}, [], None, crops=crops)
    made = overlaid(bare, late, TRIPLES, ["grad_camo"], only="all")
    assert made.crops is crops


@pytest.mark.parametrize("space", [(8, 9), (5, 8, 9)])
def test_cells_with_a_part_exchanged_are_kept_beside_the_crops(tmp_path, space):
    _, crops = crops_of(space)
    images = dict.fromkeys(SIDES[1:], crops.image[:1] // 2)
    classes = {side: np.array([n]) for n, side in enumerate(SIDES)}
    shares = {side: np.array([n / 4]) for n, side in enumerate(SIDES)}
    whole = replace(crops, exchanged=Exchanged(["cell0"], images, classes, shares))
    of = job(base={**BASE, "keep": "native"})
    path = Writer(tmp_path, of, labels={}).write(0, 2, table(of, 0, 2), crops=whole)
    found = read_crops(path).exchanged
    assert found.ids == ["cell0"]
    for n, side in enumerate(SIDES):
        assert found.predicted[side].tolist() == [n]
        assert found.probability[side].tolist() == [n / 4]
    assert np.array_equal(found.images["cell"], images["cell"])
    assert "clean" not in found.images
    with h5py.File(path, "a") as file:
        del file["crops/exchanged/cell"]
    with pytest.raises(StoreError, match="lacks a side"):
        read_crops(path)
