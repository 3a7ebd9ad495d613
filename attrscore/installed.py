"""Plugins of installed packages: found without importing anything, loaded one by one.

A package names its plugins as entry points. It may bring a YAML file for each, in
``conf/<kind>/<name>.yaml`` of the package, and state the interface it was built for, in the plugin
or its module: ``attrscore_interface = 1``.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from typing import Any

from attrscore.errors import ConfigError

__all__ = ["INTERFACE", "Installed", "installed"]

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
