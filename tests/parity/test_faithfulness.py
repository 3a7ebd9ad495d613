"""Faithfulness scorers against plain loops, Captum, Quantus and dense linear algebra."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.metrics import infidelity, sensitivity_max
from nets import SPACES, batch, net
from scipy import ndimage
from torch import nn

from attrscore.core.contracts import Batch
from attrscore.core.heat import Heat
from attrscore.core.passes import Pass, generator_of
from attrscore.core.registry import SCORERS
from attrscore.engine.run import run
from attrscore.methods import GradCAM, Saliency
from attrscore.scorers.faithfulness import impute, ranks
from attrscore.targets import Embedding, Index, Predicted


@pytest.fixture(params=[2, 3])
def dimensions(request) -> int:
    return request.param


def prepared(dimensions: int, target=None) -> tuple[Heat, Pass]:
    """A batch with maps whose voxels all differ."""
    data = batch(dimensions, n=2)
    generator = torch.Generator().manual_seed(1)
    signed = torch.rand((2, 1, *data.space), generator=generator, dtype=torch.float64)
    run = Pass(net(dimensions), data, target or Predicted(), {})
    return Heat(signed, data.space), run


def blurred(image: torch.Tensor, share: float) -> torch.Tensor:
    sigma = [0.0, *(share * extent for extent in image.shape[1:])]
    return torch.from_numpy(ndimage.gaussian_filter(image.numpy(), sigma))


@pytest.mark.parametrize("name", ["deletion", "insertion"])
@pytest.mark.parametrize("fill", ["blur", "zero", "mean"])
def test_curves_equal_a_plain_loop(dimensions, name, fill):
    heat, run = prepared(dimensions)
    steps = 7
    scored = SCORERS.build(name, fill=fill, steps=steps, chunk=5)(heat, run)["score"]
    model = run.model
    for i in range(2):
        image = run.batch.inputs[i]
        with torch.no_grad():
            explained = int(model(image[None])[0].argmax())
        mean = image.flatten(1).mean(1).view(-1, *[1] * dimensions)
        other = {
            "blur": blurred(image, 0.1),
            "zero": torch.zeros_like(image),
            "mean": mean.expand_as(image),
        }[fill]
        hottest = heat.native[i].flatten().argsort(descending=True)
        curve = []
        for step in range(steps + 1):
            start, end = (image, other) if name == "deletion" else (other, image)
            shown = start.clone().flatten(1)
            first = hottest[: round(step * hottest.numel() / steps)]
            shown[:, first] = end.flatten(1)[:, first]
            with torch.no_grad():
                output = model(shown.view(1, *image.shape))
            curve.append(float(output.softmax(1)[0, explained]))
        assert float(scored[i]) == pytest.approx(np.trapezoid(curve) / steps, abs=1e-10)


def test_ties_stand_in_a_drawn_order_and_places_do_not_count():
    cold = torch.zeros(1, 6, 6)
    one, two = (ranks(cold, ids=("a",), seed=seed) for seed in (0, 1))
    assert sorted(one[0].tolist()) == list(range(36))
    assert not torch.equal(one, two)
    cold[0, 5, 5] = 1
    assert int(ranks(cold, ids=("a",), seed=0)[0, 35]) == 0


def test_average_drop_by_hand(dimensions):
    heat, run = prepared(dimensions)
    columns = SCORERS.build("average_drop")(heat, run)
    for i in range(2):
        image, full = run.batch.inputs[i], heat.native[i]
        with torch.no_grad():
            clean = run.model(image[None]).softmax(1)[0]
            shown = run.model((image * full / full.max())[None]).softmax(1)[0]
        explained = int(clean.argmax())
        drop = float((clean - shown)[explained] / clean[explained])
        assert float(columns["score"][i]) == pytest.approx(max(0.0, drop))
        assert float(columns["increase"][i]) == float(drop < 0)


def test_a_linear_network_has_a_known_deletion():
    """A mean over n voxels of 1, filled with 0 in any order: the value falls from 1 to 0, area 1/2.

    Heat on the half that it reads: it falls within half the steps, area 1/4; off it, 3/4.
    """
    data = replace(batch(2, n=1), inputs=torch.ones(1, 2, *SPACES[2], dtype=torch.float64))
    half = torch.zeros(SPACES[2], dtype=torch.float64)
    half[: SPACES[2][0] // 2] = 1

    class Mean(nn.Module):
        def __init__(self, where: torch.Tensor) -> None:
            super().__init__()
            self.weight = nn.Parameter(where / where.sum())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x[:, 0] * self.weight).flatten(1).sum(1, keepdim=True)

    for where, hot, area in (
        (torch.ones_like(half), half, 1 / 2),
        (half, half, 1 / 4),
        (half, 1 - half, 3 / 4),
    ):
        run = Pass(Mean(where), data, Embedding(), {})
        heat = Heat(hot[None, None] + 1e-3, data.space)
        for name, expected in (("deletion", area), ("insertion", 1 - area)):
            scored = SCORERS.build(name, fill="zero", steps=12)(heat, run)["score"]
            # Within the half all voxels tie, and weigh alike.
            assert float(scored) == pytest.approx(expected, abs=1e-9)
        shown = SCORERS.build("average_drop")(Heat(hot[None, None], data.space), run)
        expected = 1 - float((hot * where).sum() / where.sum())
        assert float(shown["score"]) == pytest.approx(expected, abs=1e-9)


def test_imputation_solves_the_system_of_the_paper(dimensions):
    generator = np.random.default_rng(0)
    space = (5, 6) if dimensions == 2 else (3, 4, 5)
    image = generator.random((2, *space))
    removed = generator.random(space) < 0.6
    weights = {1: 1.0, 2: 0.5, 3: 0.25}  # 1/6 and 1/12 in 2D, times 6
    places = np.argwhere(removed)
    number = {tuple(place): row for row, place in enumerate(places)}
    system, right = np.zeros((len(places), len(places))), np.zeros((len(places), 2))
    for place, row in number.items():
        for offset in np.ndindex(*[3] * dimensions):
            step = np.array(offset) - 1
            other = tuple(np.array(place) + step)
            inside = all(0 <= o < extent for o, extent in zip(other, space, strict=True))
            if not step.any() or not inside:
                continue
            weight = weights[int(np.abs(step).sum())]
            system[row, row] += weight
            if other in number:
                system[row, number[other]] -= weight
            else:
                right[row] += weight * image[(slice(None), *other)]
    expected = image.copy()
    expected[:, removed] = np.linalg.solve(system, right).T
    np.testing.assert_allclose(impute(image, removed), expected, atol=1e-4)
    assert impute(image, np.zeros(space, bool)) is image
    np.testing.assert_allclose(impute(image, np.ones(space, bool))[0], image[0].mean(), rtol=1e-12)


def test_road_prefers_the_map_that_is_right(dimensions):
    _, run = prepared(dimensions)
    read = torch.zeros(run.batch.space, dtype=torch.float64)
    read[(..., slice(2, 6), slice(2, 6))] = 1

    class Roughness(nn.Module):
        """How far the box is from its own mean, which no neighbour can predict."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(read.clone())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x[:, 0].square() * self.weight).flatten(1).sum(1, keepdim=True)

    run = Pass(Roughness(), run.batch, Embedding(), {})
    hot = read[None, None].expand(2, -1, *run.batch.space)
    good, bad = (
        SCORERS.build("road", fractions=[0.3, 0.5])(Heat(each, run.batch.space), run)["score"]
        for each in (hot + 0.01, 1.01 - hot)
    )
    assert (good > bad).all()
    assert (good > 0).all()


