"""What every registered scorer must hold, in 2D and 3D; a new plugin joins by existing.

Maps are given, so scorers are seen without methods. Those that ask the network again (deletion,
swap) run on a small real one; what can only hold for scores of a map and its regions (scale, flips,
flat maps) is asked of the others, which are told apart by whether they touch the network.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from nets import CHEAP, SPACES, cells, net, pool
from torch import Tensor

from attrscore.core import INPUT, SCORER_FAILED, Batch
from attrscore.engine import run
from attrscore.errors import UnsupportedError
from attrscore.heat import Heat
from attrscore.registry import SCORERS
from attrscore.scorers.nulls import standing

# Further settings of those that behave otherwise with them.
NEED = {
    "iou:quantile": {"threshold": "quantile"},
    "iou:fixed": {"threshold": "fixed"},
    "dice:quantile": {"threshold": "quantile"},
    "dice:fixed": {"threshold": "fixed"},
    "pointing_game:tolerance": {"tolerance": 0.5},
    "top_k:number": {"k": 7},
    "channel_shares:all": {"regions": None, "stains": ["DNA", "AGP"]},
    "grad_camo:nucleus": {"region": "nucleus"},
    "distance:cytoplasm": {"region": "cytoplasm"},
}
NAMES = [e.name for e in SCORERS.entries() if e.alias_of is None]
# What the region or the crop alone says, whatever the map.
OF_THE_MASK = (".chance", ".area", ".highest", ".lowest")
# Region-free, or defined for regions that are empty, as their docstrings say.
ANY_REGION = {"sparsity", "entropy", "effective_volume", "region_shares", "channel_shares"}
# These need a map of every stain.
OF_THE_INPUT = {"channel_shares"}
# Its random maps follow from the cell, and do not flip with the map.
DRAWS = {"random_map"}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def build(name: str):
    plain = name.partition(":")[0]
    return SCORERS.build(plain, **CHEAP.get(plain, {}), **NEED.get(name, {}))


class Bare:
    """A pass without a network."""

    def __init__(self, data: Batch) -> None:
        self.batch = data

    def need_pool(self) -> Batch:
        return pool(len(self.batch.space)).to(self.batch.inputs.device)

    def once(self, key, compute):  # nothing is kept
        return compute()


class Given:
    """A method whose maps are given, by the ids of cells."""

    def __init__(self, signed: Tensor, data: Batch, layer: str) -> None:
        self.explains = INPUT if layer == INPUT else "layers"
        self.layer = layer
        self.of = dict(zip(data.ids, signed, strict=True))

    def __call__(self, current, /):
        return {self.layer: torch.stack([self.of[i] for i in current.batch.ids])}


def signed_maps(dimensions: int, layer: str, n: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    space = SPACES[dimensions]
    grid = space if layer == INPUT else tuple(s // 2 for s in space)
    return torch.randn((n, 2, *grid), generator=generator, dtype=torch.float64)


def scored(name: str, signed: Tensor, data: Batch, layer: str = INPUT, on_error="raise", **options):
    """Column -> (N,), and the whole row."""
    options = {"pool": pool(len(data.space)), **options}
    (result,) = run(
        net(len(data.space)),
        data,
        methods=Given(signed, data, layer),
        scorers={"s": build(name)},
        layers="high",
        on_error=on_error,
        **options,
    )
    columns = {key: v for key, v in result.columns.items() if key == "s" or key.startswith("s.")}
    assert columns
    return columns, result.columns


def of_the_map(name: str, layer: str = INPUT) -> bool:
    """Whether a scorer does with the map, its regions and masks of other cells: no network."""
    signed = signed_maps(2, layer)
    try:
        build(name)(Heat(signed, SPACES[2], layer=layer), Bare(cells(2)))
    except (AttributeError, UnsupportedError):
        return False
    return True


ALL = [*NAMES, *NEED]
OF_MAPS = [name for name in ALL if of_the_map(name)]


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
def test_a_number_a_cell_or_a_reason(name, dimensions, layer):
    columns, row = scored(name, signed_maps(dimensions, layer), cells(dimensions), layer, "record")
    for values in columns.values():
        assert values.shape == (4,)
        assert values.dtype == np.float64
        assert not np.isinf(values).any()
    if name.partition(":")[0] in OF_THE_INPUT and layer != INPUT:
        assert lost(columns).all()
        assert all(reason.startswith("s cannot work here: ") for reason in row["reason"])
        assert (row["status"] == "ok").all()
    else:
        assert not all(np.isnan(values).all() for values in columns.values())
        assert ((row["reason"] != "") == lost(columns)).all()


@pytest.mark.parametrize("layer", [INPUT, "high"])
def test_a_batch_is_its_samples_in_any_order(name, dimensions, layer):
    signed, data = signed_maps(dimensions, layer), cells(dimensions)
    together, _ = scored(name, signed, data, layer, "record")
    for i in (2, 0, 3, 1):
        alone, _ = scored(name, signed[i : i + 1], data.rows(i, i + 1), layer, "record")
        for key, values in together.items():
            np.testing.assert_allclose(alone[key], values[i : i + 1], atol=1e-9, err_msg=key)


def test_bad_cells_are_undefined_and_spoil_no_other(name, dimensions):
    data = cells(dimensions, n=6)
    signed = signed_maps(dimensions, INPUT, n=6)
    regions = {key: region.clone() for key, region in data.regions.items()}
    for region in regions.values():
        region[1] = False
    regions["cell"][2], regions["neighbours"][2] = True, False
    signed[3, 0, ..., 0] = torch.nan
    signed[4] = 0
    signed[5] = -1
    data = replace(data, regions=regions)

    columns, row = scored(name, signed, data)

    assert list(row["status"]) == [
        "ok",
        "empty_region",
        "full_region",
        "nonfinite",
        "no_positive_mass",
        "no_positive_mass",
    ]
    alone, _ = scored(name, signed[:1], data.rows(0, 1))
    for key, values in columns.items():
        np.testing.assert_allclose(values[:1], alone[key], atol=1e-9, err_msg=key)
    assert (row["reason"][1:] == "").all()  # the status says it
    for key, values in columns.items():
        assert not np.isinf(values).any(), key
        if name not in OF_MAPS or key.endswith(OF_THE_MASK):
            continue
        assert np.isnan(values[3:]).all(), key
        if name.partition(":")[0] not in ANY_REGION:
            undefined = values[1:2] if "nucleus" in name or "cytoplasm" in name else values[1:3]
            assert np.isnan(undefined).all(), key


@pytest.mark.parametrize("missing", ["spacing", "neighbours", "nucleus"])
def test_what_a_dataset_lacks_is_named(name, dimensions, missing):
    data = cells(dimensions)
    if missing == "spacing":
        data = replace(data, spacing=None)
    else:
        rest = {key: region for key, region in data.regions.items() if key != missing}
        data = replace(data, regions=rest)
    columns, row = scored(name, signed_maps(dimensions, INPUT), data, on_error="record")
    if all(np.isnan(values).all() for values in columns.values()):
        assert missing == "nucleus"
        assert all("'nucleus'" in reason for reason in row["reason"])
    else:
        assert ((row["reason"] != "") == lost(columns)).all()
        assert not any(reason.startswith(SCORER_FAILED) for reason in row["reason"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precision_of_the_map_does_not_matter(name, dimensions, dtype):
    data = cells(dimensions)
    eighths = (8 * signed_maps(dimensions, INPUT)).round() / 8
    expected, _ = scored(name, eighths, data)
    found, _ = scored(name, eighths.to(dtype), data)
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, atol=1e-6, err_msg=key)


@pytest.mark.parametrize("name", OF_MAPS)
@pytest.mark.parametrize("device", DEVICES)
def test_scores_lie_where_the_heat_does(name, dimensions, device):
    signed, data = signed_maps(dimensions, INPUT), cells(dimensions)
    here = build(name)(Heat(signed, data.space, layer=INPUT), Bare(data))
    there = build(name)(Heat(signed.to(device), data.space, layer=INPUT), Bare(data.to(device)))
    if isinstance(here, Tensor):
        here, there = {"score": here}, {"score": there}
    for key, values in there.items():
        assert values.device.type == device, key
        torch.testing.assert_close(values.cpu(), here[key], rtol=0, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("name", OF_MAPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layer", [INPUT, "high"])
def test_scale_changes_nothing(name, dimensions, dtype, layer):
    data, signed = cells(dimensions), signed_maps(dimensions, layer).to(dtype)
    expected, _ = scored(name, signed, data, layer, "record")
    for scale in (1e-30, 1e-3, 1e30):
        found, _ = scored(name, signed * scale, data, layer, "record")
        for key, values in expected.items():
            np.testing.assert_allclose(found[key], values, atol=1e-6, err_msg=key)


@pytest.mark.parametrize("name", [n for n in OF_MAPS if n not in DRAWS])
@pytest.mark.parametrize("layer", [INPUT, "high"])
def test_map_and_regions_flipped_together(name, dimensions, layer):
    data, others, signed = cells(dimensions), pool(dimensions), signed_maps(dimensions, layer)
    axes = tuple(range(1, dimensions + 1))
    flipped, turned = (
        replace(each, regions={key: region.flip(axes) for key, region in each.regions.items()})
        for each in (data, others)
    )
    expected, _ = scored(name, signed, data, layer, "record")
    found, _ = scored(
        name, signed.flip([a + 1 for a in axes]), flipped, layer, "record", pool=turned
    )
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
        return {"density": 1, "log_density_ratio": 0}.get(last, columns.get(f"{key}.area"))
    if name == "channel_shares":
        region = key.split(".")[2] if key.count(".") == 2 else None
        if region is None:
            return 1 / 2
        others, _ = scored("region_shares", torch.ones_like(data.inputs), data)
        return others[f"s.{region}.area"] / 2
    area = data.regions["cell"].flatten(1).double().mean(1)
    if name == "circular_shift":
        return {"s": 0.5, "s.mean": area, "s.sd": 0, "s.z": np.nan}[key]
    if name == "mask_swap":  # a flat map has the share f on any mask
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
    columns, row = scored(
        name, torch.full_like(signed_maps(dimensions, layer), 0.3), data, layer, "record"
    )
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
