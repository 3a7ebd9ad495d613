"""Mask ratios and a 3D Grad-CAM that can be checked by hand (PARITY of the project's notes)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attrscore.core.contracts import Batch
from attrscore.core.heat import Heat, HeatOptions
from attrscore.engine.run import run
from attrscore.scorers import mask_ratio
from attrscore.targets import Index


@pytest.mark.parametrize(
    ("signed", "mask", "expected"),
    [  # explainiverse (MIT), tests/test_localisation.py
        ([0.6, 0.0, 0.4, 0.0], [1, 0, 0, 0], 0.6),
        ([0.5, -0.8, 0.0, 0.0], [1, 1, 0, 0], 1.0),
        ([0.5, 0.3, 0.0, 0.0, -0.2], [1, 1, 0, 0, 0], 1.0),
        ([0.0, 0.0, 0.5, 0.3, 0.0], [1, 1, 0, 0, 0], 0.0),
    ],
)
def test_explainiverse_cases(signed, mask, expected):
    heat = torch.tensor([signed]).clamp(min=0)
    assert float(mask_ratio(heat, torch.tensor([mask]))) == pytest.approx(expected)


def test_explainiverse_corner():
    mask = torch.zeros(1, 4, 4)
    mask[:, :2, :2] = 1
    assert float(mask_ratio(torch.ones(1, 4, 4), mask)) == 0.25


def test_no_positive_mass_is_nan_where_explainiverse_gives_zero():
    mask = torch.tensor([[True, False]])
    assert mask_ratio(torch.zeros(1, 2), mask).isnan().all()


@pytest.fixture
def agreed() -> tuple[nn.Module, torch.Tensor]:
    """A case on which captum, MONAI, torchcam and raw pytorch-grad-cam agree to 0.0."""
    model = nn.Sequential(
        nn.Conv3d(1, 2, 3, padding=1),
        nn.ReLU(),
        nn.Conv3d(2, 3, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(3, 2),
    ).double()
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            values = 0.5 * torch.sin(0.7 * torch.arange(parameter.numel(), dtype=torch.float64) + i)
            parameter.copy_(values.view_as(parameter))
    return model, torch.cos(0.3 * torch.arange(128, dtype=torch.float64)).view(2, 1, 4, 4, 4)


def test_agreed_3d_maps(agreed):
    model, inputs = agreed
    cell = torch.zeros(2, 4, 4, 4, dtype=torch.bool)
    cell[:, :2] = True
    (found,) = run(
        model, Batch(inputs, {"cell": cell}), layers="2", target=Index(index=0), keep="native"
    )
    expected = torch.tensor(
        [
            [0, 0, 0.610084593, 0.731736779, 0.139573604, 0, 0, 0.157443762],
            [0, 0, 0.811973691, 0.587237954, 0, 0, 0, 0.351979971],
        ],
        dtype=torch.float64,
    )
    rectified = torch.from_numpy(found.maps).clamp(min=0).flatten(1)
    # The peers computed in float32, hence not closer.
    torch.testing.assert_close(rectified, expected, rtol=0, atol=5e-7)
    logits = model(inputs)
    expected = [[-2.729203, 0.874375], [-3.137625, 1.101782]]
    torch.testing.assert_close(logits, torch.tensor(expected).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("resize", "expected"),
    [("linear", [0.739072680, 0.724254072]), ("nearest", [0.818763494, 0.799005389])],
)
def test_agreed_3d_scores(agreed, resize, expected):
    model, inputs = agreed
    cell = torch.zeros(2, 4, 4, 4, dtype=torch.bool)
    cell[:, :2] = True
    (found,) = run(
        model,
        Batch(inputs, {"cell": cell}),
        layers="2",
        target=Index(index=0),
        heat=HeatOptions(resize=resize),
    )
    assert found.columns["grad_camo"] == pytest.approx(expected, abs=5e-7)


def test_agreed_3d_centre_is_one_attainable_point(agreed):
    model, inputs = agreed
    cell = torch.zeros(2, 4, 4, 4, dtype=torch.bool)
    cell[:, 1:3, 1:3, 1:3] = True
    (found,) = run(model, Batch(inputs, {"cell": cell}), layers="2", target=Index(index=0))
    assert found.columns["grad_camo"] == pytest.approx([0.125, 0.125])
    assert found.columns["grad_camo.lowest"] == pytest.approx([0.125, 0.125])
    assert found.columns["grad_camo.highest"] == pytest.approx([0.125, 0.125])
    assert list(found.columns["status"]) == ["unresolvable"] * 2


@pytest.mark.parametrize(  # SCIENCE 2: ceilings that a grid sets whatever the network does
    ("space", "native", "area", "highest"),
    [
        ((64, 128, 128), (2, 4, 4), 0.05, 0.185),
        ((64, 128, 128), (1, 2, 2), 0.05, 0.05),
        ((224, 224), (4, 4), 0.10, 0.387),
    ],
)
def test_known_ceilings(space, native, area, highest):
    axes = torch.meshgrid(
        *[(torch.arange(s) + 0.5 - s / 2) / (s / 2) for s in space], indexing="ij"
    )
    nearest = sum(axis**2 for axis in axes).flatten().argsort()  # an ellipsoid, as the crop
    mask = torch.zeros(len(nearest), dtype=torch.bool)
    mask[nearest[: round(area * len(nearest))]] = True
    heat = Heat(torch.ones(1, 1, *native), space)
    _, high = heat.attainable(mask.view(1, *space))
    assert float(high) == pytest.approx(highest, abs=0.0005)
