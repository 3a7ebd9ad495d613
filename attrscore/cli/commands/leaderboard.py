"""``attrscore leaderboard``: attribution methods against known truth, priced, with intervals."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from attrscore.cli import sweeps
from attrscore.cli.commands.run import job
from attrscore.cli.hydra_app import checked_settings, configuration, help_asked
from attrscore.cli.outcomes import OK, worst
from attrscore.core.registry import METHODS
from attrscore.errors import ConfigError, did_you_mean

FLAGS = ("--quick", "--full", "--json")
PLANTED = "leaderboard"
EXPERIMENTS = ("leaderboard_hand_built", PLANTED, "leaderboard_faithfulness")
"""Those of conf/experiment, in this order."""

QUICK: Mapping[str, Sequence[str]] = {
    "leaderboard_hand_built": ("seed=0", "layers=[features.3]"),
    PLANTED: (
        *("seed=0", "layers=[features.3]", "dataset.cells=16", "train.dataset.cells=192"),
        "reads=cell,background,neighbours,chance,random",
    ),
}
"""The experiments of --quick, with less than they have; --full runs all as they are."""

_WINDOWS = {"window": 8, "stride": 4, "size": 8}  # no larger than the cells

MOST: Mapping[str, Mapping[str, int]] = {
    "--quick": {"steps": 8, "samples": 24, "baselines": 4, **_WINDOWS},
    "--full": {"steps": 16, "samples": 60, "baselines": 4, **_WINDOWS},
}
"""The most of these options that a method gets, whichever has them: passes have to be afforded."""

MOST_JOBS = 8
"""At once, on one machine, whatever its cores: each holds torch and networks of its own."""


def leaderboard(arguments: Sequence[str]) -> int:
    """Rank attribution methods against known truth: hand-built and planted networks, sanity, cost.

    --quick (the default) takes some minutes: one network a kind in 2D and in 3D, no faithfulness,
    few passes a method. --full takes many more: more networks, cells, layers, passes and measures.
    method=[...] chooses methods, else every registered one is run; layers=[...] their layers;
    results= the folder, in which networks and results are kept, so that another method costs itself
    alone. Jobs run side by side, one a core (hydra/launcher=basic: one after the other).
    """
    example = "--quick 'method=[mine,hires_cam,grad_cam]'"
    help_asked("leaderboard", arguments, leaderboard.__doc__, example, "[--quick|--full] [--json] ")
    from attrscore.cli import output
    from attrscore.report import leaderboard as board
    from attrscore.report import text

    size = "--full" if "--full" in arguments else "--quick"
    given = [each for each in arguments if each not in (*FLAGS, "-m")]
    for each in given:
        if each.startswith("--") and not each.startswith("--config"):  # those are Hydra's
            raise ConfigError(f"leaderboard has no {each}. {did_you_mean(each, FLAGS)}")
    chosen, others = _methods(given)
    results = next((a.partition("=")[2] for a in given if a.startswith("results=")), "")
    if not results:
        results = f"leaderboard/{size[2:]}"
        others = [*others, f"results={results}"]
    code = _run(size, chosen, others)
    # what has a map of a single output alone, as LRP, explains the logit
    single = board.refused(results, "margin", chosen) if code == OK else []
    if single:
        code = _run(size, single, [*others, "target.scalar=logit"])
    if code != OK:
        return code
    output.say("what each method takes, alone")
    _measure(results, _planted(size, chosen, others))
    if single:
        _measure(results, _planted(size, single, [*others, "target.scalar=logit"]))
    found = board.leaderboard(results, methods=chosen)
    paths = found.write(Path(results))
    if "--json" in arguments:
        sys.stdout.write(found.table.to_json(orient="records", indent=1) + "\n")
        return OK
    out = output.stdout()
    for part in text.of_leaderboard(found):
        out.print(part, soft_wrap=isinstance(part, str))
    out.print(f"table:  {', '.join(map(str, paths))}", soft_wrap=True)
    out.print(f"report: attrscore report {results} -o report", soft_wrap=True)
    return OK


def _methods(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """The methods that are asked for, or all that need no option; and the other arguments."""
    asked = [each.partition("=")[2] for each in given if each.startswith("method=")]
    others = [each for each in given if not each.startswith("method=")]
    if asked:
        return [name.strip() for name in asked[-1].strip("[]").split(",")], others
    return list(_all_methods()), others


def _all_methods() -> Iterator[str]:
    """Every registered method that needs no option; a package that is broken costs its own."""
    from attrscore.cli import output

    needed = inspect.Parameter.empty
    for entry in METHODS.examined():
        if entry.problem:
            output.say(f"left out: {entry.problem}")
        elif entry.alias_of is None and needed not in METHODS.options(entry.name).values():
            yield entry.name


def _overrides(name: str, size: str, methods: Sequence[str], others: Sequence[str]) -> list[str]:
    bounded = [
        f"method.{method}.{option}={most}"
        for method in methods
        for option, most in MOST[size].items()
        if method in METHODS and _number(METHODS.options(method).get(option)) > most
    ]
    chosen = f"method=[{','.join(methods)}]"
    fewer = QUICK[name] if size == "--quick" else ()
    return [f"+experiment={name}", chosen, *fewer, *bounded, *_of(name, others)]


def _number(value: Any) -> float:
    return value if isinstance(value, (int, float)) else 0


def _of(name: str, others: Sequence[str]) -> list[str]:
    """Those of the settings that an experiment has, or that none has, which then says so."""
    known = _known()
    return [
        each
        for each in others
        if _has(known[name], each) or not any(_has(config, each) for config in known.values())
    ]


@functools.cache
def _known() -> Mapping[str, DictConfig]:
    return {name: configuration([f"+experiment={name}"]) for name in EXPERIMENTS}


def _has(config: DictConfig, override: str) -> bool:
    parent, _, key = override.lstrip("+~").partition("=")[0].rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    return isinstance(node, DictConfig) and key in node


def _run(size: str, methods: Sequence[str], others: Sequence[str]) -> int:
    hydra = ["hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none"]
    if not any(each.startswith("hydra/launcher=") for each in others):
        at_once = min(sweeps.cores(), MOST_JOBS)
        hydra += ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={at_once}"]
    one = functools.partial(job, shown="progress")
    return worst(
        sweeps.run(["-m", *hydra, *_overrides(name, size, methods, others)], one, record="kept")
        for name in (QUICK if size == "--quick" else EXPERIMENTS)
    )


def _planted(size: str, methods: Sequence[str], others: Sequence[str]) -> list[list[str]]:
    """The overrides of one audit of an honest network in each plane."""
    given = {each.partition("=")[0]: each for each in _overrides(PLANTED, size, methods, others)}
    axes = {"plane": "plane=2D,3D", **given, "reads": "reads=cell"}
    jobs: dict[str, list[str]] = {}
    for combination in sweeps.combinations(list(axes.values())):
        plane = next(each for each in combination if each.startswith("plane="))
        jobs.setdefault(plane, list(combination))
    return list(jobs.values())


def _measure(results: str, jobs: Sequence[Sequence[str]]) -> None:
    """Measure what methods take, and keep it beside the results, instead of what was there."""
    from attrscore.jobs.assembly import build
    from attrscore.jobs.planning import costs
    from attrscore.report import leaderboard as board
    from attrscore.store.commit import commit

    path = Path(results) / board.COSTS
    known = [pd.read_csv(path)] if path.exists() else []
    for overrides in jobs:
        settings = checked_settings(configuration(overrides))
        found = costs(build(settings)).assign(
            explains=settings["target"]["scalar"], plane=settings["plane"]
        )
        known.append(found)
    key = [*board.ENTRY, "plane"]
    table = pd.concat(known, ignore_index=True).drop_duplicates(key, keep="last")
    commit(path, table.sort_values(key).to_csv(index=False, lineterminator="\n").encode())