def repeated_noise(cell: str, purpose: str, shape, draw, n: int) -> torch.Tensor:
    generator = generator_of(0, purpose, cell)
    return torch.stack([draw(shape, generator=generator) for _ in range(n)]).double()


@pytest.mark.parametrize("scaling", ["optimal", "none"])
def test_infidelity_is_captums(dimensions, scaling):
    model, data = net(dimensions), batch(dimensions, n=2)
    run = Pass(model, data, Predicted(), {})
    signed = Saliency(values="signed")(run)["input"]
    options = {"samples": 6, "noise": 0.05, "scaling": scaling}
    scored = SCORERS.build("infidelity", **options)(Heat(signed, data.space), run)
    for i, cell in enumerate(data.ids):
        noise = 0.05 * repeated_noise(cell, "infidelity", data.inputs.shape[1:], torch.randn, 6)
        expected = infidelity(
            model,
            lambda x, noise=noise: (noise, x - noise),
            data.inputs[i : i + 1],
            signed[i : i + 1],
            target=int(run.aux[i]),
            n_perturb_samples=6,
            normalize=scaling == "optimal",
        )
        assert float(scored[i]) == pytest.approx(float(expected), rel=1e-9)


def test_a_gradient_is_faithful_to_a_linear_network():
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.linspace(-1, 1, 12 * 10, dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x[:, 0].flatten(1) * self.weight).sum(1, keepdim=True)

    data = batch(2, n=2)
    run = Pass(Linear(), data, Embedding(), {})
    signed = Saliency(values="signed")(run)["input"]
    scorer = SCORERS.build("infidelity", scaling="none")
    assert scorer(Heat(signed, data.space), run).max() < 1e-20
    assert SCORERS.build("infidelity")(Heat(7 * signed, data.space), run).max() < 1e-20
    assert scorer(Heat(7 * signed, data.space), run).min() > 1e-3
    # Its gradient is the same everywhere.
    made = Heat(signed, data.space, method=Saliency(values="signed"), layer="input")
    assert SCORERS.build("sensitivity_max")(made, run).max() == 0


