"""Plugins by name: decorators for this process, entry points for installed packages.

One registry a kind: ``METHODS``, ``SCORERS``, ``TARGETS``, ``MODELS``, ``DATASETS``. A plugin is a
class whose constructor takes its options (a frozen dataclass), or a plain function whose
keyword-only parameters are its options.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from typing import Any, Literal, TypeVar

from attrscore.core.code import text_of
from attrscore.core.options import defaults_of, wrong_types
from attrscore.errors import (
    AttrscoreError,
    AttrscoreWarning,
    ConfigError,
    did_you_mean,
    preview,
)

__all__ = [
    "DATASETS",
    "GUIDES",
    "INTERFACE",
    "METHODS",
    "MODELS",
    "MODEL_OPTIONS",
    "REGISTRIES",
    "SCORERS",
    "SEVERAL",
    "TARGETS",
    "Configured",
    "DatasetOptions",
    "Entry",
    "Installed",
    "ModelOptions",
    "Registry",
    "conf_dir",
    "installed",
    "is_one_plugin",
    "origin_of",
]

INTERFACE = 1
"""What plugins are called with and must give; raised where one built for it would break."""


@dataclass(frozen=True)
class Installed:
    """One entry point."""

    kind: str
    point: EntryPoint

    @property
    def name(self) -> str:
        """The name that it claims."""
        return self.point.name

    @property
    def package(self) -> str:
        """The distribution that it is from."""
        return self.point.dist.name if self.point.dist is not None else self.point.value

    @property
    def origin(self) -> str:
        """Distribution and version."""
        dist = self.point.dist
        return self.point.value if dist is None else f"{dist.name} {dist.version}"

    @property
    def edited(self) -> bool:
        """Whether it is installed as editable, so that its version says little."""
        dist = self.point.dist
        return dist is not None and '"editable": true' in (dist.read_text("direct_url.json") or "")

    def load(self) -> Callable[..., Any]:
        """The class or function, imported now.

        :raises ConfigError: a name that settings cannot hold, an import that fails, something that
            is no plugin, or one built for a newer interface; named with its distribution.
        """
        named = f"{self.kind} '{self.name}' of the package {self.package}"
        if not self.name.isidentifier():
            raise ConfigError(
                f"{named} cannot be used: a name has letters, digits and underscores alone; ask "
                "its author to rename the entry point."
            )
        try:
            plugin = self.point.load()
        except (Exception, SystemExit) as error:
            raise ConfigError(
                f"{named} cannot be imported: {type(error).__name__}: {error}. "
                "The other plugins still work."
            ) from error
        if not callable(plugin):
            raise ConfigError(
                f"{named} is a {type(plugin).__name__}; expected a class or a function."
            )
        module = sys.modules.get(getattr(plugin, "__module__", ""))
        wanted = getattr(plugin, "attrscore_interface", None)
        wanted = getattr(module, "attrscore_interface", 1) if wanted is None else wanted
        if not isinstance(wanted, int):
            raise ConfigError(
                f"{named} states attrscore_interface = {wanted!r}; expected a whole number."
            )
        if wanted > INTERFACE:
            raise ConfigError(
                f"{named} was built for interface {wanted} of attrscore, and this one, "
                f"{version('attrscore')}, has interface {INTERFACE}; upgrade it: pip install "
                "--upgrade attrscore. The other plugins still work."
            )
        return plugin  # type: ignore[no-any-return]  # callable, checked above

    def yaml(self) -> Path | None:
        """Its configuration, where its package brings one; the package is not imported."""
        try:
            spec = importlib.util.find_spec(self.point.module.partition(".")[0])
        except (ImportError, ValueError):
            return None
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            path = Path(folder) / "conf" / self.kind / f"{self.name}.yaml"
            if path.is_file():
                return path
        return None


def installed(kind: str, group: str, /) -> dict[str, list[Installed]]:
    """The entry points of a group by name; a name that several packages claim has several."""
    found: dict[str, list[Installed]] = {}
    for point in entry_points(group=group):
        found.setdefault(point.name, []).append(Installed(kind, point))
    return found


Plugin = TypeVar("Plugin", bound=Callable[..., Any])

_NAME = re.compile(r"[A-Za-z_][\w-]*")


@dataclass(frozen=True)
class Entry:
    """One registered name."""

    name: str
    package: str
    """Where it comes from: ``attrscore``, another distribution, or ``this process``."""
    alias_of: str | None = None
    problem: str = ""
    """Why it cannot be used, in a sentence."""


@dataclass(frozen=True)
class Configured:
    """A plain function with its options filled in: the plugin value of a function plugin."""

    function: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, *args: Any) -> Any:
        """Call the function with its options."""
        return self.function(*args, **self.options)

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{self.function.__name__}({options})"


class Registry:
    """The plugins of one kind.

    ``home`` is the package or module whose import registers the built-in ones; it is imported on
    first use, so that a listing of another kind does not pay for it.
    """

    def __init__(self, kind: str, home: str) -> None:
        self.kind = kind
        self.group = f"attrscore.{kind}s"
        self._home = home
        self._local: dict[str, Callable[..., Any]] = {}
        self._aliases: dict[str, str] = {}

    def register(self, name: str, /, *, aliases: Iterable[str] = ()) -> Callable[[Plugin], Plugin]:
        """Decorator that registers a class or function under ``name`` for this process.

        Registering the same name again from a notebook cell replaces it; replacing a built-in is
        an error.

        :raises ConfigError: a name that cannot be written on a command line, or is taken.
        """
        for key in (name, *aliases):
            if not isinstance(key, str) or not _NAME.fullmatch(key):
                raise ConfigError(
                    f"{key!r} cannot name a {self.kind}: letters, digits, _ and -, a letter first: "
                    "@register('my_own')."
                )

        def keep(plugin: Plugin) -> Plugin:
            if _package(plugin) != "attrscore":
                self._built_in()
            for key in (name, *aliases):
                if twin := _twin(key, self._local):
                    raise ConfigError(
                        f"{self.kind} '{key}' differs from '{twin}', which is registered by "
                        f"{_origin(self._local[twin])}, by capital letters alone; "
                        f"{_origin(plugin)} needs another name."
                    )
                before = self._local.get(key)
                if before is not None and _origin(before) != _origin(plugin):
                    raise ConfigError(
                        f"{self.kind} '{key}' is already registered by {_origin(before)}; "
                        f"{_origin(plugin)} needs another name."
                    )
                self._local[key] = plugin
                if key != name:
                    self._aliases[key] = name
            return plugin

        return keep

    def entries(self) -> list[Entry]:
        """Every name that can be used and its package, without importing installed plugins."""
        found = {
            name: Entry(name, _package(plugin), self._aliases.get(name))
            for name, plugin in self._built_in().items()
        }
        for name, points in self._installed.items():
            if len(points) == 1 and name not in found and not _twin(name, found):
                found[name] = Entry(name, points[0].package)
        return sorted(found.values(), key=lambda entry: entry.name)

    def examined(self) -> list[Entry]:
        """As :meth:`entries`, with every installed plugin imported and what is wrong with it."""
        found = [entry for entry in self.entries() if entry.name not in self._installed]
        found += [entry for entry in self.entries() if entry.name in self._built_in()]
        for name, points in self._installed.items():
            problem = self._shadowing(name)
            if not problem:
                try:
                    self.load(name)
                except ConfigError as error:
                    problem = str(error)
            found += [Entry(name, point.package, problem=problem) for point in points]
        return sorted(dict.fromkeys(found), key=lambda entry: entry.name)

    def names(self) -> list[str]:
        """Every registered name, aliases included, sorted."""
        return [entry.name for entry in self.entries()]

    def installed(self) -> list[str]:
        """Names that installed packages give, without importing anything."""
        return sorted(self._installed)

    def strangers(self) -> list[str]:
        """Names that installed packages or this process give, without importing anything."""
        here = [name for name, plugin in self._local.items() if _package(plugin) != "attrscore"]
        return sorted({*self._installed, *here})

    def yaml(self, name: str, /) -> Path | None:
        """The file with the options of ``name`` and what they mean, where there is one."""
        ours = conf_dir() / self.kind / f"{name}.yaml"
        if ours.is_file():
            return ours
        points = self._installed.get(name, [])
        return points[0].yaml() if len(points) == 1 else None

    def __contains__(self, name: object) -> bool:
        return name in self._built_in() or name in self._installed

    def load(self, name: str, /) -> Callable[..., Any]:
        """The class or function behind ``name``.

        A package that claims the name of one of ours does not get it, and a warning names it.

        :raises ConfigError: unknown (with a suggestion), claimed by two packages, broken on import
            or built for a newer interface (named with its distribution).
        """
        local, points = self._built_in().get(name), self._installed.get(name, [])
        if shadowing := self._shadowing(name):
            warnings.warn(shadowing, AttrscoreWarning, stacklevel=2)
            points = []
        if points and (twin := _twin(name, self._built_in())):
            raise ConfigError(
                f"{self.kind} '{name}' of the package {points[0].package} differs from '{twin}' by "
                "capital letters alone; ask its author to rename the entry point."
            )
        claims = [_package(local)] if local is not None else []
        claims += [point.package for point in points]
        if not claims:
            raise ConfigError(
                f"No {self.kind} is called {name!r}. {did_you_mean(name, self.names())}"
            )
        if len(claims) > 1:
            raise ConfigError(
                f"{self.kind} '{name}' is claimed by {' and '.join(claims)}; "
                "uninstall one or ask its author to rename the entry point."
            )
        return points[0].load() if local is None else local

    def _shadowing(self, name: str) -> str:
        """What to say where installed packages claim the name of one of ours; else nothing."""
        local, points = self._built_in().get(name), self._installed.get(name, [])
        if local is None or not points or _package(local) != "attrscore":
            return ""
        packages = " and ".join(point.package for point in points)
        return (
            f"{self.kind} '{name}' is attrscore's own; that of the package {packages} is left out. "
            "Ask its author to rename the entry point."
        )

    def options(self, name: str, /) -> dict[str, Any]:
        """The options of ``name`` with their defaults (``inspect.Parameter.empty`` if required)."""
        return defaults_of(self.load(name))

    def build(self, name: str, /, **options: Any) -> Any:
        """The plugin as a value, its options checked and filled in.

        :raises ConfigError: an unknown, missing or wrong option, named with its plugin.
        """
        return self.construct(self.load(name), name, options)

    def construct(
        self, plugin: Callable[..., Any], name: str, options: Mapping[str, Any], /
    ) -> Any:
        """As :meth:`build`, for a class or function that is not registered."""
        known = defaults_of(plugin)
        for option in options:
            if option not in known:
                raise ConfigError(
                    f"{self.kind} '{name}' has no option {option!r}. {did_you_mean(option, known)}"
                )
        missing = [
            option
            for option, default in known.items()
            if default is inspect.Parameter.empty and option not in options
        ]
        if missing:
            raise ConfigError(
                f"{self.kind} '{name}' needs the option {preview(missing)}, which has no default."
            )
        wrong = next(wrong_types(plugin, options), "")
        made: Any = None
        try:
            made = plugin(**options) if inspect.isclass(plugin) else Configured(plugin, options)
        except AttrscoreError as error:  # its own sentence says more than a type does
            error.add_note(f"while building {self.kind} '{name}'")
            raise
        except Exception:
            if not wrong:
                raise
        if wrong:
            raise ConfigError(f"{self.kind} '{name}': {wrong}")
        return made

    def resolve(self, given: Any, /) -> dict[str, Any]:
        """Plugins by the key that names them in the results.

        ``given`` is a name, a plugin, a sequence of either, or a mapping from keys to either.

        :raises ConfigError: nothing given, something that is no plugin, or one key twice.
        """
        if isinstance(given, Mapping):
            pairs = list(given.items())
        else:
            several = isinstance(given, Iterable) and not (
                isinstance(given, str) or callable(given)
            )
            pairs = [(None, item) for item in (given if several else [given])]
        chosen: dict[str, Any] = {}
        for key, item in pairs:
            if isinstance(item, type):
                raise ConfigError(
                    f"{item.__name__} is a class, and no {self.kind} yet; give {item.__name__}()."
                )
            if not (isinstance(item, str) or callable(item)):
                raise ConfigError(
                    f"{item!r} is no {self.kind}; expected a registered name or a callable. "
                    f"Known: {preview(self.names(), most=40)}."
                )
            plugin = self.build(item) if isinstance(item, str) else item
            name = key or (item if isinstance(item, str) else self.name_of(plugin))
            if name in chosen:
                raise ConfigError(
                    f"{self.kind} '{name}' is given twice; give a mapping with two names: "
                    f"{{'{name}_a': ..., '{name}_b': ...}}."
                )
            chosen[name] = plugin
        if not chosen:
            raise ConfigError(f"No {self.kind} is given. Known: {preview(self.names(), most=40)}.")
        return chosen

    def name_of(self, plugin: Any, /) -> str:
        """The registered name of a plugin value, or the name of its function or class."""
        source = getattr(plugin, "function", plugin)
        behind = source if inspect.isroutine(source) else type(source)
        for name, known in self._built_in().items():
            if known is behind and name not in self._aliases:
                return name
        return str(behind.__name__)

    def origin(self, name: str, /) -> str:
        """Package and version of the code behind ``name``, for provenance and identity.

        A plugin of this process has no version, so its source text stands in for one; where a
        package is installed as editable, its text stands beside its version.
        """
        plugin = self.load(name)
        points = self._installed.get(name)
        if not points or name in self._built_in():
            return origin_of(plugin)
        return f"{points[0].origin}, {origin_of(plugin)}" if points[0].edited else points[0].origin

    def _built_in(self) -> Mapping[str, Callable[..., Any]]:
        importlib.import_module(self._home)
        return self._local

    @functools.cached_property
    def _installed(self) -> dict[str, list[Installed]]:
        return installed(self.kind, self.group)


def _twin(name: str, known: Iterable[str]) -> str:
    """The one of these that differs from a name by capital letters alone; empty without one."""
    folded = name.casefold()
    return next((each for each in known if each != name and each.casefold() == folded), "")


def origin_of(plugin: Callable[..., Any], /) -> str:
    """Package and version of attrscore's own code; of any other a hash of its text, with that of
    what it calls (:func:`attrscore.core.code.text_of`).
    """  # noqa: D205  # one sentence
    if _package(plugin) == "attrscore":
        return f"attrscore {version('attrscore')}"
    source = text_of([plugin]) or _origin(plugin)
    return f"local {hashlib.blake2b(source.encode(), digest_size=8).hexdigest()}"


def _origin(plugin: Callable[..., Any]) -> str:
    return f"{plugin.__module__}.{getattr(plugin, '__qualname__', type(plugin).__qualname__)}"


def _package(plugin: Callable[..., Any]) -> str:
    return "attrscore" if plugin.__module__.split(".")[0] == "attrscore" else "this process"


METHODS = Registry("method", "attrscore.methods")
SCORERS = Registry("scorer", "attrscore.scorers")
TARGETS = Registry("target", "attrscore.targets")
MODELS = Registry("model", "attrscore.models")
DATASETS = Registry("dataset", "attrscore.datasets")
GUIDES = Registry("guide", "attrscore.training")
"""What keeps a model on the cell while it is trained; no job of an audit has one."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What the configuration of every model takes, beside its own options."""

    randomize: Literal["none", "last", "cascade", "all"] = "none"
    """Weights drawn anew from the run's seed (Adebayo et al. 2018)."""
    randomize_to: str | int | None = None
    """Of cascade: a layer, or how many from the output."""
    draws: int = 19
    """Of random weights: as many jobs, from this seed on, with their scores alone."""
    prefix: Mapping[str, str | None] | None = None
    """Beginnings of names in the weights -> what stands for them: {net.: '', criterion.: null};
    null drops."""
    channels: Sequence[int | str] | None = None
    """The dataset's channels that the model gets, in its order: [2,0] or [DNA,ER]; null: all."""
    mean: Sequence[float] | None = None
    """Subtracted from each of these, in the units of the crops."""
    std: Sequence[float] | None = None
    """Each is divided by it afterwards."""
    output: str | int | None = None
    """Item with the scores, of a model that returns a tuple or dictionary: 0, logits."""
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    """How the weights of convolutions lie; faster or slower, by processor."""


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """What the configuration of every dataset takes, beside its own options."""

    shard: str | None = None
    """k/n, k from 0: one of n shards of the cells; all of 2: -m dataset.shard=0/2,1/2."""


MODEL_OPTIONS: Mapping[str, Any] = asdict(ModelOptions())

SEVERAL = ("method", "scorer")
"""Kinds of which a job may have several; each then stands under its own name."""

REGISTRIES = {r.kind: r for r in (METHODS, SCORERS, TARGETS, MODELS, DATASETS)}


def conf_dir() -> Path:
    """The folder of the configuration: inside the package in a wheel, beside it in a checkout."""
    here = Path(__file__).parents[1]
    for folder in (here / "conf", here.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError(f"attrscore's configuration is missing beside {here}; install it again.")


def is_one_plugin(kind: str, name: str, /) -> bool:
    """Whether a choice of a group is known to give one plugin under its own name.

    That is so of our own YAML and of installed plugins; a YAML from elsewhere may hold anything.
    """
    return (conf_dir() / kind / f"{name}.yaml").exists() or name in REGISTRIES[kind].installed()
