"""Images and masks that are damaged or wrong, in every format: a sentence, and the rest is read."""

from __future__ import annotations

import warnings

import nibabel
import numcodecs
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from attrscore.datasets import Fields
from attrscore.datasets.images import open_image
from attrscore.errors import DataError


def labels():
    made = np.zeros((40, 50), np.uint16)
    made[5:12, 5:12], made[20:30, 22:30] = 3, 900
    return made


def pixels(seed=0):
    return np.random.default_rng(seed).integers(1, 4000, (40, 50)).astype(np.uint16)


def write(path, array):
    """``path`` names the format."""
    kind = "".join(path.suffixes)
    if kind == ".tif":
        tifffile.imwrite(path, array, compression="zlib")
    elif kind == ".png":
        Image.fromarray(array).save(path)
    elif kind in (".nii", ".nii.gz"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of 64-bit integers
            nibabel.save(nibabel.Nifti1Image(array.T, np.eye(4), dtype=array.dtype), path)
    elif kind == ".npy":
        np.save(path, array)
    elif kind == ".npz":
        np.savez_compressed(path, array)
    elif kind == ".zarr":
        group = zarr.open_group(str(path), mode="w", zarr_format=2)
        group.create_array("0", data=array, chunks=(16, 16))
        axes = [{"name": "y"}, {"name": "x"}]
        group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0"}]}]


def cut_short(path, share=0.6):
    if path.is_dir():  # one chunk of it
        path /= "0/0.0"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])


SIGNED = [".tif", ".nii", ".nii.gz", ".npy", ".npz", ".zarr"]
KINDS = [*SIGNED, ".png"]
"""A PNG holds whole numbers from 0 of 8 or 16 bits only."""


@pytest.fixture(params=KINDS)
def folder(request, tmp_path):
    """A good field; ``bad`` beside it is for a test to write."""
    root = tmp_path / "µ fields (1)"
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    write(root / "images" / f"good{request.param}", pixels())
    write(root / "masks" / f"good{request.param}", labels())
    return root, request.param


def fields(folder, **options):
    root, kind = folder
    return Fields(
        images=str(root / "images" / f"*{kind}"),
        masks=str(root / "masks" / f"*{kind}"),
        crop=(16, 16),
        **options,
    )


def skips(folder, *words):
    """The one reason; the good field is read, and ``raise`` says the same."""
    found = fields(folder)
    assert found.table["id"].tolist() == ["good:3", "good:900"]
    assert found.read([0, 1]).inputs.isfinite().all()
    (why,) = found.skipped.values()
    with pytest.raises(DataError) as told:
        fields(folder, on_bad_file="raise").table  # noqa: B018
    assert str(told.value).lower() == why.lower()
    for word in (f"bad{folder[1]}", *words):
        assert word in why
    return why


@pytest.mark.parametrize("what", ["images", "masks"])
def test_cut_short(folder, what):
    root, kind = folder
    for part in ("images", "masks"):
        write(root / part / f"bad{kind}", pixels(1) if part == "images" else labels())
    cut_short(root / what / f"bad{kind}")
    skips(folder, "cannot be read as a")


def test_something_else_under_that_name(folder):
    root, kind = folder
    write(root / "masks" / f"bad{kind}", labels())
    path = root / "images" / f"bad{kind}"
    if kind == ".zarr":
        path.mkdir()
        skips(folder, "no OME-Zarr image")
    else:
        path.write_bytes(b"hello")
        skips(folder, "cannot be read as a")


def test_a_mask_of_another_shape(folder):
    root, kind = folder
    write(root / "images" / f"bad{kind}", pixels(1))
    write(root / "masks" / f"bad{kind}", labels()[:-1])
    skips(folder, "has the shape (39, 50) but its image has (40, 50)")


def test_no_cell(folder):
    root, kind = folder
    write(root / "images" / f"bad{kind}", pixels(1))
    write(root / "masks" / f"bad{kind}", np.zeros_like(labels()))
    skips(folder, "is empty: every pixel is 0")


@pytest.mark.parametrize("folder", SIGNED, indirect=True)
def test_labels_that_are_no_whole_numbers(folder):
    root, kind = folder
    write(root / "images" / f"bad{kind}", pixels(1))
    write(root / "masks" / f"bad{kind}", labels().astype(np.float32))
    skips(folder, "holds float32 pixels; expected integers")


