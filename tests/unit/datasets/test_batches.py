"""What a notebook has, as batches: tuples, dictionaries, loaders, torch Datasets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

import attrscore
from attrscore.cli.main import main
from attrscore.core.contracts import InputSpec
from attrscore.core.registry import DATASETS, MODELS
from attrscore.datasets import Phantom
from attrscore.datasets.batches import as_batch, batches_from, how_many
from attrscore.errors import ConfigError, DataError

INPUTS = torch.rand(6, 2, 16, 16, generator=torch.Generator().manual_seed(0))
CELL = torch.zeros(6, 16, 16, dtype=torch.bool)
CELL[:, 4:9, 5:12] = True
LABEL = torch.tensor([0, 1, 2, 0, 1, 2])


class Samples(TorchDataset):
    """Single cells, as dictionaries."""

    def __init__(self, count=6, bad=()):
        self.count, self.bad = count, bad

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        if row in self.bad:
            raise OSError(f"no file for cell {row}")
        return {
            "inputs": INPUTS[row],
            "cell": CELL[row].numpy().astype(np.uint8),
            "label": int(LABEL[row]),
            "id": f"cell {row}",
            "Metadata_Well": f"A0{row}",
        }


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(INPUTS[row], CELL[row], LABEL[row]) for row in range(6)])


def made(count: int = 6, bad: tuple = ()):
    return Samples(count, bad)


def pairs():
    return TensorDataset(INPUTS, LABEL, CELL)


def no_dataset():
    return iter([])


def network():
    return MODELS.build("tiny_cnn")(InputSpec(channels=2, size=(16, 16), classes=3))


def scores(data, **options):
    return attrscore.evaluate(network(), data, progress="none", **options)


def expected():
    ids = [str(row) for row in range(6)]
    return scores(attrscore.Batch(inputs=INPUTS, regions={"cell": CELL}, label=LABEL, ids=ids))


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        (INPUTS, CELL, LABEL),
        [(INPUTS[:4], CELL[:4], LABEL[:4]), (INPUTS[4:], CELL[4:], LABEL[4:])],
        [[INPUTS.numpy(), CELL[:, None].numpy().astype(np.int64), LABEL.numpy()]],
        {"inputs": INPUTS, "regions": {"cell": CELL}, "label": LABEL[:, None]},
        [{"inputs": INPUTS, "cell": CELL, "label": LABEL}],
        TensorDataset(INPUTS, CELL, LABEL),
        DataLoader(TensorDataset(INPUTS, CELL, LABEL), batch_size=4),
        Stream(),
    ],
    ids=["tuple", "tuples", "numpy", "dict", "dicts", "dataset", "loader", "stream"],
)
def test_every_form_gives_the_scores_of_a_batch(data):
    found = scores(data, batch_size=4)
    columns = ["id", "label", "predicted", "status"]
    assert found[columns].equals(expected()[columns])
    assert found["grad_camo"].to_numpy() == pytest.approx(expected()["grad_camo"], nan_ok=True)
    results = list(attrscore.run(network(), data)) if not isinstance(data, tuple) else []
    assert sum(map(len, results)) in (0, 6)


def test_items_say_what_is_what():
    loader = DataLoader(TensorDataset(INPUTS, LABEL, CELL), batch_size=3)
    found = scores(loader, items=("inputs", "label", "cell"))
    assert found["label"].tolist() == LABEL.tolist()
    given = {"image": INPUTS, "seg": CELL, "target": LABEL, "path": ["x"] * 6}
    named = {"image": "inputs", "seg": "cell", "target": "label"}
    assert scores([given], items=named)["label"].tolist() == LABEL.tolist()
    without = scores(loader, items=("inputs", None, "cell"))
    assert without["label"].tolist() == [-1] * 6


def test_columns_ids_and_further_fields_are_kept():
    (batch,) = batches_from(Samples(), batch_size=6)
    assert batch.ids == tuple(f"cell {row}" for row in range(6))
    assert batch.meta["Metadata_Well"] == [f"A0{row}" for row in range(6)]
    assert batch.regions["cell"].dtype == torch.bool
    stacked = as_batch({"inputs": INPUTS, "cell": CELL, "spacing": torch.full((2, 6), 0.25)})
    assert stacked.spacing == (0.25, 0.25)
    more = {"stains": ("DNA", "ER"), "spacing": (0.5, 0.5), "others": [LABEL], "neighbours": ~CELL}
    batch = as_batch({"inputs": INPUTS, "cell": CELL, **more})
    assert (batch.stains, batch.spacing, len(batch.others)) == (("DNA", "ER"), (0.5, 0.5), 1)
    assert set(batch.regions) == {"cell", "neighbours"}


def test_two_networks_see_the_same_stream():
    found = attrscore.evaluate({"a": network(), "b": network()}, iter([(INPUTS, CELL)]))
    assert found.groupby("model").size().tolist() == [6, 6]


def test_how_many_batches_there_are():
    assert how_many(Samples(), batch_size=4) == 2
    assert how_many((INPUTS, CELL)) == 1
    assert how_many([(INPUTS, CELL)] * 3) == 3
    assert how_many(iter([])) is None


@pytest.mark.parametrize("dtype", [np.uint8, ">u2", np.int32, np.float16, np.float64, bool])
def test_inputs_of_any_type(dtype):
    batch = as_batch((np.ones((2, 1, 4, 4), dtype), np.ones((2, 4, 4), np.uint8)))
    assert batch.inputs.is_floating_point()
    assert batch.inputs.sum() == 32


@pytest.mark.parametrize(
    ("data", "items", "message"),
    [
        ([(INPUTS, LABEL)], None, r"region 'cell' has the shape \(6,\).*items=\('inputs', 'label'"),
        ([(INPUTS, CELL, LABEL, LABEL)], None, "is a tuple of 4; say what each item is"),
        ([INPUTS], None, "A batch is Tensor; expected an attrscore.Batch, a tuple"),
        ([{"inputs": INPUTS, "mask": CELL}], None, "'mask' is nothing that a batch has"),
        (
            [{"image": INPUTS}],
            {"imag": "inputs"},
            "items names 'imag', which the batch has not. Did",
        ),
        ([{"image": INPUTS}], ("inputs",), "is an order, but the batch is a dictionary"),
        ([(INPUTS, CELL)], {"image": "inputs"}, "is a tuple of 2; say what each item is"),
        ([{"cell": CELL}], None, "A batch needs inputs; given: cell"),
        ([(INPUTS, CELL.int() * 7)], None, "region 'cell' must be bool or lie within"),
        ([(INPUTS, CELL, LABEL + 0.5)], None, "label must be integers"),
        (
            [{"inputs": INPUTS, "cell": CELL, "spacing": [(1, 2), (1, 1)]}],
            None,
            "spacing must be one",
        ),
        ([(np.full((1, 1, 4, 4), "x"), CELL)], None, "inputs must be numbers"),
    ],
)
def test_what_does_not_fit_is_told(data, items, message):
    with pytest.raises(DataError, match=message) as told:
        list(batches_from(data, items=items))
    assert "in batch 0" in told.value.__notes__


# dataset=factory


def test_a_torch_dataset_by_its_path():
    dataset = DATASETS.build(
        "factory",
        target=f"{__name__}:made",
        options={"count": 5, "bad": (1, 3)},
        stains=["DNA", "ER"],
        spacing=[0.5, 0.5],
    )
    assert dataset.table["id"].tolist() == ["cell 0", "cell 2", "cell 4"]
    assert dataset.table["label"].tolist() == [0, 2, 1]
    assert dataset.skipped == {
        "sample 1": "OSError: no file for cell 1",
        "sample 3": "OSError: no file for cell 3",
    }
    assert dataset.classes == ("0", "1", "2")
    assert (dataset.spec.channels, dataset.spec.size, dataset.spec.classes) == (2, (16, 16), 3)
    batch = dataset.read([2, 0])
    assert torch.equal(batch.inputs, INPUTS[[4, 0]])
    assert batch.ids == ("cell 4", "cell 0")
    assert (batch.stains, batch.spacing) == (("DNA", "ER"), (0.5, 0.5))
    strict = {"options": {"bad": (1,)}, "on_bad_file": "raise"}
    with pytest.raises(OSError, match="no file for cell 1"):
        DATASETS.build("factory", target=f"{__name__}:made", **strict).table  # noqa: B018


def test_samples_as_tuples_in_their_order():
    options = {"target": f"{__name__}:pairs", "items": ["inputs", "label", "cell"]}
    dataset = DATASETS.build("factory", **options, class_names=["a", "b", "c"])
    assert dataset.table["id"].tolist() == [str(row) for row in range(6)]
    assert dataset.classes == ("a", "b", "c")
    assert (
        dataset.fingerprint()
        == DATASETS.build("factory", **options, class_names=["a", "b", "c"]).fingerprint()
    )
    assert dataset.fingerprint() != DATASETS.build("factory", **options).fingerprint()
    with pytest.raises(DataError, match="go up to 2 but class_names has only 1: a"):
        DATASETS.build("factory", **options, class_names=["a"]).table  # noqa: B018


@pytest.mark.parametrize(
    ("target", "options", "error", "message"),
    [
        ("no_dataset", {}, ConfigError, "returned list_iterator, which has no length and samples"),
        ("mad", {}, ConfigError, "has no 'mad'. Did you mean 'made'"),
        ("made", {"cout": 3}, ConfigError, "has no parameter 'cout'. Did you mean 'count'"),
        ("made", {"count": 0}, DataError, "gave no sample that can be used, of 0"),
    ],
)
def test_wrong_targets(target, options, error, message):
    with pytest.raises(error, match=message):
        DATASETS.build("factory", target=f"{__name__}:{target}", options=options).table  # noqa: B018


@pytest.mark.slow
def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mydata.py").write_text(
        "import torch\n"
        "from torch.utils.data import TensorDataset\n"
        "def cells(n: int):\n"
        "    masks = torch.zeros(n, 16, 16, dtype=torch.bool)\n"
        "    masks[:, 4:9, 4:9] = True\n"
        "    images = torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(0))\n"
        "    return TensorDataset(images, masks, torch.arange(n) % 2)\n"
    )
    arguments = ["dataset=factory", "dataset.target=mydata.cells", "+dataset.options.n=4"]
    assert main([*arguments, "figures=none"]) == 0
    found = attrscore.read_scores("results")
    assert sorted(found["id"]) == ["0", "1", "2", "3"]
    assert found["label"].tolist() == [0, 1, 0, 1]


def test_the_phantom_is_still_a_dataset_of_ours():
    phantom = Phantom(size=(16, 16), cells=5)
    model = MODELS.build("tiny_cnn")(phantom.spec)
    assert len(attrscore.evaluate(model, phantom, batch_size=2, progress="none")) == 5
