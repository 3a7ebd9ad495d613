"""``attrscore plugins``."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence

from attrscore.errors import ConfigError, did_you_mean
from attrscore.registry import REGISTRIES

__all__ = ["plugins"]


def plugins(arguments: Sequence[str]) -> int:
    """List what is registered and from which package; with a NAME, its meaning and options."""
    parser = argparse.ArgumentParser(
        prog="attrscore plugins",
        description=plugins.__doc__,
        epilog="example: attrscore plugins integrated_gradients",
    )
    parser.add_argument("name", nargs="?", help="a registered name")
    name = parser.parse_args(list(arguments)).name
    from attrscore import terminal

    out = terminal.stdout()
    if name is None:
        out.print(terminal.plugin_table({k: r.entries() for k, r in REGISTRIES.items()}))
        return 0
    found = [registry for registry in REGISTRIES.values() if name in registry]
    if not found:
        names = [known for registry in REGISTRIES.values() for known in registry.names()]
        raise ConfigError(f"No plugin is called {name!r}. {did_you_mean(name, names)}")
    for registry in found:
        lines = [f"{registry.kind} {name} ({registry.origin(name)})", ""]
        lines += [inspect.getdoc(registry.load(name)) or "(no description)", "", "options:"]
        for option, default in registry.options(name).items():
            required = default is inspect.Parameter.empty
            lines.append(f"  {option} = {'(required)' if required else repr(default)}")
        out.print("\n".join(lines), markup=False, highlight=False)
    return 0
