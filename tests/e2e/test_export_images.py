"""Kept maps laid back over their fields, and read by the libraries of each format."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch

import attrscore
from attrscore.cli.main import main
from attrscore.core.heat import Heat
from attrscore.core.registry import DATASETS
from attrscore.report.export.fields import laid_back, stacks_of
from attrscore.report.export.viewing import layers_of
from attrscore.store import kept

METHODS = "method=[grad_cam,saliency]"
NAMES = ["grad_cam features.3", "saliency input"]


def cells(shape, centres, radius):
    """Numbered discs or balls."""
    labels = np.zeros(shape, np.uint16)
    grid = np.indices(shape)
    for number, centre in enumerate(centres, start=1):
        away = sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True))
        labels[away <= radius**2] = number
    return labels


@pytest.fixture
def fields(tmp_path, monkeypatch):
    """Two fields of a few cells, in a folder with a space in its name; cells 1 and 2 are close."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for name, centres in {
        "one": [(20, 20), (20, 33), (60, 70), (2, 80)],
        "two é": [(40, 40)],
    }.items():
        labels = cells((80, 90), centres, 6)
        pixels = (generator.normal(100, 20, labels.shape) + 400 * (labels > 0)).clip(0)
        for folder, image in (("my images", pixels.astype(np.uint16)), ("masks", labels)):
            (tmp_path / folder).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / folder / f"{name}.tif", image)
    return {
        "images": "my images/*.tif",
        "masks": "masks/*.tif",
        "axes": "YX",
        "crop": [24, 24],
        "spacing": [0.5, 0.5],
    }


def audit(options, *more: str) -> None:
    given = [f"dataset.{name}='{value}'" for name, value in options.items() if name != "crop"]
    given = [each.replace("'[", "[").replace("]'", "]") for each in given]
    code = main(
        [
            *("dataset=fields", "dataset.crop=[24,24]", *given),
            *("model.classes=2", METHODS, "layers=features.3"),
            *("keep=native", "figures=none", *more),
        ]
    )
    assert code in (0, 3)


def expected(options, method, layer):
    """Field -> what lies there for each cell: number, slices, heat at the size of the crop."""
    dataset = DATASETS.build("fields", **options)
    ids, maps = attrscore.read_maps("results", method, layer)
    heat = Heat(torch.from_numpy(maps), dataset.spec.size).full().numpy()
    origins = dataset.origins(range(len(dataset.table)))
    found: dict[str, list] = {}
    for cell, name in enumerate(dataset.table["id"]):
        found.setdefault(origins.field[cell], []).append(
            (origins.number[cell], origins.first[cell].astype(int), heat[ids.index(name)])
        )
    return found


def test_every_format_holds_each_cells_heat_where_the_cell_is(fields, capsys):
    zarr = pytest.importorskip("zarr", reason="zarr, an extra, is not installed")
    nibabel = pytest.importorskip("nibabel", reason="nibabel, an extra, is not installed")
    audit(fields, "dataset.jitter=3")
    for kind in ("tiff", "omezarr", "nifti"):
        assert main(["export", "results", "--to", kind]) == 0
    assert "heat of 5 cells over 2 fields" in capsys.readouterr().out
    options = {**fields, "jitter": 3}
    for name in ("one", "two é"):
        with tifffile.TiffFile(f"results/export/tiff/{name}_attrscore.ome.tif") as file:
            stack = file.asarray()
            assert file.series[0].axes == "CYX"
            assert all(f'Name="{heat}"' in file.ome_metadata for heat in NAMES)
            assert 'PhysicalSizeX="0.5"' in file.ome_metadata
        assert stack.shape == (2, 80, 90)
        assert stack.dtype == np.float32
        group = zarr.open_group(f"results/export/omezarr/{name}_attrscore.ome.zarr", mode="r")
        np.testing.assert_array_equal(group["0"][:], stack)
        said = group.attrs["ome"]
        assert said["version"] == "0.5"
        (scales,) = said["multiscales"]
        assert [axis["name"] for axis in scales["axes"]] == ["c", "y", "x"]
        scale = scales["datasets"][0]["coordinateTransformations"][0]["scale"]
        assert scale == [1.0, 0.5, 0.5]
        assert [each["label"] for each in said["omero"]["channels"]] == NAMES
        for channel, method, layer in ((0, "grad_cam", "features.3"), (1, "saliency", "input")):
            image = nibabel.load(f"results/export/nifti/{name}_attrscore_{method}_{layer}.nii.gz")
            np.testing.assert_array_equal(image.get_fdata()[..., 0].T, stack[channel])
            assert image.header.get_zooms()[:2] == (0.5, 0.5)
            labels = tifffile.imread(f"masks/{name}.tif")
            covered = np.zeros(labels.shape, bool)
            for number, first, heat in expected(options, method, layer)[name]:
                for y, x in np.argwhere(labels == number):
                    inside = y - first[0], x - first[1]
                    if all(0 <= place < 24 for place in inside):
                        assert stack[channel, y, x] == heat[inside]
                y, x = first
                covered[max(y, 0) : max(y + 24, 0), max(x, 0) : max(x + 24, 0)] = True
            assert not stack[channel][~covered].any()
            assert stack[channel].any()


