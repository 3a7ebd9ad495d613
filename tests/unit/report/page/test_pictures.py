"""Heat, planes and outlines as the page shows them."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from attrscore.core.heat import Heat, HeatOptions
from attrscore.report._heat import heat_of
from attrscore.report.page import _pictures as pictures


def pixels(uri, kind):
    head, _, data = uri.partition(",")
    assert head == f"data:image/{kind};base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))


@pytest.mark.parametrize("channels", ["sum", "absolute", "max"])
@pytest.mark.parametrize("sign", ["positive", "absolute", "negative"])
@pytest.mark.parametrize("resize", ["linear", "nearest"])
@pytest.mark.parametrize("minmax", ["never", "each_map"])
@pytest.mark.parametrize(("grid", "space"), [((5, 3), (16, 9)), ((2, 3, 4), (5, 9, 3))])
def test_heat_is_that_of_the_scores(channels, sign, resize, minmax, grid, space):
    signed = torch.randn(3, 2, *grid, generator=torch.Generator().manual_seed(0)).double()
    signed[1] = 0
    options = HeatOptions(channels=channels, sign=sign, resize=resize, minmax=minmax)
    expected = Heat(signed, space, options).full().numpy()
    assert heat_of(signed.numpy(), space, options.as_dict()) == pytest.approx(expected, abs=1e-12)


def test_a_picture_of_heat_is_clear_at_0_and_keeps_256_steps():
    share = np.linspace(0, 1, 256).reshape(16, 16)
    drawn = pixels(pictures.heat_picture(share), "png")
    assert drawn.shape == (16, 16, 4)
    assert drawn[0, 0, 3] == 0
    assert drawn[-1, -1, 3] > 200
    assert (np.diff(drawn[..., 3].ravel().astype(int)) >= 0).all()


def test_planes_of_a_volume_lie_below_each_other():
    volume = np.zeros((3, 4, 5), np.uint8)
    volume[1] = 255
    drawn = pixels(pictures.picture(pictures.strip(volume)), "webp")
    assert drawn.shape == (12, 5, 4)
    assert [drawn[y, 2, 0] > 128 for y in (1, 5, 6, 10)] == [False, True, True, False]


def test_an_outline_encloses_its_pixels_on_every_plane():
    mask = np.zeros((2, 3, 4), bool)
    mask[0, 1, 1:3] = True
    mask[1] = True  # the whole plane: the outline is its edge
    assert pictures.outline(mask) == (
        "M1 1H3M1 2H3M1 1V2M3 1V2" + "M0 3H4M0 6H4M0 3V6M4 3V6"
    )  # pixel (y, x) is the square from (x, y) to (x + 1, y + 1)
    assert pictures.outline(np.zeros((2, 3, 4), bool)) == ""


def test_large_crops_are_averaged_down_and_small_ones_are_left():
    image = np.arange(64.0).reshape(8, 8)
    assert np.array_equal(pictures.shrunk(image, (160, 160)), image)
    small = pictures.shrunk(image, (4, 4))
    assert small[0, 0] == image[:2, :2].mean()
    assert small.mean() == image.mean()
