"""The command line; the only module that knows Hydra.

``attrscore`` with overrides runs one job, ``attrscore -m`` a sweep; a first argument that is a
plain word is a verb. Torch and captum are imported when a job starts, not for ``--help``.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from attrscore import verbs
from attrscore.errors import AttrscoreError, ConfigError, did_you_mean
from attrscore.registry import REGISTRIES

if TYPE_CHECKING:
    from attrscore.jobs import Outcome

__all__ = ["conf_dir", "main"]

OK, FAILED, USAGE, INCOMPLETE, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: all done; something raised; the command is wrong; done, but something was left out;
stopped by the user."""

_SEVERAL = ("method", "scorer")
"""Groups that may hold several plugins: each is nested under its own name."""


def conf_dir() -> Path:
    """The folder of the configuration: inside the package in a wheel, beside it in a checkout."""
    here = Path(__file__).parent
    for folder in (here / "conf", here.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError(f"attrscore's configuration is missing beside {here}; install it again.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and re.fullmatch(r"\w+", arguments[0]):
            if arguments[0] not in VERBS:
                raise ConfigError(
                    f"There is no verb {arguments[0]!r}. {did_you_mean(arguments[0], VERBS)} "
                    "Settings are given as name=value."
                )
            return VERBS[arguments[0]](arguments[1:])
        return _run(arguments)
    except (AttrscoreError, HydraException, OmegaConfBaseException) as error:
        return _report(error, arguments)
    except KeyboardInterrupt:
        from attrscore.terminal import say_error

        say_error("interrupted. What was finished is kept; the same command goes on from there.")
        return INTERRUPTED


def _run(arguments: Sequence[str]) -> int:
    """One job or a sweep, through Hydra."""
    codes: list[int] = []

    def job(cfg: DictConfig) -> None:
        codes.append(_job(cfg))

    _register_installed(arguments)
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


def _job(cfg: DictConfig) -> int:
    """One job of a run or a sweep; its errors are told at once, and a sweep goes on."""
    sweep = HydraConfig.get().mode is RunMode.MULTIRUN
    try:
        settings = _settings(cfg)
        from attrscore.jobs import run_job  # loads torch
        from attrscore.terminal import progress

        _warn_of_random_weights(settings)
        with progress("cells") as advance:
            outcome = run_job(
                settings,
                config=OmegaConf.to_yaml(cfg, resolve=False),
                overrides=_unresolved(HydraConfig.get().overrides.task),
                advance=advance,
            )
        return _show(outcome, settings, sweep=sweep)
    except (AttrscoreError, OmegaConfBaseException) as error:
        return _report(error, ())
    except Exception:  # a bug in one job must not cost the sweep its others
        if not sweep:
            raise
        traceback.print_exc()
        return FAILED


def _settings(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain containers, nothing missing."""
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} must be given: {error.full_key}=...") from error
    return dict(plain)  # type: ignore[arg-type]  # of a DictConfig it is a dict


def _unresolved(overrides: Any) -> list[str]:
    """Overrides as they were typed: what ${oc.env:TOKEN} stands for must not reach a file."""
    return [str(each) for each in OmegaConf.to_container(overrides, resolve=False)]  # type: ignore[union-attr]  # a ListConfig gives a list


def _show(outcome: Outcome, settings: Mapping[str, Any], *, sweep: bool) -> int:
    """Print what a job did; the exit code."""
    from attrscore import plots, terminal

    out = terminal.stdout()
    out.print(terminal.summary(outcome.scores))
    if not outcome.computed:
        out.print(f"All of it was already in {outcome.folder}; nothing was computed.")
    figures = list(outcome.figures)
    if settings["figures"] == "all" and not sweep:
        path = outcome.folder / "figures" / "scores.png"
        drawn = plots.distributions(outcome.scores, score=terminal.headline(outcome.scores))
        figures.append(plots.save(drawn, path))
    for path in figures:
        out.print(f"figure: {path}", soft_wrap=True)
    out.print(f"table:  attrscore collect {outcome.folder}", soft_wrap=True)
    skipped = terminal.say_skipped(outcome.dataset)
    failed = terminal.say_undefined(outcome.scores)
    return INCOMPLETE if skipped or failed else OK


def _warn_of_random_weights(settings: Mapping[str, Any]) -> None:
    from attrscore.terminal import stderr

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
    settings = _composed("train", arguments, _train.__doc__, example)
    from attrscore import terminal
    from attrscore.assembly import dataset_of, network
    from attrscore.models.weights import save_weights
    from attrscore.training import train

    options = dict(settings["train"])
    output = Path(options.pop("output"))
    dataset = dataset_of(settings)
    trained = train(
        network(settings, dataset),
        dataset,
        seed=settings["seed"],
        progress=terminal.stderr().print,
        **options,
    )
    save_weights(trained.model, output)
    terminal.stdout().print(
        f"held-out accuracy {trained.accuracy:.3f} (balanced {trained.balanced_accuracy:.3f}) on "
        f"{len(trained.held_out_ids)} cells, training accuracy {trained.train_accuracy:.3f} on "
        f"{len(trained.train_ids)}\nweights: {output}",
        soft_wrap=True,
    )
    return INCOMPLETE if terminal.say_skipped(dataset) else OK


def _inspect(arguments: Sequence[str]) -> int:
    """Show the network's layers on a crop of the dataset, and what Grad-CAMO can reach there."""
    example = "model=monai_resnet dataset=phantom_3d"
    settings = _composed("inspect", arguments, _inspect.__doc__, example)
    from attrscore import terminal
    from attrscore.assembly import dataset_of, network
    from attrscore.survey import survey

    dataset = dataset_of(settings)
    found = survey(network(settings, dataset), dataset)
    spec = dataset.spec
    terminal.stdout().print(
        f"{settings['model']['name']} on {settings['dataset']['name']}: "
        f"{len(dataset.table)} cells, {spec.channels} channels, {' x '.join(map(str, spec.size))}, "
        f"{len(dataset.classes)} classes",
        soft_wrap=True,
    )
    terminal.stdout().print(terminal.layer_table(found))
    return INCOMPLETE if terminal.say_skipped(dataset) else OK


VERBS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "collect": verbs.collect,
    "inspect": _inspect,
    "plugins": verbs.plugins,
    "train": _train,
}


# Configuration outside of a Hydra run, plugins without YAML, and errors in sentences


def _composed(
    verb: str, arguments: Sequence[str], summary: str | None, example: str
) -> dict[str, Any]:
    """The settings of a verb that builds a model or a dataset, from Hydra overrides."""
    if any(argument in ("-h", "--help") for argument in arguments):
        sys.stdout.write(
            f"usage: attrscore {verb} [name=value ...]\n\n{summary}\n\n"
            "The settings are those of attrscore itself (attrscore --help).\n"
            f"example: attrscore {verb} {example}\n"
        )
        raise SystemExit(OK)
    return _settings(_compose(arguments))


def _compose(overrides: Sequence[str]) -> DictConfig:
    _register_installed(overrides)
    folder = str(conf_dir())
    with initialize_config_dir(version_base="1.3", config_dir=folder, job_name="attrscore"):
        return compose("config", overrides=list(overrides))


def _register_installed(arguments: Sequence[str]) -> None:
    """Give installed plugins that bring no YAML a node in Hydra's ConfigStore.

    Only those that the command line names are imported, for their options.
    """
    line = " ".join(arguments)
    for kind, registry in REGISTRIES.items():
        for name in registry.installed():
            if (conf_dir() / kind / f"{name}.yaml").exists():
                continue
            options: dict[str, Any] = {}
            if re.search(rf"\b{re.escape(name)}\b", line):
                for option, default in registry.options(name).items():
                    options[option] = "???" if default is inspect.Parameter.empty else default
            node = {name: options} if kind in _SEVERAL else {"name": name, **options}
            ConfigStore.instance().store(group=kind, name=name, node=node)


def _report(error: BaseException, arguments: Sequence[str]) -> int:
    """Say what is wrong in a sentence; the exit code."""
    from attrscore.terminal import say_error

    say_error(_sentence(error, arguments), getattr(error, "__notes__", ()))
    ours = isinstance(error, AttrscoreError) and not isinstance(error, ConfigError)
    return FAILED if ours else USAGE


def _sentence(error: BaseException, arguments: Sequence[str]) -> str:
    """The message, with a suggestion where a group choice or a setting is misspelt."""
    text = str(error).strip()
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, given = str(error.missing_cfg_file).rpartition("/")
        return f"No {group} is called {given!r}. {did_you_mean(given, error.options)}"
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override!r} cannot be read ({str(error.message).splitlines()[0]}). A value "
            "with brackets, commas, equals signs or colons needs quotes of its own within those of "
            "the shell: "
            "\"dataset.images='fields/*_[0-3].tif'\"."
        )
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        return _no_setting(unknown[1], arguments)
    return text.replace("\n", " ")


def _no_setting(path: str, arguments: Sequence[str]) -> str:
    parent, _, given = path.rpartition(".")
    groups = [  # choices, not sweeps, and without the one that is wrong
        a for a in arguments if re.match(r"\w+=(\w+$|\[)", a) and not a.startswith(f"{path}=")
    ]
    try:
        whole = _compose(groups)
        known = list(OmegaConf.select(whole, parent) if parent else whole)
    except (HydraException, OmegaConfBaseException, TypeError):
        return f"There is no setting {path!r}. See: attrscore --help"
    where = f" in {parent}" if parent else ""
    return f"There is no setting {given!r}{where}. {did_you_mean(given, known)}"
