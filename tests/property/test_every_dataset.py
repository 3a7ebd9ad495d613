"""What every registered dataset must hold, on files made for it."""

from __future__ import annotations

import nibabel
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
import zarr
from jump_objects import plate
from PIL import Image
from torch.utils.data import TensorDataset

from attrscore.core.registry import DATASETS
from attrscore.datasets import Phantom, write_hdf5
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


def npz(folder):
    batch = Phantom(size=(16, 16), cells=9).read(range(9))
    regions = {f"regions/{name}": region.numpy() for name, region in batch.regions.items()}
    path = str(folder / "cells.npz")
    np.savez(path, inputs=batch.inputs.numpy(), label=batch.label.numpy(), **regions)
    return {"path": path, "jitter": 1}


def volumes(folder, write):
    """Stacks and their labels, by ``write(path without ending, pixels)``."""
    rng = np.random.default_rng(0)
    labels = np.zeros((8, 30, 40), np.uint16)
    labels[2:6, 4:12, 5:14], labels[1:5, 18:26, 20:33] = 4, 9
    for name in ("a", "b"):
        write(folder / name, rng.integers(0, 4000, labels.shape).astype(np.uint16))
        write(folder / f"{name}_masks", labels)


def ome_zarr(folder):
    def write(path, pixels):
        group = zarr.open_group(f"{path}.zarr", mode="w", zarr_format=3)
        group.create_array("0", data=pixels, chunks=(4, 16, 16))
        axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
        scale = [{"type": "scale", "scale": [2, 0.5, 0.5]}]
        datasets = [{"path": "0", "coordinateTransformations": scale}]
        group.attrs["ome"] = {
            "version": "0.5",
            "multiscales": [{"axes": axes, "datasets": datasets}],
        }

    volumes(folder, write)
    patterns = {"images": str(folder / "*.zarr"), "masks": str(folder / "*_masks.zarr")}
    return {**patterns, "crop": [4, 16, 16], "jitter": [0, 2, 2], "boundary": 0.5}


def nifti(folder):
    def write(path, pixels):
        image = nibabel.Nifti1Image(pixels.T, np.diag([0.5, 0.5, 2, 1]))
        image.header.set_xyzt_units("micron")
        nibabel.save(image, f"{path}.nii.gz")

    volumes(folder, write)
    patterns = {"images": str(folder / "*.nii.gz"), "masks": str(folder / "*_masks.nii.gz")}
    return {**patterns, "crop": [4, 16, 16]}


def deepprofiler(folder):
    rng = np.random.default_rng(0)
    rows = []
    for number in range(6):
        mask = np.zeros((16, 16), np.uint8)
        mask[3:9, 4 : 9 + number % 3] = 255
        tiles = [*rng.integers(0, 256, (3, 16, 16)).astype(np.uint8), mask]
        name = f"P/A0{number % 2}/1/{number % 2}@{number}x7.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(tiles, axis=1)).save(folder / name)
        rows.append({"Image_Name": name, "Target": number % 2})
    pd.DataFrame(rows).to_csv(folder / "sc-metadata.csv", index=False)
    return {"path": str(folder), "stains": ["DNA", "RNA", "ER"]}


def deepprofiler_fields(folder):
    rng = np.random.default_rng(0)
    for part in ("images", "metadata", "locations/P"):
        (folder / part).mkdir(parents=True)
    rows = []
    for well in ("A01", "B02"):
        names = {channel: f"{well}_{channel}.tif" for channel in ("DNA", "ER")}
        for name in names.values():
            pixels = rng.integers(0, 4000, (40, 50)).astype(np.uint16)
            tifffile.imwrite(folder / "images" / name, pixels)
        places = {"Nuclei_Location_Center_X": [9, 30], "Nuclei_Location_Center_Y": [9, 25]}
        pd.DataFrame(places).to_csv(folder / "locations/P" / f"{well}-1-Nuclei.csv", index=False)
        site = {"Metadata_Plate": "P", "Metadata_Well": well, "Metadata_Site": 1}
        rows.append({**site, **names, "pert": well})
    pd.DataFrame(rows).to_csv(folder / "metadata" / "index.csv", index=False)
    where = {"index": "metadata/index.csv", "locations": "locations", "images": "images"}
    given = {"channels": ["DNA", "ER"], "crop": [16, 16], "radius": 6, "label_column": "pert"}
    return {"path": str(folder), **where, **given}


def jump(folder, **options):
    """JUMP's objects/: a plate whose groups are images, or wells."""
    return {"path": str(plate(folder, **options)), "channels": ["DNA", "ER"]}


def samples():
    batch = Phantom(size=(16, 16), cells=7).read(range(7))
    return TensorDataset(batch.inputs, batch.regions["cell"], torch.arange(7) % 3)


MAKE = {
    "deepprofiler": deepprofiler,
    "deepprofiler_fields": deepprofiler_fields,
    "factory": lambda _: {"target": f"{__name__}:samples"},
    "fields": fields,
    "fields:ome-zarr": ome_zarr,
    "fields:nifti": nifti,
    "hdf5": hdf5,
    "jump": jump,
    "jump:wells": lambda folder: jump(folder, by_well=True),
    "npz": npz,
    "phantom": lambda _: {"cells": 8, "size": [24, 24]},
    "phantom:3D": lambda _: {"cells": 4, "size": [8, 24, 24], "carrier": "neighbours"},
}


def test_every_dataset_of_ours_is_here():
    ours = {entry.name for entry in DATASETS.entries() if entry.package == "attrscore"}
    assert ours == {name.partition(":")[0] for name in MAKE}


@pytest.mark.parametrize("name", MAKE)
def test_contract(name, tmp_path):
    dataset = DATASETS.build(name.partition(":")[0], **MAKE[name](tmp_path))
    for check in checks("dataset"):
        check(dataset, name=name)
