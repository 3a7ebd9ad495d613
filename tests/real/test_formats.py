"""Real microscopy rewritten in other formats by their own libraries: the same cells and crops.

The images lie beside the checkout in ../shared/data, as for test_microscopy.
"""

from __future__ import annotations

import nibabel
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
import zarr
from microscopy import DATA, needs_images
from PIL import Image
from skimage.exposure import rescale_intensity

from attrscore.cli.main import main
from attrscore.datasets import DeepProfiler, DeepProfilerFields, Fields
from attrscore.store import read_scores

pytestmark = needs_images

VOLUMES = ("Emb01_t201", "Emb01_t301", "Emb04_t201", "Emb04_t301")
SPACING = (1.75, 0.8, 0.8)
FIELDS = ("D7_s1", "F7_s2")


def embryos(**options):
    folder = DATA / "bbbc050_embryos"
    return Fields(
        images=str(folder / "images" / "Emb0[14]_t[23]01.tif"),
        masks=str(folder / "labels" / "Emb0[14]_t[23]01.tif"),
        **{"axes": "ZYX", "crop": (8, 32, 32), "spacing": SPACING, **options},
    )


def same(found, expected):
    """Cells, columns and crops."""
    assert found.table.equals(expected.table)
    rows = range(0, len(expected.table), max(1, len(expected.table) // 12))
    given, read = expected.read(rows), found.read(rows)
    assert torch.equal(read.inputs, given.inputs)
    assert set(read.regions) == set(given.regions)
    for name, region in given.regions.items():
        assert torch.equal(read.regions[name], region)
    assert read.spacing == pytest.approx(given.spacing) if given.spacing else read.spacing is None


def volume(name, kind):
    return tifffile.imread(DATA / "bbbc050_embryos" / kind / f"{name}.tif")


def as_nifti(folder, name, pixels, kind):
    image = nibabel.Nifti1Image(pixels.T, np.diag([*SPACING[::-1], 1]))
    image.header.set_xyzt_units("micron")
    ending = ".nii.gz" if kind == "images" else ".nii"  # one decoded whole, one by window
    nibabel.save(image, folder / kind / f"{name}{ending}")


def as_zarr(folder, name, pixels, kind):
    group = zarr.open_group(str(folder / kind / f"{name}.ome.zarr"), mode="w", zarr_format=3)
    datasets = []
    for level in range(2):
        step = 2**level
        small = np.ascontiguousarray(pixels[:, ::step, ::step])
        group.create_array(str(level), data=small, chunks=(16, 64, 64))
        scale = [SPACING[0], SPACING[1] * step, SPACING[2] * step]
        transforms = [{"type": "scale", "scale": scale}]
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    multiscales = [{"axes": axes, "datasets": datasets}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": multiscales}


def as_ome_tiff(folder, name, pixels, kind):
    sizes = {f"PhysicalSize{axis}": size for axis, size in zip("ZYX", SPACING, strict=True)}
    units = {f"PhysicalSize{axis}Unit": "µm" for axis in "ZYX"}
    tifffile.imwrite(
        folder / kind / f"{name}.ome.tif",
        pixels,
        metadata={"axes": "ZYX", **sizes, **units},
        photometric="minisblack",
        compression="zlib",
        tile=(32, 32),
    )


@pytest.mark.parametrize("write", [as_nifti, as_zarr, as_ome_tiff])
def test_embryos_in_other_formats(tmp_path, write):
    """3D, anisotropic; axes and voxels from each format's own metadata, none stated."""
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        for name in VOLUMES:
            write(tmp_path, name, volume(name, kind), kind)
    options = {"images": str(tmp_path / "images"), "masks": str(tmp_path / "labels")}
    same(Fields(**options, crop=(8, 32, 32)), embryos())
    if write is as_zarr:
        coarse = Fields(**options, crop=(8, 16, 16), level=1)
        assert coarse.read([0]).spacing == (1.75, 1.6, 1.6)
        assert len(coarse.table) == len(embryos().table)


def painting(**options):
    folder = DATA / "cp_nf1"
    return Fields(
        images=str(folder / "images" / "[DF]7_s?.tif"),
        masks=str(folder / "cells" / "[DF]7_s?.tif"),
        **{"axes": "CYX", "crop": (128, 128), **options},
    )


def write_project(root, cells):
    """A DeepProfiler project of the same fields: an image a channel, and a location a cell."""
    inputs = root / "inputs"
    for folder in ("images", "metadata", "outlines", "locations/NF1"):
        (inputs / folder).mkdir(parents=True)
    rows = []
    for name in FIELDS:
        well, site = name.split("_")
        image = tifffile.imread(DATA / "cp_nf1" / "images" / f"{name}.tif")
        row = {"Metadata_Plate": "NF1", "Metadata_Well": well, "Metadata_Site": site}
        for channel, pixels in zip(("DNA", "ER", "AGP"), image, strict=True):
            row[channel] = f"{name}_{channel}.tif"
            tifffile.imwrite(inputs / "images" / row[channel], pixels)
        row["Outlines"] = f"{name}.png"
        mask = tifffile.imread(DATA / "cp_nf1" / "cells" / f"{name}.tif")
        Image.fromarray(mask).save(inputs / "outlines" / row["Outlines"])
        rows.append(row)
        mine = cells[cells["Metadata_image"] == name]
        places = mine[["Metadata_centroid_x", "Metadata_centroid_y"]].rename(
            columns=lambda column: f"Nuclei_Location_Center_{column[-1].upper()}"
        )
        places.to_csv(inputs / "locations" / "NF1" / f"{well}-{site}-Nuclei.csv", index=False)
    pd.DataFrame(rows).to_csv(inputs / "metadata" / "index.csv", index=False)
    return DeepProfilerFields(
        path=str(root),
        channels=("DNA", "ER", "AGP"),
        crop=(128, 128),
        outlines="inputs/outlines",
    )


def test_cell_painting_as_a_project_of_deepprofiler(tmp_path):
    expected = painting()
    found = write_project(tmp_path / "project", expected.table)
    cells = expected.table
    # a few cells are bent, and their centroid lies on none or on another: left out, or as found
    there = found.table.set_index(
        [
            found.table["id"].str.extract(r"NF1/(\w+)/(\w+)@").agg("_".join, axis=1),
            "Metadata_object",
        ]
    )
    keys = pd.MultiIndex.from_frame(cells[["Metadata_image", "Metadata_object"]])
    rows = [row for row, key in enumerate(keys) if key in there.index]
    assert len(rows) > 0.9 * len(cells)
    assert len(found.table) + len(found.skipped) == len(cells)
    compared = 0
    for row in rows[:: max(1, len(rows) // 12)]:
        place = np.flatnonzero(
            (found.table["Metadata_object"] == cells["Metadata_object"].iloc[row])
            & np.isclose(found.table["Metadata_centroid_x"], cells["Metadata_centroid_x"].iloc[row])
        )
        if len(place) == 1:
            given, read = expected.read([row]), found.read(place.tolist())
            assert torch.equal(read.inputs, given.inputs)
            assert torch.equal(read.regions["cell"], given.regions["cell"])
            assert torch.equal(read.regions["neighbours"], given.regions["neighbours"])
            compared += 1
    assert compared >= 10


def write_export(root, cells, rows):
    """Single cells as DeepProfiler's export writes them, from crops of the same fields."""
    batch = cells.read(rows)
    told = []
    for number, row in enumerate(rows):
        crop = batch.inputs[number].double().numpy()
        low = crop.min(axis=(1, 2), keepdims=True)
        stretched = (crop - low) / crop.max(axis=(1, 2), keepdims=True)
        mask = batch.regions["cell"][number].double().numpy()
        tiles = np.concatenate([*stretched, mask], axis=1)
        pixels = np.floor(rescale_intensity(tiles, in_range="image", out_range="uint8"))
        at = cells.table.iloc[row]
        x, y = at["Metadata_centroid_x"], at["Metadata_centroid_y"]
        well, site = at["Metadata_image"].split("_")
        name = f"NF1/{well}/{site}/0@{x}x{y}.png"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(root / name)
        told.append({"Image_Name": name, "Target": 0, "Nuclei_Location_Center_X": x,
                     "Nuclei_Location_Center_Y": y, "Metadata_Plate": "NF1"})  # fmt: skip
    pd.DataFrame(told).to_csv(root / "sc-metadata.csv", index=False)
    return batch


def test_cell_painting_as_an_export_of_deepprofiler(tmp_path, monkeypatch, capsys):
    rows = list(range(0, 24, 2))
    folder = tmp_path / "single cells"
    folder.mkdir()
    given = write_export(folder, painting(), rows)
    found = DeepProfiler(path=str(folder))
    read = found.read(range(len(rows)))
    assert torch.equal(read.regions["cell"], given.regions["cell"])
    crops = given.inputs.double()
    low, high = crops.amin((2, 3), keepdim=True), crops.amax((2, 3), keepdim=True)
    assert (read.inputs - (crops - low) / high).abs().max() < 1.01 / 255  # 8 bits, rounded down
    assert found.table["Metadata_Well"].isin(["D7", "F7"]).all()

    monkeypatch.chdir(tmp_path)
    arguments = ["dataset=deepprofiler", f"dataset.path='{folder}'", "layers=features.3"]
    assert main([*arguments, "figures=none"]) == 0
    scores = read_scores("results")
    assert sorted(scores["id"]) == sorted(found.table["id"])
    assert (scores["status"] == "ok").mean() > 0.8
