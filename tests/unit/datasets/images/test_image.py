"""Images of every format, written by the libraries that own these formats."""

from __future__ import annotations

import struct
import sys
import zlib

import nibabel
import numcodecs
import numpy as np
import pytest
import tifffile
import torch
import zarr
from PIL import Image as Pillow

from attrscore.datasets import Fields
from attrscore.datasets.images import open_image, open_labels
from attrscore.datasets.images.files import digest_of, find_files, stem
from attrscore.datasets.images.readers import Choice
from attrscore.errors import AttrscoreWarning, ConfigError, DataError


def pixels(shape, dtype="uint16", seed=0):
    return np.random.default_rng(seed).integers(1, 4000, shape).astype(dtype)


def labels(shape=(40, 50)):
    made = np.zeros(shape, np.uint16)
    made[..., 5:12, 5:12] = 3
    made[..., 20:30, 22:30] = 900
    return made


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "my images µ"
    folder.mkdir()
    return folder


def write_zarr(
    path, array, *, axes, zarr_format=2, levels=1, scale=None, unit="micrometer", **more
):
    """As ome-zarr lays it out: 0.4 in Zarr 2, 0.5 in Zarr 3 under a key ``ome``."""
    group = zarr.open_group(str(path), mode="w", zarr_format=zarr_format)
    datasets = []
    for level in range(levels):
        step = [1 if axis in "ct" else 2**level for axis in axes]
        small = array[tuple(slice(None, None, n) for n in step)]
        chunks = tuple(min(16, n) for n in small.shape)
        group.create_array(str(level), data=np.ascontiguousarray(small), chunks=chunks)
        size = [s * n for s, n in zip(scale or [1] * len(axes), step, strict=True)]
        steps = [{"type": "scale", "scale": size}]
        datasets.append({"path": str(level), "coordinateTransformations": steps})
    kinds = {"c": "channel", "t": "time"}
    named = [
        {"name": a, "type": kinds[a]} if a in kinds else {"name": a, "type": "space", "unit": unit}
        for a in axes
    ]
    told = {"multiscales": [{"axes": named, "datasets": datasets, "version": "0.4"}], **more}
    group.attrs.update(told if zarr_format == 2 else {"ome": {"version": "0.5", **told}})
    return path


# TIFF: windows decode what they touch, whatever the layout of the file


