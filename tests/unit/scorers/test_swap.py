"""Swaps against networks whose reading is known, and who may be a donor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from nets import SPACES, batch, net
from torch import Tensor, nn

from attrscore import SCORERS, Batch, evaluate
from attrscore.core.passes import Pass
from attrscore.errors import AttrscoreWarning, ConfigError, DataError
from attrscore.scorers._response import choose_donors
from attrscore.targets import Embedding, Predicted


class Reads(nn.Module):
    """Two logits, +- the sum of the first channel over fixed places; all other places unused."""

    def __init__(self, places: Tensor) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.weight = nn.Parameter(places.double())

    def forward(self, x: Tensor) -> Tensor:
        value = (self.features(x)[:, 0] * self.weight).flatten(1).sum(1)
        return torch.stack([value, -value], 1)


def box(dimensions: int, n: int, seed: int, sign: float) -> Batch:
    """Crops with the same box as the cell, bright (label 0) or dark (label 1) all over."""
    space = SPACES[dimensions]
    generator = torch.Generator().manual_seed(seed)
    cell = torch.zeros((n, *space), dtype=torch.bool)
    cell[(slice(None), *[slice(2, 5)] * dimensions)] = True
    inputs = torch.rand((n, 1, *space), generator=generator, dtype=torch.float64)
    label = torch.full((n,), int(sign < 0))
    ids = [f"{sign:+.0f}-{seed}-{i}" for i in range(n)]
    return Batch(sign * inputs, {"cell": cell}, label=label, ids=ids)


def swapped(model: nn.Module, data: Batch, pool: Batch | None, **options) -> dict[str, np.ndarray]:
    options = {"count": 2, **options}
    target = options.pop("target", "predicted")
    table = evaluate(
        model,
        data,
        methods="saliency",
        scorers={"swap": SCORERS.build("swap", **options)},
        pool=64 if pool is None else pool,
        target=target,
        accept=["gradients"],
        progress="none",
        on_error="raise" if pool is not None else "record",
    )
    return {c: table[c].to_numpy() for c in table if c.startswith("swap")}


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("side", ["inside", "outside"])
def test_a_network_that_reads_one_side_does_not_change_by_the_other(dimensions, side):
    data, pool = box(dimensions, 3, 0, 1.0), box(dimensions, 6, 1, -1.0)
    cell = data.regions["cell"][0]
    model = Reads((cell if side == "inside" else ~cell).double() / 10)
    columns = swapped(model, data, pool)
    unread = "outside" if side == "inside" else "inside"
    assert (columns[f"swap.{unread}"] == 0).all()
    assert (columns[f"swap.{unread}_flips"] == 0).all()
    assert (columns[f"swap.{side}"] > 0.3).all()
    assert (columns[f"swap.{side}_flips"] == 1).all()
    expected = columns["swap.inside"] - columns["swap.outside"]
    np.testing.assert_array_equal(columns["swap"], expected)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_composites_are_the_pixels_that_the_docstring_names(dimensions):
    data, pool = box(dimensions, 1, 0, 1.0), box(dimensions, 1, 1, -1.0)
    shifted = replace(
        pool,
        inputs=pool.inputs.roll(1, -1),
        regions={"cell": pool.regions["cell"].roll(1, -1)},
    )
    x, y = data.inputs[0, 0], pool.inputs[0, 0]
    own = data.regions["cell"][0]
    moved, theirs = shifted.inputs[0, 0], shifted.regions["cell"][0]
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(own.shape, generator=generator, dtype=torch.float64) / 100
    model = Reads(weight)

    def probability(image: Tensor) -> float:
        clean = (x * weight).sum()
        return float(((image * weight).sum() * 2 * torch.sign(clean)).sigmoid())

    outside = {
        "mean": torch.where(own, x, torch.where(theirs, moved[~theirs].mean(), moved)),
        "recipient": torch.where(own | theirs, x, moved),
        "donor": torch.where(own, x, moved),
    }
    for remainder, image in outside.items():
        columns = swapped(model, data, shifted, count=1, remainder=remainder)
        assert columns["swap.outside"][0] == pytest.approx(probability(x) - probability(image))
        # The donor's box is moved back onto the recipient's: nothing remains to be filled.
        inside = torch.where(own, y, x)
        assert columns["swap.inside"][0] == pytest.approx(probability(x) - probability(inside))
        # So nothing of the background is to be filled in either.
        assert columns["swap.cell"][0] == columns["swap.inside"][0]
    unmoved = swapped(model, data, shifted, count=1, align="none")
    inside = torch.where(own, torch.where(theirs, moved, moved[theirs].mean()), x)
    assert unmoved["swap.inside"][0] == pytest.approx(probability(x) - probability(inside))
    bare = torch.where(own, x[~own].mean(), x)
    whole = torch.where(theirs, moved, bare)
    assert unmoved["swap.cell"][0] == pytest.approx(probability(x) - probability(whole))
    margin = 2 * ((x - whole) * weight).sum() * torch.sign((x * weight).sum())
    assert unmoved["swap.cell_margin"][0] == pytest.approx(float(margin))


class Measures(nn.Module):
    """Two logits, +- how far a measure of the bright voxels is above a threshold."""

    def __init__(self, measure: Callable[[Tensor], Tensor], above: float) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.measure, self.above = measure, above

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x) * self.scale
        bright = (x[:, 0] > 0.5).double() + 0 * x[:, 0]
        value = 9 * (self.measure(bright) / self.above).log()
        return torch.stack([-value, value], 1)


def area(bright: Tensor) -> Tensor:
    """Voxels, (N, *S) -> (N,)."""
    return bright.flatten(1).sum(1)


def elongation(bright: Tensor) -> Tensor:
    """Of the last two axes, the ratio of the spread along them, which turns with no cell here."""
    spreads = []
    for axis in (-1, -2):
        at = torch.arange(bright.shape[axis], dtype=bright.dtype)
        weight = bright.movedim(axis, -1).flatten(1, -2).sum(1)
        weight = weight / weight.sum(1, keepdim=True)
        mean = (weight * at).sum(1, keepdim=True)
        spreads.append((weight * (at - mean).square()).sum(1).sqrt())
    return spreads[0] / spreads[1]


def ellipsoids(dimensions: int, n: int, seed: int, wide: tuple[float, float]) -> Batch:
    """Bright ellipsoids off the centre of a dim crop; class 1 has radii ``wide`` times class 0's.

    Along the last axis and along all others.
    """
    generator = torch.Generator().manual_seed(seed)
    space = (21,) * dimensions
    grid = torch.stack(torch.meshgrid(*map(torch.arange, space), indexing="ij")).double()
    label = torch.arange(n) % 2
    cell = torch.empty((n, *space), dtype=torch.bool)
    for i in range(n):
        radii = torch.full((dimensions,), 4.5)
        radii *= torch.tensor([wide[1]] * (dimensions - 1) + [wide[0]]) ** (label[i] - 0.5)
        centre = 10 + torch.randint(-2, 3, (dimensions,), generator=generator)
        away = (grid - centre.view(-1, *[1] * dimensions)) / radii.view(-1, *[1] * dimensions)
        cell[i] = away.square().sum(0) < 1
    noise = torch.rand((n, 1, *space), generator=generator, dtype=torch.float64)
    inputs = torch.where(cell[:, None], 0.6 + 0.4 * noise, 0.3 * noise)
    return Batch(inputs, {"cell": cell}, label=label, ids=[f"{seed}-{i}" for i in range(n)])


@pytest.mark.filterwarnings("ignore:Gradients of Measures reach 0%")  # they count pixels
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("read", ["area", "elongation"])
def test_only_the_transplant_sees_size_and_shape(dimensions, read):
    wide = (1.5, 1.5) if read == "area" else (1.5, 1 / 1.5)
    data, pool = (ellipsoids(dimensions, n, n, wide) for n in (8, 12))
    values = (area if read == "area" else elongation)(data.regions["cell"].double())
    model = Measures(area if read == "area" else elongation, float(values.log().mean().exp()))
    columns = swapped(model, data, pool)
    assert (model(data.inputs).argmax(1) == data.label).all()
    assert (columns["swap.outside"] == 0).all()
    assert (columns["swap.inside"] == 0).all()
    assert (columns["swap.cell"] > 0.3).all()
    assert (columns["swap.cell_flips"] == 1).all()
    assert (columns["swap.outside_share"] == 0).all()


def two_regions(n: int, seed: int, agree: float) -> Batch:
    """A cell, +1 or -1, which is the label; a neighbour agrees in half (0.5) or all (1)."""
    cell = torch.zeros((n, 9, 12), dtype=torch.bool)
    neighbours = cell.clone()
    cell[:, 3:6, 2:5], neighbours[:, 3:6, 7:10] = True, True
    label = torch.arange(n) % 2
    same = torch.arange(n) // 2 % 2 < 2 * agree
    signs = [(2 * kind - 1).double()[:, None, None] for kind in (label, label ^ ~same)]
    inputs = (cell * signs[0] + neighbours * signs[1])[:, None]
    regions = {"cell": cell, "neighbours": neighbours}
    return Batch(inputs, regions, label=label, ids=[f"{seed}-{i}" for i in range(n)])


def test_what_is_read_less_shows_in_the_margin_and_in_the_share():
    # The margin is +-6 by the cell and +-4 by the neighbour.
    data, pool = two_regions(64, 0, 0.5), two_regions(64, 1, 0.5)
    weight = 0.6 * data.regions["cell"][0] + 0.4 * data.regions["neighbours"][0]
    columns = swapped(Reads(5 * weight / 9), data, pool, donors="any", count=64)
    assert abs(columns["swap.outside"].mean()) < 0.05
    assert abs(columns["swap.outside_margin"].mean()) < 0.5  # signs cancel
    assert columns["swap.outside_share"].mean() == pytest.approx(0.4, abs=0.02)
    data, pool = two_regions(64, 0, 1), two_regions(64, 1, 1)
    columns = swapped(Reads(5 * weight / 9), data, pool)
    sigmoid = torch.sigmoid(torch.tensor([10.0, -2.0, 2.0], dtype=torch.float64)).numpy()
    assert columns["swap.inside"] == pytest.approx(sigmoid[0] - sigmoid[1])
    assert columns["swap.outside"] == pytest.approx(sigmoid[0] - sigmoid[2])
    assert columns["swap.inside_margin"] == pytest.approx(12)
    assert columns["swap.outside_margin"] == pytest.approx(8)
    assert columns["swap.outside_share"] == pytest.approx(0.4)


@pytest.mark.slow
@pytest.mark.parametrize("agree", [0.5, 1])
def test_one_that_reads_both_alike_is_one_of_neither_side(agree):
    data, pool = two_regions(64, 0, agree), two_regions(64, 1, agree)
    both = (data.regions["cell"][0] | data.regions["neighbours"][0]) / 18
    columns = swapped(Reads(9 * both), data, pool, donors="any", count=64)
    for column in ("", "_margin", "_flips"):
        inside, outside = columns[f"swap.inside{column}"], columns[f"swap.outside{column}"]
        assert inside.mean() == pytest.approx(outside.mean(), rel=0.1)
    assert columns["swap.outside_share"].mean() == pytest.approx(0.5, abs=0.02)
    others = swapped(Reads(9 * both), data, pool)
    assert others["swap.outside"].mean() > 0.05
    assert others["swap.outside_flips"].mean() > 0.2
    assert others["swap.outside_share"].mean() > 0.3


def donors_of(data: Batch, pool: Batch | None, target=None, **options) -> Tensor:
    run = Pass(net(), data, target or Predicted(), {}, pool=pool)
    return choose_donors(run, **({"donors": "other_class", "count": 3, "seed": 0} | options))


def test_donors_are_of_another_class_never_the_cell_itself_and_drawn_by_id():
    data = batch(n=4)
    pool = replace(batch(n=12), ids=[*data.ids, *map(str, range(8))])
    for which in ("other_class", "same_class", "any"):
        chosen = donors_of(data, pool, donors=which, count=50)
        for row, cell in enumerate(data.ids):
            found = [p for p in chosen[row].tolist() if p >= 0]
            assert cell not in [pool.ids[p] for p in found]
            alike = {bool(pool.label[p] == data.label[row]) for p in found}
            assert alike == {"other_class": {False}, "same_class": {True}}.get(which, {True, False})
            assert len(set(found)) == len(found)
    whole = donors_of(data, pool)
    assert torch.equal(donors_of(data.rows(2, 3), pool), whole[2:3])
    assert not torch.equal(donors_of(data, pool, seed=1), whole)


def test_classes_take_turns_as_donors():
    # Of class 2 there are 8, of the others two each.
    data, pool = batch(n=3), batch(n=12, seed=5)
    kinds = torch.tensor([0, 0, 1, 1] + [2] * 8)
    pool = replace(pool, label=kinds)
    for which, expected in (("any", [2, 2, 2]), ("other_class", None), ("same_class", None)):
        chosen = donors_of(data, pool, donors=which, count=6)
        for row, found in enumerate(kinds[chosen]):
            counts = torch.bincount(found[chosen[row] >= 0], minlength=3).tolist()
            own = int(data.label[row])
            if which == "other_class":
                expected = [[0, 2, 4], [2, 0, 4], [2, 2, 0]][own]
            elif which == "same_class":
                expected = [[2, 0, 0], [0, 2, 0], [0, 0, 6]][own]
            assert counts == expected, (which, row)
    first = donors_of(
        replace(batch(n=64), label=torch.full((64,), -1)), pool, donors="any", count=1
    )
    assert torch.bincount(kinds[first[:, 0]]).min() > 10  # the class is drawn, not the cell


def test_donors_without_a_label_have_the_predicted_class():
    data, pool = batch(n=4), batch(n=12, seed=5)
    unknown = torch.full((12,), -1)
    data, pool = (replace(each, inputs=each.inputs * 9) for each in (data, pool))
    pool.inputs[::2] *= -5
    chosen = donors_of(replace(data, label=unknown[:4]), replace(pool, label=unknown), count=50)
    model = net()
    own, theirs = model(data.inputs).argmax(1), model(pool.inputs).argmax(1)
    assert len(theirs.unique()) > 1
    for row in range(4):
        found = chosen[row][chosen[row] >= 0]
        assert set(found.tolist()) == set((theirs != own[row]).nonzero()[:, 0].tolist())


def test_cells_that_cannot_be_donors():
    data, pool = batch(n=2), batch(n=4, seed=5)
    cell = pool.regions["cell"].clone()
    cell[0], cell[1] = False, True
    inputs = pool.inputs.clone()
    inputs[2, 0, 0, 0] = torch.nan
    pool = replace(pool, inputs=inputs, regions={"cell": cell})
    assert set(donors_of(data, pool, donors="any").flatten().tolist()) == {3, -1}


def test_no_pool_one_class_or_no_mask_is_a_sentence_or_nan():
    data = batch()
    with pytest.warns(AttrscoreWarning, match="Other cells are needed, and there is no pool"):
        assert np.isnan(swapped(net(), data, None)["swap"]).all()
    one = replace(data, label=torch.zeros(4, dtype=torch.int64))
    others = replace(one, ids=list("abcd"))
    table = evaluate(net(), one, scorers="swap", pool=others, progress="none")
    assert table["swap"].isna().all()
    assert set(table["reason"]) == {
        "swap: no cell of a known other class in the pool can be a donor."
    }
    cell = data.regions["cell"].clone()
    cell[1], cell[2] = False, True
    columns = swapped(net(), replace(data, regions={"cell": cell}), batch(seed=4, n=6))
    assert np.isnan(columns["swap.outside"]).tolist() == [False, True, True, False]
    crowded = {"cell": data.regions["cell"], "neighbours": ~data.regions["cell"]}
    table = evaluate(
        net(), replace(data, regions=crowded), scorers="swap", pool=batch(seed=4), progress="none"
    )
    assert set(table["reason"]) == {"swap: cell and neighbours leave no background."}
    assert table["swap.inside"].notna().all()
    assert table[["swap.cell", "swap.cell_margin", "swap.outside_share"]].isna().all(axis=None)
    with pytest.raises(DataError, match="crops of the pool are"):
        evaluate(net(), data, scorers="swap", pool=box(2, 2, 0, 1.0), progress="none")


def test_a_job_of_many_maps_swaps_once():
    model, calls = net(), []
    model.register_forward_hook(lambda _model, args, _output: calls.append(len(args[0])))
    scorers = {"swap": SCORERS.build("swap", count=3, chunk=9)}
    options = {"pool": batch(seed=4, n=6), "progress": "none"}
    for methods, layers in ((["grad_cam"], ["low"]), (["grad_cam", "hires_cam"], ["low", "high"])):
        calls.clear()
        evaluate(model, batch(), methods=methods, layers=layers, scorers=scorers, **options)
        # Of the batch one for all maps, and 4 cells x 3 sides x 3 donors in nines.
        assert [calls.count(each) for each in (4, 9)] == [1, 4]
        assert set(calls) <= {1, 2, 4, 9}  # crops alone find layers, and try the model


def test_an_embedding_drops_in_standard_deviations_of_the_pool():
    data, pool = box(2, 2, 0, 1.0), box(2, 6, 1, -1.0)
    cell = data.regions["cell"][0].double()
    columns = swapped(Reads(cell), data, pool, target=Embedding(), count=6)
    values = (pool.inputs[:, 0] * cell).flatten(1).sum(1)
    clean = (data.inputs[:, 0] * cell).flatten(1).sum(1)
    expected = (clean - values.mean()) / values.std()
    np.testing.assert_allclose(columns["swap.inside"], expected)
    for column in ("inside_flips", "cell_flips", "outside_margin", "cell_margin"):
        assert np.isnan(columns[f"swap.{column}"]).all()
    assert (columns["swap.outside_share"] == 0).all()


def test_a_margin_that_is_infinite_has_a_reason():
    data, pool = box(2, 2, 0, 1.0), box(2, 6, 1, -1.0)

    class Certain(Reads):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[:, :1].sigmoid()

    certain, pool = Certain(data.regions["cell"][0]), replace(pool, inputs=1e3 * pool.inputs)
    target = Predicted(one_output="probability")
    options = {"target": target, "scorers": "swap", "pool": pool, "progress": "none"}
    table = evaluate(certain, data, methods="saliency", **options)
    assert set(table["reason"]) == {"swap: a margin is infinite."}
    assert table["swap.inside_margin"].isna().all()
    assert table["swap.inside_flips"].notna().all()


@pytest.mark.parametrize("fill", ["mean", "zero", "blur", "noise", "other_cell"])
def test_masking_leaves_the_side_that_is_read_alone(fill):
    data, pool = box(2, 3, 0, 1.0), box(2, 3, 1, -1.0)
    scorer = SCORERS.build("mask_outside", fill=fill, blur=0.3)
    model = Reads(data.regions["cell"][0] / 10)
    options = {"methods": "saliency", "pool": pool, "progress": "none"}
    table = evaluate(model, data, scorers={"m": scorer}, **options)
    assert (table["m.outside"] == 0).all()
    assert (table["m.inside"] != 0).all()
    assert scorer.needs_pool == (fill == "other_cell")


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("swap", {"donors": "other"}, "donors='other' is not a choice"),
        ("swap", {"count": 0}, "count=0 must be at least 1"),
        ("swap", {"remainder": "zero"}, "remainder='zero' is not a choice"),
        ("mask_outside", {"fill": "black"}, "fill='black' is not a choice"),
        ("mask_outside", {"blur": 0}, "blur=0 must be above 0"),
    ],
)
def test_wrong_options(name, options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        SCORERS.build(name, **options)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_examples_are_the_crops_that_the_swap_asks_about(dimensions):
    """The donor is dark and the cell bright: a side is dark where it should be alone."""
    data, pool = box(dimensions, 3, 1, 1.0), box(dimensions, 4, 2, -1.0)
    cell = data.regions["cell"][:, None]
    run = Pass(Reads(cell[0, 0]), data, Predicted(), {}, pool=pool)
    images, output = SCORERS.build("swap").examples(run)
    assert ((images["outside"] < 0) == ~cell).all()
    assert ((images["inside"] < 0) == cell).all()
    assert (images["cell"][cell] < 0).all()
    assert output.shape == (3, 4, 2)
    assert output.argmax(2).tolist() == [[0, 0, 1, 1]] * 3
