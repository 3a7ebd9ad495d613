"""Small transformers that keep the channels of the image apart, as published ones do.

Their blocks leave tokens where they are: attention that each token pays to itself, and an MLP. With
``planted=(channel, row, column)`` every weight is set by hand, so that one token alone makes the
score.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

SPACE, PATCH, WIDTH = (32, 24), 8, 4
"""4 x 3 places: an axis taken for another shows."""
GRID = (4, 3)

Planted = tuple[int, int, int] | None


class Block(nn.Module):
    """Attention and an MLP, on what was there; those of planted networks add nothing."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(tokens)
        tokens = tokens + self.attention(x, x, x, need_weights=False)[0]
        return tokens + self.mlp(tokens)


class ChannelViT(nn.Module):
    """ChannelViT (Bao et al., ICLR 2024): one 3D convolution, a token a channel and place.

    Channel by channel, as theirs, or with ``order="last"`` place by place; with ``behind`` the
    class token comes last.
    """

    def __init__(
        self,
        channels: int = 3,
        order: Literal["first", "last"] = "first",
        *,
        behind: bool = False,
    ) -> None:
        super().__init__()
        self.behind = behind
        self.patches = nn.Conv3d(1, WIDTH, (1, PATCH, PATCH), (1, PATCH, PATCH))
        self.order = order
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        found = self.patches(x[:, None])  # (N, D, C, h, w)
        if self.order == "last":
            found = found.movedim(2, -1)
        both = [self.token.expand(len(x), -1, -1), found.flatten(2).mT]
        tokens = torch.cat(both[::-1] if self.behind else both, 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.read(tokens)

    def read(self, tokens: Tensor) -> Tensor:
        return self.head(tokens[:, -1 if self.behind else 0])


class OpenPhenom(ChannelViT):
    """OpenPhenom (Kraus et al., CVPR 2024): the patch embedding runs once a channel."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__(channels)
        self.patches = nn.Conv2d(1, WIDTH, PATCH, PATCH)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.patches(channel).flatten(2).mT for channel in x.split(1, 1)]
        tokens = torch.cat([self.token.expand(len(x), -1, -1), *found], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.read(tokens)


class Folded(nn.Module):
    """MorphEm and uniDINO: a ViT of one channel; its class tokens side by side, or pooled.

    The channels are in the batch, a cell's together or one after the other (``how``), or the ViT
    runs once for each of them (``loop``).
    """

    def __init__(
        self,
        channels: int = 3,
        how: Literal["folded", "stacked", "loop"] = "folded",
        pool: Literal["beside", "attention"] = "beside",
    ) -> None:
        super().__init__()
        self.vit = SingleChannel()
        self.how, self.pool = how, pool
        self.score = nn.Linear(WIDTH, 1)
        self.channel = nn.Parameter(torch.randn(1, channels, WIDTH))
        self.head = nn.Linear(WIDTH if pool == "attention" else channels * WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        n, channels = x.shape[:2]
        if self.how == "folded":
            found = self.vit(x.flatten(0, 1)[:, None]).unflatten(0, (n, channels))
        elif self.how == "stacked":
            found = self.vit(torch.cat(x.split(1, 1))).unflatten(0, (channels, n)).mT.mT
            found = found.movedim(1, 0)
        else:
            found = torch.stack([self.vit(channel) for channel in x.split(1, 1)], 1)
        found = found + self.channel
        if self.pool == "attention":
            return self.head((self.score(found).softmax(1) * found).sum(1))
        return self.head(found.flatten(1))


class SingleChannel(nn.Module):
    """A ViT of one channel: its class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, PATCH, PATCH)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).mT
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.read(tokens)

    def read(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


def seeded(make, *args, **options) -> nn.Module:
    """A network with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return make(*args, **options).double().eval()


def planted(model: nn.Module, channel: int, place: tuple[int, int]) -> nn.Module:
    """The same network that scores the brightness of one channel in one patch, and no more.

    The mean of a patch is the first number of its token; blocks add nothing; what reads the tokens
    reads that number of one of them alone.
    """
    for parameter in model.parameters():
        parameter.data.zero_()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.data.fill_(1)
    wanted = place[0] * GRID[1] + place[1]
    inner = model.vit if isinstance(model, Folded) else model
    inner.patches.weight.data[0] = 1 / PATCH**2
    if isinstance(model, Folded):
        inner.read = lambda tokens: tokens[:, 1 + wanted]
        model.head.weight.data[0, channel * WIDTH if model.pool == "beside" else 0] = 1
        model.channel.data[0, channel, 3] = model.score.weight.data[0, 3] = 100  # exp(-10000) = 0
        return model
    places = GRID[0] * GRID[1]
    number = wanted * 3 + channel if model.order == "last" else channel * places + wanted
    number += not model.behind
    inner.read = lambda tokens: model.head(tokens[:, number])
    model.head.weight.data[0, 0] = 1
    return model
