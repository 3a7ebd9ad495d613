"""Whatever the order of axes, the type and the format, a window is that window of the pixels."""

from __future__ import annotations

import itertools

import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from attrscore.datasets.images import open_image

EXTENT = {"C": 3, "Z": 4, "Y": 13, "X": 18}
ORDERS = [
    "".join(o) for names in ("YX", "CYX", "ZYX", "CZYX") for o in itertools.permutations(names)
]
DTYPES = ["uint8", "uint16", ">u2", "int16", "uint32", "float32", ">f4", "float64"]


def write(folder, kind, array, axes):
    """The path, and what ``open_image`` must be told of the axes."""
    if kind == "npy":
        np.save(folder / "a.npy", array)
        return folder / "a.npy", axes
    if kind == "zarr":
        group = zarr.open_group(str(folder / "a.zarr"), mode="w", zarr_format=2)
        group.create_array("0", data=array, chunks=tuple(-(-n // 2) for n in array.shape))
        named = [{"name": axis.lower()} for axis in axes]
        group.attrs["multiscales"] = [{"axes": named, "datasets": [{"path": "0"}]}]
        return folder / "a.zarr", None
    if kind == "nii":
        # the format itself has X, Y, Z in this order, and channels last
        turned = array.transpose([axes.index(axis) for axis in "XYZC" if axis in axes])
        nibabel.save(nibabel.Nifti1Image(turned, np.eye(4)), folder / "a.nii")
        return folder / "a.nii", "".join(axis for axis in "XYZC" if axis in axes)
    layout = {"plain": {}, "strips": {"rowsperstrip": 5}, "tiles": {"tile": (16, 16)}}[kind]
    compression = None if kind == "plain" else "zlib"
    path = folder / "a.tif"
    tifffile.imwrite(path, array, photometric="minisblack", compression=compression, **layout)
    return path, axes


@settings(max_examples=60)
@given(data=st.data())
@pytest.mark.parametrize("kind", ["npy", "zarr", "nii", "plain", "strips", "tiles"])
def test_a_window_in_any_order_type_and_format(tmp_path_factory, kind, data):
    most = data.draw(st.sampled_from([0, 2**28]))  # read by window, or decoded whole
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("attrscore.datasets.images.readers.LARGE", most)
        check_a_window(tmp_path_factory, kind, data)


def check_a_window(tmp_path_factory, kind, data):
    axes = data.draw(st.sampled_from(ORDERS))
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    seed = data.draw(st.integers(0, 99))
    array = (np.random.default_rng(seed).random([EXTENT[axis] for axis in axes]) * 200).astype(
        dtype
    )
    path, told = write(tmp_path_factory.mktemp("any"), kind, array, axes)
    space = "".join(axis for axis in "ZYX" if axis in axes)
    straight = array.transpose([axes.index(axis) for axis in "CZYX" if axis in axes])
    straight = straight if "C" in axes else straight[None]
    window = []
    for axis in space:
        ends = st.integers(0, EXTENT[axis])
        window.append(slice(*sorted((data.draw(ends), data.draw(ends)))))
    channels = data.draw(
        st.lists(st.integers(0, len(straight) - 1), min_size=1, max_size=3, unique=True)
    )
    image = open_image(path, axes=told)
    assert (image.space, image.shape) == (space, straight.shape)
    found = image.read(tuple(window), channels=channels)
    assert found.dtype == dtype.newbyteorder("=")
    assert np.array_equal(found, straight[channels][(slice(None), *window)])
