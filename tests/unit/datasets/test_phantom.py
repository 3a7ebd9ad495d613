from __future__ import annotations

import numpy as np
import pytest
import torch

from attrscore.core.registry import DATASETS
from attrscore.datasets import Phantom
from attrscore.errors import ConfigError, DataError

SIZES = [(32, 32), (8, 24, 24)]


@pytest.mark.parametrize("size", SIZES)
def test_batch_fits_table_and_spec(size):
    phantom = Phantom(size=size, cells=12)
    batch = phantom.read(range(12))
    assert batch.inputs.shape == (12, phantom.spec.channels, *size)
    assert batch.inputs.dtype == torch.float32
    assert float(batch.inputs.min()) >= 0
    assert float(batch.inputs.max()) <= 1
    assert list(batch.ids) == phantom.table["id"].tolist()
    assert batch.ids[3] == "phantom-0-000003"
    assert batch.label.tolist() == phantom.table["label"].tolist()
    assert set(batch.regions) == {"cell", "nucleus", "cytoplasm", "neighbours"}
    assert phantom.spec.size == size
    assert phantom.spec.classes == len(phantom.classes) == 2
    assert phantom.skipped == {}


@pytest.mark.parametrize("size", SIZES)
def test_each_crop_depends_on_its_row_only(size):
    phantom = Phantom(size=size, cells=10, seed=3)
    everything = phantom.read(range(10))
    some = Phantom(size=size, cells=10, seed=3).read([5, 0, 9, 5][:3])
    for place, row in enumerate([5, 0, 9]):
        assert torch.equal(some.inputs[place], everything.inputs[row])
        for name, region in some.regions.items():
            assert torch.equal(region[place], everything.regions[name][row])
    longer = Phantom(size=size, cells=20, seed=3)
    assert torch.equal(longer.read([5]).inputs[0], everything.inputs[5])
    assert not torch.equal(
        Phantom(size=size, cells=10, seed=4).read([5]).inputs[0], everything.inputs[5]
    )


def test_no_rows_give_an_empty_batch():
    assert Phantom(cells=2).read([]).inputs.shape == (0, 3, 64, 64)


@pytest.mark.parametrize("size", [(64, 64), (16, 48, 48)])
def test_regions_nest_and_cells_have_the_area_asked_for(size):
    phantom = Phantom(size=size, cells=20, neighbours=(1, 3))
    regions = phantom.read(range(20)).regions
    cell, nucleus = regions["cell"], regions["nucleus"]
    assert (nucleus & ~cell).sum() == 0
    assert torch.equal(nucleus | regions["cytoplasm"], cell)
    assert (cell & regions["neighbours"]).sum() == 0
    fraction = cell.flatten(1).double().mean(1)
    assert fraction.min() > 0.06
    assert fraction.max() < 0.22
    assert phantom.table["Metadata_area_fraction"].to_numpy() == pytest.approx(fraction.numpy())
    assert (nucleus.flatten(1).sum(1) > 0).all()
    assert (regions["neighbours"].flatten(1).double().mean(1) > 0.01).all()


def test_the_same_images_carry_different_labels():
    cell = Phantom(cells=30)
    for carrier in ("background", "intensity"):
        other = Phantom(cells=30, carrier=carrier)
        assert torch.equal(other.read(range(6)).inputs, cell.read(range(6)).inputs)
    columns = {
        "cell": "Metadata_cell_texture",
        "neighbours": "Metadata_neighbours_texture",
        "background": "Metadata_background_texture",
        "intensity": "Metadata_cell_intensity",
    }
    for carrier, column in columns.items():
        table = Phantom(cells=30, carrier=carrier).table
        assert (table["label"] == table[column]).all()
        shared = [c for c in columns.values() if c != "Metadata_neighbours_texture"]
        assert table[shared].equals(cell.table[shared])


