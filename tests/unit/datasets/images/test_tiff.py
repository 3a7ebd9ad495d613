"""What a TIFF holds, beside tifffile's own reading of its pages: sets of files, series, lengths."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import tifffile

from attrscore.datasets import Fields
from attrscore.datasets.images import open_image, open_labels
from attrscore.datasets.images.readers import Choice
from attrscore.errors import DataError


def pixels(shape, dtype="uint16", seed=0):
    return np.random.default_rng(seed).integers(1, 4000, shape).astype(dtype)


@pytest.fixture(params=[0, 2**28], ids=["by window", "whole"])
def most(request, monkeypatch):
    monkeypatch.setattr("attrscore.datasets.images.readers.LARGE", request.param)


def own_pages(path):
    """The pixels of a file, page by page, whatever its metadata say."""
    with tifffile.TiffFile(path) as file:
        return np.stack([page.asarray() for page in file.pages])


# sets of files


def position(number, name, *, channels, planes, size, identities, files, splits=1):
    """OME's element of one position, whose planes lie in ``splits`` files in turn."""
    data = []
    for plane in range(channels * planes):
        where = number * splits + plane % splits
        data.append(
            f'<TiffData FirstC="{plane % channels}" FirstZ="{plane // channels}" FirstT="0" '
            f'IFD="{plane // splits}" PlaneCount="1">'
            f'<UUID FileName="{files[where]}">urn:uuid:{identities[where]}</UUID></TiffData>'
        )
    names = "".join(
        f'<Channel ID="Channel:{number}:{c}" Name="{"AB"[c]}"/>' for c in range(channels)
    )
    return (
        f'<Image ID="Image:{number}" Name="{name}"><Pixels ID="Pixels:{number}" '
        f'DimensionOrder="XYCZT" Type="uint16" SizeX="31" SizeY="23" SizeC="{channels}" '
        f'SizeZ="{planes}" SizeT="1" PhysicalSizeX="{size}" PhysicalSizeY="{size}" '
        f'PhysicalSizeZ="{4 * size}">{names}{"".join(data)}</Pixels></Image>'
    )


def micromanager(folder, *, positions=3, channels=2, planes=2, root=True):
    """A set as MicroManager writes it: a file a position, each of which lists them all."""
    files = [f"run_MMStack_Pos{n}.ome.tif" for n in range(positions)]
    identities = [f"0000000{n}" for n in range(positions)]
    images = "".join(
        position(n, f"Pos{n}", channels=channels, planes=planes, size=0.5 * (n + 1),
                 identities=identities, files=files)
        for n in range(positions)
    )  # fmt: skip
    paths = []
    for n, name in enumerate(files):
        identity = f' UUID="urn:uuid:{identities[n]}"' if root else ""
        xml = (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
            f"{identity}>{images}</OME>"
        )
        array = pixels((planes * channels, 23, 31), seed=n)
        tifffile.imwrite(
            folder / name, array, photometric="minisblack", description=xml, metadata=None
        )
        paths.append(folder / name)
    return paths


@pytest.mark.usefixtures("most")
@pytest.mark.parametrize("root", [True, False])
def test_each_file_of_a_set_gives_its_own_pixels_and_voxels(tmp_path, root):
    for n, path in enumerate(micromanager(tmp_path, root=root)):
        image = open_image(path)
        expected = own_pages(path).reshape(2, 2, 23, 31).transpose(1, 0, 2, 3)
        assert (image.space, image.shape) == ("ZYX", expected.shape)
        assert np.array_equal(image.read(), expected)
        size = 0.5 * (n + 1)
        assert image.spacing == (4 * size, size, size)
        assert image.stains == ("A", "B")


def test_a_file_of_a_set_is_read_where_the_others_are_not_there(tmp_path):
    paths = micromanager(tmp_path)
    expected = own_pages(paths[1])
    paths[0].unlink()
    paths[2].unlink()
    image = open_image(paths[1])
    assert np.array_equal(image.read().transpose(1, 0, 2, 3).reshape(expected.shape), expected)
    assert image.spacing == (4, 1, 1)


