"""Verbs of the command line, all but those that build a network from settings."""

from __future__ import annotations

from attrscore.verbs.contents import about_dataset, inspect_dataset
from attrscore.verbs.export import export
from attrscore.verbs.plugins import plugins
from attrscore.verbs.report import report
from attrscore.verbs.reproduce import reproduce
from attrscore.verbs.results import collect, status, verify
from attrscore.verbs.view import view

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
