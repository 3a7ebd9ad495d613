"""Images of every format, written by the libraries that own these formats."""

from __future__ import annotations

import struct
import sys
import zlib

import nibabel
import numpy as np
import pytest
import tifffile
import torch
import zarr
from PIL import Image as Pillow

from attrscore.datasets import Fields
from attrscore.datasets.images import open_image, open_labels
from attrscore.datasets.images.files import digest_of, find_files, stem
from attrscore.datasets.images.planes import Segments
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


def test_a_window_decodes_only_the_tiles_that_it_touches(root, monkeypatch):
    array = pixels((3, 64, 64))
    options = {"compression": "zlib", "tile": (16, 16), "photometric": "minisblack"}
    tifffile.imwrite(root / "a.tif", array, **options)
    image = open_image(root / "a.tif", axes="CYX")
    decoded = []
    real = Segments.__call__
    monkeypatch.setattr(
        Segments,
        "__call__",
        lambda self, data, number: decoded.append(number) or real(self, data, number),
    )
    window = slice(15, 17), slice(0, 16)
    assert np.array_equal(image.read(window, channels=[2])[0], array[2][window])
    assert decoded == [0, 4]


def test_a_compression_that_needs_another_package_says_which(root, monkeypatch):
    tifffile.imwrite(root / "a.tif", pixels((40, 50)), compression="zlib")
    image = open_image(root / "a.tif")

    def without_codec(self, data, number):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(Segments, "__call__", without_codec)
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


def test_npy_is_mapped_and_npz_holds_one_array(root):
    array = pixels((2, 40, 50))
    np.save(root / "a.npy", array)
    image = open_image(root / "a.npy", axes="CYX")
    assert isinstance(image.stored.pixels, np.memmap)
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
        open_image(root / "b.npy", allow_pickle=True)  # of no Cellpose
    np.save(root / "c_seg.npy", {"mask": masks})
    with (
        pytest.warns(AttrscoreWarning),
        pytest.raises(DataError, match="'c_seg.npy' holds no 'masks'"),
    ):
        open_image(root / "c_seg.npy", allow_pickle=True)


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
    coarse = open_image(path, level=1)
    assert coarse.spacing == (4, 1, 0.5)
    assert np.array_equal(coarse.read(), array[0, :, ::2, ::2, ::2])
    with pytest.raises(
        ConfigError, match="level=2 is not in 'a b.ome.zarr', which has the levels 0"
    ):
        open_image(path, level=2)


def test_a_window_of_a_zarr_opens_only_its_chunks(root):
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
    monkeypatch.delitem(sys.modules, "attrscore.datasets.images.nifti", raising=False)
    with pytest.raises(
        ConfigError, match=r"'a.nii' needs the package nibabel: pip install 'attrscore\[n"
    ):
        open_image(root / "a.nii")
