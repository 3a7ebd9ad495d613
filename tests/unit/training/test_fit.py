"""Training: what is learned, what is held out, and what is said when it cannot be."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from attrscore.core.contracts import Batch, InputSpec
from attrscore.errors import AttrscoreWarning, ConfigError, DataError, UnsupportedError
from attrscore.models.tiny import TinyCNN
from attrscore.training import fit, split, train


class Stripes:
    """Horizontal or vertical stripes of random phase in noise: equal means, unequal texture."""

    def __init__(self, n=96, *, size=(16, 16), labels=None, wells=8, classes=("rows", "columns")):
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(n) % 2 if labels is None else torch.as_tensor(labels)
        axes = torch.meshgrid(*[torch.arange(extent) for extent in size], indexing="ij")
        phase = torch.rand(n, generator=generator).reshape(-1, *[1] * len(size)) * 6.28
        along = torch.stack([axes[-2], axes[-1]])[labels.clamp(0, 1)]
        noise = 0.3 * torch.randn(n, *size, generator=generator)
        self.inputs = (torch.sin(2.1 * along + phase) + noise)[:, None]
        self.table = pd.DataFrame(
            {
                "id": [f"c{i}" for i in range(n)],
                "label": labels.numpy(),
                "Metadata_Well": [f"W{i * wells // n}" for i in range(n)],
            }
        )
        self.classes = classes
        self.spec = InputSpec(channels=1, size=size, classes=len(classes))
        self.skipped = {}
        self.reads = 0

    def read(self, rows, /):
        self.reads += 1
        inputs = self.inputs[rows]
        return Batch(
            inputs=inputs,
            regions={"cell": torch.ones(len(rows), *self.spec.size, dtype=torch.bool)},
            ids=tuple(self.table["id"].iloc[list(rows)]),
        )

    def fingerprint(self):
        return "0"


def with_table(labels, wells, classes=("rows", "columns", "third")):
    dataset = Stripes(len(labels), labels=labels, classes=classes)
    dataset.table["Metadata_Well"] = wells
    return dataset


# What is learned


@pytest.mark.parametrize("size", [(16, 16), (8, 12, 12)], ids=["2d", "3d"])
def test_a_texture_is_learned(size):
    dataset = Stripes(size=size)
    result = train(TinyCNN(width=8)(dataset.spec), dataset, epochs=6)
    assert result.accuracy > 0.9
    assert result.balanced_accuracy > 0.9
    assert result.train_accuracy > 0.9
    assert not result.model.training
    assert len(result.history) == 6
    assert result.history[-1].loss < result.history[0].loss


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_state():
    dataset = Stripes(32)

    def weights(seed):
        model = nn.Sequential(TinyCNN(width=4)(dataset.spec), nn.Dropout(0.2))
        return torch.cat(
            [p.flatten() for p in train(model, dataset, epochs=2, seed=seed).model.parameters()]
        )

    before = torch.get_rng_state()
    first, again, other = weights(0), weights(0), weights(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_reading_by_batches_gives_the_same_as_reading_once(monkeypatch):
    kept, streamed = Stripes(40), Stripes(40)
    first = train(TinyCNN(width=4)(kept.spec), kept, epochs=2)
    monkeypatch.setattr(fit, "IN_MEMORY", 0)
    second = train(TinyCNN(width=4)(streamed.spec), streamed, epochs=2)
    assert kept.reads == 1 < streamed.reads
    assert torch.equal(first.model.head.weight, second.model.head.weight)


def test_frozen_parameters_stay_frozen_and_no_gradient_is_left():
    dataset = Stripes(32)
    model = TinyCNN(width=4)(dataset.spec)
    model.features[0].weight.requires_grad_(False)
    before = model.features[0].weight.clone()
    with torch.no_grad():  # a caller's own setting does not stop the training
        train(model, dataset, epochs=1)
    assert torch.equal(model.features[0].weight, before)
    assert not model.features[0].weight.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_double_networks_train_in_double():
    dataset = Stripes(32)
    model = TinyCNN(width=4)(dataset.spec).double()
    train(model, dataset, epochs=1)
    assert model.head.weight.dtype == torch.float64


def test_flips_mirror_whole_cells_and_nothing_else():
    inputs = torch.arange(2 * 1 * 3 * 4.0).reshape(2, 1, 3, 4)
    seen = set()
    for seed in range(40):
        flipped = fit._flipped(inputs, torch.Generator().manual_seed(seed))
        for one, before in zip(flipped, inputs, strict=True):
            choices = [before, before.flip(1), before.flip(2), before.flip(1, 2)]
            seen |= {i for i, choice in enumerate(choices) if torch.equal(one, choice)}
            assert any(torch.equal(one, choice) for choice in choices)
    assert seen == {0, 1, 2, 3}
    train(TinyCNN(width=4)(Stripes(32).spec), Stripes(32), epochs=1, augment="flips")


def test_balance_draws_each_class_as_often_as_any_other():
    labels = torch.tensor([0] * 90 + [1] * 10)
    weights = fit._of_equal_classes(labels.numpy())
    rows = np.arange(100)
    generator = torch.Generator().manual_seed(0)
    drawn = [
        row
        for _ in range(20)
        for batch in fit._batches(rows, 32, generator, weights)
        for row in batch
    ]
    assert len(drawn) == 20 * 100
    assert abs(float(np.mean([labels[row] for row in drawn])) - 0.5) < 0.05


@pytest.mark.parametrize(("balance", "share"), [(False, 1 / 8), (True, 1 / 2)])
def test_what_is_learned_from_is_balanced(balance, share, monkeypatch):
    seen, entropy = [], fit.F.cross_entropy

    def loss(logits, labels):
        seen.extend(labels.tolist())
        return entropy(logits, labels)

    monkeypatch.setattr(fit.F, "cross_entropy", loss)
    rare = Stripes(labels=[0, 0, 0, 0, 0, 0, 0, 1] * 12)
    train(TinyCNN(width=2)(rare.spec), rare, epochs=8, split_by=None, balance=balance)
    assert np.mean(seen) == pytest.approx(share, abs=0.07)


def test_the_confusion_counts_the_held_out_cells():
    dataset = Stripes()
    result = train(TinyCNN(width=4)(dataset.spec), dataset, epochs=2)
    held = dataset.table["id"].isin(result.held_out_ids)
    assert result.confusion.sum(1).tolist() == np.bincount(dataset.table["label"][held]).tolist()
    assert result.accuracy == pytest.approx(result.confusion.trace() / held.sum())


def test_progress_receives_a_line_an_epoch():
    lines = []
    dataset = Stripes(32)
    train(TinyCNN(width=4)(dataset.spec), dataset, epochs=2, progress=lines.append)
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert "loss" in lines[0]
    assert "accuracy" in lines[0]


def test_no_batch_of_one_cell_is_left_over():
    sizes = [
        len(rows)
        for n in range(2, 80)
        for rows in fit._batches(torch.arange(n).numpy(), 8, torch.Generator())
    ]
    assert min(sizes) >= 2
    assert max(sizes) <= 8


# What is held out


@pytest.mark.parametrize("seed", range(3))
def test_no_group_stands_on_both_sides_and_every_class_does(seed):
    dataset = Stripes(96)
    result = train(TinyCNN(width=4)(dataset.spec), dataset, epochs=1, seed=seed)
    table = dataset.table.set_index("id")
    inside, outside = table.loc[list(result.train_ids)], table.loc[list(result.held_out_ids)]
    assert not set(inside["Metadata_Well"]) & set(outside["Metadata_Well"])
    assert set(inside["label"]) == set(outside["label"]) == {0, 1}
    assert len(inside) + len(outside) == 96
    assert len(outside) == 24


def test_one_class_a_well_is_split_by_wells():
    labels = [well % 10 for well in range(20) for _ in range(6)]  # 10 classes, 2 wells each
    wells = [f"W{well}" for well in range(20) for _ in range(6)]
    dataset = with_table(labels, wells, classes=tuple("abcdefghij"))
    inside, outside = split(dataset, split_by="Metadata_Well", held_out=0.25)
    assert set(dataset.table["label"][inside]) == set(dataset.table["label"][outside])
    assert not set(dataset.table["Metadata_Well"][inside]) & set(
        dataset.table["Metadata_Well"][outside]
    )


def test_cells_are_split_where_no_column_is_named():
    dataset = Stripes(200)
    inside, outside = split(dataset, split_by=None, held_out=0.25)
    assert sorted([*inside, *outside]) == list(range(200))
    for label in (0, 1):
        share = (dataset.table["label"][outside] == label).sum() / 100
        assert share == pytest.approx(0.25, abs=0.02)


def test_cells_without_label_are_left_out_and_counted():
    dataset = Stripes(32)
    dataset.table.loc[[3, 4, 20], "label"] = -1
    result = train(TinyCNN(width=4)(dataset.spec), dataset, epochs=1)
    assert result.unlabelled == 3
    assert len(result.train_ids) + len(result.held_out_ids) == 29
    assert not {"c3", "c4", "c20"} & {*result.train_ids, *result.held_out_ids}


def test_a_class_of_one_group_is_trained_on_with_a_warning():
    wells = ["A", "B", "C", "D"] * 4
    labels = [2 if i % 4 == 3 and i > 8 else i // 4 % 2 for i in range(16)]
    dataset = with_table(labels, wells)
    with pytest.warns(AttrscoreWarning, match=r"never tested \(third: of one value of Metadata_W"):
        inside, outside = split(dataset, split_by="Metadata_Well", held_out=0.25)
    assert 2 in set(dataset.table["label"][inside])
    assert set(dataset.table["label"][outside]) == {0, 1}


# What is said


@pytest.mark.parametrize(
    ("labels", "wells", "message"),
    [
        ([-1] * 4, list("AABB"), "at least two classes; none of 4 has one"),
        ([1] * 4, list("AABB"), "at least two classes; all 4 are 'columns'"),
        (
            [0, 0, 1, 1],
            list("AABB"),
            r"both trained on and tested \(rows, columns: of one value of",
        ),
        ([0, 1, 0, 5], list("AABB"), "label 5 has no name: the dataset states 3 classes"),
        ([0, 1, 0, 1], ["A", None, "B", "B"], "1 labelled cells have no Metadata_Well"),
    ],
)
def test_labels_that_cannot_be_learned_or_split(labels, wells, message):
    with pytest.raises(DataError, match=message):
        split(with_table(labels, wells), split_by="Metadata_Well", held_out=0.25)


def test_groups_that_cannot_be_divided():
    dataset = with_table([0, 1, 1, 2, 2, 0], list("AABBCC"))  # each class in two of three wells
    with pytest.raises(DataError, match="No choice of whole groups of Metadata_Well"):
        split(dataset, split_by="Metadata_Well", held_out=0.25)


def test_a_column_that_is_not_there_is_suggested():
    dataset = Stripes(8)
    with pytest.raises(ConfigError, match=r"Did you mean 'Metadata_Well'.*split_by=null"):
        train(TinyCNN()(dataset.spec), dataset, split_by="Metadata_Wel")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs of at least 1"),
        ({"batch_size": 1}, "batch_size of at least 2"),
        ({"learning_rate": 0.0}, "learning_rate above 0"),
        ({"held_out": 1.0}, "held_out must lie between 0 and 1"),
        ({"augment": "flip"}, "Did you mean 'flips'"),
    ],
)
def test_options_out_of_range(options, message):
    dataset = Stripes(8)
    with pytest.raises(ConfigError, match=message):
        train(TinyCNN()(dataset.spec), dataset, **options)


def test_a_loss_that_diverges_suggests_a_lower_rate():
    dataset = Stripes(32)
    model = TinyCNN(width=4)(dataset.spec)
    with pytest.raises(ConfigError, match=r"The loss became (nan|inf).*learning_rate=1e\+29"):
        train(model, dataset, learning_rate=1e30)
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


def test_pixels_that_are_not_finite_are_named():
    dataset = Stripes(32)
    dataset.inputs[7, 0, 3, 3] = torch.nan
    with pytest.raises(DataError, match="Pixels of c7 are not finite"):
        train(TinyCNN(width=4)(dataset.spec), dataset, epochs=1)


def test_a_wholly_frozen_network_is_refused():
    dataset = Stripes(8)
    with pytest.raises(ConfigError, match="No parameter of the model requires gradients"):
        train(TinyCNN()(dataset.spec).requires_grad_(False), dataset)


def test_outputs_that_are_no_logits_of_the_classes():
    class Pair(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x), x

    dataset = Stripes(8)
    with pytest.raises(UnsupportedError, match="returns a tuple; training needs one tensor"):
        train(Pair(TinyCNN()(dataset.spec)), dataset)
    with pytest.raises(DataError, match=r"returns \(\d, 5\) for \d cells; expected \(\d, 2\)"):
        train(TinyCNN(classes=5)(dataset.spec), dataset)
