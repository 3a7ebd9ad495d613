"""Scorers against independent sources: brute force, scipy, scikit-image and Quantus.

Quantus is called, never copied. Where it is wrong a test shows the documented difference.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation, binary_erosion
from scipy.spatial.distance import cdist, dice, jaccard
from scipy.stats import entropy

from attrscore.core.contracts import INPUT, Batch
from attrscore.core.heat import Heat
from attrscore.core.registry import SCORERS
from attrscore.scorers import (
    distance_to,
    gini,
    hottest_share,
    mask_ratio,
    mean_distance,
    otsu,
    roc_auc,
    shannon_entropy,
    share_within,
)

SPACES = {2: (9, 8), 3: (4, 6, 5)}


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None,
        reason=f"{package} is not installed; make test installs it",
    )


class Run:
    """A pass without a network."""

    def __init__(self, data: Batch) -> None:
        self.batch = data

    def once(self, key, compute):
        return compute()


def case(dimensions: int, seed: int, n: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Heat and mask (N, *S)."""
    generator = torch.Generator().manual_seed(seed)
    space = SPACES[dimensions]
    heat = torch.rand((n, *space), generator=generator, dtype=torch.float64)
    mask = torch.rand((n, *space), generator=generator) < 0.3
    mask.flatten(1)[:, 0], mask.flatten(1)[:, 1] = True, False
    return heat, mask


def score(name: str, heat: torch.Tensor, mask: torch.Tensor, spacing=None, **options):
    data = Batch(heat[:, None], {"cell": mask}, spacing=spacing)
    found = SCORERS.build(name, **options)(Heat(heat[:, None], data.space, layer=INPUT), Run(data))
    return {"score": found} if isinstance(found, torch.Tensor) else found


