"""Heat as image files that viewers open."""

from __future__ import annotations

import numpy as np
import pytest

from attrscore.datasets.images import open_image
from attrscore.datasets.images.readers import Choice
from attrscore.report.export.fields import paths_of, write_images


@pytest.mark.parametrize("space", [(301, 600), (3, 301, 520)])
def test_ome_zarr_has_levels_that_are_means_of_the_one_before(tmp_path, space):
    zarr = pytest.importorskip("zarr", reason="zarr, an extra, is not installed")
    heat = np.random.default_rng(0).uniform(size=(2, *space)).astype(np.float32)
    spacing = (2.0, 0.5, 0.5)[-len(space) :]
    names = ["grad_cam layer4", "saliency input"]
    (path,) = paths_of(tmp_path, "field", names, "omezarr")
    write_images([path], heat, names, "omezarr", spacing=spacing)
    said = zarr.open_group(str(path), mode="r").attrs["ome"]
    assert said["version"] == "0.5"
    (scales,) = said["multiscales"]
    assert len(scales["datasets"]) == 3
    for level in range(3):
        image = open_image(path, choice=Choice(level=level))
        assert image.stains == tuple(names)
        assert image.spacing[-1] == 0.5 * 2**level
        assert image.shape[-1] == space[-1] // 2**level
        assert image.shape[-2] == -(-301 // 2**level)
        scale, shift = scales["datasets"][level]["coordinateTransformations"]
        assert shift["translation"][-1] == 0.5 * (2**level - 1) / 2
        assert scale["scale"][0] == 1
        assert image.read().mean() == pytest.approx(heat.mean(), rel=0.01)
    if len(space) == 2:
        coarse = open_image(path, choice=Choice(level=1)).read()
        np.testing.assert_allclose(coarse[:, 4, 7], heat[:, 8:10, 14:16].mean((1, 2)), rtol=1e-6)
    array = zarr.open_group(str(path), mode="r")["1"]
    assert array.metadata.dimension_names == ("c", *"zyx"[-len(space) :])
