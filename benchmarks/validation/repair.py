"""Part 9: from audit to repair. Which guides mend a network, and which only mend its score?

Networks are trained where a confounder speaks for the label, once with each guide, and asked where
it speaks against it ("flip"), by swaps, and by their score. Every trial is one set of networks of
one seed; its table is kept (``repair/``), so that a stopped run goes on where it was. Arms, sizes
and thresholds are those of this file as it was committed before its first run on these seeds; it
was developed on the seeds 31000 to 31999. The transformer and the real nuclei came later, with
their own commit before their first run.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from common import Changed, Check, Scale, kept
from matplotlib.figure import Figure
from real import DATA, NUCLEI, fields_of
from scipy import ndimage
from torch import Tensor, nn

import attrscore
from attrscore.core.contracts import Batch, Dataset, InputSpec
from attrscore.datasets import Phantom
from attrscore.errors import AttrscoreWarning
from attrscore.stats import repairs
from attrscore.targets import Predicted
from attrscore.training import MaskedCrops, Outside, Rrr, Swap, Unguided, train

FRESH = 60_000
"""Seeds of this part start here; no other part, and no development, uses them."""

EPOCHS = 8
CELLS = 384
"""Trained on, of which a quarter is held out by wells."""
AUDITED = 64


class Block(nn.Module):
    """Two convolutions beside a shortcut, as in ResNet-18 (He et al., CVPR 2016)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(before, after, 1, stride)
        self.relu = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, before, Y, X) -> (N, after, Y / stride, X / stride)."""
        return self.relu(self.body(inputs) + self.shortcut(inputs))


class QuarterResNet(nn.Module):
    """ResNet-18 with a quarter of its channels and no pooling in its stem.

    A position of the second stage sees 47 pixels across, nearly the whole crop of 48.
    """

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(spec.channels, 16, 3, 2, padding=1), nn.BatchNorm2d(16), nn.ReLU()
        )
        widths = (16, 16, 32, 64, 128)
        for number, (before, after) in enumerate(itertools.pairwise(widths), start=1):
            stage = nn.Sequential(
                Block(before, after, 1 + (after > before)), Block(after, after, 1)
            )
            self.add_module(f"layer{number}", stage)
        self.head = nn.Linear(128, spec.classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, Y, X) -> (N, K)."""
        deep = self.stem(inputs)
        for number in range(1, 5):
            deep = self.get_submodule(f"layer{number}")(deep)
        return self.head(deep.mean((2, 3)))