def test_where_crops_overlap_the_rule_that_was_asked_for_decides(fields):
    audit(fields)
    dataset = DATASETS.build("fields", **fields)
    stacks = stacks_of(kept("results"), methods=["saliency"])
    found = {
        rule: next(laid_back(stacks, dataset, overlap=rule)).heat[0]
        for rule in ("own", "max", "mean", "cells")
    }
    labels = tifffile.imread("masks/one.tif")
    here = expected(fields, "saliency", "input")["one"]
    laid = np.full((len(here), *labels.shape), np.nan)
    for cell, (_, (y, x), heat) in enumerate(here):
        rows, columns = np.arange(y, y + 24), np.arange(x, x + 24)
        rows, columns = rows[(rows >= 0) & (rows < 80)], columns[(columns >= 0) & (columns < 90)]
        laid[cell][np.ix_(rows, columns)] = heat[np.ix_(rows - y, columns - x)]
    highest = np.nan_to_num(np.fmax.reduce(laid))
    own = np.zeros(labels.shape)
    for cell, (number, *_) in enumerate(here):
        own[labels == number] = laid[cell][labels == number]
    np.testing.assert_array_equal(found["max"], highest)
    np.testing.assert_array_equal(found["cells"], own)
    np.testing.assert_array_equal(found["own"], np.where(labels > 0, own, highest))
    both = np.isfinite(laid).sum(0) > 1
    assert both.any()
    mean = np.nanmean(laid[:, both], axis=0)
    np.testing.assert_allclose(found["mean"][both], mean, rtol=1e-6)
    scaled = next(laid_back(stacks, dataset, scale="each", overlap="max")).heat
    assert scaled.max() == 1


def test_resampled_crops_are_laid_back_at_the_size_they_have_in_the_field(fields):
    """A map that is the distance to an edge of its crop is that distance in the field."""
    dataset = DATASETS.build("fields", **{**fields, "spacing": None})
    audit(fields)

    class Ramp:
        name, ids = "ramp", {"two é:1"}

        @staticmethod
        def heat(ids, space):
            ramp = np.arange(space[1], dtype=np.float32) + 0.5
            return np.broadcast_to(ramp, (len(ids), *space)).copy()

    class Twice:
        """Crops of 24 pixels that span 48 of the field."""

        table, spec, field = dataset.table, dataset.spec, staticmethod(dataset.field)

        @staticmethod
        def origins(rows):
            origins = dataset.origins(rows)
            from dataclasses import replace

            return replace(origins, first=origins.first - 12, extent=origins.extent * 2)

    (found,) = laid_back([Ramp()], Twice(), overlap="max")
    row = found.heat[0, 40]
    at = np.flatnonzero(row)
    assert (at[0], at[-1]) == (16, 63)
    middle = at[2:-2]  # constant beyond the centres of the outermost pixels
    np.testing.assert_allclose(row[middle], (middle + 0.5 - 16) / 2, rtol=1e-6)


def test_shards_and_several_jobs_are_laid_back_together(fields, capsys):
    audit(fields, "dataset.shard=0/2")
    audit(fields, "dataset.shard=1/2")
    assert main(["export", "results", "--to", "tiff", "--method", "saliency"]) == 0
    assert "heat of 5 cells over 2 fields" in capsys.readouterr().out


def test_maps_that_cannot_be_laid_back_are_told(fields, capsys, tmp_path):
    audit(fields)
    capsys.readouterr()

    def refused(*arguments: str) -> str:
        assert main(["export", "results", "--to", "tiff", *arguments]) in (1, 2)
        return " ".join(capsys.readouterr().err.split())

    assert "No maps are kept of the method lime" in refused("--method", "lime")
    assert "kept: features.3, input" in refused("--layer", "features.9")
    assert main(["export", "results", "--to", "tiff", "-o", "mine"]) == 0
    assert "exist; say --force" in refused("-o", "mine")
    image = tmp_path / "my images" / "one.tif"
    tifffile.imwrite(image, tifffile.imread(image) + 1)
    assert "not those that these maps were computed on" in refused("-o", "other")
    (tmp_path / "my images").rename(tmp_path / "gone")
    assert "No file matches images" in refused("-o", "other")
    assert not (tmp_path / "other").exists()


