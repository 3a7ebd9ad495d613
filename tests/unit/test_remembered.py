"""Layouts of files are kept until a file changes, and windows stay what the libraries give."""

from __future__ import annotations

import os
import pickle

import numcodecs
import numpy as np
import pytest
import tifffile
import zarr

from attrscore.datasets import Fields
from attrscore.datasets.images import chunks, ngff, open_image, tiff
from attrscore.datasets.images.remembered import Remembered
from attrscore.errors import DataError


def pixels(shape, dtype="uint16", seed=0):
    return np.random.default_rng(seed).integers(1, 200, shape).astype(dtype)


@pytest.fixture(autouse=True)
def _nothing_known():
    tiff.LAYOUTS.clear()
    ngff.LAYOUTS.clear()


@pytest.fixture
def parsed(monkeypatch):
    """Names of the TIFFs whose metadata were read."""
    names = []
    real = tiff.tifffile.TiffFile

    def counted(path, *args, **options):
        names.append(path.name)
        return real(path, *args, **options)

    monkeypatch.setattr(tiff.tifffile, "TiffFile", counted)
    return names


def test_what_is_kept_ends_with_a_change_of_any_file_and_with_their_number(tmp_path):
    known = Remembered(2)
    found = []

    def get(name, *files):
        def find():
            found.append(name)
            return name, [tmp_path / file for file in files]

        return known.get(name, find)

    (tmp_path / "a").write_text("1")
    assert [get("x", "a", "b"), get("x", "a", "b")] == ["x", "x"]
    assert found == ["x"]
    (tmp_path / "b").write_text("now there")
    get("x", "a", "b")
    assert found == ["x"] * 2
    os.utime(tmp_path / "a", ns=(0, 0))
    get("x", "a", "b")
    assert found == ["x"] * 3
    get("y", "a")
    get("z", "a")
    get("x", "a", "b")  # two others came after it
    assert found == ["x", "x", "x", "y", "z", "x"]


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
def test_a_tiff_is_parsed_once_until_it_changes(tmp_path, parsed, options):
    path, array = tmp_path / "a.tif", pixels((40, 50))
    tifffile.imwrite(path, array, **options)
    for _ in range(3):
        assert np.array_equal(open_image(path).read()[0], array)
    assert parsed == ["a.tif"]
    tifffile.imwrite(path, array[:30] + 1, **options)
    assert np.array_equal(open_image(path).read()[0], array[:30] + 1)
    assert parsed == ["a.tif"] * 2
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError, match="'a.tif' cannot be read as a TIFF"):
        open_image(path).read()


def test_reading_crops_parses_no_file_that_the_scan_has_seen(tmp_path, parsed):
    mask = np.zeros((40, 50), np.uint16)
    mask[5:15, 5:15] = 1
    for number in range(6):
        tifffile.imwrite(tmp_path / f"f{number}.tif", pixels((40, 50), seed=number))
        tifffile.imwrite(tmp_path / f"f{number}_mask.tif", mask, compression="zlib")
    fields = Fields(
        images=str(tmp_path / "f?.tif"),
        masks=str(tmp_path / "*_mask.tif"),
        axes="YX",
        crop=[16, 16],
    )
    assert len(fields.table) == 6
    seen = list(parsed)
    batch = fields.read(range(6))
    assert parsed == seen
    again = pickle.loads(pickle.dumps(fields)).read(range(6))
    assert np.array_equal(batch.inputs, again.inputs)


def test_pixels_that_can_only_be_had_whole_are_not_kept_with_the_layout(tmp_path):
    array = pixels((3, 40, 50), "uint8")
    options = {"photometric": "rgb", "planarconfig": "separate", "compression": "zlib"}
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    first = open_image(tmp_path / "a.tif", axes="CYX")
    assert np.array_equal(first.read(), array)
    second = open_image(tmp_path / "a.tif", axes="CYX")
    assert first.stored.pixels._whole is not None
    assert second.stored.pixels._whole is None


