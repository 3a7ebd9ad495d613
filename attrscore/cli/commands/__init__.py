"""The commands, by what they ask for; the table of them is in ``main``."""

from argparse import ArgumentParser
from typing import Any


def parser_of(command: str, says: str | None, examples: str, **options: Any) -> ArgumentParser:
    """The parser of a command, said by the first line of its docstring."""
    says = (says or "").partition("\n")[0]
    return ArgumentParser(f"attrscore {command}", description=says, epilog=examples, **options)