@pytest.mark.parametrize("folder", SIGNED, indirect=True)
def test_negative_labels(folder):
    root, kind = folder
    write(root / "images" / f"bad{kind}", pixels(1))
    write(root / "masks" / f"bad{kind}", labels().astype(np.int16) - 1)
    skips(folder, "holds negative numbers (down to -1)")


@pytest.mark.parametrize("folder", SIGNED, indirect=True)
def test_nan(folder):
    root, kind = folder
    image = pixels(1).astype(np.float32)
    image[3, 4] = np.nan
    write(root / "images" / f"bad{kind}", image)
    write(root / "masks" / f"bad{kind}", labels())
    skips(folder, "holds 1 pixels that are NaN or infinite")


@pytest.mark.parametrize("folder", SIGNED, indirect=True)
def test_complex_numbers(folder):
    root, kind = folder
    write(root / "images" / f"bad{kind}", pixels(1).astype(np.complex64))
    write(root / "masks" / f"bad{kind}", labels())
    skips(folder, "holds complex64 pixels; expected integers or real numbers")


@pytest.mark.parametrize(
    ("folder", "dtype"),
    [(kind, dtype) for kind in KINDS for dtype in ("uint8", "uint16")]
    + [(kind, dtype) for kind in SIGNED for dtype in ("int32", "float32", "float64")],
    indirect=["folder"],
)
def test_every_depth_of_pixels(folder, dtype):
    """8, 12 (in 16), 16 and 32 bits and floats give the same normalised crops."""
    root, kind = folder
    image = (pixels(1) % 256).astype(dtype)
    write(root / "images" / f"bad{kind}", image)
    write(root / "masks" / f"bad{kind}", labels())
    found = fields(folder, normalise="none")
    assert found.skipped == {}
    expected = (pixels(1) % 256)[25 - 8 : 25 + 8, 26 - 8 : 26 + 8].astype(np.float32)
    (row,) = np.flatnonzero(found.table["id"] == "bad:900")
    assert np.array_equal(found.read([row]).inputs[0, 0].numpy(), expected)


def test_a_million_cells(tmp_path):
    """One pixel each, numbered beyond 32 bits."""
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    numbers = np.zeros((2000, 1002), np.uint64)
    numbers[:, 1:-1:2] = (np.arange(1_000_000) + 2**40).reshape(2000, 500)
    write(tmp_path / "images" / "a.npy", np.ones(numbers.shape, np.uint8))
    write(tmp_path / "masks" / "a.npy", numbers)
    found = fields((tmp_path, ".npy"), normalise="none")
    assert len(found.table) == 1_000_000
    assert int(found.read([123_456]).regions["cell"].sum()) == 1


@pytest.mark.parametrize("compressor", ["blosc", "zstd", None])
@pytest.mark.parametrize("version", [2, 3])
def test_a_chunk_of_a_zarr_that_is_cut_short(tmp_path, version, compressor):
    given = {
        ("blosc", 2): numcodecs.Blosc(),
        ("blosc", 3): zarr.codecs.BloscCodec(),
        ("zstd", 2): numcodecs.Zstd(),
        ("zstd", 3): zarr.codecs.ZstdCodec(),
    }.get((compressor, version))
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=version)
    group.create_array("0", data=pixels(), chunks=(16, 16), compressors=given)
    told = {"multiscales": [{"axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": "0"}]}]}
    group.attrs.update(told if version == 2 else {"ome": told})
    chunk = tmp_path / "a.zarr" / "0" / ("1.2" if version == 2 else "c/1/2")
    whole = chunk.read_bytes()
    assert np.array_equal(open_image(tmp_path / "a.zarr").read()[0], pixels())
    for size in (3, 20, len(whole) // 2, len(whole) - 1):
        chunk.write_bytes(whole[:size])
        with pytest.raises(DataError, match="a.zarr.* cannot be read as a Zarr"):
            open_image(tmp_path / "a.zarr").read()
    chunk.unlink()  # by the specification, all of it is the fill value
    assert not open_image(tmp_path / "a.zarr").read((slice(16, 32), slice(32, 48))).any()


def test_numbers_that_fit_no_integer(tmp_path):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    write(tmp_path / "images" / "a.npy", pixels())
    write(tmp_path / "masks" / "a.npy", np.where(labels() == 3, np.uint64(2**63 + 5), 0))
    with pytest.raises(DataError, match=r"'a.npy' holds numbers beyond 2\^63 \(up to 9\d+\)"):
        fields((tmp_path, ".npy"), on_bad_file="raise").table  # noqa: B018
