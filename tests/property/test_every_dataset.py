"""What every registered dataset must hold, on files made for it."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from attrscore.datasets import Phantom, write_hdf5
from attrscore.registry import DATASETS
from attrscore.testing import checks


def fields(folder):
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        labels = np.zeros((60, 60), np.uint16)
        labels[10:20, 10:20], labels[30:44, 28:40] = 4, 9
        tifffile.imwrite(folder / "masks" / f"{name}.tif", labels)
        image = rng.integers(0, 4000, labels.shape).astype(np.uint16)
        tifffile.imwrite(folder / "images" / f"{name}.tif", image)
    found = {kind: str(folder / kind / "*.tif") for kind in ("images", "masks")}
    return {**found, "axes": "YX", "crop": [24, 24], "jitter": 2}


def hdf5(folder):
    phantom = Phantom(size=(16, 16), cells=9)
    path = str(folder / "cells.h5")
    write_hdf5(path, [phantom.read(range(9))], classes=phantom.classes)
    return {"path": path}


MAKE = {
    "fields": fields,
    "hdf5": hdf5,
    "phantom": lambda _: {"cells": 8, "size": [24, 24]},
    "phantom:3D": lambda _: {"cells": 4, "size": [8, 24, 24], "carrier": "neighbours"},
}


@pytest.mark.parametrize("name", MAKE)
def test_contract(name, tmp_path):
    dataset = DATASETS.build(name.partition(":")[0], **MAKE[name](tmp_path))
    for check in checks("dataset"):
        check(dataset, name=name)