def test_a_renamed_file_of_a_set_is_still_itself(tmp_path):
    paths = micromanager(tmp_path)
    other = paths[2].rename(tmp_path / "mine.ome.tif")
    image = open_image(other)
    assert np.array_equal(image.read()[0, 0], own_pages(other)[0])
    assert image.spacing == (6, 1.5, 1.5)


def test_fields_of_a_set_are_different(tmp_path):
    paths = micromanager(tmp_path, channels=1, planes=1)
    mask = np.zeros((23, 31), np.uint8)
    mask[5:15, 5:15] = 1
    for path in paths:
        tifffile.imwrite(tmp_path / path.name.replace(".ome.tif", "_masks.tif"), mask)
    fields = Fields(
        images=str(tmp_path / "*.ome.tif"),
        masks=str(tmp_path / "*_masks.tif"),
        crop=[8, 8],
        normalise="none",
        spacing=[1, 1],
    )
    batch = fields.read([0, 1, 2])
    for crop, path in zip(batch.inputs, paths, strict=True):
        assert np.array_equal(crop[0].numpy(), own_pages(path)[0, 6:14, 6:14])


@pytest.mark.usefixtures("most")
def test_of_a_series_of_times_in_several_files_each_has_its_own(tmp_path):
    array = pixels((3, 2, 23, 31))
    planes = "".join(
        f'<TiffData FirstC="{c}" FirstT="{t}" IFD="{c}" PlaneCount="1"><UUID '
        f'FileName="t{t}.ome.tif">urn:uuid:{t}</UUID></TiffData>'
        for t in range(3)
        for c in range(2)
    )
    for t in range(3):
        xml = (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:{t}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" '
            f'Type="uint16" SizeX="31" SizeY="23" SizeC="2" SizeZ="1" SizeT="3">{planes}</Pixels>'
            "</Image></OME>"
        )
        tifffile.imwrite(
            tmp_path / f"t{t}.ome.tif",
            array[t],
            photometric="minisblack",
            description=xml,
            metadata=None,
        )
    for t in range(3):
        assert np.array_equal(open_image(tmp_path / f"t{t}.ome.tif").read(), array[t])


def test_metadata_of_other_files_only_count_as_none(tmp_path):
    (path, *_) = micromanager(tmp_path, positions=2, channels=1, planes=1, root=False)
    path = path.rename(tmp_path / "a.tif")
    image = open_image(path)
    assert np.array_equal(image.read(), own_pages(path))
    assert image.spacing is None


def write_mmstack(path, array, summary, index):
    """MicroManager's own header with the index of planes, then IFDs with pixels 162 bytes on."""
    count, height, width = array.shape
    text = json.dumps({**summary, "MicroManagerVersion": "2.0"}).encode()
    start = 40 + len(text)
    plane = 162 + 2 * height * width
    offsets = [start + n * plane for n in range(count)]
    table = b"".join(struct.pack("<5I", *where, o) for where, o in zip(index, offsets, strict=True))
    end = offsets[-1] + plane
    head = struct.pack("<2sHI", b"II", 42, offsets[0])
    head += struct.pack("<II", 54773648, end) + struct.pack("<IIII", 0, 0, 0, 0)
    head += struct.pack("<II", 2355492, len(text)) + text
    assert len(head) == start
    body = b""
    for n, offset in enumerate(offsets):
        tags = [(256, 3, width), (257, 3, height), (258, 3, 16), (259, 3, 1), (262, 3, 1),
                (273, 4, offset + 162), (277, 3, 1), (278, 3, height),
                (279, 4, 2 * height * width), (339, 3, 1)]  # fmt: skip
        entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
        entries += struct.pack("<HHII", 51123, 2, 8, offset + 144)
        following = offsets[n + 1] if n + 1 < count else 0
        ifd = struct.pack("<H", len(tags) + 1) + entries + struct.pack("<I", following)
        body += (ifd.ljust(144, b"\0") + b"{}").ljust(162, b"\0") + array[n].astype("<u2").tobytes()
    tail = struct.pack("<II", 3453623, count) + table
    path.write_bytes(head + body + tail)