def test_segments_are_those_of_tifffile_with_its_codecs_and_without(tmp_path, monkeypatch):
    array = pixels((3, 41, 53))
    options = {"photometric": "minisblack", "compression": "zlib"}
    for number, more in enumerate(
        [{"rowsperstrip": 7}, {"tile": (16, 32)}, {"rowsperstrip": 7, "byteorder": ">"}]
    ):
        path = tmp_path / f"{number}.tif"
        tifffile.imwrite(path, array, **options, **more)
        mine = open_image(path, axes="CYX").read()
        tiff.LAYOUTS.clear()
        with monkeypatch.context() as patched:  # as where imagecodecs is installed
            patched.setattr("attrscore.datasets.images.planes.find_spec", lambda name: name)
            its = open_image(path, axes="CYX").read()
        tiff.LAYOUTS.clear()
        assert np.array_equal(mine, array)
        assert np.array_equal(its, array)


def test_a_segment_without_bytes_is_background(tmp_path):
    array = pixels((48, 48))
    tifffile.imwrite(tmp_path / "a.tif", array, compression="zlib", tile=(16, 16))
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        counts = list(file.pages.first.tags["TileByteCounts"].value)
        counts[4] = 0
        file.pages.first.tags["TileByteCounts"].overwrite(counts)
    array[16:32, 16:32] = 0
    assert np.array_equal(open_image(tmp_path / "a.tif").read()[0], array)


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
    "Zarr 2": {"zarr_format": 2, "compressors": numcodecs.Zstd()},
    "Zarr 2, big-endian": {"zarr_format": 2, "compressors": numcodecs.Zstd(), "dtype": ">u2"},
    "Zarr 2, columns first": {"zarr_format": 2, "compressors": numcodecs.Zstd(), "order": "F"},
    "Zarr 2, differences": {"zarr_format": 2, "filters": [numcodecs.Delta(dtype="u2")]},
    "Zarr 2, plain": {"zarr_format": 2, "compressors": None},
}
DIRECT = {"Zarr 3", "plain", "big-endian", "bytes", "bool", "Zarr 2", "Zarr 2, plain"}


@pytest.mark.parametrize("kind", ARRAYS)
def test_chunks_are_those_of_zarr(tmp_path, kind):
    options = {"dtype": "uint16", "zarr_format": 3, **ARRAYS[kind]}
    group = zarr.open_group(
        str(tmp_path / "a.zarr"), mode="w", zarr_format=options.pop("zarr_format")
    )
    array = group.create_array("0", shape=(41, 53), chunks=(16, 16), fill_value=1, **options)
    array[:33] = pixels((33, 53), "uint16")  # the rest of the chunks is not written
    there = zarr.open_group(str(tmp_path / "a.zarr"), mode="r")["0"]
    mine = chunks.pixels_of(there, tmp_path / "a.zarr" / "0")
    assert (type(mine).__name__ == "_Chunks") == (kind.removesuffix(", big-endian") in DIRECT)
    assert (tuple(mine.shape), mine.dtype) == (there.shape, there.dtype)
    for window in (
        (slice(0, 41), slice(0, 53)),
        (slice(15, 17), slice(3, 4)),
        (slice(16, 32), slice(32, 53)),
        (slice(40, 41), slice(52, 53)),
    ):
        assert np.array_equal(mine[window], there[window])


@pytest.mark.parametrize("packed", [None, zarr.codecs.ZstdCodec()])
def test_a_chunk_cut_short_is_told_and_metadata_that_change_are_read(tmp_path, packed):
    def write(array):
        group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
        made = group.create_array(
            "0", shape=array.shape, chunks=(16, 16), dtype="u2", compressors=packed
        )
        made[:] = array
        axes = [{"name": axis, "type": "space"} for axis in "yx"]
        group.attrs["ome"] = {
            "version": "0.5",
            "multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}],
        }

    for array in (pixels((40, 50)), pixels((24, 70), seed=1)):
        write(array)
        assert np.array_equal(open_image(tmp_path / "a.zarr").read()[0], array)
    chunk = tmp_path / "a.zarr" / "0" / "c" / "0" / "1"
    chunk.write_bytes(chunk.read_bytes()[:-7])
    with pytest.raises(DataError, match="'a.zarr' cannot be read as a Zarr.*damaged"):
        open_image(tmp_path / "a.zarr").read()
