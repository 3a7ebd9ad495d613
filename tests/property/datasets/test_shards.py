"""Shards: every cell in exactly one, the same one whatever else there is, and nothing else read."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st

from attrscore.cli.main import main
from attrscore.core.contracts import Batch, InputSpec
from attrscore.datasets import write_hdf5
from attrscore.datasets.images import open_image
from attrscore.datasets.shards import holds, shard_of
from attrscore.errors import ConfigError, EmptyShardError
from attrscore.jobs.assembly import dataset_of

NAMES = st.lists(st.text(max_size=12), unique=True, max_size=60)


@given(names=NAMES, total=st.integers(1, 40))
def test_every_name_is_in_exactly_one_shard(names, total):
    shards = [holds(f"{number}/{total}") for number in range(total)]
    for name in names:
        assert sum(belongs(name) for belongs in shards) == 1


class Cells:
    """A dataset as a stranger writes one, with nothing that knows of shards."""

    classes = ("a", "b")
    skipped = MappingProxyType({})
    left_out = 0
    spec = InputSpec(1, (4, 4), 2)

    def __init__(self, ids):
        self.table = pd.DataFrame({"id": ids, "label": 0, "Metadata_n": range(len(ids))})
        self.was_read = set()

    def read(self, rows):
        ids = [self.table["id"][row] for row in rows]
        self.was_read |= set(ids)
        inputs = torch.stack([torch.full((1, 4, 4), float(len(name))) for name in ids])
        return Batch(
            inputs=inputs, regions={"cell": torch.ones(len(ids), 4, 4, dtype=torch.bool)}, ids=ids
        )

    def fingerprint(self):
        raise AssertionError("a shard must not ask for the whole")


def shards(dataset, total):
    found = []
    for number in range(total):
        try:
            found.append(shard_of(dataset, f"{number}/{total}"))
        except EmptyShardError:
            found.append(None)
    return found


@given(names=NAMES, more=NAMES, total=st.integers(1, 8))
def test_shards_hold_every_cell_once_and_cells_that_join_move_no_other(names, more, total):
    cells = Cells(names)
    parts = shards(cells, total)
    ids = [i for part in parts if part for i in part.table["id"]]
    assert sorted(ids) == sorted(names)
    more = [name for name in more if name not in names]
    for part, grown in zip(parts, shards(Cells(names + more), total), strict=True):
        if part is None:
            continue
        before = part.table["id"].tolist()
        assert grown.table["id"].tolist()[: len(before)] == before
        if len(grown.table) == len(before):  # nothing joined this shard: it is the same
            assert grown.fingerprint() == part.fingerprint()
        cells.was_read.clear()
        assert part.read(range(len(before))).ids == tuple(before)
        assert cells.was_read == set(before)


@pytest.mark.parametrize("wrong", ["4/4", "-1/4", "1", "1/0", "a/b", "0.5/2"])
def test_a_shard_that_is_none_is_refused(wrong):
    with pytest.raises(ConfigError, match=r"dataset.shard=0/2,1/2"):
        holds(wrong)


def field(root, name, seed):
    draw = np.random.default_rng(seed)
    labels = np.zeros((40, 40), np.uint8)
    for number, (y, x) in enumerate([(10, 10), (10, 28), (28, 10)], start=1):
        labels[y - 4 : y + 4, x - 4 : x + 4] = number
    for kind, pixels in (("images", draw.integers(0, 200, (40, 40)).astype(np.uint8)),
                         ("masks", labels)):  # fmt: skip
        (root / kind).mkdir(exist_ok=True)
        tifffile.imwrite(root / kind / f"{name}.tif", pixels)


def of_fields(root, shard, **options):
    node = {"name": "fields", "images": f"{root}/images/*.tif", "masks": f"{root}/masks/*.tif",
            "crop": [16, 16], "shard": shard, **options}  # fmt: skip
    return dataset_of({"dataset": node})


def test_a_shard_of_fields_has_whole_fields_and_opens_no_other(tmp_path, monkeypatch):
    for number in range(8):
        field(tmp_path, f"f{number}", number)
    whole = of_fields(tmp_path, None)
    opened = set()

    def counting(path, **options):
        opened.add(path.stem)
        return open_image(path, **options)

    monkeypatch.setattr("attrscore.datasets.images.field.open_image", counting)
    ids = []
    for number in range(2):
        opened.clear()
        part = of_fields(tmp_path, f"{number}/2")
        part.fingerprint()
        batch = part.read(range(len(part.table)))
        assert opened == set(part.table["Metadata_image"])
        assert not part.table["Metadata_image"].isin({i.split(":")[0] for i in ids}).any()
        rows = [whole.table["id"].tolist().index(i) for i in batch.ids]
        assert torch.equal(batch.inputs, whole.read(rows).inputs)
        ids += batch.ids
    assert sorted(ids) == sorted(whole.table["id"])


def test_a_limit_counts_over_all_shards(tmp_path):
    for number in range(8):
        field(tmp_path, f"f{number}", number)
    whole = of_fields(tmp_path, None, limit=13)
    parts = [of_fields(tmp_path, f"{number}/2", limit=13) for number in range(2)]
    ids = [i for part in parts for i in part.table["id"]]
    assert sorted(ids) == sorted(whole.table["id"])
    assert len(ids) == 13


def test_a_shard_without_fields_is_empty_and_not_wrong(tmp_path):
    field(tmp_path, "one", 0)
    empty = 0 if not holds("0/2")("one") else 1
    with pytest.raises(EmptyShardError):
        of_fields(tmp_path, f"{empty}/2")


def test_a_shard_of_a_file_keeps_its_name_when_another_shard_changes(tmp_path):
    def written(name, shift):
        inputs = torch.arange(20.0).view(20, 1, 1, 1).expand(20, 1, 8, 8).clone()
        in_first = [holds("0/2")(str(i)) for i in range(20)]
        inputs[torch.tensor(in_first)] += shift
        cell = torch.zeros(20, 8, 8, dtype=torch.bool)
        cell[:, 2:5, 2:5] = True
        write_hdf5(tmp_path / name, [Batch(inputs=inputs, regions={"cell": cell})])
        nodes = ({"name": "hdf5", "path": str(tmp_path / name), "shard": f"{k}/2"} for k in (0, 1))
        return [dataset_of({"dataset": node}).fingerprint() for node in nodes]

    before, after = written("a.h5", 0), written("b.h5", 1)
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_a_mean_over_a_group_of_cells_is_no_target_of_a_shard(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shard = ["dataset.cells=8", "dataset.size=[24,24]", "dataset.shard=0/2"]
    assert main([*shard, "target=cosine", "target.reference={label: 0}"]) == 2
    assert "each shard would have its own" in capsys.readouterr().err
