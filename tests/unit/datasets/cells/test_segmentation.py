"""Cells where there are no masks: by a threshold, and through Cellpose's own interface."""

from __future__ import annotations

import pickle
import sys
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest
import tifffile
import torch

from attrscore.datasets import Fields
from attrscore.datasets.cells.segmentation import Otsu
from attrscore.errors import ConfigError, DataError

DISCS = [(20, 20, 8), (20, 35, 8), (50, 22, 9), (48, 55, 7), (63, 70, 8)]
"""Row, column and radius; the first two overlap."""


@pytest.fixture
def field(tmp_path):
    y, x = np.indices((70, 80))
    inside = sum((y - a) ** 2 + (x - b) ** 2 <= r**2 for a, b, r in DISCS) > 0
    noise = np.random.default_rng(0).normal(100, 5, inside.shape)
    image = np.stack([noise, noise + 300 * inside]).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a b.tif", image, photometric="minisblack")
    return image, inside, {"images": str(tmp_path / "*.tif"), "axes": "CYX", "crop": [32, 32]}


def test_otsu_finds_bright_discs_and_divides_those_that_touch(field):
    pytest.importorskip(
        "skimage", reason="masks=otsu needs scikit-image: pip install 'attrscore[otsu]'"
    )
    _, inside, options = field
    fields = Fields(**options, masks="otsu", segment_channels=[1], channels=[0])
    table = fields.table
    assert len(table) == len(DISCS)
    centres = table[["Metadata_centroid_y", "Metadata_centroid_x"]].to_numpy()
    for y, x, radius in DISCS[:4]:
        nearest = np.abs(centres - (y, x)).max(axis=1).argmin()
        assert np.abs(centres[nearest] - (y, x)).max() < 1.5
        area = table["Metadata_area"][nearest]
        assert area == pytest.approx(np.pi * radius**2, rel=0.15)
    assert table["Metadata_touches_border"].tolist().count(True) == 1
    labels = fields.field("a b").labels
    assert ((labels > 0) != inside).mean() < 0.01
    assert fields.read([0]).inputs.shape == (1, 1, 32, 32)  # segmented in another channel
    assert fields.about["masks"].startswith("made, not given: by otsu, channels 1, smo")


def test_a_field_is_segmented_once_and_what_decides_stands_in_the_fingerprint(field, monkeypatch):
    pytest.importorskip(
        "skimage", reason="masks=otsu needs scikit-image: pip install 'attrscore[otsu]'"
    )
    calls = []
    plain = Otsu.__call__
    monkeypatch.setattr(
        Otsu, "__call__", lambda self, *a, **k: calls.append(1) or plain(self, *a, **k)
    )
    options = {**field[2], "masks": "otsu", "segment_channels": [1]}
    fields = Fields(**options)
    batch = fields.read([1, 0])
    fields.fingerprint()
    fields._reader._kept.clear()
    assert torch.equal(fields.read([1, 0]).inputs, batch.inputs)
    assert len(calls) == 1
    again = pickle.loads(pickle.dumps(fields))  # as a worker process has it
    assert torch.equal(again.read([1, 0]).regions["cell"], batch.regions["cell"])
    assert len(calls) == 1
    other = Fields(**options, segment_smooth=2.0)
    assert other.fingerprint() != fields.fingerprint()


def test_images_without_cells_are_skipped_with_a_reason(field, tmp_path):
    pytest.importorskip(
        "skimage", reason="masks=otsu needs scikit-image: pip install 'attrscore[otsu]'"
    )
    tifffile.imwrite(tmp_path / "blank.tif", np.full((2, 70, 80), 7, np.uint16),
                     photometric="minisblack")  # fmt: skip
    fields = Fields(**field[2], masks="otsu", segment_channels=[1])
    assert fields.skipped == {
        "blank.tif": "'blank.tif' is the same everywhere, so masks=otsu finds no cell in it."
    }
    with pytest.raises(DataError, match="asks for number 2; they count from 0"):
        Fields(**field[2], masks="otsu", segment_channels=[2]).table  # noqa: B018


