"""``attrscore``, ``attrscore plan``, ``attrscore train``: one job or a sweep, from settings."""

from __future__ import annotations

import json
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from attrscore.cli import sweeps
from attrscore.cli.hydra_app import checked_settings, configuration, help_asked, unresolved
from attrscore.cli.outcomes import FAILED, INCOMPLETE, OK, Ended, of_system, say, sentence
from attrscore.errors import AttrscoreError, ConfigError, EmptyShardError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

    from attrscore.jobs.planning import Plan
    from attrscore.jobs.run import Outcome


def run(arguments: Sequence[str]) -> int:
    """Run one job, or with ``-m`` a sweep; the exit code."""
    return sweeps.run(arguments, job, record="kept")


def job(cfg: DictConfig, *, shown: Literal["all", "progress"] = "all") -> Ended:
    """One job; its errors are said at once, and a sweep goes on."""
    sweep = HydraConfig.get().mode is RunMode.MULTIRUN
    try:
        settings = checked_settings(cfg)
        _warn_of_random_weights(settings)
        from attrscore.cli import output
        from attrscore.jobs.run import run_job  # loads torch

        settings = sweeps.share(settings, HydraConfig.get().job.num if sweep else 0)
        if shown == "progress":
            output.say("{dataset} {model}".format(**settings["label"]))
        with output.progress("cells", at_once=sweeps.at_once()) as advance:
            outcome = run_job(
                settings,
                config=OmegaConf.to_yaml(cfg, resolve=False),
                overrides=unresolved(HydraConfig.get().overrides.task),
                on_progress=advance,
                on_findings=output.say_findings if shown == "all" else _quiet,
                notify=output.say if shown == "all" else _quiet,
            )
        objective = _objective(outcome.scores, settings["objective"])
        code = _show(outcome, settings, sweep=sweep) if shown == "all" else OK
        return Ended(code, objective=objective)
    except EmptyShardError as error:
        output.stderr().print(str(error), soft_wrap=True)
        return Ended(OK)
    except (AttrscoreError, OmegaConfBaseException) as error:
        return Ended(say(error, ()), sentence(error, ()))
    except Exception as error:  # a bug in one job must not cost the sweep its others
        if of_system(error):
            return Ended(say(error, ()), sentence(error, ()))
        if not sweep:
            raise
        traceback.print_exc()
        return Ended(FAILED, f"{type(error).__name__}: {error}")


def _objective(scores: pd.DataFrame, column: str | None) -> float | None:
    """The mean of a column over the cells that have it, where a sweeper asks for one.

    :raises ConfigError: no such column.
    """
    if column is None:
        return None
    if column not in scores:
        raise ConfigError(f"objective={column} is no column. {did_you_mean(column, scores)}")
    return float(scores[column].mean())


def _quiet(_said: object) -> None:
    """Where a job is one of many, of which all is said at the end."""


def _show(outcome: Outcome, settings: Mapping[str, Any], *, sweep: bool) -> int:
    """Print what a job did; the exit code."""
    from attrscore.cli import output

    out = output.stdout()
    out.print(output.summary(outcome.scores, width=out.width))
    if not outcome.computed:
        out.print(f"All of it was already in {outcome.folder}; nothing was computed.")
    figures = list(outcome.figures)
    if settings["figures"] == "all" and not sweep:
        from attrscore.report import figures as plots

        path = outcome.folder / "figures" / "scores.png"
        drawn = plots.distributions(outcome.scores, score=output.headline(outcome.scores))
        figures.append(plots.save(drawn, path))
    for path in figures:
        out.print(f"figure: {path}", soft_wrap=True)
    out.print(f"table:  attrscore collect {outcome.folder}", soft_wrap=True)
    out.print(f"report: attrscore report {outcome.folder} -o report", soft_wrap=True)
    skipped = output.say_skipped(outcome.dataset)
    failed = output.say_undefined(outcome.scores)
    return INCOMPLETE if skipped or failed else OK


def _warn_of_random_weights(settings: Mapping[str, Any]) -> None:
    from attrscore.cli.output import stderr

    model = settings["model"]
    if "weights" in model and not model["weights"] and model["name"] != "factory":
        stderr().print(
            f"model.weights is not set: {model['name']} has random weights, and its scores say "
            "nothing about a trained model. Train one: attrscore train --help",
            soft_wrap=True,
        )


