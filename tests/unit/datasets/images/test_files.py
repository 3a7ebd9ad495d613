"""Which files belong together, by their names."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
import tifffile

from attrscore.datasets import Fields
from attrscore.datasets.images.files import match_files
from attrscore.datasets.images.readers import shown
from attrscore.errors import AttrscoreWarning


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a.ome.tif", "a.ome_cp_masks.tif"),
        ("a.ome.tif", "a_cp_masks.tif"),
        ("a.ome.tif", "a.ome_seg.npy"),
        ("a.ome.tif", "a.ome.tif"),
        ("a.ome.zarr", "a.ome_cp_masks.png"),
        ("A.OME.TIFF", "A.OME_cp_masks.tif"),
        ("a.b.tif", "a.b_seg.npy"),
    ],
)
def test_masks_are_found_as_cellpose_names_them(tmp_path, image, mask):
    image, mask = tmp_path / "images" / image, tmp_path / "masks" / mask
    pairs, problems = match_files([image], [mask])
    assert list(pairs.values()) == [(image, mask)]
    assert not problems


def test_fields_of_ome_tiffs_with_what_cellpose_saves_beside_them(tmp_path):
    labels = np.zeros((40, 50), np.uint16)
    labels[5:15, 5:15] = 3
    for name in ("a", "b"):
        tifffile.imwrite(tmp_path / f"{name}.ome.tif", labels + 9, metadata={"axes": "YX"})
    tifffile.imwrite(tmp_path / "a.ome_cp_masks.tif", labels)
    np.save(tmp_path / "b.ome_seg.npy", {"masks": labels})
    options = {"images": str(tmp_path / "*.ome.tif"), "crop": [8, 8]}
    first = Fields(masks=str(tmp_path / "*_cp_masks.tif"), **options)
    assert first.table["id"].tolist() == ["a:3"]
    second = Fields(masks=str(tmp_path / "*_seg.npy"), allow_pickle=True, **options)
    with pytest.warns(AttrscoreWarning, match="is unpickled"):
        assert second.table["id"].tolist() == ["b:3"]


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there only")
def test_a_name_that_is_not_utf_8_is_left_out_with_a_sentence(tmp_path):
    labels = np.zeros((40, 50), np.uint16)
    labels[5:15, 5:15] = 3
    bad = tmp_path / os.fsdecode(b"b\xff.tif")
    for path in (tmp_path / "a.tif", bad):
        tifffile.imwrite(path, labels + 9)
        tifffile.imwrite(path.with_name(path.stem + "_mask.tif"), labels)
    fields = Fields(
        images=str(tmp_path / "[ab]*.tif"), masks=str(tmp_path / "*_mask.tif"), crop=[8, 8]
    )
    assert fields.table["id"].tolist() == ["a:3"]
    fields.fingerprint()
    assert fields.skipped == {
        shown(path): f"the {what} '{shown(path)}' has a name that is not UTF-8, under which no "
        "result can be written; rename it."
        for what, path in (("image", bad), ("mask", bad.with_name(bad.stem + "_mask.tif")))
    }
    assert shown(bad) == "b\\xff.tif"
