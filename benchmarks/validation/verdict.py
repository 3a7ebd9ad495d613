"""Part 8: the verdict itself. How often is it wrong, on networks whose reading is known?

Every trial trains fresh networks and audits them with 20 draws of random weights, 19 of which are
the null; the tables are kept (``verdict/``), so that a stopped run goes on where it was. The rows
A to J and their thresholds are those of this file as it was committed before its first full run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import Check, Scale, kept, permuted
from torch import Tensor, nn

import attrscore
from attrscore.core.contracts import Batch, Dataset, InputSpec
from attrscore.datasets import Phantom
from attrscore.engine.reading import draw_pool
from attrscore.engine.run import batches_of
from attrscore.models import randomized
from attrscore.stats import bootstrap
from attrscore.stats.verdict import verdict
from attrscore.targets import Predicted
from attrscore.training import train

METHOD = "hires_cam"
DRAWS = 20
"""Of random weights: 19 are the null, and each of the 20 in turn is held against the others."""
FRESH = 40_000
"""Seeds of this part start here; no other part, and no development, uses them."""

CHEATS = ("background", "neighbours")
FLIPS = 0.2
"""A partial cheat is one whose predictions change with the surroundings in this share of swaps."""


class Residual(nn.Module):
    """A small residual network: a stem, two blocks, average pooling, one linear layer."""

    def __init__(self, spec: InputSpec, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(spec.channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.middle = Block(width, 2 * width)
        self.last = Block(2 * width, 2 * width)
        self.head = nn.Linear(2 * width, spec.classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, Y, X) -> (N, K)."""
        deep = self.last(self.middle(self.stem(inputs)))
        return self.head(deep.mean((2, 3)))


class Block(nn.Module):
    """Two convolutions beside a shortcut; both halve the grid."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, 2, padding=1),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1),
            nn.BatchNorm2d(after),
        )
        self.shortcut = nn.Conv2d(before, after, 1, 2)
        self.relu = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, before, Y, X) -> (N, after, Y / 2, X / 2)."""
        return self.relu(self.body(inputs) + self.shortcut(inputs))


def _tiny(spec: InputSpec, seed: int) -> nn.Module:
    return attrscore.MODELS.build("tiny_cnn", seed=seed)(spec)


