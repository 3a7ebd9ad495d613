"""Verbs of the command line, all but those that build a network from settings."""

from __future__ import annotations

from attrscore.cli.commands.contents import about_dataset, inspect_dataset
from attrscore.cli.commands.export import export
from attrscore.cli.commands.plugins import plugins
from attrscore.cli.commands.report import report
from attrscore.cli.commands.reproduce import reproduce
from attrscore.cli.commands.results import collect, status, verify
from attrscore.cli.commands.view import view

__all__ = [
    "about_dataset",
    "collect",
    "export",
    "inspect_dataset",
    "plugins",
    "report",
    "reproduce",
    "status",
    "verify",
    "view",
]