def test_neighbours_as_carrier_are_there_and_change_only_crops_that_had_none():
    plain, carried = Phantom(cells=40), Phantom(cells=40, carrier="neighbours")
    assert (carried.table["Metadata_neighbours"] >= 1).all()
    had = np.flatnonzero(plain.table["Metadata_neighbours"] > 0)[:5]
    assert torch.equal(plain.read(had).inputs, carried.read(had).inputs)
    without = int(np.flatnonzero(plain.table["Metadata_neighbours"] == 0)[0])
    before, after = plain.read([without]), carried.read([without])
    assert not before.regions["neighbours"].any()
    assert after.regions["neighbours"].any()
    assert torch.equal(before.regions["cell"], after.regions["cell"])
    assert plain.table["Metadata_neighbours_texture"][without] == -1


@pytest.mark.slow
def test_attributes_are_balanced_and_independent():
    table = Phantom(size=(8, 8), cells=2000, neighbours=(1, 1)).table
    bits = table[
        [
            "Metadata_cell_texture",
            "Metadata_neighbours_texture",
            "Metadata_background_texture",
            "Metadata_cell_intensity",
        ]
    ].to_numpy()
    # 2000 draws: the standard error of a share is 0.011, of a correlation 0.022
    assert np.abs(bits.mean(0) - 0.5).max() < 0.045
    assert np.abs(np.corrcoef(bits.T) - np.eye(4)).max() < 0.09


@pytest.mark.slow
@pytest.mark.parametrize("confounder", ["background", "neighbours", "intensity"])
@pytest.mark.parametrize("strength", [0.0, 0.8, 1.0])
def test_a_confounder_agrees_as_often_as_stated(confounder, strength):
    table = Phantom(
        size=(8, 8), cells=600, carrier="mixture", confounder=confounder, strength=strength
    ).table
    column = {
        "background": "Metadata_background_texture",
        "neighbours": "Metadata_neighbours_texture",
        "intensity": "Metadata_cell_intensity",
    }[confounder]
    assert (table["label"] == table["Metadata_cell_texture"]).all()
    agreement = (table["label"] == table[column]).mean()
    assert agreement == pytest.approx(strength, abs=0 if strength in (0, 1) else 0.06)


def test_a_mixture_of_strength_half_has_the_images_of_the_other_carriers():
    mixture = Phantom(cells=8, carrier="mixture", strength=0.5)
    assert torch.equal(mixture.read(range(8)).inputs, Phantom(cells=8).read(range(8)).inputs)


@pytest.mark.slow
def test_the_texture_changes_no_mean_and_stays_where_it_belongs():
    phantom = Phantom(cells=200, noise=0, neighbours=(0, 0))
    batch = phantom.read(range(200))
    agp = batch.inputs[:, phantom.stains.index("AGP")]
    means = (agp * batch.regions["cytoplasm"]).flatten(1).sum(1) / batch.regions[
        "cytoplasm"
    ].flatten(1).sum(1)
    bright = torch.tensor(phantom.table["Metadata_cell_intensity"].tolist()) == 1
    texture = torch.tensor(phantom.table["Metadata_cell_texture"].tolist())
    for group in (bright, ~bright):
        ratio = means[group & (texture == 1)].mean() / means[group & (texture == 0)].mean()
        assert float(ratio) == pytest.approx(1, abs=0.05)
    background = ~batch.regions["cell"]
    levels = (agp * background).flatten(1).sum(1) / background.flatten(1).sum(1)
    assert float(levels.std() / levels.mean()) < 0.05


def test_cells_are_balanced_over_wells_nested_in_plates():
    table = Phantom(size=(8, 8), cells=48, plates=3, wells=4).table
    counts = table.groupby(["Metadata_Plate", "Metadata_Well"]).size()
    assert len(counts) == 12
    assert set(counts) == {4}


@pytest.mark.parametrize(
    ("channels", "stains"), [(1, ("ER",)), (3, ("DNA", "ER", "AGP")), (5, None)]
)
def test_channels(channels, stains):
    phantom = Phantom(cells=1, channels=channels)
    assert phantom.read([0]).inputs.shape[1] == channels == len(phantom.stains)
    assert stains is None or phantom.stains == stains