LAYOUTS = {
    "in one piece": {},
    "one strip": {"compression": "zlib"},
    "strips": {"compression": "zlib", "rowsperstrip": 7},
    "tiles": {"compression": "zlib", "tile": (16, 32), "predictor": True},
    "big-endian": {"byteorder": ">"},
    "big-endian tiles": {"byteorder": ">", "tile": (16, 16)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ome_tiff_is_read_by_window_with_its_metadata(root, layout):
    array = pixels((2, 3, 41, 53))
    tifffile.imwrite(
        root / "a.ome.tif",
        array,
        photometric="minisblack",
        metadata={
            "axes": "CZYX",
            "PhysicalSizeX": 0.5,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": 400,
            "PhysicalSizeYUnit": "nm",
            "PhysicalSizeZ": 2,
            "Channel": {"Name": ["DNA", "ER"]},
        },
        **LAYOUTS[layout],
    )
    image = open_image(root / "a.ome.tif")
    assert (image.space, image.shape, image.dtype.kind) == ("ZYX", (2, 3, 41, 53), "u")
    assert image.spacing == pytest.approx((2, 0.4, 0.5))
    assert image.stains == ("DNA", "ER")
    assert np.array_equal(image.read(), array)
    assert image.read().dtype == np.uint16  # of this machine's byte order
    window = slice(1, 3), slice(5, 40), slice(30, 53)
    assert np.array_equal(image.read(window), array[(slice(None), *window)])
    assert np.array_equal(
        image.read(window, channels=[1, 0]), array[(slice(None, None, -1), *window)]
    )
    assert image.read((slice(0, 1), slice(4, 4), slice(0, 9))).shape == (2, 1, 0, 9)


@pytest.fixture
def _large(monkeypatch):
    """Every image is a large one."""
    monkeypatch.setattr("attrscore.datasets.images.readers.LARGE", 0)


@pytest.mark.usefixtures("_large")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_large_tiff_is_read_by_window(root, layout):
    test_ome_tiff_is_read_by_window_with_its_metadata(root, layout)


@pytest.mark.usefixtures("_large")
def test_a_window_of_a_large_tiff_decodes_only_the_tiles_that_it_touches(root):
    array = pixels((3, 64, 64))
    options = {"compression": "zlib", "tile": (16, 16), "photometric": "minisblack"}
    tifffile.imwrite(root / "a.tif", array, **options)
    with tifffile.TiffFile(root / "a.tif") as file:
        page = file.pages[2]
        where = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    with (root / "a.tif").open("r+b") as file:
        for number, (offset, count) in enumerate(where):
            if number not in (0, 4):
                file.seek(offset)
                file.write(b"x" * count)
    image = open_image(root / "a.tif", axes="CYX")
    window = slice(15, 17), slice(0, 16)
    assert np.array_equal(image.read(window, channels=[2])[0], array[2][window])
    with pytest.raises(DataError, match="'a.tif' cannot be read as a TIFF"):
        image.read(channels=[2])


def test_a_large_tiff_is_decoded_whole_without_zarr(root, monkeypatch):
    array = pixels((40, 50))
    tifffile.imwrite(root / "a.tif", array, compression="zlib")
    monkeypatch.setattr("attrscore.datasets.images.readers.LARGE", 0)
    monkeypatch.setattr("attrscore.datasets.images.tiff.find_spec", lambda name: None)
    image = open_image(root / "a.tif")
    assert type(image.stored.pixels).__name__ == "Decoded"
    assert np.array_equal(image.read((slice(3, 9), slice(7, 20)))[0], array[3:9, 7:20])


def test_a_compression_that_needs_another_package_says_which(root, monkeypatch):
    tifffile.imwrite(root / "a.tif", pixels((40, 50)), compression="zlib")
    image = open_image(root / "a.tif")

    def without_codec(self, **options):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffFile, "asarray", without_codec)
    with pytest.raises(
        DataError, match="'a.tif' cannot be read as a TIFF.*pip install imagecodecs"
    ):
        image.read()


def test_imagej_names_axes_and_voxels(root):
    array = pixels((3, 40, 50))
    told = {"axes": "ZYX", "unit": "um", "spacing": 1.5}
    tifffile.imwrite(root / "a.tif", array, imagej=True, resolution=(4, 2), metadata=told)
    image = open_image(root / "a.tif")
    assert (image.space, image.shape) == ("ZYX", (1, 3, 40, 50))
    assert image.spacing == (1.5, 0.5, 0.25)
    assert np.array_equal(image.read()[0], array)


def test_the_resolution_of_a_plain_tiff_is_no_voxel_size(root):
    tifffile.imwrite(root / "a.tif", pixels((40, 50)), resolution=(300, 300), resolutionunit="INCH")
    assert open_image(root / "a.tif").spacing is None


def test_samples_kept_apart_and_beside_each_other(root):
    colour = pixels((40, 50, 3), "uint8")
    tifffile.imwrite(root / "a.tif", colour, photometric="rgb", tile=(16, 16), compression="zlib")
    assert np.array_equal(
        open_image(root / "a.tif", axes="YXC").read(channels=[2])[0], colour[..., 2]
    )
    apart = np.ascontiguousarray(np.moveaxis(colour, 2, 0))
    options = {"photometric": "rgb", "planarconfig": "separate", "compression": "zlib"}
    tifffile.imwrite(root / "b.tif", apart, **options)
    assert np.array_equal(open_image(root / "b.tif", axes="CYX").read(), apart)


def test_ome_tiffs_of_several_files_and_one_that_lost_its_other(root):
    array = pixels((2, 40, 50))
    first, second = root / "a.ome.tif", root / "b.ome.tif"
    names = ("a.ome.tif", "b.ome.tif")
    planes = "".join(
        f'<TiffData FirstC="{c}" IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{c}'
        "</UUID></TiffData>"
        for c, name in enumerate(names)
    )
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'UUID="urn:uuid:{}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" '
        f'Type="uint16" SizeX="50" SizeY="40" SizeC="2" SizeZ="1" SizeT="1">{planes}</Pixels>'
        "</Image></OME>"
    )
    for c, path in enumerate((first, second)):
        tifffile.imwrite(path, array[c], description=xml.format(c), metadata=None)
    assert np.array_equal(open_image(first).read(), array)
    second.unlink()
    with pytest.raises(DataError, match=r"'a.ome.tif' has no pixels for its plane 1 of 2"):
        open_image(first)