class SmallViT(nn.Module):
    """Four blocks on patches of 6 pixels, as in ViT (Dosovitskiy et al., ICLR 2021)."""

    def __init__(self, spec: InputSpec, width: int = 64) -> None:
        super().__init__()
        self.patches = nn.Conv2d(spec.channels, width, 6, 6)
        tokens = int(np.prod([each // 6 for each in spec.size]))
        self.position = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        block = nn.TransformerEncoderLayer(
            width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            block, 4, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.head = nn.Linear(width, spec.classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, Y, X) -> (N, K)."""
        tokens = self.patches(inputs).flatten(2).transpose(1, 2) + self.position
        return self.head(self.encoder(tokens).mean(1))


def _tiny(spec: InputSpec, seed: int) -> nn.Module:
    return attrscore.MODELS.build("tiny_cnn", seed=seed)(spec)


def _seeded(kind: Callable[[InputSpec], nn.Module], spec: InputSpec, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(spec).eval()


@dataclass(frozen=True)
class Design:
    """A network, its layers, and the crops it is trained on."""

    make: Callable[[InputSpec, int], nn.Module]
    size: tuple[int, ...]
    layers: Mapping[str, str]
    """``last`` and ``middle``."""
    epochs: int = EPOCHS
    learning_rate: float = 3e-3
    method: str = "hires_cam"
    """What guides and audits; at a transformer's last block the sum of HiResCAM cancels."""


LAYERS = {"last": "features.7", "middle": "features.3"}
DESIGNS = {
    "tiny 2D": Design(_tiny, (48, 48), LAYERS),
    "ResNet 2D": Design(
        partial(_seeded, QuarterResNet), (48, 48), {"last": "layer4", "middle": "layer2"}
    ),
    "tiny 3D": Design(_tiny, (8, 24, 24), LAYERS),
    "ViT 2D": Design(
        partial(_seeded, SmallViT),
        (48, 48),
        {"last": "encoder.layers.3", "middle": "encoder.layers.1"},
        epochs=30,
        learning_rate=3e-4,
        method="layer_cam",
    ),
}


def arms_of(design: str, problem: str, number: int = 0) -> dict[str, Any]:
    """The guides that are compared, by the name of their arm; the slow one once."""
    layers, method = DESIGNS[design].layers, DESIGNS[design].method
    arms: dict[str, Any] = {
        "none": Unguided(),
        "swap": Swap(),
        "outside": Outside(layers=layers["last"], method=method),
        "masked_crops": MaskedCrops(),
    }
    if design == "ResNet 2D":
        arms["outside, middle"] = Outside(layers=layers["middle"])
    if problem == "acid":
        del arms["masked_crops"]
    if problem in REAL:
        arms["never confounded"] = Unguided()
    if (design, problem) == ("tiny 2D", "background"):
        arms["outside, logit"] = Outside(layers=layers["last"], scalar="logit")
        arms["swap, other class"] = Swap(donors="other_class")
        arms |= {"rrr": Rrr()} if not number else {}
    return arms


@dataclass(frozen=True, eq=False)
class Planted:
    """Real nuclei of two kinds, and beside each a mark that speaks for a kind.

    Small nuclei of screens, and round ones with bright spots: 2018 Data Science Bowl (BBBC038, CC0;
    Caicedo et al., Nature Methods 2019).
    """

    mark: Literal["tag", "brighter"]
    """A bright corner of the crop, or half a standard deviation more all around."""
    held_out: bool
    number: int
    strength: float
    """The share of cells whose mark speaks for their label."""
    seed: int

    def __post_init__(self) -> None:
        cells = _nuclei(held_out=self.held_out)
        kind = (cells.table["Metadata_kind"] == "spotted").to_numpy(int)
        drawn = np.random.default_rng(self.seed)
        each = [drawn.permutation(np.flatnonzero(kind == k))[: self.number // 2] for k in (0, 1)]
        rows = drawn.permutation(np.concatenate(each))
        label = kind[rows]
        agrees = drawn.random(len(rows)) < self.strength
        found = {
            "rows": rows,
            "marked": np.where(agrees, label, 1 - label).astype(bool),
            "table": cells.table.iloc[rows].reset_index(drop=True).assign(label=label),
            "classes": ("screen", "spotted"),
            "spec": replace(cells.spec, classes=2),
            "skipped": (),
            "left_out": (),
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def read(self, rows: Sequence[int]) -> Batch:
        """The crops, marked outside of the nucleus."""
        batch = _nuclei(held_out=self.held_out).read(self.rows[list(rows)])
        where = torch.from_numpy(self.marked[list(rows)])[:, None, None, None]
        where = where & ~batch.regions["cell"][:, None]
        labels = self.table["label"].to_numpy()[list(rows)]
        spread = batch.inputs.std()
        if self.mark == "tag":
            where[..., 6:, :], where[..., 6:] = False, False
            inputs = torch.where(where, batch.inputs.max(), batch.inputs)
        else:
            inputs = torch.where(where, batch.inputs + spread / 2, batch.inputs)
        return replace(batch, inputs=inputs, label=torch.from_numpy(labels))


@cache
def _nuclei(*, held_out: bool) -> Dataset:
    pattern = "s*_[c-f]*.tif" if held_out else "s*_[0-9ab]*.tif"
    return fields_of("dsb2018_nuclei", pattern, NUCLEI | {"carry": ["kind"]})


@dataclass(frozen=True)
class Problem:
    """What the label is, in training and where the confounder is turned round."""

    confounder: str = "background"
    strength: float = 1.0
    relabel: bool = False
    """The acid test: the confounder is the label, and the cell agrees with it by ``strength``."""
    spoil: Callable[[Batch], Batch] | None = None
    """What is wrong with the masks that are trained with."""

    mark: Literal["tag", "brighter"] | None = None
    """Of real nuclei."""
    bright: float = 0.0
    """How much is added to cells whose intensity speaks for one class, and taken from others."""

    def cells(
        self,
        size: tuple[int, ...],
        number: int,
        seed: int,
        *,
        held_out: bool = True,
        **changes: Any,
    ) -> Dataset:
        """Crops of this problem, or of a changed strength; real ones of images held out."""
        strength = changes.get("strength", self.strength)
        if self.mark is not None:
            return Planted(self.mark, held_out, number, strength, seed)
        made = Phantom(
            cells=number,
            size=size,
            carrier="mixture",
            confounder=self.confounder,
            strength=strength,
            neighbours=(1, 3),
            plates=8,
            seed=seed,
        )
        if self.relabel and "strength" not in changes:
            return Changed(made, labels=made.table["Metadata_background_texture"].to_numpy())
        if self.bright:
            known = dict(zip(made.table["id"], made.table["Metadata_cell_intensity"], strict=True))
            return Changed(made, change=partial(_brightened, known, self.bright))
        return made


def _brightened(known: Mapping[str, int], by: float, batch: Batch) -> Batch:
    sign = torch.tensor([1.0 if known[each] else -1.0 for each in batch.ids])
    shape = (-1, *[1] * (batch.inputs.ndim - 1))
    change = by * sign.view(shape) * batch.regions["cell"][:, None]
    return replace(batch, inputs=batch.inputs + change)


def _eroded(batch: Batch) -> Batch:
    cell = batch.regions["cell"].numpy()
    inner = np.stack([ndimage.binary_erosion(each, iterations=2) for each in cell])
    return replace(batch, regions={**batch.regions, "cell": torch.from_numpy(inner)})


def _shifted(batch: Batch) -> Batch:
    cell = torch.roll(batch.regions["cell"], (3, -3), (-2, -1))
    neighbours = batch.regions["neighbours"] & ~cell
    return replace(batch, regions={**batch.regions, "cell": cell, "neighbours": neighbours})


PROBLEMS = {
    "background": Problem(),
    "acid": Problem(strength=0.75, relabel=True),
    "honest": Problem(strength=0.5),
    "neighbours": Problem("neighbours"),
    "background .9": Problem(strength=0.9),
    "inside": Problem("intensity"),  # too faint: no network learnt it
    "eroded masks": Problem(spoil=_eroded),
    "shifted masks": Problem(spoil=_shifted),
    "real, tag": Problem(mark="tag"),
    "real, brighter": Problem(mark="brighter"),
    "bright inside": Problem("intensity", bright=0.25),
}
REAL = ("real, tag", "real, brighter")

PROMISED = (
    ("tiny 2D", "background"),
    ("ResNet 2D", "acid"),
    ("tiny 3D", "background"),
    ("tiny 2D", "honest"),
    ("ResNet 2D", "background"),
    ("tiny 2D", "real, tag"),
    ("ResNet 2D", "real, tag"),
)
"""Designs and problems of which something is promised: five seeds each, run before the others."""
OTHERS = (
    ("tiny 2D", "neighbours"),
    ("tiny 2D", "inside"),
    ("tiny 2D", "bright inside"),
    ("tiny 2D", "eroded masks"),
    ("tiny 2D", "shifted masks"),
    ("tiny 2D", "background .9"),
    ("ResNet 2D", "neighbours"),
    ("ViT 2D", "background"),
    ("tiny 2D", "real, brighter"),
    ("ResNet 2D", "real, brighter"),
)
"""Reported, but that no arm is credited with what it reads inside of the mask: five seeds each."""


@dataclass(frozen=True)
class Trial:
    """The networks of one design, problem and seed."""

    design: str
    problem: str
    number: int
    quick: bool = False
    first: int = field(default=FRESH)

    @property
    def seed(self) -> int:
        """Of all that is drawn."""
        offset = 100 * list(DESIGNS).index(self.design) + list(PROBLEMS).index(self.problem)
        return self.first + 10 * offset + self.number

    def run(self, out: Path) -> pd.DataFrame:
        """A row a cell, arm and layer; read where it is kept."""
        name = f"{self.design}-{self.problem}-{self.number}".replace(" ", "_")
        return kept(out / f"{name}.parquet", self._rows)

    def _rows(self) -> Iterator[pd.DataFrame]:
        design, problem = DESIGNS[self.design], PROBLEMS[self.problem]
        number, epochs = (96, 2) if self.quick else (CELLS, design.epochs)
        learnt: Dataset = problem.cells(design.size, number, self.seed, held_out=False)
        never = problem.cells(design.size, number, self.seed, held_out=False, strength=0.5)
        if problem.spoil is not None:
            learnt = Changed(learnt, change=problem.spoil)
        audits = {
            "same": problem.cells(design.size, 2 * AUDITED, self.seed + 500_000),
            "flip": problem.cells(design.size, 2 * AUDITED, self.seed + 600_000, strength=0.0),
        }
        # In the acid test the label is the background: donors of another class have another one.
        changes = {} if problem.relabel else {"strength": 0.5}
        audited = problem.cells(design.size, AUDITED, self.seed + 700_000, **changes)
        for arm, guide in arms_of(self.design, self.problem, self.number).items():
            model = design.make(learnt.spec, self.seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AttrscoreWarning)  # blank maps are counted
                made = train(
                    model,
                    never if arm == "never confounded" else learnt,
                    split_by="Metadata_image" if self.problem in REAL else "Metadata_Well",
                    epochs=epochs,
                    learning_rate=design.learning_rate,
                    guide=guide,
                    seed=self.seed,
                    watched=32 if arm == "none" and self.design == "tiny 2D" else 0,
                )
                seen = attrscore.evaluate(
                    model,
                    audited,
                    methods=design.method,
                    layers=list(design.layers.values()),
                    scorers=["grad_camo", "swap"],
                    target=Predicted(scalar="margin"),
                    progress="none",
                )
            answers = {name: _answers(model, cells) for name, cells in audits.items()}
            known: dict[str, Any] = {
                "model": arm,
                "model.guide": attrscore.training.guides.GUIDES.name_of(guide),
                "problem": self.problem,
                "design": self.design,
                "trial": self.number,
                "stage": seen["layer"].map({name: at for at, name in design.layers.items()}),
                "undefined": made.history[-1].undefined,
                **{name: right for name, (right, _) in answers.items()},
                "calibration": answers["same"][1],
            }
            live = [epoch.monitored for epoch in made.history]
            if live[0] is not None:
                odds = [each.log_odds for each in live if each is not None]
                known["first_epoch"] = odds[0]
                known["lowest_epoch"], known["highest_epoch"] = min(odds), max(odds)
                known["learnt_in"] = 1 + next(
                    (at for at, each in enumerate(made.history) if each.accuracy >= 0.9), epochs
                )
            yield seen.assign(**known)


def _answers(model: nn.Module, cells: Dataset) -> tuple[float, float]:
    """Accuracy, and the expected calibration error over ten bins of confidence."""
    batch = cells.read(range(len(cells.table)))
    with torch.no_grad():
        highest, predicted = model(batch.inputs).softmax(1).max(1)
    right = (predicted == batch.label).double().numpy()
    bins = np.minimum((highest.numpy() * 10).astype(int), 9)
    gaps = [
        (bins == each).mean()
        * abs(right[bins == each].mean() - highest.numpy()[bins == each].mean())
        for each in np.unique(bins)
    ]
    return float(right.mean()), float(np.sum(gaps))


def costs(design: str, *, turns: int) -> pd.DataFrame:
    """What a training step takes with each guide: processor time, and bytes kept for backward.

    The arms take turns, and the shortest counts: other work on the machine only adds.
    """
    made = DESIGNS[design]
    cells = PROBLEMS["background"].cells(made.size, 64, FRESH + 90_000)
    arms = arms_of(design, "background")

    def taken(arm: str, epochs: int) -> float:
        model, begun = made.make(cells.spec, 0), time.process_time()
        train(model, cells, epochs=epochs, guide=arms[arm], split_by=None)
        return time.process_time() - begun

    taken("none", 1)
    pairs = list(itertools.product(arms, (1, 7)))
    times = pd.DataFrame([{pair: taken(*pair) for pair in pairs} for _ in range(turns)]).min()
    seconds = {arm: (times[arm, 7] - times[arm, 1]) / 6 for arm in arms}  # without what is read
    kept = {arm: _kept(made.make(cells.spec, 0), cells, guide) for arm, guide in arms.items()}
    plain = seconds["none"], kept["none"]
    rows = [
        [design, arm, seconds[arm], kept[arm], seconds[arm] / plain[0], kept[arm] / plain[1]]
        for arm in arms
    ]
    return pd.DataFrame(rows, columns=["design", "arm", "seconds", "kept", "step", "memory"])


def _kept(model: nn.Module, cells: Dataset, guide: Any) -> int:
    """Bytes that one batch keeps for its backward pass."""
    sizes: dict[int, int] = {}

    def pack(each: Tensor) -> Tensor:
        store = each.untyped_storage()
        sizes[store.data_ptr()] = store.nbytes()
        return each

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda each: each):
        train(model, cells, epochs=1, batch_size=64, guide=guide)
    return sum(sizes.values())


def run(scale: Scale, out: Path) -> list[Check]:
    """Trials side by side, two processes, in the order of what they show; then the checks."""
    folder = out / "repair"
    folder.mkdir(parents=True, exist_ok=True)
    quick = len(scale.seeds) == 1
    parts = [PROMISED[:2]] if quick else [PROMISED, OTHERS]
    seeds = range(1 if quick else 5)
    trials = [
        Trial(design, problem, number, quick)
        for order in parts
        for number, (design, problem) in itertools.product(seeds, order)
        if DATA.is_dir() or problem not in REAL
    ]
    with ProcessPoolExecutor(
        2, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        list(pool.map(Trial.run, trials, itertools.repeat(folder)))
    spent = [costs(design, turns=1 if quick else 5) for design in ("tiny 2D", "tiny 3D")]
    return report(folder, pd.concat(spent), out)


def report(folder: Path, spent: pd.DataFrame, out: Path) -> list[Check]:
    """Checks, tables and the figure from the trials that are there."""
    tables = [pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))]
    rows = pd.concat(tables, ignore_index=True)
    arms = summary_of(rows)
    found = findings(tables)
    arms.to_csv(out / "repair_arms.csv", index=False)
    found.to_csv(out / "repair_findings.csv", index=False)
    spent.to_csv(out / "repair_costs.csv", index=False)
    figure(arms).savefig(out / "repair.png", dpi=150, bbox_inches="tight")
    return [
        *_of_guides(arms, "swap", "1", ("tiny 2D", "tiny 3D", "ResNet 2D")),
        *_of_guides(arms, "outside", "2", ("tiny 2D", "tiny 3D")),
        *_of_real(arms),
        *_of_honest(arms),
        *_of_costs(spent),
        *_of_acid(arms, found),
        *_of_live(rows),
        *_of_others(arms),
    ]


def summary_of(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a network and layer: means over its cells."""
    by = ["design", "problem", "trial", "model", "model.guide", "stage"]
    means = [
        *("same", "flip", "calibration", "undefined", "grad_camo", "grad_camo.log_odds"),
        *("swap.outside", "swap.inside", "swap.cell", "swap.outside_share"),
    ]
    right = (rows["predicted"] == rows["label"]).astype(float)
    found = rows.assign(balanced=right).groupby(by, sort=False)[["balanced", *means]].mean()
    return found.reset_index()


def findings(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """What the report's comparison of arms finds, a row a guided network and layer."""
    found = []
    for table in tables:
        own = ["problem", "design", "trial"]
        plain = table.drop(columns=[n for n in (*own, "stage") if n in table])
        clusters = [n for n in ("Metadata_Plate", "Metadata_image") if n in plain][:1]
        made = repairs(plain, clusters=clusters, resamples=999)
        found.append(made.assign(**{name: table[name].iloc[0] for name in own}))
    return pd.concat(found, ignore_index=True)


def figure(arms: pd.DataFrame) -> Figure:
    """Flip accuracy against the score, a point a network; the gamed ones stand at lower right."""
    last = arms[(arms["stage"] == "last") & (arms["problem"] != "honest")]
    middle = (arms["stage"] == "middle") & arms["model"].str.endswith("middle")
    shown = pd.concat([last[~last["model"].str.endswith("middle")], arms[middle]])
    shown = shown.assign(problem=shown["problem"] + ", " + shown["design"])
    with sns.axes_style("whitegrid"):
        grid = sns.relplot(
            shown,
            x="grad_camo",
            y="flip",
            hue="model",
            style="model",
            col="problem",
            col_wrap=min(4, shown["problem"].nunique()),
            height=2.4,
            s=60,
        )
    for axes in grid.axes.flat:
        axes.fill_between([0.5, 1.03], -0.05, 0.5, color="crimson", alpha=0.08, zorder=0)
        axes.text(0.52, 0.36, "looks mended,\nis not", color="crimson", size=7)
    grid.set_titles("{col_name}", size=9)
    grid.set(xlim=(-0.03, 1.03), ylim=(-0.05, 1.05))
    grid.set_axis_labels("score S at the guided layer", "accuracy where reversed")
    return grid.figure


def _worst(mine: pd.DataFrame) -> str:
    if mine.empty:
        return "not run"
    return (
        f"flip {mine['flip'].min():.2f} to {mine['flip'].max():.2f}, as trained "
        f"{mine['same'].min():.2f} or more, swap outside up to {mine['swap.outside'].max():.3f}, "
        f"S {mine['grad_camo'].mean():.2f} ({len(mine)} seeds)"
    )


def _of(arms: pd.DataFrame, design: str, problem: str, arm: str, stage: str = "last") -> Any:
    return arms[
        (arms["design"] == design)
        & (arms["problem"] == problem)
        & (arms["model"] == arm)
        & (arms["stage"] == stage)
    ]


def _of_guides(
    arms: pd.DataFrame, arm: str, number: str, designs: tuple[str, ...]
) -> Iterator[Check]:
    for design in designs:
        mine = _of(arms, design, "background", arm)
        mended = (mine["flip"] >= 0.95) & (mine["swap.outside"] <= 0.03)
        yield Check(
            f"repair {number}",
            f"{design}: {arm} mends a background confounder, worst seed",
            "flip at least .95, swap outside at most .03",
            _worst(mine),
            bool(mended.all()) if len(mine) else None,
        )


def _of_real(arms: pd.DataFrame) -> Iterator[Check]:
    for problem, design in itertools.product(REAL, DESIGNS):
        never = _of(arms, design, problem, "never confounded")
        plain = _of(arms, design, problem, "none")
        for arm in ("swap", "outside", "masked_crops") if len(never) else ():
            mine = _of(arms, design, problem, arm)
            lost = never["flip"].mean() - mine["flip"].mean()
            promised = (problem, arm) == (REAL[0], "swap") and design != "ViT 2D"
            yield Check(
                "repair 1" if promised else "repair",
                f"{design}, {problem}: {arm}",
                "mean flip within .08 of a network that was never confounded" if promised else "",
                f"flip {mine['flip'].mean():.2f}, never confounded {never['flip'].mean():.2f}, "
                f"not guided {plain['flip'].mean():.2f}; {_worst(mine)}",
                bool(lost <= 0.08) if promised else None,
            )


def _of_honest(arms: pd.DataFrame) -> Iterator[Check]:
    for arm, number in (("outside", "2"), ("swap", "1"), ("masked_crops", "")):
        mine = _of(arms, "tiny 2D", "honest", arm)
        plain = _of(arms, "tiny 2D", "honest", "none")
        lost = plain["same"].to_numpy() - mine["same"].to_numpy()
        measured = "not run"
        if len(mine):
            measured = (
                f"lost {lost.mean():+.3f} on average, {lost.max():+.3f} at most; calibration error "
                f"{mine['calibration'].max():.3f} at most, {plain['calibration'].max():.3f} without"
            )
        promised = arm == "outside" and len(mine)
        holds = bool(lost.max(initial=0) <= 0.01 and mine["calibration"].max() <= 0.05)
        yield Check(
            f"repair {number}".strip(),
            f"tiny 2D: {arm} where nothing is to be mended",
            "accuracy lost at most .01, calibration error at most .05",
            measured,
            holds if promised else None,
        )


def _of_costs(spent: pd.DataFrame) -> Iterator[Check]:
    limits = {"swap": (1.15, np.inf, "1"), "outside": (1.2, 1.4, "2")}
    for row in spent.itertuples():
        if row.arm == "none":
            continue
        step, memory, number = limits.get(row.arm, (np.nan, np.nan, ""))
        expected = "" if np.isnan(step) else f"a step at most {step} x plain"
        if np.isfinite(memory):
            expected += f", kept for backward at most {memory} x"
        yield Check(
            f"repair {number}".strip(),
            f"{row.design}: cost of {row.arm}",
            expected,
            f"{row.step:.2f} x, {row.memory:.2f} x",
            bool(row.step <= step and row.memory <= memory) if expected else None,
        )


def _of_acid(arms: pd.DataFrame, found: pd.DataFrame) -> Iterator[Check]:
    for arm, stage in (("outside, middle", "middle"), ("outside", "last"), ("swap", "last")):
        mine = _of(arms, "ResNet 2D", "acid", arm, stage)
        said = found[
            (found["problem"] == "acid")
            & (found["model"] == arm)
            & (found["layer"] == DESIGNS["ResNet 2D"].layers[stage])
        ]["finding"]
        gamed = (mine["grad_camo"] >= 0.9) & (mine["swap.outside"] >= 0.9)
        promised = arm == "outside, middle" and len(mine)
        yield Check(
            "repair 3",
            f"acid test, ResNet 2D: {arm}",
            "S at least .9 and swap outside at least .9, and found gamed" if promised else "",
            f"{_worst(mine)}; " + ", ".join(f"{n} {k}" for k, n in said.value_counts().items()),
            bool(gamed.all() and (said == "gamed").all()) if promised else None,
        )


def _of_live(rows: pd.DataFrame) -> Iterator[Check]:
    if "first_epoch" not in rows:
        return
    plain = rows[(rows["model"] == "none") & rows["first_epoch"].notna()]
    each = plain.groupby(["problem", "trial"])[
        ["first_epoch", "lowest_epoch", "highest_epoch", "learnt_in"]
    ].first()
    for problem, expected in (
        ("honest", "log odds above 2 from epoch 1 on"),
        ("background", "log odds below 1 from epoch 1 on"),
    ):
        if problem not in each.index:
            continue
        mine = each.loc[problem]
        above = problem == "honest"
        holds = mine["lowest_epoch"] > 2 if above else mine["highest_epoch"] < 1
        yield Check(
            "repair 4",
            f"live metric, tiny 2D, {problem}",
            expected,
            f"epoch 1: {mine['first_epoch'].min():+.1f} to {mine['first_epoch'].max():+.1f}; all: "
            f"{mine['lowest_epoch'].min():+.1f} to {mine['highest_epoch'].max():+.1f}; accuracy of "
            f".9 after {mine['learnt_in'].min():.0f} to {mine['learnt_in'].max():.0f} epochs",
            bool(holds.all()),
        )


def _of_others(arms: pd.DataFrame) -> Iterator[Check]:
    done = {("background", "swap"), ("background", "outside")}
    for (design, problem, arm), mine in arms.groupby(["design", "problem", "model"], sort=False):
        if (problem, arm) in done and not design.startswith("ViT"):
            continue
        if problem in ("acid", "honest", *REAL):
            continue
        stage = "middle" if arm.endswith("middle") else "last"
        mine = mine[mine["stage"] == stage]
        inside = "inside" in problem and arm != "none"
        credited = bool((mine["flip"] >= 0.95).any())
        yield Check(
            "repair",
            f"{design}, {problem}: {arm}",
            "no arm is credited with a flip of .95" if inside else "",
            _worst(mine),
            not credited if inside else None,
        )