def test_fingerprint_follows_the_options():
    assert Phantom(size=[64, 64]).fingerprint() == Phantom().fingerprint()
    options = ({"seed": 1}, {"carrier": "background"}, {"cells": 9}, {"noise": 0.0})
    prints = {Phantom(**option).fingerprint() for option in options} | {Phantom().fingerprint()}
    assert len(prints) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": [64]}, r"size=\[64\] must be 2 or 3 whole numbers"),
        ({"size": [4, 64]}, "at least 8"),
        ({"size": 64}, r"size=64 must be a list, such as size=\[64\]"),
        ({"channels": 6}, "channels=6 must be 1 to 5: DNA, ER, AGP, RNA, Mito"),
        ({"carrier": "cells"}, "Did you mean 'cell'"),
        ({"confounder": "cell"}, "confounder='cell' is not a choice"),
        ({"strength": 1.5}, "strength=1.5 must be within 0 and 1"),
        ({"area": [0.5, 0.2]}, "area=.* must be"),
        ({"neighbours": [3, 1]}, "neighbours=.* must be"),
        ({"neighbours": [0, 0], "carrier": "neighbours"}, "needs neighbours"),
        ({"offset": 0.5}, "offset=0.5"),
        ({"noise": -1}, "noise=-1"),
        ({"cells": 0}, "cells=0 must be a whole number of at least 1"),
        ({"seed": -1}, "seed=-1 must be a whole number of at least 0"),
    ],
)
def test_wrong_options_are_told_in_one_sentence(options, message):
    with pytest.raises(ConfigError, match=message):
        DATASETS.build("phantom", **options)


def test_a_row_that_does_not_exist():
    with pytest.raises(DataError, match="Row 2 does not exist; rows are 0 to 1"):
        Phantom(cells=2).read([0, 2])


@pytest.mark.slow
@pytest.mark.parametrize("size", [(48, 48), (8, 32, 32)])
def test_a_label_of_size_is_the_area_and_nothing_else(size):
    phantom = Phantom(size=size, cells=200, carrier="size")
    table, batch = phantom.table, phantom.read(range(200))
    area = batch.regions["cell"].flatten(1).double().mean(1).numpy()
    large = table["label"].to_numpy() == 1
    assert 0.4 < large.mean() < 0.6
    assert area[large].min() > area[~large].max()
    for name in ("cell_texture", "background_texture", "cell_intensity", "neighbours"):
        assert abs(table[f"Metadata_{name}"].corr(table["label"])) < 0.2, name


@pytest.mark.slow
def test_plates_and_wells_have_effects_of_their_own_where_asked():
    plain = Phantom(cells=96, plates=4, wells=6)
    alike, moved = plain.read(range(96)), {}
    for name in ("plate_effect", "well_effect"):
        moved[name] = Phantom(cells=96, plates=4, wells=6, **{name: 0.2}).read(range(96))
        assert torch.equal(moved[name].regions["cell"], alike.regions["cell"])
        assert float(moved[name].inputs.max()) <= 1
    dim = alike.inputs < 0.4  # not clipped
    units = {"plate_effect": ["Metadata_Plate"], "well_effect": ["Metadata_Plate", "Metadata_Well"]}
    for name, columns in units.items():
        ratio = torch.where(dim, moved[name].inputs, 0).flatten(2).sum(2)
        ratio = (ratio / torch.where(dim, alike.inputs, 0).flatten(2).sum(2)).log()
        groups = [plain.table[column].to_numpy() for column in columns]
        unit = np.unique(
            ["/".join(each) for each in zip(*groups, strict=True)], return_inverse=True
        )
        means = np.stack([ratio[unit[1] == one].mean(0).numpy() for one in range(len(unit[0]))])
        within = np.abs(ratio.numpy() - means[unit[1]]).max()
        assert within < 1e-4
        assert 0.1 < means.std() < 0.4
    with pytest.raises(ConfigError, match="plate_effect=2"):
        Phantom(plate_effect=2)
