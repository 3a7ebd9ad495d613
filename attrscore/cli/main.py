"""The command line; with ``composition``, the only module that knows Hydra.

``attrscore`` with overrides runs one job, ``attrscore -m`` a sweep; a first argument that is a
plain word is a verb. Torch and captum are imported when a job starts, not for ``--help``.
"""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TextIO

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from attrscore.cli import commands as verbs
from attrscore.cli.completion import SCRIPTS, candidates
from attrscore.cli.hydra_app import (
    changed,
    changes_among,
    composed,
    configuration,
    help_asked,
    options_from,
    register_installed,
    say,
    sentence,
    settings_of,
    unresolved,
)
from attrscore.cli.outcomes import FAILED, INCOMPLETE, INTERRUPTED, OK, Told
from attrscore.cli.sweeps import share
from attrscore.core.registry import conf_dir
from attrscore.errors import (
    AttrscoreError,
    AttrscoreWarning,
    ConfigError,
    EmptyShardError,
    did_you_mean,
)

if TYPE_CHECKING:
    from attrscore.cli.finished import Finished
    from attrscore.jobs.planning import Plan
    from attrscore.jobs.run import Outcome

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help"]
    if arguments == ["--version"]:
        sys.stdout.write(f"attrscore {version('attrscore')}\n")
        return OK
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return _asked(arguments)
    except (AttrscoreError, HydraException, OmegaConfBaseException) as error:
        return say(error, arguments)
    except BrokenPipeError:  # whoever read our output has read enough: ... | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        from attrscore.cli.output import say_error

        say_error("interrupted. What was finished is kept; the same command goes on from there.")
        return INTERRUPTED


