"""Whatever the layout of a TIFF and what it says of its axes, the pixels are those of tifffile."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from attrscore.datasets.images import open_image

EXTENT = {"T": 1, "C": 3, "Z": 2, "Y": 33, "X": 50}
DTYPES = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "float16", "float32", "float64"]


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_tiffs_of_any_layout_and_pixel_type(tmp_path_factory, data):
    kind = data.draw(st.sampled_from(["ome", "imagej", "shaped", "plain"]))
    orders = {"imagej": ["YX", "CYX", "ZYX", "ZCYX", "TZCYX"], "plain": ["YX", "CYX", "ZYX"]}
    more = ["YX", "CYX", "ZYX", "CZYX", "ZCYX", "TCZYX"]
    axes = data.draw(st.sampled_from(orders.get(kind, more)))
    dtypes = ["uint8", "uint16", "float32"] if kind == "imagej" else DTYPES
    if kind == "ome":
        dtypes = [name for name in DTYPES if name != "float16"]  # OME has no such type
    dtype = np.dtype(data.draw(st.sampled_from(dtypes)))
    options = {"byteorder": data.draw(st.sampled_from("<>"))} if kind != "imagej" else {}
    layout = data.draw(st.sampled_from(["whole", "strips", "tiles"]))
    if layout == "strips":
        options["rowsperstrip"] = data.draw(st.integers(1, 33))
    elif layout == "tiles":
        options["tile"] = data.draw(st.sampled_from([(16, 16), (32, 16), (16, 64)]))
    packed = data.draw(st.sampled_from([None, "zlib"]))
    if packed and dtype.kind in "ui" and layout == "tiles":
        options["predictor"] = data.draw(st.booleans())
    values = np.random.default_rng(0).integers(0, 100, [EXTENT[axis] for axis in axes])
    array = (values % 2 if dtype.kind == "b" else values).astype(dtype)
    path = tmp_path_factory.mktemp("any") / "a.tif"
    tifffile.imwrite(
        path,
        array,
        photometric="minisblack",
        compression=packed,
        metadata=None if kind == "plain" else {"axes": axes},
        **{kind: True for kind in (kind,) if kind in ("ome", "imagej")},
        **options,
    )
    stated = axes.replace("T", "") if kind == "plain" or data.draw(st.booleans()) else None
    most = data.draw(st.sampled_from([0, 2**28]))  # by window, or decoded whole
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("attrscore.datasets.images.readers.LARGE", most)
        image = open_image(path, axes=stated)
        found = image.read()
        window = tuple(slice(n // 3, n - n // 4) for n in image.shape[1:])
        part = image.read(window)
    its = tifffile.imread(path, squeeze=True).reshape([EXTENT[a] for a in axes if a != "T"])
    kept = axes.replace("T", "")
    order = [kept.index(axis) for axis in "CZYX" if axis in kept]
    expected = its.transpose(order) if "C" in kept else its.transpose(order)[None]
    assert found.dtype == expected.dtype.newbyteorder("=")
    assert np.array_equal(found, expected)
    assert np.array_equal(part, expected[(slice(None), *window)])