def _residual(spec: InputSpec, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Residual(spec).eval()


@dataclass(frozen=True)
class Design:
    """A network and the crops it is trained and audited on."""

    make: Callable[[InputSpec, int], nn.Module]
    layer: str
    """The middle one; the primary condition is HiResCAM there, margin of the predicted class."""
    size: tuple[int, ...]


DESIGNS = {
    "tiny 2D": Design(_tiny, "features.3", (48, 48)),
    "residual 2D": Design(_residual, "middle", (48, 48)),
    "tiny 3D": Design(_tiny, "features.3", (8, 24, 24)),
}


@dataclass(frozen=True)
class Kind:
    """What a network learnt, and in which rows it counts."""

    group: str
    carrier: str = "mixture"
    confounder: str = "neighbours"
    strength: float = 0.5
    epochs: int = 8
    cells: int = 384
    """Trained on."""
    audited: int = 80


KINDS = {
    "untrained": Kind("A", epochs=0),
    "untrained, another": Kind("A", epochs=0),
    "permuted labels": Kind("A", epochs=6),
    "background": Kind("B", "background", epochs=5),
    "neighbours": Kind("B", "neighbours", epochs=6),
    "part background": Kind("C", confounder="background", strength=0.95, epochs=5),
    "part neighbours": Kind("C", strength=1.0),
    "part neighbours, early": Kind("C", strength=1.0, epochs=3),
    "texture": Kind("D", epochs=6),
    "size": Kind("D", "size", epochs=16, cells=768, audited=160),
}


@dataclass(frozen=True)
class Trial:
    """One set of fresh networks, and the crops that they are audited on."""

    design: str
    number: int
    quick: bool = False

    @property
    def seed(self) -> int:
        """Of all that is drawn."""
        return FRESH + 1000 * list(DESIGNS).index(self.design) + self.number

    def run(self, out: Path) -> pd.DataFrame:
        """The rows of all networks and draws of this trial; read where they are kept."""
        name = f"{self.design.replace(' ', '_')}-{self.number:02d}.parquet"
        return kept(out / name, self._rows)

    def _rows(self) -> Iterator[pd.DataFrame]:
        design = DESIGNS[self.design]
        plain = Phantom(
            size=design.size,
            plates=10,
            neighbours=(1, 3),
            well_effect=EFFECT,
            plate_effect=EFFECT,
        )
        read: dict[Phantom, _Crops] = {}
        draws: dict[Phantom, pd.DataFrame] = {}
        for number, (name, kind) in enumerate(KINDS.items()):
            taught = replace(
                plain, carrier=kind.carrier, confounder=kind.confounder, strength=kind.strength
            )
            if (
                kind.carrier == "size"
            ):  # beside more, small networks read the size of others as well
                taught = replace(taught, neighbours=(0, 1))
            model = design.make(taught.spec, self.seed + 100 * number)
            if kind.epochs:
                cells = replace(taught, cells=kind.cells, seed=self.seed)
                data: Dataset = permuted(cells, self.seed) if "permuted" in name else cells
                epochs = 2 if self.quick else kind.epochs
                train(model, data, epochs=epochs, seed=self.seed)
            for audit, cells in _audits(kind, plain, taught, self.seed + 500_000):
                # Random weights answer for what they predict: labels do not change their maps.
                pictures = replace(cells, carrier="mixture") if cells.strength == 0.5 else cells
                if kind.carrier == "size":
                    pictures = cells
                if pictures not in draws:
                    draws[pictures] = self._draws(design, pictures)
                if cells not in read:
                    read[cells] = _Crops(cells)
                seen = _evaluated(model, read[cells], design.layer, ["grad_camo", "swap"])
                both = pd.concat([seen.assign(**TRAINED), draws[pictures]])
                yield both.assign(network=name, group=kind.group, audit=audit)

    def _draws(self, design: Design, cells: Phantom) -> pd.DataFrame:
        """Rows under random weights: they follow from the architecture, the seed and the crops."""
        model, crops = design.make(cells.spec, self.seed), _Crops(cells)
        drawn = (randomized(model, "all", self.seed + draw) for draw in range(DRAWS))
        return pd.concat(
            _evaluated(each, crops, design.layer, ["grad_camo"]).assign(
                **{"model.randomize": "all", "seed": draw}
            )
            for draw, each in enumerate(drawn)
        )


EFFECT = 0.05
"""Standard deviation of what wells and plates add to their crops."""

TRAINED = {"model.randomize": "none", "seed": 0}


def _audits(
    kind: Kind, plain: Phantom, taught: Phantom, seed: int
) -> Iterator[tuple[str, Phantom]]:
    """Crops on which nothing agrees with the label by more than chance; for cheats others too."""
    balanced = replace(plain, carrier="mixture", confounder="neighbours", strength=0.5)
    if kind.carrier == "size":
        balanced = taught
    yield "balanced", replace(balanced, seed=seed, cells=kind.audited)
    if kind.group in "BC":
        yield "as trained", replace(taught, seed=seed, cells=kind.audited)


class _Crops:
    """Crops that are drawn once for all models, and the pool that the swap takes donors from."""

    def __init__(self, cells: Dataset) -> None:
        self.batches, self.pool = list(batches_of(cells)), draw_pool(cells)


def _evaluated(model: nn.Module, crops: _Crops, layer: str, scorers: list[str]) -> pd.DataFrame:
    return attrscore.evaluate(
        model,
        crops.batches,
        pool=crops.pool,
        methods=METHOD,
        layers=layer,
        scorers=scorers,
        target=Predicted(scalar="margin"),
        progress="none",
    )


def run(scale: Scale, out: Path) -> list[Check]:
    """Trials side by side, two processes; then the rows of the table."""
    folder = out / "verdict"
    folder.mkdir(parents=True, exist_ok=True)
    quick = len(scale.seeds) == 1
    counts = {"tiny 2D": 1} if quick else {"tiny 2D": 21, "residual 2D": 2, "tiny 3D": 2}
    trials = [Trial(name, number, quick) for name, n in counts.items() for number in range(n)]
    with ProcessPoolExecutor(
        2, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        tables = list(pool.map(_run, trials, itertools.repeat(folder)))
        simulated = pool.submit(coverage, 40 if quick else 1000)
        fifths = pool.submit(mask_swap_by_area, 4 if quick else 40)
        networks = pd.concat(
            [judged(trial, table) for trial, table in zip(trials, tables, strict=True)],
            ignore_index=True,
        )
        draws = pd.concat([alone(t, table) for t, table in zip(trials, tables, strict=True)])
        intervals, areas = simulated.result(), fifths.result()
    readers = exact_readers()
    for name, table in (
        ("networks", networks),
        ("draws", draws),
        ("coverage", intervals),
        ("mask_swap", areas),
        ("readers", readers),
    ):
        table.to_csv(out / f"verdict_{name}.csv", index=False)
    return [
        *(check for group in networks.groupby("design", sort=False) for check in _of_kinds(*group)),
        _of_draws(draws),
        *_of_coverage(intervals),
        *_of_readers(readers),
        _of_areas(areas),
    ]


def _run(trial: Trial, out: Path) -> pd.DataFrame:
    return trial.run(out)


def judged(trial: Trial, table: pd.DataFrame) -> pd.DataFrame:
    """A row a network and audit: its verdict and the numbers behind it."""
    rows = []
    null = (table["model.randomize"] == "all") & (table["seed"] < DRAWS - 1)
    used = table[null | (table["model.randomize"] == "none")]
    for (network, group, audit), each in used.groupby(["network", "group", "audit"], sort=False):
        found = verdict(each.drop(columns=["network", "group", "audit"]))
        seen = each[each["model.randomize"] == "none"]
        means = {name: seen[f"swap.{name}"].mean() for name in SWAPPED}
        right = (seen["predicted"] == seen["label"]).mean()
        rows.append(
            {
                "design": trial.design,
                "trial": trial.number,
                "network": network,
                "group": group,
                "audit": audit,
                "kind": found.kind,
                "accuracy": right,
                **means,
                "sentence": found.sentence,
            }
        )
    return pd.DataFrame(rows)


SWAPPED = tuple(
    f"{side}{what}" for side in ("inside", "cell", "outside") for what in ("", "_flips", "_margin")
)


def alone(trial: Trial, table: pd.DataFrame) -> pd.DataFrame:
    """Each draw of random weights in the place of the network, and whether it passes the rank."""
    draws = table[(table["network"] == "untrained") & (table["model.randomize"] == "all")]
    means = draws.groupby("seed")["grad_camo.log_odds"].mean()
    above = [int((means.drop(seed) >= mean).sum()) for seed, mean in means.items()]
    passed = [(1 + n) / DRAWS <= 0.05 for n in above]
    return pd.DataFrame({"design": trial.design, "trial": trial.number, "passes": passed})


def coverage(repeats: int) -> pd.DataFrame:
    """How often a 95 % interval holds the truth: units alike or not, skewed or not, few plates.

    A cell's value is an effect of its unit plus noise of the same spread, around 0. Skewed effects
    are exponential. Of unbalanced units a few hold most of the cells.
    """
    rows = []
    designs = itertools.product((2, 3, 4, 5, 6, 8, 10, 16), (False, True), (False, True))
    for units, unbalanced, skewed in designs:
        rng = np.random.default_rng([FRESH, units, unbalanced, skewed])
        held, refused = [], 0
        for _ in range(repeats):
            sizes = np.ceil(20 * rng.lognormal(0, 1, units)).astype(int) if unbalanced else None
            unit = np.repeat(np.arange(units), 20 if sizes is None else sizes)
            effect = rng.exponential(size=units) - 1 if skewed else rng.normal(size=units)
            values = effect[unit] + rng.normal(size=len(unit))
            well = rng.integers(0, 6, len(unit))
            table = pd.DataFrame({"Metadata_Plate": unit, "Metadata_Well": well, "value": values})
            found = bootstrap(table, "value", resamples=999)
            if np.isnan(found.low):
                refused += 1
            else:
                held.append(found.low <= 0 <= found.high)
        rows.append(
            {
                "units": units,
                "unbalanced": unbalanced,
                "skewed": skewed,
                "coverage": np.mean(held) if held else np.nan,
                "refused": refused / repeats,
            }
        )
    return pd.DataFrame(rows)


def mask_swap_by_area(networks: int) -> pd.DataFrame:
    """Under random weights: how many cells stand above 95 % of the masks of others, by area."""
    cells = Phantom(size=(48, 48), cells=128, seed=FRESH + 900_000)
    crops, found = _Crops(cells), []
    for seed in range(networks):
        rows = _evaluated(_tiny(cells.spec, FRESH + seed), crops, "features.3", ["mask_swap"])
        found.append(rows[["mask_swap", "Metadata_area_fraction"]])
    rows = pd.concat(found).dropna()
    fifth = pd.qcut(rows["Metadata_area_fraction"], 5, labels=False)
    above = (rows["mask_swap"] > 0.95).groupby(fifth).mean()
    return above.rename("above").rename_axis("fifth").reset_index()


class Reader(nn.Module):
    """A network without weights whose answer is one number of the crop, and nothing else.

    The cell is what lies above half brightness and hangs together with the middle of the crop.
    """

    def __init__(self, read: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.read = read

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, 1, Y, X) -> (N, 2)."""
        bright = (inputs > 0.5).float()
        cell = torch.zeros_like(bright)
        middle = inputs.shape[2] // 2
        cell[:, :, middle - 1 : middle + 2, middle - 1 : middle + 2] = 1
        for _ in range(inputs.shape[2]):
            cell = nn.functional.max_pool2d(cell, 3, 1, 1) * bright
        score = self.read(inputs, cell)
        return torch.stack([-score, score], 1) / 2


def _area(_inputs: Tensor, cell: Tensor) -> Tensor:
    return (cell.sum((1, 2, 3)) - 154) / 10


def _eccentricity(inputs: Tensor, cell: Tensor) -> Tensor:
    at = torch.arange(inputs.shape[2], dtype=inputs.dtype)
    mass = cell[:, 0] / cell.sum((1, 2, 3))[:, None, None]
    (along, across) = mass.sum(2), mass.sum(1)
    spread = [(each * at**2).sum(1) - (each * at).sum(1) ** 2 for each in (along, across)]
    return 10 * (spread[0] / spread[1]).log().abs() - 4


def _both(inputs: Tensor, cell: Tensor) -> Tensor:
    """Half from the cell's brightness, half from that of all other bright things."""
    others = (inputs > 0.5).float() - cell
    own, rest = (
        (inputs * each).sum((1, 2, 3)) / each.sum((1, 2, 3)).clamp(min=1) for each in (cell, others)
    )
    return 20 * (own + rest - 1.6)


READERS = {"area": _area, "eccentricity": _eccentricity, "half and half": _both}


def crops(reads: str, *, agree: float, seed: int, cells: int = 96) -> Batch:
    """Bright ellipses on a dark ground: one in the middle, one aside; the label is what is read.

    ``agree`` is how often the brightness of the two agrees.
    """
    rng = np.random.default_rng([FRESH, seed])
    label = np.arange(cells) % 2
    at = np.stack(np.meshgrid(*[np.arange(48)] * 2, indexing="ij"))
    images = np.full((cells, 1, 48, 48), 0.2, np.float32)
    own, others = np.zeros((2, cells, 48, 48), bool)
    for row, (image, high) in enumerate(zip(images[:, 0], label, strict=True)):
        by_area, by_shape = (
            high if reads == name else rng.integers(2) for name in list(READERS)[:2]
        )
        area = rng.uniform(100, 140) if not by_area else rng.uniform(170, 210)
        ratio = rng.uniform(1, 1.15) if not by_shape else rng.uniform(1.5, 1.8)
        axes = np.sqrt(area / np.pi) * np.array([ratio**0.5, ratio**-0.5])[:: rng.choice((1, -1))]
        own[row] = (((at - 24) / axes[:, None, None]) ** 2).sum(0) < 1
        aside = np.array([rng.choice((6, 41)), rng.uniform(8, 40)])
        others[row] = (((at - aside[:, None, None]) / 5) ** 2).sum(0) < 1
        beside = high if rng.random() < agree else 1 - high
        image[own[row]], image[others[row]] = 0.7 + 0.2 * high, 0.7 + 0.2 * beside
    regions = {"cell": torch.from_numpy(own), "neighbours": torch.from_numpy(others)}
    return Batch(
        torch.from_numpy(images),
        {name: each.float() for name, each in regions.items()},
        label=torch.from_numpy(label),
        ids=[f"cell-{row}" for row in range(cells)],
        meta={"Metadata_Plate": np.array([f"P{row % 12}" for row in range(cells)])},
    )


def exact_readers() -> pd.DataFrame:
    """What the swap says of readers without weights, and the verdict if the rank spoke for them."""
    rows = []
    for name, agree in (
        ("area", 0.5),
        ("eccentricity", 0.5),
        *[("half and half", a) for a in (0.5, 1)],
    ):
        batch, pool = (crops(name, agree=agree, seed=seed) for seed in (0, 1))
        seen = attrscore.evaluate(
            Reader(READERS[name]),
            batch,
            methods=attrscore.METHODS.build("occlusion", window=12, stride=12),
            layers="input",
            scorers=["grad_camo", "swap"],
            pool=pool,
            progress="none",
        )
        seen["grad_camo.log_odds"] = 3.0  # a rank that passes: only the swap is under test
        drawn = [
            seen.assign(**{"model.randomize": "all", "seed": draw, "grad_camo.log_odds": 0.0})
            for draw in range(DRAWS - 1)
        ]
        found = verdict(pd.concat([seen.assign(**TRAINED), *drawn]))
        means = {side: seen[f"swap.{side}"].mean() for side in SWAPPED}
        rows.append({"reader": name, "agree": agree, "kind": found.kind, **means})
    return pd.DataFrame(rows)


def _of_kinds(design: str, networks: pd.DataFrame) -> Iterator[Check]:
    """Rows A to D of one design."""
    letter = "" if design == "tiny 2D" else "J, "
    partial = networks["outside_flips"] >= FLIPS

    def check(row: str, what: str, mine: pd.DataFrame, kind: str, most: int) -> Check:
        count = int((mine["kind"] == kind).sum())
        said = ", ".join(f"{n} {k}" for k, n in mine["kind"].value_counts().items())
        expected = f"at most {most} of {len(mine)} {kind}" if most else f"0 {kind}"
        holds = count <= most if len(mine) else None
        return Check(f"verdict {letter}{row}", f"{design}: {what}", expected, said, holds)

    mine = networks[networks["group"] == "A"]
    yield check("A", "untrained and permuted labels", mine, "cell-focused", 1)
    yield check("A", "untrained and permuted labels", mine, "looks elsewhere", 1)
    for audit in ("balanced", "as trained"):
        there = networks["audit"] == audit
        mine = networks[there & (networks["group"] == "B")]
        yield check("B", f"pure cheats, crops {audit}", mine, "cell-focused", 0)
        mine = networks[there & (networks["group"] == "C") & partial]
        yield check("C", f"partial cheats, crops {audit}", mine, "cell-focused", 1)
    for name in ("texture", "size"):
        mine = networks[networks["network"] == name]
        yield check("D", f"honest by {name}", mine, "looks elsewhere", 0)
        count, most = int((mine["kind"] == "cell-focused").sum()), len(mine)
        least = int(np.ceil(0.9 * most))
        yield Check(
            f"verdict {letter}D",
            f"{design}: honest by {name}",
            f"at least {least} of {most} cell-focused",
            f"{count}: " + ", ".join(f"{n} {k}" for k, n in mine["kind"].value_counts().items()),
            count >= least,
        )


def _of_draws(draws: pd.DataFrame) -> Check:
    share = draws["passes"].mean()
    what = f"a draw of random weights against {DRAWS - 1} others passes the rank"
    return Check(
        "verdict E", what, "at most 6 %", f"{share:.1%} of {len(draws)}", bool(share <= 0.06)
    )


def _of_coverage(intervals: pd.DataFrame) -> Iterator[Check]:
    many = intervals[intervals["units"] >= 5]
    few = intervals[intervals["units"] < 5]
    worst = many["coverage"].min()
    yield Check(
        "verdict F",
        "coverage of 95 % intervals, 5 to 16 units, unbalanced and skewed among them",
        "at least .92 everywhere",
        f"{worst:.3f} to {many['coverage'].max():.3f}",
        bool(worst >= 0.92),
    )
    refused, covered = few["refused"] == 1, few["coverage"] >= 0.9
    yield Check(
        "verdict F",
        "2 to 4 plates with effects of their own",
        "refused, or at least .90",
        f"refused in {refused.sum()} of {len(few)} designs; else from {few['coverage'].min():.3f}",
        bool((refused | covered).all()),
    )


def _of_readers(readers: pd.DataFrame) -> Iterator[Check]:
    for row in readers.itertuples():
        sides = f"transplant {row.cell:.3f}, inside {row.inside:.3f}, outside {row.outside:.3f}"
        if row.reader == "half and half":
            claim = f"half from the cell, half from neighbours that agree in {row.agree:.0%}"
            yield Check(
                "verdict H", claim, "never cell-focused", f"{row.kind}; {sides}",
                row.kind != "cell-focused",
            )  # fmt: skip
        else:
            yield Check(
                "verdict H", f"an exact reader of {row.reader}",
                "transplant at least .3, outside at most .05", f"{sides}; {row.kind}",
                bool(row.cell >= 0.3 and row.outside <= 0.05),
            )  # fmt: skip


def _of_areas(areas: pd.DataFrame) -> Check:
    return Check(
        "verdict I",
        "mask_swap under random weights: cells above 95 % of other masks, by fifth of area",
        "at most .08 in every fifth",
        ", ".join(f"{each:.3f}" for each in areas["above"]),
        bool((areas["above"] <= 0.08).all()),
    )