@pytest.mark.usefixtures("most")
@pytest.mark.parametrize("same", [False, True], ids=["each its position", "all position 0"])
def test_a_stack_with_only_micromanagers_index_gives_its_own_pixels(tmp_path, same):
    summary = {"Channels": 2, "Slices": 1, "Frames": 1, "Positions": 2, "Prefix": "run"}
    for n in range(2):
        index = [(c, 0, 0, 0 if same else n) for c in range(2)]
        path = tmp_path / f"run_MMStack_Pos{n}.tif"
        write_mmstack(path, pixels((2, 23, 31), seed=n), summary, index)
    for n in range(2):
        path = tmp_path / f"run_MMStack_Pos{n}.tif"
        with tifffile.TiffFile(path) as file:
            assert file.is_mmstack
        image = open_image(path, axes="CYX")
        assert np.array_equal(image.read(), own_pages(path))
        assert np.array_equal(image.read(), pixels((2, 23, 31), seed=n))


# several images in one file


def write_series(path, *arrays):
    with tifffile.TiffWriter(path, ome=True) as file:
        for n, array in enumerate(arrays):
            size = {"PhysicalSizeX": n + 1, "PhysicalSizeY": n + 1}
            file.write(array, photometric="minisblack", metadata={"axes": "YX", **size})
    return path


def test_several_images_in_a_file_are_refused_with_the_choice(tmp_path):
    overview, first, second = pixels((11, 13)), pixels((40, 50), seed=1), pixels((40, 50), seed=2)
    path = write_series(tmp_path / "a.ome.tif", overview, first, second)
    with pytest.raises(DataError, match=r"'a.ome.tif' holds 3 images \(0: 11 x 13 .*1: 40 x 50 .*"):
        open_image(path)
    for n, array in enumerate((overview, first, second)):
        image = open_image(path, choice=Choice(series=n))
        assert np.array_equal(image.read()[0], array)
        assert image.spacing == (n + 1, n + 1)
    with pytest.raises(DataError, match=r"series=3 is not in 'a.ome.tif', which holds 0: "):
        open_image(path, choice=Choice(series=3))
    plain = tmp_path / "b.tif"
    with tifffile.TiffWriter(plain) as file:
        file.write(overview)
        file.write(first)
    with pytest.raises(DataError, match=r"'b.tif' holds 2 images"):
        open_image(plain)
    assert np.array_equal(open_image(plain, choice=Choice(series=1)).read()[0], first)


def test_the_choice_of_a_series_holds_for_masks_that_have_several(tmp_path):
    path = write_series(tmp_path / "a.ome.tif", pixels((11, 13)), pixels((40, 50)))
    labels = np.zeros((40, 50), np.uint16)
    labels[5:9, 5:9] = 7
    image = open_image(path, choice=Choice(series=1))
    tifffile.imwrite(tmp_path / "one.tif", labels)
    write_series(tmp_path / "two.ome.tif", np.ones((11, 13), np.uint16), labels)
    for name in ("one.tif", "two.ome.tif"):
        found = open_labels(tmp_path / name, like=image, choice=Choice(series=1))
        assert np.array_equal(found.read(), labels)


def test_series_is_an_option_of_fields(tmp_path):
    array, labels = pixels((40, 50)), np.zeros((40, 50), np.uint16)
    labels[15:25, 15:25] = 1
    write_series(tmp_path / "a.ome.tif", pixels((11, 13)), array)
    tifffile.imwrite(tmp_path / "a_masks.tif", labels)
    options = {
        "images": str(tmp_path / "*.ome.tif"),
        "masks": str(tmp_path / "*_masks.tif"),
        "crop": [8, 8],
        "normalise": "none",
    }
    with pytest.raises(DataError, match="'a.ome.tif' holds 2 images"):
        Fields(**options).table  # noqa: B018
    chosen = Fields(**options, series=1)
    assert np.array_equal(chosen.read([0]).inputs[0, 0].numpy(), array[16:24, 16:24])
    write_series(tmp_path / "a.ome.tif", array, pixels((40, 50), seed=1))
    assert Fields(**options, series=0).fingerprint() != Fields(**options, series=1).fingerprint()


