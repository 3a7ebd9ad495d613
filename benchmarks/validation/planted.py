"""Part 1: models whose cheating was planted. Does a score find it, cell by cell?"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from common import CORRECTED, HEADLINE, PRESET, Check, Scale, at_preset, sweep
from matplotlib.figure import Figure

from attrscore.report.figures import save
from attrscore.stats import auroc

CHEATS = ("background", "neighbours")
NAMES = {
    "cell": "the cell",
    "background": "the background",
    "neighbours": "the neighbours",
    "intensity": "the cell's brightness",
}


def run(scale: Scale, out: Path) -> list[Check]:
    """Sweep, tables, figures, checks."""
    planted, mixed = (
        pd.concat([swept(scale, out, plane) for plane in scale.planes], ignore_index=True)
        for swept in (_planted, _mixed)
    )
    table = separation(planted)
    table.to_csv(out / "planted_auroc.csv", index=False)
    agreed = swap_agreement(planted)
    agreed.to_csv(out / "planted_swap.csv", index=False)
    strengths = by_strength(mixed, planted)
    strengths.to_csv(out / "planted_strength.csv", index=False)
    save(cells_figure(planted), out / "planted_cells.png")
    save(auroc_figure(table), out / "planted_auroc.png")
    save(strength_figure(strengths), out / "planted_strength.png")
    models = by_model(pd.concat([planted, mixed], ignore_index=True))
    save(swap_figure(models), out / "planted_swap.png")
    return [
        *_separation_checks(table),
        *_strength_checks(strengths),
        *_swap_checks(agreed, models),
        *_inside_checks(planted),
    ]


def _planted(scale: Scale, out: Path, plane: str) -> pd.DataFrame:
    return sweep(
        out / "planted",
        plane,
        *scale.settings,
        *scale.only,
        "train.dataset.carrier=cell,background,neighbours,intensity",
    )


def _mixed(scale: Scale, out: Path, plane: str) -> pd.DataFrame:
    """Label by the cell's texture, a confounder agreeing with it at several strengths.

    Stopped early: a model that is trained to the end unlearns a confounder that ever fails.
    """
    frames = []
    for confounder in CHEATS:
        scores = sweep(
            out / f"mixed_{confounder}",
            plane,
            *scale.settings,
            "train.epochs=3",
            f"method=[{PRESET[0]}]",
            "~method.integrated_gradients",  # whose steps the experiment states
            f"layers=[{PRESET[1]}]",
            "train.dataset.carrier=mixture",
            f"train.dataset.confounder={confounder}",
            f"train.dataset.strength={','.join(map(str, scale.strengths))}",
            "label.model=${train.dataset.strength}",
        )
        strength = scores["model"].astype(float)
        frames.append(scores.assign(confounder=confounder, strength=strength))
    return pd.concat(frames, ignore_index=True)


def separation(planted: pd.DataFrame) -> pd.DataFrame:
    """Per-cell AUROC of honest against cheating: a row a plane, seed, method, layer and score.

    Among them the model that read the cell's brightness, which no mask score is to find.
    """
    rows = []
    keys = ["plane", "seed", "method", "layer"]
    for names, group in planted.groupby(keys, sort=False):
        honest = group[group["model"] == "cell"]
        for score, cheat in itertools.product(CORRECTED, (*CHEATS, "intensity")):
            found = auroc(honest[score], group.loc[group["model"] == cheat, score])
            rows.append([*names, score, cheat, found])
    return pd.DataFrame(rows, columns=[*keys, "score", "cheat", "auroc"])


def swap_agreement(planted: pd.DataFrame) -> pd.DataFrame:
    """Does a score rank as the intervention does? A row a plane, method, layer and score.

    Spearman's correlation with inside less outside: over the means of models, and over all
    cells of all models.
    """
    rows = []
    keys = ["plane", "method", "layer"]
    for names, group in planted.groupby(keys, sort=False):
        group = _with_swap(group)
        for score in CORRECTED:
            cells = group[["seed", "model", score, "swap"]]
            means = cells.groupby(["seed", "model"])[[score, "swap"]].mean()
            found = [each[score].corr(each["swap"], method="spearman") for each in (means, cells)]
            rows.append([*names, score, len(means), *found])
    return pd.DataFrame(rows, columns=[*keys, "score", "models", "over_models", "over_cells"])


def by_strength(mixed: pd.DataFrame, planted: pd.DataFrame) -> pd.DataFrame:
    """The headline at the preset by strength of the confounder, a row a model.

    Its mean over cells, the accuracy, and the AUROC of the honest model's cells against these.
    """
    keys = ["plane", "seed", "confounder", "strength"]
    honest = at_preset(planted)
    honest = honest[honest["model"] == "cell"].groupby(["plane", "seed"])
    rows = [
        [
            *names,
            group[HEADLINE].mean(),
            (group["predicted"] == group["label"]).mean(),
            auroc(honest.get_group(names[:2])[HEADLINE], group[HEADLINE]),
        ]
        for names, group in at_preset(mixed).groupby(keys)
    ]
    return pd.DataFrame(rows, columns=[*keys, "score", "accuracy", "auroc"])


def _separation_checks(table: pd.DataFrame) -> list[Check]:
    method, layer = PRESET
    mine = table[
        (table["method"] == method) & (table["layer"] == layer) & (table["score"] == HEADLINE)
    ]
    checks = []
    for (plane, cheat), group in mine[mine["cheat"].isin(CHEATS)].groupby(["plane", "cheat"]):
        low = group["auroc"].min()
        checks.append(
            Check(
                "planted confounders",
                f"{plane}: {method} at {layer}, {HEADLINE} "
                f"separates honest from {cheat}, cell by cell",
                "AUROC at least 0.95 in every seed",
                f"{low:.3f} to {group['auroc'].max():.3f} in {len(group)} seeds",
                bool(low >= 0.95),
            )
        )
    return checks


def _strength_checks(strengths: pd.DataFrame) -> list[Check]:
    checks = []
    for (plane, confounder), group in strengths.groupby(["plane", "confounder"]):
        means = group.groupby("strength")["score"].mean()
        found = group.groupby("strength")["auroc"].mean()
        checks.append(
            Check(
                "planted confounders",
                f"{plane}: the score falls as the {confounder} agree(s) more with the label",
                "monotone in strength, mean over seeds",
                " > ".join(f"{mean:.2f} ({strength:g})" for strength, mean in means.items())
                + "; AUROC of honest against them "
                + ", ".join(f"{each:.2f}" for each in found),
                bool((np.diff(means) < 0).all()),
            )
        )
    return checks


def _swap_checks(agreed: pd.DataFrame, models: pd.DataFrame) -> list[Check]:
    """Over models: does the score rank them as the intervention does?"""
    mine = at_preset(agreed)
    checks = []
    for row in mine[mine["score"] == HEADLINE].itertuples():
        everyone = models[models["plane"] == row.plane]
        correlated = everyone["score"].corr(everyone["swap"], method="spearman")
        checks.append(
            Check(
                "planted confounders",
                f"{row.plane}: the score ranks models as the swap intervention does",
                "Spearman above 0.7 over models",
                f"{row.over_models:.2f} over {row.models} models, {row.over_cells:.2f} over "
                f"their cells; {correlated:.2f} over {len(everyone)} models with the mixtures",
                bool(row.over_models > 0.7),
            )
        )
    return checks


def by_model(scores: pd.DataFrame) -> pd.DataFrame:
    """Means at the preset of the headline and of the swap: a row a model, mixtures among them."""
    mixtures = "mixture with " + scores["confounder"]
    scores = scores.assign(model=scores["model"].where(mixtures.isna(), mixtures))
    keys = ["plane", "seed", "model", "strength"]  # the last of mixtures alone
    kept = _with_swap(at_preset(scores))[[*keys, HEADLINE, "swap"]]
    means = kept.groupby(keys, as_index=False, dropna=False).mean()
    return means.rename(columns={HEADLINE: "score"})


def _with_swap(scores: pd.DataFrame) -> pd.DataFrame:
    return scores.assign(swap=scores["swap.inside"] - scores["swap.outside"])


def _inside_checks(planted: pd.DataFrame) -> list[Check]:
    """The confounder that no mask score can see, and what sees it.

    In training the label was the cell's brightness, in the audit it is its texture: the model
    read the right place for the wrong reason.
    """
    checks = []
    for plane, everything in at_preset(planted).groupby("plane"):
        honest = everything[everything["model"] == "cell"]
        group = everything[everything["model"] == "intensity"]
        found = auroc(honest[HEADLINE], group[HEADLINE])
        above = (group[HEADLINE] > 0).mean()
        accuracy = (group["predicted"] == group["label"]).mean()
        checks.append(
            Check(
                "a confounder inside the mask",
                f"{plane}: a model that read the cell's brightness is missed by the score",
                "above chance in 80 % of cells or more, a limit of every mask score",
                f"{above:.0%}; AUROC of honest against it {found:.2f}",
                bool(above >= 0.8),
            )
        )
        checks.append(
            Check(
                "a confounder inside the mask",
                f"{plane}: held-out cells on which brightness tells nothing find it",
                "accuracy below 0.75 (chance 0.5)",
                f"{accuracy:.3f}",
                bool(accuracy < 0.75),
            )
        )
    return checks


def cells_figure(planted: pd.DataFrame) -> Figure:
    """Every cell of every model at the preset: the figure of the README."""
    planes = list(planted["plane"].unique())
    figure = Figure(figsize=(4.6 * len(planes), 3.8), layout="constrained")
    axes = figure.subplots(1, len(planes), sharey=True, squeeze=False)[0]
    shown = at_preset(planted)
    order = list(NAMES)
    palette = dict(zip(order, sns.color_palette("colorblind", len(order)), strict=True))
    for ax, plane in zip(axes, planes, strict=True):
        cells = shown[shown["plane"] == plane]
        sns.violinplot(
            cells, x="model", y=HEADLINE, order=order, hue="model", palette=palette, ax=ax,
            density_norm="width", inner="quartile", cut=0, legend=False, linewidth=0.8,
        )  # fmt: skip
        ax.axhline(0, color="0.3", linewidth=0.8, linestyle="--")
        ax.set(title=f"{plane}: what carried the training labels", xlabel="")
        ax.set_xticks(range(len(order)), [NAMES[name].replace(" ", "\n", 1) for name in order])
    axes[0].set_ylabel("Grad-CAMO, log odds against chance")
    axes[0].annotate("chance", (0.01, 0), xycoords=("axes fraction", "data"), va="bottom", size=8)
    method, layer = PRESET
    seeds = planted["seed"].nunique()
    pooled = "1 seed" if seeds == 1 else f"{seeds} seeds pooled"
    words = f"{method} at {layer}, margin of the predicted class; {pooled}"
    figure.suptitle(words, size=10)
    return figure


def auroc_figure(table: pd.DataFrame) -> Figure:
    """Lowest AUROC over seeds: method and layer against score and cheat."""
    planes = list(table["plane"].unique())
    figure = Figure(figsize=(12, 5.2 * len(planes)), layout="constrained")
    axes = figure.subplots(len(planes), 1, squeeze=False)[:, 0]
    for ax, plane in zip(axes, planes, strict=True):
        part = table[table["plane"] == plane].assign(
            place=lambda t: t["method"] + "  " + t["layer"],
            column=lambda t: t["cheat"] + "\n" + t["score"].str.removeprefix("grad_camo."),
        )
        worst = part.pivot_table(
            index="place", columns="column", values="auroc", aggfunc="min", sort=False
        )
        sns.heatmap(
            worst, vmin=0, vmax=1, center=0.5, cmap="vlag_r", annot=True, fmt=".2f", ax=ax,
            annot_kws={"size": 6}, cbar_kws={"label": "AUROC, worst seed"},
        )  # fmt: skip
        ax.set(title=f"{plane}: honest against a model that read the ...", xlabel="", ylabel="")
        ax.tick_params(labelsize=7)
    return figure


def strength_figure(strengths: pd.DataFrame) -> Figure:
    """Score and accuracy along the strength of the confounder."""
    planes = list(strengths["plane"].unique())
    figure = Figure(figsize=(8, 3.2 * len(planes)), layout="constrained")
    axes = figure.subplots(len(planes), 2, squeeze=False)
    for row, plane in zip(axes, planes, strict=True):
        for ax, value, words in zip(
            row, ("score", "accuracy"), ("log odds", "accuracy where nothing agrees"), strict=True
        ):
            sns.lineplot(
                strengths[strengths["plane"] == plane], x="strength", y=value, hue="confounder",
                palette="colorblind", marker="o", errorbar=("pi", 100), ax=ax,
            )  # fmt: skip
            ax.set(title=plane, ylabel=words, xlabel="how often the confounder agrees")
    return figure


def swap_figure(means: pd.DataFrame) -> Figure:
    """Each model: what its attribution says against what the intervention says."""
    planes = list(means["plane"].unique())
    figure = Figure(figsize=(4.6 * len(planes), 3.8), layout="constrained")
    axes = figure.subplots(1, len(planes), squeeze=False, sharey=True)[0]
    for ax, plane in zip(axes, planes, strict=True):
        sns.scatterplot(
            means[means["plane"] == plane], x="swap", y="score", hue="model", ax=ax,
            palette="colorblind", legend=ax is axes[-1],
        )  # fmt: skip
        ax.axhline(0, color="0.6", linewidth=0.6)
        ax.axvline(0, color="0.6", linewidth=0.6)
        ax.set(title=plane, xlabel="swap: inside - outside", ylabel="Grad-CAMO, log odds")
    return figure
