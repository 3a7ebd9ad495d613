"""Intervals over units: they cover the truth as often as they say, and obey what must hold."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attrscore.stats import (
    adjust,
    agreement,
    bootstrap,
    paired,
    sign_flip,
    summarise,
    threshold_curve,
    undefined,
)
from attrscore.stats.resampling import Clusters, Resampling

REPLICATIONS = 200


def nested(rng, plates, *, wells=3) -> pd.DataFrame:
    """Wells of 10 to 40 cells in plates; variances: plates 0.36, wells 0.36, cells 1."""
    rows = []
    for plate in range(plates):
        between = rng.normal(0, 0.6)
        for well in range(wells):
            level = between + rng.normal(0, 0.6)
            values = level + rng.normal(0, 1, rng.integers(10, 41))
            rows += [(plate, well, value) for value in values]
    return pd.DataFrame(rows, columns=["Metadata_Plate", "Metadata_Well", "x"])


@pytest.mark.parametrize(
    ("plates", "threshold", "truth"),
    [(8, None, 0.0), (16, None, 0.0), (8, 0.0, 0.5), (12, 1.0, 0.2229)],  # 1 - Phi(1 / 1.72**0.5)
)
def test_the_interval_covers_nested_data_where_that_over_cells_does_not(plates, threshold, truth):
    rng = np.random.default_rng(1)
    covered = {"plates": 0, "cells": 0}
    for _ in range(REPLICATIONS):
        table = nested(rng, plates)
        found = bootstrap(table, "x", threshold=threshold, resamples=399)
        assert found.level == "Metadata_Plate"
        covered["plates"] += found.low <= truth <= found.high
        value = table["x"] if threshold is None else table["x"] > threshold
        covered["cells"] += abs(value.mean() - truth) <= 1.96 * value.std() / len(value) ** 0.5
    shares = {name: count / REPLICATIONS for name, count in covered.items()}
    assert 0.90 <= shares["plates"] <= 0.97, shares
    assert shares["cells"] < 0.75, shares


def test_percentiles_of_few_units_fall_short_and_studentising_repairs_it():
    rng = np.random.default_rng(2)
    covered = {"studentised": 0, "percentile": 0}
    for _ in range(REPLICATIONS):
        table = nested(rng, 6)
        for interval in covered:
            found = bootstrap(table, "x", interval=interval, resamples=399)
            covered[interval] += found.low <= 0 <= found.high
    assert covered["percentile"] < 0.89 * REPLICATIONS
    assert covered["studentised"] > covered["percentile"]


def test_sign_flips_reject_a_true_null_no_more_often_than_they_say():
    rng = np.random.default_rng(4)
    p = []
    for _ in range(REPLICATIONS):
        table = nested(rng, 8)
        p.append(sign_flip(table["x"].to_numpy(), Clusters.of(table)))
    assert 0.02 <= (np.array(p) <= 0.05).mean() <= 0.08


tables = st.builds(
    lambda seed, plates, share: _table(seed, plates, share),
    st.integers(0, 2**16),
    st.integers(1, 9),
    st.floats(0, 1),
)


def _table(seed: int, plates: int, share: float) -> pd.DataFrame:
    """Scores with gaps, of any number of plates."""
    rng = np.random.default_rng(seed)
    cells = int(rng.integers(1, 40))
    score = np.where(rng.uniform(size=cells) < share, np.nan, rng.uniform(size=cells).round(2))
    return pd.DataFrame(
        {
            "id": [f"c{i}" for i in range(cells)],
            "model": "m",
            "method": "x",
            "layer": "l",
            "status": np.where(np.isnan(score), "no_positive_mass", "ok"),
            "grad_camo": score,
            "grad_camo.chance": 0.2,
            "grad_camo.highest": np.maximum(np.nan_to_num(score), 0.5),
            "grad_camo.above_chance": (score - 0.2) / 0.8,
            "Metadata_Plate": rng.integers(plates, size=cells),
            "Metadata_Well": rng.integers(2, size=cells),
        }
    )


@settings(max_examples=40)
@given(tables)
def test_ends_are_ordered_and_shares_stay_shares(table):
    for options in ({}, {"threshold": 0.5}, {"interval": "percentile"}):
        found = bootstrap(table, "grad_camo", resamples=99, **options)
        assert found.cells + found.undefined == len(table)
        if found.units > 1:
            assert found.low <= found.high
        if "threshold" in options and found.units > 1:
            assert 0 <= found.low <= found.value <= found.high <= 1
    bounds = undefined(table)
    if bounds["undefined"] < len(table):
        assert bounds["as_zero"] <= bounds["left_out"] <= bounds["as_one"]
    curve = threshold_curve(table, resamples=99)
    assert not (np.diff(curve["above"]) > 0).any()
    assert not (curve["above"] > curve["attainable"]).any()


@settings(max_examples=30)
@given(
    st.lists(st.integers(1, 30), min_size=2, max_size=24),
    st.randoms(use_true_random=False),
    st.sampled_from([{}, {"interval": "percentile"}]),
)
def test_another_event_lowers_no_end_of_a_share(sizes, random, options):
    """Whatever the units and whichever cells are next: counts rise, and both ends with them."""
    wells = np.repeat(np.arange(len(sizes)), sizes)
    units = Clusters(wells, "Metadata_Well")
    order = list(range(len(wells)))
    if random.random() < 0.8:
        random.shuffle(order)  # else well after well, which is as unlike as they can be
    rank = np.argsort(order)
    flags = rank[:, None] < np.arange(len(wells) + 1)
    share, low, high, _ = Resampling(resamples=99, **options).shares(flags.astype(float), units)
    assert np.allclose(share, np.arange(len(wells) + 1) / len(wells))
    for end in (low, high):
        assert (np.diff(end) >= -1e-12).all(), end
    assert ((low <= share + 1e-12) & (share <= high + 1e-12)).all()
    assert (low[0], high[-1]) == (0, 1)
    assert high[0] > 0
    assert low[-1] < 1


def test_a_share_of_few_events_is_no_wider_than_that_of_more_and_mirrors_that_of_most():
    """2 of 217 had 0 to 14 % where 6 of 217 had 1 to 6 %: two methods, and a jump between them."""
    table = pd.DataFrame({"Metadata_Well": np.arange(217) % 18, "x": 0.0})
    ends = {}
    for events in (0, 1, 2, 6, 211, 217):
        table["x"] = (np.arange(217) * 10 % 217 < events).astype(float)
        found = bootstrap(table, "x", threshold=0.5)
        (row,) = threshold_curve(table, score="x", thresholds=[0.5], resamples=9999).itertuples()
        assert (row.low, row.high) == (found.low, found.high)
        ends[events] = found.low, found.high
    assert ends[0] == pytest.approx((0, 0.035), abs=0.003)
    assert ends[2] == pytest.approx((0.001, 0.035), abs=0.003)
    assert ends[6] == pytest.approx((0.009, 0.06), abs=0.01)
    for few, most in ((0, 217), (6, 211)):
        assert ends[few] == pytest.approx([1 - end for end in reversed(ends[most])], abs=0.005)


@pytest.mark.parametrize(("share", "correlation"), [(0.01, 0.0), (0.02, 0.4), (0.1, 0.1)])
def test_rare_events_are_covered_whether_they_keep_together_or_not(share, correlation):
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(REPLICATIONS):
        spread = (1 - correlation) / correlation if correlation else np.inf
        odds = rng.beta(share * spread, (1 - share) * spread, 18) if correlation else share
        wells = np.repeat(np.arange(18), 12)
        events = rng.uniform(size=216) < np.broadcast_to(odds, 18)[wells]
        table = pd.DataFrame({"Metadata_Well": wells, "x": events.astype(float)})
        found = bootstrap(table, "x", threshold=0.5, resamples=199)
        covered += found.low <= share <= found.high
    assert covered >= 0.9 * REPLICATIONS


@settings(max_examples=25)
@given(tables, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(table, random):
    order = list(range(len(table)))
    random.shuffle(order)
    shuffled = table.iloc[order].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        summarise(table, resamples=99), summarise(shuffled, resamples=99), rtol=1e-9, atol=1e-9
    )


@settings(max_examples=25)
@given(tables, st.floats(-2, 2))
def test_a_shift_moves_a_pair_by_itself(table, shift):
    moved = table.assign(grad_camo=table["grad_camo"] + shift)
    found = paired(moved, table, "grad_camo", resamples=99)
    back = paired(table, moved, "grad_camo", resamples=99)
    if found["cells"]:
        assert found["difference"] == pytest.approx(shift, abs=1e-12)
        assert back["difference"] == pytest.approx(-shift, abs=1e-12)
    assert found["cells"] + found["unmatched"] == len(table)


@settings(max_examples=50)
@given(st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), max_size=20))
def test_adjusted_p_values_are_higher_and_in_the_same_order(p):
    q = adjust(np.array(p, dtype=float))
    assert np.array_equal(np.isnan(q), np.isnan(p))
    tested = sorted((a, b) for a, b in zip(p, q, strict=True) if not np.isnan(a))
    assert all(b >= a - 1e-12 for a, b in tested)
    assert all(a[1] <= b[1] for a, b in pairwise(tested))


@settings(max_examples=25)
@given(tables, tables)
def test_agreement_is_symmetric_and_within_bounds(one, other):
    cells = min(len(one), len(other))
    both = pd.concat([one[:cells], other[:cells].assign(method="y")])
    matrix = agreement(both).to_numpy()
    assert np.array_equal(matrix, matrix.T, equal_nan=True)
    known = matrix[np.isfinite(matrix)]
    assert (np.abs(known) <= 1 + 1e-12).all()