def test_sensitivity_is_captums(dimensions):
    model, data = net(dimensions), batch(dimensions, n=2)
    (result,) = run(
        model,
        data,
        methods={"mine": GradCAM()},
        layers="low",
        scorers={"sensitivity": SCORERS.build("sensitivity_max", samples=3, radius=0.1)},
    )
    for i in range(2):
        explained = int(result.columns["predicted"][i])
        expected = sensitivity_of(model, data.rows(i, i + 1), Index(index=explained))
        assert float(result.columns["sensitivity"][i]) == pytest.approx(expected, rel=1e-9)


def sensitivity_of(model: nn.Module, cell: Batch, target: Index) -> float:
    """Of Grad-CAM at the layer ``low`` of one cell, by Captum."""
    shape = cell.inputs.shape[1:]
    drawn = repeated_noise(cell.ids[0], "sensitivity", shape, torch.rand, 3)

    def explain(inputs):
        images = inputs[0] if isinstance(inputs, tuple) else inputs
        copies = [replace(cell, inputs=image[None]) for image in images]
        maps = [GradCAM()(Pass(model, copy, target, {"low": model.low})) for copy in copies]
        return (torch.cat([each["low"] for each in maps]),)

    def perturb(inputs):  # of one parameter, for Captum counts them
        return inputs + 0.1 * (2 * drawn - 1)

    return float(sensitivity_max(explain, cell.inputs, perturb_func=perturb, n_perturb_samples=3))


def test_deletion_is_the_pixel_flipping_of_quantus():
    quantus = pytest.importorskip("quantus")
    heat, run = prepared(2)
    # Of one channel: Quantus counts those of one place as so many features.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(240, 3)).eval()
    data = replace(run.batch, inputs=run.batch.inputs[:, :1].float())
    run = Pass(model, data, Predicted(), {})
    steps = 12  # of 120 voxels, so that each takes 10
    scored = SCORERS.build("deletion", fill="zero", steps=steps)(heat, run)["score"]
    flipping = quantus.PixelFlipping(
        features_in_step=10,
        perturb_baseline=0.0,
        normalise=False,
        abs=False,
        disable_warnings=True,
    )
    for i in range(2):
        (curve,) = flipping(
            model=model,
            x_batch=data.inputs[i : i + 1].numpy(),
            y_batch=run.aux[i : i + 1].numpy(),
            a_batch=heat.native[i : i + 1, None].numpy(),
            channel_first=True,
            softmax=True,
        )
        clean = float(run.output.softmax(1)[i, run.aux[i]])
        # Quantus leaves out the clean input, where attrscore's curve begins.
        expected = np.trapezoid([clean, *np.ravel(curve)]) / steps
        assert float(scored[i]) == pytest.approx(expected, abs=1e-6)
