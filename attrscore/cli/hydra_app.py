"""Settings: what Hydra composes from overrides, as plain containers; kept ones read again."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from omegaconf.resolvers import oc
from yaml import YAMLError

from attrscore.core.code import code_in
from attrscore.core.registry import GUIDES, MODEL_OPTIONS, REGISTRIES, SEVERAL, Registry, conf_dir
from attrscore.errors import ConfigError, did_you_mean

UNREADABLE = (HydraException, OmegaConfBaseException, YAMLError, ValueError)
"""What is raised where a configuration is broken."""


def settings_of(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain containers, nothing missing.

    ``environment`` is added: texts that were made with the environment -> as they were written.
    """
    with _recorded() as (known, asked):
        try:
            plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        except MissingMandatoryValue as error:
            raise ConfigError(f"{error.full_key} must be given: {error.full_key}=...") from error
        made = dict(_made(cfg, OmegaConf.to_container(cfg, resolve=False), plain, asked))
    settings = dict(plain)  # type: ignore[arg-type]  # of a DictConfig it is a dict
    settings["environment"] = known | made
    if settings.get("output") is None and isinstance(model := settings.get("model"), dict):
        settings["output"] = model.get("output")  # as the model's own configuration says
    return settings


@contextmanager
def _recorded() -> Iterator[tuple[dict[str, str], list[str]]]:
    """What is read from the environment inside -> how it is written; and each name asked for."""
    known: dict[str, str] = {}
    asked: list[str] = []

    def env(key: str, *default: Any) -> str | None:
        value = oc.env(key, *default)
        if key in os.environ:
            known[os.environ[key]] = f"${{oc.env:{key}}}"
            asked.append(key)
        return value

    OmegaConf.register_new_resolver("oc.env", env, replace=True)
    try:
        yield known, asked
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _made(config: Any, written: Any, plain: Any, asked: list[str]) -> Iterator[tuple[str, str]]:
    """Each text that resolving asked the environment for -> as it was written."""
    for key, each in written.items() if isinstance(written, dict) else enumerate(written):
        if isinstance(each, (dict, list)):
            yield from _made(config[key], each, plain[key], asked)
        elif isinstance(each, str) and "${" in each:
            asked.clear()
            value = config[key]
            if OmegaConf.is_config(value):
                OmegaConf.to_container(value, resolve=True)
            if asked:
                for text in _texts(plain[key]):
                    yield text, each


def _trained_as(train: DictConfig, guide: DictConfig, *, _root_: DictConfig) -> str:
    """A name for the weights that training would give: by all that they depend on.

    It is what ``${trained_as:${train},${guide}}`` stands for, so that models that are trained
    before an audit are trained once, and never mistaken for others.
    """
    from attrscore.store.identity import identify

    def of(node: DictConfig, *without: str) -> dict[str, Any]:
        values = {str(key): node[key] for key in node if key not in without}
        return {
            key: OmegaConf.to_container(each, resolve=True) if OmegaConf.is_config(each) else each
            for key, each in values.items()
        }

    options = of(train, "when", "output")
    cells = {**of(_root_.dataset), **(options.pop("dataset") or {})}
    if options["seed"] is None:
        options["seed"] = _root_.seed
    model = of(_root_.model, "weights", "randomize", "randomize_to", "draws")
    versions = [version("attrscore"), version("torch")]
    return identify([model, cells, options, of(guide), versions])


OmegaConf.register_new_resolver("trained_as", _trained_as, replace=True)


def _texts(value: Any) -> Iterator[str]:
    """Every leaf as text, in order."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    else:
        yield str(value)


def checked_settings(cfg: DictConfig) -> dict[str, Any]:
    """As :func:`settings_of`, each of the type that it must have. Loads torch."""
    from attrscore.jobs.settings import check_settings

    settings = settings_of(cfg)
    check_settings(settings)
    return settings


def unresolved(overrides: Any) -> list[str]:
    """Overrides as they were typed: what ${oc.env:TOKEN} stands for must not reach a file."""
    return [str(each) for each in OmegaConf.to_container(overrides, resolve=False)]  # type: ignore[union-attr]  # a ListConfig gives a list


def composed(
    command: str, arguments: Sequence[str], summary: str | None, example: str, options: str = ""
) -> dict[str, Any]:
    """The settings of a command that builds a model or a dataset, from Hydra overrides."""
    help_asked(command, arguments, summary, example, options)
    return checked_settings(configuration(arguments))


def options_from(arguments: Sequence[str]) -> dict[str, Any]:
    """What ``name=value`` arguments give, values as YAML has them.

    :raises ConfigError: an argument without ``=``, or a value that cannot be read.
    """
    for argument in arguments:
        if not re.match(r"\w+=", argument):
            raise ConfigError(f"{argument!r} is no option; expected name=value.")
    try:
        plain = OmegaConf.to_container(OmegaConf.from_dotlist(list(arguments)), resolve=True)
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        raise ConfigError(f"{' '.join(arguments)!r} cannot be read: {error}") from error
    return dict(plain)  # type: ignore[arg-type]  # of a DictConfig it is a dict


def help_asked(
    command: str, arguments: Sequence[str], summary: str | None, example: str, options: str = ""
) -> None:
    """Print the help of a command that takes Hydra overrides, and stop, where it is asked for."""
    if any(argument in ("-h", "--help") for argument in arguments):
        sys.stdout.write(
            f"usage: attrscore {command} {options}[name=value ...]\n\n"
            f"{inspect.cleandoc(summary or '')}\n\n"
            "The settings are those of attrscore itself (attrscore --help).\n"
            f"example: attrscore {command} {example}\n"
        )
        raise SystemExit(0)


def configuration(overrides: Sequence[str]) -> DictConfig:
    """The configuration that these overrides give, outside of a Hydra run."""
    register_installed(overrides)
    folder = str(conf_dir())
    with initialize_config_dir(version_base="1.3", config_dir=folder, job_name="attrscore"):
        return compose("config", overrides=list(overrides))


def changes_among(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments of a command that reads kept configurations: its own, and changed settings."""
    found = [re.match(r"([a-z_]+)(\.[\w.]+)?=", each) for each in arguments]
    known = configuration([]) if any(found) else {}
    own, changes = [], []
    for before, argument, setting in zip(["", *arguments], arguments, found, strict=False):
        # --on has names of columns on both sides
        if setting and before != "--on" and setting[1] in known:
            changes.append(argument)
        else:
            own.append(argument)
    return own, changes


