"""Live cross-checks against other packages, called and never copied."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
import warnings

import numpy as np
import pytest
import torch
from nets import batch, net

from attrscore.core.heat import Heat
from attrscore.engine.run import run


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None,
        reason=f"{package} is not installed; make test installs it",
    )


@needs("quantus")
# Quantus compares mask sizes with the size of x_batch[2:], which is empty for one sample.
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:Ratio is smaller than max size:UserWarning")
@pytest.mark.parametrize("dimensions", [2, 3])
def test_score_equals_quantus_attribution_localisation(dimensions):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        import quantus

    data = batch(dimensions)
    (found,) = run(net(dimensions), data, layers="high", keep="native")
    full = Heat(torch.from_numpy(found.maps), data.space).full()
    for i in range(len(data)):
        metric = quantus.AttributionLocalisation(
            positive_attributions=True, abs=False, normalise=False, disable_warnings=True
        )
        (theirs,) = metric(
            model=None,
            x_batch=data.inputs[i : i + 1, :1].numpy(),
            y_batch=np.zeros(1, dtype=int),
            a_batch=full[i : i + 1, None].numpy(),
            s_batch=data.regions["cell"][i : i + 1, None].numpy(),
            channel_first=True,
        )
        assert found.columns["grad_camo"][i] == pytest.approx(theirs, abs=1e-6)


@needs("torchcam")
@pytest.mark.parametrize("dimensions", [2, 3])
def test_grad_cam_equals_torchcam(dimensions):
    from torchcam.methods import GradCAM as TorchcamGradCAM

    data = batch(dimensions)
    (ours,) = run(net(dimensions), data, layers="high", target="label", keep="native")
    theirs_net = net(dimensions)
    with TorchcamGradCAM(
        theirs_net, target_layer="high", input_shape=data.inputs.shape[1:]
    ) as extractor:
        scores = theirs_net(data.inputs.clone().requires_grad_())
        (theirs,) = extractor(data.label.tolist(), scores, normalized=False)
    rectified = torch.from_numpy(ours.maps)[:, 0].clamp(min=0)
    torch.testing.assert_close(rectified, theirs.double(), rtol=0, atol=1e-10)


@needs("monai")
@pytest.mark.parametrize("dimensions", [2, 3])
def test_grad_cam_equals_monai(dimensions):
    from monai.visualize import GradCAM as MonaiGradCAM

    data = batch(dimensions)
    (ours,) = run(net(dimensions), data, layers="high", target="label", keep="native")
    peer = MonaiGradCAM(nn_module=net(dimensions), target_layers="high")
    for i in range(len(data)):
        # One sample at a time and an integer class: its batched path mixes classes.
        theirs = peer.compute_map(data.inputs[i : i + 1], class_idx=int(data.label[i]))
        rectified = torch.from_numpy(ours.maps)[i : i + 1].clamp(min=0)
        torch.testing.assert_close(rectified, theirs.double(), rtol=0, atol=1e-10)


@pytest.fixture
def grad_cam_package(monkeypatch):
    """pytorch-grad-cam, which imports torchvision for examples and detection only."""
    if importlib.util.find_spec("pytorch_grad_cam") is None:
        pytest.skip("grad-cam is not installed; make test installs it")
    for name, parts in {
        "torchvision": (),
        "torchvision.transforms": ("Compose", "Normalize", "ToTensor"),
        "torchvision.transforms.functional": ("resize",),
    }.items():
        stub = types.ModuleType(name)
        for part in parts:
            setattr(stub, part, None)
        monkeypatch.setitem(sys.modules, name, stub)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        return importlib.import_module("pytorch_grad_cam")


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("layer", ["low", "high"])
@pytest.mark.parametrize(
    ("method", "theirs", "tolerance"),
    [
        ("grad_cam", "GradCAM", 1e-10),
        ("hires_cam", "HiResCAM", 1e-10),
        ("layer_cam", "LayerCAM", 1e-10),
        ("xgrad_cam", "XGradCAM", 1e-5),  # they add 1e-7 where they divide,
        ("grad_cam_plus_plus", "GradCAMPlusPlus", 1e-5),  # and 1e-6 here
        ("eigen_grad_cam", "EigenGradCAM", 1e-5),  # in float32, of either sign
    ],
)
def test_raw_maps_equal_pytorch_grad_cam(
    grad_cam_package, dimensions, layer, method, theirs, tolerance
):
    data, model = batch(dimensions), net(dimensions)
    with torch.no_grad():
        model.head.weight *= 1e5  # what they add for safety is then small beside the gradients
    (ours,) = run(model, data, methods=method, layers=layer, target="label", keep="native")
    place = getattr(model, layer)
    with getattr(grad_cam_package, theirs)(model, [place]) as extractor:
        seen = extractor.activations_and_grads
        output = seen(data.inputs)
        output.gather(1, data.label[:, None]).sum().backward()
        # Before their ReLU, their resizing and their min-max.
        raw = extractor.get_cam_image(
            data.inputs, place, None, seen.activations[0].numpy(), seen.gradients[0].numpy(), False
        )
    found = ours.maps[:, 0]
    scale = np.abs(found).max()
    if method == "eigen_grad_cam":
        found, raw = np.abs(found), np.abs(raw)
    np.testing.assert_allclose(found / scale, raw / scale, rtol=0, atol=tolerance)


@needs("torchcam")
@pytest.mark.parametrize("dimensions", [2, 3])
def test_score_cam_equals_torchcam(dimensions):
    """At a layer of the crop's own grid: torchcam scales activations before it enlarges them, the
    paper and we afterwards."""
    from torchcam.methods import ScoreCAM as TorchcamScoreCAM

    data = batch(dimensions)
    (ours,) = run(
        net(dimensions), data, methods="score_cam", layers="low", target="label", keep="native"
    )
    theirs_net = net(dimensions)
    with TorchcamScoreCAM(theirs_net, "low", input_shape=data.inputs.shape[1:]) as extractor:
        with torch.no_grad():
            theirs_net(data.inputs)
        (theirs,) = extractor(data.label.tolist(), normalized=False)
    rectified = torch.from_numpy(ours.maps)[:, 0].clamp(min=0)
    torch.testing.assert_close(rectified, theirs.double(), rtol=0, atol=1e-7)  # 1e-8 of theirs


def test_score_cam_and_ablation_cam_equal_pytorch_grad_cam(grad_cam_package):
    """In 2D, which is all they do, at a layer of the crop's own grid (they align corners) behind a
    ReLU (they ablate by 0 only where the least activation is 0)."""
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    data, model = batch(2), net(2)
    targets = [ClassifierOutputTarget(int(label)) for label in data.label]
    found = run(
        net(2),
        data,
        methods=["score_cam", "ablation_cam"],
        layers="act1",
        target="label",
        keep="native",
    )
    ours = {each.method: each.maps[:, 0] for each in found}
    with torch.no_grad():
        activation = model.act1(model.low(data.inputs))
        scores = model(data.inputs).gather(1, data.label[:, None]).view(-1, 1, 1)
    for name, theirs in {"score_cam": "ScoreCAM", "ablation_cam": "AblationCAM"}.items():
        with getattr(grad_cam_package, theirs)(model, [model.act1]) as extractor:
            raw = torch.from_numpy(
                extractor.get_cam_image(
                    data.inputs, model.act1, targets, activation.numpy(), None, False
                )
            )
        if name == "ablation_cam":
            raw = raw * scores  # which they divide by
        # in float32
        np.testing.assert_allclose(ours[name], raw.numpy(), rtol=0, atol=2e-6 * raw.abs().max())


@pytest.mark.parametrize("dimensions", [2, 3])
def test_finer_cam_equals_grad_cam_of_pytorch_grad_cams_target(grad_cam_package, dimensions):
    from pytorch_grad_cam.utils.model_targets import FinerWeightedTarget

    data, model = batch(dimensions), net(dimensions)
    (ours,) = run(net(dimensions), data, methods="finer_cam", layers="high", keep="native")
    activation = model.high(model.act1(model.low(data.inputs))).detach().requires_grad_()
    output = model.head(model.act2(activation).flatten(2).mean(2))
    nearest = (output - output.amax(1, keepdim=True)).abs().argsort(1).tolist()  # as FinerCAM does
    scalars = [FinerWeightedTarget(first, rest, 1.0) for first, *rest in nearest]
    total = sum(scalar(row) for scalar, row in zip(scalars, output, strict=True))
    (gradient,) = torch.autograd.grad(total, activation)
    weights = gradient.flatten(2).mean(2)
    expected = torch.einsum("nc,nc...->n...", weights, activation)
    # they add 1e-9 to the sum of probabilities
    np.testing.assert_allclose(ours.maps[:, 0], expected.detach(), rtol=1e-7, atol=1e-12)
