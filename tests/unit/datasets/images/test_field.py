"""Fields are decoded once and kept as long as there is room for them."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch

import attrscore
from attrscore.cli.main import main
from attrscore.core.registry import MODELS
from attrscore.datasets import Fields
from attrscore.datasets.images import Kept
from attrscore.engine.run import batches_of


def pixels(shape, dtype="uint16", seed=0):
    return np.random.default_rng(seed).integers(1, 200, shape).astype(dtype)


@pytest.fixture
def decoded(monkeypatch):
    """Names of the TIFFs whose pixels were decoded, in order."""
    names = []
    real = tifffile.TiffFile.asarray

    def counted(self, *args, **options):
        names.append(self.filename)
        return real(self, *args, **options)

    monkeypatch.setattr(tifffile.TiffFile, "asarray", counted)
    return names


@pytest.fixture
def fields(tmp_path):
    mask = np.zeros((40, 50), np.uint16)
    mask[5:15, 5:15], mask[20:30, 25:35] = 1, 2
    for number in range(6):
        tifffile.imwrite(tmp_path / f"f{number}.tif", pixels((40, 50), seed=number))
        tifffile.imwrite(tmp_path / f"f{number}_mask.tif", mask, compression="zlib")
    return Fields(
        images=str(tmp_path / "f?.tif"),
        masks=str(tmp_path / "*_mask.tif"),
        axes="YX",
        crop=[16, 16],
    )


def test_an_audit_decodes_each_field_once(fields, decoded):
    """The pass for cells and percentiles too."""
    model = MODELS.build("tiny_cnn", classes=2)(fields.spec)
    attrscore.evaluate(model, batches_of(fields))
    assert sorted(decoded) == sorted(f"f{n}{end}.tif" for n in range(6) for end in ("", "_mask"))


@pytest.mark.slow
def test_a_job_of_the_command_line_decodes_each_field_once(fields, decoded, tmp_path):
    """Also what it does for the fingerprint, the preflight and its figures."""
    given = [f"dataset.{name}={getattr(fields, name)}" for name in ("images", "masks", "axes")]
    given += ["dataset.crop=[16,16]", f"results={tmp_path / 'results'}"]
    main(["dataset=fields", *given, "model=tiny_cnn", "model.classes=2"])
    assert len(attrscore.read_scores(tmp_path / "results")) == 12
    assert sorted(decoded) == sorted(f"f{n}{end}.tif" for n in range(6) for end in ("", "_mask"))


def test_what_does_not_fit_in_memory_is_decoded_once_for_each_pass(fields, decoded, monkeypatch):
    size = 40 * 50 * (2 + 4)
    monkeypatch.setattr("attrscore.datasets.images.field._MEMORY", 3 * size)
    assert len(fields.table) == 12
    for start in range(0, 12, 3):
        fields.read(range(start, start + 3))
    images = [name for name in decoded if "mask" not in name]
    # of three kept the first two stay, and the last that was looked at
    assert images == [f"f{n}.tif" for n in (0, 1, 2, 3, 4, 5, 2, 3, 4)]


def test_another_process_decodes_what_it_reads_itself(fields, decoded):
    batch = fields.read(range(12))
    decoded.clear()
    again = pickle.loads(pickle.dumps(fields))
    assert torch.equal(batch.inputs, again.read(range(12)).inputs)
    assert len(decoded) == 12
    assert again._reader._kept.most < fields._reader._kept.most


def test_the_last_ones_make_room_for_others():
    opened = []

    def get(kept, name, size):
        return kept.get(name, lambda: opened.append(name) or SimpleNamespace(size=size))

    kept = Kept(10)
    for name in "abcdabcd":
        get(kept, name, 4)
    assert "".join(opened) == "abcdbc"
    get(kept, "large", 99)  # the one asked for is there, whatever its size
    get(kept, "large", 99)
    assert opened[-1] == "large"
    assert opened.count("large") == 1
    assert get(kept, "a", 4)
    assert opened[-1] == "a"
