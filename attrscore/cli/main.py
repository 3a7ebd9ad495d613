"""The command line: the table of commands, and how one is called.

``attrscore`` with settings runs one job, ``attrscore -m`` a sweep; a first argument that is a plain
word is a command. Torch and captum are imported when a job starts, not for ``--help``.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TextIO, cast

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from attrscore.cli.commands.run import run
from attrscore.cli.hydra_app import register_installed
from attrscore.cli.outcomes import INTERRUPTED, OK, of_system, say
from attrscore.core.code import environment
from attrscore.core.registry import REGISTRIES
from attrscore.errors import (
    AttrscoreError,
    AttrscoreWarning,
    ConfigError,
    Stopped,
    did_you_mean,
)

KEPT = (
    "Parts that were written are kept, of the one being computed nothing; the same command goes on "
    "from there."
)


@dataclass(frozen=True)
class Command:
    """An entry of the table of commands."""

    function: str
    """Module and name, below ``attrscore.cli``; loaded when it is called."""
    help: str
    usage: str = ""
    settings: bool = False
    """Whether it takes the settings of a job."""

    def __call__(self, arguments: Sequence[str], /) -> int:
        """Run it; the exit code."""
        module, _, name = self.function.partition(":")
        run: Callable[[Sequence[str]], int] = getattr(
            importlib.import_module(f"attrscore.cli.{module}"), name
        )
        return run(arguments)


COMMANDS: Mapping[str, Command] = {
    "train": Command(
        "commands.run:train", "fit model= to the labels of dataset=", "...", settings=True
    ),
    "plan": Command(
        "commands.run:plan",
        "what a run or sweep (-m) would compute and cost; what is done",
        "...",
        settings=True,
    ),
    "inspect": Command(
        "commands.inspect:inspect",
        "the model's layers, their grids, what Grad-CAMO can reach there;\n"
        "of dataset= alone: what it holds, with a sheet of crops",
        "...",
        settings=True,
    ),
    "status": Command(
        "commands.results:status",
        "what is done, failed, missing; how a file was made",
        "RESULTS|FILE",
    ),
    "collect": Command(
        "commands.results:collect", "one table of all jobs of a results folder", "RESULTS"
    ),
    "export": Command(
        "commands.export:export",
        "scores as CSV, Parquet, AnnData or onto profiles;\nmaps as images over the fields",
        "RESULTS --to ...",
    ),
    "view": Command("commands.export:view", "cells in napari: image, masks, heat", "RESULTS"),
    "report": Command(
        "commands.report:report",
        "how sure the scores are, and what they say: intervals, comparisons,\n"
        "verdicts; -o report: as one page; --figure KIND: one figure",
        "RESULTS",
    ),
    "leaderboard": Command(
        "commands.leaderboard:leaderboard",
        "attribution methods against known truth, with intervals and costs;\n"
        "method=[...]: some of them, a plugin of yours among them",
        "...",
        settings=True,
    ),
    "verify": Command(
        "commands.results:verify",
        "read everything: what is damaged, missing, foreign, double",
        "RESULTS",
    ),
    "reproduce": Command("commands.results:reproduce", "run it again and compare", "JOB|FILE"),
    "plugins": Command(
        "commands.plugins:plugins",
        "what is registered, from which package, with which options",
        "[NAME]",
    ),
    "completion": Command(
        "main:completion", "what makes a shell complete commands and settings", "bash|zsh|fish"
    ),
}
"""Every command. Without one, settings alone run a job, or with ``-m`` a sweep."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help"]
    if arguments == ["--version"]:
        sys.stdout.write(f"attrscore {version('attrscore')}\n")
        return OK
    safe = environment("PYTHONSAFEPATH", "1")  # children import nothing from here by accident
    with safe, _droppable_output(), warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return _run(arguments)
        except (AttrscoreError, HydraException, OmegaConfBaseException) as error:
            return say(error, arguments)
        except OSError as error:
            if not of_system(error):
                raise
            return say(error, arguments)
        except KeyboardInterrupt as error:
            from attrscore.cli.output import say_error

            of_jobs = [] if arguments[:1] and arguments[0] in COMMANDS else [KEPT]
            kept = " ".join(["", *getattr(error, "__notes__", of_jobs)])
            say_error(f"interrupted{f' by {error}' if str(error) else ''}.{kept}")
            return 128 + error.number if isinstance(error, Stopped) else INTERRUPTED


@contextmanager
def _droppable_output() -> Iterator[None]:
    """What is printed inside is dropped once nobody reads it any more; the work goes on."""
    out, err = (cast("TextIO", _Droppable(each)) for each in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(err):
        try:
            yield
        finally:
            out.flush()
            err.flush()


class _Droppable:
    """A stream that loses what is written to a closed pipe: ``... | head``."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _run(arguments: Sequence[str]) -> int:
    name = arguments[0] if arguments else ""
    if name == "-sc":  # as the shells ask, after attrscore completion
        return _complete(arguments)
    if re.fullmatch(r"\w+", name):
        if name not in COMMANDS:
            raise ConfigError(
                f"There is no command {name!r}. {did_you_mean(name, COMMANDS)} "
                "Settings are given as name=value."
            )
        return COMMANDS[name](arguments[1:])
    try:
        return run(arguments)
    except SystemExit:
        if {"-h", "--help"}.intersection(arguments):
            sys.stdout.write(_list_of_commands())
        raise


def _list_of_commands() -> str:
    """The table as ``--help`` shows it."""
    lines = ["\nCommands (each has --help):"]
    for name, command in COMMANDS.items():
        first, *more = command.help.split("\n")
        lines.append(f"  {f'attrscore {name} {command.usage}':32} {first}")
        lines += [" " * 35 + line for line in more]
    return "\n".join(lines) + "\n"


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Ours in a sentence, as errors are; others as Python shows them."""
    if issubclass(category, AttrscoreWarning):
        from attrscore.cli.output import stderr

        stderr().print(f"warning: {message}", soft_wrap=True, highlight=False)
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line)
        (file or sys.stderr).write(text)


def completion(arguments: Sequence[str]) -> int:
    """Print what makes a shell complete commands, options and settings."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="attrscore completion",
        description=completion.__doc__,
        epilog='example: eval "$(attrscore completion bash)"; zsh needs bashcompinit before it',
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    shell = parser.parse_args(list(arguments)).shell
    return run(["--shell-completion", f"install={shell.replace('zsh', 'bash')}"])


def _complete(arguments: Sequence[str]) -> int:
    """Commands, their options and names of plugins, for a shell; Hydra completes settings."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split()[1:]
    name = words[0] if words and (len(words) > 1 or line.endswith(" ")) else ""
    command = COMMANDS.get(name)
    if command is not None and not command.settings:
        text = io.StringIO()
        with redirect_stdout(text), suppress(SystemExit):
            command(["--help"])
        found = re.findall(r"(?<![\w-])--[\w-]+", text.getvalue())
        if name == "plugins":
            found += ["check", "new"]
            found += [each for registry in REGISTRIES.values() for each in registry.names()]
        sys.stdout.write(" ".join(found) + "\n")
        return OK
    if command is not None:
        os.environ["COMP_LINE"] = line.replace(f" {name}", "", 1).replace(" --json", "")
    elif not name:
        sys.stdout.write(" ".join(COMMANDS) + "\n")
    with suppress(AssertionError, AttrscoreError, HydraException, OmegaConfBaseException):
        register_installed(words)  # a word that cannot be composed yet is no error
        return run(arguments)
    return OK
