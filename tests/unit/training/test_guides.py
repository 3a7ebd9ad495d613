"""Guides: what they do to a batch, to the loss, and to what is learnt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from attrscore.core.contracts import Batch
from attrscore.core.registry import GUIDES
from attrscore.datasets import Phantom
from attrscore.errors import ConfigError
from attrscore.models.tiny import TinyCNN
from attrscore.training import MaskedCrops, Outside, Swap, fit, train

SIZES = ((20, 20), (6, 16, 16))


def crops(size, *, n=12, classes=2):
    """Each crop is its number everywhere, but 100 more on the cell; neighbours in one corner."""
    numbers = torch.arange(n, dtype=torch.float32).reshape(-1, 1, *[1] * len(size))
    inputs = numbers.expand(n, 1, *size).clone()
    cell = torch.zeros(n, *size, dtype=torch.bool)
    for row in range(n):  # each one's mask is moved a little
        first = 4 + row % 3
        cell[(row, *[slice(min(first, extent - 3), extent - 2) for extent in size])] = True
    neighbours = torch.zeros_like(cell)
    neighbours[(slice(None), *[slice(0, 2)] * len(size))] = True
    neighbours[::2] = False
    inputs += 100 * cell[:, None]
    label = torch.arange(n) % classes
    return Batch(inputs, {"cell": cell, "neighbours": neighbours & ~cell}, label)


@pytest.mark.parametrize("size", SIZES)
def test_a_swap_keeps_the_cell_and_brings_one_other_cells_surroundings(size):
    batch = crops(size)
    made = Swap(feather=0).alter(batch, torch.Generator().manual_seed(0))
    own = batch.regions["cell"]
    assert torch.equal(made.inputs[:, 0][own], batch.inputs[:, 0][own])
    assert torch.equal(made.label, batch.label)
    assert torch.equal(made.regions["cell"], own)
    for row in range(len(batch)):
        around = made.inputs[row, 0][~own[row]]
        donor = int(around[0])
        assert torch.all(around == donor)  # also where the donor's own cell was
        assert donor != row
        expected = batch.regions["neighbours"][donor] & ~own[row]
        assert torch.equal(made.regions["neighbours"][row], expected)


def test_donors_come_from_every_class_alike_so_that_surroundings_say_nothing():
    batch = crops((20, 20), n=40, classes=2)
    batch = replace(batch, label=(torch.arange(40) >= 30).long())  # 30 of one, 10 of the other
    generator = torch.Generator().manual_seed(0)
    of_class = [
        (Swap(feather=0).alter(batch, generator).inputs[:, 0, 0, 0] >= 30).float()
        for _ in range(200)
    ]
    shares = torch.stack(of_class).mean(0)
    for members in (shares[:30], shares[30:]):  # whatever the cell's own class
        assert members.mean() == pytest.approx(0.5, abs=0.02)
    other = Swap(donors="other_class", feather=0).alter(batch, generator)
    donors = other.inputs[:, 0, 0, 0] >= 30
    assert torch.equal(donors, batch.label == 0)


def test_donors_agree_in_a_column_where_asked_and_a_cell_without_one_stays():
    batch = crops((20, 20))
    plates = ["A"] * 6 + ["B"] * 5 + ["C"]
    batch = replace(batch, meta={"Metadata_Plate": plates})
    made = Swap(within="Metadata_Plate", feather=0).alter(batch, torch.Generator())
    donors = made.inputs[:, 0, 0, 0].long().tolist()
    assert [plates[donor] for donor in donors] == plates
    assert torch.equal(made.inputs[11], batch.inputs[11])
    with pytest.raises(ConfigError, match="guide.within=Plate is no column of the dataset"):
        Swap(within="Plate").alter(batch, torch.Generator())


def test_a_feathered_edge_lies_outside_of_the_cell_and_one_seed_gives_one_batch():
    batch = crops((20, 20))
    one, again, other = (
        Swap(feather=2).alter(batch, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one.inputs, again.inputs)
    assert not torch.equal(one.inputs, other.inputs)
    own = batch.regions["cell"]
    assert torch.allclose(one.inputs[:, 0][own], batch.inputs[:, 0][own])
    hard = Swap(feather=0).alter(batch, torch.Generator().manual_seed(1))
    changed = (one.inputs != hard.inputs)[:, 0]
    assert changed.any()
    assert not (changed & own).any()
    assert not changed[:, 0, 0].any()  # far from the cell


@pytest.mark.parametrize("fill", ["zero", "mean"])
def test_masked_crops_show_the_cell_alone(fill):
    batch = crops((20, 20))
    made = MaskedCrops(fill=fill).alter(batch, torch.Generator())
    own = batch.regions["cell"]
    assert torch.equal(made.inputs[:, 0][own], batch.inputs[:, 0][own])
    mean = batch.inputs.mean((1, 2, 3)) if fill == "mean" else torch.zeros(len(batch))
    for row in range(len(batch)):
        assert torch.allclose(made.inputs[row, 0][~own[row]], mean[row])
    assert not made.regions["neighbours"].any()


def test_regions_are_mirrored_with_the_inputs():
    batch = crops((20, 20))
    batch = replace(batch, inputs=batch.regions["cell"][:, None].float())
    made = fit._flipped_batch(batch, torch.Generator().manual_seed(0))
    assert not torch.equal(made.inputs, batch.inputs)
    assert torch.equal(made.inputs[:, 0].bool(), made.regions["cell"])
    assert torch.equal(made.inputs, fit._flipped(batch.inputs, torch.Generator().manual_seed(0)))


def test_options_are_checked():
    for guide, options in (
        ("swap", {"donors": "none"}),
        ("swap", {"feather": -1}),
        ("outside", {"weight": 0.0}),
        ("outside", {"target": "index"}),
        ("masked_crops", {"fill": "blur"}),
        ("rrr", {"weight": -1.0}),
        ("swop", {}),
    ):
        with pytest.raises(ConfigError):
            GUIDES.build(guide, **options)
    assert GUIDES.build("energy", weight=0.5) == Outside(weight=0.5)


CONFOUNDED = Phantom(
    cells=192,
    size=(32, 32),
    carrier="mixture",
    confounder="background",
    strength=1.0,
    seed=31_100,
)


def accuracy(model, cells):
    batch = cells.read(range(len(cells.table)))
    with torch.no_grad():
        return float((model(batch.inputs).argmax(1) == batch.label).float().mean())


@pytest.fixture(scope="module")
def trained():
    made = {}
    for guide in ("none", "swap", "outside", "masked_crops", "rrr"):
        model = TinyCNN(width=8)(CONFOUNDED.spec)
        epochs = 2 if guide in ("masked_crops", "rrr") else 10
        made[guide] = train(model, CONFOUNDED, epochs=epochs, guide=guide, augment="flips")
    return made


@pytest.mark.slow
def test_swap_and_outside_learn_from_the_cell_what_plain_training_learns_from_around_it(trained):
    flipped = replace(CONFOUNDED, strength=0.0, seed=31_101)
    assert accuracy(trained["none"].model, flipped) < 0.2
    assert accuracy(trained["swap"].model, flipped) > 0.8
    assert accuracy(trained["outside"].model, flipped) > accuracy(trained["none"].model, flipped)
    assert accuracy(trained["swap"].model, replace(CONFOUNDED, seed=31_102)) > 0.8


@pytest.mark.slow
def test_a_training_says_what_guided_it_and_what_that_added(trained):
    assert trained["swap"].guide == Swap()
    assert np.isnan(trained["swap"].history[-1].penalty)
    for guide in ("outside", "rrr"):
        assert all(epoch.penalty > 0 for epoch in trained[guide].history)
        assert trained[guide].history[-1].undefined < 0.05
    assert trained["outside"].history[-1].penalty < trained["outside"].history[0].penalty
    assert trained["masked_crops"].guide == MaskedCrops()


@pytest.mark.slow
def test_a_guide_of_ones_own_needs_no_base_class_and_one_seed_gives_one_model():
    class Dimmed:
        def alter(self, batch, generator):
            factor = torch.rand(len(batch), 1, 1, 1, generator=generator)
            return replace(batch, inputs=batch.inputs * factor)

    small = replace(CONFOUNDED, cells=64)
    weights = [
        train(
            TinyCNN(width=2)(small.spec), small, epochs=1, guide=guide, seed=seed
        ).model.head.weight
        for guide, seed in ((Dimmed(), 0), (Dimmed(), 0), (Dimmed(), 1), ("none", 0))
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[3])


class Altering:
    def __init__(self, made):
        self.made = made

    def alter(self, batch, generator):
        return self.made(batch)


class Penalising:
    def penalty(self, run):
        return torch.tensor(1.0)


@pytest.mark.parametrize(
    ("guide", "sentence"),
    [
        ({"swap": {"feather": 2}}, "guide=dict has neither alter.* nor penalty"),
        (Swap, r"guide=Swap is a class; give one of it: Swap\(\)"),
        (Altering(lambda batch: batch.inputs), "must return a Batch of the .* it returned Tensor"),
        (Altering(lambda batch: batch.rows(0, 1)), "it returned one of 1"),
        (Penalising(), r"must return a tensor of one number a cell, .* it returned shape \(\)"),
    ],
)
def test_what_guides_nothing_is_refused(guide, sentence):
    cells = Phantom(cells=12, size=(16, 16))
    with pytest.raises(ConfigError, match=sentence):
        train(TinyCNN(width=4)(cells.spec), cells, epochs=1, guide=guide)
