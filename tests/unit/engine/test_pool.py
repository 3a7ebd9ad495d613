"""Which cells stand in the pool, and who gets it."""

from __future__ import annotations

import numpy as np
import pytest
from nets import net

from attrscore import evaluate
from attrscore.core.registry import SCORERS
from attrscore.datasets import Phantom
from attrscore.engine.pool import draw_pool, needs_pool
from attrscore.errors import ConfigError

SMALL = {"size": (12, 10), "channels": 2, "cells": 20}


def test_classes_take_turns_and_the_draw_is_fixed():
    dataset = Phantom(**SMALL)
    pool = draw_pool(dataset, 8, seed=3)
    assert np.bincount(pool.label).tolist() == [4, 4]
    assert len(set(pool.ids)) == 8
    assert draw_pool(dataset, 8, seed=3).ids == pool.ids
    assert draw_pool(dataset, 8, seed=4).ids != pool.ids
    assert draw_pool(dataset, 4, seed=3).ids == pool.ids[:4]
    assert sorted(draw_pool(dataset, 100).ids) == sorted(dataset.table["id"])
    with pytest.raises(ConfigError, match="pool=0 must be at least 1"):
        draw_pool(dataset, 0)


def test_a_rare_class_is_there_as_often_as_it_can():
    dataset = Phantom(**SMALL)
    dataset.table.loc[:, "label"] = 0
    dataset.table.loc[[5, 11], "label"] = 1
    assert {"phantom-0-000005", "phantom-0-000011"} <= set(draw_pool(dataset, 4).ids)


def test_the_pool_does_not_depend_on_the_batches():
    dataset = Phantom(**SMALL)
    options = {"scorers": ["swap", "mask_swap"], "pool": 8, "progress": "none"}
    one, two = (evaluate(net().float(), dataset, batch_size=n, **options) for n in (20, 3))
    for column in [c for c in one if c.startswith(("swap", "mask_swap"))]:
        np.testing.assert_allclose(one[column], two[column], atol=1e-5)
        assert one[column].notna().any(), column


def test_it_is_read_only_where_somebody_needs_it(monkeypatch):
    monkeypatch.setattr("attrscore.engine.evaluate.draw_pool", lambda *_: pytest.fail("was drawn"))
    evaluate(net().float(), Phantom(**SMALL), progress="none")
    assert [needs_pool(SCORERS.build(name)) for name in ("grad_camo", "swap", "deletion")] == [
        False,
        True,
        False,
    ]
    assert needs_pool(SCORERS.build("deletion", fill="other_cell"))
