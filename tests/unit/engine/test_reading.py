"""Processes that read ahead: the same batches, order, losses and numbers as without them.

And which cells stand in the pool, and who gets it.
"""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch
from nets import net

from attrscore import evaluate
from attrscore.core.registry import SCORERS
from attrscore.datasets import Fields, Phantom
from attrscore.datasets.shards import holds
from attrscore.engine.reading import Reader, draw_pool, needs_pool, readable
from attrscore.errors import ConfigError

SMALL = {"size": (12, 10), "channels": 2, "cells": 20}


@pytest.fixture
def fields(tmp_path):
    for number in range(6):
        labels = np.zeros((40, 50), np.uint16)
        labels[4:14, 5:15], labels[22:36, 30:44] = 1, 2
        image = np.random.default_rng(number).integers(1, 4000, labels.shape).astype(np.uint16)
        tifffile.imwrite(tmp_path / f"f{number}.tif", image)
        tifffile.imwrite(tmp_path / f"f{number}_mask.tif", labels)
    return Fields(
        images=str(tmp_path / "f?.tif"),
        masks=str(tmp_path / "*_mask.tif"),
        axes="YX",
        crop=[16, 16],
    )


@pytest.mark.slow
def test_batches_do_not_depend_on_the_processes_that_read_them(fields, tmp_path):
    rows = [7, 0, 3, 11, 4, 5, 1]
    assert len(fields.table) == 12
    (tmp_path / "f1.tif").unlink()  # rows 2 and 3, after it was scanned
    fields._reader._kept.clear()
    plain_lost: dict = {}
    plain = list(readable(fields, rows, 3, plain_lost))
    assert set(plain_lost) == {3}
    reader = Reader(fields, 2)
    before = torch.get_rng_state()
    for _ in range(2):  # the processes stay for a second round
        lost: dict = {}
        ahead = list(reader.batches(rows, 3, lost))
        assert lost.keys() == plain_lost.keys()
        assert lost[3][0] == plain_lost[3][0]
        assert [b.ids for b in ahead] == [b.ids for b in plain]
        for one, two in zip(plain, ahead, strict=True):
            assert torch.equal(one.inputs, two.inputs)
            assert torch.equal(one.regions["cell"], two.regions["cell"])
            assert one.meta == two.meta
    reader.close()
    assert torch.equal(torch.get_rng_state(), before)  # methods that draw get the same numbers


@pytest.mark.slow
def test_a_shard_can_be_sent_and_a_closure_cannot(fields):
    part = fields.within(holds("0/2"))
    whole = range(len(part.table))
    reader = Reader(part, 1)
    (batch,) = reader.batches(whole, 64, {})
    reader.close()
    assert torch.equal(batch.inputs, part.read(whole).inputs)
    closed = fields.within(lambda name: name > "f3")
    with pytest.raises(ConfigError, match="readers=1 needs a dataset that can be sent"):
        list(Reader(closed, 1).batches([0], 1, {}))
    with pytest.raises(ConfigError, match="readers=-1 must be a number of processes"):
        Reader(fields, -1)


def test_without_processes_reading_happens_here():
    phantom = Phantom(cells=3, size=(16, 16))
    told = list(Reader(phantom).batches(range(3), 2, {}))
    assert [len(batch) for batch in told] == [2, 1]


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


@pytest.mark.slow
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
