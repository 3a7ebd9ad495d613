"""What every registered scorer must hold, in 2D and 3D; a new plugin joins by existing.

The contract is that of the conformance kit, which a stranger's plugin is asked too. What only our
docstrings promise is asked here: chance, flips, and the best there is.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from nets import CHEAP, cells, pool

from attrscore.core.contracts import INPUT, Batch
from attrscore.core.registry import SCORERS
from attrscore.scorers.nulls import standing
from attrscore.testing import Subject, checks, of_scorers
from attrscore.testing.of_scorers import OF_THE_MASK, of_the_map, signed_maps

# Further settings of those that behave otherwise with them.
NEED = {
    "iou:quantile": {"threshold": "quantile"},
    "iou:fixed": {"threshold": "fixed"},
    "dice:quantile": {"threshold": "quantile"},
    "dice:fixed": {"threshold": "fixed"},
    "pointing_game:tolerance": {"tolerance": 0.5},
    "top_k:number": {"k": 7},
    "channel_shares:all": {"regions": None, "stains": ["DNA", "AGP"]},
    "mask_swap:share": {"of": "share"},
    "grad_camo:nucleus": {"region": "nucleus"},
    "distance:cytoplasm": {"region": "cytoplasm"},
}
NAMES = [e.name for e in SCORERS.entries() if e.alias_of is None]
# These need a map of every stain.
OF_THE_INPUT = {"channel_shares"}
# Its random maps follow from the cell, and do not flip with the map.
DRAWS = {"random_map"}


def build(name: str):
    plain = name.partition(":")[0]
    return SCORERS.build(plain, **CHEAP.get(plain, {}), **NEED.get(name, {}))


def scored(name: str, signed, data: Batch, layer: str = INPUT, **options):
    """Column -> (N,), and the whole row."""
    subject = Subject(build(name), name, len(data.space))
    return of_scorers.scored(subject, signed, data, layer, **{"on_error": "record", **options})


ALL = [*NAMES, *NEED]
OF_MAPS = [name for name in ALL if of_the_map(build(name))]
CASES = [
    pytest.param(name, check, d, id=f"{name}-{check}-{d}")
    for name in ALL
    for check in checks("scorer")
    for d in ((2,) if check.once else (2, 3))
]


@pytest.mark.parametrize(("name", "check", "dimensions"), CASES)
def test_contract(name, check, dimensions):
    check(build(name), name=name, dimensions=dimensions)


@pytest.fixture(params=ALL)
def name(request) -> str:
    return request.param


@pytest.fixture(params=[2, 3])
def dimensions(request) -> int:
    return request.param


def lost(columns) -> np.ndarray:
    """Which cells have a NaN."""
    return np.logical_or.reduce([np.isnan(values) for values in columns.values()])


@pytest.mark.parametrize("layer", [INPUT, "high"])
def test_what_is_undefined_or_refused_has_a_reason(name, dimensions, layer):
    data = cells(dimensions)
    bare = replace(data, regions={"cell": data.regions["cell"]}, spacing=None)
    for given in (data, bare):
        columns, row = scored(name, signed_maps(dimensions, layer), given, layer)
        assert ((row["reason"] != "") == lost(columns)).all()
        assert (row["status"] == "ok").all() or "nucleus" in row["reason"][0]
        if name.partition(":")[0] in OF_THE_INPUT and layer != INPUT:
            assert lost(columns).all()
            assert all(reason.startswith("s cannot work here: ") for reason in row["reason"])


@pytest.mark.parametrize("name", [n for n in OF_MAPS if n not in DRAWS])
@pytest.mark.parametrize("layer", [INPUT, "high"])
def test_map_and_regions_flipped_together(name, dimensions, layer):
    data, others, signed = cells(dimensions), pool(dimensions), signed_maps(dimensions, layer)
    axes = tuple(range(1, dimensions + 1))
    flipped, turned = (
        replace(each, regions={key: region.flip(axes) for key, region in each.regions.items()})
        for each in (data, others)
    )
    expected, _ = scored(name, signed, data, layer)
    found, _ = scored(name, signed.flip([a + 1 for a in axes]), flipped, layer, pool=turned)
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, atol=1e-6, err_msg=key)


def by_chance(name: str, key: str, columns, data: Batch):
    """What a flat map gives, as the docstring states it."""
    name, _, setting = name.partition(":")
    if key.endswith(OF_THE_MASK):
        return columns[key]
    if name in ("pointing_game", "relevance_rank", "top_k", "distance", "tolerance_curve"):
        if key == "s.outside":
            return columns[key]
        chance = columns[f"{key}.chance"]
        return np.where((name == "tolerance_curve") & (chance == 1), np.nan, chance)
    if name in ("iou", "dice"):
        if setting == "":
            return np.nan  # a flat map has no Otsu threshold
        return columns["s.chance"] if key == "s" else columns["s.selected"]
    if name == "region_shares":
        last = key.rpartition(".")[2]
        known = {"density": 1, "log_density_ratio": 0, "clipped": 0}
        return known.get(last, columns.get(f"{key}.area"))
    if name == "channel_shares":
        region = key.split(".")[2] if key.count(".") == 2 else None
        if region is None:
            return 1 / 2
        others, _ = scored("region_shares", torch.ones_like(data.inputs), data)
        return others[f"s.{region}.area"] / 2
    area = data.regions["cell"].flatten(1).double().mean(1)
    if name == "circular_shift":
        return {"s": 0.5, "s.mean": area, "s.sd": 0, "s.z": np.nan}[key]
    if name == "mask_swap" and setting == "":  # a flat map has the lift 1 on any mask
        return {"s": 0.5, "s.mean": 1, "s.sd": 0, "s.z": np.nan}[key]
    if name == "mask_swap":  # and the share f
        others = pool(len(data.space)).regions["cell"].flatten(1).double().mean(1)
        return standing(area, others.expand(len(area), -1))[key.partition(".")[2] or "score"]
    if name == "random_map":  # f among the shares of random maps, which have their own mean
        z = (area.numpy() - columns["s.mean"]) / columns["s.sd"]
        return {**columns, "s.z": z}[key]
    if name == "grad_camo":
        return {"s": columns["s.chance"], "s.lift": 1, "s.above_chance": 0, "s.auc": 0.5}.get(
            key, columns[key]
        )
    return {"auc": 0.5, "sparsity": 0, "entropy": 1, "effective_volume": 1}[name]


@pytest.mark.parametrize("name", OF_MAPS)
@pytest.mark.parametrize("layer", [INPUT, "high"])
def test_flat_map_gives_the_stated_chance(name, dimensions, layer):
    data = cells(dimensions)
    columns, row = scored(name, torch.full_like(signed_maps(dimensions, layer), 0.3), data, layer)
    if name.partition(":")[0] in OF_THE_INPUT and layer != INPUT:
        return
    assert ((row["reason"] != "") == lost(columns)).all()
    for key, values in columns.items():
        if key == "s.volume":
            voxels = math.prod(data.space) * math.prod(data.spacing)
            np.testing.assert_allclose(values, voxels)
            continue
        expected = np.broadcast_to(by_chance(name, key, columns, data), values.shape)
        np.testing.assert_allclose(values, expected, atol=1e-6, err_msg=key)


@pytest.mark.parametrize(
    "name", [n for n in OF_MAPS if n.partition(":")[0] in ("grad_camo", "relevance_rank", "auc")]
)
def test_heat_on_the_cell_alone_is_perfect(name, dimensions):
    data = cells(dimensions)
    region = "nucleus" if "nucleus" in name else "cell"
    signed = data.regions[region].double()[:, None]
    columns, _ = scored(name, signed, data)
    np.testing.assert_allclose(columns["s"], 1, atol=1e-6)
    outside, _ = scored(name, 1 - signed, data)
    np.testing.assert_allclose(outside["s"], 0, atol=1e-6)