def brute_distance(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    places = np.argwhere(np.ones_like(mask)) * spacing
    on = mask.ravel()
    apart = cdist(places, places)
    return np.where(on, -apart[:, ~on].min(1), apart[:, on].min(1)).reshape(mask.shape)


@settings(max_examples=30)
@given(st.sampled_from([2, 3]), st.integers(0, 10**6), st.floats(0.2, 3))
def test_distance_is_the_nearest_voxel_of_the_other_side(dimensions, seed, step):
    heat, mask = case(dimensions, seed)
    spacing = (step, 0.7, 0.3)[:dimensions]
    found = distance_to(mask, spacing=spacing).numpy()
    expected = np.stack([brute_distance(each, spacing) for each in mask.numpy()])
    np.testing.assert_allclose(found, expected, atol=1e-12)
    near = distance_to(mask, spacing=spacing, reach=0.9).numpy()
    within = expected <= 0.9 + 1e-12  # a voxel a step of 0.9 away is at 0.9, up to rounding
    np.testing.assert_allclose(near[within], expected[within], atol=1e-12)
    assert (near[~within] > 0.9).all()

    weights = heat.numpy()
    axes = tuple(range(1, dimensions + 1))
    mean = (weights * expected).sum(axes) / weights.sum(axes)
    np.testing.assert_allclose(mean_distance(heat, mask, spacing=spacing), mean, atol=1e-12)
    columns = score("distance", heat, mask, spacing)
    np.testing.assert_allclose(columns["score"], mean, atol=1e-12)
    outside = (weights * expected.clip(0)).sum(axes) / weights.sum(axes)
    np.testing.assert_allclose(columns["outside"], outside, atol=1e-12)
    np.testing.assert_allclose(columns["chance"], expected.mean(axes), atol=1e-12)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("reach", [0.3, 0.6, 1.3])
def test_tolerance_curve_is_the_score_of_the_dilated_mask(dimensions, reach):
    heat, mask = case(dimensions, 5)
    mask &= torch.rand(mask.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    mask.flatten(1)[:, 0] = True
    spacing = (0.6, 0.3, 0.3)[:dimensions]
    offsets = [range(-math.ceil(reach / s), math.ceil(reach / s) + 1) for s in spacing]
    ball = np.zeros([len(each) for each in offsets], bool)
    for place in itertools.product(*offsets):
        far = math.dist((0,) * dimensions, [p * s for p, s in zip(place, spacing, strict=True)])
        ball[tuple(p - each[0] for p, each in zip(place, offsets, strict=True))] = (
            far <= reach + 1e-9
        )
    wide = torch.from_numpy(np.stack([binary_dilation(each, ball) for each in mask.numpy()]))
    thin = np.stack([binary_erosion(~each, ball, border_value=1) for each in mask.numpy()])
    less = score("tolerance_curve", heat, ~mask, spacing, tolerances=[-reach])
    np.testing.assert_allclose(
        less[f"{-reach:g}"], mask_ratio(heat, torch.from_numpy(thin)), atol=1e-12
    )
    columns = score("tolerance_curve", heat, mask, spacing, tolerances=[0, reach])
    np.testing.assert_allclose(columns["0"], mask_ratio(heat, mask), atol=1e-12)
    np.testing.assert_allclose(columns[f"{reach:g}"], mask_ratio(heat, wide), atol=1e-12)
    pure = share_within(heat, mask, reach, spacing=spacing)
    np.testing.assert_allclose(columns[f"{reach:g}"], pure, atol=1e-12)
    hottest = heat.flatten(1).argmax(1, keepdim=True)
    hit = wide.flatten(1).gather(1, hottest)[:, 0].double()
    hit[wide.flatten(1).all(1)] = torch.nan
    pointing = score("pointing_game", heat, mask, spacing, tolerance=reach)
    np.testing.assert_array_equal(pointing["score"], hit)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_ties_count_as_the_mean_over_all_orders(seed, k):
    generator = torch.Generator().manual_seed(seed)
    heat = torch.randint(1, 4, (1, 12), generator=generator).double()
    mask = torch.rand((1, 12), generator=generator) < 0.4
    mask[:, 0], mask[:, 1] = True, False
    total = 0.0
    for _ in range(4000):
        order = torch.argsort(heat[0] + 0.5 * torch.rand(12, generator=generator), descending=True)
        total += float(mask[0, order[:k]].double().mean())
    assert float(hottest_share(heat, mask, k)) == pytest.approx(total / 4000, abs=0.04)


@settings(max_examples=30)
@given(st.sampled_from([2, 3]), st.integers(0, 10**6))
def test_gini_and_entropy_from_their_other_definitions(dimensions, seed):
    heat, _ = case(dimensions, seed)
    flat = heat.flatten(1).numpy()
    apart = np.abs(flat[:, :, None] - flat[:, None]).mean((1, 2))
    np.testing.assert_allclose(gini(heat), apart / (2 * flat.mean(1)), atol=1e-12)
    np.testing.assert_allclose(shannon_entropy(heat), entropy(flat, axis=1), atol=1e-12)
    columns = score("effective_volume", heat, heat > 0.5, (0.5, 0.4, 0.3)[:dimensions])
    volume = np.exp(entropy(flat, axis=1)) * math.prod((0.5, 0.4, 0.3)[:dimensions])
    np.testing.assert_allclose(columns["volume"], volume, atol=1e-9)


@settings(max_examples=30)
@given(st.sampled_from([2, 3]), st.integers(0, 10**6))
def test_overlap_at_otsus_threshold(dimensions, seed):
    skimage = pytest.importorskip("skimage.filters")
    heat, mask = case(dimensions, seed)
    ours = otsu(heat)
    for i, each in enumerate(heat.numpy()):
        half = (each.max() - each.min()) / 256 / 2
        assert float(ours[i]) - half == pytest.approx(skimage.threshold_otsu(each), abs=1e-9)
    for name, theirs in (("iou", jaccard), ("dice", dice)):
        found = score(name, heat, mask)["score"]
        for i in range(len(heat)):
            hot = (heat[i] >= ours[i]).flatten().numpy()
            assert float(found[i]) == pytest.approx(1 - theirs(hot, mask[i].flatten().numpy()))


@pytest.mark.parametrize("name", ["iou", "dice"])
def test_overlap_at_fixed_and_quantile_thresholds(name):
    heat, mask = case(2, 3)
    theirs = {"iou": jaccard, "dice": dice}[name]
    for i, each in enumerate(heat.flatten(1)):
        on = mask[i].flatten().numpy()
        limits = {"fixed": 0.25 * each.max(), "quantile": each.sort(descending=True).values[17]}
        for threshold, limit in limits.items():
            found = score(name, heat, mask, threshold=threshold, fraction=0.25)
            hot = (each >= limit).numpy()
            assert float(found["score"][i]) == pytest.approx(1 - theirs(hot, on), abs=1e-9)
            assert float(found["selected"][i]) == pytest.approx(hot.mean())


@pytest.fixture(scope="module")
def quantus():
    if importlib.util.find_spec("quantus") is None:
        pytest.skip("quantus is not installed; make test installs it")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        import quantus
    return quantus


def peer(metric, heat: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    """Quantus's scores of a batch; it reads 3D crops as images of one channel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.array(
            metric(
                model=None,
                x_batch=np.zeros((len(heat), 1, *heat.shape[1:])),
                y_batch=np.zeros(len(heat), dtype=int),
                a_batch=heat[:, None].numpy().copy(),
                s_batch=mask[:, None].numpy(),
                channel_first=True,
            ),
            dtype=float,
        )


PLAIN = {"abs": False, "normalise": False, "disable_warnings": True}


@needs("quantus")
@pytest.mark.parametrize("dimensions", [2, 3])
def test_scores_equal_those_of_quantus(quantus, dimensions):
    heat, mask = case(dimensions, 11, n=4)
    size = heat[0].numel()
    regions = score("region_shares", heat, mask, regions=["cell"])
    for ours, theirs, tolerance in (
        (regions["cell"], quantus.RelevanceMassAccuracy(**PLAIN), 1e-12),
        (regions["cell"], quantus.AttributionLocalisation(**PLAIN), 1e-12),
        (score("relevance_rank", heat, mask)["score"], quantus.RelevanceRankAccuracy(**PLAIN), 0),
        (score("top_k", heat, mask, k=7)["score"], quantus.TopKIntersection(k=7, **PLAIN), 1e-12),
        (score("pointing_game", heat, mask)["score"], quantus.PointingGame(**PLAIN), 0),
        (score("auc", heat, mask)["score"], quantus.AUC(**PLAIN), 1e-12),
        # It adds 1e-7 to every pixel, and 1e-12 under the logarithm.
        (score("sparsity", heat, mask)["score"], quantus.Sparseness(**PLAIN), 1e-6),
        (score("entropy", heat, mask)["score"] * math.log(size), quantus.Complexity(**PLAIN), 1e-8),
    ):
        np.testing.assert_allclose(ours, peer(theirs, heat, mask), atol=tolerance)


@needs("quantus")
def test_an_empty_mask_is_undefined_and_no_hit(quantus):
    heat, mask = case(2, 1)
    mask[:] = False
    assert peer(quantus.PointingGame(**PLAIN), heat, mask).tolist() == [1, 1]  # bool(NaN)
    assert score("pointing_game", heat, mask)["score"].isnan().all()


@needs("quantus")
def test_ties_do_not_depend_on_the_order_of_voxels(quantus):
    flat = torch.full((1, 6, 6), 0.5, dtype=torch.float64)
    flat[0, 3, 3] = 0.2  # it refuses flat maps
    corner = torch.zeros(1, 6, 6, dtype=torch.bool)
    corner[:, :2, :3] = True
    for metric, ours in (
        (quantus.RelevanceRankAccuracy(**PLAIN), "relevance_rank"),
        (quantus.TopKIntersection(k=6, **PLAIN), "top_k"),
    ):
        options = {"k": 6} if ours == "top_k" else {}
        theirs = [peer(metric, flat, m)[0] for m in (corner, corner.flip(1, 2))]
        assert theirs[0] != theirs[1]
        for mask in (corner, corner.flip(1, 2)):
            found = score(ours, flat, mask, **options)["score"]
            assert float(found) == pytest.approx(6 / 35, abs=1e-12)
    # Of 35 hottest voxels 6 lie on the mask: it counts a hit, we count the share that hits.
    assert peer(quantus.PointingGame(**PLAIN), flat, corner).tolist() == [1]
    assert float(score("pointing_game", flat, corner)["score"]) == pytest.approx(6 / 35)


@needs("quantus")
def test_scores_do_not_depend_on_other_maps_or_on_hidden_steps(quantus):
    heat, mask = case(2, 8)
    faint = heat * torch.tensor([1e-6, 1.0], dtype=torch.float64).view(2, 1, 1)
    # By default it divides by the hottest pixel of the batch, then adds 1e-7 to every pixel.
    metric = quantus.Sparseness(disable_warnings=True)
    together, alone = peer(metric, faint, mask)[0], peer(metric, faint[:1], mask[:1])[0]
    assert abs(together - alone) > 0.01
    ours = score("sparsity", faint, mask)["score"]
    torch.testing.assert_close(ours, gini(heat), rtol=0, atol=1e-12)


def test_blank_and_nonfinite_maps_have_no_number():
    heat, mask = case(2, 2, n=4)
    heat[0], heat[1, 0, 0], heat[2, 0, 0] = 0, torch.nan, torch.inf
    for found in (
        gini(heat),
        shannon_entropy(heat),
        hottest_share(heat, mask, 3),
        mean_distance(heat, mask, spacing=(1, 1)),
        otsu(heat),
        roc_auc(heat, mask) if heat[0].any() else torch.tensor([torch.nan] * 3 + [0.0]),
    ):
        assert found.isnan().tolist() == [True, True, True, False]