# PNG


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16"])
def test_grey_png(root, dtype):
    array = pixels((40, 50), dtype)
    Pillow.fromarray(array).save(root / "a.png")
    image = open_image(root / "a.png")
    assert np.array_equal(image.read()[0], array)
    assert image.dtype == image.read().dtype == dtype


def test_png_of_a_palette_and_of_colours(root):
    numbers = labels().astype(np.uint8)
    coloured = Pillow.fromarray(numbers)
    coloured.putpalette(list(range(256)) * 3)
    coloured.save(root / "a.png")
    assert np.array_equal(open_image(root / "a.png").read()[0], numbers)
    colour = pixels((40, 50, 3), "uint8")
    Pillow.fromarray(colour).save(root / "b.png")
    with pytest.raises(DataError, match=r"'b.png' of shape \(40, 50, 3\) does not say .* YXS"):
        open_image(root / "b.png")
    assert np.array_equal(
        open_image(root / "b.png", axes="YXC").read(channels=[1])[0], colour[..., 1]
    )


def test_png_of_16_bits_in_colour_would_lose_half_of_them(root):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\0" + bytes(6 * 4) for _ in range(3))
    header = struct.pack(">IIBBBBB", 4, 3, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (root / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    with pytest.raises(DataError, match="'a.png' has 16 bits a sample in colour"):
        open_image(root / "a.png", axes="YXC")


# NumPy and Cellpose


@pytest.mark.usefixtures("_large")
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_large_npy_is_mapped(root, order):
    array = pixels((2, 40, 50))
    np.save(root / "a.npy", np.asarray(array, order=order))
    image = open_image(root / "a.npy", axes="CYX")
    assert np.array_equal(image.read((slice(3, 9), slice(0, 50))), array[:, 3:9])
    assert isinstance(image.stored.pixels._array, np.memmap)


def test_npy_and_npz_that_holds_one_array(root):
    array = pixels((2, 40, 50))
    np.save(root / "a.npy", array)
    image = open_image(root / "a.npy", axes="CYX")
    assert np.array_equal(image.read((slice(3, 9), slice(0, 50))), array[:, 3:9])
    with pytest.raises(DataError, match="'a.npy' of shape .* does not say what its axes are"):
        open_image(root / "a.npy")
    np.savez_compressed(root / "b.npz", array[0])
    assert np.array_equal(open_image(root / "b.npz").read()[0], array[0])
    np.savez(root / "c.npz", x=array, y=array)
    with pytest.raises(DataError, match="'c.npz' holds 2 arrays: x, y; expected one image a file"):
        open_image(root / "c.npz")


def test_pickles_are_read_only_when_allowed(root):
    array, masks = pixels((40, 50)), labels()
    tifffile.imwrite(root / "a.tif", array)
    np.save(root / "a_seg.npy", {"masks": masks, "outlines": masks, "filename": "a.tif"})
    options = {
        "images": str(root / "*.tif"),
        "masks": str(root / "*_seg.npy"),
        "crop": [16, 16],
        "normalise": "none",
    }
    refused = Fields(**options)
    with pytest.raises(
        DataError, match="is a pickle, which runs code .* dataset.allow_pickle=true"
    ):
        refused.table  # noqa: B018
    allowed = Fields(**options, allow_pickle=True)
    with pytest.warns(AttrscoreWarning, match="a pickle from someone else can run any code"):
        table = allowed.table
    assert table["id"].tolist() == ["a:3", "a:900"]
    np.save(root / "b.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match="'b.npy' cannot be read as a .npy"):
        open_image(root / "b.npy", choice=Choice(allow_pickle=True))  # of no Cellpose
    np.save(root / "c_seg.npy", {"mask": masks})
    with (
        pytest.warns(AttrscoreWarning),
        pytest.raises(DataError, match="'c_seg.npy' holds no 'masks'"),
    ):
        open_image(root / "c_seg.npy", choice=Choice(allow_pickle=True))


# NIfTI


def write_nifti(path, array, *, affine=None, unit="mm"):
    image = nibabel.Nifti1Image(array, np.diag([0.5, 0.25, 2, 1]) if affine is None else affine)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nifti_is_turned_to_zyx_with_its_spacing(root, ending):
    array = pixels((50, 40, 6), "int16")  # x, y, z
    image = open_image(write_nifti(root / f"a b{ending}", array))
    assert (image.space, image.shape) == ("ZYX", (1, 6, 40, 50))
    assert image.spacing == (2000, 250, 500)
    assert np.array_equal(image.read()[0], array.T)
    window = slice(2, 4), slice(3, 30), slice(10, 11)
    assert np.array_equal(image.read(window)[0], array.T[window])
    assert open_image(write_nifti(root / f"b{ending}", array, unit="micron")).spacing == (
        2,
        0.25,
        0.5,
    )
    assert open_image(write_nifti(root / f"c{ending}", array, unit=0)).spacing is None


def test_a_flat_nifti_has_two_axes_and_channels_may_be_its_fourth(root):
    flat = open_image(write_nifti(root / "a.nii", pixels((50, 40, 1), "int16")))
    assert (flat.space, flat.shape) == ("YX", (1, 40, 50))
    array = pixels((50, 40, 6, 2), "int16")
    write_nifti(root / "b.nii.gz", array)
    with pytest.raises(DataError, match="'b.nii.gz' of shape .* does not say .*read: XYZT"):
        open_image(root / "b.nii.gz")
    image = open_image(root / "b.nii.gz", axes="XYZC")
    assert np.array_equal(image.read(), array.transpose(3, 2, 1, 0))
    with pytest.raises(DataError, match="axes=ZYXC is not how 'b.nii.gz' is stored"):
        open_image(root / "b.nii.gz", axes="ZYXC")


def test_scaled_nifti_gives_its_real_values(root):
    array = pixels((50, 40, 6), "int16")
    image = nibabel.Nifti1Image(array, np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    nibabel.save(image, root / "a.nii")
    made = open_image(root / "a.nii")
    stored = np.asarray(nibabel.load(root / "a.nii").dataobj)
    assert made.dtype == made.read().dtype == np.float64
    assert np.array_equal(made.read()[0], stored.T)


def test_nifti_labels_in_another_place_are_refused(root):
    image = open_image(write_nifti(root / "a.nii.gz", pixels((50, 40, 6), "int16")))
    mask = labels((6, 40, 50)).T.astype(np.int16)
    same = open_labels(write_nifti(root / "same.nii.gz", mask), like=image)
    assert np.array_equal(same.read(), mask.T)
    flipped = np.diag([-0.5, 0.25, 2, 1])
    write_nifti(root / "flipped.nii.gz", mask, affine=flipped)
    with pytest.raises(
        DataError, match="'flipped.nii.gz' lies elsewhere than its image 'a.nii.gz'"
    ):
        open_labels(root / "flipped.nii.gz", like=image)


# OME-Zarr


@pytest.mark.parametrize("way", ["scale", "sequence"])
def test_ome_zarr_0_6_names_its_axes_in_a_coordinate_system(root, way):
    """Levels lead into the first of two systems; what leads on from there is no size of a voxel."""
    array = pixels((4, 40, 50))
    group = zarr.open_group(str(root / "a.ome.zarr"), mode="w", zarr_format=3)
    datasets = []
    for level in range(2):
        group.create_array(
            str(level), data=np.ascontiguousarray(array[:, :: 1 + level, :: 1 + level])
        )
        scale = {"type": "scale", "scale": [2, 0.5 * (1 + level), 0.25 * (1 + level)]}
        ends = {"input": {"path": str(level)}, "output": {"name": "physical"}}
        moved = {"type": "translation", "translation": [0, 0.25 * level, 0.125 * level]}
        step = (
            {"type": "sequence", "transformations": [scale, moved]} if way == "sequence" else scale
        )
        datasets.append({"path": str(level), "coordinateTransformations": [{**step, **ends}]})
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    on = {"type": "scale", "scale": [9, 9, 9], "input": {"name": "physical"}}
    group.attrs["ome"] = {
        "version": "0.6",
        "multiscales": [
            {
                "coordinateSystems": [
                    {"name": "atlas", "axes": [{**axis, "name": "r"} for axis in axes]},
                    {"name": "physical", "axes": axes},
                ],
                "datasets": datasets,
                "coordinateTransformations": [{**on, "output": {"name": "atlas"}}],
            }
        ],
    }
    image = open_image(root / "a.ome.zarr")
    assert (image.space, image.spacing) == ("ZYX", (2, 0.5, 0.25))
    assert np.array_equal(image.read()[0], array)
    assert open_image(root / "a.ome.zarr", choice=Choice(level=1)).spacing == (2, 1, 0.5)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_ome_zarr_is_read_by_chunk_at_one_level(root, zarr_format):
    array = pixels((1, 2, 4, 40, 50))
    path = write_zarr(
        root / "a b.ome.zarr",
        array,
        axes="tczyx",
        zarr_format=zarr_format,
        levels=2,
        scale=[1, 1, 2, 0.5, 0.25],
        omero={"channels": [{"label": "DNA"}, {"label": "ER"}]},
    )
    image = open_image(path)
    assert (image.space, image.shape, image.stains) == ("ZYX", (2, 4, 40, 50), ("DNA", "ER"))
    assert image.spacing == (2, 0.5, 0.25)
    assert np.array_equal(image.read(), array[0])
    window = slice(1, 2), slice(7, 33), slice(2, 50)
    assert np.array_equal(image.read(window, channels=[1])[0], array[0, 1][window])
    coarse = open_image(path, choice=Choice(level=1))
    assert coarse.spacing == (4, 1, 0.5)
    assert np.array_equal(coarse.read(), array[0, :, ::2, ::2, ::2])
    with pytest.raises(
        ConfigError, match="level=2 is not in 'a b.ome.zarr', which has the levels 0"
    ):
        open_image(path, choice=Choice(level=2))


@pytest.mark.usefixtures("_large")
def test_a_window_of_a_large_zarr_opens_only_its_chunks(root):
    array = pixels((40, 50))
    path = write_zarr(root / "a.zarr", array, axes="yx")
    for chunk in (path / "0").iterdir():
        if chunk.name not in ("0.0", ".zarray", ".zattrs"):
            chunk.write_bytes(b"damaged")
    image = open_image(path)
    assert np.array_equal(image.read((slice(0, 16), slice(2, 16)))[0], array[:16, 2:16])
    with pytest.raises(DataError, match="'a.zarr/0/[0-9.]+' cannot be read as a Zarr: the chunk"):
        image.read()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda told: told.pop("multiscales"),
            "no OME-Zarr image: its metadata have no multiscales",
        ),
        (lambda told: told["multiscales"][0].pop("axes"), "does not name its axes"),
        (lambda told: told["multiscales"][0]["axes"].pop(), "names the axes Y but its level 0"),
        (
            lambda told: told["multiscales"][0]["datasets"][0].pop("path"),
            "has no array '', which its",
        ),
        (lambda told: told["multiscales"][0].pop("datasets"), "names no resolution level"),
    ],
)
def test_zarr_without_what_the_specification_asks_for(root, damage, message):
    path = write_zarr(root / "a.zarr", pixels((40, 50)), axes="yx")
    group = zarr.open_group(str(path), mode="r+")
    told = group.attrs.asdict()
    damage(told)
    group.attrs.put(told)
    with pytest.raises((DataError, ConfigError), match=message):
        open_image(path)


def test_a_folder_that_is_no_zarr(root):
    (root / "a.zarr").mkdir()
    with pytest.raises(DataError, match="'a.zarr' is no OME-Zarr image: no group is there"):
        open_image(root / "a.zarr")


def test_labels_inside_a_zarr_and_the_fields_of_a_plate(root):
    for number, place in enumerate(("plate.zarr/A/1/0", "plate.zarr/B/2/0")):
        write_zarr(root / place, pixels((2, 40, 50), seed=number), axes="cyx")
        write_zarr(root / place / "labels" / "cells", labels(), axes="yx")
    fields = Fields(
        images=str(root / "plate.zarr/*/*/*"),
        masks=str(root / "plate.zarr/*/*/*/labels/cells"),
        crop=[16, 16],
        normalise="none",
    )
    assert fields.table["id"].tolist() == [
        f"plate_{w}:{n}" for w in ("A_1_0", "B_2_0") for n in (3, 900)
    ]
    expected = pixels((2, 40, 50), seed=1)[:, 25 - 8 : 25 + 8, 26 - 8 : 26 + 8]
    assert np.array_equal(fields.read([3]).inputs[0].numpy(), expected)
    assert fields.skipped == {}


# what every format gives is the same


def written(folder, kind, image, mask):
    """The image (Z, Y, X) and its labels in one format."""
    folder.mkdir()
    if kind == "tif":
        tifffile.imwrite(
            folder / "a.tif", image, photometric="minisblack", metadata={"axes": "ZYX"}, ome=True
        )
        tifffile.imwrite(folder / "a_cp_masks.tif", mask, photometric="minisblack")
    elif kind == "zarr":
        write_zarr(folder / "a.zarr", image, axes="zyx", zarr_format=3)
        write_zarr(folder / "a_cp_masks.zarr", mask, axes="zyx", zarr_format=3)
    elif kind == "nii.gz":
        write_nifti(folder / "a.nii.gz", image.T)
        write_nifti(folder / "a_cp_masks.nii.gz", mask.T)
    elif kind == "npy":
        np.save(folder / "a.npy", image)
        np.save(folder / "a_cp_masks.npy", mask)
    elif kind == "npz":
        np.savez(folder / "a.npz", image)
        np.savez(folder / "a_cp_masks.npz", mask)
    axes = "ZYX" if kind in ("npy", "npz") else None
    return Fields(
        images=str(folder / f"*.{kind}"),
        masks=str(folder / f"*_cp_masks.{kind}"),
        axes=axes,
        crop=[4, 16, 16],
    )


def test_one_field_in_every_format_gives_the_same_crops(root):
    image, mask = pixels((6, 40, 50)), labels((6, 40, 50))
    first = written(root / "tif", "tif", image, mask).read([0, 1])
    for kind in ("zarr", "nii.gz", "npy", "npz"):
        fields = written(root / kind, kind, image, mask)
        batch = fields.read([0, 1])
        assert batch.ids == first.ids == ("a:3", "a:900")
        assert torch.equal(batch.inputs, first.inputs), kind
        assert torch.equal(batch.regions["cell"], first.regions["cell"]), kind
        fields.fingerprint()


def test_masks_may_be_of_another_format_than_their_images(root):
    image, mask = pixels((40, 50)), labels()
    tifffile.imwrite(root / "a.tif", image)
    Pillow.fromarray(mask).save(root / "a_cp_masks.png")
    options = {"images": str(root / "*.tif"), "crop": [16, 16]}
    table = Fields(masks=str(root / "*_cp_masks.png"), **options).table
    assert table["Metadata_object"].tolist() == [3, 900]
    write_zarr(root / "a.zarr" / "labels" / "cells", mask, axes="yx")
    assert Fields(masks=str(root / "*.zarr/labels/cells"), **options).table.equals(table)


# names


def test_stems_of_every_ending():
    for name in (
        "a.b.tif",
        "a.b.ome.tiff",
        "a.b.png",
        "a.b.nii.gz",
        "a.b.npy",
        "a.b.ome.zarr",
        "a.b",
    ):
        assert stem(f"x/{name}") == "a.b"
    assert stem("x/a.zarr/labels/nuclei") == "a"


def test_a_folder_gives_its_images_and_a_zarr_itself(root):
    write_zarr(root / "b.zarr", pixels((40, 50)), axes="yx")
    np.save(root / "a.npy", pixels((40, 50)))
    (root / "notes.txt").write_text("x")
    assert [path.name for path in find_files(str(root), option="images")] == ["a.npy", "b.zarr"]
    assert find_files(str(root / "b.zarr"), option="images") == [root / "b.zarr"]
    with pytest.raises(
        DataError, match="'notes.txt' has an ending that is not known; expected one"
    ):
        open_image(root / "notes.txt")


def test_a_digest_follows_every_file_of_a_folder(root):
    path = write_zarr(root / "a.zarr", pixels((40, 50)), axes="yx")
    before = digest_of(path)
    assert digest_of(path) == before
    (path / "0" / "0.0").write_bytes(b"other")
    assert digest_of(path) != before


def test_a_format_whose_package_is_missing_says_what_to_install(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(
        ConfigError, match=r"'a.nii' needs the package nibabel: pip install 'attrscore\[n"
    ):
        open_image(root / "a.nii")


# what a file leaves out


@pytest.mark.parametrize("large", [False, True])
def test_a_segment_without_bytes_is_background(root, large, request):
    if large:
        request.getfixturevalue("_large")
    array = pixels((48, 48))
    tifffile.imwrite(root / "a.tif", array, compression="zlib", tile=(16, 16))
    with tifffile.TiffFile(root / "a.tif", mode="r+b") as file:
        counts = list(file.pages.first.tags["TileByteCounts"].value)
        counts[4] = 0
        file.pages.first.tags["TileByteCounts"].overwrite(counts)
    array[16:32, 16:32] = 0
    assert np.array_equal(open_image(root / "a.tif").read()[0], array)


ARRAYS = {
    "Zarr 3": {},
    "plain": {"compressors": None},
    "big-endian": {"dtype": ">u2"},
    "bytes": {"dtype": "uint8"},
    "bool": {"dtype": "bool"},
    "gzip": {"compressors": zarr.codecs.GzipCodec()},
    "blosc": {"compressors": zarr.codecs.BloscCodec()},
    "sum": {"compressors": [zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]},
    "turned": {"filters": [zarr.codecs.TransposeCodec(order=(1, 0))]},
    "shards": {"shards": (32, 32)},
    "shards of blosc": {"shards": (32, 32), "compressors": zarr.codecs.BloscCodec()},
    "Zarr 2": {"zarr_format": 2, "compressors": numcodecs.Zstd()},
    "Zarr 2, big-endian": {"zarr_format": 2, "compressors": numcodecs.Zstd(), "dtype": ">u2"},
    "Zarr 2, columns first": {"zarr_format": 2, "compressors": numcodecs.Zstd(), "order": "F"},
    "Zarr 2, differences": {"zarr_format": 2, "filters": [numcodecs.Delta(dtype="u2")]},
    "Zarr 2, plain": {"zarr_format": 2, "compressors": None},
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_windows_of_a_zarr_are_those_of_zarr(root, kind):
    options = {"dtype": "uint16", "zarr_format": 3, **ARRAYS[kind]}
    group = zarr.open_group(str(root / "a.zarr"), mode="w", zarr_format=options.pop("zarr_format"))
    array = group.create_array("0", shape=(41, 53), chunks=(16, 16), fill_value=1, **options)
    array[:33] = pixels((33, 53), "uint16")  # the rest of the chunks is not written
    axes = [{"name": axis, "type": "space"} for axis in "yx"]
    told = {"multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
    group.attrs.update(told if kind.startswith("Zarr 2") else {"ome": {"version": "0.5", **told}})
    there = zarr.open_group(str(root / "a.zarr"), mode="r")["0"]
    image = open_image(root / "a.zarr")
    assert (image.shape[1:], image.dtype) == (there.shape, there.dtype)
    for window in (
        (slice(0, 41), slice(0, 53)),
        (slice(15, 17), slice(3, 4)),
        (slice(16, 32), slice(32, 53)),
        (slice(40, 41), slice(52, 53)),
    ):
        assert np.array_equal(image.read(window)[0], there[window])


def test_a_file_that_was_written_again_is_read_again(root):
    for array in (pixels((40, 50)), pixels((24, 70), seed=1)):
        write_zarr(root / "a.zarr", array, axes="yx", zarr_format=3)
        assert np.array_equal(open_image(root / "a.zarr").read()[0], array)
        for options in ({}, {"compression": "zlib"}):
            tifffile.imwrite(root / "a.tif", array, **options)
            assert np.array_equal(open_image(root / "a.tif").read()[0], array)