def changed(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """A kept configuration with some of its settings given anew, such as where files now lie.

    :raises ConfigError: a setting that it does not have, a whole group, or a sweep.
    """
    for each in OverridesParser.create().parse_overrides(list(overrides)):
        parent, _, name = each.key_or_group.rpartition(".")
        holds = OmegaConf.select(config, parent) if parent else config
        known = list(holds) if isinstance(holds, DictConfig) else []
        if name not in known:
            raise ConfigError(
                f"These results have no setting {each.key_or_group!r}. {did_you_mean(name, known)}"
            )
        sweeps = each.is_add() or each.is_delete() or each.is_sweep_override()
        if sweeps or isinstance(OmegaConf.select(config, each.key_or_group), DictConfig):
            raise ConfigError(
                f"{each.input_line!r} cannot be applied to kept results; give single settings one "
                "value each, such as dataset.images='moved/*.tif'."
            )
        OmegaConf.update(config, each.key_or_group, each.value())
    return config


def kept_settings(
    config: str, changes: Sequence[str] = (), *, builds: Sequence[str] = ()
) -> dict[str, Any]:
    """Settings from the text of a kept configuration, some given anew.

    Those that it does not have, as it is older, have their defaults. The text may be anybody's, so
    it is data: ``trust`` is what ``changes`` say, never what it says. ``builds`` are the groups
    that the caller builds; empty: all.

    :raises ConfigError: it cannot be read, or what is built would run code that is not trusted.
    """
    known = [each for each in changes if not each.startswith("trust=")]
    try:
        (trusted,) = OverridesParser.create().parse_overrides(
            [each for each in changes if each.startswith("trust=")][-1:] or ["trust=[]"]
        )
        kept = changed(OmegaConf.create(config), known)  # type: ignore[arg-type]  # YAML of a mapping
        settings = {**settings_of(configuration([])), **settings_of(kept)}
    except (*UNREADABLE, AttributeError) as error:
        raise ConfigError(f"The configuration of these results cannot be read: {error}") from error
    trust = trusted.value()
    settings["trust"] = [str(each) for each in (trust if isinstance(trust, list) else [trust])]
    built = {group: settings.get(group) for group in builds} if builds else settings
    for setting, (value, package) in code_in(built).items():
        if package not in settings["trust"]:
            raise ConfigError(
                f"The configuration of these results says {setting}={value}, which would run code; "
                f"if you know whose it is, say trust=[{package}]."
            )
    from attrscore.jobs.settings import check_settings

    check_settings(settings)
    return settings


def code_in_kept(config: str, /) -> dict[str, tuple[str, str]]:
    """What a kept configuration would run; as :func:`attrscore.core.code.code_in`."""
    try:
        return code_in(OmegaConf.to_container(OmegaConf.create(config), resolve=False))
    except UNREADABLE:
        return {}


def register_installed(arguments: Sequence[str]) -> None:
    """Give plugins that are not ours a node in Hydra's ConfigStore.

    Its options are those of the YAML that the package brings; without one, those plugins that the
    command line names are imported to ask them.
    """
    line = " ".join(arguments)
    for argument in arguments:
        group, _, choice = argument.partition("=")
        if choice == "null" and (conf_dir() / group).is_dir():
            raise ConfigError(f"{argument}: a {group} must be chosen. See: attrscore --help")
    for kind, registry in {**REGISTRIES, "guide": GUIDES}.items():
        for name in registry.strangers():
            if (conf_dir() / kind / f"{name}.yaml").exists():
                continue
            options = _options_of(registry, name, line)
            if kind == "model":
                options = {**MODEL_OPTIONS, **options}
            if kind == "dataset":
                options = {"shard": None, **options}
            node = {name: options} if kind in SEVERAL else {"name": name, **options}
            ConfigStore.instance().store(group=kind, name=name, node=node)


def _options_of(registry: Registry, name: str, line: str) -> dict[str, Any]:
    """The options of an installed plugin: of its YAML, else of itself where it is named.

    One that is broken matters only where its kind and its name are asked for together.
    """
    path = registry.yaml(name)
    if path is not None:
        try:
            node = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        except (OmegaConfBaseException, YAMLError, OSError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from error
        whole: dict[str, Any] = dict(node)  # type: ignore[arg-type]  # YAML of a mapping
        own = whole.get(name) if registry.kind in SEVERAL else whole
        return {option: value for option, value in (own or {}).items() if option != "name"}
    if not re.search(rf"\b{re.escape(name)}\b", line):
        return {}
    try:
        options = registry.options(name)
    except ConfigError:
        if re.search(rf"\b{registry.kind}\b\S*\b{re.escape(name)}\b", line):
            raise
        return {}
    empty = inspect.Parameter.empty
    return {option: "???" if value is empty else value for option, value in options.items()}
