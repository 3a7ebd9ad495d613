"""Grad-CAM of a vision transformer as pytorch-grad-cam's reshape_transform has it, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers_nets import GRID, SPACE, dino_with_registers, hugging_face_vit, monai_vit

from attrscore.core.contracts import Batch
from attrscore.engine.run import run
from attrscore.targets import Index

CASES = {
    "monai 2D": (lambda: monai_vit(2), 2, "blocks.2.norm1", 1, 0),
    "monai 3D": (lambda: monai_vit(3), 3, "blocks.2.norm1", 1, 0),
    "hugging face": (hugging_face_vit, 2, "vit.layers.2.layernorm_before", 1, "logits"),
    "registers": (
        dino_with_registers,
        2,
        "dinov2_with_registers.encoder.layer.2.norm1",
        5,
        "logits",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_grad_cam(case):
    """pytorch-grad-cam 1.5, tutorials/vision_transformers.md: drop the class token (and registers),
    reshape to the grid, bring the channels to the front, then weights are means over the grid."""
    make, dimensions, layer, prefix, output = CASES[case]
    model = make()
    inputs = torch.rand((2, 2, *SPACE[dimensions]), dtype=torch.float64)
    mask = torch.zeros((2, *SPACE[dimensions]), dtype=torch.bool)
    mask[..., :8, :8] = True
    (found,) = run(
        model,
        Batch(inputs, {"cell": mask}),
        layers=layer,
        target=Index(index=1),
        output=output,
        keep="native",
    )

    kept = []
    module = model.get_submodule(layer)
    handle = module.register_forward_hook(lambda _m, _a, out: kept.append(out))
    scores = model(inputs)[output][:, 1].sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(scores, kept[0])

    def reshape_transform(tokens):
        places = tokens[:, prefix:, :].reshape(len(tokens), *GRID[dimensions], tokens.size(2))
        return places.movedim(-1, 1)

    activation, gradient = reshape_transform(kept[0].detach()), reshape_transform(gradient)
    weights = gradient.flatten(2).mean(2)
    expected = torch.einsum("nc,nc...->n...", weights, activation)[:, None]
    np.testing.assert_allclose(found.maps, expected.numpy(), rtol=1e-10, atol=1e-14)
