"""Processes that read ahead: the same batches, order, losses and numbers as without them."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch

from attrscore.datasets import Fields, Phantom
from attrscore.datasets.shards import holds
from attrscore.engine.reading import Reader, readable
from attrscore.errors import ConfigError


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
