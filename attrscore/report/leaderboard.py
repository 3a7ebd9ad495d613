"""The leaderboard: what the results of its jobs say of each method, against known truth.

The jobs are those of ``conf/experiment/leaderboard*.yaml``, known by the name of their dataset,
``TEST/PLANE/SEED``, and of their model, what it was made to read. It reads results, and needs no
torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from attrscore import store
from attrscore.errors import DataError
from attrscore.stats.agreement import map_agreement
from attrscore.stats.comparisons import Ranking, auroc, estimates, pareto, ranked
from attrscore.store.kept_maps import Kept, kept

if TYPE_CHECKING:
    from attrscore.report.figures import Sheet

__all__ = ["MEASURES", "TESTS", "Leaderboard", "Measure", "is_leaderboard", "leaderboard"]

HEADLINE = "grad_camo.log_odds"
"""The score whose per-cell values tell models apart."""
COSTS = "costs.csv"
"""Beside the jobs: what each method took, measured by the command."""
ENTRY = ["method", "layer", "explains"]
"""What an entry is: a method at a layer, or the input, of this scalar."""


@dataclass(frozen=True)
class Measure:
    """A column of the leaderboard."""

    test: str
    title: str
    better: Literal["higher", "lower"]
    says: str
    limits: tuple[float, float] = (-np.inf, np.inf)
    """Of its values, which no interval leaves."""
    ranks: bool = True
    """Whether it may rank entries: not where its unit is that of the explained scalar."""


TESTS: Mapping[str, str] = {
    "hand_built": "networks whose weights make it provable what they read",
    "planted": "networks that were trained to read the cell, or a planted confounder",
    "sanity": "the trained network beside random weights, and beside one that learnt no rule",
    "faithfulness": "what the explained score does when pixels go in the order of the heat",
}

MEASURES: Mapping[str, Measure] = {
    "blind": Measure(
        "hand_built", "on what cannot matter", "lower",
        "share of heat on the half that provably cannot reach the output; 0 is right", (0, 1),
    ),
    "background": Measure(
        "planted", "against background", "higher",
        "AUROC of cells under the honest network against one that reads the background", (0, 1),
    ),
    "neighbours": Measure(
        "planted", "against neighbours", "higher",
        "AUROC of cells under the honest network against one that reads the neighbours", (0, 1),
    ),
    "mixture": Measure(
        "planted", "against mixture", "higher",
        "AUROC of cells under the honest network against one that reads cell and background",
        (0, 1),
    ),
    "swap": Measure(
        "planted", "as the swap", "higher",
        "rank correlation with the swap's inside less outside, over the cells of all networks",
        (-1, 1),
    ),
    "maps": Measure(
        "sanity", "maps apart", "higher",
        "1 less the rank correlation of a cell's heat with that under random weights, and with "
        "that of a network that learnt labels nothing shows: the mean of both",
        (0, 2),
    ),
    "scores": Measure(
        "sanity", "scores apart", "higher",
        "AUROC of cells under the honest network against random weights, and against one that "
        "learnt labels nothing shows: the mean of both",
        (0, 1),
    ),
    "insertion": Measure("faithfulness", "insertion", "higher", "score of the scorer insertion"),
    "deletion": Measure("faithfulness", "deletion", "lower", "score of the scorer deletion"),
    "road": Measure("faithfulness", "ROAD", "higher", "score of the scorer road"),
    "infidelity": Measure(
        "faithfulness", "infidelity", "lower",
        "score of the scorer infidelity, in squared units of what is explained: it ranks nothing",
        ranks=False,
    ),
    "sensitivity_max": Measure(
        "faithfulness", "sensitivity", "lower", "score of the scorer sensitivity_max"
    ),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Leaderboard:
    """The table of a leaderboard, and what it rests on."""

    table: pd.DataFrame
    """A row an entry, the best first: ``method``, ``layer``, ``explains``, ``rank``,
    ``as_good_as_the_best``, the mean rank in each test (``rank.planted``), each measure with its
    ``.low`` and ``.high``, ``undefined``: the share of cells of the planted test without a score,
    ``reason``: why there is no rank. The last three are measured anew by every run: ``seconds`` and
    ``memory`` as ratios to one forward and one backward pass, and ``pareto``: whether no other
    entry is both better and quicker."""
    ranking: Ranking
    networks: Mapping[str, int]
    """Test -> how many networks."""
    scores: pd.DataFrame

    @property
    def measures(self) -> list[str]:
        """Those that were run."""
        return [name for name in MEASURES if name in self.table]

    @property
    def standings(self) -> pd.DataFrame:
        """How far up each ranked entry stands in each measure, to 1; 0.5 where none is ranked."""
        ranked = self.table[self.table["rank"].notna()]
        standings = {
            name: ranked[name].rank(ascending=MEASURES[name].better == "higher", pct=True)
            if MEASURES[name].ranks
            else pd.Series(0.5, ranked.index)
            for name in self.measures
        }
        return pd.DataFrame(standings, ranked.index)

    @property
    def statement(self) -> str:
        """What may be said of the ranks."""
        ranking, table = self.ranking, self.table
        of = f"{len(ranking.ranks)} entries over {ranking.blocks} blocks (a test and network each)"
        if np.isnan(ranking.p):
            return f"{of}: too few to compare."
        found = f"Friedman p {'< 0.001' if ranking.p < 0.001 else f'= {ranking.p:.3f}'}"
        return (
            f"{of}: {found}; mean ranks closer than {ranking.critical:.2f} are not separated "
            f"(Nemenyi, 5 %). Not separated from the best: {table['as_good_as_the_best'].sum()} of "
            f"{len(ranking.ranks)}."
        )

    @property
    def left_out(self) -> str:
        """The tests that were not run, as ``--quick`` has fewer; empty where all were."""
        absent = [f"{test} ({TESTS[test]})" for test in TESTS if test not in self.networks]
        return f"Not asked: {'; '.join(absent)}. --full asks all." if absent else ""

    def figures(self) -> dict[str, tuple[str, str, Sheet]]:
        """Drawings by name, with their titles and what is said of them."""
        drawn = {
            "methods": (
                "Methods and tests",
                "Means over networks. Colour: the rank within a column; the best are dark.",
                heat_table(self),
            ),
            "ranks": (
                "What is separated",
                "Mean ranks. Entries that a bar joins are not separated (Nemenyi, 5 %).",
                rank_diagram(self),
            ),
        }
        if self.table["seconds"].notna().any():
            drawn["pareto"] = (
                "Rank against time",
                "CPU time over that of one forward and one backward pass. Red: on the front.",
                pareto_figure(self),
            )
        return drawn

    def write(self, folder: Path, /) -> list[Path]:
        """The table as CSV, Parquet and LaTeX, whole or not at all; the paths."""
        from attrscore.store.commit import commit, make_folder

        make_folder(folder)
        shown = self.table[[*ENTRY, "rank", *self.measures, *_costs_in(self.table)]]
        heads = {name: MEASURES[name].title for name in self.measures}
        latex = shown.rename(columns=heads).to_latex(
            index=False, float_format="%.2f", na_rep="--", escape=True, longtable=True
        )
        texts = {"csv": self.table.to_csv(index=False, lineterminator="\n"), "tex": latex}
        paths = [folder / f"leaderboard.{end}" for end in ("csv", "tex", "parquet")]
        for path, text in zip(paths, texts.values(), strict=False):
            commit(path, text.encode())
        commit(paths[-1], self.table.to_parquet(index=False))
        return paths


def _named(board: Leaderboard) -> list[str]:
    """The ranked entries in words, in their order; the layer where there are several."""
    table = board.table[board.table["rank"].notna()]
    several = table["method"].duplicated(keep=False)
    return [
        f"{row['method']}{' ' + row['layer'] if more else ''}"
        for row, more in zip(table.to_dict("records"), several, strict=True)
    ]


def heat_table(board: Leaderboard, /) -> Sheet:
    """Draw entries down and measures across: means, coloured by the rank within a column."""
    import seaborn as sns

    from attrscore.report.figures._sheet import Sheet

    names, table = _named(board), board.table[board.table["rank"].notna()]
    values, standings = table[board.measures].set_axis(names), board.standings.set_axis(names)
    sheet = Sheet(inches=(2.6 + 0.75 * values.shape[1], 1.6 + 0.24 * len(values)))
    ax = sheet.subplots()
    sns.heatmap(
        standings, ax=ax, vmin=0, vmax=1, cmap="cividis_r", annot=values, fmt=".2f", cbar=False,
        annot_kws={"fontsize": 7}, linewidths=0.5,
    )  # fmt: skip
    heads = [f"{MEASURES[n].title} ({MEASURES[n].better})" for n in board.measures]
    ax.set_xticks(np.arange(len(heads)) + 0.5, heads, rotation=40, ha="left", fontsize=8)
    ax.tick_params(axis="x", top=True, bottom=False, labeltop=True, labelbottom=False, length=0)
    ax.tick_params(axis="y", rotation=0, labelsize=8, length=0)
    ax.set(xlabel="", ylabel="")
    return sheet


def rank_diagram(board: Leaderboard, /) -> Sheet:
    """Draw mean ranks, with a bar over each set of entries that are not separated."""
    from attrscore.report.figures._sheet import Sheet

    ranking, names = board.ranking, _named(board)
    rank = ranking.ranks["rank"]
    groups = [group for group in ranking.groups if len(group) > 1]
    sheet = Sheet(inches=(7.5, 1.2 + 0.22 * len(names)))
    ax = sheet.subplots()
    ax.hlines(range(len(names)), 1, rank, color="0.85", linewidth=1)
    ax.plot(rank, range(len(names)), "o", color="C0", markersize=5)
    where = {entry: row for row, entry in enumerate(rank.index)}
    for number, group in enumerate(groups):
        at = len(names) + 0.5 + 0.35 * number
        ends = where[group[0]], where[group[-1]]
        ax.plot([at, at], [ends[0] - 0.2, ends[1] + 0.2], color="0.25", linewidth=3)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set(xlabel=f"mean rank over {ranking.blocks} blocks; critical difference "
           f"{ranking.critical:.2f}", ylim=(len(names) - 0.4, -0.6), xlim=(0.5, None))  # fmt: skip
    ax.spines[["top", "right"]].set_visible(False)
    return sheet


def pareto_figure(board: Leaderboard, /) -> Sheet:
    """Draw the mean rank of each entry against what it takes, and the front."""
    from attrscore.report.figures._sheet import Sheet

    table = board.table[board.table["rank"].notna()].assign(name=_named(board))
    table = table[table["seconds"].notna()]
    sheet = Sheet(inches=(7.5, 5.5))
    ax = sheet.subplots()
    front = table[table["pareto"]].sort_values("seconds")
    ax.step(front["seconds"], front["rank"], where="post", color="0.5", linewidth=1)
    ax.scatter(table["seconds"], table["rank"], c=["C3" if on else "C0" for on in table["pareto"]])
    for row in table.to_dict("records"):
        ax.annotate(
            row["name"], (row["seconds"], row["rank"]), xytext=(4, 3),
            textcoords="offset points", fontsize=7, color="0.1" if row["pareto"] else "0.4",
        )  # fmt: skip
    ax.set_xscale("log")
    ax.invert_yaxis()
    ax.set(xlabel="CPU time / one forward and one backward pass", ylabel="mean rank (1 is best)")
    ax.spines[["top", "right"]].set_visible(False)
    return sheet


def is_leaderboard(table: pd.DataFrame, /) -> bool:
    """Whether a table of results holds nothing but jobs of a leaderboard."""
    names = set(table["dataset"].astype(str)) if "dataset" in table else set()
    return bool(names) and all(_parts(name) is not None for name in names)


def _parts(dataset: str) -> tuple[str, str] | None:
    """Test and network, of the name of a dataset."""
    test, _, network = dataset.partition("/")
    return (test, network) if test in TESTS and network.count("/") == 1 else None


def refused(results: str | Path, scalar: str, methods: Sequence[str], /) -> list[str]:
    """Those of the methods that explain no planted network, where this scalar is explained."""
    scores = _scores(results)
    rows = scores[(scores["test"] == "planted") & (scores["explains"] == scalar)]
    explained = set(rows.loc[rows["status"] != "unsupported", "method"])
    return [name for name in methods if name in set(rows["method"]) - explained]


def leaderboard(results: str | Path, /, *, methods: Sequence[str] | None = None) -> Leaderboard:
    """Read the results of a leaderboard's jobs, and rank the methods in them, or some of them.

    :raises DataError: results of something else, or of one entry at several settings.
    """
    scores = _scores(results)
    maps = _of_maps(Path(results))
    if methods is not None:
        scores, maps = (each[each["method"].isin(methods)] for each in (scores, maps))
    measures = pd.concat([_of_scores(scores), maps], ignore_index=True)
    return _table(measures, scores, _costs(Path(results)))


def _scores(results: str | Path) -> pd.DataFrame:
    """The rows of a leaderboard with ``test``, ``network`` and ``explains``.

    :raises DataError: results of something else, or of one entry at several settings.
    """
    scores = store.read_scores(results)
    if not is_leaderboard(scores):
        raise DataError(f"{results} is no leaderboard; run: attrscore leaderboard")
    parts = [_parts(name) for name in scores["dataset"].astype(str)]
    scores = scores.assign(
        test=[each[0] for each in parts if each],
        network=[each[1] for each in parts if each],
        explains=scores["target"].astype(str).str.rpartition(".")[2],
    )
    twice = scores.duplicated(["dataset", "model", *ENTRY, "id"])
    if twice.any():
        first = scores[twice].iloc[0]
        raise DataError(
            f"{results} holds {first['method']} at {first['layer']} at several settings; give each "
            "leaderboard a folder of its own: results=..."
        )
    return scores


def _of_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """What the scores of cells say, a row an entry, measure and network."""
    groups = scores.groupby(["test", "network", *ENTRY], sort=True, observed=True)
    rows: list[list[Any]] = []
    for (test, network, *entry), cells in groups:
        of = {str(name): each for name, each in cells.groupby("model", observed=True)}
        found: dict[str, float] = {}
        if test == "hand_built":
            found["blind"] = float((1 - cells["grad_camo"]).mean())
        if test == "planted" and "cell" in of:
            honest = of["cell"][HEADLINE]
            names = {"background": "background", "neighbours": "neighbours", "mixture": "mixture"}
            found = {names[k]: auroc(honest, v[HEADLINE]) for k, v in of.items() if k in names}
            nothing = [auroc(honest, of[k][HEADLINE]) for k in ("random", "chance") if k in of]
            if nothing:
                found["scores"] = float(np.mean(nothing))
            trained = cells[cells["model"] != "random"]
            swap = trained["swap.inside"] - trained["swap.outside"]
            found["swap"] = float(trained[HEADLINE].corr(swap, method="spearman"))
        if test == "faithfulness":
            means = {name: cells[name].mean() for name in MEASURES if name in cells}
            found = {name: float(mean) for name, mean in means.items() if np.isfinite(mean)}
        rows += [[network, *entry, name, value] for name, value in found.items()]
    return pd.DataFrame(rows, columns=["network", *ENTRY, "measure", "value"])


def _of_maps(results: Path) -> pd.DataFrame:
    """How unlike the heat of each cell is under the honest network and under the others."""
    maps: dict[tuple[str, str, str, str], dict[str, Kept]] = {}
    for each in kept(results):
        parts = _parts(each.folder.dataset)
        if parts is not None and parts[0] == "planted":
            scalar = str(each.folder.job.base["target"]["options"].get("scalar"))
            key = (parts[1], each.method.key, each.layer, scalar)
            maps.setdefault(key, {})[each.folder.model] = each
    rows = []
    for key, of in sorted(maps.items(), key=lambda each: each[0]):
        honest = _read(of["cell"]) if "cell" in of else None
        others = {name: _read(of[name]) for name in ("random", "chance") if name in of}
        if honest is not None and others:
            alike = [
                float(map_agreement({"cell": honest, name: maps})["rank"].iloc[0])
                for name, maps in others.items()
            ]
            rows.append([*key, "maps", 1 - float(np.mean(alike))])
    return pd.DataFrame(rows, columns=["network", *ENTRY, "measure", "value"])


def _read(maps: Kept) -> tuple[list[str], Any]:
    ids = list(maps.rows)
    return ids, maps.read(ids)


def _costs(results: Path) -> pd.DataFrame:
    """Ratios of an entry, the mean of 2D and 3D."""
    path = results / COSTS
    if not path.exists():
        return pd.DataFrame(columns=[*ENTRY, "seconds", "memory"])
    costs = pd.read_csv(path)
    return costs.groupby(ENTRY, as_index=False)[["seconds", "memory"]].mean()


def _costs_in(table: pd.DataFrame) -> list[str]:
    return [name for name in ("seconds", "memory") if table[name].notna().any()]


def _table(measures: pd.DataFrame, scores: pd.DataFrame, costs: pd.DataFrame) -> Leaderboard:
    measures = measures.assign(
        test=[MEASURES[name].test for name in measures["measure"]],
        entry=pd.Series(zip(*(measures[name] for name in ENTRY), strict=True), measures.index),
    )
    defined = measures.groupby("entry")["value"].transform(lambda values: values.notna().any())
    usable = measures[defined]
    ranking = ranked(
        usable[usable["measure"].map(lambda name: MEASURES[name].ranks)],
        {name: each.better for name, each in MEASURES.items()},
    )
    # of values that pile up at an end of their range, studentised ends reach across all of it
    found = estimates(usable, [*ENTRY, "measure"], interval="expanded")
    table = pd.DataFrame([[*entry] for entry in ranking.ranks.index], columns=ENTRY)
    table["rank"] = ranking.ranks["rank"].to_numpy()
    table["as_good_as_the_best"] = table["rank"] < table["rank"].min() + ranking.critical
    for test in TESTS:
        if test in ranking.ranks:
            table[f"rank.{test}"] = ranking.ranks[test].to_numpy()
    for name in MEASURES:
        own = found[found["measure"] == name].drop(columns=["measure", "networks"])
        if len(own):
            ends = {"value": name, "low": f"{name}.low", "high": f"{name}.high"}
            own[["low", "high"]] = own[["low", "high"]].clip(*MEASURES[name].limits)
            table = table.merge(own.rename(columns=ends), "left", on=ENTRY)
    cells = scores[scores["test"] == "planted"]
    blank = cells[ENTRY].assign(undefined=cells[HEADLINE].isna() if len(cells) else False)
    table = table.merge(blank.groupby(ENTRY, as_index=False)["undefined"].mean(), "left", on=ENTRY)
    table["reason"] = ""
    table = table.merge(costs, "left", on=ENTRY)
    table["pareto"] = pareto(table["rank"], table["seconds"])
    table = pd.concat([table, _without(scores, table)], ignore_index=True)
    networks = usable.groupby("test")["network"].nunique()
    counts = {test: int(networks[test]) for test in TESTS if test in networks}
    return Leaderboard(table.round(6), ranking, counts, scores)


def _without(scores: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Methods that have a value nowhere, with the first reason."""
    rest = scores[~scores["method"].isin(table["method"])]
    reason = rest["reason"].where(
        rest["reason"].astype(bool), "status " + rest["status"].astype(str)
    )
    first = rest.assign(reason=reason).drop_duplicates(["method", "layer"])[[*ENTRY, "reason"]]
    return first.sort_values(["method", "layer"]).reset_index(drop=True)