def test_the_one_sample_of_a_pixel_is_no_axis_that_can_be_stated(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", pixels((6, 23, 31)), photometric="minisblack", metadata={})
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        for plane in pixels((6, 23, 31)):
            file.write(plane, metadata=None)
    for name in ("a.tif", "b.tif"):
        with pytest.raises(DataError, match=r"axes=CZYX names 4 axes but '..tif' has the shape"):
            open_image(tmp_path / name, axes="CZYX")
        assert np.array_equal(
            open_image(tmp_path / name, axes="ZYX").read()[0], pixels((6, 23, 31))
        )


# how large a voxel is


def imagej(path, **facts):
    options = {"imagej": True, "resolution": (4, 2)}
    tifffile.imwrite(path, pixels((3, 40, 50)), metadata={"axes": "ZYX", **facts}, **options)
    return open_image(path)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"unit": "um", "spacing": 1.5}, (1.5, 0.5, 0.25)),
        ({"unit": "um", "yunit": "nm", "zunit": "mm", "spacing": 2}, (2000, 0.0005, 0.25)),
        ({"unit": "\\u00B5m", "spacing": -2}, (2, 0.5, 0.25)),
        ({"unit": "um", "yunit": "\\u00B5m", "zunit": "nm", "spacing": 500}, (0.5, 0.5, 0.25)),
        ({"unit": "um", "yunit": "pixel", "spacing": 2}, None),
        ({"unit": "um"}, None),
        ({"unit": "inch", "spacing": 2}, None),
    ],
)
def test_imagej_has_a_unit_for_each_axis(tmp_path, facts, expected):
    found = imagej(tmp_path / "a.tif", **facts).spacing
    assert found == (expected if expected is None else pytest.approx(expected))


def ome(path, **sizes):
    """With these texts as sizes, as other programs write them."""
    tifffile.imwrite(path, pixels((40, 50)), metadata={"axes": "YX"}, ome=True)
    with tifffile.TiffFile(path) as file:
        text = file.ome_metadata
    given = "".join(f' {name}="{value}"' for name, value in sizes.items())
    text = text.replace(' SizeX="', f'{given} SizeX="', 1)
    tifffile.imwrite(path, pixels((40, 50)), description=text.encode(), metadata=None)
    return path


@pytest.mark.parametrize("size", ["0,25", "", "unknown", "-1", "0", "NaN"])
def test_a_size_that_is_no_number_is_unknown(tmp_path, size):
    path = ome(tmp_path / "a.ome.tif", PhysicalSizeX=size, PhysicalSizeY="0.5")
    image = open_image(path)
    assert image.spacing is None
    assert np.array_equal(image.read()[0], pixels((40, 50)))


@pytest.mark.parametrize("size", ["INF", "inf", "1e-320", "1e300"])
def test_a_size_that_is_no_length_is_refused_unless_it_is_stated(tmp_path, size):
    path = ome(tmp_path / "a.ome.tif", PhysicalSizeX=size, PhysicalSizeY="0.5")
    with pytest.raises(DataError, match=r"'a.ome.tif' says that a pixel is .* long along X, which"):
        open_image(path)
    assert open_image(path, spacing=(0.5, 0.5)).spacing == (0.5, 0.5)


def test_metadata_that_do_not_fit_the_file_count_as_none(tmp_path):
    path = ome(tmp_path / "a.ome.tif")
    text = own_text(path).replace('SizeX="50"', 'SizeX=""')
    tifffile.imwrite(path, pixels((40, 50)), description=text.encode(), metadata=None)
    assert np.array_equal(open_image(path).read()[0], pixels((40, 50)))


def own_text(path):
    with tifffile.TiffFile(path) as file:
        return file.ome_metadata
