"""NumPy's files, PNG and what bioio opens: numbers as they were written, and no more than these."""

from __future__ import annotations

import io
import struct
import sys
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image as Pillow

from attrscore.datasets.images import open_image, open_labels
from attrscore.datasets.images.readers import Choice
from attrscore.errors import ConfigError, DataError


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png(path, numbers, bits, *, colour=0):
    """Grey (0) or of a palette (3), of 1, 2 or 4 bits: the specification, without Pillow."""
    height, width = numbers.shape
    bit = (numbers[..., None] >> np.arange(bits)[::-1]) & 1
    packed = np.packbits(bit.reshape(height, -1).astype(np.uint8), axis=1)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(range(3 * 2**bits))) if colour == 3 else b""
    parts = chunk(b"IHDR", header) + palette + chunk(b"IDAT", zlib.compress(rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("colour", [0, 3])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_png_of_few_bits_holds_numbers_and_not_brightness(tmp_path, bits, colour):
    numbers = np.random.default_rng(0).integers(0, 2**bits, (13, 19))
    numbers[0, 0] = 2**bits - 1
    path = write_png(tmp_path / "a.png", numbers, bits, colour=colour)
    image = open_image(path)
    assert np.array_equal(image.read()[0], numbers)
    assert image.dtype == image.read().dtype
    if bits > 1:
        labels = open_labels(path, like=image)
        assert labels.read().tolist() == numbers.tolist()


def test_png_of_8_bits_is_left_as_it_is(tmp_path):
    numbers = np.random.default_rng(0).integers(0, 256, (13, 19)).astype(np.uint8)
    Pillow.fromarray(numbers).save(tmp_path / "a.png")
    assert np.array_equal(open_image(tmp_path / "a.png").read()[0], numbers)


# what claims more than it holds


def bomb(path, extent):
    """An npz with an array of zeros of which only the headers are large."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (extent, 2**20)}
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("a.npy", "w") as inner:
        inner.write(header.getvalue())
        for _ in range(extent):
            inner.write(bytes(2**20))


def test_npz_that_takes_much_more_memory_than_its_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("attrscore.datasets.images.readers._MOST_CLAIMED", 2**23)
    monkeypatch.setattr(np, "load", lambda *given, **options: pytest.fail("decoded"))
    bomb(tmp_path / "a.npz", 9)
    with pytest.raises(DataError, match=r"'a.npz' claims 0.0 GiB of pixels, more than 200 times"):
        open_image(tmp_path / "a.npz")


def test_npz_with_a_claim_that_its_file_can_hold_is_read(tmp_path):
    bomb(tmp_path / "a.npz", 9)
    assert not open_image(tmp_path / "a.npz").read().any()


def test_png_that_claims_more_than_it_holds_is_refused(tmp_path):
    header = struct.pack(">IIBBBBB", 40000, 40000, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    with pytest.raises(DataError, match="'a.png'"):
        open_image(tmp_path / "a.png")


# bioio


PLUGIN = '''
import numpy as np
from bioio.array_like_reader import ArrayLikeReader
from bioio_base.reader_metadata import ReaderMetadata as Base
from bioio_base.types import PhysicalPixelSizes

class Reader(ArrayLikeReader):
    """Scenes of an npz that is called .lif."""

    def __init__(self, image, fs_kwargs={}):
        with np.load(image) as file:
            scenes = [file[name] for name in file.files]
        super().__init__(scenes, dim_order="CZYX", channel_names=["DNA", "ER"],
                         physical_pixel_sizes=PhysicalPixelSizes(2.0, 0.5, 0.25))

    @staticmethod
    def is_supported_image(image, fs_kwargs={}, **kwargs):
        np.load(image).close()
        return True

class ReaderMetadata(Base):
    @staticmethod
    def get_supported_extensions():
        return ["lif"]

    @staticmethod
    def get_reader():
        return Reader
'''


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """bioio's own way to find a reader: a distribution with an entry point."""
    plugins = pytest.importorskip("bioio.plugins")
    root = tmp_path / "site"
    (root / "stub_lif-1.0.dist-info").mkdir(parents=True)
    (root / "stub_lif.py").write_text(PLUGIN)
    facts = root / "stub_lif-1.0.dist-info"
    facts.joinpath("METADATA").write_text(
        "Metadata-Version: 2.1\nName: stub-lif\nVersion: 1.0\nRequires-Dist: bioio-base\n"
    )
    facts.joinpath("entry_points.txt").write_text("[bioio.readers]\nstub-lif = stub_lif\n")
    monkeypatch.syspath_prepend(str(root))
    plugins.plugins_by_ext_cache.clear()
    yield
    plugins.plugins_by_ext_cache.clear()
    sys.modules.pop("stub_lif", None)


def scenes(path, count=1):
    made = np.random.default_rng(0).integers(0, 4000, (count, 2, 3, 20, 30)).astype(np.uint16)
    with path.open("wb") as file:
        np.savez(file, *made)
    return made


@pytest.mark.slow
@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("most", [0, 2**28])
def test_bioio_opens_what_a_microscope_writes(tmp_path, monkeypatch, most):
    monkeypatch.setattr("attrscore.datasets.images.readers.LARGE", most)
    (array,) = scenes(tmp_path / "a.lif")
    image = open_image(tmp_path / "a.lif")
    assert (image.space, image.shape, image.dtype) == ("ZYX", (2, 3, 20, 30), np.uint16)
    assert (image.spacing, image.stains) == ((2.0, 0.5, 0.25), ("DNA", "ER"))
    assert np.array_equal(image.read(), array)
    window = slice(1, 3), slice(4, 20), slice(0, 7)
    assert np.array_equal(image.read(window, channels=[1])[0], array[1][window])


@pytest.mark.slow
@pytest.mark.usefixtures("plugin")
def test_a_scene_of_several_is_chosen(tmp_path):
    arrays = scenes(tmp_path / "a.lif", 3)
    with pytest.raises(DataError, match=r"'a.lif' holds 3 images .*dataset.series=0"):
        open_image(tmp_path / "a.lif")
    assert np.array_equal(open_image(tmp_path / "a.lif", choice=Choice(series=2)).read(), arrays[2])


@pytest.mark.usefixtures("plugin")
def test_a_damaged_file_is_no_missing_plugin(tmp_path):
    (tmp_path / "a.lif").write_bytes(b"hello")
    with pytest.raises(DataError, match="'a.lif' cannot be read as a LIF"):
        open_image(tmp_path / "a.lif")


def test_a_format_without_its_plugin_says_which_one_to_install(tmp_path):
    pytest.importorskip("bioio")
    scenes(tmp_path / "a.lif")
    with pytest.raises(
        ConfigError, match=r"'a.lif' needs a plugin of bioio: pip install bioio-lif"
    ):
        open_image(tmp_path / "a.lif")