def train(arguments: Sequence[str]) -> int:
    """Fit model= to the labels of dataset=, save the weights, print the held-out accuracy.

    guide=swap keeps the model on the cell. With -m, each of several: -m guide=none,swap,outside
    train.seed=0,1,2 'train.output=weights/${guide.name}-${train.seed}.safetensors'.
    """
    example = (
        "model=tiny_cnn dataset=phantom dataset.carrier=background train.output=cheat.safetensors"
    )
    help_asked("train", arguments, train.__doc__, example, "[-m] ")
    asked = [each for each in arguments if each not in ("-m", "--multirun")]
    jobs = sweeps.combinations(asked) if len(asked) < len(arguments) else [tuple(asked)]
    all_settings = [checked_settings(configuration(each)) for each in jobs]
    outputs = [settings["train"]["output"] for settings in all_settings]
    twice = next((each for each in outputs if outputs.count(each) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"{outputs.count(twice)} of the {len(outputs)} trainings would write {twice}; let the "
            "name say what differs: 'train.output=weights/${guide.name}-${train.seed}.safetensors'."
        )
    return max(_train(settings) for settings in all_settings)


def _train(settings: Mapping[str, Any]) -> int:
    import torch

    from attrscore.cli import output
    from attrscore.jobs.fitting import fit

    if threads := sweeps.share(settings, 0)["threads"]:
        torch.set_num_threads(int(threads))
    trained, dataset = fit(settings, notify=output.say)
    output.stdout().print(
        f"held-out accuracy {trained.accuracy:.3f} (balanced {trained.balanced_accuracy:.3f}) on "
        f"{len(trained.held_out_ids)} cells, training accuracy {trained.train_accuracy:.3f} on "
        f"{len(trained.train_ids)}",
        soft_wrap=True,
    )
    output.stdout().print(output.confusion_table(trained.confusion, dataset.classes))
    output.stdout().print(f"weights: {settings['train']['output']}", soft_wrap=True)
    seen = [{"accuracy": e.accuracy, **asdict(e.monitored)} for e in trained.history if e.monitored]
    if seen and settings["figures"] == "all":
        import pandas as pd

        from attrscore.report import figures as plots

        path = Path(settings["train"]["output"]).expanduser().with_suffix(".png")
        drawn = plots.training_curves(pd.DataFrame(seen), band=trained.band)
        output.stdout().print(f"figure: {plots.save(drawn, path)}", soft_wrap=True)
    return INCOMPLETE if output.say_skipped(dataset) else OK


def plan(arguments: Sequence[str]) -> int:
    """Show what a run or a sweep would compute, what is done already, and what the rest takes."""
    example = "-m method=grad_cam,saliency layers=stages"
    help_asked("plan", arguments, plan.__doc__, example, "[--json] [-m] ")
    from attrscore.cli import output

    plans: list[Plan] = []
    planned: set[str] = set()

    def job(cfg: DictConfig) -> Ended:
        try:
            settings = checked_settings(cfg)
            from attrscore.jobs.planning import plan as plan_of  # loads torch

            plans.append(plan_of(settings, planned=planned, on_method=on_method))
        except EmptyShardError:
            return Ended(OK)
        except (AttrscoreError, OmegaConfBaseException) as error:
            return Ended(say(error, ()), sentence(error, ()))
        return Ended(OK)

    asked = [a for a in arguments if a != "--json" and not re.match(r"hydra[/.]launcher", a)]
    with TemporaryDirectory() as nowhere:
        folders = [f"hydra.{mode}.dir='{nowhere}'" for mode in ("run", "sweep")]
        quiet = ["hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none"]
        with output.progress("jobs planned") as advance:

            def on_method(name: str) -> None:
                advance(len(plans), 0, f"trying {name}")

            code = sweeps.run([*asked, *folders, *quiet], job)
    if "--json" in arguments:
        sys.stdout.write(json.dumps([asdict(each) for each in plans], indent=1) + "\n")
    elif plans:
        output.stdout().print(output.plan_table(plans))
    return code
