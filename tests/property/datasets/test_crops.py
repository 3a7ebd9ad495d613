"""Crops on another grid: the same whether the field or the crop is resampled."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from attrscore.datasets.cells.crops import resampled
from attrscore.datasets.cells.geometry import on_grid

RATIO = st.sampled_from([0.37, 0.5, 1.0, 1.3, 2.0, 3.1])


def reader(field):
    return lambda window: field[(..., *window)]


@given(
    ratio=st.tuples(RATIO, RATIO),
    start=st.tuples(st.integers(-20, 40), st.integers(-20, 40)),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 9),
)
def test_a_crop_of_the_resampled_field_is_the_resampled_crop(ratio, start, size, seed):
    field = np.random.default_rng(seed).random((2, 13, 17)).astype(np.float32)
    labels = (field[0] * 9).astype(np.int32)
    shape = field.shape[1:]
    around = np.array([-40, -40])
    everything = (150, 150)
    first = np.array(start) - around
    window = tuple(slice(a, a + n) for a, n in zip(first, size, strict=True))
    whole = resampled(reader(field), around, everything, ratio, shape)
    crop = resampled(reader(field), np.array(start), size, ratio, shape)
    assert crop == pytest.approx(whole[(slice(None), *window)], abs=1e-6)
    whole = resampled(reader(labels), around, everything, ratio, shape, nearest=-1)
    crop = resampled(reader(labels), np.array(start), size, ratio, shape, nearest=-1)
    assert np.array_equal(crop, whole[window])


@given(
    field=arrays.arrays(np.float32, (11, 7), elements=st.floats(0, 1, width=32)),
    ratio=st.tuples(RATIO, RATIO),
)
def test_pixels_stay_within_their_neighbours_and_a_flat_field_stays_flat(field, ratio):
    size = tuple(max(1, int(n / each)) for n, each in zip(field.shape, ratio, strict=True))
    start = np.array([0, 0])
    found = resampled(reader(field), start, size, ratio, field.shape)
    assert found.min() >= field.min() - 1e-6
    assert found.max() <= field.max() + 1e-6
    flat = resampled(reader(np.ones_like(field)), start, size, ratio, field.shape)
    assert flat == pytest.approx(np.ones(size))


@given(ratio=RATIO)
def test_a_slope_stays_a_slope_and_places_agree_with_pixels(ratio):
    field = np.arange(60, dtype=np.float32)[None]
    size = int(40 / ratio)
    found = resampled(
        reader(field), np.array([0, int(8 / ratio)]), (1, size), (1.0, ratio), field.shape
    )
    # the middle of each crop pixel lies where on_grid says, so there the slope has that value
    places = on_grid(found[0][:, None].astype(float), np.array([ratio])).ravel()
    # a mean under a triangle of so many samples is off by a little
    off = 1e-3 if ratio <= 1 else 0.05
    assert places == pytest.approx(int(8 / ratio) + np.arange(size), abs=off)


def test_pixels_as_large_as_the_fields_are_those_of_the_field():
    field = np.random.default_rng(0).random((1, 8, 9)).astype(np.float32)
    crop = resampled(reader(field), np.array([-1, 2]), (4, 4), (1.0, 1.0), (8, 9))
    assert np.array_equal(crop[:, 1:], field[:, :3, 2:6])
    assert not crop[:, 0].any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32])
@pytest.mark.parametrize("ratio", [(1.0, 1.0), (1.0, 0.5)])
def test_numbers_of_any_type_may_be_negative_beyond_the_field(dtype, ratio):
    field = np.full((8, 9), np.iinfo(dtype).max, dtype)
    found = resampled(reader(field), np.array([-1, 2]), (4, 4), ratio, field.shape, nearest=-1)
    assert (found[0] == -1).all()
    assert (found[1:] == np.iinfo(dtype).max).all()
