"""Networks that take more than the image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from nets import Net, batch, net
from torch import nn

from attrscore.cli.main import main
from attrscore.core.contracts import Batch
from attrscore.core.registry import METHODS
from attrscore.datasets import HDF5, write_hdf5
from attrscore.engine.evaluate import evaluate
from attrscore.errors import DataError
from attrscore.methods import FromCaptum
from attrscore.store import read_scores


class WithDose(Net):
    """The scores of the plain network plus a weighted number for each cell, and a shifted image."""

    def forward(self, x, dose, shift):
        return super().forward(x + shift[:, None, None, None]) * dose[:, None]


class Closed(Net):
    """The same for one cell whose further inputs are fixed."""

    def forward(self, x):
        return super().forward(x + self.shift) * self.dose


def dosed(n: int = 4) -> Batch:
    numbers = torch.linspace(0.5, 2, n, dtype=torch.float64)
    return replace(batch(n=n), others=(numbers, numbers.flip(0) / 10))


def made(kind: type[Net]) -> Net:
    model = kind(2)
    model.load_state_dict(net().state_dict())
    return model.eval()


METHOD_OPTIONS = {
    "grad_cam": METHODS.build("grad_cam"),
    "saliency": METHODS.build("saliency"),
    "guided_grad_cam": METHODS.build("guided_grad_cam"),
    "integrated_gradients": METHODS.build("integrated_gradients", steps=7, chunk=5),
    "captum_saliency": FromCaptum("Saliency"),
    "captum_layer": FromCaptum("LayerGradCam"),
    "occlusion": FromCaptum("Occlusion", {"sliding_window_shapes": [1, 3, 3]}),
}


@pytest.mark.slow
def test_every_method_gives_each_cell_its_own_further_inputs():
    data = dosed()
    options = {"methods": METHOD_OPTIONS, "layers": "high", "progress": "none"}
    table = evaluate(made(WithDose), data, **options).set_index(["method", "id"])
    closed = made(Closed)
    alone = []
    for i in range(len(data)):
        closed.dose, closed.shift = (float(other[i]) for other in data.others)
        alone.append(evaluate(closed, replace(data.rows(i, i + 1), others=()), **options))
    expected = pd.concat(alone).set_index(["method", "id"]).loc[table.index]
    columns = [c for c in table if c.startswith(("grad_camo", "explained", "completeness"))]
    pd.testing.assert_frame_equal(table[columns], expected[columns], atol=1e-9)


def test_an_image_that_is_not_the_first_argument_is_told():
    class Swapped(Net):
        def forward(self, dose, x):
            return super().forward(x) * dose[:, None]

    with pytest.raises(DataError, match="called with the image first.*needs a wrapper"):
        evaluate(made(Swapped), replace(dosed(), others=dosed().others[:1]), progress="none")


def test_a_keyword_only_image_is_told():
    class Keyword(nn.Module):
        def forward(self, *, pixel_values):
            return pixel_values.flatten(1)

    with pytest.raises(DataError, match="needs a wrapper"):
        evaluate(Keyword(), batch(), methods="saliency", progress="none")


@pytest.mark.slow
def test_further_inputs_from_a_file_reach_the_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = dosed()
    data = replace(data, inputs=data.inputs.float(), others=(data.others[0].float(),))
    write_hdf5("cells.h5", [data.rows(0, 2), data.rows(2, 4)])
    dataset = HDF5(path="cells.h5", others=["others/0"])
    np.testing.assert_array_equal(dataset.read([3, 1]).others[0], data.others[0][[3, 1]])
    assert dataset.fingerprint() != HDF5(path="cells.h5").fingerprint()
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "class Added(nn.Module):\n"
        "    def __init__(self, channels, classes):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(channels, 4, 3, padding=1)\n"
        "        self.head = nn.Linear(4, classes)\n"
        "    def forward(self, x, dose):\n"
        "        x = self.conv(x * dose[:, None, None, None]).relu()\n"
        "        return self.head(x.mean((2, 3)))\n"
    )
    arguments = [
        "dataset=hdf5",
        "dataset.path=cells.h5",
        "model=factory",
        "model.target=mine.Added",
    ]
    assert main([*arguments, "dataset.others=[others/0]", "figures=none", "batch_size=3"]) == 0
    assert len(read_scores("results")) == 4
    with pytest.raises(DataError, match="has no array 'dose'"):
        HDF5(path="cells.h5", others=["dose"]).read([0])