def _asked(arguments: Sequence[str]) -> int:
    if not (arguments and re.fullmatch(r"\w+", arguments[0])):
        return _run(arguments)
    if arguments[0] not in VERBS:
        raise ConfigError(
            f"There is no verb {arguments[0]!r}. {did_you_mean(arguments[0], VERBS)} "
            "Settings are given as name=value."
        )
    return VERBS[arguments[0]](arguments[1:])


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Ours in a sentence, as errors are told; others as Python tells them."""
    if issubclass(category, AttrscoreWarning):
        from attrscore.cli.output import stderr

        stderr().print(f"warning: {message}", soft_wrap=True, markup=False, highlight=False)
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line)
        (file or sys.stderr).write(text)


def _run(arguments: Sequence[str], run_one: Callable[[DictConfig], Told] | None = None) -> int:
    """One job or a sweep, through Hydra; ``run_one`` is what a job does."""
    codes: list[int] = []
    run_one = run_one or _job

    def job(cfg: DictConfig) -> Told:
        told = run_one(cfg)
        codes.append(told.code)
        return told

    job.codes = codes  # type: ignore[attr-defined]  # in a worker it is a copy: sweep_ended fills it
    job.known = _known if run_one is _job else _unknown  # type: ignore[attr-defined]  # the sweeper asks it
    register_installed(arguments)
    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and main() makes a sentence of it
    sys.argv = ["attrscore", *arguments]
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()
    finally:
        sys.argv = argv
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
    return max(codes, default=OK)


def _job(cfg: DictConfig) -> Told:
    """One job of a run or a sweep; its errors are told at once, and a sweep goes on."""
    sweep = HydraConfig.get().mode is RunMode.MULTIRUN
    try:
        settings = settings_of(cfg)
        _warn_of_random_weights(settings)
        from attrscore.cli import finished
        from attrscore.cli import output as terminal
        from attrscore.cli.finished_sweeps import remember_command

        place, command = finished.place_of(settings), _command(cfg)  # as files are before it runs
        written = OmegaConf.to_container(cfg, resolve=False)
        there = finished.finished(place, settings)
        if there is not None:
            remember_command(command, written)
            return Told(_show(there, settings, sweep=sweep))
        from attrscore.jobs.run import run_job  # loads torch

        if sweep:
            settings = share(settings, HydraConfig.get().job.num)
        with terminal.progress("cells") as advance:
            outcome = run_job(
                settings,
                config=OmegaConf.to_yaml(cfg, resolve=False),
                overrides=unresolved(HydraConfig.get().overrides.task),
                advance=advance,
                told=terminal.say_findings,
                progress=terminal.stderr().print,
            )
        finished.remember(place, outcome.job, outcome.dataset, settings)
        remember_command(command, written)
        return Told(_show(outcome, settings, sweep=sweep))
    except EmptyShardError as error:
        terminal.stderr().print(str(error), soft_wrap=True)
        return Told(OK)
    except (AttrscoreError, OmegaConfBaseException) as error:
        return Told(say(error, ()), sentence(error, ()))
    except Exception as error:  # a bug in one job must not cost the sweep its others
        if not sweep:
            raise
        traceback.print_exc()
        return Told(FAILED, f"{type(error).__name__}: {error}")


def _command(cfg: DictConfig) -> Path | None:
    """Where the configuration of this job is kept once it is finished; None outside of a sweep."""
    told = HydraConfig.get()
    if told.mode is not RunMode.MULTIRUN:
        return None
    return _place(str(cfg.results), unresolved(told.overrides.task), told.runtime.config_sources)


def _place(results: str, overrides: Sequence[str], sources: Iterable[Any]) -> Path | None:
    from attrscore.cli.finished_sweeps import place_of_command

    where = [(each.schema, each.path, each.provider) for each in sources]
    return place_of_command(results, overrides, where)


def _known(results: str, overrides: Sequence[str], sources: Iterable[Any]) -> Told | None:
    """What a job of a sweep came to, if it is finished, found without composing it."""
    from attrscore.cli import finished
    from attrscore.cli.finished_sweeps import told_of_command

    config = told_of_command(_place(results, overrides, sources))
    if config is None:
        return None
    try:
        settings = settings_of(OmegaConf.create(config))
        left_out = finished.incomplete(finished.place_of(settings), settings)
    except (AttrscoreError, OmegaConfBaseException, KeyError):
        return None
    return None if left_out is None else Told(INCOMPLETE if left_out else OK)


def _unknown(*_: Any) -> None:
    return None


def _show(outcome: Outcome | Finished, settings: Mapping[str, Any], *, sweep: bool) -> int:
    """Print what a job did; the exit code."""
    from attrscore.cli import output as terminal

    out = terminal.stdout()
    out.print(terminal.summary(outcome.scores, width=out.width))
    if not outcome.computed:
        out.print(f"All of it was already in {outcome.folder}; nothing was computed.")
    figures = list(outcome.figures)
    if settings["figures"] == "all" and not sweep:
        from attrscore.report import figures as plots

        path = outcome.folder / "figures" / "scores.png"
        drawn = plots.distributions(outcome.scores, score=terminal.headline(outcome.scores))
        figures.append(plots.save(drawn, path))
    for path in figures:
        out.print(f"figure: {path}", soft_wrap=True)
    out.print(f"table:  attrscore collect {outcome.folder}", soft_wrap=True)
    out.print(f"report: attrscore report {outcome.folder} -o report", soft_wrap=True)
    skipped = terminal.say_skipped(outcome.dataset)
    failed = terminal.say_undefined(outcome.scores)
    return INCOMPLETE if skipped or failed else OK


def _warn_of_random_weights(settings: Mapping[str, Any]) -> None:
    from attrscore.cli.output import stderr

    model = settings["model"]
    if "weights" in model and not model["weights"] and model["name"] != "factory":
        stderr().print(
            f"model.weights is not set: {model['name']} has random weights, and its scores say "
            "nothing about a trained network. Train one: attrscore train --help",
            soft_wrap=True,
        )


# Verbs


def _train(arguments: Sequence[str]) -> int:
    """Fit model= to the labels of dataset=, save the weights, print the held-out accuracy."""
    example = (
        "model=tiny_cnn dataset=phantom dataset.carrier=background train.output=cheat.safetensors"
    )
    settings = composed("train", arguments, _train.__doc__, example)
    from attrscore.cli import output as terminal
    from attrscore.jobs.fitting import fit

    trained, dataset = fit(settings, progress=terminal.stderr().print)
    terminal.stdout().print(
        f"held-out accuracy {trained.accuracy:.3f} (balanced {trained.balanced_accuracy:.3f}) on "
        f"{len(trained.held_out_ids)} cells, training accuracy {trained.train_accuracy:.3f} on "
        f"{len(trained.train_ids)}\nweights: {settings['train']['output']}",
        soft_wrap=True,
    )
    return INCOMPLETE if terminal.say_skipped(dataset) else OK


def _inspect(arguments: Sequence[str]) -> int:
    """Show the layers of model=, and whether method= can explain it at layers=, by a dry run.

    Where dataset= is all that is said, show what it holds, and draw crops with their masks.
    """
    example = "model=monai_resnet dataset=phantom_3d 'method=[grad_cam,guided_grad_cam]'"
    as_json, arguments = "--json" in arguments, [a for a in arguments if a != "--json"]
    settings = composed("inspect", arguments, _inspect.__doc__, example, "[--json] ")
    if verbs.about_dataset(arguments):
        return verbs.inspect_dataset(settings, as_json=as_json)
    from attrscore.cli import output as terminal
    from attrscore.core.heat import HeatOptions
    from attrscore.core.registry import METHODS, TARGETS
    from attrscore.engine.preflight import SAMPLE, preflight
    from attrscore.engine.run import batches_of
    from attrscore.engine.survey import survey
    from attrscore.jobs.assembly import dataset_of, network, plugin_of, plugins_of

    dataset = dataset_of(settings)
    model = network(settings, dataset)
    batch = next(batches_of(dataset, batch_size=SAMPLE))
    found = survey(model, batch)
    spec = dataset.spec
    out = terminal.stderr() if as_json else terminal.stdout()
    out.print(
        f"{settings['model']['name']} on {settings['dataset']['name']}: "
        f"{len(dataset.table)} cells, {spec.channels} channels, {' x '.join(map(str, spec.size))}, "
        f"{len(dataset.classes)} classes",
        soft_wrap=True,
    )
    if not as_json:
        out.print(terminal.layer_table(found))
    findings = preflight(
        model,
        batch,
        methods={key: method for key, (method, _) in plugins_of(METHODS, settings).items()},
        layers=settings["layers"],
        target=plugin_of(TARGETS, settings),
        output=settings["output"],
        heat=HeatOptions(**settings["heat"]),
    )
    if as_json:
        told = {"network": asdict(found), "findings": list(map(asdict, findings))}
        sys.stdout.write(json.dumps(told, indent=1) + "\n")
    else:
        out.print(terminal.finding_table(findings))
    refused = any(finding.verdict == "refused" for finding in findings)
    return INCOMPLETE if terminal.say_skipped(dataset) or refused else OK


def _plan(arguments: Sequence[str]) -> int:
    """Show what a run or a sweep would compute, what is done already, and what the rest takes."""
    example = "-m method=grad_cam,saliency layers=stages"
    help_asked("plan", arguments, _plan.__doc__, example, "[--json] [-m] ")
    from attrscore.cli import output as terminal

    plans: list[Plan] = []
    planned: set[str] = set()

    def job(cfg: DictConfig) -> Told:
        try:
            settings = settings_of(cfg)
            from attrscore.jobs.planning import plan  # loads torch

            plans.append(plan(settings, planned=planned))
        except EmptyShardError:
            return Told(OK)
        except (AttrscoreError, OmegaConfBaseException) as error:
            return Told(say(error, ()), sentence(error, ()))
        return Told(OK)

    asked = [a for a in arguments if a != "--json" and not re.match(r"hydra[/.]launcher", a)]
    with TemporaryDirectory() as nowhere:
        folders = [f"hydra.{mode}.dir='{nowhere}'" for mode in ("run", "sweep")]
        quiet = ["hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none"]
        code = _run([*asked, *folders, *quiet], job)
    if "--json" in arguments:
        sys.stdout.write(json.dumps([asdict(each) for each in plans], indent=1) + "\n")
    elif plans:
        terminal.stdout().print(terminal.plan_table(plans))
    return code


def _settings_from(config: str, changes: Sequence[str] = ()) -> dict[str, Any]:
    """Settings from the text of a configuration, for verbs that know no OmegaConf."""
    try:  # settings that were not known then have their defaults
        kept = changed(OmegaConf.create(config), changes)  # type: ignore[arg-type]  # YAML of a mapping
        return {**settings_of(configuration([])), **settings_of(kept)}
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(sentence(error, ())) from error


def _rebuilding(verb: Callable[..., int]) -> Callable[[Sequence[str]], int]:
    """A verb that builds again what results keep the configuration of, or what overrides say."""

    def run(arguments: Sequence[str]) -> int:
        own, changes = changes_among(arguments)
        return verb(own, settings_of=partial(_settings_from, changes=changes))

    return run


def _plugins(arguments: Sequence[str]) -> int:
    """As :func:`attrscore.cli.commands.plugins`, which knows no OmegaConf."""
    return verbs.plugins(arguments, options_from)


def _completion(arguments: Sequence[str]) -> int:
    """Print what makes a shell complete verbs, options and settings."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="attrscore completion",
        description=_completion.__doc__,
        epilog='example: eval "$(attrscore completion bash)"',
    )
    parser.add_argument("shell", choices=[*SCRIPTS, "words"], help="; words: what the shell asks")
    parser.add_argument("line", nargs="?", default="", help="a command line so far")
    asked = parser.parse_args(list(arguments))
    found = candidates(asked.line, VERBS) if asked.shell == "words" else [SCRIPTS[asked.shell]]
    sys.stdout.write("".join(f"{each}\n" for each in found))
    return OK


VERBS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "collect": verbs.collect,
    "completion": _completion,
    "export": _rebuilding(verbs.export),
    "inspect": _inspect,
    "plan": _plan,
    "plugins": _plugins,
    "report": verbs.report,
    "reproduce": _rebuilding(verbs.reproduce),
    "status": verbs.status,
    "train": _train,
    "verify": verbs.verify,
    "view": _rebuilding(verbs.view),
}
