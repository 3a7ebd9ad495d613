"""Part 10: transformers whose cheating was planted. Which methods at which blocks tell?

A ViT, one with a token for each patch of each channel, and one that folds the channels into the
batch, trained on labels carried by the cell or by the background.

The preset is the second. The first, HiResCAM with ``gradients=libra`` at the tokens, was chosen on
seed 900, and failed on seeds 0 and 1 (README). So did the training: honest folded networks had
learnt little. This one was chosen on the networks of seeds 0 and 1, trained anew and for longer,
and committed with its threshold before seeds 3 to 5 were run.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from common import HEADLINE, Check, Scale, kept
from torch import Tensor, nn

import attrscore
from attrscore.core.contracts import InputSpec
from attrscore.datasets import Phantom
from attrscore.stats import auroc
from attrscore.targets import Predicted
from attrscore.training import train

SIZE, PATCH, WIDTH = (32, 32), 4, 48
CROPS = {"size": SIZE, "channels": 2, "neighbours": (0, 0)}
KINDS = ("plain", "apart", "folded")
LAYERS = ("tokens", "blocks.0", "blocks.1", "blocks.2")
LIBRA = ("grad_cam", "hires_cam", "saliency", "input_x_gradient")
METHODS = {
    **{name: name for name in (*LIBRA, "layer_cam", "attention", "attention_rollout")},
    **{name: name for name in ("grad_attention", "legrad")},
    **{f"{name}, libra": attrscore.METHODS.build(name, gradients="libra") for name in LIBRA},
}
PRESET = ("attention_rollout", "blocks.1")
"""Attention rollout at the middle block, log odds, margin of the predicted class."""
FIRST = ("hires_cam, libra", "tokens")
"""The preset before, which is reported."""
LEAST = 0.95
"""AUROC of honest against background, cell by cell, in every pair that counts."""
LEARNT = 0.95
"""Held-out accuracy from which a network counts: one that has not learnt reads nothing."""
SEEDS = 50_000
"""Seeds of this part start here."""
FRESH = (3, 4, 5)
EPOCHS = 12


class Block(nn.Module):
    """Attention and two linear layers, each behind a normalisation and beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        q, k, v = (
            each.unflatten(2, (4, -1)).transpose(1, 2)
            for each in self.qkv(self.norm1(tokens)).chunk(3, 2)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        tokens = tokens + self.out(mixed.transpose(1, 2).flatten(2))
        return tokens + self.mlp(self.norm2(tokens))


class Transformer(nn.Module):
    """A class token before the patches: of all channels (plain), or of one channel each.

    ``apart`` has the tokens of one channel after those of another, with an embedding of the
    channel; ``folded`` runs each channel alone and averages the class tokens.
    """

    def __init__(self, spec: InputSpec, kind: str) -> None:
        super().__init__()
        self.kind = kind
        taken = spec.channels if kind == "plain" else 1
        self.embed = nn.Sequential(  # a stem of convolutions, without which little is learnt
            *(nn.Conv2d(taken, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, WIDTH, 3, 2, padding=1), nn.BatchNorm2d(WIDTH), nn.ReLU()),
            nn.AvgPool2d(PATCH // 2),
        )
        positions = (SIZE[0] // PATCH) * (SIZE[1] // PATCH)
        self.where = nn.Parameter(0.02 * torch.randn(1, 1, positions, WIDTH))
        self.which = nn.Parameter(0.02 * torch.randn(1, spec.channels, 1, WIDTH))
        self.first = nn.Parameter(0.02 * torch.randn(1, 1, WIDTH))
        self.tokens = nn.Identity()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, spec.classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, Y, X) -> (N, K)."""
        n, channels = inputs.shape[:2]
        if self.kind == "plain":
            tokens = self.embed(inputs).flatten(2).mT + self.where[:, 0]
        else:
            each = self.embed(inputs.flatten(0, 1)[:, None]).flatten(2).mT
            tokens = each.unflatten(0, (n, channels)) + self.where + self.which
            tokens = tokens.flatten(1, 2) if self.kind == "apart" else tokens.flatten(0, 1)
        tokens = self.tokens(torch.cat([self.first.expand(len(tokens), -1, -1), tokens], 1))
        for block in self.blocks:
            tokens = block(tokens)
        seen = self.norm(tokens)[:, 0]
        if self.kind == "folded":
            seen = seen.unflatten(0, (n, channels)).mean(1)
        return self.head(seen)


def trained(kind: str, carrier: str, seed: int, scale: Scale) -> tuple[Transformer, float]:
    """A network whose training labels were carried by something, and its held-out accuracy."""
    data = Phantom(
        **CROPS, cells=scale.trained_on + 128, carrier=carrier, seed=SEEDS + 10 * seed + 1
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Transformer(data.spec, kind)
    options = {"learning_rate": 1e-3, "augment": "flips", "epochs": scale.epochs}
    found = train(model, data, split_by=None, seed=seed, **options)
    return model.eval(), found.accuracy


def audited(model: nn.Module, cells: int, seed: int) -> pd.DataFrame:
    """Each cell's score under every method at every block."""
    data = Phantom(**CROPS, cells=cells, seed=SEEDS + 10 * seed)
    found = attrscore.evaluate(
        model,
        data,
        progress="none",
        methods=METHODS,
        layers=LAYERS,
        scorers=attrscore.SCORERS.build("grad_camo", auc=False),
        target=Predicted(scalar="margin"),
    )
    return found[["method", "layer", "id", HEADLINE]]


def audits(scale: Scale, kind: str, seed: int) -> Iterator[pd.DataFrame]:
    """A table for the honest network and one for the cheat."""
    for carrier in ("cell", "background"):
        model, accuracy = trained(kind, carrier, seed, scale)
        table = audited(model, scale.cells, seed)
        yield table.assign(kind=kind, seed=seed, carrier=carrier, accuracy=accuracy)


def separation(scores: pd.DataFrame) -> pd.DataFrame:
    """AUROC of honest against background, cell by cell: a row a kind, seed, method and layer."""
    keys = ["kind", "seed", "method", "layer"]
    rows = []
    for names, group in scores.groupby(keys, sort=False):
        honest, cheat = (group[group["carrier"] == each] for each in ("cell", "background"))
        defined = group[HEADLINE].notna().mean()
        rows.append([*names, auroc(honest[HEADLINE], cheat[HEADLINE]), defined])
    return pd.DataFrame(rows, columns=[*keys, "auroc", "defined"])


def run(scale: Scale, out: Path) -> list[Check]:
    """The networks, the table of methods and blocks, and the preset's promise."""
    quick = len(scale.seeds) == 1
    kinds, seeds, epochs = (KINDS[:1], FRESH[:1], 6) if quick else (KINDS, FRESH, EPOCHS)
    scale = replace(scale, seeds=seeds, cells=scale.cells // 3, epochs=epochs)
    scores = pd.concat([pair(scale, out, kind, seed) for seed in seeds for kind in kinds])
    table = separation(scores)
    table.to_csv(out / "vision_transformers.csv", index=False)
    return checks(scores, table)


def pair(scale: Scale, out: Path, kind: str, seed: int) -> pd.DataFrame:
    """The scores of an honest network and of a cheat, kept in a file."""
    name = f"vision_transformers-{kind}-{seed}.parquet"
    return kept(out / name, lambda: audits(scale, kind, seed))


def checks(scores: pd.DataFrame, table: pd.DataFrame) -> list[Check]:
    """What is promised of the preset; the one before, and whether libra helps, is reported."""
    part, found = "vision transformers", []
    accuracy = scores.groupby(["kind", "seed"])["accuracy"].min()  # of the two networks
    learnt = accuracy >= LEARNT
    for (method, layer), kind in itertools.product((PRESET, FIRST), table["kind"].unique()):
        mine = table[(table["method"] == method) & (table["layer"] == layer)]
        each = mine.set_index(["kind", "seed"])["auroc"].loc[[kind]]
        counts = each[learnt.loc[each.index]]
        first = (method, layer) == FIRST
        found.append(
            Check(
                part,
                f"{kind}: {method} at {layer} separates honest from background, cell by cell",
                "reported: the preset before" if first else f"AUROC at least {LEAST} in every pair",
                f"{', '.join(f'{value:.3f}' for value in counts)}; of {len(each)} pairs "
                f"{len(counts)} had learnt, accuracy {accuracy.loc[kind].min():.2f} or more",
                None if first else bool(len(counts) and (counts >= LEAST).all()),
            )
        )
    for name in LIBRA:
        both = [
            table[table["method"] == each].set_index(["kind", "seed", "layer"])["auroc"].dropna()
            for each in (name, f"{name}, libra")
        ]
        gain = (both[1] - both[0]).dropna()
        found.append(
            Check(
                part,
                f"{name} with gradients=libra tells better than with torch's",
                "reported",
                f"AUROC {both[0].mean():.3f} -> {both[1].mean():.3f}; better in "
                f"{(gain > 0).sum()}, worse in {(gain < 0).sum()} of {len(gain)} pairs",
                None,
            )
        )
    return found
