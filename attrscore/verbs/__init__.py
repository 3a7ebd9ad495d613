"""Verbs of the command line, all but those that build a network from settings."""

from __future__ import annotations

from attrscore.verbs.plugins import plugins
from attrscore.verbs.report import report
from attrscore.verbs.reproduce import reproduce
from attrscore.verbs.results import collect, status, verify

__all__ = ["collect", "plugins", "report", "reproduce", "status", "verify"]
