"""The other class activation maps, against independent sources where one offers them."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from captum.attr import InputXGradient, LayerGradientXActivation
from nets import batch, net

from attrscore.engine.run import run
from attrscore.methods.cams import eigen_grad_cam, grad_cam_plus_plus


@pytest.mark.parametrize("dimensions", [2, 3])
def test_gradient_products_equal_captum(dimensions):
    data, model = batch(dimensions), net(dimensions)
    methods = ["activation_x_gradient", "input_x_gradient"]
    layer, pixels = run(model, data, methods=methods, layers="low", target="label", keep="native")
    theirs = LayerGradientXActivation(model, model.low).attribute(data.inputs, target=data.label)
    torch.testing.assert_close(torch.from_numpy(layer.maps), theirs, rtol=0, atol=1e-10)
    inputs = data.inputs.clone().requires_grad_()
    theirs = InputXGradient(model).attribute(inputs, target=data.label).detach()
    torch.testing.assert_close(torch.from_numpy(pixels.maps), theirs, rtol=0, atol=1e-10)


@pytest.mark.skipif(
    importlib.util.find_spec("torchcam") is None,
    reason="torchcam is not installed; make test installs it",
)
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize(("name", "peer"), [("layer_cam", "LayerCAM"), ("xgrad_cam", "XGradCAM")])
def test_maps_equal_torchcam(dimensions, name, peer):
    from torchcam import methods

    data = batch(dimensions)
    (ours,) = run(net(dimensions), data, methods=name, layers="act2", target="label", keep="native")
    model = net(dimensions)
    shape = data.inputs.shape[1:]
    with getattr(methods, peer)(model, target_layer="act2", input_shape=shape) as extractor:
        scores = model(data.inputs.clone().requires_grad_())
        (theirs,) = extractor(data.label.tolist(), scores, normalized=False)
    rectified = torch.from_numpy(ours.maps)[:, 0].clamp(min=0)
    # torchcam adds 1e-8 to XGrad-CAM's denominator.
    torch.testing.assert_close(rectified, theirs.double(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_grad_cam_plus_plus_by_loops_over_places(dimensions):
    """The formula of the docstring, written out place by place with numbers instead of tensors."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, *(2, 3, 2)[:dimensions])
    activation = torch.rand(shape, generator=generator, dtype=torch.float64)
    gradient = torch.randn(shape, generator=generator, dtype=torch.float64)
    expected = torch.zeros((2, 1, *shape[2:]), dtype=torch.float64)
    for n, k in np.ndindex(2, 3):
        weight = 0.0
        for place in np.ndindex(shape[2:]):
            g = float(gradient[(n, k, *place)])
            alpha = g**2 / (2 * g**2 + float(activation[n, k].sum()) * g**3)
            weight += alpha * max(g, 0.0)
        expected[n, 0] += weight * activation[n, k]
    torch.testing.assert_close(grad_cam_plus_plus(activation, gradient), expected)


def test_eigen_grad_cam_is_the_first_principal_component():
    generator = torch.Generator().manual_seed(1)
    activation = torch.randn((1, 4, 3, 5), generator=generator, dtype=torch.float64)
    found = eigen_grad_cam(activation, torch.ones_like(activation)).flatten()
    places = activation[0].flatten(1).T.numpy()
    _, vectors = np.linalg.eigh(np.cov(places.T))
    expected = (places - places.mean(0)) @ vectors[:, -1]
    assert abs(np.corrcoef(found, expected)[0, 1]) == pytest.approx(1, abs=1e-12)
    assert found.std() == pytest.approx(expected.std(ddof=1))
    assert np.corrcoef(found, places.sum(1))[0, 1] > 0


def test_random_cam_depends_on_the_cell_and_the_seed_alone():
    from attrscore.methods import RandomCAM

    data, model = batch(), net()
    options = {"layers": "high", "keep": "native"}
    (whole,) = run(model, data, methods=RandomCAM(), **options)
    (alone,) = run(model, data.rows(2, 3), methods=RandomCAM(), **options)
    (other,) = run(model, data, methods=RandomCAM(seed=1), **options)
    np.testing.assert_allclose(whole.maps[2:3], alone.maps)
    assert abs(whole.maps - other.maps).max() > 0.01
