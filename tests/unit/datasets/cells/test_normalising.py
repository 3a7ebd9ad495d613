"""Levels of fields: by the rules' own definitions, in pieces as at once, of controls together."""

from __future__ import annotations

import numpy as np
import pytest

from attrscore.datasets.cells.normalising import levels_of, pooled
from attrscore.errors import DataError


def levels(image, rule, percentiles=(0.1, 99.9), pieces=3):
    channels = (np.array_split(channel, pieces) for channel in image)
    return levels_of(channels, rule, percentiles=percentiles, name="a")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("percentiles", [(0.1, 99.9), (0, 100), (10, 37)])
def test_levels_are_those_of_numpy_whatever_the_type(dtype, percentiles):
    image = np.random.default_rng(0).gamma(2, 30, (2, 17, 23)).astype(dtype)
    if dtype in (np.int16, np.float32):
        image -= 50
    wide = image.astype(float).reshape(2, -1)
    found = levels(image, "percentile", percentiles)
    low, high = np.percentile(wide, percentiles, axis=1)
    assert found.low == pytest.approx(low, abs=1e-4)
    assert found.low + found.spread == pytest.approx(high, abs=1e-4)
    scaled = ((wide - low[:, None]) / (high - low)[:, None]).clip(0, 1).reshape(image.shape)
    assert found.apply(image) == pytest.approx(scaled, abs=1e-5)
    assert levels(image, "max").apply(image) == pytest.approx(
        (wide / wide.max(axis=1, keepdims=True)).reshape(image.shape), abs=1e-6
    )
    standard = levels(image, "standard").apply(image)
    assert standard.mean(axis=(1, 2)) == pytest.approx([0, 0], abs=1e-5)
    assert standard.std(axis=(1, 2)) == pytest.approx([1, 1], abs=1e-5)
    assert np.array_equal(levels(image, "none").apply(image), image.astype(np.float32))


def test_a_window_is_normalised_like_its_field():
    image = np.random.default_rng(0).integers(0, 4000, (2, 20, 20)).astype(np.uint16)
    found = levels(image, "percentile")
    assert np.array_equal(found.apply(image)[:, 3:9, 5:7], found.apply(image[:, 3:9, 5:7]))


@pytest.mark.parametrize("rule", ["percentile", "max", "standard", "none"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64])
def test_a_window_has_the_bits_that_the_formula_says(rule, dtype):
    image = np.random.default_rng(0).gamma(2, 30, (3, 20, 24)).astype(dtype)
    found = levels(image, rule)
    window = image[:, 3:9, 5:17]
    alone = found.apply(window)
    assert alone.flags.c_contiguous
    assert not np.shares_memory(alone, image)
    if rule != "none":  # as the formula says, step by step, in float32 where that loses nothing
        work = np.float64 if dtype in (np.int32, np.float64) else np.float32
        low, spread = (each[:, None, None] for each in (found.low, found.spread))
        steps = np.rint(low)
        moved = (window.astype(work) - steps.astype(work)) * (1 / spread).astype(work)
        moved += ((steps - low) * (1 / spread)).astype(work)
        expected = (moved.clip(0, 1) if rule == "percentile" else moved).astype(np.float32)
        assert np.array_equal(alone, expected)


@pytest.mark.parametrize("rule", ["percentile", "max", "standard"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_channel_without_contrast_becomes_zeros(rule, dtype):
    image = np.full((2, 4, 4), 0 if rule == "max" else 7, dtype)
    assert not levels(image, rule).apply(image).any()


def test_pixels_that_are_not_finite_are_counted_over_channels():
    image = np.ones((2, 9, 4), np.float32)
    image[0, 8, 0], image[1, 0, 0] = np.nan, np.inf
    with pytest.raises(DataError, match="'a' holds 2 pixels that are NaN or infinite"):
        levels(image, "none")


def test_pooled_levels_are_those_of_all_pixels_together():
    draw = np.random.default_rng(0)
    fields = [draw.integers(0, 4000, (2, 9, n)).astype(np.uint16) for n in (9, 20)]
    together = np.concatenate(fields, axis=2)
    standard = pooled([levels(field, "standard") for field in fields])
    assert standard.low == pytest.approx(together.mean(axis=(1, 2)))
    assert standard.spread == pytest.approx(together.std(axis=(1, 2)))
    assert pooled([levels(f, "max") for f in fields]).spread.tolist() == (
        together.max(axis=(1, 2)).tolist()
    )
    own = [np.percentile(field, (10, 90), axis=(1, 2)) for field in fields]
    both = pooled([levels(field, "percentile", (10, 90)) for field in fields])
    assert np.stack([both.low, both.low + both.spread]) == pytest.approx(np.mean(own, axis=0))