def test_files_that_have_moved_are_found_where_the_command_says(fields, capsys, tmp_path):
    audit(fields)
    (tmp_path / "my images").rename(tmp_path / "moved")
    export = ["export", "results", "--to", "tiff"]
    assert main([*export, "dataset.images='moved/*.tif'"]) == 0
    assert "heat of 5 cells over 2 fields" in capsys.readouterr().out
    assert main(["reproduce", "results", "dataset.images='moved/*.tif'"]) == 0
    for change, told in {
        "dataset.imagse=moved": "no setting 'dataset.imagse'. Did you mean 'images'",
        "dataset=phantom": "give single settings one value each",
        "dataset.images=a,b": "give single settings one value each",
    }.items():
        assert main([*export, "-o", "other", change]) == 2
        assert told in " ".join(capsys.readouterr().err.split())


def test_crops_without_fields_are_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["dataset.cells=4", "dataset.size=[16,16]", "figures=none", "keep=native"]
    assert main(small) in (0, 3)
    assert main(["export", "results", "--to", "tiff"]) == 2
    assert "crops without a field" in " ".join(capsys.readouterr().err.split())


def test_volumes(tmp_path, monkeypatch):
    nibabel = pytest.importorskip("nibabel", reason="nibabel, an extra, is not installed")
    monkeypatch.chdir(tmp_path)
    labels = cells((12, 40, 50), [(5, 12, 12), (6, 25, 35)], 4)
    pixels = np.random.default_rng(0).integers(0, 500, labels.shape).astype(np.uint16)
    for folder, image in (("images", pixels + 400 * (labels > 0)), ("masks", labels)):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / "v.tif", image.astype(np.uint16))
    spacing = "dataset.spacing=[2.0,0.5,0.5]"
    given = ["dataset=fields", "dataset.images=images", "dataset.masks=masks", spacing]
    shape = ["dataset.axes=ZYX", "dataset.crop=[8,16,16]", "model.classes=2", "layers=features.3"]
    assert main([*given, *shape, "keep=native", "figures=none"]) in (0, 3)
    for kind in ("tiff", "nifti"):
        assert main(["export", "results", "--to", kind, "--overlap", "cells"]) == 0
    with tifffile.TiffFile("results/export/tiff/v_attrscore.ome.tif") as file:
        stack = file.asarray().reshape(labels.shape)
        assert 'PhysicalSizeZ="2.0"' in file.ome_metadata
    assert not stack[labels == 0].any()
    image = nibabel.load("results/export/nifti/v_attrscore_grad_cam_features.3.nii.gz")
    np.testing.assert_array_equal(image.get_fdata().T, stack)
    assert image.header.get_zooms() == (0.5, 0.5, 2.0)


# What napari shows


@pytest.mark.parametrize("size", [(16, 16), (6, 16, 16)])
def test_layers_to_look_at(size):
    n, channels = 3, 2
    regions = {name: torch.zeros(n, *size, dtype=torch.bool) for name in ("cell", "neighbours")}
    regions["cell"][..., 4:8, 4:8] = True
    regions["neighbours"][..., 10:12, 10:12] = True
    batch = attrscore.Batch(
        torch.rand(n, channels, *size),
        {**regions, "nucleus": regions["cell"]},
        stains=("DNA", "ER"),
        spacing=tuple(0.5 for _ in size),
    )
    heat = np.random.default_rng(0).random((n, *size)).astype(np.float32)
    heat[1], heat[2] = 0, np.nan
    layers = layers_of(batch, {"grad_cam features.3": heat})
    assert [(data["name"], kind) for _, data, kind in layers] == [
        ("DNA", "image"),
        ("ER", "image"),
        ("cells", "labels"),
        ("nucleus", "labels"),
        ("grad_cam features.3", "image"),
    ]
    for data, keywords, _ in layers:
        assert data.shape == (n, *size)
        assert keywords["scale"] == (1.0, *(0.5 for _ in size))
    labels = layers[2][0]
    np.testing.assert_array_equal(labels == 1, batch.regions["cell"])
    np.testing.assert_array_equal(labels == 2, batch.regions["neighbours"])
    shown = layers[-1][0]
    np.testing.assert_allclose(shown[0], heat[0] / heat[0].max(), rtol=1e-6)
    assert not shown[1:].any()
    assert layers[-1][1]["contrast_limits"] == (0.0, 1.0)