def test_anisotropic_voxels_are_told_apart_by_micrometres():
    pytest.importorskip(
        "skimage", reason="masks=otsu needs scikit-image: pip install 'attrscore[otsu]'"
    )
    z, y, x = np.indices((14, 48, 48))
    near = [(2 * (z - 7)) ** 2 + (y - 24) ** 2 + (x - c) ** 2 <= 64 for c in (16, 30)]
    volume = 100.0 + 400 * (near[0] | near[1])
    labels = Otsu()(volume[None], spacing=(2.0, 1.0, 1.0), name="a")
    assert labels.max() == 2
    assert {int(labels[7, 24, 16]), int(labels[7, 24, 30])} == {1, 2}


# Cellpose: its weights are a gigabyte and its torchvision does not fit a torch for CPUs, so what is
# checked here is what it is asked for, against the signatures of its version 4.2


class FakeModel:
    asked: ClassVar[list] = []

    def __init__(self, gpu=False, pretrained_model="cpsam_v2", model_type=None,
                 diam_mean=None, device=None, nchan=None, use_bfloat16=True):  # fmt: skip
        self.pretrained_model = pretrained_model

    def eval(self, x, batch_size=8, resample=True, channels=None, channel_axis=None,
             z_axis=None, normalize=True, rescale=None, diameter=None,
             flow_threshold=0.4, cellprob_threshold=0.0, do_3D=False, anisotropy=None,  # noqa: N803
             flow3D_smooth=0, stitch_threshold=0.0, min_size=15, max_size_fraction=0.4,  # noqa: N803
             niter=None, augment=False, tile_overlap=0.1, bsize=None,
             compute_masks=True, progress=None):  # fmt: skip
        FakeModel.asked.append(
            (self.pretrained_model, x.shape, channel_axis, z_axis, diameter, do_3D, anisotropy)
        )
        masks = np.zeros(x.shape[:-1], np.uint16)
        masks[(..., slice(5, 15), slice(5, 15))] = 1
        return masks, [], np.zeros(256)


@pytest.fixture
def cellpose(monkeypatch):
    models = ModuleType("cellpose.models")
    models.CellposeModel = FakeModel
    models.MODEL_NAMES = ["cpsam_v2", "cpsam"]
    models.get_user_models = lambda: ["mine"]
    package = ModuleType("cellpose")
    package.models = models
    monkeypatch.setitem(sys.modules, "cellpose", package)
    monkeypatch.setitem(sys.modules, "cellpose.models", models)
    monkeypatch.setattr(FakeModel, "asked", [])


def test_cellpose_is_asked_as_its_version_4_wants_it(field, cellpose, tmp_path):
    weights = tmp_path / "my weights"
    weights.write_bytes(b"x")
    options = {**field[2], "masks": "cellpose", "segment_channels": [1, 0]}
    fields = Fields(**options, segment_model=str(weights), segment_diameter=16)
    assert fields.table["Metadata_area"].tolist() == [100]
    fields.read([0])
    assert FakeModel.asked == [(str(weights), (70, 80, 2), -1, None, 16, False, None)]
    assert "by cellpose, channels 1,0" in fields.about["masks"]
    assert str(tmp_path) not in fields.about["masks"]  # a network is known by its content
    before = fields.fingerprint()
    weights.write_bytes(b"y")
    assert Fields(**options, segment_model=str(weights)).fingerprint() != before
    with pytest.raises(ConfigError, match="neither a file nor a model .* Did you mean 'cpsam'"):
        Fields(**options, segment_model="cpsamm")
    with pytest.raises(ConfigError, match="cellpose takes one to three channels"):
        Fields(**{**options, "segment_channels": [0, 1, 2, 3]})


def test_cellpose_gets_volumes_with_their_anisotropy(cellpose, tmp_path):
    tifffile.imwrite(tmp_path / "v.tif", np.zeros((6, 30, 32), np.uint16), photometric="minisblack")
    fields = Fields(
        images=str(tmp_path / "*.tif"), masks="cellpose", axes="ZYX", crop=[4, 16, 16],
        spacing=[2.0, 0.5, 0.5],
    )  # fmt: skip
    assert fields.table["Metadata_area"].tolist() == [600]
    assert FakeModel.asked == [("cpsam_v2", (6, 30, 32, 1), -1, 0, None, True, 4.0)]


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cellpose", None)
    with pytest.raises(ConfigError, match=r"masks=cellpose needs .* pip install 'attrscore\[cell"):
        Fields(images="x", masks="cellpose", crop=[8, 8])
