"""Verbs of the command line that need no configuration."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from pathlib import Path

from attrscore.errors import ConfigError, did_you_mean
from attrscore.registry import REGISTRIES

__all__ = ["collect", "plugins"]


def collect(arguments: Sequence[str]) -> int:
    """Print and write one table of all jobs of a results folder, and draw it."""
    parser = argparse.ArgumentParser(
        prog="attrscore collect",
        description=collect.__doc__,
        epilog="example: attrscore collect results/ -o scores.parquet",
    )
    parser.add_argument("results", type=Path, help="a results folder")
    parser.add_argument(
        "-o", "--output", type=Path, help=".h5, .csv or .parquet (default: RESULTS/results.h5)"
    )
    parser.add_argument("--figures", choices=("all", "none"), default="all")
    options = parser.parse_args(list(arguments))
    from attrscore import plots, store, terminal

    output = options.output or options.results / "results.h5"
    scores = store.collect(options.results, output)
    out = terminal.stdout()
    out.print(terminal.summary(scores))
    out.print(f"table:  {output} ({len(scores)} rows)", soft_wrap=True)
    if options.figures == "all":
        drawn = plots.distributions(scores, score=terminal.headline(scores))
        path = plots.save(drawn, output.with_name(f"{output.stem}-scores.png"))
        for figure in [path, *sorted((options.results / "figures").glob("cells-*.png"))]:
            out.print(f"figure: {figure}", soft_wrap=True)
    return 0


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
