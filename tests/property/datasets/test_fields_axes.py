"""Whatever order a file keeps its axes in, stating that order gives the same crops."""

from __future__ import annotations

import itertools

import numpy as np
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attrscore.datasets import Fields
from attrscore.datasets.cells.crops import crop

EXTENT = {"C": 2, "Z": 6, "Y": 14, "X": 17}
ORDERS = [
    "".join(o) for names in ("YX", "CYX", "ZYX", "CZYX") for o in itertools.permutations(names)
]


@settings(max_examples=25)
@given(order=st.sampled_from(ORDERS), seed=st.integers(0, 99))
def test_any_order_of_axes_gives_the_same_crops(tmp_path_factory, order, seed):
    root = tmp_path_factory.mktemp("fields")
    straight = "".join(axis for axis in "CZYX" if axis in order)
    space = straight.replace("C", "")
    draw = np.random.default_rng(seed)
    image = draw.random([EXTENT[axis] for axis in straight]).astype(np.float32)
    labels = draw.integers(0, 4, [EXTENT[axis] for axis in space]).astype(np.uint8)
    batches = []
    for name, axes in (("straight", straight), ("turned", order)):
        mask_axes = axes.replace("C", "")
        for kind, array, here, there in (
            ("image", image, straight, axes),
            ("mask", labels, space, mask_axes),
        ):
            (root / name / kind).mkdir(parents=True)
            tifffile.imwrite(
                root / name / kind / "a.tif",
                array.transpose([here.index(axis) for axis in there]),
                photometric="minisblack",
            )
        fields = Fields(
            images=str(root / name / "image" / "*.tif"),
            masks=str(root / name / "mask" / "*.tif"),
            axes=axes,
            crop=(4,) * len(space),
        )
        batches.append(fields.read(range(len(fields.table))))
    assert torch.equal(batches[0].inputs, batches[1].inputs)
    assert torch.equal(batches[0].regions["cell"], batches[1].regions["cell"])
    assert torch.equal(batches[0].regions["neighbours"], batches[1].regions["neighbours"])


@given(
    extent=st.integers(1, 9), size=st.integers(1, 9), start=st.integers(-12, 12), seed=st.just(0)
)
def test_a_crop_is_a_window_of_the_field_padded_with_zeros(extent, size, start, seed):
    field = np.random.default_rng(seed).random((2, extent))
    padded = np.pad(field, ((0, 0), (24, 24)))
    expected = padded[:, start + 24 : start + 24 + size]
    assert np.array_equal(crop(field, np.array([start]), (size,)), expected)
